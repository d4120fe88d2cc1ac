"""Submission rings: parts that do not touch each other, and sizes that are checked."""

from __future__ import annotations

import struct

import pytest

from shmq.errors import LayoutError
from shmq.layout import ring as layout
from shmq.shm.ring import Ring


def segment(entry_count: int = 64, data_size: int = 4096) -> memoryview:
    view = memoryview(bytearray(layout.segment_size(entry_count, data_size)))
    Ring.format(view, entry_count=entry_count, data_size=data_size)
    return view


@pytest.mark.parametrize(("entry_count", "data_size"), [(1, 1), (64, 4096), (256, 100_000)])
def test_parts_do_not_overlap(entry_count: int, data_size: int) -> None:
    view = segment(entry_count, data_size)
    ring = Ring(view)
    assert (ring.entry_count, ring.data_size) == (entry_count, data_size)
    assert len(ring.entry_array()) == len(ring.completion_array()) == entry_count
    for number, part in enumerate((ring.entries, ring.completions, ring.data), start=1):
        part[:] = bytes([number]) * len(part)
    assert set(bytes(ring.entries)) == {1}
    assert set(bytes(ring.completions)) == {2}
    assert set(bytes(ring.data)) == {3}
    ring.submitted.publish(11)
    ring.completed.publish(10)
    again = Ring(view)
    assert (again.submitted.load(), again.completed.load()) == (11, 10)
    assert (again.entry_count, again.data_size) == (entry_count, data_size)


def test_counts_only_grow() -> None:
    ring = Ring(segment())
    ring.submitted.publish(3)
    with pytest.raises(AssertionError):
        ring.submitted.publish(2)


@pytest.mark.parametrize("entry_count", [3, 6, 100])
def test_entries_are_a_power_of_two(entry_count: int) -> None:
    with pytest.raises(AssertionError, match="power of two"):
        Ring.format(memoryview(bytearray(1 << 20)), entry_count=entry_count, data_size=64)


@pytest.mark.parametrize(
    ("at", "form", "value", "what"),
    [
        (layout.MAGIC_AT, "=Q", 0, "not a submission ring"),
        (layout.VERSION_AT, "=I", layout.VERSION + 1, "not a submission ring"),
        (layout.ENTRY_COUNT_AT, "=I", 1 << 20, "larger than its segment"),
        (layout.DATA_SIZE_AT, "=Q", 1 << 40, "larger than its segment"),
        (layout.ENTRY_COUNT_AT, "=I", 0, "entries"),
        (layout.ENTRY_COUNT_AT, "=I", 63, "entries"),
    ],
)
def test_what_is_no_ring_is_refused(at: int, form: str, value: int, what: str) -> None:
    view = segment()
    struct.pack_into(form, view, at, value)
    with pytest.raises(LayoutError, match=what):
        Ring(view)


def test_a_segment_that_was_not_formatted_is_refused() -> None:
    with pytest.raises(LayoutError, match="not a submission ring"):
        Ring(memoryview(bytearray(layout.segment_size(64, 64))))
    with pytest.raises(LayoutError, match="not a submission ring"):
        Ring(memoryview(b"short"))
