"""Where the records of a topic lie in the commitlog: by its consumequeues, else by a walk."""

from __future__ import annotations

import heapq
import os
import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.errors import ConfigError, CorruptRecord
from shmq.kernels.survey import survey
from shmq.kernels.walk import STOP_BLANK, STOP_END, STOP_FULL
from shmq.layout import record
from shmq.layout.cqentry import ENTRY, ENTRY_SIZE, FILLER_SIZE
from shmq.units import MINUTE_MS, MiB
from shmq.verify.heads import HEAD_MAX, next_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from shmq.export.selection import Selection
    from shmq.verify.rows import Row, RowReader
    from shmq.verify.store import Store

PIECE_ENTRIES: Final = 1024
CHUNK_SIZE: Final = 8 * MiB
ROWS_MAX: Final = 8192
TABLE_SIZE: Final = 16_384
CLOCK_SLACK_MS: Final = 10 * MINUTE_MS
"""A broker's clock may have been set back by so much, and no message of a span is missed."""
DAMAGED_MAX: Final = 1000
_STAMP: Final = struct.Struct(">q")
_FLAGS: Final = struct.Struct(">i")

Place = tuple[int, int]
"""Physical offset and size of a record."""


class Places:
    """Places of the records of one topic, ascending."""

    def __init__(
        self,
        store: Store,
        selection: Selection,
        reader: RowReader,
        queue_ends: Mapping[int, int] | None,
    ) -> None:
        self._store = store
        self._selection = selection
        self._reader = reader
        self._ends = queue_ends
        self.queues = {
            queue_id: row
            for (topic, queue_id), row in store.queues.items()
            if topic == selection.topic
        }
        self.damaged: list[int] = []
        """Physical offsets where a walk of the log met bytes that are no record."""
        wanted = selection.queue_id
        if wanted is not None and self.queues and wanted not in self.queues:
            raise ConfigError(
                "the topic has no such queue",
                topic=selection.topic,
                queue=wanted,
                allowed=sorted(self.queues),
            )

    def all(self) -> Iterator[Place]:
        """Every record that may be meant, and some that are not: their time is for the caller."""
        queues = {
            queue_id: row
            for queue_id, row in self.queues.items()
            if self._selection.queue_id in {None, queue_id}
        }
        if not queues or not self._store.is_checked(self._selection.topic):
            yield from self._walk(self._store.log.start, {})
            return
        ends = {queue_id: self._end_of(row) for queue_id, row in queues.items()}
        sources = [self._entries(row, ends[queue_id][0]) for queue_id, row in queues.items()]
        lagging = {queue_id: end for queue_id, end in ends.items() if self._lags(queue_id, end[0])}
        if lagging:
            start = max(self._store.log.start, min(place for _, place in lagging.values()))
            skipped = {queue_id: end for queue_id, (end, _) in ends.items()}
            sources.append(self._walk(start, skipped))
        yield from heapq.merge(*sources)

    def _lags(self, queue_id: int, end: int) -> bool:
        """Whether records of the queue may have no entry in its files."""
        if self._ends is not None:
            return self._ends.get(queue_id, 0) > end
        return not self._store.clean

    # By entries

    def _read(self, row: Row, index: int, count: int) -> NDArray[np.void]:
        data = self._reader.read(row, index * ENTRY_SIZE, count * ENTRY_SIZE)
        return np.frombuffer(data[: len(data) - len(data) % ENTRY_SIZE], dtype=ENTRY)

    def _end_of(self, row: Row) -> Place:
        """Queue offset after the last entry of a row, and the end of its record in the log."""
        for start, size in reversed(row.sizes.items()):
            for index in range((start + size) // ENTRY_SIZE, start // ENTRY_SIZE, -PIECE_ENTRIES):
                first = max(start // ENTRY_SIZE, index - PIECE_ENTRIES)
                entries = self._read(row, first, index - first)
                sound = np.flatnonzero(_names_records(entries))
                if len(sound):
                    last = int(sound[-1])
                    end = int(entries["physical_offset"][last]) + int(entries["size"][last])
                    return first + last + 1, end
        return row.start // ENTRY_SIZE, 0

    def _entries(self, row: Row, end: int) -> Iterator[Place]:
        """Places by the entries of one queue, from the first time that is meant on."""
        index = self._first(row, end)
        limit = self._store.limit
        while index < end:
            entries = self._read(row, index, PIECE_ENTRIES)[: end - index]
            if not len(entries):
                unit = row.file_size // ENTRY_SIZE
                index = (index // unit + 1) * unit  # A missing file.
                continue
            index += len(entries)
            kept = entries[_names_records(entries)]
            kept = kept[kept["physical_offset"] >= self._store.log.start]
            for place, size in zip(
                kept["physical_offset"].tolist(), kept["size"].tolist(), strict=True
            ):
                if limit is None or place + size <= limit:
                    yield place, size

    def _first(self, row: Row, end: int) -> int:
        """Queue offset from which on messages may be young enough."""
        low, high = row.start // ENTRY_SIZE, end
        if self._selection.since_ms is None:
            return low
        wanted = self._selection.since_ms - CLOCK_SLACK_MS
        while low < high:
            middle = (low + high) // 2
            if self._stamp(row, middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low

    def _stamp(self, row: Row, index: int) -> int:
        """Store timestamp of an entry's record; 0 when it is gone."""
        entries = self._read(row, index, 1)
        if not len(entries) or not _names_records(entries)[0]:
            return 0
        head = self._reader.read(self._store.log, int(entries["physical_offset"][0]), HEAD_MAX)
        if len(head) < record.BODY_AT:
            return 0
        (flags,) = _FLAGS.unpack_from(head, record.SYS_FLAG_AT)
        extra = record.IPV6_EXTRA if flags & record.BORN_HOST_V6 else 0
        return int(_STAMP.unpack_from(head, record.STORE_TIMESTAMP_AT + extra)[0])

    # By a walk

    def _walk(self, first: int, skipped: Mapping[int, int]) -> Iterator[Place]:
        """Places of the topic's records from `first` on; `skipped`: ends of queues that are known.

        Goes on behind damaged places.
        """
        log = self._store.log
        for start, size in log.sizes.items():
            stop = start + min(size, log.file_size)
            if self._store.limit is not None:
                stop = min(stop, self._store.limit)
            if first < stop:
                yield from self._walk_file(start, max(first, start) - start, stop - start, skipped)

    def _walk_file(
        self, start: int, at: int, size: int, skipped: Mapping[int, int]
    ) -> Iterator[Place]:
        rows = np.zeros((ROWS_MAX, 13), dtype=np.int64)
        table = np.zeros(TABLE_SIZE, dtype=np.int32)
        name = self._selection.topic.encode(errors="surrogateescape")
        fd = os.open(self._store.log.path(start), os.O_RDONLY | os.O_CLOEXEC)
        try:
            while at < size:
                data = os.pread(fd, min(CHUNK_SIZE, size - at), at)
                if len(data) < record.BLANK_HEAD_SIZE or record.head(data) == (0, 0):
                    found_size = 0
                else:
                    found_size = _whole_size(data)
                if len(data) < found_size <= record.RECORD_SIZE_MAX:
                    data = os.pread(fd, min(found_size, size - at), at)
                position = 0
                while True:
                    count, groups, position, stop = survey(data, position, start + at, rows, table)
                    for place, length in _chosen(data, rows[:count], groups, name, skipped):
                        yield start + at + place, length
                    if stop != STOP_FULL:
                        break
                at += position
                if stop == STOP_BLANK:
                    return
                if stop == STOP_END and position and at < size:
                    continue
                following = next_head(fd, at, size, start=start)
                if following is None:
                    return
                if len(self.damaged) < DAMAGED_MAX:
                    self.damaged.append(start + at)
                at = following
        except (OSError, CorruptRecord):
            self.damaged.append(start + at)
        finally:
            os.close(fd)


def _whole_size(data: bytes) -> int:
    """Size of the record that begins here, 0 when none does."""
    size, magic = record.head(data)
    return size if magic in {record.MAGIC_V1, record.MAGIC_V2} else 0


def _chosen(
    data: bytes, rows: NDArray[np.int64], groups: int, name: bytes, skipped: Mapping[int, int]
) -> Iterator[Place]:
    """Position and size of the rows of one topic, ascending, without those that are known."""
    if not len(rows):
        return
    _, heads = np.unique(rows[:, 10], return_index=True)
    mine = [
        group
        for group, (at, size) in enumerate(rows[heads][:, 8:10].tolist())
        if data[at : at + size] == name
    ]
    assert len(heads) == groups
    for row in rows[np.isin(rows[:, 10], mine)].tolist():
        if row[2] >= skipped.get(row[7], 0):
            yield row[0], row[1]


def _names_records(entries: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which entries name records: no zeros, no fillers, nothing impossible."""
    found: NDArray[np.bool_] = (
        (entries["size"] >= record.RECORD_SIZE_MIN)
        & (entries["size"] != FILLER_SIZE)
        & (entries["physical_offset"] >= 0)
    )
    return found
