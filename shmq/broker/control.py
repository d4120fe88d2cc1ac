"""The control plane as a whole: messages of serve processes in, what to send them out.

    receive(serve, message)   any number of times    changes the tables, answers wait
    tick(now)                 now and then           what follows from time alone
    settle(now)               after a batch          makes changes durable, then gives what to send

settle() keeps two promises: what an answer says is on disk before the answer is given (offsets in
the journal, topics and groups in their tables), and every serve hears of a change before the one
who asked for it is answered. When a table cannot be written, the administrator's request is
answered with an error, new topics stay unannounced, and the table is tried again later; consumers
go on.

Codes that no family serves are answered with REQUEST_CODE_NOT_SUPPORTED, among them, for now,
CONSUMER_SEND_MSG_BACK, END_TRANSACTION and the queries of messages.
"""

from __future__ import annotations

import traceback
from typing import Final, NamedTuple

from shmq.broker import (
    callrequests,
    cleanrequests,
    clientrequests,
    grouprequests,
    offsetrequests,
    resetrequests,
    topicrequests,
)
from shmq.broker.clients import ConnectionId
from shmq.broker.names import DLQ_PREFIX, RETRY_PREFIX
from shmq.broker.offsets import QUEUE_ID_MAX
from shmq.broker.plane import OK, Answer, Handler, Plane, Request
from shmq.errors import RequestRefused, ShmqError, StoreError
from shmq.units import SECOND_MS
from shmq.wire import internal, jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.internal import (
    NO_TOKEN,
    Adopted,
    Ask,
    Called,
    Closed,
    Commit,
    CreateGroup,
    CreateTopic,
    Disconnect,
    GroupUpdate,
    Reply,
    TopicUpdate,
)

SAVE_RETRY_MS: Final = 1 * SECOND_MS
TICK_MS: Final = 1 * SECOND_MS
HELD_COUNT_MAX: Final = 10_000
EVERY_SERVE: Final = -1

NOTHING: Final = ""
TABLES: Final = "tables"
JOURNAL: Final = "journal"
# What an answer promises to be on disk.
_PROMISES: Final[dict[int, str]] = {
    RequestCode.UPDATE_AND_CREATE_TOPIC: TABLES,
    RequestCode.UPDATE_AND_CREATE_TOPIC_LIST: TABLES,
    RequestCode.DELETE_TOPIC_IN_BROKER: TABLES,
    RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: TABLES,
    RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST: TABLES,
    RequestCode.DELETE_SUBSCRIPTIONGROUP: TABLES,
    RequestCode.INVOKE_BROKER_TO_RESET_OFFSET: TABLES,
    RequestCode.UPDATE_CONSUMER_OFFSET: JOURNAL,
    RequestCode.CLONE_GROUP_OFFSET: JOURNAL,
}


class Sending(NamedTuple):
    """A message for one serve process, or for EVERY_SERVE."""

    serve_index: int
    message: internal.ToServe


class Waiting(NamedTuple):
    """An answer that is given when the batch is settled."""

    serve_index: int
    reply: Reply
    promise: str
    """NOTHING, TABLES or JOURNAL: what must be on disk before it may say success."""


class Held(NamedTuple):
    """A request that cannot be answered yet."""

    serve_index: int
    ask: Ask


