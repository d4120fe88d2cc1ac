"""Dispatch: entries become visible, reach the files before their place is used again."""

from __future__ import annotations

import errno
import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from shmq.layout.control import DESCRIPTOR, Word
from shmq.layout.cqentry import ENTRY
from shmq.workers.base import WorkLeft
from shmq.workers.dispatch import FILE_INTERVAL_MS, SYNC_INTERVAL_MS, SYNC_PAUSE_MS
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import House, encode

TOPIC = "T"
NOW_MS = 1_700_000_000_000


def append(house: House, count: int, *, now_ms: int = NOW_MS, code: int = 0) -> None:
    slot = house.slot(TOPIC)
    writer = house.writer()
    for number in range(count):
        house.producer.submit(slot, encode(TOPIC, b"%d" % number), code=code)
        writer.step(now_ms)


def stored(house: House) -> list[tuple[int, int, int]]:
    """Entries in the files of the queue."""
    folder = house.store_dir / "consumequeue" / TOPIC / "0"
    if not folder.exists():
        return []
    data = b"".join(file.read_bytes() for file in sorted(folder.iterdir()))
    entries = np.frombuffer(data, ENTRY)
    found: list[tuple[int, int, int]] = entries[entries["size"] > 0].tolist()
    return found


def test_entries_are_visible_at_once_and_filed_in_time(house: House) -> None:
    dispatch = house.dispatch()
    dispatch.step(NOW_MS)
    append(house, 3, code=-5)
    assert dispatch.step(NOW_MS + 1) == 3
    slot = house.slot(TOPIC)
    assert house.arena.queues.max_offset(slot) == 3
    hot = house.queue_reader().entries(slot, 0, 10).tolist()
    assert [code for _, _, code in hot] == [-5] * 3
    assert stored(house) == []
    dispatch.step(NOW_MS + FILE_INTERVAL_MS)
    assert stored(house) == hot


def test_more_entries_than_the_hot_ring_holds(house: House) -> None:
    """The ring has 16; what leaves it is in the files before."""
    dispatch = house.dispatch()
    append(house, 50)
    while dispatch.step(NOW_MS):
        pass
    slot = house.slot(TOPIC)
    queues = house.arena.queues
    assert (queues.hot_starts[slot], queues.max_offset(slot)) == (50 - 16, 50)
    assert house.bodies(TOPIC) == [b"%d" % number for number in range(50)]
    assert len(stored(house)) >= 50 - 16
    dispatch.close()
    append(house, 1)
    successor = house.dispatch()
    successor.step(NOW_MS)
    assert len(house.bodies(TOPIC)) == 51


def test_a_reader_gets_entries_across_files_and_ring(house: House) -> None:
    dispatch = house.dispatch()
    append(house, 50)
    dispatch.step(NOW_MS)
    reader, slot = house.queue_reader(), house.slot(TOPIC)
    for first in range(50):
        for count in (1, 3, 16, 50):
            found = reader.entries(slot, first, count)
            assert 1 <= len(found) <= count
            assert len(reader.entries(slot, first, 1)) == 1
    assert len(reader.entries(slot, 50, 5)) == 0
    assert len(reader.entries(slot, -1, 5)) == 0


def test_a_descriptor_that_is_not_next_is_told_of_and_passed_over(house: House) -> None:
    append(house, 2)
    table = np.frombuffer(house.arena.descriptors, DESCRIPTOR)
    table[1]["queue_offset"] = 7
    dispatch = house.dispatch()
    assert dispatch.step(NOW_MS) == 2
    assert house.arena.queues.max_offset(house.slot(TOPIC)) == 1
    assert dispatch._gaps == 1


def test_what_is_on_disk_is_said_after_the_sync(house: House, whole_syncs: list[int]) -> None:
    dispatch = house.dispatch()
    append(house, 2)
    dispatch.step(NOW_MS)
    append(house, 1, now_ms=NOW_MS + 50)
    dispatch.step(NOW_MS + FILE_INTERVAL_MS)
    assert house.word(Word.FILED_TIMESTAMP) == 0
    dispatch.step(NOW_MS + SYNC_INTERVAL_MS)
    assert house.word(Word.FILED_TIMESTAMP) == NOW_MS + 50
    assert whole_syncs == [], "nobody wrote before it"


