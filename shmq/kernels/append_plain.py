"""Plain twin of append.py. Layouts: layout/ring.py, layout/control.py, layout/record.py."""

from __future__ import annotations

import struct
from mmap import mmap
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shmq.errors import CorruptRecord, LayoutError
from shmq.layout import record
from shmq.layout.control import (
    BLOCKED_BY_DISPATCH,
    BLOCKED_BY_FLUSH,
    BLOCKED_NOT,
    DESCRIPTOR,
)
from shmq.layout.queuetable import ROW
from shmq.layout.ring import (
    COMPLETION,
    ENTRY,
    STATUS_BAD_RECORD,
    STATUS_BAD_SLOT,
    STATUS_OK,
)

Memory: TypeAlias = bytes | bytearray | memoryview | mmap | NDArray[Any]

RINGS_MAX: Final = 192
FILE_SIZE_MIN: Final = 1024
FLAGS_NOT_PLAIN: Final = 0xCC  # transaction, unwrap, inner batch
NAME_AT: Final = 8  # in a row
TAGS_CODE: Final = struct.Struct("=q")
_INT32: Final = struct.Struct(">i")
_INT64: Final = struct.Struct(">q")


class Ring(NamedTuple):
    """The parts of one submission ring."""

    entries: NDArray[Any]
    completions: NDArray[Any]
    data: NDArray[np.uint8]
    epoch: int
    grants: NDArray[np.uint8] | None
    """A bit for each slot that a stranger may append to; None: a producer of the broker's own."""


class Stored(NamedTuple):
    """A record that can be appended, patched, and its tags code."""

    data: bytes
    tags_code: int


