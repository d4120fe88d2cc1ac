"""The housekeeping thread of a client: calls functions when their time has come."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from shmq.client.flow import Done, Wait, call_safely
from shmq.errors import Closed

THREAD_NAME: Final = "shmq-housekeeping"
_log: Final = logging.getLogger("shmq.client")


class Timer:
    """A function to be called once, and another that is called instead when all is closed."""

    __slots__ = ("function", "on_close")

    def __init__(
        self, function: Callable[[], None], on_close: Callable[[], None] | None = None
    ) -> None:
        self.function: Callable[[], None] | None = function
        self.on_close = on_close

    def cancel(self) -> None:
        """Do not call it any more."""
        self.function = self.on_close = None


class Timers:
    """Functions and the times at which one thread calls them; the thread starts with the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)  # Only the thread waits for it.
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after(
        self,
        delay: float,
        function: Callable[[], None],
        *,
        on_close: Callable[[], None] | None = None,
    ) -> Timer:
        """Call `function` in `delay` seconds, unless that is called off or all is closed."""
        timer = Timer(function, on_close)
        due = time.monotonic() + delay
        with self._lock:
            closed = self._closed
            if not closed:
                self._add(due, timer)
        if closed and on_close is not None:
            on_close()
        return timer

    def _add(self, due: float, timer: Timer) -> None:
        heapq.heappush(self._heap, (due, next(self._numbers), timer))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            self._thread.start()
        elif self._heap[0][2] is timer:
            self._news.notify()

    def sleep(self, delay: float) -> Wait[None]:
        """Wait for `delay` seconds, in a flow."""

        def begin(done: Done[None]) -> Callable[[], None]:
            closed = Closed("client closed")
            timer = self.after(delay, lambda: done(None), on_close=lambda: done(closed))
            return timer.cancel

        return Wait(begin)

    def close(self) -> None:
        """Call nothing any more; waits for the thread to end unless it is the caller."""
        with self._lock:
            self._closed = True
            timers = [timer for _, _, timer in self._heap]
            self._heap.clear()
            self._news.notify()
            thread = self._thread
        for timer in timers:
            if timer.on_close is not None:
                call_safely(lambda on_close: on_close(), timer.on_close)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                timer = self._next()
            if timer is None:
                return
            function, timer.function = timer.function, None
            if function is not None:
                try:
                    function()
                except Exception:  # noqa: BLE001  the edge of the thread: logged
                    _log.exception("housekeeping failed")

    def _next(self) -> Timer | None:
        """The next timer when it is due; None when closed."""
        while not self._closed:
            if not self._heap:
                self._news.wait()
                continue
            left = self._heap[0][0] - time.monotonic()
            if left <= 0:
                return heapq.heappop(self._heap)[2]
            self._news.wait(left)
        return None
