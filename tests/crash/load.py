"""Load for crash tests: producers and consumers in threads that go on after lost connections.

A producer numbers what it sends, never sends the same bytes twice (a repeated send has a new
attempt number), and remembers for each acknowledged send where the broker said it is. So the store
can be held against it: each acknowledgement is there, and nothing is there twice.
"""

from __future__ import annotations

import hashlib
import random
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from shmq.layout import record
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.frame import Frame, FrameDecoder
from tests.crash.peer import (
    PATIENCE,
    RECEIVE_SIZE,
    Address,
    connect,
    pull_fields,
    request_frame,
    send_fields,
)

RECONNECT_PAUSE_S: Final = 0.01
IO_TIMEOUT_S: Final = 10.0 * PATIENCE
LOOK_S: Final = 0.05
HOLD_MS: Final = 5000


class _Sent(NamedTuple):
    """A send that was not answered yet."""

    number: int
    attempt: int
    queue_id: int
    digest: bytes
    at: float


class Acked(NamedTuple):
    """A send that the broker confirmed."""

    queue_id: int
    queue_offset: int
    message_id: str
    digest: bytes
    at: float
    """Monotonic clock, seconds."""


def digest_of(body: bytes) -> bytes:
    """Short hash of a message's body."""
    return hashlib.blake2b(body, digest_size=16).digest()


