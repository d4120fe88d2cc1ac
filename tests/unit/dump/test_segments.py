from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from shmq.dump import dump, line
from shmq.errors import LayoutError, StoreError
from shmq.layout import control, cqentry, queuetable, ring
from shmq.layout.control import Word
from shmq.layout.counters import Counter
from shmq.layout.record import Record, blank, encode
from shmq.shm.arena import Arena, ArenaSizes
from shmq.shm.counters import CounterRow
from shmq.shm.queuetable import QueueWords
from shmq.shm.segment import names_of
from shmq.units import KiB

POOL_SIZE = 64 * KiB
HOT_ENTRIES = 4


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena.create(
        uuid4().hex[:10],
        ArenaSizes(
            serve_count=1,
            pool_size=POOL_SIZE,
            queues_max=64,
            hot_entries=HOT_ENTRIES,
            ring_entries=8,
            ring_data_size=64 * KiB,
        ),
    )
    yield made
    made.unlink()
    for bell in made.bells.values():
        bell.close()
    assert names_of(made.instance) == []


def items_of(arena: Arena, what: str, **how: Any) -> list[dict[str, Any]]:
    items = list(dump(f"/shmq.{arena.instance}.{what}", **how))
    assert all(line(item).isprintable() for item in items)
    return items


def publish(arena: Arena, **words: int) -> None:
    for name, value in words.items():
        arena.writer(Word[name], role="boot").publish(value)


def put_in_pool(arena: Arena, offset: int, data: bytes) -> None:
    for at, byte in enumerate(data, offset):
        arena.pool[at % POOL_SIZE] = byte


def put_descriptor(arena: Arena, number: int, physical_offset: int, size: int) -> None:
    row = (physical_offset, size, 2, 30 + number, -5, 1_700_000_000_000, number, 0, 0, 0)
    at = number % control.DESCRIPTORS_MAX * control.DESCRIPTOR.itemsize
    struct.pack_into("=qiiqqqqiiq", arena.descriptors, at, *row)


def test_words_with_their_writers(arena: Arena) -> None:
    publish(arena, APPEND_OFFSET=900, FLUSHED_OFFSET=700)
    arena.holding(0).publish(3)
    arena.bells["flush"].arm()
    arena.bells["serve0"].arm()
    items = items_of(arena, "control")
    words = {item["word"]: item for item in items if item["kind"] == "word"}
    assert set(words) == {word.name for word in Word} - {"MAGIC"}
    assert words["APPEND_OFFSET"]["value"] == 900
    assert words["FLUSHED_OFFSET"]["writer"] == "flush"
    sleeping = [item["role"] for item in items if item["kind"] == "sleeping"]
    assert sleeping == ["flush", "serve0"]
    assert items[-1] == {
        "kind": "holding", "line": control.HOLDING_LINE, "role": "serve0", "value": 3,
    }  # fmt: skip
    assert items_of(arena, "control", first=control.HOLDING_LINE) == items[-1:]


def test_name_without_slash_and_as_a_path(arena: Arena) -> None:
    named = items_of(arena, "control")
    assert list(dump(f"shmq.{arena.instance}.control")) == named
    assert list(dump(f"/dev/shm/shmq.{arena.instance}.control")) == named  # noqa: S108


def test_counters_of_who_counted(arena: Arena) -> None:
    CounterRow(arena.counters, 0)
    row = CounterRow(arena.counters, 3)
    row.add(Counter.SENDS, 5)
    row.set(Counter.CONNECTIONS, 2)
    (item,) = items_of(arena, "counters")
    assert item["role"] == "serve3"
    assert (item["SENDS"], item["CONNECTIONS"], item["PULLS"]) == (5, 2, 0)
    assert items_of(arena, "counters", first=4) == []


def test_queues_and_their_hot_entries(arena: Arena) -> None:
    words = QueueWords(arena.queues)
    for number, (topic, max_offset) in enumerate([("Orders", 6), ("SCHEDULE_TOPIC_XXXX", 2)]):
        slot = arena.queues.allocate(topic, number)
        words.start_at(slot, min_offset=1, max_offset=max_offset)
        arena.queues.hot_starts[slot] = 0
        for queue_offset in range(max_offset):
            at = (slot * HOT_ENTRIES + queue_offset % HOT_ENTRIES) * cqentry.ENTRY_SIZE
            entry = cqentry.encode(queue_offset * 100, 100, 1_700_000_000_000)
            arena.queues.hot[at : at + len(entry)] = entry
    assert items_of(arena, "queues", first=1) == [
        {
            "kind": "queue", "slot": 1, "topic": "SCHEDULE_TOPIC_XXXX", "queueId": 1,
            "minOffset": 1, "maxOffset": 2, "hotStart": 0,
        }
    ]  # fmt: skip
    items = items_of(arena, "hot-cq")
    assert [item["queueOffset"] for item in items] == [2, 3, 4, 5, 0, 1]
    assert items[0] == {
        "kind": "entry", "topic": "Orders", "queueId": 0, "queueOffset": 2,
        "physicalOffset": 200, "size": 100, "tagsCode": 1_700_000_000_000,
    }  # fmt: skip
    assert items[4]["deliverTimestamp"] == 1_700_000_000_000
    assert items_of(arena, "hot-cq", first=5) == items[5:]


