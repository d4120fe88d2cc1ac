"""The sockets of a serve process: accepts, reads, writes, closes; the owner knows what bytes mean.

    OPEN --(its side closed, broken, idle, too slow)--> gone
     | ^
     | +--(that has ended)
     +--(a frame waits for room, or answers are not read)--> not read from

One epoll for listeners, clients, the doorbell and the tie to the coordinator. Memory is bounded:
the input of all clients together, the output of each.
"""

from __future__ import annotations

import errno
import select
import socket
from typing import TYPE_CHECKING, Final, Protocol

from shmq.layout.counters import Counter
from shmq.log import get_logger
from shmq.units import SECOND_MS, KiB, MiB
from shmq.workers.clientconn import ClientConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shmq.config import Settings
    from shmq.shm.counters import CounterRow

READ_SIZE: Final = 512 * KiB
OUTPUT_SIZE_HIGH: Final = 1 * MiB
"""With more output than this waiting, a client is not read from."""
INPUT_SIZE_MAX: Final = 256 * MiB
"""Unfinished input of all clients together."""
ACCEPTS_PER_TURN: Final = 64
ACCEPT_PAUSE_MS: Final = 1 * SECOND_MS
SCAN_INTERVAL_MS: Final = 1 * SECOND_MS
WRITE_STALL_MAX_MS: Final = 60 * SECOND_MS
EVENTS_MAX: Final = 512


class Owner(Protocol):
    """Who takes the bytes."""

    def take(self, connection: ClientConnection, buffer: bytearray, end: int) -> int:
        """Take whole frames from buffer[:end]; gives where the first one begins that was not taken.

        `connection.needed` is then that frame's size, 0 when it is not known yet.

        Raises:
            ProtocolError: the connection must be closed.
        """

    def forget(self, connection: ClientConnection) -> None:
        """The connection is gone."""