class _Client(threading.Thread):
    """A thread with one connection at a time; an error in it is kept and raised by finish()."""

    def __init__(self, address: Address, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._address = address
        self._stopping = threading.Event()
        self._abandoned = threading.Event()
        self._news = threading.Condition()
        self._sock: socket.socket | None = None
        self._decoder = FrameDecoder()
        self._opaque = 0
        self.error: BaseException | None = None
        self.connected_count = 0

    def run(self) -> None:
        """Be the thread."""
        try:
            while not self._is_over():
                self._turn()
        except BaseException as error:  # noqa: BLE001  told by finish()
            self.error = error
        finally:
            self._lose()
            with self._news:
                self._news.notify_all()

    def _is_over(self) -> bool:
        return self._stopping.is_set()

    def _turn(self) -> None:
        if self._sock is None:
            try:
                self._sock = connect(self._address, timeout_s=IO_TIMEOUT_S)
            except OSError:
                self._stopping.wait(RECONNECT_PAUSE_S)
                return
            self._decoder = FrameDecoder()
            self.connected_count += 1
            self._on_connected()
        try:
            self._write(self._sock)
            if select.select([self._sock], [], [], self._patience_s())[0]:
                data = self._sock.recv(RECEIVE_SIZE)
                if not data:
                    raise ConnectionResetError
                self._decoder.feed(data)
                while (frame := self._decoder.next_frame()) is not None:
                    self._on_frame(frame)
        except OSError:
            self._lose()
            self._on_lost()

    def _lose(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _next_opaque(self) -> int:
        self._opaque += 1
        return self._opaque

    def _patience_s(self) -> float:
        return LOOK_S

    def _on_connected(self) -> None: ...

    def _on_lost(self) -> None: ...

    def _write(self, sock: socket.socket) -> None:
        raise NotImplementedError

    def _on_frame(self, frame: Frame) -> None:
        raise NotImplementedError

    def await_state(self, what: str, condition: Callable[[], bool], *, timeout_s: float) -> float:
        """Wait until `condition` holds; the monotonic time then. Fails after `timeout_s`."""
        with self._news:
            held = self._news.wait_for(lambda: self.error or condition(), timeout_s)
        if self.error is not None:
            raise self.error
        assert held, f"{self.name}: not within {timeout_s} s: {what}"
        return time.monotonic()

    def finish(self, *, timeout_s: float = IO_TIMEOUT_S) -> None:
        """Ask the thread to end and wait for it; its error is raised here."""
        self._stopping.set()
        self.join(timeout_s)
        if self.error is not None:
            raise self.error
        assert not self.is_alive(), f"{self.name} did not end within {timeout_s} s"

    def abandon(self) -> None:
        """Ask the thread to end at once, with answers outstanding; its error is raised here."""
        self._abandoned.set()
        self.finish()


class Producer(_Client):
    """Keeps `window` sends outstanding, paced; resends after a lost connection or a refusal."""

    def __init__(
        self,
        address: Address,
        *,
        topic: str,
        queue_count: int,
        name: str,
        window: int = 16,
        pace_per_s: float = 2000,
        body_size_max: int = 1500,
        seed: int = 0,
    ) -> None:
        super().__init__(address, name)
        self.topic = topic
        self.queue_count = queue_count
        self._window = window
        self._pace_per_s = pace_per_s
        self._body_size_max = body_size_max
        self._random = random.Random(seed)  # noqa: S311  load, no secret
        self._next_number = 0
        self._again: deque[tuple[int, int]] = deque()
        self._outstanding: dict[int, _Sent] = {}
        self._begun = time.monotonic()
        self.latency_max_s = 0.0
        """Longest time from a send to its answer; of lost connections nothing is counted."""
        self.acked: list[Acked] = []
        self.sent: set[bytes] = set()
        """Digests of all bodies that went out, whether acknowledged or not."""
        self.refusals: list[tuple[int, str | None]] = []

    def _is_over(self) -> bool:
        if self._abandoned.is_set():
            return True
        return self._stopping.is_set() and not self._outstanding and not self._again

    def _patience_s(self) -> float:
        return LOOK_S if len(self._outstanding) >= self._window else 0.002

    def _on_lost(self) -> None:
        for sent in self._outstanding.values():
            self._again.append((sent.number, sent.attempt + 1))
        self._outstanding.clear()

    def _wanted(self) -> tuple[int, int] | None:
        """Number and attempt of the next message to send, None when it is not time for one."""
        if self._again:
            return self._again.popleft()
        due = (time.monotonic() - self._begun) * self._pace_per_s
        if self._stopping.is_set() or self._next_number >= due:
            return None
        self._next_number += 1
        return self._next_number, 0

    def _write(self, sock: socket.socket) -> None:
        frames = bytearray()
        while len(self._outstanding) < self._window:
            wanted = self._wanted()
            if wanted is None:
                break
            number, attempt = wanted
            queue_id = number % self.queue_count
            body = self._body(number, attempt)
            digest = digest_of(body)
            self.sent.add(digest)
            opaque = self._next_opaque()
            frames += request_frame(
                RequestCode.SEND_MESSAGE_V2, send_fields(self.topic, queue_id), body, opaque=opaque
            )
            self._outstanding[opaque] = _Sent(number, attempt, queue_id, digest, time.monotonic())
        if frames:
            sock.sendall(frames)

    def _body(self, number: int, attempt: int) -> bytes:
        head = f"{self.name}/{number}/{attempt}/".encode()
        return head + self._random.randbytes(self._random.randrange(self._body_size_max))

    def _on_frame(self, frame: Frame) -> None:
        header = frame.header
        sent = self._outstanding.pop(header.opaque)
        now = time.monotonic()
        self.latency_max_s = max(self.latency_max_s, now - sent.at)
        if header.code != ResponseCode.SUCCESS:
            self.refusals.append((header.code, header.remark))
            self._again.append((sent.number, sent.attempt + 1))
            self._stopping.wait(RECONNECT_PAUSE_S)
            return
        assert int(header.ext["queueId"]) == sent.queue_id, header
        offset = int(header.ext["queueOffset"])
        acked = Acked(sent.queue_id, offset, header.ext["msgId"], sent.digest, now)
        with self._news:
            self.acked.append(acked)
            self._news.notify_all()

    def await_ack(self, *, after: float, timeout_s: float) -> Acked:
        """The first send that was acknowledged after the moment `after`."""

        def there() -> bool:
            return bool(self.acked) and self.acked[-1].at > after

        self.await_state("an acknowledged send", there, timeout_s=timeout_s)
        return next(acked for acked in reversed(self.acked) if acked.at > after)

    def await_count(self, count: int, *, timeout_s: float = IO_TIMEOUT_S) -> None:
        """Wait for `count` acknowledged sends from now on."""
        goal = len(self.acked) + count
        self.await_state(
            f"{count} more acknowledged sends",
            lambda: len(self.acked) >= goal,
            timeout_s=timeout_s,
        )


class Consumer(_Client):
    """Reads all queues of a topic by pulls that wait for messages; checks that none is missed."""

    def __init__(self, address: Address, *, topic: str, queue_count: int, group: str) -> None:
        super().__init__(address, f"consumer-{group}")
        self._topic = topic
        self._group = group
        self.positions = [0] * queue_count
        self.digests: list[list[bytes]] = [[] for _ in range(queue_count)]
        self._asked: dict[int, int] = {}
        self.refusals: list[tuple[int, str | None]] = []

    def _on_lost(self) -> None:
        self._asked.clear()

    def _write(self, sock: socket.socket) -> None:
        waiting = set(self._asked.values())
        for queue_id, offset in enumerate(self.positions):
            if queue_id in waiting:
                continue
            opaque = self._next_opaque()
            fields = pull_fields(
                self._topic, queue_id, offset, group=self._group, hold_ms=HOLD_MS, count=32
            )
            sock.sendall(request_frame(RequestCode.PULL_MESSAGE, fields, opaque=opaque))
            self._asked[opaque] = queue_id

    def _on_frame(self, frame: Frame) -> None:
        header = frame.header
        if not header.is_response:
            return
        queue_id = self._asked.pop(header.opaque)
        if header.code == ResponseCode.PULL_NOT_FOUND:
            return
        if header.code != ResponseCode.SUCCESS:
            self.refusals.append((header.code, header.remark))
            self._stopping.wait(RECONNECT_PAUSE_S)
            return
        take_records(frame.body, self._topic, queue_id, self.digests[queue_id])
        with self._news:
            self.positions[queue_id] = len(self.digests[queue_id])
            self._news.notify_all()
        assert int(header.ext["nextBeginOffset"]) == self.positions[queue_id], header

    def await_message(self, acked: Acked, *, timeout_s: float = IO_TIMEOUT_S) -> float:
        """Wait until an acknowledged message was read; the monotonic time then."""
        return self.await_state(
            f"the message at {acked.queue_offset} of queue {acked.queue_id}",
            lambda: self.positions[acked.queue_id] > acked.queue_offset,
            timeout_s=timeout_s,
        )


def take_records(body: bytes, topic: str, queue_id: int, digests: list[bytes]) -> None:
    """Append the digests of a pull's messages; each must be the next one of its queue."""
    at = 0
    while at < len(body):
        found = record.decode(body, at)
        at += found.size
        assert (found.topic, found.queue_id, found.queue_offset) == (topic, queue_id, len(digests))
        digests.append(digest_of(found.body))
