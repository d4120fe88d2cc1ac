"""One queue's row of consumequeue files: every entry against the others and against its record.

The walk of the log has counted the records whose entry names them, and an entry names one record,
so a queue with as many such records as entries has no wrong entry. Only where the numbers differ
each entry is looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from shmq.errors import ProtocolError
from shmq.kernels.walk import walk
from shmq.layout import cqentry, record
from shmq.layout.cqentry import ENTRY, ENTRY_SIZE, FILLER_SIZE
from shmq.units import MiB
from shmq.verify.findings import Finding, Findings, Severity
from shmq.verify.log import QueueCount
from shmq.verify.rows import Row, RowReader
from shmq.verify.store import LMQ_PREFIX, Store, is_delayed
from shmq.wire.properties import DELAY, decode_properties

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PIECE_ENTRIES: Final = 100_000
RECORD_READ_MAX: Final = 64 * MiB
REBUILD: Final = (
    "remove the queue's folder and the file checkpoint, and put a file named abort into the "
    "store: the next start builds the queue anew from the commitlog"
)
NO_ENTRY: Final = "no entry"
ORDER: Final = "entries are not in the order of the log"
NO_RECORD: Final = "entry names no record of this queue"


class Bounds(msgspec.Struct, frozen=True):
    """Where the log begins and ends, physical offsets."""

    start: int
    end: int
    has_rest: bool
    """Whether anything is written after the end."""


class QueueTask(msgspec.Struct, frozen=True):
    """One queue to check."""

    topic: str
    queue_id: int
    count: QueueCount
    bounds: Bounds


class QueueReport(msgspec.Struct):
    """What one row of files holds."""

    entries: int = 0
    """Sound ones, those of deleted records too."""
    end: int = 0
    """Queue offset after the last of them."""
    last_place: int = -1
    """Physical offset of the record of the last of them that is in the log."""
    findings: list[Finding] = []


def check_queue(store: Store, task: QueueTask, tick: Callable[[int], None]) -> QueueReport:
    """Examine all entries of a queue."""
    check = _Queue(store, task, tick)
    try:
        check.run()
    finally:
        check.reader.close()
    check.report.findings = check.findings.all()
    return check.report


class _Queue:
    """One pass over one row."""

    def __init__(self, store: Store, task: QueueTask, tick: Callable[[int], None]) -> None:
        self.store = store
        self.task = task
        self.tick = tick
        self.row: Row = store.queues[task.topic, task.queue_id]
        self.reader = RowReader()
        self.findings = Findings()
        self.report = QueueReport()
        self.record_row = np.zeros((1, 10), dtype=np.int64)
        self.previous_end = 0
        """End of the record of the entry before, a physical offset."""
        self.hole_from: int | None = None
        """First queue offset after the sound entries so far that is zero."""
        self.in_log = 0
        self.past_end: list[int] = []
        self.past_end_count = 0

    def run(self) -> None:
        for at, entries in self.pieces():
            self.examine(at, entries)
            self.tick(len(entries) * ENTRY_SIZE)
        self.note_past_end()
        checked = self.store.is_checked(self.task.topic)
        is_own = not self.task.topic.startswith(LMQ_PREFIX)
        if checked and is_own and self.in_log != self.task.count.matched:
            self.look_up_each(self.in_log - self.task.count.matched)

    def pieces(self) -> Any:
        """Position in the row and entries, in order."""
        for start, size in self.row.sizes.items():
            end = start + min(size, self.row.file_size)
            at = start
            while at + ENTRY_SIZE <= end:
                data = self.reader.read(self.row, at, min(end - at, PIECE_ENTRIES * ENTRY_SIZE))
                count = len(data) // ENTRY_SIZE
                if not count:
                    self.findings.damage(
                        self.row.name(start), "cannot be read", at=at - start, hint=REBUILD
                    )
                    break
                yield at, np.frombuffer(data, dtype=ENTRY, count=count)
                at += count * ENTRY_SIZE

    def place(self, position: int) -> tuple[str, int]:
        """File and byte in it of a position in the row."""
        start = position - position % self.row.file_size
        return self.row.name(start), position - start

    def examine(self, at: int, entries: NDArray[np.void]) -> None:
        """Check entries for themselves, and that they follow each other."""
        places = entries["physical_offset"].astype(np.int64)
        sizes = entries["size"].astype(np.int64)
        zeros = (places == 0) & (sizes == 0) & (entries["tags_code"] == 0)
        fillers = (places == 0) & (sizes == FILLER_SIZE)
        sound = (places >= 0) & (sizes >= record.RECORD_SIZE_MIN) & ~fillers
        file = self.place(at)[0]
        wrong = np.flatnonzero(~sound & ~zeros & ~fillers)
        for index in self.findings.first(file, NO_ENTRY, wrong):
            byte = self.place(at + index * ENTRY_SIZE)[1]
            self.findings.damage(
                file,
                NO_ENTRY,
                at=byte,
                found=f"physical_offset={places[index]} size={sizes[index]}",
                allowed=f"an offset from 0 on and a size from {record.RECORD_SIZE_MIN} on",
                hint=REBUILD,
            )
        indexes = np.flatnonzero(sound)
        if not len(indexes):
            if self.report.entries and self.hole_from is None:
                self.hole_from = at // ENTRY_SIZE
            return
        self.note_holes(at, indexes, zeros | fillers)
        self.note_order(at, indexes, places, sizes)
        kept = indexes[places[indexes] >= self.task.bounds.start]
        ends = places[kept] + sizes[kept]
        past = kept[ends > self.task.bounds.end]
        self.past_end_count += len(past)
        if len(past) and not self.past_end:
            self.past_end = [at + int(past[0]) * ENTRY_SIZE, int(places[past[0]])]
        inside = kept[ends <= self.task.bounds.end]
        self.in_log += len(inside)
        if len(inside):
            self.report.last_place = int(places[inside[-1]])
        self.report.entries += len(indexes)
        self.report.end = at // ENTRY_SIZE + int(indexes[-1]) + 1
        last = int(indexes[-1])
        self.previous_end = int(places[last] + sizes[last])
        self.hole_from = self.report.end if last + 1 < len(entries) else None

    def note_holes(self, at: int, indexes: NDArray[np.int64], empty: NDArray[np.bool_]) -> None:
        """Report zeros and fillers between sound entries; before the first there may be some."""
        first = int(indexes[0])
        starts = []
        if self.report.entries and (self.hole_from is not None or empty[:first].any()):
            begin = at // ENTRY_SIZE if self.hole_from is None else self.hole_from
            starts.append((begin, at // ENTRY_SIZE + first))
        steps = np.flatnonzero(np.diff(indexes) != 1)
        for step in steps.tolist():
            begin, end = int(indexes[step]) + 1, int(indexes[step + 1])
            if empty[begin:end].any():
                starts.append((at // ENTRY_SIZE + begin, at // ENTRY_SIZE + end))
        for begin, end in starts:
            file, byte = self.place(begin * ENTRY_SIZE)
            self.findings.damage(
                file,
                "entries are missing",
                at=byte,
                found=f"nothing for queue offsets {begin} to {end - 1}",
                allowed="an entry for each up to the queue's end",
                hint=REBUILD,
            )

    def note_order(
        self,
        at: int,
        indexes: NDArray[np.int64],
        places: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        """Report entries whose records do not lie after that of the entry before."""
        ends = np.concatenate(([self.previous_end], places[indexes[:-1]] + sizes[indexes[:-1]]))
        wrong = np.flatnonzero(places[indexes] < ends)
        file = self.place(at)[0]
        for number in self.findings.first(file, ORDER, wrong):
            index = int(indexes[number])
            byte = self.place(at + index * ENTRY_SIZE)[1]
            self.findings.damage(
                file,
                ORDER,
                at=byte,
                found=f"physical_offset={places[index]}",
                allowed=f"from {ends[number]} on, where the record of the entry before ends",
                hint=REBUILD,
            )

    def note_past_end(self) -> None:
        """Report entries of records that the log does not have."""
        if not self.past_end_count or self.store.limit is not None:
            return
        file, byte = self.place(self.past_end[0])
        bounds = self.task.bounds
        found = f"{self.past_end_count} entries from physical offset {self.past_end[1]} on"
        if self.store.clean or bounds.has_rest or self.task.count.others:
            self.findings.damage(
                file,
                "entries of records after the log's end",
                at=byte,
                found=found,
                allowed=f"up to {bounds.end}",
                hint="these messages are lost unless a copy of the commitlog has them; "
                "a start after a crash (with a file named abort) drops the entries",
            )
        else:
            self.findings.add(
                Severity.WARNING,
                file,
                "entries of records that never reached the log's files",
                at=byte,
                found=found,
                allowed=f"up to {bounds.end}",
                hint="start the broker: it takes over what a killed broker has in shared memory "
                "and drops the other entries",
            )

    # Entries one by one

    def look_up_each(self, wrong_count: int) -> None:
        """Find the entries that name no record of this queue; stops after `wrong_count` of them."""
        found = 0
        bounds = self.task.bounds
        for at, entries in self.pieces():
            for index, row in enumerate(entries.tolist()):
                entry = cqentry.Entry(*row)
                if entry.is_filler or not entry.is_valid or entry.physical_offset < bounds.start:
                    continue
                if entry.physical_offset + entry.size > bounds.end:
                    continue
                wrong = self.look_up(at // ENTRY_SIZE + index, entry)
                if wrong:
                    self.note_wrong(at + index * ENTRY_SIZE, wrong)
                    found += 1
                    if found == wrong_count:
                        return
            self.tick(0)

    def note_wrong(self, position: int, wrong: str) -> None:
        file, byte = self.place(position)
        self.findings.damage(
            file,
            NO_RECORD,
            at=byte,
            found=wrong,
            allowed=f"a record of {self.task.topic}/{self.task.queue_id} "
            f"with queue offset {position // ENTRY_SIZE}",
            hint=f"if the record is sound, {REBUILD}; else its message is lost",
        )

    def look_up(self, queue_offset: int, entry: cqentry.Entry) -> str:
        """What is wrong with an entry, by its record; nothing when it is right."""
        data = self.reader.read(self.store.log, entry.physical_offset, record.BLANK_HEAD_SIZE)
        if len(data) < record.BLANK_HEAD_SIZE:
            return f"nothing lies at {entry.physical_offset}"
        size, _ = record.head(data)
        if size != entry.size:
            return f"at {entry.physical_offset} is no record of {entry.size} bytes"
        if size > RECORD_READ_MAX:
            return ""  # Only the walk of the log reads one of that size.
        data = self.reader.read(self.store.log, entry.physical_offset, size)
        count, _, _ = walk(data, 0, self.record_row, checked=False)
        if not count or len(data) < size:
            return f"at {entry.physical_offset} is no whole record"
        row = self.record_row[0].tolist()
        topic = data[row[8] : row[8] + row[9]].decode(errors="replace")
        if (topic, row[7], row[2]) != (self.task.topic, self.task.queue_id, queue_offset):
            return f"the record is of {topic}/{row[7]} with queue offset {row[2]}"
        code = self.code_of(data, row)
        if code != entry.tags_code:
            return f"tags_code={entry.tags_code}, by the record it is {code}"
        if row[4] & 0xC in {0x4, 0xC}:
            return "the record is a prepared or rolled back transaction, which has no entry"
        return ""

    def code_of(self, data: bytes, row: list[int]) -> int:
        """Tags code by the record: a hash, or the time of delivery of a delayed message."""
        if is_delayed(self.task.topic):
            try:
                level = decode_properties(data[row[8] + row[9] + 2 :]).get(DELAY, "")
            except ProtocolError:
                return row[6]
            delay_ms = self.store.delay_ms(level)
            if delay_ms is not None:
                return row[5] + delay_ms
        return row[6]
