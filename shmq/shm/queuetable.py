"""The queue table: which queue has which slot, and its published offsets.

The coordinator (and boot, before it runs) allocates slots; dispatch publishes max offsets and hot
starts; housekeeping publishes min offsets; everybody reads. See layout.queuetable.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from shmq.errors import LayoutError, StoreError
from shmq.layout import queuetable as layout
from shmq.shm.words import OwnedCell

_HEAD: Final = struct.Struct("=QII")


class QueueTable:
    """All queues of this broker, in shared memory."""

    def __init__(self, table: memoryview, hot: memoryview) -> None:
        """`table` is a segment that format() prepared, `hot` the segment of the hot rings.

        Raises:
            LayoutError: the segment holds something else.
        """
        magic, slots_max, hot_entries = _HEAD.unpack_from(table, layout.MAGIC_AT)
        if magic != layout.MAGIC:
            raise LayoutError("not a queue table", found=hex(magic), expected=hex(layout.MAGIC))
        self.slots_max: int = slots_max
        self.hot_entries: int = hot_entries
        self.hot = hot
        self._count = OwnedCell(table, layout.SLOT_COUNT_AT)
        rows_end = layout.HEAD_SIZE + slots_max * layout.ROW.itemsize
        self._row_bytes = table[layout.HEAD_SIZE : rows_end]
        self._rows = np.frombuffer(self._row_bytes, dtype=layout.ROW)
        self.max_offsets = self._column(table, layout.max_offsets_at(slots_max))
        self.hot_starts = self._column(table, layout.hot_starts_at(slots_max))
        self.min_offsets = self._column(table, layout.min_offsets_at(slots_max))
        self._slots: dict[tuple[str, int], int] = {}
        self._known = 0

    @staticmethod
    def format(table: memoryview, *, slots_max: int, hot_entries: int) -> None:
        """Prepare a new, zeroed segment."""
        struct.pack_into("=II", table, layout.SLOTS_MAX_AT, slots_max, hot_entries)
        struct.pack_into("=Q", table, layout.MAGIC_AT, layout.MAGIC)

    def _column(self, table: memoryview, at: int) -> memoryview:
        return table[at : at + self.slots_max * 8].cast("q")

    def __len__(self) -> int:
        """Number of slots in use."""
        return self._count.load()

    def allocate(self, topic: str, queue_id: int) -> int:
        """The slot of a queue, a new one if it has none yet. For the coordinator and boot only.

        Raises:
            StoreError: the table is full (setting queuesMax), or the name is too long.
        """
        known = self.slot(topic, queue_id)
        if known is not None:
            return known
        name = topic.encode()
        if not 0 < len(name) <= layout.TOPIC_SIZE_MAX:
            raise StoreError(
                "topic name length", size=len(name), allowed=(1, layout.TOPIC_SIZE_MAX)
            )
        slot = len(self)
        if slot >= self.slots_max:
            raise StoreError(
                "queue table is full",
                topic=topic,
                queue_id=queue_id,
                queues_max=self.slots_max,
                hint="raise queuesMax and restart",
            )
        self._rows[slot] = (queue_id, len(name), name)
        self._count.publish(slot + 1)  # After the row, never before: this is the promise.
        self._slots[topic, queue_id] = slot
        self._known = slot + 1
        return slot

    def slot(self, topic: str, queue_id: int) -> int | None:
        """The slot of a queue, or None when it has none."""
        if self._known < len(self):
            self._learn()
        return self._slots.get((topic, queue_id))

    def name(self, slot: int) -> tuple[str, int]:
        """Topic and queue id of a slot.

        Raises:
            LayoutError: the slot is not in use.
        """
        if not 0 <= slot < len(self):
            raise LayoutError("no such slot", slot=slot, slot_count=len(self))
        row = self._rows[slot]
        return bytes(row["topic"]).decode(), int(row["queue_id"])

    @property
    def rows(self) -> memoryview:
        """The directory as bytes, ROW by ROW up to slots_max: a live view."""
        return self._row_bytes

    def topics(self) -> dict[str, dict[int, int]]:
        """All queues: {topic: {queue id: slot}}."""
        if self._known < len(self):
            self._learn()
        found: dict[str, dict[int, int]] = {}
        for (topic, queue_id), slot in self._slots.items():
            found.setdefault(topic, {})[queue_id] = slot
        return found

    def min_offset(self, slot: int) -> int:
        """Lowest queue offset whose message is kept."""
        return self.min_offsets[slot]

    def max_offset(self, slot: int) -> int:
        """Queue offset after the newest message that consumers may see."""
        return self.max_offsets[slot]

    def _learn(self) -> None:
        for slot in range(self._known, len(self)):
            self._slots[self.name(slot)] = slot
            self._known = slot + 1


class QueueWords:
    """The columns that dispatch and housekeeping publish, for tests and boot."""

    def __init__(self, table: QueueTable) -> None:
        self._table = table

    def start_at(self, slot: int, *, min_offset: int, max_offset: int) -> None:
        """Set a queue's offsets before any role runs; nothing of it is in the hot ring."""
        self._table.min_offsets[slot] = min_offset
        self._table.max_offsets[slot] = max_offset
        self._table.hot_starts[slot] = max_offset
