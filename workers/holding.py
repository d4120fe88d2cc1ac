"""Pulls of one serve process: answered at once, or held until a message comes or time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shmq.broker.hold import HoldTable
from shmq.broker.pull import GroupUnknown, PullResult, PullService
from shmq.broker.resetwatch import ResetKey
from shmq.errors import RequestRefused, ShmqError
from shmq.kernels.pulls import PullReader
from shmq.layout.counters import Counter
from shmq.log import get_logger
from shmq.units import HOUR_MS
from shmq.wire.codes import PullFlag, RequestCode, ResponseCode
from shmq.wire.internal import CreateGroup
from shmq.wire.pull import (
    RESET_NUMBER,
    PullHeader,
    Subscription,
    decode_pull,
    encode_pull_answer,
)

if TYPE_CHECKING:
    from shmq.config import Settings
    from shmq.shm.arena import Arena
    from shmq.shm.words import OwnedCell
    from shmq.wire.header import Header
    from shmq.wire.internal import Reply
    from shmq.workers.clientconn import ClientConnection
    from shmq.workers.serve import ServeRole

LOOK_INTERVAL_MS: Final = 20
HELD_MAX: Final = 100_000
HELD_BY_ONE_MAX: Final = 10_000
SUSPEND_MAX_MS: Final = HOUR_MS


class HeldPull(NamedTuple):
    """A pull that waits."""

    connection: ClientConnection
    request: Header
    pull: PullHeader
    slot: int
    subscription: Subscription


class PullDesk:
    """Takes pulls, holds some, answers all."""

    def __init__(
        self,
        *,
        serve: ServeRole,
        service: PullService,
        arena: Arena,
        holding: OwnedCell,
        settings: Settings,
    ) -> None:
        self._serve = serve
        self._service = service
        self._holding = holding
        self._settings = settings
        self._log = get_logger()
        self._holds: HoldTable[HeldPull] = HoldTable(
            np.frombuffer(arena.queues.max_offsets, dtype=np.int64)
        )
        self._holding.publish(0)
        self._look_due_ms = 0
        self._reader = PullReader()
        self._key = b""
        """Of the frame that goes the long way now, if it is a plain pull."""

    def reload(self, settings: Settings) -> None:
        """Take the settings anew."""
        self._settings = settings
        self._service.reload(settings)

    def take_plain(self, connection: ClientConnection, frame: memoryview) -> bool:
        """Serve a pull like one before that finds messages; False when `frame` is none."""
        reader = self._reader
        if not reader.read(frame):
            return False
        plan = self._service.plan(reader.key)
        if plan is None:
            self._key = reader.key
            return False
        found = self._service.find(plan, reader)
        if found is None:
            return False
        if reader.sys_flag & PullFlag.COMMIT_OFFSET and reader.commit_offset >= 0:
            self._serve.uplink.commit(
                plan.group,
                plan.topic,
                reader.queue_id,
                reader.commit_offset,
                now_ms=self._serve.now_ms,
            )
        self._count(found.message_count, found.body_size)
        connection.append(found.frame)
        return True

    def take(self, connection: ClientConnection, request: Header) -> None:
        """Serve one pull.

        Raises:
            RequestRefused: with the code that the client knows how to take.
        """
        self._key, key = b"", self._key
        pull = decode_pull(request.ext)
        lite = request.code == RequestCode.LITE_PULL_MESSAGE
        if lite and not self._settings.lite_pull_message_enable:
            raise RequestRefused(
                ResponseCode.NO_PERMISSION, "the broker answers no LITE_PULL_MESSAGE"
            )
        try:
            slot, subscription = self._service.check(pull)
        except GroupUnknown:
            self._create_group(connection, request, pull)
            return
        if self._meets_reset(connection, request, pull, slot):
            return
        if key:
            self._service.learn(key, pull, subscription)
        self._execute(connection, request, pull, slot, subscription)

    def _create_group(
        self, connection: ClientConnection, request: Header, pull: PullHeader
    ) -> None:
        def then(reply: Reply) -> None:
            if connection.gone:
                return
            if reply.code != ResponseCode.SUCCESS:
                self._serve.reply_later(connection, request, reply.code, reply.remark)
                return
            try:
                slot, subscription = self._service.check(pull)
                self._execute(connection, request, pull, slot, subscription)
            except RequestRefused as error:
                self._serve.reply(connection, request, error.code, str(error))
            except GroupUnknown:
                self._serve.reply(
                    connection,
                    request,
                    ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST,
                    "the group was deleted again",
                )
            self._serve.door.write(connection)

        self._serve.uplink.need_room()
        self._serve.uplink.create_group(
            CreateGroup(token=0, group=pull.consumer_group, peer=connection.peer),
            then,
            now_ms=self._serve.now_ms,
        )

    def _execute(
        self,
        connection: ClientConnection,
        request: Header,
        pull: PullHeader,
        slot: int,
        subscription: Subscription,
    ) -> None:
        now_ms = self._serve.now_ms
        if pull.commits and pull.commit_offset >= 0:
            self._serve.uplink.commit(
                pull.consumer_group, pull.topic, pull.queue_id, pull.commit_offset, now_ms=now_ms
            )
        result = self._service.execute(pull, slot, subscription)
        if result.code != ResponseCode.PULL_NOT_FOUND or not pull.suspends or request.is_oneway:
            self._answer(connection, request, result)
            return
        if len(self._holds) >= HELD_MAX or len(connection.held) >= HELD_BY_ONE_MAX:
            raise RequestRefused(
                ResponseCode.SYSTEM_BUSY,
                "too many pulls wait for a message",
                waiting=len(self._holds),
                allowed_max=HELD_MAX,
                of_this_connection=len(connection.held),
                allowed_of_a_connection=HELD_BY_ONE_MAX,
            )
        wait_ms = min(max(pull.suspend_timeout_ms, 0), SUSPEND_MAX_MS)
        if not self._settings.long_polling_enable:
            wait_ms = self._settings.short_polling_time_mills
        number = self._holds.park(
            HeldPull(connection, request, pull, slot, subscription),
            slot=slot,
            offset=pull.queue_offset,
            deadline_ms=now_ms + wait_ms,
        )
        connection.held.add(number)
        self._note_held()

    # Resets

    def _meets_reset(
        self, connection: ClientConnection, request: Header, pull: PullHeader, slot: int
    ) -> bool:
        """Whether a pull was answered with the offset that the group was reset to."""
        key = ResetKey(pull.consumer_group, pull.topic, pull.queue_id)
        reset = self._serve.resets.meet(key, pull.queue_offset, connection.told)
        if reset is None:
            return False
        result = self._service.moved_by_reset(slot, reset.offset)
        self._answer(connection, request, result, {RESET_NUMBER: str(reset.number)})
        return True

    def tell_resets(self) -> None:
        """Resets may have come: answer the pulls that wait where one has."""
        if not self._serve.views.resets:
            return
        for number in self._holds.numbers():
            held = self._holds.look(number)
            if held is None:  # The answer before it broke their connection.
                continue
            pull, connection = held.pull, held.connection
            if self._serve.resets.waits(ResetKey(pull.consumer_group, pull.topic, pull.queue_id)):
                self._holds.take(number)
                connection.held.discard(number)
                if not self._meets_reset(connection, held.request, pull, held.slot):
                    self._execute(connection, held.request, pull, held.slot, held.subscription)
                self._serve.door.write(connection)
        self._note_held()

    # Holds

    def _note_held(self) -> None:
        held_count = len(self._holds)
        self._holding.publish(held_count)
        self._serve.counters.set(Counter.PULLS_HELD, held_count)

    def arrived(self) -> bool:
        """Whether a queue that is waited for has grown."""
        return bool(self._holds.arrived())

    def step(self, now_ms: int) -> int:
        """Answer the pulls whose queue has grown, and those that waited long enough."""
        if not len(self._holds):
            return 0
        done = 0
        for number in self._holds.arrived():
            done += self._try(number)
        if now_ms >= self._look_due_ms:
            self._look_due_ms = now_ms + LOOK_INTERVAL_MS
            for number in self._holds.overdue(now_ms):
                self._finish(number)
                done += 1
        self._note_held()
        return done

    def _try(self, number: int) -> int:
        """Answer a pull whose queue has grown, if there is something for it; 1 if so."""
        held = self._holds.look(number)
        if held is None:  # The answer before it broke their connection.
            return 0
        slot, offset = self._holds.place(number)
        try:
            matches, looked_to = self._service.matches_any(slot, offset, held.subscription)
        except ShmqError as error:
            self._log.warning("held_pull.not_checked", error=str(error))
            matches, looked_to = True, offset  # The answer will say what is wrong.
        if not matches and looked_to > offset:
            self._holds.advance(number, looked_to)
            return 0
        self._finish(number)
        return 1

    def _finish(self, number: int) -> None:
        held = self._holds.take(number)
        if held is None:  # The answer before it broke their connection.
            return
        connection = held.connection
        connection.held.discard(number)
        try:
            result = self._service.execute(held.pull, held.slot, held.subscription)
            self._answer(connection, held.request, result)
        except ShmqError as error:
            self._serve.reply(connection, held.request, ResponseCode.SYSTEM_ERROR, str(error))
        self._serve.door.write(connection)

    def forget(self, connection: ClientConnection) -> None:
        """Drop the pulls of a closed connection."""
        for number in connection.held:
            self._holds.take(number)
        if connection.held:
            connection.held.clear()
            self._note_held()

    def _count(self, message_count: int, size: int) -> None:
        counters = self._serve.counters
        counters.add(Counter.PULLS)
        if message_count:
            counters.add(Counter.PULLS_FOUND)
            counters.add(Counter.PULLED_MESSAGES, message_count)
            counters.add(Counter.PULLED_BYTES, size)

    def _answer(
        self,
        connection: ClientConnection,
        request: Header,
        result: PullResult,
        more: dict[str, str] | None = None,
    ) -> None:
        self._count(result.message_count, len(result.body))
        self._serve.reply(
            connection,
            request,
            result.code,
            result.status,
            ext=encode_pull_answer(
                next_begin_offset=result.next_begin_offset,
                min_offset=result.min_offset,
                max_offset=result.max_offset,
                suggested_broker_id=result.suggested_broker_id,
            )
            | (more or {}),
            body=result.body,
        )