def test_descriptors(arena: Arena) -> None:
    for number in range(3):
        put_descriptor(arena, number, number * 100, 100)
    publish(arena, DESCRIPTOR_COUNT=3)
    items = items_of(arena, "descriptors", first=1)
    assert [item["number"] for item in items] == [1, 2]
    assert items[0] == {
        "kind": "descriptor", "number": 1, "physicalOffset": 100, "size": 100, "slot": 2,
        "queueOffset": 31, "tagsCode": -5, "storeTimestamp": 1_700_000_000_000, "ring": 0,
        "ringSequence": 1, "remaining": 0,
    }  # fmt: skip


def test_oldest_descriptors_are_gone(arena: Arena) -> None:
    publish(arena, DESCRIPTOR_COUNT=control.DESCRIPTORS_MAX + 5)
    oldest = next(iter(dump(f"/shmq.{arena.instance}.descriptors")))
    assert oldest["number"] == 5
    newest = items_of(arena, "descriptors", first=control.DESCRIPTORS_MAX + 3)
    assert [item["number"] for item in newest] == [
        control.DESCRIPTORS_MAX + 3,
        control.DESCRIPTORS_MAX + 4,
    ]


def test_ring_with_what_waits_and_what_was_answered(arena: Arena) -> None:
    one = arena.rings[0]
    entries = one.entry_array()
    for number in range(3):
        entries[number]["data_position"] = number * 256
        entries[number]["data_size"] = 200
        entries[number]["record_count"] = 1
        entries[number]["slot"] = 4
    completions = one.completion_array()
    completions[0] = (ring.STATUS_OK, 0, 1000, 7, 1_700_000_000_000)
    completions[1] = (77, 0, 0, 0, 0)
    one.submitted.publish(3)
    one.completed.publish(2)
    head, first, second, third = items_of(arena, "ring-0")
    assert (head["submitted"], head["completed"], head["entryCount"]) == (3, 2, 8)
    assert (first["state"], first["physicalOffset"], first["queueOffset"]) == ("ok", 1000, 7)
    assert second["state"] == "status 77"
    assert (third["state"], third["dataPosition"]) == ("waiting", 512)
    assert "physicalOffset" not in third


def test_hot_pages_across_the_end_of_the_pool(arena: Arena) -> None:
    # The hot pages begin inside of a record, whose rest must be passed over.
    begin = 2 * POOL_SIZE - 300
    records = []
    offset = begin
    for number in range(3):
        record = encode(Record(topic="T", body=b"b" * 200, physical_offset=offset))
        put_in_pool(arena, offset, record)
        put_descriptor(arena, number, offset, len(record))
        records.append(offset)
        offset += len(record)
    put_in_pool(arena, offset, blank(1000))
    publish(arena, DESCRIPTOR_COUNT=3, HOT_START=begin - 50, APPEND_OFFSET=offset + 1000)
    items = items_of(arena, "pool", with_body=True)
    assert [item["kind"] for item in items] == ["record"] * 3 + ["blank"]
    assert [item["physicalOffset"] for item in items[:3]] == records
    assert items[1]["body"] == "b" * 200
    assert not any("physicalOffsetExpected" in item for item in items)
    assert [item["at"] for item in items_of(arena, "pool", first=records[2])] == [
        records[2],
        offset,
    ]


def test_empty_hot_pages(arena: Arena) -> None:
    (item,) = items_of(arena, "pool")
    assert item["what"] == "the hot pages are empty"


@pytest.mark.parametrize("what", ["control", "pool", "descriptors"])
def test_other_version(arena: Arena, what: str) -> None:
    publish(arena, MAGIC=7)
    (item,) = items_of(arena, what)
    assert item["kind"] == "damage"
    assert "not a control segment of this version: found=0x7" in item["what"]


def test_hot_pages_with_words_that_contradict(arena: Arena) -> None:
    publish(arena, APPEND_OFFSET=POOL_SIZE + 1)
    (item,) = items_of(arena, "pool")
    assert item["kind"] == "damage"


def test_queue_table_that_claims_more_than_there_is(arena: Arena) -> None:
    table = arena.segments["queues"].view
    struct.pack_into("=I", table, queuetable.SLOTS_MAX_AT, 2**31)
    for what in ("queues", "hot-cq"):
        (item,) = items_of(arena, what)
        assert item["kind"] == "damage"
    struct.pack_into("=I", table, queuetable.SLOTS_MAX_AT, 64)
    struct.pack_into("=q", table, queuetable.SLOT_COUNT_AT, 65)
    (item,) = items_of(arena, "queues")
    assert "slot count: found=65" in item["what"]


def test_queue_whose_name_is_no_text(arena: Arena) -> None:
    arena.queues.allocate("T", 0)
    table = arena.segments["queues"].view
    table[queuetable.HEAD_SIZE + 8] = 0xFF
    (item,) = items_of(arena, "queues")
    assert item["kind"] == "damage"


@pytest.mark.parametrize(("submitted", "completed"), [(0, 1), (9, 0), (-1, 0)])
def test_ring_with_words_that_contradict(arena: Arena, submitted: int, completed: int) -> None:
    view = arena.segments["ring-0"].view
    struct.pack_into("=q", view, ring.SUBMITTED_AT, submitted)
    struct.pack_into("=q", view, ring.COMPLETED_AT, completed)
    head, damage = items_of(arena, "ring-0")
    assert (head["kind"], damage["kind"]) == ("ringHead", "damage")


def test_no_such_segment(arena: Arena) -> None:
    with pytest.raises(LayoutError, match="no such segment"):
        items_of(arena, "nothing")
    with pytest.raises(StoreError, match="no such file, folder or segment"):
        dump("/shmq.")