class ClientDoor:
    """Clients of one serve process."""

    def __init__(self, *, settings: Settings, owner: Owner, counters: CounterRow) -> None:
        self._owner = owner
        self._counters = counters
        self._log = get_logger()
        self._epoll = select.epoll()
        self._scratch = bytearray(READ_SIZE)
        self._listeners: dict[int, socket.socket] = {}
        self._others: dict[int, Callable[[int], None]] = {}
        self._ready: list[tuple[int, int]] = []
        self._last_number = 0
        self._next_scan_ms = 0
        self._accept_again_ms = 0
        self._accepting = False
        self._is_full = False
        self._input_size = 0
        self._stopping = False
        self.connections: dict[int, ClientConnection] = {}
        """By file descriptor."""
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Take the limits anew."""
        self._connections_max = settings.connections_max
        self._idle_max_ms = settings.server_channel_max_idle_time_seconds * SECOND_MS
        self._output_size_max = settings.connection_buffer_max
        self._send_buffer = settings.server_socket_snd_buf_size
        self._receive_buffer = settings.server_socket_rcv_buf_size

    # What else is waited for

    def watch(self, fd: int, on_ready: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """Call `on_ready` when this descriptor is; again: other events for it."""
        if fd in self._others:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._others[fd] = on_ready

    def unwatch(self, fd: int) -> None:
        """Do not watch this descriptor any more."""
        if self._others.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def open(self, listeners: Iterable[socket.socket]) -> None:
        """Accept from these listeners from now on."""
        for listener in listeners:
            listener.setblocking(False)
            self._listeners[listener.fileno()] = listener
        self._accept(wanted=True)

    # Duty cycle

    def poll(self, timeout_ms: int) -> None:
        """Sleep until something is ready, `timeout_ms` at most."""
        if not self._ready:
            self._ready = self._epoll.poll(timeout_ms / 1000, EVENTS_MAX)

    def step(self, now_ms: int) -> int:
        """Serve what is ready; how many descriptors were."""
        if not self._ready:
            self._ready = self._epoll.poll(0, EVENTS_MAX)
        ready, self._ready = self._ready, []
        connections = self.connections
        for fd, events in ready:
            connection = connections.get(fd)
            if connection is not None:
                self._serve(connection, events, now_ms)
            elif fd in self._others:
                self._others[fd](events)
        # Last: a new connection may get a number that an event above was for.
        for fd, _events in ready:
            if fd in self._listeners:
                self._take_in(self._listeners[fd], now_ms)
        if now_ms >= self._next_scan_ms:
            self._next_scan_ms = now_ms + SCAN_INTERVAL_MS
            self._scan(now_ms)
        return len(ready)

    def stop(self) -> None:
        """Accept and read no more; answers still go out."""
        if not self._stopping:
            self._stopping = True
            self._accept(wanted=False)
            for connection in self.connections.values():
                self.set_events(connection)

    @property
    def output_waits(self) -> bool:
        """Whether a client has not taken all of its output."""
        return any(connection.output for connection in self.connections.values())

    def close(self) -> None:
        """Close all connections; listeners stay with the supervisor."""
        for connection in list(self.connections.values()):
            self.drop(connection, None)
        self._epoll.close()

    # Accepting

    def _accept(self, *, wanted: bool) -> None:
        if wanted == self._accepting:
            return
        self._accepting = wanted
        for fd, listener in self._listeners.items():
            if not wanted:
                self._epoll.unregister(fd)
            elif listener.family == socket.AF_UNIX:  # All serve processes have the same one.
                self._epoll.register(fd, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            else:
                self._epoll.register(fd, select.EPOLLIN)

    def _take_in(self, listener: socket.socket, now_ms: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if not self._accepting:
                return
            try:
                sock, _address = listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    self._pause_accepting(error, now_ms)
                    return
                continue  # The peer gave up before it was accepted.
            if len(self.connections) >= self._connections_max:
                sock.close()
                self._note_full(full=True)
                continue
            self._note_full(full=False)
            self._add(sock, now_ms)

    def _pause_accepting(self, error: OSError, now_ms: int) -> None:
        self._accept(wanted=False)
        self._accept_again_ms = now_ms + ACCEPT_PAUSE_MS
        self._log.error(
            "connection.not_accepted",
            error=error.strerror,
            hint="raise the limit of open files; accepting goes on in a second",
        )

    def _note_full(self, *, full: bool) -> None:
        if full and not self._is_full:
            self._log.warning(
                "connections.limit_reached",
                connections_max=self._connections_max,
                hint="new connections are closed at once until others end",
            )
        self._is_full = full

    def _add(self, sock: socket.socket, now_ms: int) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._send_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        if self._receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        self._last_number += 1
        connection = ClientConnection(sock, number=self._last_number, now_ms=now_ms)
        connection.events = select.EPOLLIN
        self.connections[connection.fd] = connection
        self._counters.add(Counter.ACCEPTED)
        self._counters.set(Counter.CONNECTIONS, len(self.connections))
        self._epoll.register(connection.fd, select.EPOLLIN)

    # One connection

    def _serve(self, connection: ClientConnection, events: int, now_ms: int) -> None:
        if events & select.EPOLLOUT:
            connection.active_ms = now_ms
            self.write(connection)
            if connection.unfinished and connection.output_size < OUTPUT_SIZE_HIGH:
                self.resume(connection)
        if connection.gone:
            return
        if events & select.EPOLLIN:
            self._read(connection, now_ms)
        elif events & (select.EPOLLHUP | select.EPOLLERR):
            self.drop(connection, None)

    def _read(self, connection: ClientConnection, now_ms: int) -> None:
        try:
            size = connection.sock.recv_into(self._scratch)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.drop(connection, None)
            return
        if size == 0:
            self.drop(connection, None)
            return
        connection.active_ms = now_ms
        self._counters.add(Counter.BYTES_IN, size)
        pending = connection.pending
        if pending:
            pending += memoryview(self._scratch)[:size]
            self._input_size += size
            if len(pending) >= connection.needed:
                self.resume(connection)
        else:
            taken = self._owner.take(connection, self._scratch, size)
            if taken < size and not connection.gone:
                connection.pending = bytearray(memoryview(self._scratch)[taken:size])
                self._input_size += size - taken
        if self._input_size > INPUT_SIZE_MAX and connection.pending:
            self.drop(connection, "unfinished input of all clients takes too much memory")

    def resume(self, connection: ClientConnection) -> None:
        """Go on with the input that was left."""
        pending = connection.pending
        # Taken away meanwhile: the owner may close the connection, or come here again.
        connection.pending = bytearray()
        taken = self._owner.take(connection, pending, len(pending))
        self._input_size -= taken
        if connection.gone:
            self._input_size -= len(pending) - taken
            return
        del pending[:taken]
        connection.pending = pending

    def write(self, connection: ClientConnection) -> None:
        """Write what waits; closes the connection when it is broken, too slow, or done."""
        if connection.gone:
            return
        if not connection.write():
            self.drop(connection, None)
        elif connection.output_size > self._output_size_max:
            self.drop(connection, "it does not read its answers")
        elif connection.closing and not connection.output:
            self.drop(connection, None)
        else:
            self.set_events(connection)

    def set_events(self, connection: ClientConnection) -> None:
        """Wait for what the connection needs now."""
        events = 0
        if (
            not connection.blocked_ms
            and not connection.unfinished
            and connection.output_size < OUTPUT_SIZE_HIGH
            and not connection.closing
            and not self._stopping
        ):
            events = select.EPOLLIN
        if connection.output or connection.unfinished:
            events |= select.EPOLLOUT
        if events != connection.events:
            self._epoll.modify(connection.fd, events)
            connection.events = events

    def drop(self, connection: ClientConnection, reason: str | None) -> None:
        """Close a connection now, with what it has not yet got."""
        if connection.gone:
            return
        connection.gone = True
        connection.unfinished = False
        self._input_size -= len(connection.pending)
        connection.pending = bytearray()
        connection.output.clear()
        del self.connections[connection.fd]
        self._counters.set(Counter.CONNECTIONS, len(self.connections))
        connection.sock.close()  # epoll forgets it with its last descriptor.
        if reason is not None:
            self._counters.add(Counter.DROPPED)
            self._log.info("connection.closed", peer=connection.peer, reason=reason)
        self._owner.forget(connection)

    # What time does

    def _scan(self, now_ms: int) -> None:
        paused = self._listeners and not self._accepting and not self._stopping
        if paused and now_ms >= self._accept_again_ms:
            self._accept(wanted=True)
        for connection in list(self.connections.values()):
            silent_ms = now_ms - connection.active_ms
            if connection.output and silent_ms >= WRITE_STALL_MAX_MS:
                self.drop(connection, "it does not read its answers")
            elif (
                silent_ms >= self._idle_max_ms
                and not connection.blocked_ms
                and not connection.has_ring
            ):
                self.drop(connection, "idle")
