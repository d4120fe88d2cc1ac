"""The native door in one serve process: who gets a ring, what it may append to, and its end.

A client asks on its Unix socket connection (wire.native). The ring lives as long as the connection:
when that closes, for whatever reason, writer and dispatch are told, the grants are cleared, and
what the client had submitted before stands. Nothing of a ring is ever used for another client:
that one may still have it mapped.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING, Final

from shmq.broker import names
from shmq.broker.sending import FORBIDDEN_TOPICS
from shmq.errors import RequestRefused
from shmq.layout.control import NATIVE_MAX, SLEEPING_LINE, Word
from shmq.log import get_logger
from shmq.shm.arena import EVENT_ROLES, SEMAPHORE_ROLES
from shmq.shm.links import RECEIVERS, LinkSender
from shmq.shm.nativering import NativeRing
from shmq.shm.segment import SHM_FOLDER, segment_name
from shmq.store.commitlog import file_name
from shmq.store.consumequeue import queue_folder
from shmq.wire.codes import Perm, ResponseCode
from shmq.wire.extfields import LONG_BITS, optional_int, required_int, required_text
from shmq.wire.header import answer, encode_frame
from shmq.wire.internal import CreateTopic
from shmq.wire.native import (
    CONSUMEQUEUE,
    LAYOUT_VERSION,
    NATIVE_FILE,
    NATIVE_OPEN,
    NATIVE_TOPIC,
    NativeOpened,
    NativeTopic,
    to_ext,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shmq.config import Settings
    from shmq.shm.arena import Arena
    from shmq.wire.header import Header
    from shmq.wire.internal import Reply, TopicView
    from shmq.workers.clientconn import ClientConnection
    from shmq.workers.identity import Identity
    from shmq.workers.serve import ServeRole

CREDENTIALS: Final = struct.Struct("=iII")
STARTS: Final = {"writer": Word.WRITER_STARTS, "dispatch": Word.DISPATCH_STARTS}
SHARED: Final = ("control", "pool", "queues", "hot-cq")
NATIVE_CODES: Final = frozenset({NATIVE_OPEN, NATIVE_TOPIC, NATIVE_FILE})
DEFAULT_QUEUES: Final = 4
DEFAULT_DEFAULT: Final = names.AUTO_CREATE_TOPIC


class NativeDesk:
    """Rings of native clients that this serve process owns."""

    def __init__(
        self,
        *,
        serve: ServeRole,
        arena: Arena,
        index: int,
        settings: Settings,
        identity: Identity,
        commitlog_dir: Path,
        queue_root: Path,
    ) -> None:
        self._serve = serve
        self._arena = arena
        self._folders = (commitlog_dir, queue_root)
        self._settings = settings
        self._identity = identity
        self._log = get_logger()
        count = min(settings.native_clients_max, NATIVE_MAX) if arena.links else 0
        self._free = [number for number in range(count) if number % arena.serve_count == index]
        self._rings: dict[int, NativeRing] = {}
        self._of: dict[int, NativeRing] = {}
        """By connection number."""
        self._last_epoch = int.from_bytes(os.urandom(4), "big") << 24
        """A successor of this process must not give a ring the epoch of another one."""
        self._links = [
            LinkSender(
                arena.links[receiver][index],
                linked=arena.linked(index),
                starts=arena.reader(STARTS[receiver]),
                wake=arena.bells[receiver].ring,
            )
            for receiver in (RECEIVERS if arena.links else ())
        ]
        for native in self._free:
            self._clear_grants(native)
        self._gate_was_closed = False
        roles = [*SEMAPHORE_ROLES, *EVENT_ROLES]
        self._writer_line = SLEEPING_LINE + roles.index("writer")

    def step(self) -> None:
        """Keep writer and dispatch told; cheap when they are."""
        for link in self._links:
            link.settle(self._rings)
        # While the gate is closed nobody has leave to append; who asks for it is told why not.
        closed = bool(self._rings) and self._serve.gate.closed(self._serve.now_ms)
        if closed and not self._gate_was_closed:
            for index in self._rings:
                self._clear_grants(index)
        self._gate_was_closed = closed

    def take(self, connection: ClientConnection, request: Header) -> None:
        """Serve one of the native requests.

        Raises:
            RequestRefused: with the reason; the client goes on by copies.
        """
        if connection.sock.family != socket.AF_UNIX:
            raise RequestRefused(
                ResponseCode.REQUEST_CODE_NOT_SUPPORTED,
                "shared memory is given over the Unix socket only",
            )
        if request.code == NATIVE_OPEN:
            if not self._settings.native_enable:
                raise RequestRefused(ResponseCode.NO_PERMISSION, "the native door is closed")
            self._open(connection, request)
        elif request.code == NATIVE_TOPIC:
            self._topic(connection, request)
        else:
            self._file(connection, request)

    def forget(self, connection: ClientConnection) -> None:
        """A connection is gone, and with it its ring."""
        native = self._of.pop(connection.number, None)
        if native is None:
            return
        del self._rings[native.index]
        self._clear_grants(native.index)
        native.close()
        self._free.append(native.index)
        self.step()
        bell = self._arena.bells["writer"]
        bell.ring()

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change; who has a ring keeps it."""
        self._settings = settings

    def close(self) -> None:
        """Give all rings back."""
        for native in self._rings.values():
            native.close()
        self._rings.clear()
        self._of.clear()

    # A ring

    def _open(self, connection: ClientConnection, request: Header) -> None:
        version = optional_int(request.ext, "layoutVersion")
        if version != LAYOUT_VERSION:
            raise RequestRefused(
                ResponseCode.VERSION_NOT_SUPPORTED,
                "client and broker know different layouts of the shared memory",
                found=version,
                known=LAYOUT_VERSION,
            )
        self._check_peer(connection)
        if connection.number in self._of or connection.output:
            raise RequestRefused(ResponseCode.SYSTEM_ERROR, "this connection has a ring already")
        if not self._free:
            raise RequestRefused(
                ResponseCode.SYSTEM_BUSY,
                "no ring is free",
                allowed_max=self._settings.native_clients_max,
                hint="raise nativeClientsMax; this client goes on by copies",
            )
        self._last_epoch += 1
        native, bells = NativeRing.create(
            index=self._free.pop(0),
            epoch=self._last_epoch,
            entry_count=self._settings.native_ring_entries,
            data_size=self._settings.native_ring_size,
        )
        shared: list[int] = []
        try:
            for what in SHARED:
                name = segment_name(self._arena.instance, what).removeprefix("/")
                shared.append(os.open(SHM_FOLDER / name, os.O_RDONLY | os.O_CLOEXEC))
            self._send(
                connection, request, to_ext(self._facts(native)), [native.fds[0], *bells, *shared]
            )
        except OSError as error:
            self._free.append(native.index)
            native.close()
            raise RequestRefused(
                ResponseCode.SYSTEM_ERROR, "the ring cannot be given", cause=error.strerror
            ) from error
        finally:
            for fd in shared + bells:
                os.close(fd)
        self._rings[native.index] = native
        self._of[connection.number] = native
        connection.has_ring = True
        self.step()

    def _send(
        self, connection: ClientConnection, request: Header, ext: dict[str, str], fds: list[int]
    ) -> None:
        """Answer with descriptors, which go with the first byte; nothing may wait before it."""
        frame = encode_frame(
            answer(request, ResponseCode.SUCCESS, ext=ext), b"", connection.serialization
        )
        sent = socket.send_fds(connection.sock, [frame], fds)
        if sent < len(frame):
            connection.append(frame[sent:])

    def _check_peer(self, connection: ClientConnection) -> None:
        """Only users that the settings name may have shared memory; none named: all may."""
        data = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        _pid, uid, gid = CREDENTIALS.unpack(data)
        allowed_uids = self._settings.native_uids
        allowed_gids = self._settings.native_gids
        if not allowed_uids and not allowed_gids:
            return
        if uid not in allowed_uids and gid not in allowed_gids:
            raise RequestRefused(
                ResponseCode.NO_PERMISSION,
                "this user may not have shared memory",
                uid=uid,
                gid=gid,
                hint="see nativeAllowedUids and nativeAllowedGids",
            )

    def _facts(self, native: NativeRing) -> NativeOpened:
        settings, identity = self._settings, self._identity
        place = self._serve.store_place
        return NativeOpened(
            instance=self._arena.instance,
            broker_name=identity.name,
            cluster_name=identity.cluster,
            region=settings.region_id,
            trace_on=settings.trace_on,
            store_host=place[0].hex(),
            store_port=place[1],
            message_size_max=settings.max_message_size,
            ring_index=native.index,
            ring_epoch=native.epoch,
            commitlog_file_size=settings.mapped_file_size_commit_log,
            consumequeue_file_size=settings.mapped_file_size_consume_queue,
            sync_flush=settings.flush_disk_type == "SYNC_FLUSH",
            writer_line=self._writer_line,
        )

    # Files

    def _file(self, connection: ClientConnection, request: Header) -> None:
        """A file of the store for what is no longer in shared memory."""
        if connection.number not in self._of or connection.output:
            raise RequestRefused(ResponseCode.SYSTEM_BUSY, "open first, then one request at a time")
        ext = request.ext
        start = required_int(ext, "start", bits=LONG_BITS)
        if start < 0:
            raise RequestRefused(ResponseCode.INVALID_PARAMETER, "start", found=start, allowed=0)
        commitlog_dir, queue_root = self._folders
        if required_text(ext, "kind") == CONSUMEQUEUE:
            topic = required_text(ext, "topic")
            queue_id = required_int(ext, "queueId")
            if self._serve.views.slot(topic, queue_id) is None:
                raise RequestRefused(
                    ResponseCode.TOPIC_NOT_EXIST, "no such queue", topic=topic, queue_id=queue_id
                )
            path = queue_folder(queue_root, topic, queue_id) / file_name(start)
        else:
            path = commitlog_dir / file_name(start)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise RequestRefused(
                ResponseCode.QUERY_NOT_FOUND, "no such file", file=path.name, cause=error.strerror
            ) from error
        try:
            self._send(connection, request, {}, [fd])
        finally:
            os.close(fd)

    # Topics

    def _topic(self, connection: ClientConnection, request: Header) -> None:
        native = self._of.get(connection.number)
        if native is None:
            raise RequestRefused(ResponseCode.SYSTEM_ERROR, "this connection has no ring yet")
        name = required_text(request.ext, "topic")
        names.check_topic(name)
        if name in FORBIDDEN_TOPICS or name.startswith((names.RETRY_PREFIX, names.DLQ_PREFIX)):
            raise RequestRefused(
                ResponseCode.NO_PERMISSION, "nobody may append to this topic directly", topic=name
            )
        self._serve.gate.check()
        view = self._serve.views.topics.get(name)
        if view is not None:
            self._grant(connection, request, native, view)
            return
        self._serve.uplink.create_topic(
            CreateTopic(
                token=0,
                topic=name,
                default_topic=request.ext.get("defaultTopic", DEFAULT_DEFAULT),
                queue_count=optional_int(request.ext, "queueCount") or DEFAULT_QUEUES,
                peer=connection.peer,
            ),
            self._when_made(connection, request, native, name),
            now_ms=self._serve.now_ms,
        )

    def _when_made(
        self, connection: ClientConnection, request: Header, native: NativeRing, name: str
    ) -> Callable[[Reply], None]:
        def then(reply: Reply) -> None:
            view = self._serve.views.topics.get(name)
            if connection.gone or self._of.get(connection.number) is not native:
                return
            if reply.code != ResponseCode.SUCCESS or view is None:
                code = reply.code or ResponseCode.TOPIC_NOT_EXIST
                self._serve.reply_later(connection, request, code, reply.remark)
                return
            self._grant(connection, request, native, view)
            self._serve.door.write(connection)

        return then

    def _grant(
        self, connection: ClientConnection, request: Header, native: NativeRing, view: TopicView
    ) -> None:
        count = writable_count(view)
        if not count:
            self._serve.reply(
                connection, request, ResponseCode.NO_PERMISSION, "the topic takes no messages"
            )
            return
        grants = self._arena.granted(native.index)
        for slot in view.slots[:count]:
            grants[slot >> 3] |= 1 << (slot & 7)
        found = NativeTopic(
            slots=view.slots,
            write_queue_nums=view.write_queue_nums,
            read_queue_nums=view.read_queue_nums,
            perm=view.perm,
        )
        self._serve.reply(connection, request, ResponseCode.SUCCESS, ext=to_ext(found))

    def _clear_grants(self, native: int) -> None:
        grants = self._arena.granted(native)
        grants[:] = bytes(len(grants))

    def revoke(self, slots: list[int]) -> None:
        """Nobody may append to these queues any more: their topic was deleted or changed."""
        for native in self._rings.values():
            grants = self._arena.granted(native.index)
            for slot in slots:
                grants[slot >> 3] &= ~(1 << (slot & 7)) & 0xFF


def writable_count(view: TopicView) -> int:
    """How many queues of a topic, from its first, take messages."""
    return view.write_queue_nums if view.perm & Perm.WRITE else 0
