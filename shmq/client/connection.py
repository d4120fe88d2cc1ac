"""One connection to a broker or name server: requests out, answers matched to who waits for them.

    CONNECTING --(connected)--> OPEN --(peer gone, protocol broken, close())--> CLOSED
        +--(not connected in time, close())----------------------------------> CLOSED

Its own thread connects, reads, and writes what the socket did not take at once. Requests may be
given in any state and by any thread and never block: before it is open they are kept, after it is
closed they fail at once. A connection that is closed stays closed; the pool opens another.
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from shmq.client.address import Endpoint
from shmq.client.bell import Bell
from shmq.client.flow import Done, Wait, call_safely
from shmq.errors import ClientError, Closed, NotConnected, ProtocolError, Timeout
from shmq.units import KiB, MiB
from shmq.wire.codes import RequestCode
from shmq.wire.frame import FRAME_SIZE_MAX, Frame, FrameDecoder
from shmq.wire.header import FLAG_ONEWAY, FLAG_RESPONSE, Header, encode_frame

CONNECT_TIMEOUT: Final = 3.0
RECEIVE_SIZE: Final = 512 * KiB
OUTPUT_SIZE_HIGH: Final = 8 * MiB
"""With more waiting to be written than this, threads that may wait do so."""
OPAQUE_MASK: Final = 0x7FFFFFFF
PIECES_MAX: Final = 64
NEVER: Final = float("inf")

_log: Final = logging.getLogger("shmq.client")
_numbers: Final = itertools.count(1)


class Owner(Protocol):
    """Who has the connection."""

    def opened(self, connection: Connection) -> None:
        """It is connected now."""

    def ended(self, connection: Connection) -> None:
        """It is closed now."""

    def requested(self, connection: Connection, frame: Frame) -> None:
        """The peer asks for something."""

    def deadline_due(self, connection: Connection, delay: float) -> None:
        """Call `expire` in so many seconds, which is earlier than thought before."""


class _Call:
    """A request that waits for its answer."""

    __slots__ = ("code", "deadline", "done", "timeout")

    def __init__(self, code: int, done: Done[Frame], deadline: float, timeout: float) -> None:
        self.code = code
        self.done = done
        self.deadline = deadline
        self.timeout = timeout


class Connection:
    """Requests to one endpoint."""

    def __init__(self, endpoint: Endpoint, owner: Owner) -> None:
        self.endpoint = endpoint
        self.error: ClientError | None = None
        """Why it is closed."""
        self.is_open = False
        self._owner = owner
        self._lock = threading.Lock()
        self._room = Bell()
        self._calls: dict[int, _Call] = {}
        self._opaques = itertools.count()
        self._output: deque[memoryview] = deque()
        self._output_size = 0
        self._next_deadline = NEVER
        self._socket: socket.socket | None = None
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._decoder = FrameDecoder(frame_size_max=FRAME_SIZE_MAX)
        self._thread = threading.Thread(
            target=self._run, name=f"shmq-io-{next(_numbers)}", daemon=True
        )

    def start(self) -> None:
        """Begin to connect; to be called once."""
        try:
            self._thread.start()
        except BaseException:  # A signal while it waits for the thread, which runs perhaps.
            self.close(NotConnected("interrupted", address=str(self.endpoint)), wait=False)
            raise

    # Requests

    def next_opaque(self) -> int:
        """A number for a request, with which its answer will come."""
        return next(self._opaques) & OPAQUE_MASK

    def submit(
        self,
        opaque: int,
        code: int,
        pieces: list[bytes | memoryview],
        *,
        timeout: float,
        done: Done[Frame],
    ) -> None:
        """Write a whole frame and have `done` called with its answer, or with an error."""
        now = time.monotonic()
        call = _Call(code, done, now + timeout, timeout)
        self._calls[opaque] = call
        if call.deadline < self._next_deadline:
            self._next_deadline = call.deadline
            self._owner.deadline_due(self, timeout)
        error = self._write(pieces)
        # A call that came after the last look at all calls must be ended here.
        if error is not None and self._calls.pop(opaque, None) is not None:
            call_safely(done, error)

    def begin(
        self,
        code: int,
        ext: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        timeout: float,
        done: Done[Frame],
    ) -> int:
        """Ask; `done` gets the answer whatever its code is, or an error. Gives the opaque."""
        opaque = self.next_opaque()
        frame = encode_frame(Header(code, opaque, 0, ext=ext or {}), body)
        self.submit(opaque, code, [frame], timeout=timeout, done=done)
        return opaque

    def ask(
        self,
        code: int,
        ext: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        timeout: float,
    ) -> Wait[Frame]:
        """The answer, in a flow."""

        def start(done: Done[Frame]) -> Callable[[], None]:
            opaque = self.begin(code, ext, body, timeout=timeout, done=done)
            return lambda: self.forget(opaque)

        return Wait(start)

    def tell(self, code: int, ext: dict[str, str] | None = None, body: bytes = b"") -> bool:
        """Send a request that is not answered; whether it could be written or kept."""
        header = Header(code, self.next_opaque(), FLAG_ONEWAY, ext=ext or {})
        return self._write([encode_frame(header, body)]) is None

    def send_oneway(self, pieces: list[bytes | memoryview]) -> ClientError | None:
        """Write a frame that is not answered; the error if the connection is closed."""
        return self._write(pieces)

    def answer(
        self,
        request: Header,
        code: int,
        remark: str | None = None,
        *,
        ext: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Answer a request of the peer."""
        if not request.is_oneway:
            header = Header(code, request.opaque, FLAG_RESPONSE, remark=remark, ext=ext or {})
            self._write([encode_frame(header, body)])

    def forget(self, opaque: int) -> None:
        """Nobody waits for this answer any more."""
        self._calls.pop(opaque, None)

    @property
    def is_full(self) -> bool:
        """Whether much is waiting to be written."""
        return self._output_size > OUTPUT_SIZE_HIGH

    def await_room(self, timeout: float) -> None:
        """Wait until less is waiting to be written, or for `timeout` seconds."""
        if self._output_size > OUTPUT_SIZE_HIGH:
            self._room.wait_for(lambda: not self.is_full or self.error is not None, timeout)

    # Upkeep

    def expire(self, now: float) -> float:
        """End the calls that waited too long; when the next will have, NEVER if none is."""
        self._next_deadline = NEVER  # Whoever asks from now on tells the owner again.
        late = [opaque for opaque, call in self._calls.copy().items() if call.deadline <= now]
        for opaque in late:
            call = self._calls.pop(opaque, None)
            if call is not None:
                error = Timeout(
                    "no answer in time",
                    address=str(self.endpoint),
                    request=_name_of(call.code),
                    timeout_s=round(call.timeout, 3),
                )
                call_safely(call.done, error)
        left = self._calls.copy().values()
        due = min((call.deadline for call in left), default=NEVER)
        self._next_deadline = min(self._next_deadline, due)
        return due

    def close(self, error: ClientError | None = None, *, wait: bool = True) -> None:
        """End the connection; all that wait for answers get `error`."""
        with self._lock:
            if self.error is None:
                self.error = error or Closed("connection closed", address=str(self.endpoint))
            self._ring()
        if wait and self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def abandon(self) -> None:
        """In a forked child: close what it inherited, without a word to the peer."""
        if self._socket is not None:
            self._socket.close()
        if self._bell >= 0:
            os.close(self._bell)

    # Writing

    def _write(self, pieces: list[bytes | memoryview]) -> ClientError | None:
        size = sum(map(len, pieces))
        with self._lock:
            if self.error is not None:
                return self.error
            try:
                if self.is_open and not self._output:
                    sent = self._send(pieces)
                    if sent == size:
                        return None
                    pieces = _rest(pieces, sent)
                    size -= sent
                self._output.extend(map(memoryview, pieces))
                self._output_size += size
            except BaseException as error:
                # A frame may be half written, also when a signal came in between.
                self.error = NotConnected(
                    "connection broke while sending",
                    address=str(self.endpoint),
                    cause=_cause(error),
                )
                self._ring()
                if isinstance(error, OSError):
                    return self.error
                raise
            if self.is_open:
                self._ring()
        return None

    def _send(self, pieces: list[bytes | memoryview]) -> int:
        assert self._socket is not None, "open"
        try:
            if len(pieces) == 1:
                return self._socket.send(pieces[0])
            return self._socket.sendmsg(pieces)
        except (BlockingIOError, InterruptedError):
            return 0

    def _flush(self, sock: socket.socket) -> None:
        with self._lock:
            while self._output and self.error is None:
                count = min(len(self._output), PIECES_MAX)
                try:
                    sent = sock.sendmsg([self._output[at] for at in range(count)])
                except (BlockingIOError, InterruptedError):
                    return
                self._output_size -= sent
                while sent:
                    first = self._output[0]
                    if sent < len(first):
                        self._output[0] = first[sent:]
                        break
                    sent -= len(first)
                    self._output.popleft()
                if self._output_size <= OUTPUT_SIZE_HIGH:
                    self._room.ring()

    def _ring(self) -> None:
        """Wake the thread; the caller holds the lock, so that the bell is not just being closed."""
        if self._bell >= 0:
            os.eventfd_write(self._bell, 1)

    # The thread

    def _run(self) -> None:
        try:
            sock = self._connect()
            if sock is not None:
                self._serve(sock)
        except (OSError, ProtocolError) as error:
            self._fail("connection lost", error)
        except Exception as error:  # noqa: BLE001  the edge of the thread: logged, and told to all
            _log.exception("connection to %s failed", self.endpoint)
            self._fail("connection failed", error)
        finally:
            self._end()

    def _connect(self) -> socket.socket | None:
        try:
            sock = self.endpoint.connect(CONNECT_TIMEOUT)
        except OSError as error:
            self._fail("cannot connect", error)
            return None
        sock.setblocking(False)
        with self._lock:
            self._socket = sock
            if self.error is not None:
                return None
            # What was kept goes out before anything that comes from now on.
            self.is_open = True
        self._owner.opened(self)
        return sock

    def _serve(self, sock: socket.socket) -> None:
        bell = self._bell
        poller = select.poll()
        poller.register(bell, select.POLLIN)
        poller.register(sock, select.POLLIN)
        wants_out = False
        buffer = bytearray(RECEIVE_SIZE)
        view = memoryview(buffer)
        while self.error is None:
            if self._output:
                self._flush(sock)
            if bool(self._output) is not wants_out:
                wants_out = not wants_out
                poller.modify(sock, select.POLLIN | select.POLLOUT if wants_out else select.POLLIN)
            for fd, _events in poller.poll():
                if fd == bell:
                    os.eventfd_read(bell)
                elif not self._receive(sock, view):
                    raise ConnectionResetError("the peer closed the connection")

    def _receive(self, sock: socket.socket, view: memoryview) -> bool:
        """Take what has come; False when the peer has closed."""
        try:
            size = sock.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return True
        if not size:
            return False
        decoder = self._decoder
        decoder.feed(view[:size])
        while (frame := decoder.next_frame()) is not None:
            header = frame.header
            if header.flag & FLAG_RESPONSE:
                call = self._calls.pop(header.opaque, None)
                if call is not None:
                    call_safely(call.done, frame)
            else:
                self._owner.requested(self, frame)
        return True

    def _fail(self, what: str, error: Exception) -> None:
        with self._lock:
            if self.error is None:
                self.error = NotConnected(what, address=str(self.endpoint), cause=_cause(error))

    def _end(self) -> None:
        with self._lock:
            self.is_open = False
            if self.error is None:
                self.error = Closed("connection closed", address=str(self.endpoint))
            error = self.error
            self._output.clear()
            self._output_size = 0
            self._room.ring()
            if self._socket is not None:
                self._socket.close()
            os.close(self._bell)
            self._bell = -1
        self._owner.ended(self)
        while self._calls:
            try:
                _opaque, call = self._calls.popitem()
            except KeyError:
                break
            call_safely(call.done, error)


def _rest(pieces: list[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    """What is left of `pieces` after `sent` bytes."""
    left: list[bytes | memoryview] = []
    for piece in pieces:
        if sent >= len(piece):
            sent -= len(piece)
            continue
        left.append(memoryview(piece)[sent:] if sent else piece)
        sent = 0
    return left


def _cause(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _name_of(code: int) -> str:
    try:
        return RequestCode(code).name
    except ValueError:
        return str(code)
