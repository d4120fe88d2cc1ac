"""What a posted message, or many, gives back: a ticket for the results to come."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from shmq.client.bell import Bell
from shmq.client.flow import call_safely
from shmq.client.model import SendResult
from shmq.errors import Closed, Timeout

if TYPE_CHECKING:
    from shmq.client.publish import Delivered

T = TypeVar("T")


class Source(Protocol):
    """Where results come from, if a thread can wait for them there."""

    def await_results(self, reached: Callable[[], bool], timeout: float | None, bell: Bell) -> bool:
        """Wait until `reached`, which results may bring about; whether it was."""

    def look_out(self) -> None:
        """Somebody is to be called after a result, who does not wait."""


class News:
    """Tells threads that some ticket of a producer is complete."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.bell = Bell()
        self.pid = os.getpid()
        self._source: Source | None = None

    def follow(self, source: Source) -> None:
        """Results may be waited for at `source` itself."""
        self._source = source

    def look_out(self) -> None:
        """Somebody is to be called when a ticket is complete."""
        if self._source is not None:
            self._source.look_out()

    def wait(self, reached: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `reached`; whether it was."""
        if self.pid != os.getpid():
            raise Closed("the producer belongs to another process", pid=self.pid)
        if self._source is not None:
            return self._source.await_results(reached, timeout, self.bell)
        return self.bell.wait_for(reached, timeout)


class Ticket(Generic[T]):
    """Results to come: of one message (`Ticket[SendResult]`) or of several, in their order."""

    __slots__ = ("_callbacks", "_left", "_news", "_outcomes", "_single")

    def __init__(self, news: News, *, single: bool) -> None:
        self._news = news
        self._single = single
        self._left = 1  # Parts to come; of several one is that no more parts will be added.
        self._outcomes: list[Delivered | Exception | None] = [None] if single else []
        self._callbacks: list[Callable[[Ticket[T]], object]] = []

    def done(self) -> bool:
        """Whether all results or errors are there."""
        return self._left == 0

    def result(self, timeout: float | None = None) -> T:
        """The result, waiting for it if need be.

        Raises:
            Timeout: it is not there in time; it may still come.
            ClientError: the message, or one of them, was not stored.
        """
        if self._left and not self._news.wait(self.done, timeout):
            raise Timeout("no result in time", waiting_for="posted message", timeout_s=timeout)
        results: list[SendResult] = []
        for outcome in self._outcomes:
            assert outcome is not None, "done"
            if isinstance(outcome, Exception):
                raise outcome
            results += outcome.results()
        return results[0] if self._single else results  # type: ignore[return-value]

    def exception(self, timeout: float | None = None) -> Exception | None:
        """The first error, None if there is none."""
        if self._left and not self._news.wait(self.done, timeout):
            raise Timeout("no result in time", waiting_for="posted message", timeout_s=timeout)
        return next((one for one in self._outcomes if isinstance(one, Exception)), None)

    def add_done_callback(self, callback: Callable[[Ticket[T]], object]) -> None:
        """Call `callback` with this ticket when it is complete; it must not wait."""
        with self._news.lock:
            late = not self._left
            if not late:
                self._callbacks.append(callback)
        if late:
            callback(self)
        else:
            self._news.look_out()

    def new_part(self) -> int:
        """For the producer: one more part will be completed."""
        with self._news.lock:
            self._outcomes.append(None)
            self._left += 1
            return len(self._outcomes) - 1

    def no_more_parts(self) -> None:
        """For the producer: all parts have been added."""
        self._one_less()

    def complete(self, part: int, outcome: Delivered | Exception) -> None:
        """For the producer: a part is stored, or has failed."""
        self._outcomes[part] = outcome
        self._one_less()

    def _one_less(self) -> None:
        with self._news.lock:
            self._left -= 1
            callbacks = () if self._left else tuple(self._callbacks)
        self._news.bell.ring()
        for callback in callbacks:
            call_safely(callback, self)