def test_much_is_synced_earlier(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a start after a crash has no more than that to walk."""
    monkeypatch.setattr("shmq.workers.dispatch.SYNC_SIZE", 1000)
    dispatch = house.dispatch()
    append(house, 2)
    assert house.word(Word.APPEND_OFFSET) < 1000
    dispatch.step(NOW_MS)
    dispatch.step(NOW_MS + SYNC_PAUSE_MS)
    assert house.word(Word.FILED_OFFSET) == 0
    append(house, 10)
    dispatch.step(NOW_MS + 2 * SYNC_PAUSE_MS - 1)
    assert house.word(Word.FILED_OFFSET) == house.word(Word.APPEND_OFFSET)
    end = house.word(Word.APPEND_OFFSET)
    append(house, 12)
    dispatch.step(NOW_MS + 3 * SYNC_PAUSE_MS - 2)
    assert house.word(Word.FILED_OFFSET) == end, "not at once again"
    dispatch.step(NOW_MS + 3 * SYNC_PAUSE_MS)
    assert house.word(Word.FILED_OFFSET) == house.word(Word.APPEND_OFFSET)


def test_under_steady_load_the_timestamp_goes_on(house: House) -> None:
    """New entries in every step do not keep the sync from saying what it did."""
    dispatch = house.dispatch()
    dispatch.step(NOW_MS)
    for number in range(30):
        now_ms = NOW_MS + number * 700
        append(house, 1, now_ms=now_ms)
        dispatch.step(now_ms)
    assert house.word(Word.FILED_TIMESTAMP) >= NOW_MS + SYNC_INTERVAL_MS


def test_a_successor_syncs_what_was_inherited(house: House, whole_syncs: list[int]) -> None:
    append(house, 2)
    house.dispatch().step(NOW_MS)
    successor = house.dispatch()
    successor.step(NOW_MS)
    assert whole_syncs == [], "not while consumers wait for it"
    successor.step(NOW_MS + SYNC_INTERVAL_MS)
    assert whole_syncs == [1]
    assert house.word(Word.FILED_TIMESTAMP) == NOW_MS
    assert len(stored(house)) == 2


class Refusal:
    """A disk that refuses one system call for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, error: int) -> None:
        self.on = False
        real = getattr(os, call)

        def refused(*args: object) -> object:
            if self.on:
                raise OSError(error, os.strerror(error))
            return real(*args)

        monkeypatch.setattr(os, call, refused)


