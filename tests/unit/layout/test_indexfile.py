from __future__ import annotations

import pytest

from shmq.errors import LayoutError
from shmq.layout import indexfile
from shmq.layout.indexfile import IndexEntry, IndexHeader

SLOTS = 4
ENTRIES = 8


def build(rows: list[tuple[int, int, int]], *, slots: dict[int, int]) -> bytearray:
    """A file with rows (key_hash, physical_offset, previous) from entry 1 on."""
    data = bytearray(indexfile.file_size(slot_count=SLOTS, entry_count=ENTRIES))
    data[:40] = indexfile.encode_header(IndexHeader(entry_count=len(rows) + 1))
    for slot, index in slots.items():
        place = indexfile.slot_position(slot)
        data[place : place + 4] = indexfile.encode_slot(index)
    for index, (hashed, offset, previous) in enumerate(rows, start=1):
        place = indexfile.entry_position(index, slot_count=SLOTS)
        entry = IndexEntry(hashed, offset, 0, previous)
        data[place : place + 20] = indexfile.encode_entry(entry)
    return data


def offsets(data: bytearray, hashed: int) -> list[int]:
    return [entry.physical_offset for entry in indexfile.chain(data, hashed, slot_count=SLOTS)]


def test_chain_is_newest_first_and_only_its_hash() -> None:
    data = build([(5, 100, 0), (9, 200, 1), (5, 300, 2)], slots={1: 3})
    assert offsets(data, 5) == [300, 100]
    assert offsets(data, 9) == [200]
    assert offsets(data, 13) == []
    assert offsets(data, 6) == []


@pytest.mark.parametrize(
    ("rows", "slot"),
    [
        ([(5, 100, 1)], 1),  # leads to itself
        ([(5, 100, 2), (5, 200, 1)], 2),  # in a circle
        ([(5, 100, 7)], 1),  # past the end
        ([(5, 100, -3)], 1),
    ],
)
def test_damaged_chains_end(rows: list[tuple[int, int, int]], slot: int) -> None:
    found = offsets(build(rows, slots={1: slot}), 5)
    assert found == [offset for _, offset, _ in reversed(rows)]


@pytest.mark.parametrize("start", [-1, 2, 1000])
def test_nonsense_in_a_slot_is_no_chain(start: int) -> None:
    assert offsets(build([(5, 100, 0)], slots={1: start}), 5) == []


def test_short_files_are_refused() -> None:
    with pytest.raises(LayoutError):
        indexfile.decode_header(bytes(39))
    data = build([(5, 100, 0)] * 7, slots={1: 1})
    with pytest.raises(LayoutError):
        offsets(data[: indexfile.entry_position(7, slot_count=SLOTS)], 5)


def test_header_round_trip() -> None:
    header = IndexHeader(1, 2, 3, 4, 5, 6)
    assert indexfile.decode_header(indexfile.encode_header(header)) == header
    assert len(indexfile.encode_header(header)) == indexfile.HEADER_SIZE


def test_key_hash_has_no_sign() -> None:
    assert indexfile.key_hash("polygenelubricants") == 0  # Java's smallest int
    assert indexfile.key_hash("hello") == 99162322
    assert indexfile.key_hash("GoldenA#x") >= 0


@pytest.mark.parametrize(
    ("begin", "stored", "seconds"),
    [(0, 5000, 0), (-1, 5000, 0), (1000, 3999, 2), (5000, 1000, 0), (1, 1 << 60, 0x7FFFFFFF)],
)
def test_seconds_between(begin: int, stored: int, seconds: int) -> None:
    assert indexfile.seconds_between(begin, stored) == seconds


def test_keys() -> None:
    assert indexfile.index_key("T", "k") == "T#k"
    assert indexfile.tag_index_key("T", "a") == "T#T#a"
