"""Posts that wait a moment for others to travel with: one batch for many calls.

collecting --(full, the time is over, or somebody asks for a result)--> sent
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmq.client.parcels import BATCH_COUNT_MAX, BATCH_SIZE_MAX

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
        send: Callable[[list[bytes]], Ticket[list[SendResult]]],
        later: Callable[[float, Callable[[], None]], None],
        linger: float,
    ) -> None:
        """`later` calls a function after so many seconds."""
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
                self._later(self._linger, lambda: self.send(batch))
            index = len(batch.bodies)
            batch.bodies.append(body)
            batch.size += len(body)
            if index + 1 >= BATCH_COUNT_MAX:
                self.send(batch)
            return CollectedTicket(self, batch, index)

    def send(self, batch: _Collected | None = None) -> None:
        """Send what is collected now; or `batch`, unless it was sent before."""
        with self._lock:
            batch = batch or self._batch
            if batch is None or batch.ticket is not None:
                return
            if batch is self._batch:
                self._batch = None
            batch.ticket = self._send(batch.bodies)
            batch.bodies = []

    def forget(self) -> None:
        """In a forked child: what was collected is the parent's business."""
        self._lock = threading.RLock()
        self._batch = None
