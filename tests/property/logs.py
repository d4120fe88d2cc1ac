"""One submission ring and one small log, in memory, for an appender and for its twin."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shmq.kernels import walk as walk_kernel
from shmq.layout.control import DESCRIPTOR
from shmq.layout.queuetable import ROW
from shmq.layout.ring import COMPLETION, ENTRY

ENTRIES = 8
DATA_SIZE = 8192
SLOTS = 4
SLOT_COUNT = 3  # the last column is of a slot that is not in use
DESCRIPTORS = 16
QUEUE_IDS = (0, 7, 2**31 - 1, 3)


class Sizes(NamedTuple):
    """What an appender is made with."""

    pool: int = 8192
    file: int = 4096
    record_max: int = 2048
    start: int = 0  # of the log


class House:
    """A ring, a pool and what an appender of `module` made of them."""

    def __init__(
        self,
        module: Any,
        sizes: Sizes = Sizes(),  # noqa: B008  a constant
        *,
        store_place: bytes = b"",
        topics: Sequence[str] = (),
    ) -> None:
        self.sizes = sizes
        self.entries = np.zeros(ENTRIES, dtype=ENTRY)
        self.completions = np.zeros(ENTRIES, dtype=COMPLETION)
        self.data = np.zeros(DATA_SIZE, dtype=np.uint8)
        self.pool = np.zeros(sizes.pool, dtype=np.uint8)
        self.descriptors = np.zeros(DESCRIPTORS, dtype=DESCRIPTOR)
        self.next_offsets = np.arange(SLOTS, dtype=np.int64) * 1000
        rows = np.zeros(SLOTS, dtype=ROW)
        rows["queue_id"] = QUEUE_IDS
        for slot, topic in enumerate(topics):
            rows[slot]["topic_size"] = len(topic)
            rows[slot]["topic"] = topic.encode()
        self.log = b""  # all bytes since the start, also those that left the pool
        self.appender = module.Appender(
            pool=self.pool,
            descriptors=self.descriptors.view(np.uint8),
            next_offsets=self.next_offsets,
            rows=rows.view(np.uint8),
            file_size=sizes.file,
            record_size_max=sizes.record_max,
            append_offset=sizes.start,
            descriptor_count=0,
            store_place=store_place,
        )
        self.ring = 0
        self.appender.set_ring(
            0, self.entries.view(np.uint8), self.completions.view(np.uint8), self.data
        )

    def set_stranger(self, grants: int, *, epoch: int) -> None:
        """Let another ring's producer be a stranger with these slots, and use that ring."""
        self.ring = 1
        self.appender.set_ring(
            1,
            self.entries.view(np.uint8),
            self.completions.view(np.uint8),
            self.data,
            epoch=epoch,
            grants=np.array([grants], dtype=np.uint8),
        )

    def append(self, first: int, end: int, *, room: int, descriptor_room: int, stamp: int) -> int:
        """Append entries first..end-1 with so much room; collects what was added to the log."""
        appender = self.appender
        before = appender.append_offset
        done: int = appender.append(
            self.ring,
            first,
            end,
            before + room,
            appender.descriptor_count + descriptor_room,
            SLOT_COUNT,
            stamp,
        )
        self.log += self.piece(before, appender.append_offset)
        return done

    def piece(self, start: int, end: int) -> bytes:
        """Bytes of the log that are in the pool."""
        assert 0 <= end - start <= len(self.pool)
        return self.pool[np.arange(start, end) % len(self.pool)].tobytes()

    def described(self, first: int) -> list[Any]:
        """Descriptors from number `first` on."""
        numbers = np.arange(first, self.appender.descriptor_count) % DESCRIPTORS
        return list(self.descriptors[numbers].tolist())

    def state(self) -> tuple[Any, ...]:
        """Everything that both must agree on."""
        appender = self.appender
        return (
            appender.append_offset,
            appender.descriptor_count,
            appender.blocked_on,
            self.next_offsets.tolist(),
            self.completions.tobytes(),
            self.log,
        )

    def put(self, sequence: int, position: int, data: bytes, **entry: int) -> None:
        """Submit an entry with any field set to anything."""
        place = sequence % ENTRIES
        self.data[position : position + len(data)] = np.frombuffer(data, dtype=np.uint8)
        self.entries[place] = np.zeros((), dtype=ENTRY)
        self.entries[place]["data_position"] = position
        self.entries[place]["data_size"] = len(data)
        self.entries[place]["record_count"] = 1
        for name, value in entry.items():
            self.entries[place][name] = value


def batch(codes: list[int], stored: list[bytes]) -> bytes:
    """Data of an entry with several records."""
    return struct.pack(f"={len(codes)}q", *codes) + b"".join(stored)


def walked(log: bytes, sizes: Sizes) -> NDArray[np.int64]:
    """Rows of walk() for every record of a log; the whole log must be records and blanks."""
    rows = np.zeros((len(log) // 91 + 1, 10), dtype=np.int64)
    count = position = 0
    while position < len(log):
        done, position, stop = walk_kernel.walk(log, position, rows[count:], checked=True)
        count += done
        if stop == walk_kernel.STOP_BLANK:
            offset = sizes.start + position
            position += sizes.file - offset % sizes.file
        else:
            assert stop == walk_kernel.STOP_END
            assert position == len(log)
    return rows[:count]
