"""Layout of the queue table: for each (topic, queue id) its offsets and where its entries lie.

One segment; a slot number names a queue in all processes. Native byte order. Each part is written
by one role and starts on a page of its own.

    part         written by    element    meaning
    head         coordinator   see below
    directory    coordinator   ROW        name of the queue in slot i
    max offsets  dispatch      i64        queue offset after the newest entry consumers may see
    hot starts   dispatch      i64        lowest queue offset whose entry is in the hot ring
    min offsets  housekeeping  i64        lowest queue offset whose message is kept

head: 0 u64 MAGIC (set last), 8 u32 slots_max, 12 u32 hot_entries, 64 u64 SLOT_COUNT (rows below
it are whole; a row never changes but for its state).

The hot rings lie in a second segment: slot i has hot_entries entries of layout.cqentry (20 bytes,
big-endian, as in the files) at i * hot_entries * 20; the entry of queue offset n is at
n % hot_entries. An entry is written before max_offsets[i] grows past it; hot_starts[i] grows past
an entry before that entry is overwritten. A reader copies, then looks at hot_starts[i] again.
"""

from __future__ import annotations

from typing import Final

import numpy as np

MAGIC: Final = 0x31_6571_716D_6873  # "shmqqe1", little-endian; the digit is the version
HEAD_SIZE: Final = 4096
MAGIC_AT: Final = 0
SLOTS_MAX_AT: Final = 8
HOT_ENTRIES_AT: Final = 12
SLOT_COUNT_AT: Final = 64

TOPIC_SIZE_MAX: Final = 255
ROW: Final = np.dtype(
    [("queue_id", "i4"), ("topic_size", "i4"), ("topic", f"S{TOPIC_SIZE_MAX + 1}")]
)
assert ROW.itemsize == 264
ENTRY_SIZE: Final = 20


def _page_aligned(size: int) -> int:
    return (size + 4095) // 4096 * 4096


def max_offsets_at(slots_max: int) -> int:
    """Start of the max offsets, bytes."""
    return HEAD_SIZE + _page_aligned(slots_max * ROW.itemsize)


def hot_starts_at(slots_max: int) -> int:
    """Start of the hot starts, bytes."""
    return max_offsets_at(slots_max) + _page_aligned(slots_max * 8)


def min_offsets_at(slots_max: int) -> int:
    """Start of the min offsets, bytes."""
    return hot_starts_at(slots_max) + _page_aligned(slots_max * 8)


def segment_size(slots_max: int) -> int:
    """Size of the table's segment, bytes."""
    return min_offsets_at(slots_max) + _page_aligned(slots_max * 8)


def hot_size(slots_max: int, hot_entries: int) -> int:
    """Size of the hot rings' segment, bytes; memory is taken only for entries that were written."""
    return _page_aligned(slots_max * hot_entries * ENTRY_SIZE)
