"""Flush: what is written, what is promised, and what a disk that refuses leads to."""

from __future__ import annotations

import errno
import os

import pytest

from shmq.layout.control import Word
from shmq.layout.ring import STATUS_CLOSED, STATUS_OK
from shmq.store.checkpoint import CheckpointFile
from shmq.store.commitlog import ZEROS, LogWriter, file_name
from shmq.workers.base import WorkLeft
from shmq.workers.flush import CHECKPOINT_INTERVAL_MS, ZERO_AHEAD_MAX
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import LOG_FILE_SIZE, House, encode, small_settings

TOPIC = "T"
NOW_MS = 1_700_000_000_000


class Disk:
    """Counts syncs, and refuses writes or syncs when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.syncs = 0
        self.refuses: str | None = None
        self.error = errno.EIO
        pwrite, fdatasync = os.pwrite, os.fdatasync

        def counted_fdatasync(fd: int) -> None:
            if self.refuses == "sync":
                raise OSError(self.error, os.strerror(self.error))
            self.syncs += 1
            fdatasync(fd)

        def refused_pwrite(fd: int, data: bytes, at: int) -> int:
            if self.refuses == "write":
                raise OSError(self.error, os.strerror(self.error))
            return pwrite(fd, data, at)

        monkeypatch.setattr(os, "fdatasync", counted_fdatasync)
        monkeypatch.setattr(os, "pwrite", refused_pwrite)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def sync_house(make_house: MakeHouse, house: House) -> House:
    """A house in SYNC_FLUSH on the same folder."""
    settings = small_settings(house.store_dir, flush_disk_type="SYNC_FLUSH")
    house.close()
    return make_house(settings=settings)


def append(house: House, body: bytes = b"x") -> int:
    """Append one message; its number in the ring."""
    number = house.producer.submit(house.slot(TOPIC), encode(TOPIC, body))
    house.writer().step(NOW_MS)
    return number


def words(house: House) -> tuple[int, int, int]:
    return (
        house.word(Word.APPEND_OFFSET),
        house.word(Word.WRITTEN_OFFSET),
        house.word(Word.FLUSHED_OFFSET),
    )


def test_written_at_once_synced_in_time(house: House, disk: Disk) -> None:
    settings = house.settings
    flush = house.flush()
    flush.step(NOW_MS)
    disk.syncs = 0
    longest_ms = settings.async_flush_millis_max // 2
    assert longest_ms < settings.flush_commit_log_thorough_interval
    append(house)
    flush.step(NOW_MS + 1)
    appended, written, flushed = words(house)
    assert appended == written > flushed == 0
    assert disk.syncs == 0
    flush.step(NOW_MS + longest_ms - 1)
    assert house.word(Word.FLUSHED_OFFSET) == 0, "too few pages, too early"
    flush.step(NOW_MS + longest_ms)
    assert len(set(words(house))) == 1
    assert disk.syncs >= 1


def test_syncs_are_counted_for_who_wants_to_know_the_size_of_a_group(
    make_house: MakeHouse, house: House
) -> None:
    house = sync_house(make_house, house)
    flush = house.flush()
    for count in range(1, 4):
        append(house)
        append(house)
        flush.step(NOW_MS)
        assert house.word(Word.SYNC_COUNT) == count
    flush.step(NOW_MS)
    assert house.word(Word.SYNC_COUNT) == 3, "nothing was left to sync"
    house.flush().step(NOW_MS)
    assert house.word(Word.SYNC_COUNT) == 3, "a successor goes on"


def blocks(house: House, start: int = 0) -> int:
    """Bytes of a commitlog file that have a place on the disk."""
    return (house.store_dir / "commitlog" / file_name(start)).stat().st_blocks * 512


def test_with_sync_flush_blocks_are_there_before_records_come(
    make_house: MakeHouse, house: House
) -> None:
    """To the end of the file here; never a byte of a record is lost by it."""
    house = sync_house(make_house, house)
    flush = house.flush()
    append(house)
    flush.step(NOW_MS)
    assert blocks(house) == LOG_FILE_SIZE
    path = house.store_dir / "commitlog" / file_name(0)
    end = house.word(Word.APPEND_OFFSET)
    assert not path.read_bytes()[end:].strip(b"\0")
    dispatch = house.dispatch()
    bodies = [b"x"]
    while house.word(Word.APPEND_OFFSET) < 2 * LOG_FILE_SIZE:
        bodies.append(b"%d" % len(bodies) * 1000)
        append(house, bodies[-1])
        flush.step(NOW_MS)
        dispatch.step(NOW_MS)
    flush.step(NOW_MS)
    assert blocks(house, LOG_FILE_SIZE) == LOG_FILE_SIZE
    assert house.bodies(TOPIC) == bodies


def test_blocks_come_a_piece_at_a_time_and_no_more_than_are_useful(
    make_house: MakeHouse, house: House
) -> None:
    settings = small_settings(
        house.store_dir,
        flush_disk_type="SYNC_FLUSH",
        mapped_file_size_commit_log=4 * ZERO_AHEAD_MAX,
    )
    house.close()
    house = make_house(settings=settings)
    flush = house.flush()
    append(house)
    flush.step(NOW_MS)
    assert len(ZEROS) <= blocks(house) <= len(ZEROS) + 8192
    append(house)
    flush.step(NOW_MS)
    assert blocks(house) <= len(ZEROS) + 8192, "there is enough"
    for _ in range(40):  # Nothing comes.
        flush.step(NOW_MS)
    assert ZERO_AHEAD_MAX <= blocks(house) <= ZERO_AHEAD_MAX + len(ZEROS)
    successor = house.flush()
    append(house)
    successor.step(NOW_MS)
    assert blocks(house) <= ZERO_AHEAD_MAX + 3 * len(ZEROS), "it goes on at the hole"


def test_without_room_for_zeros_records_are_written(
    make_house: MakeHouse, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = sync_house(make_house, house)
    flush = house.flush()

    def full(_log: LogWriter, _offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LogWriter, "zero", full)
    for _ in range(3):
        append(house)
        flush.step(NOW_MS)
    assert len(set(words(house))) == 1
    assert house.word(Word.FLUSH_ERROR) == house.word(Word.NO_ROOM_SINCE) == 0


def test_a_disk_that_refuses_zeros_has_failed(
    make_house: MakeHouse, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = sync_house(make_house, house)
    flush = house.flush()

    def broken(_log: LogWriter, _offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(LogWriter, "zero", broken)
    append(house)
    flush.step(NOW_MS)
    assert len(set(words(house))) == 1, "what was synced before is confirmed"
    assert house.word(Word.FLUSH_ERROR) == errno.EIO


def test_with_async_flush_nothing_is_zeroed(house: House) -> None:
    flush = house.flush()
    for _ in range(3):
        append(house)
        flush.step(NOW_MS)
        flush.step(NOW_MS + 10**6)
    assert blocks(house) < LOG_FILE_SIZE


def test_many_pages_are_synced_sooner(house: House) -> None:
    flush = house.flush()
    flush.step(NOW_MS)
    for _ in range(house.settings.flush_commit_log_least_pages):
        append(house, b"x" * 4096)
    flush.step(NOW_MS + house.settings.flush_interval_commit_log - 1)
    assert house.word(Word.FLUSHED_OFFSET) == 0
    flush.step(NOW_MS + house.settings.flush_interval_commit_log)
    assert len(set(words(house))) == 1


def test_a_clock_set_back_does_not_stop_syncs(house: House) -> None:
    flush = house.flush()
    flush.step(NOW_MS)
    append(house)
    flush.step(NOW_MS - 3_600_000)
    assert len(set(words(house))) == 1


def test_sync_flush_shows_nothing_that_is_not_on_the_disk(
    make_house: MakeHouse, house: House, disk: Disk
) -> None:
    house = sync_house(make_house, house)
    slot = house.slot(TOPIC)
    flush, dispatch = house.flush(), house.dispatch()
    append(house)
    dispatch.step(NOW_MS)
    assert house.arena.queues.max_offset(slot) == 0
    assert house.word(Word.REPUT_OFFSET) == 0
    disk.syncs = 0
    assert flush.step(NOW_MS) > 0
    assert disk.syncs >= 1
    append(house)
    dispatch.step(NOW_MS)
    assert house.arena.queues.max_offset(slot) == 1
    assert house.word(Word.REPUT_OFFSET) == house.word(Word.FLUSHED_OFFSET)
    assert house.word(Word.APPEND_OFFSET) == 2 * house.word(Word.FLUSHED_OFFSET)


def test_a_new_flush_syncs_what_the_dead_one_wrote(
    make_house: MakeHouse, house: House, disk: Disk
) -> None:
    """Its files are not open in the new process, and may be two."""
    house = sync_house(make_house, house)
    for _ in range(10):
        append(house, b"x" * 8000)
    dead = house.flush()
    assert dead._write() == 1
    assert house.word(Word.FLUSHED_OFFSET) == 0
    successor = house.flush()
    disk.syncs = 0
    successor.step(NOW_MS)
    assert len(set(words(house))) == 1
    assert disk.syncs >= 2, "both files"
    dead.close()
    successor.close()


@pytest.mark.parametrize(
    ("what", "error"),
    [("write", errno.EIO), ("sync", errno.EIO), ("sync", errno.ENOSPC), ("sync", errno.EDQUOT)],
)
def test_a_failed_disk_is_final(
    make_house: MakeHouse, house: House, disk: Disk, what: str, error: int
) -> None:
    house = sync_house(make_house, house)
    slot = house.slot(TOPIC)
    flush, dispatch = house.flush(), house.dispatch()
    append(house, b"good")
    flush.step(NOW_MS)
    flushed = house.word(Word.FLUSHED_OFFSET)
    number = append(house, b"lost")
    disk.refuses, disk.error = what, error
    assert flush.step(NOW_MS) == 0
    assert house.word(Word.FLUSH_ERROR) == error
    disk.refuses = None
    assert flush.step(NOW_MS) == 0, "nothing is tried again"
    assert house.flush().step(NOW_MS) == 0, "nor by a successor"
    dispatch.step(NOW_MS)
    assert house.word(Word.FLUSHED_OFFSET) == flushed
    assert house.arena.queues.max_offset(slot) == 1, "the second is never shown"
    assert house.producer.done(number).status == 0
    with pytest.raises(WorkLeft, match=f"messages are not on the disk.*errno={error}"):
        flush.drain(NOW_MS)
    flush.close()


def test_checkpoint_vouches_for_records_with_entries_only(house: House) -> None:
    """And for no entry whose record is not on the disk: it is kept in mind until that is."""
    flush, dispatch = house.flush(), house.dispatch()
    file = CheckpointFile(house.store_dir / "checkpoint")
    append(house)
    flush.step(NOW_MS)
    assert flush.drain(NOW_MS)
    assert file.load().vouched_offset == 0, "on the disk, but not in its consumequeue"
    append(house)
    filed = house.word(Word.APPEND_OFFSET)
    while not dispatch.drain(NOW_MS):
        pass
    assert house.word(Word.FILED_OFFSET) == filed > house.word(Word.FLUSHED_OFFSET)
    flush._save_checkpoint(NOW_MS, force=True)
    assert file.load().vouched_offset == 0, "in its consumequeue, but not on the disk"
    append(house)
    assert flush.drain(NOW_MS)
    assert file.load().vouched_offset == filed < house.word(Word.FLUSHED_OFFSET)
    dispatch.close()
    flush.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_write_without_room_is_tried_again(
    make_house: MakeHouse, house: House, disk: Disk, error: int
) -> None:
    house = sync_house(make_house, house)
    slot = house.slot(TOPIC)
    flush, dispatch = house.flush(), house.dispatch()
    append(house, b"good")
    flush.step(NOW_MS)
    _, written, flushed = words(house)
    number = append(house, b"waits")
    disk.refuses, disk.error = "write", error
    assert flush.step(NOW_MS) == 0
    assert (house.word(Word.NO_ROOM_SINCE), house.word(Word.FLUSH_ERROR)) == (NOW_MS, 0)
    assert words(house)[1:] == (written, flushed)
    refused = append(house, b"refused")
    assert house.producer.done(refused).status == STATUS_CLOSED
    dispatch.step(NOW_MS)
    assert house.arena.queues.max_offset(slot) == 1, "not before it is on the disk"
    with pytest.raises(WorkLeft, match=f"has no room.*errno={error}"):
        flush.drain(NOW_MS)
    successor = house.flush()
    assert successor.step(NOW_MS + 1) == 0
    assert house.word(Word.NO_ROOM_SINCE) == NOW_MS, "since when stays"
    disk.refuses = None
    assert successor.step(NOW_MS + 2) > 0
    assert house.word(Word.NO_ROOM_SINCE) == 0
    assert len(set(words(house))) == 1
    assert house.producer.done(append(house, b"again")).status == STATUS_OK
    successor.step(NOW_MS + 3)
    dispatch.step(NOW_MS + 3)
    assert house.producer.done(number).status == STATUS_OK
    assert house.bodies(TOPIC) == [b"good", b"waits", b"again"]
    for role in (flush, successor):
        role.close()


def test_what_was_written_before_is_synced_without_room(
    make_house: MakeHouse, house: House, disk: Disk
) -> None:
    house = sync_house(make_house, house)
    flush = house.flush()
    append(house, b"good")
    assert flush._write() == 1
    append(house, b"waits")
    disk.refuses, disk.error = "write", errno.ENOSPC
    flush.step(NOW_MS)
    appended, written, flushed = words(house)
    assert written == flushed < appended
    flush.close()


def test_it_waits_for_room_for_others_too(house: House, disk: Disk) -> None:
    rooms: list[bool] = []
    flush = house.flush()
    flush._has_room = lambda: rooms.pop(0)
    append(house)
    disk.refuses, disk.error = "write", errno.ENOSPC
    flush.step(NOW_MS)
    disk.refuses = None
    rooms += [False, False, True]
    for expected in (NOW_MS, NOW_MS, 0):
        flush.step(NOW_MS + 1)
        assert house.word(Word.NO_ROOM_SINCE) == expected
    flush.close()


def test_a_checkpoint_without_room_is_no_failure(house: House, disk: Disk) -> None:
    flush = house.flush()
    append(house)
    flush._write()
    disk.refuses, disk.error = "write", errno.ENOSPC
    flush.step(NOW_MS)
    assert house.word(Word.FLUSH_ERROR) == 0
    disk.refuses = None
    flush.step(NOW_MS + CHECKPOINT_INTERVAL_MS)
    flush.step(NOW_MS + house.settings.flush_commit_log_thorough_interval)
    file = CheckpointFile(house.store_dir / "checkpoint")
    assert file.load().confirm_offset == house.word(Word.APPEND_OFFSET)
    flush.close()


def test_checkpoint_says_what_is_on_disk(house: House) -> None:
    flush = house.flush()
    append(house)
    flush.step(NOW_MS)
    file = CheckpointFile(house.store_dir / "checkpoint")
    assert file.load().confirm_offset == house.word(Word.FLUSHED_OFFSET)
    append(house)
    flush.step(NOW_MS + CHECKPOINT_INTERVAL_MS - 1)
    assert file.load().confirm_offset < house.word(Word.APPEND_OFFSET)
    assert flush.drain(NOW_MS)
    found = file.load()
    assert found.confirm_offset == house.word(Word.APPEND_OFFSET)
    assert found.physical_timestamp == NOW_MS
    flush.close()


def test_drain_needs_several_steps_for_much(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shmq.workers.flush.WRITE_SIZE_MAX", 9000)
    flush = house.flush()
    for _ in range(5):
        append(house, b"x" * 8000)
    rounds = 1
    while not flush.drain(NOW_MS):
        rounds += 1
    assert rounds == 5
    assert len(set(words(house))) == 1


def test_waiting_ends_when_rung(house: House) -> None:
    flush = house.flush()
    flush.wake()
    flush.wait(60_000)
