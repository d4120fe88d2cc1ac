"""Segments: made once, attached by name, gone when unlinked."""

from __future__ import annotations

import os

import pytest

from shmq.errors import LayoutError, StoreError
from shmq.shm import segment
from shmq.shm.segment import Segment, names_of, segment_name, unlink


def test_what_one_writes_the_other_reads(instance: str) -> None:
    name = segment_name(instance, "a")
    made = Segment.create(name, 8192)
    assert (made.size, bytes(made.view[:8])) == (8192, bytes(8))
    made.view[4096:4100] = b"data"
    seen = Segment.attach(name)
    assert seen.size == 8192
    assert bytes(seen.view[4096:4100]) == b"data"
    with pytest.raises(TypeError):
        seen.view[0] = 1
    written = Segment.attach(name, writable=True)
    written.view[0] = 9
    assert made.view[0] == seen.view[0] == 9
    for one in (made, seen, written):
        one.close()


def test_a_name_is_made_once(instance: str) -> None:
    name = segment_name(instance, "a")
    Segment.create(name, 4096)
    with pytest.raises(StoreError, match="exists already"):
        Segment.create(name, 4096)
    unlink(name)
    unlink(name)
    Segment.create(name, 4096)


def test_names_belong_to_one_instance(instance: str) -> None:
    for what in ("b", "a"):
        Segment.create(segment_name(instance, what), 4096)
    other = instance + "x"
    Segment.create(segment_name(other, "c"), 4096)
    assert names_of(instance) == [f"/shmq.{instance}.a", f"/shmq.{instance}.b"]
    unlink(segment_name(other, "c"))


def test_what_is_not_there_cannot_be_attached(instance: str) -> None:
    with pytest.raises(LayoutError, match="no such segment"):
        Segment.attach(segment_name(instance, "a"))


def test_an_empty_segment_is_refused(instance: str) -> None:
    name = segment_name(instance, "a")
    (segment.SHM_FOLDER / name[1:]).touch()
    with pytest.raises(LayoutError, match="empty"):
        Segment.attach(name)


def test_a_segment_that_cannot_be_mapped_leaves_no_name(instance: str) -> None:
    name = segment_name(instance, "a")
    with pytest.raises(StoreError):
        Segment.create(name, 1 << 60)
    assert names_of(instance) == []


def test_populate_maps_pages(instance: str) -> None:
    made = Segment.create(segment_name(instance, "a"), 64 * 4096)
    made.populate()
    assert os.stat(segment.SHM_FOLDER / made.name[1:]).st_blocks * 512 >= 64 * 4096  # noqa: PTH116
    made.populate(4096, 4096, write=False)
    assert segment.room() > 0
