"""The serve role: owns connections, decodes requests, answers them; many processes of one kind.

    sends     the compiled parser, or broker.sending   -> submission ring -> writer -> answer
    pulls     broker.pull, from shared memory or files; one that finds nothing may be held
    look-ups  broker.lookups, broker.queries
    the rest  asked of the coordinator (uplink.py), which owns groups, offsets, topics and locks

Sends and pulls never wait for the coordinator, but for a topic or group that must be made first.
One turn (step) does what is ready: read and submit, answer what the writer completed, answer held
pulls whose queue has grown.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Final

from shmq.broker.lookups import Lookups
from shmq.broker.pull import PullService
from shmq.broker.queries import Queries
from shmq.broker.resetwatch import ResetKey, ResetWatch
from shmq.broker.sending import SendService
from shmq.broker.views import Views
from shmq.errors import LayoutError, ProtocolError, RequestRefused, ShmqError
from shmq.kernels.frames import split
from shmq.kernels.sends import BAD_FRAME, NEED_MORE, RING_FULL
from shmq.layout.counters import Counter
from shmq.log import get_logger
from shmq.reading import LogReader, QueueReader, StaleFiles
from shmq.shm.counters import CounterRow
from shmq.store.commitlog import LogFiles
from shmq.store.consumequeue import QueueFiles
from shmq.store.indexfiles import IndexReader, IndexSizes
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.header import Header, answer, decode_header
from shmq.wire.internal import (
    Ask,
    Call,
    Disconnect,
    GroupUpdate,
    Hello,
    Message,
    Push,
    TopicUpdate,
    TopicView,
)
from shmq.wire.messageid import host_bytes
from shmq.workers.base import monotonic_ms
from shmq.workers.clientcalls import ClientCalls
from shmq.workers.clientdoor import OUTPUT_SIZE_HIGH, ClientDoor
from shmq.workers.context import control_path_of
from shmq.workers.gate import Gate
from shmq.workers.heartbeats import remembered, without_groups
from shmq.workers.holding import PullDesk
from shmq.workers.identity import identity_of
from shmq.workers.nativedesk import NATIVE_CODES, NativeDesk, writable_count
from shmq.workers.senddesk import SEND_CODES, SendDesk
from shmq.workers.submissions import Submissions
from shmq.workers.uplink import ASK_SIZE_MAX, Uplink

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.config import Settings
    from shmq.wire.internal import Reply
    from shmq.workers.clientconn import ClientConnection
    from shmq.workers.context import Context

PULL_CODES: Final = frozenset({RequestCode.PULL_MESSAGE, RequestCode.LITE_PULL_MESSAGE})
FLAG_ONEWAY: Final = 2


class ServeRole:
    """One serve process."""

    polls_in_wait = True
    """A step that looks for nothing costs as much as the answer to a small request."""

    def __init__(
        self, context: Context, index: int, *, clock_ms: Callable[[], int] = monotonic_ms
    ) -> None:
        arena, settings = context.arena, context.settings
        identity = identity_of(context)
        self._settings = settings
        self._clock_ms = clock_ms
        self._log = get_logger()
        self._bell = arena.bells[f"serve{index}"]
        self._doors = [context.listeners[kind] for kind in ("main", "vip")]
        self._listeners = [
            *(sockets[min(index, len(sockets) - 1)] for sockets in self._doors),
            *context.listeners["unix"],
        ]
        self._opened = False
        self._draining = False
        self._blocked: dict[int, ClientConnection] = {}
        self.views = Views(on_topic=self._on_topic, on_topic_removed=self._on_topic_removed)
        self.counters = CounterRow(arena.counters, index)
        self.door = ClientDoor(settings=settings, owner=self, counters=self.counters)
        queue_files = QueueFiles(
            context.store_dir / "consumequeue",
            file_size=settings.mapped_file_size_consume_queue,
        )
        log_files = LogFiles(context.commitlog_dir, file_size=settings.mapped_file_size_commit_log)
        queue_reader = QueueReader(arena=arena, files=queue_files)
        log_reader = LogReader(arena=arena, files=log_files)
        self._stale_files = StaleFiles(arena=arena, queue_files=queue_files, log_files=log_files)
        host, port = self.store_place = (host_bytes(identity.host), identity.port)
        sending = SendService(settings=settings, views=self.views, store_host=host, store_port=port)
        self.ring = Submissions(
            arena=arena,
            index=index,
            settings=settings,
            store_host=host,
            store_port=port,
            find=self._find,
            write=self.door.write,
            ext_of=lambda prepared, physical_offset, queue_offset: sending.answer(
                prepared, physical_offset=physical_offset, queue_offset=queue_offset
            ),
        )
        self.uplink = Uplink(
            path=control_path_of(context),
            hello=Hello(serve_index=index, pid=os.getpid()),
            replays=self._replays,
            hear=self._hear,
            watch=self._watch_uplink,
            unwatch=self.door.unwatch,
        )
        self.calls = ClientCalls(send=self.uplink.called)
        self.resets = ResetWatch(views=self.views, on_adopted=self.uplink.adopted)
        self.gate = Gate(arena=arena, settings=settings)
        self.sends = SendDesk(serve=self, service=sending, settings=settings)
        self.pulls = PullDesk(
            serve=self,
            service=PullService(
                settings=settings,
                arena=arena,
                views=self.views,
                queue_reader=queue_reader,
                log_reader=log_reader,
            ),
            arena=arena,
            holding=arena.holding(index),
            settings=settings,
        )
        self.natives = NativeDesk(
            serve=self,
            arena=arena,
            index=index,
            settings=settings,
            identity=identity,
            commitlog_dir=context.commitlog_dir,
            queue_root=context.store_dir / "consumequeue",
        )
        lookups = Lookups(
            views=self.views,
            queues=arena.queues,
            queue_reader=queue_reader,
            log_reader=log_reader,
        )
        self._queries = Queries(
            settings=settings,
            index=IndexReader(
                context.store_dir / "index",
                IndexSizes(settings.max_hash_slot_num, settings.max_index_num),
            ),
            log_reader=log_reader,
        )
        self._found_here = {**lookups.handlers, **self._queries.handlers}
        self.door.watch(self._bell.fileno(), self._hush)
        self.now_ms = clock_ms()

    # Duty cycle

    def step(self, now_ms: int) -> int:
        """One turn; the number of things done."""
        self.now_ms = now_ms = self._clock_ms()
        if not self._opened:
            self._open_when_ready()
        self._stale_files.close()
        done = self.door.step(now_ms)
        done += self._publish()
        done += self.ring.answer(now_ms)
        if self._blocked:
            done += self._go_on(now_ms)
        done += self.pulls.step(now_ms)
        self.uplink.tick(now_ms)
        self.natives.step()
        return done

    def wait(self, timeout_ms: int) -> None:
        """Sleep until a client, the writer, dispatch or the coordinator wants something."""
        self._bell.arm()
        if not self.ring.answers_wait and not self.pulls.arrived():
            if self._blocked or not self._opened:
                timeout_ms = min(timeout_ms, 1)
            self.door.poll(timeout_ms)
        self._bell.hush()

    def wake(self) -> None:
        """End the present or next wait()."""
        self._bell.force()

    def drain(self, now_ms: int) -> bool:
        """Read no more; True when all that was submitted is answered and has left."""
        if not self._draining:
            self._draining = True
            self.door.stop()
            self.uplink.flush_commits()
        self.step(now_ms)
        return not (self.ring.in_flight or self.door.output_waits or self.uplink.waiting_count)

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change."""
        self._settings = settings
        self.door.reload(settings)
        self.gate.reload(settings)
        self.sends.reload(settings)
        self.ring.reload(settings)
        self.natives.reload(settings)
        self._queries.reload(settings)
        for view in self.views.topics.values():
            self._on_topic(view)
        self.pulls.reload(settings)

    def close(self) -> None:
        """Close all connections."""
        self.door.close()
        self.natives.close()

    def _publish(self) -> int:
        """Show the writer what was submitted; how much it is."""
        count = self.ring.publish()
        if count:
            self.counters.add(Counter.SENDS, count)
        return count

    def _open_when_ready(self) -> None:
        """Accept clients once the tables are here and the ring is free of a predecessor's sends."""
        if self.views.complete and self.ring.is_settled():
            self._opened = True
            self.door.open(self._listeners)

    def _hush(self, _events: int) -> None:
        self._bell.disarm()

    def _watch_uplink(self, fd: int, wants_write: bool) -> None:  # noqa: FBT001  epoll's flag
        events = select.EPOLLIN | (select.EPOLLOUT if wants_write else 0)
        self.door.watch(fd, lambda _events: self.uplink.on_ready(), events)

    # Bytes of clients

    def take(self, connection: ClientConnection, buffer: bytearray, end: int) -> int:
        """Take whole frames from buffer[:end]; see clientdoor.Owner."""
        connection.unfinished = False
        try:
            at = self._take(connection, buffer, end)
        except (ProtocolError, LayoutError) as error:
            self.counters.add(Counter.BAD_FRAMES)
            self._log.warning("connection.broke_protocol", peer=connection.peer, error=str(error))
            self.door.drop(connection, None)
            return end
        if not connection.gone and connection.output:
            self.door.write(connection)
        elif not connection.gone:
            self.door.set_events(connection)
        return at

    def _take(self, connection: ClientConnection, buffer: bytearray, end: int) -> int:
        if self.gate.closed(self.now_ms):
            return self._take_slowly(connection, buffer, end)
        at = 0
        parser = self.ring.parser
        while True:
            why = parser.feed(
                buffer,
                at,
                end,
                connection=connection.fd,
                connection_id=connection.number,
                born_host=connection.born_host,
                born_port=connection.born_port,
            )
            at, size = parser.position, parser.frame_size
            if why == NEED_MORE:
                connection.needed = size
                return at
            if why == RING_FULL:
                self.block(connection)
                return at
            if why == BAD_FRAME:
                split(buffer, at, end, self._settings.frame_size_max)  # It says what is wrong.
                raise ProtocolError("frame", position=at)
            if not self._handle(connection, memoryview(buffer)[at : at + size]):
                return at
            at += size
            if self._must_pause(connection):
                return at

    def _take_slowly(self, connection: ClientConnection, buffer: bytearray, end: int) -> int:
        """Every frame by the general path, while no sends are taken."""
        at = 0
        for start, size in split(buffer, 0, end, self._settings.frame_size_max).tolist():
            if not self._handle(connection, memoryview(buffer)[start : start + size]):
                return at
            at = start + size
            if self._must_pause(connection):
                break
        connection.needed = 0
        return at

    @staticmethod
    def _must_pause(connection: ClientConnection) -> bool:
        """Whether the connection is to take its answers before more of its frames are served."""
        if connection.output_size >= OUTPUT_SIZE_HIGH:
            connection.needed = 0
            connection.unfinished = True
        return connection.gone or connection.unfinished

    def _handle(self, connection: ClientConnection, frame: memoryview) -> bool:
        """Serve one frame; False when it must wait for room in the ring."""
        serialization = connection.serialization = frame[4]
        if self.pulls.take_plain(connection, frame):
            self.counters.add(Counter.REQUESTS)
            return True
        header_end = 8 + int.from_bytes(frame[5:8], "big")
        header = decode_header(frame[8:header_end], serialization)
        if header.is_response:
            self.calls.take(connection, header, bytes(frame[header_end:]))
            return True
        try:
            return self._dispatch(connection, header, bytes(frame[header_end:]))
        except RequestRefused as error:
            self.reply(connection, header, error.code, str(error))
        except ShmqError as error:
            self._log.warning("request.not_served", peer=connection.peer, error=str(error))
            self.reply(connection, header, ResponseCode.SYSTEM_ERROR, str(error))
        except Exception as error:  # noqa: BLE001  the connection's edge answers whatever it is
            self._log.exception("request.failed", peer=connection.peer, code=header.code)
            self.reply(connection, header, ResponseCode.SYSTEM_ERROR, repr(error))
        return True

    def _dispatch(self, connection: ClientConnection, header: Header, body: bytes) -> bool:
        code = header.code
        self.counters.add(Counter.REQUESTS)
        if code in SEND_CODES:
            return self._send(connection, header, body)
        if code in PULL_CODES:
            self.pulls.take(connection, header)
        elif code in NATIVE_CODES:
            self.natives.take(connection, header)
        elif code in self._found_here:
            found = self._found_here[code](header.ext)
            self.reply(connection, header, ResponseCode.SUCCESS, ext=found.ext, body=found.body)
        else:
            self._ask(connection, header, body)
        return True

    def _send(self, connection: ClientConnection, header: Header, body: bytes) -> bool:
        try:
            return self.sends.take(connection, header, body)
        except RequestRefused:
            self.counters.add(Counter.SENDS_REFUSED)
            raise

    # Answers

    def reply(
        self,
        connection: ClientConnection,
        request: Header,
        code: int,
        remark: str | None = None,
        *,
        ext: dict[str, str] | None = None,
        body: bytes | bytearray = b"",
    ) -> None:
        """Put the answer to a request into its connection's output, unless it is one-way."""
        if request.is_oneway or connection.gone:
            return
        connection.put(answer(request, code, remark, ext), body)

    def reply_later(
        self, connection: ClientConnection, request: Header, code: int, remark: str | None
    ) -> None:
        """The same outside of the connection's own turn."""
        self.reply(connection, request, code, remark)
        self.door.write(connection)

    def _find(self, fd: int, number: int) -> ClientConnection | None:
        connection = self.door.connections.get(fd)
        if connection is None or connection.number != number:
            return None
        return connection

    def forget(self, connection: ClientConnection) -> None:
        """A connection is gone."""
        self._blocked.pop(connection.number, None)
        self.pulls.forget(connection)
        self.natives.forget(connection)
        self.calls.forget(connection)
        if connection.asked:
            self.uplink.closed(connection.number)

    # Connections whose sends wait for room

    def block(self, connection: ClientConnection) -> None:
        """A send of this connection found no room: it is tried again when there is some."""
        connection.needed = 0
        if not connection.blocked_ms:
            connection.blocked_ms = self.now_ms
            self._blocked[connection.number] = connection

    def _go_on(self, now_ms: int) -> int:
        """Try the blocked connections again; refuse what waited too long."""
        allowed_ms = self._settings.wait_time_mills_in_send_queue
        done = 0
        for number, connection in list(self._blocked.items()):
            since_ms = connection.blocked_ms
            del self._blocked[number]
            connection.blocked_ms = 0
            if now_ms - since_ms >= allowed_ms and self._settings.broker_fast_failure_enable:
                self.sends.refuse_ms = now_ms - since_ms
                self.gate.shut = True
            before = len(connection.pending)
            try:
                self.door.resume(connection)
            finally:
                self.gate.shut = False
                self.sends.refuse_ms = 0
            if connection.blocked_ms:
                connection.blocked_ms = since_ms  # It waits on.
            done += len(connection.pending) < before
        done += self._publish()
        return done

    # The coordinator

    def _ask(self, connection: ClientConnection, header: Header, body: bytes) -> None:
        self.uplink.need_room()
        if len(body) > ASK_SIZE_MAX:
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR,
                "the request is too large",
                body_size=len(body),
                allowed=ASK_SIZE_MAX,
            )
        connection.asked = True
        ask = Ask(
            token=0,
            connection=connection.number,
            peer=connection.peer,
            code=header.code,
            opaque=header.opaque,
            version=header.version,
            language=header.language,
            ext=header.ext,
            body=body,
            remark=header.remark,
            oneway=header.is_oneway,
        )
        if header.code == RequestCode.HEART_BEAT:
            connection.heartbeat = remembered(ask, before=connection.heartbeat)
        elif header.code == RequestCode.UNREGISTER_CLIENT:
            connection.heartbeat = without_groups(connection.heartbeat, header.ext)
        self.uplink.ask(ask, self._answerer(connection, header), now_ms=self.now_ms)

    def _answerer(self, connection: ClientConnection, header: Header) -> Callable[[Reply], None]:
        def then(reply: Reply) -> None:
            if not connection.gone:
                if header.code == RequestCode.QUERY_CONSUMER_OFFSET:
                    self._note_told(connection, header, reply)
                self.reply(
                    connection, header, reply.code, reply.remark, ext=reply.ext, body=reply.body
                )
                self.door.write(connection)

        return then

    def _note_told(self, connection: ClientConnection, header: Header, reply: Reply) -> None:
        """A client is told a committed offset, which may be that of a reset."""
        if reply.code == ResponseCode.SUCCESS:
            ext = header.ext
            key = ResetKey(ext["consumerGroup"], ext["topic"], int(ext["queueId"]))
            self.resets.asked(key, int(reply.ext["offset"]), connection.told)

    def _replays(self) -> list[Ask]:
        return [
            connection.heartbeat
            for connection in self.door.connections.values()
            if connection.heartbeat is not None
        ]

    def _hear(self, message: Message) -> None:
        """Something that the coordinator says unasked."""
        if isinstance(message, TopicUpdate):
            self.views.take_topics(message)
        elif isinstance(message, GroupUpdate):
            self.views.take_groups(message)
            self.resets.refresh()
            self.pulls.tell_resets()
        elif isinstance(message, Push):
            connection = self._by_number(message.connection)
            if connection is not None:
                header = Header(message.code, flag=FLAG_ONEWAY, ext=message.ext)
                connection.put(header, message.body)
                self.door.write(connection)
        elif isinstance(message, Call):
            connection = self._by_number(message.connection)
            if self.calls.call(connection, message) and connection is not None:
                self.door.write(connection)
        elif isinstance(message, Disconnect):
            connection = self._by_number(message.connection)
            if connection is not None:
                self.door.drop(connection, "no heartbeat for too long")

    def _by_number(self, number: int) -> ClientConnection | None:
        for connection in self.door.connections.values():
            if connection.number == number:
                return connection
        return None

    def _on_topic(self, view: TopicView) -> None:
        """Let the compiled parser take sends to a topic about which nothing is special."""
        self.natives.revoke(view.slots[writable_count(view) :])
        if self.sends.is_special(view):
            self.ring.parser.drop_topic(view.name.encode())
        else:
            self.ring.parser.put_topic(view.name.encode(), view.slots, view.write_queue_nums)

    def _on_topic_removed(self, view: TopicView) -> None:
        self.ring.parser.drop_topic(view.name.encode())
        self.natives.revoke(view.slots)


def make(context: Context, index: int) -> ServeRole:
    """Serve process number `index` of this broker."""
    return ServeRole(context, index)
