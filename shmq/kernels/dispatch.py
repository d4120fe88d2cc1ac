# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Dispatch: descriptors of appended records become consumequeue entries, compiled.

The 20-byte entry goes into the hot ring of its queue, then the queue's max offset is published. An
entry that is already there (a successor repeats a dead dispatcher's last batch) is passed over.
dispatch_plain.py is the twin.
"""

import cython
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.shmq.kernels.native import shmq_store_release, shmq_swap32, shmq_swap64

ENTRY_SIZE = cython.declare(cython.int, 20)


@cython.cclass
class Dispatcher:
    """Dispatch's view of descriptors, queue columns and hot rings."""

    descriptors: cython.pointer(uint8_t)
    descriptor_mask: int64_t
    max_offsets: cython.pointer(int64_t)
    hot_starts: cython.pointer(int64_t)
    hot: cython.pointer(uint8_t)
    hot_entries: int64_t
    filed: cython.pointer(int64_t)
    marks: cython.pointer(uint8_t)
    slots_max: int64_t
    kept: list

    full_slot = cython.declare(int64_t, visibility="public")
    gaps = cython.declare(int64_t, visibility="public")
    last_offset = cython.declare(int64_t, visibility="public")

    def __init__(
        self, *, descriptors, max_offsets, hot_starts, hot, hot_entries: int64_t, filed, marks
    ):
        descriptor_view: cython.const[uint8_t][::1] = descriptors
        max_view: int64_t[::1] = max_offsets
        start_view: int64_t[::1] = hot_starts
        hot_view: uint8_t[::1] = hot
        filed_view: int64_t[::1] = filed
        mark_view: uint8_t[::1] = marks
        count: int64_t = descriptor_view.shape[0] // 64
        slots: int64_t = max_view.shape[0]
        if count <= 0 or count & (count - 1):
            raise ValueError(f"descriptor count must be a power of two: {count}")
        if (
            hot_entries <= 0
            or start_view.shape[0] != slots
            or filed_view.shape[0] != slots
            or mark_view.shape[0] != slots
            or hot_view.shape[0] < slots * hot_entries * ENTRY_SIZE
        ):
            raise ValueError("columns of different length")
        self.kept = [descriptors, max_offsets, hot_starts, hot, filed, marks]
        self.descriptors = cython.cast(cython.pointer(uint8_t), cython.address(descriptor_view[0]))
        self.descriptor_mask = count - 1
        self.max_offsets = cython.address(max_view[0])
        self.hot_starts = cython.address(start_view[0])
        self.hot = cython.address(hot_view[0])
        self.hot_entries = hot_entries
        self.filed = cython.address(filed_view[0])
        self.marks = cython.address(mark_view[0])
        self.slots_max = slots
        self.full_slot = -1
        self.gaps = 0
        self.last_offset = 0

    def dispatch(self, first: int64_t, end: int64_t, limit_offset: int64_t) -> int:
        """Enter descriptors `first` to `end` (exclusive); the number of the next one to do.

        Stops before a record that ends after `limit_offset`, and before a queue whose hot ring
        holds only entries that are not in its file yet (then `full_slot` names it, else -1).
        marks[slot] is set to 1 for each queue that got an entry; `last_offset` is the end of the
        last record done.
        """
        number: int64_t = first
        self.full_slot = -1
        while number < end:
            cells: cython.pointer(int64_t) = cython.cast(
                cython.pointer(int64_t), self.descriptors + (number & self.descriptor_mask) * 64
            )
            halves: cython.pointer(int32_t) = cython.cast(cython.pointer(int32_t), cells)
            offset: int64_t = cells[0]
            size: int64_t = halves[2]
            slot: int64_t = halves[3]
            queue_offset: int64_t = cells[2]
            if offset + size > limit_offset:
                break
            if 0 <= slot < self.slots_max:
                known: int64_t = self.max_offsets[slot]
                if queue_offset > known:
                    self.gaps += 1
                elif queue_offset == known:
                    if queue_offset - self.filed[slot] >= self.hot_entries:
                        self.full_slot = slot
                        break
                    self.enter(slot, queue_offset, offset, size, cells[3])
            else:
                self.gaps += 1
            self.last_offset = offset + size
            number += 1
        return number

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def enter(
        self, slot: int64_t, queue_offset: int64_t, offset: int64_t, size: int64_t, code: int64_t
    ) -> cython.void:
        """Write one entry into the hot ring of its queue and publish it."""
        if queue_offset - self.hot_starts[slot] >= self.hot_entries:
            # SYNC POINT: readers look at the hot start again after they copied.
            shmq_store_release(
                cython.address(self.hot_starts[slot]), queue_offset - self.hot_entries + 1
            )
        entry: cython.pointer(uint8_t) = (
            self.hot + (slot * self.hot_entries + queue_offset % self.hot_entries) * ENTRY_SIZE
        )
        wide: uint64_t = shmq_swap64(cython.cast(uint64_t, offset))
        memcpy(entry, cython.address(wide), 8)
        narrow: uint32_t = shmq_swap32(cython.cast(uint32_t, size))
        memcpy(entry + 8, cython.address(narrow), 4)
        wide = shmq_swap64(cython.cast(uint64_t, code))
        memcpy(entry + 12, cython.address(wide), 8)
        # SYNC POINT: the entry first, then the word that promises it.
        shmq_store_release(cython.address(self.max_offsets[slot]), queue_offset + 1)
        self.marks[slot] = 1
