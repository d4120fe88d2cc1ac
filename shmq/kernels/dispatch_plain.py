"""Plain twin of dispatch.py. Layouts: layout/control.py (DESCRIPTOR), layout/cqentry.py."""

from __future__ import annotations

from mmap import mmap
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shmq.layout.control import DESCRIPTOR
from shmq.layout.cqentry import ENTRY

Memory: TypeAlias = bytes | bytearray | memoryview | mmap | NDArray[Any]


class Dispatcher:
    """Dispatch's view of descriptors, queue columns and hot rings."""

    def __init__(
        self,
        *,
        descriptors: Memory,
        max_offsets: Memory,
        hot_starts: Memory,
        hot: Memory,
        hot_entries: int,
        filed: Memory,
        marks: Memory,
    ) -> None:
        descriptor_bytes = np.frombuffer(descriptors, dtype=np.uint8)
        count = len(descriptor_bytes) // DESCRIPTOR.itemsize
        if count == 0 or count & (count - 1):
            raise ValueError(f"descriptor count must be a power of two: {count}")
        self._descriptors = descriptor_bytes[: count * DESCRIPTOR.itemsize].view(DESCRIPTOR)
        self._max_offsets = np.frombuffer(max_offsets, dtype=np.int64)
        self._hot_starts = np.frombuffer(hot_starts, dtype=np.int64)
        self._filed = np.frombuffer(filed, dtype=np.int64)
        self._marks = np.frombuffer(marks, dtype=np.uint8)
        hot_bytes = np.frombuffer(hot, dtype=np.uint8)
        slots = len(self._max_offsets)
        hot_size = slots * hot_entries * ENTRY.itemsize
        if (
            hot_entries <= 0
            or {len(self._hot_starts), len(self._filed), len(self._marks)} != {slots}
            or len(hot_bytes) < hot_size
        ):
            raise ValueError("columns of different length")
        self._hot = hot_bytes[:hot_size].view(ENTRY).reshape(slots, hot_entries)
        self._hot_entries = hot_entries
        self.full_slot = -1
        self.gaps = 0
        self.last_offset = 0

    def dispatch(self, first: int, end: int, limit_offset: int) -> int:
        """Enter descriptors `first` to `end` (exclusive); the number of the next one to do.

        Stops before a record that ends after `limit_offset`, and before a queue whose hot ring
        holds only entries that are not in its file yet (then `full_slot` names it, else -1).
        """
        self.full_slot = -1
        for number in range(first, end):
            one = self._descriptors[number % len(self._descriptors)]
            record_end = int(one["physical_offset"]) + int(one["size"])
            slot, queue_offset = int(one["slot"]), int(one["queue_offset"])
            if record_end > limit_offset:
                return number
            known = int(self._max_offsets[slot]) if 0 <= slot < len(self._marks) else -1
            if known < 0 or queue_offset > known:
                self.gaps += 1
            elif queue_offset == known:
                if queue_offset - int(self._filed[slot]) >= self._hot_entries:
                    self.full_slot = slot
                    return number
                self._enter(slot, queue_offset, one)
            self.last_offset = record_end
        return max(first, end)

    def _enter(self, slot: int, queue_offset: int, one: np.void) -> None:
        oldest = queue_offset + 1 - self._hot_entries
        self._hot_starts[slot] = max(int(self._hot_starts[slot]), oldest)
        self._hot[slot, queue_offset % self._hot_entries] = (
            one["physical_offset"],
            one["size"],
            one["tags_code"],
        )
        self._max_offsets[slot] = queue_offset + 1
        self._marks[slot] = 1
