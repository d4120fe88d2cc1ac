"""A bell: threads wait for its next ring.

In place of threading.Condition, because a signal may end a wait at any instruction: a thread that
waits here holds no lock that others need, and entering or leaving one cannot be cut in two.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Bell:
    """Rings when something has changed."""

    def __init__(self) -> None:
        self.count = 0
        """How often it has rung."""
        self._lock = threading.Lock()
        self._waiters: list[threading.Lock] = []

    def ring(self) -> None:
        """Wake all that wait. SYNC POINT: after the change; pairs with wait()."""
        with self._lock:
            self.count += 1
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.release()

    def wait(self, count: int, timeout: float | None) -> bool:
        """Wait until it has rung more often than `count`, or for `timeout` seconds."""
        if timeout is not None and timeout <= 0:
            return self.count != count
        waiter = threading.Lock()
        waiter.acquire()
        with self._lock:
            if self.count != count:
                return True
            self._waiters.append(waiter)
        try:
            return waiter.acquire(timeout=-1 if timeout is None else timeout)
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def wait_for(self, reached: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `reached`, which is looked at after each ring; whether it was."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            count = self.count
            if reached():
                return True
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return False
            self.wait(count, left)
