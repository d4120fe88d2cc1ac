"""The reserve: given up when there is no room, and only then; made again when there is."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmq.errors import StoreError
from shmq.layout.offsetjournal import JournalEntry
from shmq.store import reserve
from shmq.store.offsetjournal import OffsetJournal
from shmq.store.reserve import Reserve, has_room
from shmq.store.tables import TableFile
from shmq.units import KiB, MiB
from tests.crash.smalldisk import SmallDisk

SIZE = 256 * KiB
ENTRY = JournalEntry("G", "T", 0, 7)


def no_room() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A real file system of 64 MiB."""
    made = SmallDisk(tmp_path / "disk")
    yield made
    made.close()


def test_kept_given_and_kept_again(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    held = Reserve(path, size=SIZE)
    assert not held.give(no_room()), "there is nothing to give yet"
    assert held.keep()
    assert path.stat().st_blocks * 512 >= SIZE, "no hole"
    assert not held.give(OSError(errno.EIO, "another trouble"))
    assert held.is_held
    assert held.give(no_room())
    assert not path.exists()
    assert not held.give(no_room()), "once"
    assert held.keep()
    held.close()
    assert not path.exists()


def test_a_reserve_that_is_there_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "reserve"
    assert Reserve(path, size=SIZE).keep()
    inode = path.stat().st_ino
    assert Reserve(path, size=SIZE).keep()
    assert path.stat().st_ino == inode
    path.write_bytes(b"")
    os.truncate(path, SIZE)
    assert Reserve(path, size=SIZE).keep()
    assert path.stat().st_blocks * 512 >= SIZE, "a hole was no reserve"


def test_nothing_may_be_set_aside(tmp_path: Path) -> None:
    held = Reserve(tmp_path / "reserve", size=0)
    assert not held.keep()
    assert not held.give(no_room())
    assert list(tmp_path.iterdir()) == []


def test_not_made_where_room_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * SIZE
    monkeypatch.setattr(reserve, "room", lambda _folder: free)
    assert has_room(tmp_path, SIZE)
    free = 2 * SIZE - 1
    assert not has_room(tmp_path, SIZE)
    assert not Reserve(tmp_path / "reserve", size=SIZE).keep()
    assert not (tmp_path / "reserve").exists()


def test_tables_and_journal_are_written_on_a_full_disk(disk: SmallDisk) -> None:
    held = Reserve(disk.seen / "reserve", size=SIZE)
    table = TableFile(disk.seen / "config" / "t.json", reserve=held)
    table.replace(b"1" * 100)
    journal = OffsetJournal(disk.seen / "config" / "journal", reserve=held)
    journal.open(1)
    assert held.keep()
    disk.fill()
    table.replace(b"2" * 9000)
    assert not held.is_held
    journal.append([ENTRY] * 500)
    assert (disk.seen / "config" / "t.json").read_bytes() == b"2" * 9000
    assert not held.keep(), "there is no room for it"
    disk.empty()
    assert held.keep()
    disk.fill()
    journal.append([ENTRY] * 500)
    journal.close()
    again = OffsetJournal(disk.seen / "config" / "journal")
    assert again.open(1) == [ENTRY] * 1000
    again.close()


def test_without_a_reserve_nothing_is_lost(disk: SmallDisk) -> None:
    table = TableFile(disk.seen / "t.json")
    table.replace(b"1" * 100)
    journal = OffsetJournal(disk.seen / "journal")
    journal.open(1)
    journal.append([ENTRY])
    disk.fill()
    with pytest.raises(OSError, match="No space"):
        table.replace(b"2" * 9000)
    assert table.load(bytes) == b"1" * 100
    with pytest.raises(StoreError, match=r"cannot be written.*No space"):
        journal.append([ENTRY] * 5000)
    journal.clear(2)  # Takes no room.
    journal.close()
    disk.empty()
    again = OffsetJournal(disk.seen / "journal")
    assert again.open(2) == []
    again.close()
    assert disk.used() < MiB
