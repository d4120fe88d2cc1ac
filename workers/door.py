"""Server loop for doors with little traffic: accepts, decodes, asks a handler, writes answers.

Nothing in it waits for one peer. All sockets are non-blocking; one selector knows when there is
something to do; each step does a bounded piece of it.

    accept --> OPEN --(peer closed its side)--> CLOSING --(all is written, or late)--> gone
                |                                  ^
                +--(server closes after writing)---+
                +--(broken frame, too slow, idle, reset, output too large)------------> gone

A peer that asks faster than it reads is not read from until its output has left: so the output of
a connection is bounded by OUTPUT_SIZE_HIGH and one answer. What the server sends without being
asked counts too, and a peer that lets OUTPUT_SIZE_MAX pile up is closed.

The handler gets (Header, body, Connection) and returns the answer, or None when there is none. An
error that it raises is answered; answers to one-way requests are dropped here. Times are from the
monotonic clock of the caller: step(now_ms) must never get the time of day.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import msgspec

from shmq.errors import ProtocolError, RequestRefused
from shmq.units import MINUTE_MS, SECOND_MS, KiB, MiB
from shmq.wire.codes import ResponseCode
from shmq.wire.frame import FRAME_SIZE_MAX, FrameDecoder
from shmq.wire.header import JSON, Header, answer, encode_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

RECEIVE_SIZE: Final = 256 * KiB
OUTPUT_SIZE_HIGH: Final = 1 * MiB
OUTPUT_SIZE_MAX: Final = 32 * MiB
INPUT_SIZE_MAX: Final = 256 * MiB
FRAMES_PER_STEP: Final = 64
ACCEPTS_PER_STEP: Final = 64
IOVECS_MAX: Final = 64
CLOSE_MAX_MS: Final = 5 * SECOND_MS
ACCEPT_PAUSE_MS: Final = 1 * SECOND_MS
SCAN_INTERVAL_MS: Final = 1 * SECOND_MS
REMARK_LENGTH_MAX: Final = 1024

Answer: TypeAlias = tuple[Header, bytes]
Handler: TypeAlias = "Callable[[Header, bytes, Connection], Answer | None]"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one server allows its peers."""

    connections_max: int = 1024
    idle_max_ms: int = 2 * MINUTE_MS
    write_stall_max_ms: int = 30 * SECOND_MS
    frame_size_max: int = FRAME_SIZE_MAX
    output_size_high: int = OUTPUT_SIZE_HIGH
    output_size_max: int = OUTPUT_SIZE_MAX
    input_size_max: int = INPUT_SIZE_MAX
    """Unfinished frames of all peers together."""


class Connection:
    """One peer of a FrameServer."""

    def __init__(self, sock: socket.socket, *, number: int, peer: str, frame_size_max: int) -> None:
        self.number = number
        self.peer = peer
        self.sock = sock
        self.decoder = FrameDecoder(frame_size_max=frame_size_max)
        self.output: deque[memoryview] = deque()
        self.output_size = 0
        self.input_size = 0
        self.active_ms = 0
        """Last time that bytes went in or out."""
        self.serialization = JSON
        self.connecting = False
        self.closing = False
        self.has_frames = False
        """Whether the decoder may hold whole frames that were left for later."""
        self.events = 0
        self.gone = False


class Door(NamedTuple):
    """What a selector key stands for when it is a listener."""

    listener: socket.socket


class Bell(NamedTuple):
    """What a selector key stands for when it only wakes."""


