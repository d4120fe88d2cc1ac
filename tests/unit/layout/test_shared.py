"""Layouts of the shared memory and of the offsets journal: parts that fit, records cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest

from shmq.layout import control, heartbeat, offsetjournal, queuetable, ring
from shmq.layout.control import DESCRIPTOR, OWNERS, STATE_WORDS, Word
from shmq.layout.offsetjournal import ALL_QUEUES, JournalEntry

ENTRIES = [
    JournalEntry("G", "T", 0, 0),
    JournalEntry("g" * 255, "名" * 85, 65_535, 2**63 - 1),
    JournalEntry("%RETRY%G", "T", ALL_QUEUES, 0),
]
GENERATION = 2**32 + 5
PARTS = [
    offsetjournal.header(GENERATION),
    *(offsetjournal.encode(entry, GENERATION) for entry in ENTRIES),
]


def test_control_words_have_lines_owners_and_names() -> None:
    assert set(OWNERS) == set(Word)
    assert set(Word) >= STATE_WORDS
    assert sorted(Word) == list(range(len(Word)))
    assert DESCRIPTOR.itemsize == 64
    assert control.DESCRIPTORS_MAX & (control.DESCRIPTORS_MAX - 1) == 0
    assert DESCRIPTOR.fields is not None
    assert [DESCRIPTOR.fields[name][1] for name in DESCRIPTOR.names or ()] == [
        0, 8, 12, 16, 24, 32, 40, 48, 52, 56,
    ]  # fmt: skip


@pytest.mark.parametrize("entry_count", [1, 16, 8192, 1 << 20])
@pytest.mark.parametrize("data_size", [1, 4096, 16 << 20])
def test_parts_of_a_ring_follow_each_other(entry_count: int, data_size: int) -> None:
    entries_end = ring.ENTRIES_AT + entry_count * 64
    completions = ring.completions_at(entry_count)
    data = ring.data_at(entry_count)
    assert entries_end <= completions < data
    assert completions + entry_count * 32 <= data
    assert data + data_size <= ring.segment_size(entry_count, data_size)
    assert completions % 4096 == data % 4096 == 0


@pytest.mark.parametrize("slots_max", [1, 7, 16_384])
def test_parts_of_the_queue_table_follow_each_other(slots_max: int) -> None:
    places = [
        queuetable.HEAD_SIZE + slots_max * queuetable.ROW.itemsize,
        queuetable.max_offsets_at(slots_max),
        queuetable.hot_starts_at(slots_max),
        queuetable.min_offsets_at(slots_max),
        queuetable.segment_size(slots_max),
    ]
    assert places == sorted(places)
    for begin, end in pairwise(places[1:]):
        assert end - begin >= slots_max * 8
    assert queuetable.hot_size(slots_max, 16) >= slots_max * 16 * 20


def test_heartbeat_slots_share_no_line() -> None:
    assert heartbeat.table_size(3) == 3 * heartbeat.SLOT_SIZE
    assert heartbeat.SLOT_SIZE % 64 == 0


def test_journal_entries_are_written_and_read() -> None:
    data = b"".join(PARTS)
    assert offsetjournal.decode(data) == (GENERATION, ENTRIES, len(data))
    assert offsetjournal.decode(PARTS[0]) == (GENERATION, [], len(PARTS[0]))


def test_an_old_journal_is_read() -> None:
    data = offsetjournal.OLD_MAGIC + b"".join(offsetjournal.encode(one, None) for one in ENTRIES)
    assert offsetjournal.decode(data) == (None, ENTRIES, len(data))


def test_an_entry_of_another_generation_ends_a_journal() -> None:
    later = offsetjournal.encode(ENTRIES[0], GENERATION + 1)
    found = offsetjournal.decode(b"".join([*PARTS[:2], later, *PARTS[2:]]))
    assert found == (GENERATION, ENTRIES[:1], len(PARTS[0]) + len(PARTS[1]))


def test_a_journal_cut_at_every_byte() -> None:
    data = b"".join(PARTS)
    ends = [sum(map(len, PARTS[: count + 1])) for count in range(len(PARTS))]
    for cut in range(len(data) + 1):
        _generation, entries, size = offsetjournal.decode(data[:cut])
        whole = [end for end in ends if end <= cut]
        assert size == (whole[-1] if whole else 0)
        assert entries == ENTRIES[: max(0, len(whole) - 1)]


def test_a_journal_with_every_byte_bent_ends_before_it() -> None:
    data = b"".join(PARTS)
    ends = [sum(map(len, PARTS[: count + 1])) for count in range(len(PARTS))]
    for at in range(len(data)):
        bent = bytearray(data)
        bent[at] ^= 0x10
        _generation, entries, size = offsetjournal.decode(bytes(bent))
        before = [end for end in ends if end <= at]
        in_generation = 8 <= at < offsetjournal.HEADER_SIZE
        assert size == (before[-1] if before else len(PARTS[0]) * in_generation)
        assert entries == ENTRIES[: max(0, len(before) - 1)]


@pytest.mark.parametrize("names", [("", "T"), ("G", ""), ("g" * 256, "T"), ("G", "t" * 256)])
def test_names_that_no_entry_may_carry(names: tuple[str, str]) -> None:
    with pytest.raises(AssertionError):
        offsetjournal.encode(JournalEntry(*names, 0, 0), 0)