class Control:
    """Dispatch of the control plane; owns a Plane."""

    def __init__(self, plane: Plane, *, offsets_interval_ms: int) -> None:
        self.plane = plane
        self.offsets_interval_ms = offsets_interval_ms
        self._waiting: list[Waiting] = []
        self._held: list[Held] = []
        self._tick_due_ms = 0
        self._offsets_due_ms: int | None = None
        self._save_due_ms = 0
        self.topics_were_saved = False
        """Set when topics.json was written; the owner resets it and tells the register role."""

    # Messages in

    def receive(self, serve_index: int, message: internal.Message, *, now_ms: int) -> None:
        """Take one message of a serve process (all but Hello)."""
        if isinstance(message, Ask):
            self._ask(serve_index, message, now_ms=now_ms)
        elif isinstance(message, Commit):
            self._commit(message)
        elif isinstance(message, Adopted):
            self.plane.adopted(
                message.group, message.topic, message.queue_id, message.number, pulls_at_ms=now_ms
            )
        elif isinstance(message, Called):
            self.plane.calls.take(message)
        elif isinstance(message, Closed):
            self._lose([ConnectionId(serve_index, message.connection)])
        elif isinstance(message, CreateTopic):
            self._create_topic(serve_index, message)
        elif isinstance(message, CreateGroup):
            self._create_group(serve_index, message)
        else:
            raise ShmqError("message for the other side", kind=type(message).__name__)

    def serve_is_gone(self, serve_index: int) -> None:
        """Drop all connections of a serve process whose socket closed."""
        self._held = [held for held in self._held if held.serve_index != serve_index]
        self._waiting = [wait for wait in self._waiting if wait.serve_index != serve_index]
        self._lose(self.plane.clients.connections_of(serve_index))

    def complete_updates(self, *, now_ms: int) -> list[TopicUpdate | GroupUpdate]:
        """All that a serve process needs after its Hello."""
        return [
            self.plane.topics.complete_update(),
            self.plane.complete_group_update(now_ms=now_ms),
        ]

    def tick(self, *, now_ms: int) -> None:
        """Let time pass."""
        if now_ms >= self._tick_due_ms:
            self._tick_due_ms = now_ms + TICK_MS
            self.plane.tick(now_ms=now_ms)
        held, self._held = self._held, []
        for item in held:
            self._ask(item.serve_index, item.ask, now_ms=now_ms)

    @property
    def held_count(self) -> int:
        """Requests that wait for members to come back."""
        return len(self._held)

    # Messages out

    def settle(self, *, now_ms: int) -> list[Sending]:
        """Make what was received durable, and give what is to be sent, in this order."""
        plane = self.plane
        failed = {JOURNAL: self._write_journal(), TABLES: self._save_tables(now_ms=now_ms)}
        sendings: list[Sending] = []
        topic_update = None if plane.topics.unsaved else plane.topics.take_update()
        if topic_update is not None:
            sendings.append(Sending(EVERY_SERVE, topic_update))
        group_update = plane.take_group_update(now_ms=now_ms)
        if group_update is not None:
            sendings.append(Sending(EVERY_SERVE, group_update))
        for waiting in self._waiting:
            reply = waiting.reply
            reason = failed.get(waiting.promise)
            if reason is not None and reply.code == ResponseCode.SUCCESS:
                reply = Reply(reply.token, ResponseCode.SYSTEM_ERROR, reason)
            sendings.append(Sending(waiting.serve_index, reply))
        self._waiting = []
        sendings += [Sending(connection.serve_index, push) for connection, push in plane.pushes]
        plane.pushes = []
        sendings += [Sending(one.serve_index, call) for one, call in plane.calls.outbox]
        plane.calls.outbox = []
        sendings += [
            Sending(connection.serve_index, Disconnect(connection.connection))
            for connection in plane.disconnects
        ]
        plane.disconnects = []
        self._save_offsets(now_ms=now_ms)
        return sendings

    def save_all(self) -> bool:
        """Write every table that is not on disk as it is; False when one could not be written."""
        self._offsets_due_ms = 0
        self._save_due_ms = 0
        self._write_journal()
        failed = self._save_tables(now_ms=0)
        self._save_offsets(now_ms=0)
        return failed is None and not self.plane.offsets.unsaved

    def _write_journal(self) -> str | None:
        try:
            self.plane.offsets.write_journal()
        except StoreError as error:
            self.plane.event("error", "offsets.not_journalled", reason=str(error))
            return str(error)
        return None

    def _save_tables(self, *, now_ms: int) -> str | None:
        """Write the changed tables; what went wrong, or None."""
        plane = self.plane
        for name, table in (
            ("topics", plane.topics),
            ("groups", plane.groups),
            ("resets", plane.resets),
        ):
            if not table.unsaved:
                continue
            if now_ms < self._save_due_ms:
                return f"the table of {name} could not be written a moment ago"
            try:
                table.save()
            except OSError as error:
                self._save_due_ms = now_ms + SAVE_RETRY_MS
                self.plane.event(
                    "error",
                    "table.not_saved",
                    table=name,
                    reason=error.strerror,
                    hint="is the disk full? changes are kept in memory and tried again",
                )
                return f"the table of {name} cannot be written: {error.strerror}"
            self.topics_were_saved |= table is self.plane.topics
        return None

    def _save_offsets(self, *, now_ms: int) -> None:
        if not self.plane.offsets.unsaved:
            self._offsets_due_ms = None
            return
        if self._offsets_due_ms is None:
            self._offsets_due_ms = now_ms + self.offsets_interval_ms
        if now_ms < self._offsets_due_ms:
            return
        try:
            self.plane.offsets.save()
            self._offsets_due_ms = None
        except OSError as error:
            self._offsets_due_ms = now_ms + self.offsets_interval_ms
            self.plane.event("error", "table.not_saved", table="offsets", reason=error.strerror)

    # Requests

    def _ask(self, serve_index: int, ask: Ask, *, now_ms: int) -> None:
        request = Request(
            code=ask.code,
            connection=ConnectionId(serve_index, ask.connection),
            peer=ask.peer,
            ext=ask.ext,
            body=ask.body,
            version=ask.version,
            language=ask.language,
            now_ms=now_ms,
        )
        answer = self._answer(request)
        if answer is None and len(self._held) < HELD_COUNT_MAX:
            self._held.append(Held(serve_index, ask))
            return
        if answer is None:
            answer = Answer(ResponseCode.SYSTEM_BUSY, "too many requests wait for a restart")
        if ask.token != NO_TOKEN and not ask.oneway:
            reply = Reply(ask.token, answer.code, answer.remark, answer.ext, answer.body)
            self._waiting.append(Waiting(serve_index, reply, _PROMISES.get(ask.code, NOTHING)))

    def _answer(self, request: Request) -> Answer | None:
        handler = HANDLERS.get(request.code)
        if handler is None:
            return Answer(
                ResponseCode.REQUEST_CODE_NOT_SUPPORTED,
                f" request type {request.code} not supported",
            )
        try:
            return handler(self.plane, request)
        except RequestRefused as error:
            return Answer(error.code, str(error))
        except ShmqError as error:
            return Answer(ResponseCode.SYSTEM_ERROR, str(error))
        except Exception as error:  # noqa: BLE001 (the connection's edge: logged and answered)
            self.plane.event(
                "error",
                "request.failed",
                code=request.code,
                peer=request.peer,
                error=repr(error),
                where=traceback.format_exc(limit=-3),
            )
            return Answer(ResponseCode.SYSTEM_ERROR, f"internal error: {type(error).__name__}")

    def _create_topic(self, serve_index: int, message: CreateTopic) -> None:
        answer = OK
        try:
            self._create_topic_now(message)
        except RequestRefused as error:
            answer = Answer(error.code, str(error))
        reply = Reply(message.token, answer.code, answer.remark)
        self._waiting.append(Waiting(serve_index, reply, TABLES))

    def _create_topic_now(self, message: CreateTopic) -> None:
        plane = self.plane
        known = message.topic in plane.topics.configs
        # A consumer that could not send back (36) sends to these itself; they have no default.
        if message.topic.startswith(RETRY_PREFIX):
            config = plane.groups.get(message.topic.removeprefix(RETRY_PREFIX))
            plane.topics.ensure(
                message.topic, queue_nums=max(1, config.retry_queue_nums) if config else 1
            )
        elif message.topic.startswith(DLQ_PREFIX):
            plane.topics.ensure(message.topic, queue_nums=1)
        else:
            plane.topics.create_for_send(
                message.topic, default_topic=message.default_topic, queue_nums=message.queue_count
            )
        if not known:
            plane.event("info", "topic.created_by_sending", topic=message.topic, peer=message.peer)

    def _create_group(self, serve_index: int, message: CreateGroup) -> None:
        answer = OK
        try:
            self.plane.groups.need_or_create(message.group)
        except RequestRefused as error:
            answer = Answer(error.code, str(error))
        reply = Reply(message.token, answer.code, answer.remark)
        self._waiting.append(Waiting(serve_index, reply, NOTHING))

    def _commit(self, message: Commit) -> None:
        plane = self.plane
        for group, topic, queue_id, offset in message.entries:
            known = group in plane.groups.configs and topic in plane.topics.configs
            allowed = known and 0 <= queue_id <= QUEUE_ID_MAX and offset >= 0
            if allowed and plane.resets.takes_commit(group, topic, queue_id):
                plane.offsets.commit(group, topic, queue_id, offset)

    def _lose(self, connections: list[ConnectionId]) -> None:
        lost: set[str] = set()
        for connection in connections:
            lost.update(self.plane.clients.remove(connection))
        for group in sorted(lost):
            self.plane.membership_changed(group)
            self.plane.watch_agreement(group)


