"""A serve process's tie to the coordinator: what it asks, what it hears, and how it finds it again.

    DOWN --connect--> UP: Hello, heartbeats again, commits, what was not answered again
     ^                |
     +--(it closed)---+

Every request waits here until it is answered; a new coordinator is asked again, so whatever may be
asked must mean the same when it is asked twice. A request that waits too long is given up and
answered with SYSTEM_BUSY. Commits taken from pulls are collected and sent before the next request,
or after COMMIT_INTERVAL_MS.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shmq.errors import ProtocolError, RequestRefused
from shmq.log import get_logger
from shmq.units import SECOND_MS, KiB, MiB
from shmq.wire import internal
from shmq.wire.codes import ResponseCode
from shmq.wire.internal import (
    NO_TOKEN,
    Adopted,
    Ask,
    Called,
    Closed,
    Commit,
    CreateGroup,
    CreateTopic,
    Hello,
    MessageDecoder,
    Reply,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from shmq.broker.resetwatch import ResetKey

RECEIVE_SIZE: Final = 256 * KiB
ASK_MAX_MS: Final = 5 * SECOND_MS
CONNECT_AGAIN_MS: Final = 20
COMMIT_INTERVAL_MS: Final = 100
WAITING_MAX: Final = 20_000
WAITING_SIZE_MAX: Final = 32 * MiB
"""Bytes that wait to be written, and bodies of what was not answered: more is refused."""
ASK_SIZE_MAX: Final = 16 * MiB
"""Largest body of one request."""


class Waiting(NamedTuple):
    """A request that was not answered yet."""

    message: Ask | CreateTopic | CreateGroup
    then: Callable[[Reply], None]
    asked_ms: int
    size: int
    """Bytes that are kept for it."""


class Uplink:
    """The serve side of the internal messages, over a non-blocking Unix socket."""

    def __init__(
        self,
        *,
        path: Path,
        hello: Hello,
        replays: Callable[[], Iterable[Ask]],
        hear: Callable[[internal.Message], None],
        watch: Callable[[int, bool], None],
        unwatch: Callable[[int], None],
    ) -> None:
        """`watch(fileno, wants_write)` has the owner call on_ready() when the socket is ready.

        `replays` are the connections' last heartbeats, for a coordinator that has heard none.
        `hear` takes everything that is no Reply.
        """
        self._path = str(path)
        self._hello = hello
        self._replays = replays
        self._hear = hear
        self._watch = watch
        self._unwatch = unwatch
        self._log = get_logger()
        self._sock: socket.socket | None = None
        self._decoder = MessageDecoder()
        self._output = bytearray()
        self._writing = False
        self._waiting: dict[int, Waiting] = {}
        self._waiting_size = 0
        self._commits: dict[tuple[str, str, int], int] = {}
        self._commits_due_ms = 0
        self._last_token = NO_TOKEN
        self._connect_due_ms = 0

    # Requests

    @property
    def waiting_count(self) -> int:
        """Requests that were not answered yet."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether more requests, or more bytes, wait than may."""
        return len(self._waiting) >= WAITING_MAX or self._size >= WAITING_SIZE_MAX

    @property
    def _size(self) -> int:
        return len(self._output) + self._waiting_size

    def need_room(self) -> None:
        """Let one more request pass.

        Raises:
            RequestRefused: too many wait already.
        """
        if self.is_full:
            raise RequestRefused(
                ResponseCode.SYSTEM_BUSY,
                "too many requests wait for the coordinator",
                waiting=self.waiting_count,
                waiting_size=self._size,
            )

    def ask(self, ask: Ask, then: Callable[[Reply], None], *, now_ms: int) -> None:
        """Ask; `then` gets the Reply. `ask.token` is set here, unless it is one-way."""
        self.flush_commits()
        if ask.oneway:
            self._send(ask)
            return
        ask = msgspec.structs.replace(ask, token=self._next_token())
        self._wait(ask, then, now_ms, size=len(ask.body))

    def create_topic(
        self, wanted: CreateTopic, then: Callable[[Reply], None], *, now_ms: int, size: int = 0
    ) -> None:
        """Have a topic made; `then` gets the Reply, and keeps `size` bytes until it does."""
        wanted = msgspec.structs.replace(wanted, token=self._next_token())
        self._wait(wanted, then, now_ms, size=size)

    def create_group(
        self, wanted: CreateGroup, then: Callable[[Reply], None], *, now_ms: int
    ) -> None:
        """Have a group made; `then` gets the Reply."""
        wanted = msgspec.structs.replace(wanted, token=self._next_token())
        self._wait(wanted, then, now_ms, size=0)

    def commit(self, group: str, topic: str, queue_id: int, offset: int, *, now_ms: int) -> None:
        """Store an offset that a pull carried, soon."""
        if not self._commits:
            self._commits_due_ms = now_ms + COMMIT_INTERVAL_MS
        self._commits[group, topic, queue_id] = offset

    def closed(self, connection: int) -> None:
        """Say that a client's connection has ended."""
        self._send(Closed(connection))

    def adopted(self, key: ResetKey, number: int) -> None:
        """Say that a consumer goes on from a reset; commits from before it are sent first."""
        self.flush_commits()
        self._send(Adopted(*key, number))

    def called(self, called: Called) -> None:
        """Pass on what a client has answered."""
        self._send(called)

    def flush_commits(self) -> None:
        """Send the collected commits now."""
        if self._commits and self._sock is not None and len(self._output) < WAITING_SIZE_MAX:
            entries = [(*key, offset) for key, offset in self._commits.items()]
            self._commits.clear()
            self._send(Commit(entries))

    # Duty cycle

    def tick(self, now_ms: int) -> None:
        """Connect when it is time, write what waits, give up what waits too long."""
        if self._sock is None and now_ms >= self._connect_due_ms:
            self._connect(now_ms)
        if self._commits and now_ms >= self._commits_due_ms:
            self.flush_commits()
        self.flush()
        for token, waiting in list(self._waiting.items()):
            if now_ms - waiting.asked_ms <= ASK_MAX_MS:
                break  # They are in the order in which they were asked.
            self._forget(token)
            waiting.then(
                Reply(
                    token,
                    ResponseCode.SYSTEM_BUSY,
                    f"the broker's coordinator did not answer within {ASK_MAX_MS} ms; try again",
                )
            )

    def flush(self) -> None:
        """Write what waits to be written."""
        if self._output and self._sock is not None:
            self._write(self._sock)

    def on_ready(self) -> None:
        """The socket is readable or writable."""
        if self._sock is None:
            return
        self.flush()
        if self._sock is not None:
            self._read(self._sock)

    def close(self) -> None:
        """Close the socket."""
        if self._sock is not None:
            self._unwatch(self._sock.fileno())
            self._sock.close()
            self._sock = None

    # The socket

    def _connect(self, now_ms: int) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.setblocking(False)
        result = sock.connect_ex(self._path)
        if result != 0:
            sock.close()
            self._connect_due_ms = now_ms + CONNECT_AGAIN_MS
            if result not in {errno.EAGAIN, errno.ECONNREFUSED, errno.ENOENT}:
                raise OSError(result, errno.errorcode.get(result, "connect"), self._path)
            return
        self._sock = sock
        self._decoder = MessageDecoder()
        self._writing = False
        self._watch(sock.fileno(), False)
        self._output = bytearray(internal.encode(self._hello))
        for replay in self._replays():
            self._output += internal.encode(replay)
        self.flush_commits()
        for waiting in self._waiting.values():
            self._output += internal.encode(waiting.message)

    def _wait(
        self,
        message: Ask | CreateTopic | CreateGroup,
        then: Callable[[Reply], None],
        now_ms: int,
        *,
        size: int,
    ) -> None:
        self._waiting[message.token] = Waiting(message, then, now_ms, size)
        self._waiting_size += size
        self._send(message)

    def _next_token(self) -> int:
        self._last_token += 1
        return self._last_token

    def _send(self, message: internal.Message) -> None:
        if self._sock is not None:
            self._output += internal.encode(message)

    def _write(self, sock: socket.socket) -> None:
        try:
            sent = sock.send(self._output)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._lose()
            return
        del self._output[:sent]
        if bool(self._output) != self._writing:
            self._writing = bool(self._output)
            self._watch(sock.fileno(), self._writing)

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        self._decoder.feed(data)
        try:
            while (message := self._decoder.next_message()) is not None:
                self._take(message)
        except ProtocolError as error:
            self._log.error("coordinator.broke_protocol", error=str(error))
            self._lose()

    def _take(self, message: internal.Message) -> None:
        if not isinstance(message, Reply):
            self._hear(message)
            return
        waiting = self._forget(message.token)
        if waiting is not None:
            waiting.then(message)

    def _forget(self, token: int) -> Waiting | None:
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            self._waiting_size -= waiting.size
        return waiting

    def _lose(self) -> None:
        self.close()
        self._output.clear()
        self._connect_due_ms = 0
        self._log.warning("coordinator.lost", waiting=len(self._waiting))