def open_fds() -> int:
    """Open descriptors of this process that somebody still knows of."""
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("call", ["pwrite", "ftruncate"])
def test_full_disk_holds_entries_in_memory_and_is_tried_again(
    house: House, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The hot ring has 16 places: what comes after them waits, and nothing is lost."""
    dispatch = house.dispatch()
    append(house, 20)
    disk = Refusal(monkeypatch, call, errno.ENOSPC)
    disk.on = True
    assert dispatch.step(NOW_MS) == 16
    fds = open_fds()
    assert dispatch.step(NOW_MS + FILE_INTERVAL_MS) == 0
    dispatch.wait(1)
    assert open_fds() == fds
    slot = house.slot(TOPIC)
    assert house.arena.queues.max_offset(slot) == 16
    with pytest.raises(WorkLeft, match="not in the consumequeues"):
        dispatch.drain(NOW_MS)
    assert house.word(Word.FILED_TIMESTAMP) == 0
    disk.on = False
    assert dispatch.step(NOW_MS) == 4
    assert dispatch.drain(NOW_MS)
    assert len(stored(house)) == 20
    assert house.word(Word.FILED_TIMESTAMP) == NOW_MS


def test_after_a_failed_sync_nothing_is_promised(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch = house.dispatch()
    append(house, 3)
    dispatch.step(NOW_MS)
    disk = Refusal(monkeypatch, "fdatasync", errno.EIO)
    disk.on = True
    dispatch.step(NOW_MS + SYNC_INTERVAL_MS)
    disk.on = False
    append(house, 3)
    dispatch.step(NOW_MS + 2 * SYNC_INTERVAL_MS)
    assert house.word(Word.FILED_TIMESTAMP) == 0
    assert house.arena.queues.max_offset(house.slot(TOPIC)) == 6, "consumers go on"
    with pytest.raises(WorkLeft, match="not in the consumequeues"):
        dispatch.drain(NOW_MS)


def test_waiting_pulls_are_woken(house: House) -> None:
    append(house, 1)
    dispatch = house.dispatch()
    bell = house.arena.bells["serve0"]
    bell.arm()
    dispatch.step(NOW_MS)
    assert not bell.wait(0), "it holds no pull"
    house.arena.holding(0).publish(1)
    append(house, 1)
    dispatch.step(NOW_MS)
    assert bell.wait(0)


@pytest.mark.parametrize("holding", [0, 1])
def test_it_sleeps_until_records_come(house: House, holding: int) -> None:
    house.arena.holding(0).publish(holding)
    house.slot(TOPIC)
    writer, dispatch = house.writer(), house.dispatch()
    house.producer.submit(0, encode(TOPIC, b"x"))
    sleeper = threading.Thread(target=dispatch.wait, args=(30_000,))
    sleeper.start()
    writer.step(NOW_MS)
    sleeper.join(20)
    assert not sleeper.is_alive()
    assert dispatch.step(NOW_MS) == 1


def test_what_is_filed_is_said_although_a_queue_is_refused(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk retention may delete what is before the first entry that is only in memory."""
    dispatch = house.dispatch()
    append(house, 3)
    dispatch.step(NOW_MS)
    dispatch.step(NOW_MS + SYNC_INTERVAL_MS)
    assert house.word(Word.FILED_OFFSET) == house.word(Word.REPUT_OFFSET) > 0
    filed = house.word(Word.FILED_OFFSET)
    refused = Refusal(monkeypatch, "pwrite", errno.ENOSPC)
    refused.on = True
    append(house, 2)
    dispatch.step(NOW_MS + SYNC_INTERVAL_MS + FILE_INTERVAL_MS)
    dispatch._unsynced = True  # Another queue was written.
    dispatch.step(NOW_MS + SYNC_INTERVAL_MS + 2 * FILE_INTERVAL_MS)
    assert house.word(Word.FILED_OFFSET) == filed < house.word(Word.REPUT_OFFSET)
    refused.on = False
    dispatch.step(NOW_MS + SYNC_INTERVAL_MS + 3 * FILE_INTERVAL_MS)
    dispatch.step(NOW_MS + 2 * SYNC_INTERVAL_MS + 3 * FILE_INTERVAL_MS)
    assert house.word(Word.FILED_OFFSET) == house.word(Word.REPUT_OFFSET) > filed


def test_refused_entries_wait_for_room_for_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatch = house.dispatch()
    refused = Refusal(monkeypatch, "pwrite", errno.ENOSPC)
    refused.on = True
    append(house, 2)
    dispatch.step(NOW_MS)
    dispatch.step(NOW_MS + FILE_INTERVAL_MS)
    refused.on = False
    dispatch._has_room = lambda: False
    dispatch.step(NOW_MS + 2 * FILE_INTERVAL_MS)
    assert dispatch._marks.any()
    dispatch._has_room = lambda: True
    dispatch.step(NOW_MS + 3 * FILE_INTERVAL_MS)
    assert not dispatch._marks.any()
    assert len(stored(house)) == 2


@pytest.mark.parametrize("checkpoint", ["is there", "is gone"])
def test_after_a_crash_all_is_synced_before_anybody_works(
    house: House, make_house: MakeHouse, whole_syncs: list[int], checkpoint: str
) -> None:
    """What a killed broker wrote may not be on the disk; killed again, it has less to walk."""
    dispatch = house.dispatch()
    append(house, 2)
    dispatch.step(NOW_MS)
    assert dispatch.drain(NOW_MS)
    flush = house.flush()
    assert flush.drain(NOW_MS)
    end = house.word(Word.APPEND_OFFSET)
    house.close()
    assert not whole_syncs
    if checkpoint == "is gone":
        (house.store_dir / "checkpoint").unlink()
    crashed = make_house(clean=False)
    assert crashed.word(Word.FILED_OFFSET) == end
    assert crashed.dispatch().drain(NOW_MS)
    assert whole_syncs == [1], "dispatch has inherited nothing"
    crashed.close()
    clean = make_house(clean=True)
    assert clean.word(Word.FILED_OFFSET) == end
    assert clean.dispatch().drain(NOW_MS)
    assert whole_syncs == [1]