def broker_config(plane: Plane, request: Request) -> Answer:
    """26: this broker's settings as properties text."""
    del request
    version = jsonish.dumps({"counter": 0, "stateVersion": 0, "timestamp": plane.started_wall_ms})
    return Answer(ext={"version": version.decode()}, body=plane.config_text().encode())


def broker_runtime(plane: Plane, request: Request) -> Answer:
    """28: what this broker is doing, as far as the control plane knows."""
    del request
    now_ms = plane.wall_ms()
    seconds = max(0, now_ms - plane.started_wall_ms) // SECOND_MS
    days, hours, minutes = seconds // 86_400, seconds // 3600 % 24, seconds // 60 % 60
    table = dict.fromkeys(_ZERO_KEYS, "0") | dict.fromkeys(_RATE_KEYS, "0.0 0.0 0.0")
    table |= {
        "brokerActive": "true",
        "brokerVersionDesc": BROKER_VERSION_TEXT,
        "brokerVersion": str(BROKER_VERSION),
        "bootTimestamp": str(plane.started_wall_ms),
        "runtime": f"[ {days} days, {hours} hours, {minutes} minutes, {seconds % 60} seconds ]",
        "commitLogDiskRatio": "0.0",
        "consumeQueueDiskRatio": "0.0",
        "earliestMessageTimeStamp": str(now_ms),
    }
    table |= plane.runtime_info()
    return Answer(body=jsonish.dumps({"table": dict(sorted(table.items()))}))


