"""Flows: work of several requests, written as a coroutine and driven without an event loop.

A flow runs in the thread that started it until it first waits; from then on each piece runs in the
thread that ends the wait: a connection's reader or the housekeeping thread. So thousands of flows
need no thread, and the sync and the asyncio form of the library stand on the same code.

A wait ends with a value or with an error, which is raised in the flow.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from functools import partial
from typing import Any, Final, Generic, TypeAlias, TypeVar

from shmq.errors import ClientError, Closed, Timeout

T = TypeVar("T")
Done: TypeAlias = Callable[[T | Exception], None]
Work: TypeAlias = Coroutine["Wait[Any]", Any, T]

_log: Final = logging.getLogger("shmq.client")


class Cancelled(ClientError):
    """The flow was cancelled while it waited."""


class Wait(Generic[T]):
    """Something to be awaited in a flow.

    `begin` gets a function to be called, once and from any thread, with the outcome; it gives a
    function that calls the thing off, or None.
    """

    __slots__ = ("begin",)

    def __init__(self, begin: Callable[[Done[T]], Callable[[], None] | None]) -> None:
        self.begin = begin

    def __await__(self) -> Generator[Wait[T], T | Exception, T]:
        outcome = yield self
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Flow(Generic[T]):
    """One coroutine being driven; `on_done` gets its result or its error, once."""

    __slots__ = (
        "_cancelled",
        "_early",
        "_lock",
        "_on_done",
        "_running",
        "_token",
        "_undo",
        "_work",
    )

    def __init__(self, work: Work[T], on_done: Done[T]) -> None:
        self._work = work
        self._on_done = on_done
        self._lock = threading.Lock()
        self._token = 0  # Number of the wait that may still end.
        self._running = False
        self._early: list[Any] = []  # Outcome that came before begin() had returned.
        self._undo: Callable[[], None] | None = None
        self._cancelled = False

    def start(self) -> Flow[T]:
        """Run up to the first wait."""
        self._running = True
        self._drive(None)
        return self

    def cancel(self) -> None:
        """End the present wait with Cancelled; the flow may still clean up."""
        with self._lock:
            if self._cancelled:
                return
            self._cancelled = True
            if self._running:
                return  # It will see it before its next wait.
            self._token += 1
            self._running = True
            undo, self._undo = self._undo, None
        if undo is not None:
            undo()
        self._drive(Cancelled("cancelled"))

    def _drive(self, outcome: Any) -> None:
        while True:
            try:
                wait = self._work.send(outcome)
            except StopIteration as stop:
                self._finish(stop.value)
                return
            except Exception as error:  # noqa: BLE001  handed to whoever waits for the flow
                self._finish(error)
                return
            with self._lock:
                if self._cancelled and not isinstance(outcome, Cancelled):
                    outcome = Cancelled("cancelled")
                    continue
                self._token += 1
                token = self._token
                self._early.clear()
            undo = wait.begin(partial(self._ended, token))
            with self._lock:
                if self._early:
                    outcome = self._early.pop()
                    continue
                if not self._cancelled or isinstance(outcome, Cancelled):
                    self._undo = undo
                    self._running = False
                    return
                self._token += 1
            if undo is not None:
                undo()
            outcome = Cancelled("cancelled")

    def _ended(self, token: int, outcome: Any) -> None:
        with self._lock:
            if token != self._token:
                return
            if self._running:
                self._early.append(outcome)
                return
            self._token += 1
            self._running = True
            self._undo = None
        self._drive(outcome)

    def _finish(self, outcome: Any) -> None:
        call_safely(self._on_done, outcome)


def call_safely(function: Callable[[T], object], outcome: T) -> None:
    """Call what somebody gave us; its fault must not end a thread of ours."""
    try:
        function(outcome)
    except Exception:  # noqa: BLE001  the edge: logged
        _log.exception("callback failed")


def start(work: Work[T], on_done: Done[T] | None = None) -> Flow[T]:
    """Drive a coroutine; without `on_done` a failure is only logged."""
    return Flow(work, on_done or _log_failure).start()


def _log_failure(outcome: object) -> None:
    if isinstance(outcome, Exception) and not isinstance(outcome, (Cancelled, Closed)):
        _log.warning("background work failed: %s", outcome)


class Waiter(Generic[T]):
    """A thread that waits for one outcome; can be interrupted by a signal."""

    __slots__ = ("_lock", "_outcome")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._outcome: Any = None

    def __call__(self, outcome: T | Exception) -> None:
        """Hand over the outcome, from any thread."""
        self._outcome = outcome
        self._lock.release()

    def done(self) -> bool:
        """Whether the outcome is there."""
        return not self._lock.locked()

    def wait(self, timeout: float) -> bool:
        """Wait for the outcome; whether it is there."""
        if not self._lock.acquire(timeout=timeout):
            return False
        self._lock.release()
        return True

    def result(self, timeout: float | None = None, what: str = "call") -> T:
        """The outcome, or its error raised.

        Raises:
            Timeout: there is none within `timeout` seconds.
        """
        if not self._lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise Timeout("no result in time", waiting_for=what, timeout_s=timeout)
        self._lock.release()
        outcome = self._outcome
        if isinstance(outcome, Exception):
            raise outcome
        result: T = outcome
        return result


def run(work: Work[T], timeout: float | None = None, what: str = "call") -> T:
    """Drive a coroutine and wait for its result in this thread."""
    waiter: Waiter[T] = Waiter()
    flow = Flow(work, waiter)
    try:
        flow.start()
        return waiter.result(timeout, what)
    except BaseException:
        flow.cancel()
        raise


def together(works: Iterable[Work[T]]) -> Wait[list[T | Exception]]:
    """Wait for all of several coroutines; their results or errors, in their order."""
    waiting = list(works)

    def begin(done: Done[list[T | Exception]]) -> Callable[[], None] | None:
        if not waiting:
            done([])
            return None
        outcomes: list[Any] = [None] * len(waiting)
        left = len(waiting)
        lock = threading.Lock()

        def one(index: int, outcome: T | Exception) -> None:
            nonlocal left
            outcomes[index] = outcome
            with lock:
                left -= 1
                last = left == 0
            if last:
                done(outcomes)

        flows = [Flow(work, partial(one, index)) for index, work in enumerate(waiting)]
        for flow in flows:
            flow.start()

        def undo() -> None:
            for flow in flows:
                flow.cancel()

        return undo

    return Wait(begin)
