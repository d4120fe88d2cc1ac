"""Chores in their time, and what they publish."""

from __future__ import annotations

from pathlib import Path

from shmq.config import Settings
from shmq.layout.control import Word
from shmq.units import GiB, MiB
from shmq.workers import housekeeping, memory
from shmq.workers.housekeeping import DiskCheck, HousekeepingRole
from shmq.workers.memory import POOL_SIZE_MAX, POOL_SIZE_MIN, pool_size_for
from tests.unit.workers.house import House, small_settings


class Chore:
    """Counts."""

    def __init__(self, interval_ms: int) -> None:
        self.interval_ms = interval_ms
        self.done = 0
        self.closed = False
        self.settings: Settings | None = None

    def do(self, now_ms: int) -> int:
        """Once more."""
        self.done += 1
        return 1

    def reload(self, settings: Settings) -> None:
        """The last settings."""
        self.settings = settings

    def close(self) -> None:
        """The end."""
        self.closed = True


def role_with(house: House, *chores: Chore) -> HousekeepingRole:
    return HousekeepingRole(chores=chores, bell=house.arena.bells["housekeeping"])


def test_chores_get_new_settings(house: House) -> None:
    chores = (Chore(1000), Chore(5000))
    role_with(house, *chores).reload(house.settings)
    assert [chore.settings for chore in chores] == [house.settings] * 2


def test_chores_are_done_in_their_time(house: House) -> None:
    often, seldom = Chore(1000), Chore(5000)
    role = role_with(house, often, seldom)
    for now_ms in range(10_000, 20_000, 500):
        role.step(now_ms)
    assert (often.done, seldom.done) == (10, 2)
    role.step(90_000)
    assert (often.done, seldom.done) == (11, 3), "what was missed is done once"
    role.wait(1)
    assert role.drain(90_000)
    role.close()
    assert often.closed


def test_a_clock_set_back_stops_no_chore(house: House) -> None:
    chore = Chore(1000)
    role = role_with(house, chore)
    role.step(10_000_000)
    role.step(5_000)
    assert chore.done == 2
    role.step(5_500)
    assert chore.done == 2


def test_what_the_host_has_is_published(house: House) -> None:
    role = housekeeping.make(house.context)
    assert role.step(1) >= 2
    total, available = house.word(Word.MEMORY_TOTAL), house.word(Word.MEMORY_AVAILABLE)
    assert 0 < available <= total
    assert 0 < house.word(Word.DISK_USED) <= 10_000
    role.close()


def test_a_full_disk_is_said_once(house: House, tmp_path: Path) -> None:
    looks = [50.0, 89.99, 90.0, 95.5, 89.0]
    check = DiskCheck(
        folder=tmp_path,
        used=house.arena.writer(Word.DISK_USED, role="housekeeping"),
        warning_percent=90,
        look=lambda _path: looks.pop(0),
    )
    states = []
    while looks:
        check.do(0)
        states.append((house.word(Word.DISK_USED), check._full))
    assert states == [(5000, False), (8999, False), (9000, True), (9550, True), (8900, False)]


def test_pool_sizes_fit_the_machine() -> None:
    assert pool_size_for(memory=GiB, room=GiB) == POOL_SIZE_MIN
    assert pool_size_for(memory=16 * GiB, room=8 * GiB) == 512 * MiB
    assert pool_size_for(memory=1024 * GiB, room=512 * GiB) == POOL_SIZE_MAX
    assert pool_size_for(memory=16 * GiB, room=64 * MiB) == 16 * MiB
    assert pool_size_for(memory=GiB, room=0) == 1


def test_arena_sizes_follow_the_settings(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, hot_pool_size=10 * MiB + 1, hot_page_size=4 * MiB)
    assert memory.sizes(settings, 3).pool_size == 8 * MiB
    tiny = small_settings(tmp_path, hot_pool_size=1, hot_page_size=4 * MiB)
    assert memory.sizes(tiny, 3).pool_size == 8 * MiB, "two pages at least"
    assert memory.sizes(tiny, 3).serve_count == 3
