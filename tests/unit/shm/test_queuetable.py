"""The queue table: slots by name, seen by all, never more than there is room for."""

from __future__ import annotations

import numpy as np
import pytest

from shmq.errors import LayoutError, StoreError
from shmq.layout import queuetable as layout
from shmq.layout.queuetable import ROW
from shmq.shm.queuetable import QueueTable, QueueWords

SLOTS_MAX = 8
HOT_ENTRIES = 4


@pytest.fixture
def parts() -> tuple[memoryview, memoryview]:
    table = memoryview(bytearray(layout.segment_size(SLOTS_MAX)))
    hot = memoryview(bytearray(layout.hot_size(SLOTS_MAX, HOT_ENTRIES)))
    QueueTable.format(table, slots_max=SLOTS_MAX, hot_entries=HOT_ENTRIES)
    return table, hot


def test_all_tables_on_the_segment_see_a_new_queue(parts: tuple[memoryview, memoryview]) -> None:
    owner, reader = QueueTable(*parts), QueueTable(*parts)
    assert reader.slot("T", 0) is None
    assert (owner.allocate("T", 0), owner.allocate("T", 3), owner.allocate("名", 0)) == (0, 1, 2)
    assert owner.allocate("T", 3) == 1, "it has one already"
    assert len(reader) == 3
    assert [reader.slot("T", 0), reader.slot("T", 3), reader.slot("名", 0)] == [0, 1, 2]
    assert reader.slot("T", 1) is None
    assert reader.name(2) == ("名", 0)
    assert reader.topics() == {"T": {0: 0, 3: 1}, "名": {0: 2}}
    rows = np.frombuffer(reader.rows, dtype=ROW)
    assert rows["queue_id"][:3].tolist() == [0, 3, 0]
    assert len(rows) == reader.slots_max
    assert QueueTable(*parts).topics() == reader.topics()


@pytest.mark.parametrize("name", ["t", "t" * 255, "名" * 85])
def test_name_lengths_up_to_the_limit(parts: tuple[memoryview, memoryview], name: str) -> None:
    table = QueueTable(*parts)
    assert QueueTable(*parts).name(table.allocate(name, 0)) == (name, 0)


@pytest.mark.parametrize("name", ["", "t" * 256, "名" * 86])
def test_name_lengths_past_the_limit(parts: tuple[memoryview, memoryview], name: str) -> None:
    table = QueueTable(*parts)
    with pytest.raises(StoreError, match="topic name length"):
        table.allocate(name, 0)
    assert len(table) == 0


def test_a_full_table_says_so(parts: tuple[memoryview, memoryview]) -> None:
    table = QueueTable(*parts)
    for queue_id in range(SLOTS_MAX):
        table.allocate("T", queue_id)
    with pytest.raises(StoreError, match="queuesMax"):
        table.allocate("T", SLOTS_MAX)
    assert table.allocate("T", SLOTS_MAX - 1) == SLOTS_MAX - 1


@pytest.mark.parametrize("slot", [-1, 1, SLOTS_MAX, 1 << 40])
def test_a_slot_that_is_not_in_use(parts: tuple[memoryview, memoryview], slot: int) -> None:
    table = QueueTable(*parts)
    table.allocate("T", 0)
    with pytest.raises(LayoutError, match="no such slot"):
        table.name(slot)


def test_columns_do_not_overlap(parts: tuple[memoryview, memoryview]) -> None:
    table = QueueTable(*parts)
    words = QueueWords(table)
    for slot in range(SLOTS_MAX):
        table.allocate("t" * 255, slot)
        words.start_at(slot, min_offset=slot + 1, max_offset=slot + 100)
    assert list(table.min_offsets) == [slot + 1 for slot in range(SLOTS_MAX)]
    assert list(table.max_offsets) == list(table.hot_starts)
    assert [table.max_offset(slot) for slot in range(SLOTS_MAX)] == list(range(100, 108))
    assert [table.min_offset(slot) for slot in range(SLOTS_MAX)] == list(range(1, 9))
    assert [table.name(slot) for slot in range(SLOTS_MAX)] == [
        ("t" * 255, slot) for slot in range(SLOTS_MAX)
    ]


def test_something_else_is_refused() -> None:
    with pytest.raises(LayoutError, match="not a queue table"):
        QueueTable(memoryview(bytearray(layout.segment_size(8))), memoryview(bytearray(4096)))
