"""The arena: all segments of a broker, made or not made, seen and removed as one."""

from __future__ import annotations

import pytest

from shmq.errors import LayoutError, StoreError
from shmq.layout import control
from shmq.layout.control import Word
from shmq.shm import segment
from shmq.shm.arena import EVENT_ROLES, SEMAPHORE_ROLES, Arena, ArenaSizes, remove_remnants
from shmq.shm.segment import Segment
from shmq.units import KiB

SIZES = ArenaSizes(
    serve_count=2,
    pool_size=128 * KiB,
    queues_max=16,
    hot_entries=8,
    ring_entries=16,
    ring_data_size=4 * KiB,
)


def left(instance: str) -> list[str]:
    return [path.name for path in segment.SHM_FOLDER.glob(f"*{instance}*")]


def test_made_attached_and_removed(instance: str) -> None:
    arena = Arena.create(instance, SIZES)
    assert len(left(instance)) == len(arena.segments) >= 7
    arena.writer(Word.APPEND_OFFSET, role="writer").publish(77)
    arena.queues.allocate("T", 1)
    arena.rings[1].submitted.publish(5)
    seen = Arena.attach(instance)
    assert seen.serve_count == 2
    assert seen.reader(Word.APPEND_OFFSET).load() == 77
    assert seen.queues.topics() == {"T": {1: 0}}
    assert [ring.submitted.load() for ring in seen.rings] == [0, 5]
    assert seen.pool_size == 128 * KiB
    assert seen.bells == {}
    arena.unlink()
    assert left(instance) == []
    assert seen.reader(Word.APPEND_OFFSET).load() == 77, "mappings outlive the names"
    with pytest.raises(LayoutError, match="no running broker"):
        Arena.attach(instance)


def test_every_role_has_a_bell_of_its_own(instance: str) -> None:
    arena = Arena.create(instance, SIZES)
    assert set(arena.bells) == {*SEMAPHORE_ROLES, *EVENT_ROLES, "serve0", "serve1"}
    for name, bell in arena.bells.items():
        bell.arm()
        for other in arena.bells.values():
            other.ring()
        heard = [role for role, other in arena.bells.items() if other.wait(0)]
        assert heard == [name]
        bell.disarm()
    for serve in range(2):
        arena.holding(serve).publish(3)
    assert arena.reader(Word.STORE_STATE).load() == 0
    with pytest.raises(AssertionError):
        arena.holding(control.SERVES_MAX)


def test_a_second_arena_of_the_instance_is_refused(instance: str) -> None:
    Arena.create(instance, SIZES)
    before = left(instance)
    with pytest.raises(StoreError, match="exists already"):
        Arena.create(instance, SIZES)
    assert left(instance) == before


@pytest.mark.parametrize("what", ["queues", "pool", "ring-1"])
def test_a_failure_half_way_leaves_nothing_new(instance: str, what: str) -> None:
    Segment.create(segment.segment_name(instance, what), 4096)
    with pytest.raises(StoreError, match="exists already"):
        Arena.create(instance, SIZES)
    assert left(instance) == [f"shmq.{instance}.{what}"]


def test_a_bell_that_cannot_be_made_leaves_nothing(
    instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_args: object) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("os.eventfd", refused)
    with pytest.raises(OSError, match="Too many open files"):
        Arena.create(instance, SIZES)
    assert left(instance) == []


def test_too_little_room_is_said(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "room", lambda: 64 * KiB)
    with pytest.raises(StoreError, match="lower hotPoolSize"):
        Arena.create(instance, SIZES)
    assert left(instance) == []


def test_another_version_is_not_attached(instance: str) -> None:
    arena = Arena.create(instance, SIZES)
    arena.writer(Word.MAGIC, role="supervisor").publish(control.MAGIC_VALUE + (1 << 56))
    with pytest.raises(LayoutError, match="of this version") as raised:
        Arena.attach(instance)
    assert raised.value.facts["expected"] == hex(control.MAGIC_VALUE)


def test_remnants_are_removed(instance: str) -> None:
    made = Arena.create(instance, SIZES)
    assert len(remove_remnants(instance)) == len(made.segments)
    assert remove_remnants(instance) == []
    Arena.create(instance, SIZES)
