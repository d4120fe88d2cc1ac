"""Reading through shared memory: batches of a queue's messages, from hot pages or from files.

To the caller hot and cold look the same (shmq.reading): what lies in shared memory is copied and
then checked against the words that say what was recycled, so bytes of another message are never
shown. A batch owns the bytes that it shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.kernels.walk import STOP_END, walk
from shmq.reading import LogReader, QueueReader
from shmq.store.commitlog import LogFiles
from shmq.store.consumequeue import QueueFiles

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shmq.client.nativesession import NativeSession

NO_FOLDER: Final = Path("/nonexistent")
COLUMNS: Final = 10


class RawBatch:
    """Messages of one queue, back to back: arrays of facts, and the records behind them."""

    def __init__(
        self,
        *,
        first: int,
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        tags_codes: NDArray[np.int64],
        reader: NativeReader,
    ) -> None:
        self.first = first
        """Queue offset of the first message."""
        self.offsets = offsets
        """Physical offsets, int64, shape (n,)."""
        self.sizes = sizes
        """Sizes of the records, int64, shape (n,), bytes."""
        self.tags_codes = tags_codes
        self._reader = reader
        self._records: bytearray | None = None

    def __len__(self) -> int:
        """Number of messages."""
        return len(self.sizes)

    @property
    def records(self) -> bytearray:
        """The records, back to back; copied and checked with the first use.

        Raises:
            StoreError: they were deleted meanwhile.
        """
        if self._records is None:
            data = bytearray(int(self.sizes.sum()))
            self._reader.log.gather(self.offsets, self.sizes, data, 0)
            self._records = data
        return self._records

    def rows(self) -> NDArray[np.int64]:
        """What walk() says of each record, int64, shape (n, 10)."""
        rows = np.zeros((len(self), COLUMNS), dtype=np.int64)
        count, _end, stop = walk(self.records, 0, rows, None)
        assert count == len(self), "the writer appends only whole records"
        assert stop == STOP_END, "and nothing else lies between them"
        return rows


class NativeReader:
    """Queues of one session, by topic and queue id."""

    def __init__(self, session: NativeSession) -> None:
        facts = session.facts
        self._session = session
        self._queues = session.queues
        self.entries = QueueReader(
            arena=session,
            files=QueueFiles(
                NO_FOLDER,
                file_size=facts.consumequeue_file_size,
                open_file=session.open_queue_file,
            ),
        )
        self.log = LogReader(
            arena=session,
            files=LogFiles(
                NO_FOLDER,
                file_size=facts.commitlog_file_size,
                open_file=session.open_log_file,
            ),
        )

    def slot(self, topic: str, queue_id: int) -> int | None:
        """Queue table slot, or None while the queue has none."""
        return self._queues.slot(topic, queue_id)

    def bounds(self, slot: int) -> tuple[int, int]:
        """Lowest queue offset that is kept, and the one after the newest visible message."""
        return self._queues.min_offset(slot), self._queues.max_offset(slot)

    def batch(self, slot: int, first: int, count_max: int) -> RawBatch | None:
        """Messages from queue offset `first` on; None when there is none yet.

        Raises:
            StoreError: they were deleted.
        """
        entries = self.entries.entries(slot, first, count_max)
        if not len(entries):
            return None
        return RawBatch(
            first=first,
            offsets=entries["physical_offset"].astype(np.int64),
            sizes=entries["size"].astype(np.int64),
            tags_codes=entries["tags_code"].astype(np.int64),
            reader=self,
        )
