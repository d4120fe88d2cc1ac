"""A bounded window of messages on their way: who posts faster than the broker stores waits."""

from __future__ import annotations

import threading
import time
from typing import Final

from shmq.client.tickets import News
from shmq.errors import SendFailed, Timeout

WINDOW: Final = 256


def posts_failed(count: int, first_error: Exception) -> SendFailed:
    """The error of a flush after which so many posted messages are not stored."""
    return SendFailed(
        "posted messages were not stored",
        code=getattr(first_error, "code", 0),
        failed_count=count,
        first_error=str(first_error),
    )


class Window:
    """How many messages are on their way, and what became of those that failed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.news = News()
        self._lock = threading.Lock()
        self.count = 0
        self._failed_count = 0
        self._first_error: Exception | None = None

    def try_enter(self, count: int) -> bool:
        """Let so many messages on their way, if there is room for them."""
        with self._lock:
            if self.count + count > self.size:
                return False
            self.count += count
            return True

    def enter(self, count: int, timeout: float | None) -> None:
        """Let so many messages on their way as soon as there is room.

        Raises:
            Timeout: there was none in time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self.try_enter(count):
            left = None if end is None else end - time.monotonic()
            if (left is not None and left <= 0) or not self.news.wait(
                lambda: self.count + count <= self.size, left
            ):
                raise Timeout(
                    "the window is full",
                    on_their_way=self.count,
                    window=self.size,
                    timeout_s=timeout,
                )

    def leave(self, count: int, outcome: object) -> None:
        """So many messages have arrived, or failed."""
        with self._lock:
            self.count -= count
            if isinstance(outcome, Exception):
                self._failed_count += count
                self._first_error = self._first_error or outcome
        self.news.bell.ring()

    def raise_failures(self) -> None:
        """Raise if messages have failed since the last time.

        Raises:
            SendFailed: says how many, and why the first.
        """
        with self._lock:
            count, self._failed_count = self._failed_count, 0
            error, self._first_error = self._first_error, None
        if error is not None:
            raise posts_failed(count, error) from error