class Appender:
    """The writer's state: where the log ends, what each queue's next offset is."""

    def __init__(
        self,
        *,
        pool: Memory,
        descriptors: Memory,
        next_offsets: Memory,
        rows: Memory,
        file_size: int,
        record_size_max: int,
        append_offset: int,
        descriptor_count: int,
        store_place: bytes = b"",
    ) -> None:
        descriptor_bytes = np.frombuffer(descriptors, dtype=np.uint8)
        count = len(descriptor_bytes) // DESCRIPTOR.itemsize
        if count == 0 or count & (count - 1):
            raise ValueError(f"descriptor count must be a power of two: {count}")
        self._descriptors = descriptor_bytes[: count * DESCRIPTOR.itemsize].view(DESCRIPTOR)
        self._pool = np.frombuffer(pool, dtype=np.uint8)
        self._next_offsets = np.frombuffer(next_offsets, dtype=np.int64)
        row_bytes = np.frombuffer(rows, dtype=np.uint8)
        if len(self._next_offsets) * ROW.itemsize != len(row_bytes):
            raise ValueError("columns of different length")
        self._rows = row_bytes.view(ROW)
        self._store_place = store_place
        if (
            not record.RECORD_SIZE_MIN <= record_size_max <= len(self._pool)
            or file_size < FILE_SIZE_MIN
        ):
            raise ValueError(
                f"sizes: record_size_max={record_size_max} pool={len(self._pool)} "
                f"file_size={file_size}"
            )
        if append_offset < 0 or file_size - append_offset % file_size < record.BLANK_HEAD_SIZE:
            raise ValueError(f"no room for a blank behind the log: append_offset={append_offset}")
        self._file_size = file_size
        self._record_size_max = record_size_max
        # Half of the pool can always be recycled, and must hold a blank and the entry after it.
        blank_head = record.BLANK_HEAD_SIZE
        self._entry_size_max = min(file_size - blank_head, (len(self._pool) // 2 - blank_head) // 2)
        self._rings: dict[int, Ring] = {}
        self.append_offset = append_offset
        self.descriptor_count = descriptor_count
        self.blocked_on = BLOCKED_NOT

    def set_ring(
        self,
        index: int,
        entries: Memory,
        completions: Memory,
        data: Memory,
        *,
        epoch: int = 0,
        grants: Memory | None = None,
    ) -> None:
        """Attach a submission ring as number `index`.

        Raises:
            LayoutError: the parts do not fit each other.
        """
        if not 0 <= index < RINGS_MAX:
            raise LayoutError("ring index", index=index, allowed=(0, RINGS_MAX - 1))
        entry_bytes = np.frombuffer(entries, dtype=np.uint8)
        completion_bytes = np.frombuffer(completions, dtype=np.uint8)
        count = len(entry_bytes) // ENTRY.itemsize
        completion_count = len(completion_bytes) // COMPLETION.itemsize
        if count == 0 or count & (count - 1) or completion_count < count:
            raise LayoutError("ring entries", entry_count=count, completion_count=completion_count)
        if completion_bytes.ctypes.data % 8:
            raise LayoutError("ring part at an odd place", part="completions", needed_alignment=8)
        granted = None if grants is None else np.frombuffer(grants, dtype=np.uint8)
        if granted is not None and 8 * len(granted) < len(self._next_offsets):
            raise LayoutError("grants too short", size=len(granted))
        self._rings[index] = Ring(
            entry_bytes[: count * ENTRY.itemsize].view(ENTRY),
            completion_bytes[: count * COMPLETION.itemsize].view(COMPLETION),
            np.frombuffer(data, dtype=np.uint8),
            epoch,
            granted,
        )

    def drop_ring(self, index: int) -> None:
        """Let go of a ring's memory."""
        if not 0 <= index < RINGS_MAX:
            raise LayoutError("ring index", index=index, allowed=(0, RINGS_MAX - 1))
        self._rings.pop(index, None)

    def append(
        self,
        ring: int,
        first: int,
        end: int,
        limit_offset: int,
        descriptor_limit: int,
        slot_count: int,
        store_timestamp: int,
    ) -> int:
        """Append entries `first` to `end` (exclusive) of a ring; how many were completed.

        Stops early, with `blocked_on` set, when a record would pass `limit_offset` (1) or a
        descriptor would pass `descriptor_limit` (2).
        """
        self.blocked_on = BLOCKED_NOT
        if ring not in self._rings:
            raise IndexError(f"no such ring: {ring}")
        if slot_count > len(self._next_offsets):
            raise ValueError(f"more slots than columns: {slot_count}")
        for sequence in range(first, end):
            entry = self._rings[ring].entries[sequence % len(self._rings[ring].entries)].copy()
            status = self._status(ring, entry, slot_count)
            offset = queue_offset = 0
            if status == STATUS_OK:
                offset = self._place(entry, limit_offset, descriptor_limit)
                if self.blocked_on != BLOCKED_NOT:
                    return sequence - first
                queue_offset = int(self._next_offsets[entry["slot"]])
                stored = self._records(ring, entry, offset, store_timestamp)
                if stored is None:
                    status, offset, queue_offset = STATUS_BAD_RECORD, 0, 0
                else:
                    self._store(ring, sequence, entry, offset, stored, store_timestamp)
            completions = self._rings[ring].completions
            completions[sequence % len(completions)] = (
                status,
                0,
                offset,
                queue_offset,
                store_timestamp,
            )
        return max(0, end - first)

    def _status(self, ring: int, entry: np.void, slot_count: int) -> int:
        """What can be said of an entry before its records are looked at."""
        count, size = int(entry["record_count"]), _records_size(entry)
        position, data_size = int(entry["data_position"]), int(entry["data_size"])
        if (
            count < 1
            or count > len(self._descriptors)
            or not 0 <= position <= len(self._rings[ring].data) - data_size
            or not count * record.RECORD_SIZE_MIN <= size <= self._entry_size_max
        ):
            return STATUS_BAD_RECORD
        slot, grants = int(entry["slot"]), self._rings[ring].grants
        if not 0 <= slot < slot_count:
            return STATUS_BAD_SLOT
        granted = grants is None or bool(grants[slot // 8] >> slot % 8 & 1)
        return STATUS_OK if granted else STATUS_BAD_SLOT

    def _place(self, entry: np.void, limit_offset: int, descriptor_limit: int) -> int:
        """Physical offset for an entry's records, behind a blank if need be; or sets blocked_on."""
        if self.descriptor_count + int(entry["record_count"]) > descriptor_limit:
            self.blocked_on = BLOCKED_BY_DISPATCH
            return 0
        size, offset = _records_size(entry), self.append_offset
        left = self._file_size - offset % self._file_size
        blank_size = left if size + record.BLANK_HEAD_SIZE > left else 0
        if offset + blank_size + size > limit_offset:
            self.blocked_on = BLOCKED_BY_FLUSH
            return 0
        if blank_size:
            self._write(offset, record.blank(blank_size).ljust(blank_size, b"\0"))
        return offset + blank_size

    def _records(
        self, ring: int, entry: np.void, offset: int, store_timestamp: int
    ) -> list[Stored] | None:
        """The records of an entry as they will be stored; None when one of them is not sound."""
        start = int(entry["data_position"])
        data = self._rings[ring].data[start : start + int(entry["data_size"])].tobytes()
        count, slot = int(entry["record_count"]), int(entry["slot"])
        codes = [int(entry["tags_code"])]
        if count > 1:
            codes = [TAGS_CODE.unpack_from(data, 8 * number)[0] for number in range(count)]
            data = data[8 * count :]
        stored: list[Stored] = []
        at = 0
        for number in range(count):
            one = patched(
                data[at:],
                self._record_size_max,
                queue_id=int(self._rows[slot]["queue_id"]),
                queue_offset=int(self._next_offsets[slot]) + number,
                physical_offset=offset + at,
                store_timestamp=store_timestamp,
                sets_crc=self._rings[ring].grants is not None,
            )
            if one is None:
                return None
            if self._rings[ring].grants is not None and not self._is_allowed(one, slot):
                return None
            stored.append(Stored(one, codes[number]))
            at += len(one)
        return stored if at == len(data) else None

    def _is_allowed(self, data: bytes, slot: int) -> bool:
        """Whether a sound record of a stranger is what its slot holds, and plain."""
        one = record.decode(data)
        row = self._rows[slot]
        topic = one.topic.encode()
        name = row.tobytes()[NAME_AT:][: len(topic)]
        place = one.store_host + one.store_port.to_bytes(4, "big")
        return (
            not one.sys_flag & FLAGS_NOT_PLAIN
            and place == self._store_place
            and int(row["topic_size"]) == len(topic)
            and name == topic
        )

    def _store(
        self,
        ring: int,
        sequence: int,
        entry: np.void,
        offset: int,
        stored: list[Stored],
        store_timestamp: int,
    ) -> None:
        """Write records and descriptors, and move all ends on."""
        slot = int(entry["slot"])
        for number, one in enumerate(stored):
            self._write(offset, one.data)
            self._descriptors[self.descriptor_count % len(self._descriptors)] = (
                offset,
                len(one.data),
                slot,
                self._next_offsets[slot],
                one.tags_code,
                store_timestamp,
                sequence,
                ring,
                len(stored) - 1 - number,
                self._rings[ring].epoch,
            )
            self.descriptor_count += 1
            self._next_offsets[slot] += 1
            offset += len(one.data)
        self.append_offset = offset

    def _write(self, offset: int, data: bytes) -> None:
        """Put bytes of the log into the pool, where its end meets its start too."""
        places = (offset + np.arange(len(data))) % len(self._pool)
        self._pool[places] = np.frombuffer(data, dtype=np.uint8)


def patched(
    data: bytes,
    size_max: int,
    *,
    queue_id: int,
    queue_offset: int,
    physical_offset: int,
    store_timestamp: int,
    sets_crc: bool = False,
) -> bytes | None:
    """The record at the start of `data`, with what the writer owns; None when it is not sound.

    With `sets_crc` a CRC of 0 stands for one that is still to be set.
    """
    if len(data) < record.RECORD_SIZE_MIN:
        return None
    size, _ = record.head(data)
    if not record.RECORD_SIZE_MIN <= size <= min(len(data), size_max):
        return None
    copy = bytearray(data[:size])
    _INT64.pack_into(copy, record.QUEUE_OFFSET_AT, queue_offset)
    _INT64.pack_into(copy, record.PHYSICAL_OFFSET_AT, physical_offset)
    try:
        one = record.decode(copy, check_crc=not sets_crc)
    except CorruptRecord:
        return None
    if one.queue_id != queue_id or not one.topic:
        return None
    one.store_timestamp = store_timestamp
    if sets_crc and one.body_crc in {0, record.body_crc(one.body)}:
        one.body_crc = None  # Computed when it is encoded.
    elif sets_crc:
        return None
    return record.encode(one)


def _records_size(entry: np.void) -> int:
    """Bytes of an entry's records, without the tags codes of a batch."""
    count = int(entry["record_count"])
    return int(entry["data_size"]) - (TAGS_CODE.size * count if count > 1 else 0)
