"""A part of the index role: reads the log in order and finds the keys of its records.

Records lie in the hot pages, or in the commitlog files when those pages are used again. Whatever
is found in the hot pages counts only if they were not used again meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.errors import StoreError
from shmq.kernels.indexing import ROWS_MIN, STOP_BAD, keys_of
from shmq.layout.control import Word
from shmq.log import get_logger
from shmq.units import MiB

if TYPE_CHECKING:
    from shmq.shm.arena import Arena
    from shmq.store.commitlog import LogFiles

PIECE_SIZE: Final = 4 * MiB
"""So much of the log is looked at in one go, or one record if that is larger."""
ROWS_MAX: Final = 2 * ROWS_MIN


class KeyScan:
    """Keys of the records from `position` on, a piece of the log at a time."""

    def __init__(self, *, arena: Arena, files: LogFiles, file_size: int) -> None:
        self._pool = arena.pool
        self._files = files
        self._file_size = file_size
        self._hot_start = arena.reader(Word.HOT_START)
        self._written_offset = arena.reader(Word.WRITTEN_OFFSET)
        self._log_start = arena.reader(Word.LOG_START)
        self._log_start_seen = self._log_start.load()
        self._logger = get_logger()
        self.position = 0
        """Physical offset: everything before it was looked at."""
        self.rows = np.zeros((ROWS_MAX, 3), dtype=np.int64)
        """What kernels.indexing.keys_of found; `count` of them are of the last piece."""
        self.count = 0

    def look(self, limit: int) -> None:
        """Find the keys of the next piece of the log, which ends at `limit` or before."""
        self.count = 0
        log_start = self._log_start.load()
        if log_start != self._log_start_seen:  # Else the space of what is deleted stays taken.
            self._log_start_seen = log_start
            self._files.forget_before(log_start)
        self.position = start = max(self.position, log_start)
        if start >= limit:
            return
        if start >= self._hot_start.load():
            count, end, stop, needed = self._keys_of(self._pool, 0, limit, PIECE_SIZE)
            if end == start and PIECE_SIZE < needed <= limit - start:
                count, end, stop, _ = self._keys_of(self._pool, 0, limit, needed)
            # SYNC POINT: the writer grows HOT_START before it uses a page again.
            if start >= self._hot_start.load():
                self._settle(count, end, stop)
                return
        try:
            self._look_into_file(limit)
        except StoreError as error:
            if start >= self._log_start.load():  # else retention was faster
                self._pass_over("log_file.not_read", str(error))

    def close(self) -> None:
        """Close the commitlog files."""
        self._files.close()

    def _look_into_file(self, limit: int) -> None:
        """The same from the commitlog file."""
        start = self.position
        file_end = start - start % self._file_size + self._file_size
        limit = min(limit, self._written_offset.load(), file_end)
        data = self._files.read(start, min(PIECE_SIZE, limit - start))
        count, end, stop, needed = self._keys_of(data, start, limit, len(data))
        if end == start and len(data) < needed <= limit - start:
            data = self._files.read(start, needed)
            count, end, stop, _ = self._keys_of(data, start, limit, len(data))
        self._settle(count, end, stop)

    def _keys_of(
        self, data: memoryview | bytes, base: int, limit: int, size: int
    ) -> tuple[int, int, int, int]:
        start = self.position
        end = min(limit, start + size)
        return keys_of(data, base, start, end, self._file_size, self.rows)

    def _settle(self, count: int, end: int, stop: int) -> None:
        """Take what was found, and go past what is no record."""
        self.count = count
        self.position = end
        if stop == STOP_BAD and count == 0:
            self._pass_over("record.not_indexed", "not a record")

    def _pass_over(self, event: str, cause: str) -> None:
        """Go on at the next commitlog file."""
        at = self.position
        self.position = at - at % self._file_size + self._file_size
        self._logger.error(
            event,
            cause=cause,
            physical_offset=at,
            going_on_at=self.position,
            hint="queries by key do not find what lies between; run shmq verify",
        )
