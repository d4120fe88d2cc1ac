"""Readers whose messages are deleted just now: a clear answer, at every moment of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shmq.errors import StoreError
from shmq.kernels.pulls import PullReader
from shmq.layout.control import Word
from shmq.reading import QueueReader, StaleFiles
from shmq.store.commitlog import LogFiles
from shmq.store.consumequeue import QueueFiles
from shmq.units import KiB
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.pull import SUBSCRIBE_ALL, decode_pull
from tests.unit.broker_reads.conftest import MakeStore
from tests.unit.broker_reads.store import START_MS, TOPIC, Store
from tests.unit.serve.frames import pull, pull_ext
from tests.unit.workers.house import LOG_FILE_SIZE, QUEUE_FILE_SIZE

COUNT = 200
BODY = b"m" * 4000
KEPT = 90
MOVED = (ResponseCode.PULL_OFFSET_MOVED, "OFFSET_TOO_SMALL", KEPT)
REMOVING = (ResponseCode.PULL_RETRY_IMMEDIATELY, "MESSAGE_WAS_REMOVING", KEPT)


@pytest.fixture
def deep(make_store: MakeStore) -> Store:
    """A store whose first messages are in files alone."""
    store = make_store(house={"pool_size": 320 * KiB})
    for number in range(COUNT):
        store.put(BODY, now_ms=START_MS + number)
    store.dispatch.step(store.now_ms + 20_000)
    return store


def delete(store: Store) -> None:
    """Delete what is before message KEPT, as housekeeping does it."""
    place = int(store.queue_reader.entries(store.slot, KEPT, 1)[0]["physical_offset"])
    store.arena.queues.min_offsets[store.slot] = KEPT
    store.set_word(Word.LOG_START, place // LOG_FILE_SIZE * LOG_FILE_SIZE)
    folder = store.house.store_dir
    for path in (folder / "commitlog").iterdir():
        if int(path.name) + LOG_FILE_SIZE <= place:
            path.unlink()
    for path in (folder / "consumequeue" / TOPIC / "0").iterdir():
        if int(path.name) + QUEUE_FILE_SIZE <= KEPT * 20:
            path.unlink()


class DeletedBefore(QueueReader):
    """Entries are deleted between the look at the bounds and their reading, once."""

    def __init__(self, store: Store) -> None:
        self.files = QueueFiles(store.house.store_dir / "consumequeue", file_size=QUEUE_FILE_SIZE)
        super().__init__(arena=store.arena, files=self.files)
        self._store = store

    def entries(self, slot: int, first: int, count_max: int) -> NDArray[np.void]:
        """See QueueReader."""
        self._delete_once(slot)
        return super().entries(slot, first, count_max)

    def place(self, slot: int, offset: int) -> tuple[int, int]:
        """See QueueReader."""
        self._delete_once(slot)
        return super().place(slot, offset)

    def _delete_once(self, slot: int) -> None:
        if self._store.arena.queues.min_offset(slot) < KEPT:
            delete(self._store)


def said(store: Store, offset: int) -> tuple[int, str, int]:
    result = store.pull(offset, count=3)
    return result.code, result.status, result.next_begin_offset


def test_deleted_before(deep: Store) -> None:
    delete(deep)
    assert said(deep, 0) == said(deep, KEPT - 1) == MOVED
    assert said(deep, KEPT)[:2] == (ResponseCode.SUCCESS, "FOUND")


def test_deleted_before_the_entries_are_read(deep: Store) -> None:
    reader = DeletedBefore(deep)
    deep.pulls._queue_reader = reader
    assert said(deep, 0) == REMOVING
    assert said(deep, KEPT)[0] == ResponseCode.SUCCESS
    reader.files.close()


def test_the_short_way_leaves_it_to_the_long_one(deep: Store) -> None:
    header = decode_pull(pull_ext(offset=0, count=3))
    deep.pulls.learn(b"key", header, SUBSCRIBE_ALL)
    plan = deep.pulls.plan(b"key")
    assert plan is not None
    asked = PullReader()
    assert asked.read(pull(offset=0, count=3))
    reader = DeletedBefore(deep)
    deep.pulls._queue_reader = reader
    assert deep.pulls.find(plan, asked) is None
    reader.files.close()


def test_other_faults_are_faults(deep: Store) -> None:
    """A file that is gone without retention is no `moved`."""
    (deep.house.store_dir / "consumequeue" / TOPIC / "0" / ("0" * 20)).unlink()
    deep.pulls._queue_reader = deep.house.queue_reader()
    with pytest.raises(StoreError, match="not there"):
        deep.pull(0, count=3)


def test_records_are_deleted_although_their_file_is_open(deep: Store) -> None:
    """New reads of it are refused, whoever has it open: nobody depends on luck."""
    entry = deep.queue_reader.entries(deep.slot, 3, 1)[0]
    place, size = int(entry["physical_offset"]), int(entry["size"])
    assert deep.log_reader.record(place, size)
    delete(deep)
    with pytest.raises(StoreError, match="not in the commitlog"):
        deep.log_reader.record(place, size)
    with pytest.raises(StoreError, match="deleted"):
        deep.log_reader.gather(np.array([place]), np.array([size]), bytearray(size), 0)
    with pytest.raises(StoreError, match="deleted"):
        deep.log_reader.reach(place)


def ask(store: Store, code: int, **ext: str) -> dict[str, str]:
    return store.lookups.handlers[code]({"topic": TOPIC, "queueId": "0", **ext}).ext


@pytest.mark.parametrize(("asked", "expected"), [(0, KEPT), (50, KEPT), (KEPT, KEPT), (150, 150)])
def test_search_while_it_is_deleted(deep: Store, asked: int, expected: int) -> None:
    reader = DeletedBefore(deep)
    deep.lookups._times._queue_reader = reader
    found = ask(deep, RequestCode.SEARCH_OFFSET_BY_TIMESTAMP, timestamp=str(START_MS + asked))
    assert found == {"offset": str(expected)}
    reader.files.close()


def test_earliest_while_it_is_deleted(deep: Store) -> None:
    reader = DeletedBefore(deep)
    deep.lookups._times._queue_reader = reader
    found = ask(deep, RequestCode.GET_EARLIEST_MSG_STORETIME)
    assert found == {"timestamp": str(START_MS + KEPT)}
    reader.files.close()


def test_files_are_closed_when_the_log_start_grows(deep: Store, tmp_path: Path) -> None:
    folder = deep.house.store_dir
    log_files = LogFiles(folder / "commitlog", file_size=LOG_FILE_SIZE)
    queue_files = QueueFiles(folder / "consumequeue", file_size=QUEUE_FILE_SIZE)
    stale = StaleFiles(arena=deep.arena, queue_files=queue_files, log_files=log_files)
    for number in range(deep.house.word(Word.APPEND_OFFSET) // LOG_FILE_SIZE):
        log_files.read(number * LOG_FILE_SIZE, 1)
    for first in range(0, COUNT, QUEUE_FILE_SIZE // 20):
        queue_files.read(TOPIC, 0, first, 1)
    before = set(log_files._fds), {start for _, _, start in queue_files._fds}
    assert not stale.are_there()
    stale.close()
    assert set(log_files._fds) == before[0]
    delete(deep)
    assert stale.are_there()
    stale.close()
    start = deep.house.word(Word.LOG_START)
    assert set(log_files._fds) == {one for one in before[0] if one >= start}
    assert {one for _, _, one in queue_files._fds} == {
        one for one in before[1] if one + QUEUE_FILE_SIZE > KEPT * 20
    }
    log_files.close()
    queue_files.close()
