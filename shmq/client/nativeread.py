"""Reading through shared memory: batches of a queue's messages, from hot pages or from files.

To the caller hot and cold look the same (shmq.reading): what lies in shared memory is copied and
then checked against the words that say what was recycled, so bytes of another message are never
shown. A batch owns the bytes that it shows (lazybatch.py).
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from shmq.client.batch import split
from shmq.client.lazybatch import LazyBatch, places
from shmq.errors import StoreError
from shmq.kernels.takes import take
from shmq.layout.control import Word
from shmq.layout.cqentry import ENTRY_SIZE
from shmq.reading import LogReader, QueueReader, StaleFiles
from shmq.store.commitlog import LogFiles
from shmq.store.consumequeue import QueueFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shmq.client.batch import Batch
    from shmq.client.lazybatch import Gather
    from shmq.client.model import Queue
    from shmq.client.nativesession import NativeSession

FEW: Final = 32
"""So many messages are copied at once: to note their places would cost more."""
FEW_SIZE_MAX: Final = 65_536
NO_FOLDER: Final = Path("/nonexistent")


class RawBatch(NamedTuple):
    """Places of messages that follow each other in one queue; arrays of int64, shape (n,)."""

    first: int
    """Queue offset of the first message."""
    offsets: NDArray[np.int64]
    """Physical offsets."""
    sizes: NDArray[np.int64]
    """Sizes of the records, bytes."""
    tags_codes: NDArray[np.int64]
    gather: Gather

    def fitting(self, size_max: int) -> int:
        """How many of them have at most so many bytes; at least one."""
        return max(1, int(self.sizes.cumsum().searchsorted(size_max, side="right")))

    def lazy(
        self, queue: Queue, count: int, wanted: NDArray[np.int64] | None, next_offset: int
    ) -> LazyBatch:
        """Batch of the first `count` of them, or of those with the numbers `wanted`."""
        known = places(
            self.first, self.offsets[:count], self.sizes[:count], self.tags_codes[:count], wanted
        )
        return LazyBatch(queue, known, next_offset, self.gather)


class NativeReader:
    """Queues of one session, by topic and queue id."""

    def __init__(self, session: NativeSession) -> None:
        facts = session.facts
        self._lock = threading.Lock()
        self._queues = session.queues
        self._ends = self._queues.max_offsets
        self._hot_size = self._queues.hot_entries * ENTRY_SIZE
        self._pool = session.pool
        self._hot_start = session.reader(Word.HOT_START)
        queue_files = QueueFiles(
            NO_FOLDER,
            file_size=facts.consumequeue_file_size,
            open_file=session.open_queue_file,
        )
        log_files = LogFiles(
            NO_FOLDER,
            file_size=facts.commitlog_file_size,
            open_file=session.open_log_file,
        )
        self.entries = QueueReader(arena=session, files=queue_files)
        self.log = LogReader(arena=session, files=log_files)
        self._stale_files = StaleFiles(arena=session, queue_files=queue_files, log_files=log_files)

    def gather(
        self, offsets: NDArray[np.int64], sizes: NDArray[np.int64], out: bytearray, at: int
    ) -> int:
        """As LogReader.gather(), from any thread."""
        with self._lock:
            self._stale_files.close()
            return self.log.gather(offsets, sizes, out, at)

    def release(self) -> None:
        """Close files that the broker has deleted, so that their space is given back.

        Not while somebody reads: he does it.
        """
        if self._stale_files.are_there() and self._lock.acquire(blocking=False):
            try:
                self._stale_files.close()
            finally:
                self._lock.release()

    def slot(self, topic: str, queue_id: int) -> int | None:
        """Queue table slot, or None while the queue has none."""
        return self._queues.slot(topic, queue_id)

    def bounds(self, slot: int) -> tuple[int, int]:
        """Lowest queue offset that is kept, and the one after the newest visible message."""
        return self._queues.min_offset(slot), self._queues.max_offset(slot)

    def end(self, slot: int) -> int:
        """The queue offset after the newest visible message."""
        return self._ends[slot]

    def few(self, queue: Queue, slot: int, first: int, count_max: int) -> Batch | None:
        """Messages from queue offset `first` on, if they are few and in the hot pages; else None.

        They are copied out at once, then it is checked that none was recycled meanwhile.
        """
        queues = self._queues
        count = min(count_max, queues.max_offsets[slot] - first)
        if not 0 < count <= FEW or not queues.hot_starts[slot] <= first:
            return None
        at = slot * self._hot_size
        data, count, physical_offset = take(
            queues.hot[at : at + self._hot_size], first, count, self._pool, FEW_SIZE_MAX
        )
        # SYNC POINT: entries and pages are recycled only after these words have grown.
        if count and queues.hot_starts[slot] <= first and self._hot_start.load() <= physical_offset:
            return split(queue, data, next_offset=first + count, count_max=count, tags=None)
        return None

    def batch(self, slot: int, first: int, count_max: int) -> RawBatch | None:
        """Messages from queue offset `first` on; None when there is none yet.

        Raises:
            StoreError: they were deleted.
        """
        with self._lock:
            self._stale_files.close()
            low = self._queues.min_offset(slot)
            if first < low:
                raise StoreError("deleted", queue_offset=first, min_offset=low)
            entries = self.entries.entries(slot, first, count_max)
            if not len(entries):
                return None
            offsets = entries["physical_offset"].astype(np.int64)
            self.log.reach(int(offsets[0]))
        return RawBatch(
            first=first,
            offsets=offsets,
            sizes=entries["size"].astype(np.int64),
            tags_codes=entries["tags_code"].astype(np.int64),
            gather=self.gather,
        )
