"""One index file: header, slots, chains, and every entry against the keys of its record.

Slots and chains follow from the hashes of the entries in their order, so they are made again and
compared. Memory: 4 bytes a slot (20 MB with the default 5 million) and two pieces.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from shmq.errors import LayoutError
from shmq.kernels.survey import key_hashes
from shmq.kernels.walk import walk
from shmq.layout import indexfile, record
from shmq.layout.indexfile import ENTRY, ENTRY_SIZE, HEADER_SIZE, SLOT_SIZE
from shmq.store.sparse import data_pieces
from shmq.units import MiB
from shmq.verify.findings import Finding, Findings, Severity
from shmq.verify.queues import Bounds
from shmq.verify.rows import RowReader
from shmq.verify.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

PIECE_ENTRIES: Final = 65_536
PIECE_SLOTS: Final = 1_000_000
LOG_CHUNK: Final = 4 * MiB
RECORD_READ_MAX: Final = 64 * MiB
ROWS_MAX: Final = 16_384
HASHES_MAX: Final = 65_536
NEGATIVE: Final = "key hash below zero"
CHAIN: Final = "chain is broken"
SLOT: Final = "slot does not hold its chain's newest entry"
ORDER: Final = "entries are not in the order of the log"
NO_KEY: Final = "entry names no record with such a key"
TIME: Final = "entry has another time than its record"
REMOVE: Final = "no message is lost; with the file removed, queries by key do not find its messages"


class IndexTask(msgspec.Struct, frozen=True):
    """One index file to check."""

    name: str
    bounds: Bounds
    is_last: bool


class IndexReport(msgspec.Struct):
    """What an index file holds."""

    entries: int = 0
    findings: list[Finding] = []


def check_index(store: Store, task: IndexTask, tick: Callable[[int], None]) -> IndexReport:
    """Examine one index file."""
    check = _Index(store, task, tick)
    try:
        check.run()
    except (OSError, LayoutError) as error:
        check.damage("cannot be read", found=error)
    finally:
        check.close()
    check.report.findings = check.findings.all()
    return check.report


class _Index:
    """One pass over one file."""

    def __init__(self, store: Store, task: IndexTask, tick: Callable[[int], None]) -> None:
        self.store = store
        self.task = task
        self.tick = tick
        self.file = f"index/{task.name}"
        self.findings = Findings()
        self.report = IndexReport()
        self.reader = RowReader()
        self.slots = store.index_slots
        self.fd = os.open(store.root / "index" / task.name, os.O_RDONLY | os.O_CLOEXEC)
        self.rows = np.zeros((ROWS_MAX, 10), dtype=np.int64)
        self.hashes = np.zeros((HASHES_MAX, 2), dtype=np.int64)
        self.first_stamp = self.last_stamp = 0

    def close(self) -> None:
        os.close(self.fd)
        self.reader.close()

    def damage(self, what: str, *, at: int = 0, found: object = "", allowed: object = "") -> None:
        """Damage; after a crash the newest file may be behind, and a start deals with it."""
        behind = self.task.is_last and not self.store.clean
        self.findings.add(
            Severity.WARNING if behind else Severity.DAMAGE,
            self.file,
            what,
            at=at,
            found=found,
            allowed=allowed,
            hint=REMOVE,
        )

    def run(self) -> None:
        header = indexfile.decode_header(os.pread(self.fd, HEADER_SIZE, 0))
        size = os.fstat(self.fd).st_size
        count_max = (
            (size - HEADER_SIZE - self.slots * SLOT_SIZE) // ENTRY_SIZE if self.slots > 0 else 0
        )
        if not indexfile.FIRST_ENTRY_COUNT <= header.entry_count <= count_max:
            self.damage(
                "entry count is out of bounds",
                at=36,
                found=header.entry_count,
                allowed=(indexfile.FIRST_ENTRY_COUNT, count_max),
            )
            self.tick(size)
            return
        newest = np.zeros(self.slots, dtype=np.int32)
        previous_place = 0
        for first in range(1, header.entry_count, PIECE_ENTRIES):
            count = min(PIECE_ENTRIES, header.entry_count - first)
            at = indexfile.entry_position(first, slot_count=self.slots)
            data = os.pread(self.fd, count * ENTRY_SIZE, at)
            entries = np.frombuffer(data, dtype=ENTRY)
            if len(entries) < count:
                raise LayoutError("file is shorter than its entries", entries=header.entry_count)
            self.check_chains(first, entries, newest)
            self.check_records(first, entries, header, previous_place)
            previous_place = int(entries["physical_offset"][-1])
            self.report.entries += count
            self.tick(len(data))
        self.check_slots(newest, header)
        self.check_header(header)
        self.check_rest(header.entry_count, size)

    def position(self, index: int) -> int:
        return indexfile.entry_position(index, slot_count=self.slots)

    def check_chains(
        self, first: int, entries: NDArray[np.void], newest: NDArray[np.int32]
    ) -> None:
        """Make the chains again, and compare what each entry says is before it."""
        hashes = entries["key_hash"].astype(np.int64)
        negative = np.flatnonzero(hashes < 0)
        for index in self.findings.first(self.file, NEGATIVE, negative):
            self.damage(NEGATIVE, at=self.position(first + index))
        slots = np.abs(hashes) % self.slots
        order = np.argsort(slots, kind="stable")
        ordered = slots[order]
        is_head = np.ones(len(order), dtype=bool)
        is_head[1:] = ordered[1:] != ordered[:-1]
        numbers = (first + order).astype(np.int32)
        expected = np.zeros(len(order), dtype=np.int32)
        expected[1:] = numbers[:-1]
        expected[is_head] = newest[ordered[is_head]]
        found = entries["previous"].astype(np.int32)[order]
        for index in self.findings.first(self.file, CHAIN, np.flatnonzero(found != expected)):
            self.damage(
                CHAIN,
                at=self.position(int(numbers[index])),
                found=f"previous={found[index]}",
                allowed=f"previous={expected[index]}, the entry before with that slot",
            )
        is_tail = np.ones(len(order), dtype=bool)
        is_tail[:-1] = is_head[1:]
        newest[ordered[is_tail]] = numbers[is_tail]

    def check_slots(self, newest: NDArray[np.int32], header: indexfile.IndexHeader) -> None:
        """Compare the slots with the chains' newest entries."""
        for first in range(0, self.slots, PIECE_SLOTS):
            count = min(PIECE_SLOTS, self.slots - first)
            data = os.pread(self.fd, count * SLOT_SIZE, indexfile.slot_position(first))
            found = np.frombuffer(data, dtype=">i4").astype(np.int32)
            wrong = np.flatnonzero(found != newest[first : first + len(found)])
            for index in self.findings.first(self.file, SLOT, wrong):
                self.damage(
                    SLOT,
                    at=indexfile.slot_position(first + index),
                    found=found[index],
                    allowed=newest[first + index],
                )
            self.tick(len(data))
        used = int(np.count_nonzero(newest))
        if header.used_slot_count != used:
            self.damage(
                "count of used slots differs", at=32, found=header.used_slot_count, allowed=used
            )

    def check_records(
        self,
        first: int,
        entries: NDArray[np.void],
        header: indexfile.IndexHeader,
        previous_place: int,
    ) -> None:
        """Compare entries with the records that they name."""
        places = entries["physical_offset"].astype(np.int64)
        falls = np.flatnonzero(np.diff(places, prepend=previous_place) < 0)
        for index in self.findings.first(self.file, ORDER, falls):
            self.damage(
                ORDER,
                at=self.position(first + index),
                found=int(places[index]),
            )
        wanted, which = np.unique(places, return_inverse=True)
        stamps, codes = self.keys_of(wanted)
        bounds = self.task.bounds
        inside = (places >= bounds.start) & (places < bounds.end)
        after = int((places >= bounds.end).sum())
        if after and self.store.limit is None:
            index = int(np.flatnonzero(places >= bounds.end)[0])
            self.findings.add(
                Severity.DAMAGE if self.store.clean else Severity.WARNING,
                self.file,
                "entries of records after the log's end",
                at=self.position(first + index),
                found=f"{after} from physical offset {places[index]} on",
                allowed=f"up to {bounds.end}",
                hint=REMOVE,
            )
        hashes = entries["key_hash"].astype(np.int64)
        is_key = np.isin((which.astype(np.int64) << 32) | np.maximum(hashes, 0), codes)
        for index in self.findings.first(self.file, NO_KEY, np.flatnonzero(inside & ~is_key)):
            self.damage(
                NO_KEY,
                at=self.position(first + index),
                found=f"key_hash={hashes[index]} physical_offset={places[index]}",
            )
        stamp = stamps[which]
        begin = header.begin_timestamp
        seconds = np.clip((stamp - begin) // 1000, 0, indexfile.SECONDS_MAX) if begin > 0 else 0
        found = entries["seconds"].astype(np.int64)
        known = inside & is_key & (stamp > 0)
        for index in self.findings.first(
            self.file, TIME, np.flatnonzero(known & (found != seconds))
        ):
            self.damage(
                TIME,
                at=self.position(first + index),
                found=f"seconds={found[index]}",
                allowed=f"seconds={(stamp[index] - begin) // 1000}",
            )
        if first == 1:
            self.first = (int(places[0]), int(stamp[0]))
        self.last = (int(places[-1]), int(stamp[-1]))

    def keys_of(self, places: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Store timestamps of the records at ascending places (0: none), and their keys' codes.

        A code is the index of the place, shifted by 32, with the hash of a key.
        """
        stamps = np.zeros(len(places), dtype=np.int64)
        codes: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        index = int(np.searchsorted(places, self.task.bounds.start))
        stop = int(np.searchsorted(places, self.task.bounds.end))
        while index < stop:
            at = int(places[index])
            data = self.chunk(at)
            count, position, _ = walk(data, 0, self.rows, checked=False)
            if not count:
                index += 1
                continue
            found = self.rows[:count]
            after = index + int(np.searchsorted(places[index:stop], at + position))
            which = np.searchsorted(found[:, 0] + at, places[index:after])
            sound = (which < count) & (
                found[np.minimum(which, count - 1), 0] + at == places[index:after]
            )
            numbers = np.flatnonzero(sound)
            chosen = np.ascontiguousarray(found[which[sound]])
            stamps[index + numbers] = chosen[:, 5]
            done = 0
            while done < len(chosen):
                rows, hashes = key_hashes(data, chosen[done:], self.hashes)
                found_hashes = self.hashes[:hashes]
                keys = index + numbers[done + found_hashes[:, 0]]
                codes.append((keys << 32) | found_hashes[:, 1])
                done += rows
            index = max(after, index + 1)
            self.tick(0)
        return stamps, np.concatenate(codes)

    def chunk(self, at: int) -> bytes:
        """Bytes of the log from the record at `at` on, all of it if it is not too large."""
        data = self.reader.read(self.store.log, at, LOG_CHUNK)
        if len(data) >= record.BLANK_HEAD_SIZE:
            size, magic = record.head(data)
            if magic in {record.MAGIC_V1, record.MAGIC_V2} and LOG_CHUNK < size <= RECORD_READ_MAX:
                return self.reader.read(self.store.log, at, size)
        return data

    def check_header(self, header: indexfile.IndexHeader) -> None:
        """Compare the header with the first and the last entry."""
        if header.entry_count <= indexfile.FIRST_ENTRY_COUNT:
            return
        first_place, first_stamp = self.first
        last_place, last_stamp = self.last
        checks = (
            (0, "begin timestamp", header.begin_timestamp, first_stamp),
            (8, "end timestamp", header.end_timestamp, last_stamp),
            (16, "begin offset", header.begin_offset, first_place),
            (24, "end offset", header.end_offset, last_place),
        )
        for at, name, found, wanted in checks:
            unknown = not wanted and "timestamp" in name  # Its record is deleted, or damaged.
            if found != wanted and not unknown:
                self.damage(f"{name} of the header differs", at=at, found=found, allowed=wanted)

    def check_rest(self, entry_count: int, size: int) -> None:
        """Look at what stands after the last entry."""
        at = indexfile.entry_position(entry_count, slot_count=self.slots)
        unused = os.pread(self.fd, ENTRY_SIZE, self.position(0))
        rest = next(data_pieces(self.fd, at, size), None)
        if any(unused) or rest is not None:
            place = self.position(0) if rest is None else rest[0]
            self.damage("bytes where no entry is", at=place, allowed="zeros")
        self.tick(max(0, size - at))
