"""Posts that wait a moment for others to travel with: one batch for many calls.

collecting --(full, or somebody asks for a result: waits for room in the window)--> sent
    +--(the time is over, and there is room)--> sent
    +--(the time is over, but there is none)--> looked at again after as long

The last two are done by the thread that also ends pauses and time limits: it must not wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from shmq.client.parcels import BATCH_SIZE_MAX

if TYPE_CHECKING:
    from shmq.client.model import SendResult
    from shmq.client.tickets import Ticket


class _Collected:
    """Bodies that travel together."""

    __slots__ = ("bodies", "results", "size", "ticket")

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.size = 0
        self.ticket: Ticket[list[SendResult]] | None = None
        """As soon as it was sent."""
        self.results: list[SendResult] | None = None


class CollectedTicket:
    """One of several bodies that travel together; see tickets.Ticket."""

    __slots__ = ("_batch", "_collector", "_index")

    def __init__(self, collector: Collector, batch: _Collected, index: int) -> None:
        self._collector = collector
        self._batch = batch
        self._index = index

    def done(self) -> bool:
        """Whether the result or the error is there."""
        ticket = self._batch.ticket
        return ticket is not None and ticket.done()

    def result(self, timeout: float | None = None) -> SendResult:
        """The result, waiting for it if need be.

        Raises:
            Timeout: it is not there in time; it may still come.
            ClientError: the message was not stored.
        """
        batch = self._batch
        if batch.results is None:
            batch.results = self._sent().result(timeout)
        return batch.results[self._index]

    def exception(self, timeout: float | None = None) -> Exception | None:
        """The error, None if there is none."""
        return self._sent().exception(timeout)

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call `callback` with this ticket when it is complete; it must not wait."""
        self._sent().add_done_callback(lambda _ticket: callback(self))

    def _sent(self) -> Ticket[list[SendResult]]:
        if self._batch.ticket is None:
            self._collector.send(self._batch)
        ticket = self._batch.ticket
        assert ticket is not None, "send() has set it"
        return ticket


class Collector:
    """Of one producer; from any thread."""

    def __init__(
        self,
        send: Callable[[list[bytes], bool], Ticket[list[SendResult]] | None],
        later: Callable[[float, Callable[[], None]], None],
        linger: float,
        *,
        count_max: int,
    ) -> None:
        """`later` calls a function after so many seconds.

        `send(bodies, wait)` gives None when there is no room and it may not wait.
        """
        self._count_max = count_max
        self._send = send
        self._later = later
        self._linger = linger
        self._lock = threading.RLock()
        self._batch: _Collected | None = None

    def post(self, body: bytes) -> CollectedTicket:
        """One more body; sends when there are as many as travel together."""
        with self._lock:
            batch = self._batch
            if batch is not None and batch.size + len(body) > BATCH_SIZE_MAX:
                self.send(batch)
                batch = None
            if batch is None:
                batch = self._batch = _Collected()
                self._later(self._linger, partial(self._time_is_over, batch))
            index = len(batch.bodies)
            batch.bodies.append(body)
            batch.size += len(body)
            if index + 1 >= self._count_max:
                self.send(batch)
            return CollectedTicket(self, batch, index)

    def _time_is_over(self, batch: _Collected) -> None:
        """Send what has waited long enough, if that needs no waiting; else look again later."""
        if batch.ticket is not None:
            return
        if self._lock.acquire(blocking=False):
            try:
                if self._send_now(batch, wait=False):
                    return
            finally:
                self._lock.release()
        self._later(self._linger, partial(self._time_is_over, batch))

    def send(self, batch: _Collected | None = None) -> None:
        """Send what is collected now; or `batch`, unless it was sent before."""
        with self._lock:
            batch = batch or self._batch
            if batch is not None:
                self._send_now(batch, wait=True)

    def _send_now(self, batch: _Collected, *, wait: bool) -> bool:
        """Send a batch, unless it was sent before; False: there is no room. With the lock held."""
        if batch.ticket is not None:
            return True
        before = self._batch
        if batch is before:
            self._batch = None  # Somebody who is called back while it is sent begins another.
        ticket = self._send(batch.bodies, wait)
        if ticket is None:
            self._batch = before
            return False
        batch.ticket = ticket
        batch.bodies = []
        return True

    def forget(self) -> None:
        """In a forked child: what was collected is the parent's business."""
        self._lock = threading.RLock()
        self._batch = None