class FrameServer:
    """Connections, and the listeners from which they come."""

    def __init__(
        self,
        *,
        listeners: Iterable[socket.socket],
        handler: Handler,
        log: Any,
        limits: Limits | None = None,
        on_close: Callable[[Connection], None] = lambda _: None,
    ) -> None:
        self._handler = handler
        self._on_close = on_close
        self._log = log
        self._limits = Limits() if limits is None else limits
        self._selector = selectors.DefaultSelector()
        self._listeners = list(listeners)
        self._connections: dict[int, Connection] = {}
        self._unfinished: dict[int, Connection] = {}
        self._ready: list[tuple[Any, int]] = []
        self._input_size = 0
        self._last_number = 0
        self._now_ms = 0
        self._next_scan_ms = 0
        self._accept_again_ms = 0
        self._accepting = False
        self._is_full = False
        self._stopping = False
        for listener in self._listeners:
            listener.setblocking(False)
        self._accept(True)

    # Duty cycle

    def step(self, now_ms: int) -> int:
        """Serve what is ready, never waiting. Returns the number of things done."""
        self._now_ms = now_ms
        if not self._ready:
            self._ready = self._select(0)
        ready, self._ready = self._ready, []
        done = 0
        for data, events in ready:
            if isinstance(data, Door):
                done += self._take_in(data.listener)
            elif isinstance(data, Connection):
                done += 1
                self._serve(data, events)
        for connection in list(self._unfinished.values()):
            done += self._ask_handler(connection)
        if now_ms >= self._next_scan_ms:
            self._next_scan_ms = now_ms + SCAN_INTERVAL_MS
            self._scan()
        return done

    def wait(self, timeout_ms: int) -> None:
        """Sleep until a socket or a bell is ready, `timeout_ms` at most."""
        if not self._ready and not self._unfinished:
            self._ready = self._select(timeout_ms)

    def _select(self, timeout_ms: int) -> list[tuple[Any, int]]:
        return [(key.data, events) for key, events in self._selector.select(timeout_ms / 1000)]

    def watch(self, fileno: int) -> None:
        """Let wait() return when this descriptor is readable, too; its owner reads it."""
        self._selector.register(fileno, selectors.EVENT_READ, Bell())

    def fileno(self) -> int:
        """Descriptor that is readable when step() has something to do, for an outer selector."""
        number: int = self._selector.fileno()
        return number

    def drain(self, now_ms: int) -> bool:
        """Take in nobody, finish what was asked; True when all output has left."""
        self._stopping = True
        self._accept(False)
        self.step(now_ms)
        return not self._unfinished and not any(
            connection.output for connection in self._connections.values()
        )

    def close(self) -> None:
        """Close every connection and the selector; the listeners stay with their owner."""
        for connection in list(self._connections.values()):
            self._drop(connection, None)
        self._selector.close()

    # For the owner

    @property
    def connections(self) -> list[Connection]:
        """Every open connection."""
        return list(self._connections.values())

    def send(self, number: int, header: Header, body: bytes = b"") -> bool:
        """Send a frame on a connection; False when that is closed."""
        connection = self._connections.get(number)
        if connection is None or connection.closing:
            return False
        self._put(connection, encode_frame(header, body, connection.serialization))
        return not connection.gone

    def send_to(self, host: str, port: int, header: Header, body: bytes = b"") -> int:
        """Open a connection to an address, send one frame there, then close it.

        The host must be an IP address: a name would have to be looked up, which waits. Returns the
        connection's number, 0 when the limit of connections is reached.

        Raises:
            OSError: no address, or nobody can be reached there.
        """
        if len(self._connections) >= self._limits.connections_max:
            return 0
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.inet_pton(family, host)
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        result = sock.connect_ex((host, port))
        if result not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(result, errno.errorcode.get(result, "connect"), f"{host}:{port}")
        connection = self._add(sock, f"{host}:{port}")
        connection.connecting = True
        connection.closing = True
        self._put(connection, encode_frame(header, body))
        return connection.number

    def close_connection(self, number: int, reason: str) -> None:
        """Close a connection now, with what it has not yet got."""
        connection = self._connections.get(number)
        if connection is not None:
            self._drop(connection, reason)

    # Accepting

    def _accept(self, wanted: bool) -> None:  # noqa: FBT001  (on or off)
        if wanted == self._accepting:
            return
        self._accepting = wanted
        for listener in self._listeners:
            if wanted:
                self._selector.register(listener, selectors.EVENT_READ, Door(listener))
            else:
                self._selector.unregister(listener)

    def _take_in(self, listener: socket.socket) -> int:
        """Accept what waits at a listener; how many."""
        if not self._accepting:
            return 0
        for count in range(ACCEPTS_PER_STEP):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return count
            except OSError as error:
                self._accept(False)
                self._accept_again_ms = self._now_ms + ACCEPT_PAUSE_MS
                self._log.error(
                    "connection.not_accepted",
                    error=error.strerror,
                    hint="raise the limit of open files; accepting goes on in a second",
                )
                return count
            if len(self._connections) >= self._limits.connections_max:
                sock.close()
                self._note_full(True)
                continue
            self._note_full(False)
            sock.setblocking(False)
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._add(sock, _peer_name(address))
        return ACCEPTS_PER_STEP

    def _note_full(self, is_full: bool) -> None:  # noqa: FBT001  (on or off)
        if is_full and not self._is_full:
            self._log.warning(
                "connections.limit_reached",
                connections_max=self._limits.connections_max,
                hint="new connections are closed at once until others end",
            )
        self._is_full = is_full

    def _add(self, sock: socket.socket, peer: str) -> Connection:
        self._last_number += 1
        connection = Connection(
            sock,
            number=self._last_number,
            peer=peer,
            frame_size_max=self._limits.frame_size_max,
        )
        connection.active_ms = self._now_ms
        self._connections[connection.number] = connection
        self._set_events(connection)
        return connection

    # One connection

    def _serve(self, connection: Connection, events: int) -> None:
        if connection.gone:
            return
        if events & selectors.EVENT_WRITE:
            connection.connecting = False
            self._write(connection)
        if events & selectors.EVENT_READ and not connection.gone:
            self._read(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._drop(connection, error.strerror or "reset")
            return
        connection.active_ms = self._now_ms
        if not data:
            connection.closing = True
            self._finish(connection)
            return
        connection.decoder.feed(data)
        self._ask_handler(connection)
        if connection.gone:
            return
        self._count_input(connection, connection.decoder.buffered_size)
        if self._input_size > self._limits.input_size_max:
            self._drop(connection, "unfinished frames of all peers take too much memory")

    def _count_input(self, connection: Connection, size: int) -> None:
        self._input_size += size - connection.input_size
        connection.input_size = size

    def _ask_handler(self, connection: Connection) -> int:
        """Answer frames that are whole, until enough is answered or the peer must read first."""
        self._unfinished.pop(connection.number, None)
        connection.has_frames = True
        for count in range(FRAMES_PER_STEP):
            if connection.gone:
                return count
            if connection.output_size >= self._limits.output_size_high:
                break
            try:
                frame = connection.decoder.next_frame()
            except ProtocolError as error:
                self._log.warning(
                    "connection.broke_protocol", peer=connection.peer, error=str(error)
                )
                self._drop(connection, None)
                return count
            if frame is None:
                connection.has_frames = False
                self._unfinished.pop(connection.number, None)
                self._finish(connection)
                return count
            connection.serialization = frame.serialization
            self._answer(connection, frame.header, frame.body)
        else:
            self._unfinished[connection.number] = connection
        if not connection.gone:
            self._set_events(connection)
        return FRAMES_PER_STEP

    def _answer(self, connection: Connection, header: Header, body: bytes) -> None:
        if header.is_response:
            return  # To a request of ours that wants no answer.
        try:
            answered = self._handler(header, body, connection)
            if answered is None or header.is_oneway or connection.gone:
                return
            frame = encode_frame(*answered, connection.serialization)
        except RequestRefused as error:
            frame = self._error_frame(connection, header, error.code, str(error))
        except Exception as error:  # noqa: BLE001  the connection's edge answers whatever it is
            self._log.exception("request.failed", peer=connection.peer, code=header.code)
            frame = self._error_frame(connection, header, ResponseCode.SYSTEM_ERROR, repr(error))
        if not header.is_oneway and not connection.gone:
            self._put(connection, frame)

    def _error_frame(self, connection: Connection, header: Header, code: int, why: str) -> bytes:
        remark = why[:REMARK_LENGTH_MAX].encode(errors="replace").decode()
        return encode_frame(answer(header, code, remark=remark), b"", connection.serialization)

    def _put(self, connection: Connection, frame: bytes) -> None:
        if not connection.output:
            connection.active_ms = self._now_ms
        connection.output.append(memoryview(frame))
        connection.output_size += len(frame)
        if connection.output_size > self._limits.output_size_max:
            self._drop(connection, "its output is too large")
        elif connection.connecting:
            self._set_events(connection)  # It is written when the connection is there.
        else:
            self._write(connection)

    def _write(self, connection: Connection) -> None:
        while connection.output:
            pieces = [
                connection.output[at] for at in range(min(len(connection.output), IOVECS_MAX))
            ]
            try:
                sent = connection.sock.sendmsg(pieces)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._drop(connection, error.strerror or "reset")
                return
            connection.active_ms = self._now_ms
            connection.output_size -= sent
            while sent:
                first = connection.output.popleft()
                if sent < len(first):
                    connection.output.appendleft(first[sent:])
                    break
                sent -= len(first)
        if connection.has_frames and connection.output_size < self._limits.output_size_high:
            self._unfinished[connection.number] = connection
        self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        """Close when nothing is left to do, else wait for what is left."""
        if connection.closing and not connection.output and not connection.has_frames:
            self._drop(connection, None)
        else:
            self._set_events(connection)

    def _set_events(self, connection: Connection) -> None:
        events = 0
        if not connection.closing and not connection.has_frames:
            events |= selectors.EVENT_READ
        if connection.output or connection.connecting:
            events |= selectors.EVENT_WRITE
        if events == connection.events:
            return
        if not connection.events:
            self._selector.register(connection.sock, events, connection)
        elif not events:
            self._selector.unregister(connection.sock)
        else:
            self._selector.modify(connection.sock, events, connection)
        connection.events = events

    def _drop(self, connection: Connection, reason: str | None) -> None:
        if connection.gone:
            return
        connection.gone = True
        self._count_input(connection, 0)
        self._connections.pop(connection.number, None)
        self._unfinished.pop(connection.number, None)
        if connection.events:
            self._selector.unregister(connection.sock)
            connection.events = 0
        with contextlib.suppress(OSError):
            connection.sock.close()
        connection.output.clear()
        if reason is not None:
            self._log.info("connection.closed", peer=connection.peer, reason=reason)
        self._on_close(connection)

    # What time does

    def _scan(self) -> None:
        """Close those that are silent, or do not read; accept again after a pause."""
        if not self._accepting and not self._stopping and self._now_ms >= self._accept_again_ms:
            self._accept(True)
        for connection in list(self._connections.values()):
            silent_ms = self._now_ms - connection.active_ms
            if connection.closing and silent_ms >= CLOSE_MAX_MS:
                self._drop(connection, "it did not take what was left")
            elif connection.output and silent_ms >= self._limits.write_stall_max_ms:
                self._drop(connection, "it does not read")
            elif silent_ms >= self._limits.idle_max_ms:
                self._drop(connection, "idle")


def _peer_name(address: object) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "unix"