BROKER_VERSION: Final = 513
BROKER_VERSION_TEXT: Final = "V5_5_0"
_RATE_KEYS: Final = (
    "putTps", "getTransferredTps", "getFoundTps", "getMissTps", "getTotalTps",
)  # fmt: skip
_ZERO_KEYS: Final = (
    "sendThreadPoolQueueSize", "pullThreadPoolQueueSize", "ackThreadPoolQueueSize",
    "sendThreadPoolQueueHeadWaitTimeMills", "pullThreadPoolQueueHeadWaitTimeMills",
    "ackThreadPoolQueueHeadWaitTimeMills", "pageCacheLockTimeMills", "timerReadBehind",
    "timerOffsetBehind", "timerCongestNum", "timerEnqueueTps", "timerDequeueTps",
    "msgPutTotalYesterdayMorning", "msgPutTotalTodayMorning", "msgPutTotalTodayNow",
    "msgGetTotalYesterdayMorning", "msgGetTotalTodayMorning", "msgGetTotalTodayNow",
)  # fmt: skip

HANDLERS: Final[dict[int, Handler]] = {
    **cleanrequests.HANDLERS,
    **clientrequests.HANDLERS,
    **topicrequests.HANDLERS,
    **grouprequests.HANDLERS,
    **offsetrequests.HANDLERS,
    **resetrequests.HANDLERS,
    **callrequests.HANDLERS,
    RequestCode.GET_BROKER_CONFIG: broker_config,
    RequestCode.GET_BROKER_RUNTIME_INFO: broker_runtime,
}
