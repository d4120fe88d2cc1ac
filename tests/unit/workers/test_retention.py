"""Retention: what it deletes of a small store, in what order, and what readers see meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shmq.errors import StoreError
from shmq.layout.control import Word
from shmq.layout.cqentry import ENTRY_SIZE
from shmq.layout.record import Record
from shmq.reading import StaleFiles
from shmq.store.commitlog import LogFiles
from shmq.store.consumequeue import QueueFiles
from shmq.units import HOUR_MS
from shmq.workers.dispatch import SYNC_INTERVAL_MS
from shmq.workers.retention import Retention
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import LOG_FILE_SIZE, QUEUE_FILE_SIZE, House, encode, small_settings

NOW_MS = 1_700_000_000_000
PER_FILE = QUEUE_FILE_SIZE // ENTRY_SIZE
BODY = b"x" * 1000


class Keeper:
    """A house with files that are as old as a test wants, and its retention, stepped by hand."""

    def __init__(self, house: House, **settings: Any) -> None:
        self.house = house
        self.used_percent = 10.0
        self.usable_size = 100 * LOG_FILE_SIZE
        self.starts: list[int] = []
        self.tick_ms = 0
        self.settings = small_settings(
            house.store_dir,
            **{
                "delete_when": ";".join(f"{hour:02d}" for hour in range(24)),
                "delete_commit_log_files_interval": 0,
                "delete_consume_queue_files_interval": 0,
                **settings,
            },
        )
        self.retention = self.make()

    def make(self) -> Retention:
        """A housekeeping's retention, also one that follows a dead one."""
        return Retention(
            settings=self.settings,
            arena=self.house.arena,
            commitlog_dir=self.log_dir,
            queue_root=self.queue_root,
            followers=[self._follow],
            disk_look=self._disk,
            clock_ms=lambda: self.tick_ms,
        )

    def _disk(self, folders: Sequence[Path]) -> tuple[float, int]:
        assert folders == (self.log_dir, self.queue_root)
        return self.used_percent, self.usable_size

    def _follow(self, start: int) -> int:
        self.starts.append(start)
        return 0

    @property
    def log_dir(self) -> Path:
        """Folder of the commitlog."""
        return self.house.store_dir / "commitlog"

    @property
    def queue_root(self) -> Path:
        """Folder of the consumequeues."""
        return self.house.store_dir / "consumequeue"

    def log_files(self) -> list[int]:
        """Numbers of the commitlog files that are there."""
        return sorted(int(path.name) // LOG_FILE_SIZE for path in self.log_dir.iterdir())

    def queue_files(self, topic: str) -> list[int]:
        """Numbers of a queue's files that are there."""
        folder = self.queue_root / topic / "0"
        return sorted(int(path.name) // QUEUE_FILE_SIZE for path in folder.iterdir())

    def age(self, *hours: float) -> None:
        """Make the files so old, the oldest first; the last number is for all the others."""
        for number, path in enumerate(sorted(self.log_dir.iterdir())):
            stamp = NOW_MS / 1000 - hours[min(number, len(hours) - 1)] * 3600
            os.utime(path, (stamp, stamp))

    def run(self, rounds: int = 50) -> None:
        """Let it do all that there is to do now."""
        for _ in range(rounds):
            self.retention.do(NOW_MS)
            self.tick_ms += self.settings.clean_resource_interval // 10


def fill(house: House, count: int, *, topic: str = "T", now_ms: int = NOW_MS) -> None:
    """Store messages of 1 KB and bring them to the disk, entries too."""
    slot = house.slot(topic)
    writer, flush, dispatch = house.writer(), house.flush(), house.dispatch()
    for _ in range(count):
        house.producer.submit(slot, encode(topic, BODY))
        writer.step(now_ms)
        flush.step(now_ms)
        dispatch.step(now_ms)
    flush.step(now_ms + HOUR_MS)
    for _ in range(2):
        dispatch.step(now_ms)
        dispatch.step(now_ms + SYNC_INTERVAL_MS)
    assert house.word(Word.FILED_OFFSET) == house.word(Word.FLUSHED_OFFSET)
    assert house.word(Word.APPEND_OFFSET) == house.word(Word.FLUSHED_OFFSET)
    flush.close()
    dispatch.close()


@pytest.fixture
def keeper(house: House) -> Iterator[Keeper]:
    """One whose log has 8 files: 470 messages in queue T."""
    fill(house, 470)
    made = Keeper(house)
    assert made.log_files() == list(range(8))
    yield made
    made.retention.close()


def test_old_files_go_and_the_rest_is_read(keeper: Keeper) -> None:
    keeper.age(80, 80, 80, 1)
    house = keeper.house
    slot = house.slot("T")
    before = house.messages("T")
    keeper.run()
    start = 3 * LOG_FILE_SIZE
    assert keeper.log_files() == [3, 4, 5, 6, 7]
    assert house.word(Word.LOG_START) == start
    assert keeper.starts == [start]
    low = house.arena.queues.min_offset(slot)
    assert house.messages("T") == [one for one in before if one.physical_offset >= start]
    assert keeper.queue_files("T") == list(range(low // PER_FILE, 470 // PER_FILE + 1))
    with pytest.raises(StoreError, match="not in the commitlog"):
        house.log_reader().record(start - 1, 1)


def test_a_young_file_keeps_all_after_it(keeper: Keeper) -> None:
    keeper.age(1, 80)
    keeper.run()
    assert keeper.log_files() == list(range(8))
    assert keeper.starts == []


def test_it_goes_on_where_a_dead_one_stopped(keeper: Keeper) -> None:
    """Killed at each seam: before and after the words are published, and after each file."""
    keeper.age(80, 80, 80, 1)
    house = keeper.house
    kept = [one for one in house.messages("T") if one.physical_offset >= 3 * LOG_FILE_SIZE]
    queue = house.slot("T")

    dead = keeper.retention
    dead._raise_minima(3 * LOG_FILE_SIZE)
    low = house.arena.queues.min_offset(queue)
    assert (low, house.word(Word.LOG_START)) == (kept[0].queue_offset, 0)
    keeper.retention = dead = keeper.make()
    dead._begin_round(NOW_MS, [0, 0])
    assert house.word(Word.LOG_START) == 3 * LOG_FILE_SIZE
    assert keeper.log_files() == list(range(8)), "nothing is deleted yet"
    keeper.age(1)  # They would not be found old any more.
    keeper.settings = replace(keeper.settings, delete_commit_log_files_interval=10)
    for left in ([1, 2, 3, 4, 5, 6, 7], [2, 3, 4, 5, 6, 7], [3, 4, 5, 6, 7]):
        keeper.retention = keeper.make()
        for _ in range(3):
            if keeper.log_files() != left:
                keeper.retention.do(NOW_MS)
        assert keeper.log_files() == left
    keeper.retention = keeper.make()
    keeper.run()
    assert keeper.queue_files("T")[0] == low // PER_FILE
    assert house.messages("T") == kept


@pytest.mark.parametrize("clean", [True, False])
def test_a_store_opens_after_a_crash_between_any_two_files(
    keeper: Keeper, make_house: MakeHouse, *, clean: bool
) -> None:
    keeper.age(80, 80, 80, 1)
    removed: list[Path] = []
    unlink = Path.unlink
    before = keeper.house.messages("T")

    def counted(path: Path, *, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        if path.parent.parent.name in {"store", "T"}:
            removed.append(path)
            check_opens(keeper.house, make_house, before, clean=clean)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", counted)
        keeper.run()
    assert len(removed) > 6, "files of both kinds"


def check_opens(house: House, make_house: MakeHouse, before: list[Record], *, clean: bool) -> None:
    """A copy of the store as it is now opens, and has what is kept; offsets go on."""
    copy = house.store_dir.with_name("copy")
    shutil.copytree(house.store_dir, copy)
    other = make_house(copy, clean=clean)
    start = other.word(Word.LOG_START)
    assert other.messages("T") == [one for one in before if one.physical_offset >= start]
    assert other.arena.queues.max_offset(other.slot("T")) == len(before)
    assert other.word(Word.APPEND_OFFSET) == house.word(Word.APPEND_OFFSET)
    other.close()
    shutil.rmtree(copy)


def test_a_queue_without_messages_keeps_its_place(keeper: Keeper, make_house: MakeHouse) -> None:
    """All messages of a queue go; after a restart its next one has the next offset."""
    house = keeper.house
    fill(house, 470, topic="U")
    keeper.age(80)
    keeper.run()
    slot = house.slot("T")
    assert house.arena.queues.min_offset(slot) == house.arena.queues.max_offset(slot) == 470
    assert keeper.queue_files("T") == [469 // PER_FILE]
    house.close()
    again = make_house()
    slot = again.slot("T")
    assert again.arena.queues.min_offset(slot) == again.arena.queues.max_offset(slot) == 470
    fill(again, 1)
    assert [one.queue_offset for one in again.messages("T")] == [470]


def test_the_newest_entry_stays_although_it_is_old(house: House, make_house: MakeHouse) -> None:
    """Also where its file is full, and a crash has left the next one without an entry."""
    fill(house, 12 * PER_FILE)
    fill(house, 70, topic="U")
    keeper = Keeper(house)
    empty = keeper.queue_root / "T" / "0" / f"{12 * QUEUE_FILE_SIZE:020d}"
    empty.write_bytes(bytes(QUEUE_FILE_SIZE))
    keeper.age(80)
    keeper.run()
    assert keeper.queue_files("T") == [11, 12]
    keeper.retention.close()
    house.close()
    again = make_house()
    assert again.arena.queues.max_offset(again.slot("T")) == 12 * PER_FILE


def test_a_new_dispatch_makes_no_deleted_file_anew(house: House) -> None:
    """Its hot ring still has entries that lie in it."""
    fill(house, 445)
    fill(house, 70, topic="U")
    assert house.arena.queues.hot_starts[house.slot("T")] < 440
    keeper = Keeper(house)
    keeper.age(80)
    keeper.run()
    assert keeper.queue_files("T") == [11]
    dispatch = house.dispatch()
    dispatch.step(NOW_MS)
    dispatch.step(NOW_MS + SYNC_INTERVAL_MS)
    assert keeper.queue_files("T") == [11]
    keeper.retention.close()


def test_nothing_goes_before_its_entries_are_on_the_disk(house: House) -> None:
    """A power cut could take them, and the queue's offsets with them."""
    slot = house.slot("T")
    writer, flush, dispatch = house.writer(), house.flush(), house.dispatch()
    for _ in range(200):
        house.producer.submit(slot, encode("T", BODY))
        writer.step(NOW_MS)
        flush.step(NOW_MS)
        dispatch.step(NOW_MS)
    flush.step(NOW_MS + HOUR_MS)
    keeper = Keeper(house)
    keeper.age(80)
    keeper.run()
    assert house.word(Word.REPUT_OFFSET) == house.word(Word.FLUSHED_OFFSET)
    assert keeper.log_files() == [0, 1, 2, 3], "written, flushed and dispatched, but not filed"
    dispatch.step(NOW_MS + SYNC_INTERVAL_MS)
    keeper.run()
    assert keeper.log_files() == [3]
    keeper.retention.close()


def test_pressure_takes_young_files(keeper: Keeper) -> None:
    keeper.age(1)
    keeper.used_percent = 87.9
    keeper.usable_size = 100 * LOG_FILE_SIZE
    keeper.retention.do(NOW_MS)
    keeper.used_percent = 84.0
    keeper.run()
    assert keeper.log_files() == [3, 4, 5, 6, 7], "3 % are three files"


def test_quota(house: House) -> None:
    fill(house, 470)
    keeper = Keeper(house, store_quota_bytes=4 * LOG_FILE_SIZE)
    keeper.age(1)
    keeper.run()
    assert len(keeper.log_files()) == 3, "the consumequeues count too"
    keeper.retention.close()


def test_a_file_that_cannot_be_deleted_keeps_those_after_it(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper.age(80, 80, 80, 1)
    unlink = Path.unlink
    refused = keeper.log_dir / f"{LOG_FILE_SIZE:020d}"

    def refuse(path: Path, *, missing_ok: bool = False) -> None:
        if path == refused:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    keeper.run()
    assert keeper.log_files() == list(range(1, 8))
    monkeypatch.undo()
    keeper.run(2)
    assert keeper.log_files() == list(range(1, 8)), "not before its time"
    keeper.tick_ms += keeper.settings.redelete_hanged_file_interval
    keeper.run()
    assert keeper.log_files() == list(range(3, 8))


def test_an_operator_asks(house: House) -> None:
    """Old files go although the hour is wrong; all of them, in rounds."""
    fill(house, 470)
    keeper = Keeper(house, delete_when="00", delete_file_batch_max=2, file_reserved_time=1)
    keeper.settings = replace(keeper.settings, delete_when=f"{(local_hour() + 2) % 24:02d}")
    keeper.retention.reload(keeper.settings)
    keeper.age(80)
    keeper.run()
    assert keeper.log_files() == list(range(8))
    house.arena.writer(Word.DELETE_ASKED, role="coordinator").publish(1)
    keeper.run(20)
    assert keeper.log_files() == [7]
    assert keeper.starts == [
        2 * LOG_FILE_SIZE,
        4 * LOG_FILE_SIZE,
        6 * LOG_FILE_SIZE,
        7 * LOG_FILE_SIZE,
    ]
    keeper.retention.close()


def local_hour() -> int:
    return datetime.fromtimestamp(NOW_MS / 1000).astimezone().hour


def test_who_reads_finishes(keeper: Keeper) -> None:
    """A file that is open stays readable; its space comes back when its reader lets go."""
    house = keeper.house
    files = LogFiles(keeper.log_dir, file_size=LOG_FILE_SIZE)
    queue_files = QueueFiles(keeper.queue_root, file_size=QUEUE_FILE_SIZE)
    stale = StaleFiles(arena=house.arena, queue_files=queue_files, log_files=files)
    data = files.read(100, 5000)
    entries = queue_files.read("T", 0, 0, 5)
    keeper.age(80, 80, 1)
    keeper.run()
    assert keeper.log_files()[0] == 2
    assert files.read(100, 5000) == data
    assert (queue_files.read("T", 0, 0, 5) == entries).all()
    held = keeper.retention._removal.held_size
    assert held >= LOG_FILE_SIZE
    stale.close()
    with pytest.raises(StoreError, match="cannot be opened"):
        files.read(100, 5000)
    keeper.retention.do(NOW_MS)
    assert keeper.retention._removal.held_size == 0
    files.close()
    queue_files.close()


def test_who_never_lets_go_loses_the_file(keeper: Keeper) -> None:
    path = keeper.log_dir / f"{0:020d}"
    with path.open("rb") as reader:
        keeper.age(80, 1)
        keeper.run(3)
        assert keeper.log_files()[0] == 1
        assert os.fstat(reader.fileno()).st_blocks > 0
        keeper.tick_ms += keeper.settings.destroy_maped_file_interval_forcibly
        keeper.run(1)
        assert os.fstat(reader.fileno()).st_blocks == 0
    assert keeper.retention._removal.held_size == 0


def test_new_settings_are_taken(keeper: Keeper) -> None:
    keeper.age(50, 1)
    keeper.run()
    assert keeper.log_files()[0] == 0
    keeper.settings = replace(keeper.settings, file_reserved_time=49)
    keeper.retention.reload(keeper.settings)
    keeper.run()
    assert keeper.log_files()[0] == 1
