"""Consumequeues while the store is opened: measured, completed from the log, cut at its end.

A queue's row of files holds, front to back: fillers or zeros before its first entry, sound entries,
zeros. After a power cut any page of it may be zeros, and entries may be there whose records are
not. Whatever the walk of the log enters is right; the rest is kept as far as its records are there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.broker.names import SCHEDULE_TOPIC
from shmq.errors import CorruptRecord, ProtocolError, StoreError
from shmq.kernels.walk import assort
from shmq.layout import cqentry, record
from shmq.layout.cqentry import ENTRY, FILLER, FILLER_SIZE
from shmq.log import get_logger
from shmq.store.commitlog import list_files
from shmq.store.consumequeue import QueueFiles, queue_folder
from shmq.store.disk import DISK, Disk
from shmq.wire.codes import SysFlag
from shmq.wire.properties import DELAY, decode_properties

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

TRANSACTION_MASK: Final = 0xC
TRANSACTION_COMMIT: Final = 0x8
CUT_COUNT: Final = 4096


@dataclass
class Queue:
    """What boot knows of one queue."""

    topic: str
    queue_id: int
    slot: int
    max_offset: int = 0
    log_end: int = 0
    """End of the record of the last entry, a physical offset; 0 without one."""
    hole: int = -1
    """Queue offset of a hole that ended the queue while entries stand after it; -1 without."""
    beyond: int = 0
    """End of the record of the first entry after the hole, a physical offset."""
    expected: int = -1
    """Queue offset that the walk expects next; -1 before it has met the queue."""
    last_size: int = 0
    """Size of that record, as it was found."""


class QueueRows:
    """All queues of a store that is being opened."""

    def __init__(
        self,
        root: Path,
        *,
        configured_file_size: int,
        delays_ms: Sequence[int],
        allocate: Callable[[str, int], int],
        disk: Disk = DISK,
    ) -> None:
        """`allocate` gives a queue its slot; `delays_ms` are those of the delay levels, from 1."""
        self._root = root
        self._file_size = cqentry.file_size(configured_file_size)
        self._files = QueueFiles(root, file_size=self._file_size, writable=True, disk=disk)
        self._delays_ms = delays_ms
        self._allocate = allocate
        self._queues: dict[tuple[str, int], Queue] = {}
        self.gap_found = False
        """Whether a record was entered that is not next in its queue."""

    def __len__(self) -> int:
        """Number of queues."""
        return len(self._queues)

    def all(self) -> list[Queue]:
        """All queues."""
        return list(self._queues.values())

    def log_end(self) -> int:
        """End of the last record that has an entry, a physical offset."""
        return max((queue.log_end for queue in self._queues.values()), default=0)

    def record_before(self, end: int) -> int:
        """Start of the record that ends at `end` and is its queue's last; -1 if there is none."""
        sizes = [queue.last_size for queue in self._queues.values() if queue.log_end == end]
        return end - sizes[0] if sizes else -1

    def find(self, *, clean: bool) -> None:
        """A slot for every queue folder; its entries up to the last sound one.

        When the last broker did not end cleanly, rows of files with gaps are mended first.

        Raises:
            StoreError: a folder holds other files than those of a queue.
        """
        if not self._root.is_dir():
            return
        for topic_folder in sorted(self._root.iterdir()):
            if not topic_folder.is_dir():
                continue
            for folder in sorted(topic_folder.iterdir()):
                if folder.name.isascii() and folder.name.isdigit() and folder.is_dir():
                    if not clean:
                        self._files.mend(topic_folder.name, int(folder.name))
                    self._measure(self._queue(topic_folder.name, int(folder.name)))

    def enter(self, chunk: memoryview, offset: int, rows: NDArray[np.int64]) -> None:
        """Enter records that the walk found in `chunk`, which lies at `offset`."""
        kinds = rows[:, 4] & TRANSACTION_MASK
        inner = rows[:, 4] & SysFlag.INNER_BATCH != 0
        if inner.any():
            get_logger().error(
                "records.unreachable",
                cause="batches of batch consumequeues",
                physical_offset=int(rows[inner][0, 3]),
                records=int(inner.sum()),
            )
        wanted = rows[((kinds == 0) | (kinds == TRANSACTION_COMMIT)) & ~inner]
        # No CRC covers these fields. The n-th message of a queue has n records before it.
        possible = (wanted[:, 2] >= 0) & (wanted[:, 7] >= 0)
        possible &= wanted[:, 2] <= wanted[:, 3] // record.RECORD_SIZE_MIN
        for row in wanted[~possible].tolist():
            get_logger().error(
                "record.unreachable",
                cause="no possible place in a queue",
                physical_offset=row[3],
                queue_offset=row[2],
                queue_id=row[7],
            )
        wanted = wanted[possible]
        order = np.empty(len(wanted), dtype=np.int64)
        bounds = np.empty(len(wanted) + 1, dtype=np.int64)
        queue_count = assort(chunk, wanted, order, bounds)
        wanted = wanted[order]
        for begin, end in pairwise(bounds[: queue_count + 1].tolist()):
            mine = wanted[begin:end]
            queue_id, at, size = mine[0, 7:10].tolist()
            topic = bytes(chunk[at : at + size])
            if topic == SCHEDULE_TOPIC.encode():
                self._time_delayed(chunk, mine)
            try:
                name = topic.decode()
                queue_folder(self._root, name, queue_id)
            except (UnicodeDecodeError, StoreError) as error:
                get_logger().error("record.unreachable", topic=topic, cause=str(error))
                continue
            self._enter_queue(self._queue(name, queue_id), mine, offset)

    def begin_walk(self) -> None:
        """Forget what the last walk of the log expected."""
        for queue in self._queues.values():
            queue.expected = -1

    def hole_left(self, end: int) -> bool:
        """Whether a queue ends at a hole though the log, which ends at `end`, has what follows."""
        return any(
            queue.hole == queue.max_offset and queue.beyond <= end
            for queue in self._queues.values()
        )

    def cut(self, end: int, *, clean: bool) -> None:
        """Drop entries of records that are not in the log any more, and what stands after them.

        After an unclean end old entries may stand behind the last one: a hole hid them. A later
        crash must not find them behind new ones.
        """
        for queue in self._queues.values():
            if queue.log_end > end:
                before = queue.max_offset
                queue.max_offset, queue.log_end = self._last_kept(queue, end)
                get_logger().warning(
                    "consumequeue.cut",
                    topic=queue.topic,
                    queue_id=queue.queue_id,
                    queue_offset=queue.max_offset,
                    entries=before - queue.max_offset,
                    hint="they named records that are not in the commitlog",
                )
            elif clean and queue.hole < 0 and not self.gap_found:
                continue
            if self.gap_found:
                self._files.mend(queue.topic, queue.queue_id)
            self._files.truncate(queue.topic, queue.queue_id, queue.max_offset)

    def _last_kept(self, queue: Queue, end: int) -> tuple[int, int]:
        """Max offset and end in the log of a queue without the records that end after `end`.

        A queue of which nothing is kept goes on where its first entry was.
        """
        lowest = upper = queue.max_offset
        while upper > 0:
            entries = self._entries_before(queue, upper)
            if not len(entries):
                break
            first = upper - len(entries)
            sound = np.flatnonzero(_names_records(entries))
            ends = entries["physical_offset"] + entries["size"]
            kept = sound[ends[sound] <= end]
            if len(kept):
                return first + int(kept[-1]) + 1, int(ends[kept[-1]])
            if len(sound):
                lowest = first + int(sound[0])
            upper = first
        return lowest, 0

    def minimum(self, queue: Queue, log_start: int) -> int:
        """Queue offset of the first entry whose record is kept."""
        folder = queue_folder(self._root, queue.topic, queue.queue_id)
        for start in list_files(folder, file_size=self._file_size):
            first = start // ENTRY.itemsize
            count = min(self._file_size // ENTRY.itemsize, queue.max_offset - first)
            if count <= 0:
                break
            if self._is_kept(queue, first + count - 1, log_start):
                return self._first_kept(queue, first, first + count - 1, log_start)
        return queue.max_offset

    def _first_kept(self, queue: Queue, lower: int, upper: int, log_start: int) -> int:
        """The first queue offset of [lower, upper] whose record is kept; that at `upper` is."""
        while lower < upper:
            middle = (lower + upper) // 2
            if self._is_kept(queue, middle, log_start):
                upper = middle
            else:
                lower = middle + 1
        return upper

    def _is_kept(self, queue: Queue, queue_offset: int, log_start: int) -> bool:
        entry = self._files.read(queue.topic, queue.queue_id, queue_offset, 1)
        return bool(_names_records(entry)[0] and entry["physical_offset"][0] >= log_start)

    def sync(self) -> None:
        """Bring what was entered to the disk."""
        self._files.sync()

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _queue(self, topic: str, queue_id: int) -> Queue:
        key = (topic, queue_id)
        found = self._queues.get(key)
        if found is None:
            found = self._queues[key] = Queue(topic, queue_id, self._allocate(topic, queue_id))
        return found

    def _measure(self, queue: Queue) -> None:
        """Find a queue's last sound entry, in the newest file that has one."""
        folder = queue_folder(self._root, queue.topic, queue.queue_id)
        for start in reversed(list_files(folder, file_size=self._file_size)):
            first, end = self._files.data_bounds(queue.topic, queue.queue_id, start)
            entries = self._files.read(queue.topic, queue.queue_id, first, end - first)
            sound = np.flatnonzero(_names_records(entries))
            if not len(sound):
                continue
            # From the first sound entry to the first after it that is not: a hole ends the queue.
            holes = np.flatnonzero(np.diff(sound) != 1)
            last = int(sound[holes[0]]) if len(holes) else int(sound[-1])
            queue.max_offset = first + last + 1
            queue.last_size = int(entries["size"][last])
            queue.log_end = _record_end(entries, last)
            if len(holes):
                queue.hole = queue.max_offset
                queue.beyond = _record_end(entries, int(sound[holes[0] + 1]))
            return

    def _entries_before(self, queue: Queue, upper: int) -> NDArray[np.void]:
        """The entries right before queue offset `upper`, as far as one file holds them."""
        per_file = self._file_size // ENTRY.itemsize
        first = max(upper - CUT_COUNT, (upper - 1) // per_file * per_file)
        folder = queue_folder(self._root, queue.topic, queue.queue_id)
        if first * ENTRY.itemsize < min(list_files(folder, file_size=self._file_size), default=0):
            return np.zeros(0, dtype=ENTRY)
        return self._files.read(queue.topic, queue.queue_id, first, upper - first)

    def _enter_queue(self, queue: Queue, rows: NDArray[np.int64], offset: int) -> None:
        """Enter records of one queue, in the order of the log."""
        entries = np.zeros(len(rows), dtype=ENTRY)
        entries["physical_offset"] = rows[:, 0] + offset
        entries["size"] = rows[:, 1]
        entries["tags_code"] = rows[:, 6]
        queue_offsets = rows[:, 2]
        breaks = np.flatnonzero(np.diff(queue_offsets) != 1) + 1
        bounds = [0, *breaks.tolist(), len(rows)]
        for begin, end in pairwise(bounds):
            first = int(queue_offsets[begin])
            if first > queue.max_offset:
                self.gap_found = True
            if end - begin == 1 and self._is_astray(queue, first):
                get_logger().error(
                    "record.unreachable",
                    cause="its queue offset does not follow from the records around it",
                    physical_offset=int(entries["physical_offset"][begin]),
                    queue_offset=first,
                    expected=queue.expected,
                )
                continue
            queue.expected = first + end - begin
            if first > queue.max_offset:
                self._fill(queue, first)
            data = memoryview(entries[begin:end].tobytes())
            self._files.write(queue.topic, queue.queue_id, first, data)
            if first + end - begin >= queue.max_offset:
                queue.max_offset = first + end - begin
                queue.log_end = int(entries["physical_offset"][end - 1] + entries["size"][end - 1])

    def _is_astray(self, queue: Queue, first: int) -> bool:
        """Whether a record that follows nothing and that nothing follows has a damaged offset.

        It would take the place of another, or make a row of files with a gap. A topic that was
        deleted and made again begins at 0.
        """
        expected = queue.expected if queue.expected >= 0 else queue.max_offset
        too_high = first >= expected + self._file_size // ENTRY.itemsize and expected > 0
        return too_high or 0 < first < queue.expected

    def _fill(self, queue: Queue, first: int) -> None:
        """Put fillers before an entry that is not next, as far as they lie in its file."""
        per_file = self._file_size // ENTRY.itemsize
        start = max(queue.max_offset, first // per_file * per_file)
        fillers = memoryview(FILLER * (first - start))
        self._files.write(queue.topic, queue.queue_id, start, fillers)

    def _time_delayed(self, chunk: memoryview, rows: NDArray[np.int64]) -> None:
        """The tags code of a delayed message is its delivery time, ms since the epoch."""
        for row in rows:
            position, size = int(row[0]), int(row[1])
            try:
                found = record.decode(chunk[position : position + size], check_crc=False)
                level = decode_properties(found.properties).get(DELAY, "")
            except (CorruptRecord, ProtocolError):
                continue
            if level.isascii() and level.isdigit() and int(level) > 0 and self._delays_ms:
                delay_ms = self._delays_ms[min(int(level), len(self._delays_ms)) - 1]
                row[6] = found.store_timestamp + delay_ms


def _record_end(entries: NDArray[np.void], index: int) -> int:
    return int(entries["physical_offset"][index]) + int(entries["size"][index])


def _names_records(entries: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which entries name records: no zeros, no fillers."""
    found: NDArray[np.bool_] = (entries["size"] > 0) & (entries["size"] != FILLER_SIZE)
    return found
