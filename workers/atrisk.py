"""What a power cut could take back with ASYNC_FLUSH: how much, how old, and how much it may be.

    appended   |----------------- at risk ----------------|
               FLUSHED_OFFSET                              APPEND_OFFSET
    marks                  (offset, ms)  (offset, ms)       one each MARK_INTERVAL_MS at most

All records before a mark were appended by its time, all after it later. So the oldest record that
is not flushed is no older than the last mark that was flushed.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from shmq.shm.words import OwnedCell, WordReader

MARK_INTERVAL_MS: Final = 50


class AtRisk:
    """Kept by the writer, which appends no more than is allowed. Times are monotonic, ms."""

    def __init__(
        self, *, flushed: WordReader, since: OwnedCell, bytes_max: int, millis_max: int
    ) -> None:
        """`since` is set to the time of the oldest record, or one before; for a successor."""
        self._flushed = flushed
        self._since = since
        self._bytes_max = bytes_max
        self._millis_max = millis_max
        self._marks: deque[tuple[int, int]] = deque()
        self._oldest_ms = since.load()

    def limit(self, append_offset: int, now_ms: int) -> int:
        """Physical offset up to which may be appended now."""
        flushed = self._flushed.load()
        marks = self._marks
        while marks and marks[0][0] <= flushed:
            self._oldest_ms = marks.popleft()[1]
        if not marks or now_ms - marks[-1][1] >= MARK_INTERVAL_MS:
            if not marks and flushed >= append_offset:
                self._oldest_ms = now_ms
            marks.append((append_offset, now_ms))
        if self._since.load() != self._oldest_ms:
            self._since.publish(self._oldest_ms)
        if flushed < append_offset and now_ms - self._oldest_ms >= self._millis_max:
            return append_offset
        return flushed + self._bytes_max
