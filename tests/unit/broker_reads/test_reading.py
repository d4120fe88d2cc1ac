"""Reading what was stored: hot and cold look the same, and nothing recycled is ever served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shmq.errors import StoreError
from shmq.layout import cqentry, record
from shmq.layout.control import Word
from shmq.reading import LogReader, QueueReader
from shmq.store.consumequeue import QueueFiles
from shmq.units import KiB
from tests.unit.broker_reads.conftest import MakeStore
from tests.unit.broker_reads.sends import V6_HOST
from tests.unit.broker_reads.store import Store
from tests.unit.workers.house import encode

HOT_ENTRIES = 16  # of a house
COUNT = 100
BODY_SIZE = 8000


@pytest.fixture
def deep(make_store: MakeStore) -> Store:
    """A store whose first messages are in files alone, both their entries and their records."""
    store = make_store(house={"pool_size": 320 * KiB})
    store.put(*[b"%04d" % number * (BODY_SIZE // 4) for number in range(COUNT)])
    queues = store.arena.queues
    assert 0 < queues.hot_starts[store.slot] < queues.max_offset(store.slot) == COUNT
    assert 0 < store.house.word(Word.HOT_START) < store.house.word(Word.APPEND_OFFSET)
    return store


def forget_all_hot(store: Store) -> None:
    """Let all be in files alone."""
    store.dispatch.drain(store.now_ms)
    store.flush.drain(store.now_ms)
    store.set_word(Word.HOT_START, store.house.word(Word.APPEND_OFFSET))
    store.arena.queues.hot_starts[store.slot] = COUNT


def all_entries(store: Store, reader: QueueReader) -> NDArray[np.void]:
    """Every entry of queue 0, in as many calls as it takes."""
    parts: list[NDArray[np.void]] = []
    at = 0
    while len(part := reader.entries(store.slot, at, 37)):
        parts.append(part)
        at += len(part)
    return np.concatenate(parts)


def whole_log(store: Store, reader: LogReader, entries: NDArray[np.void]) -> bytes:
    """All records of these entries, back to back."""
    sizes = entries["size"].astype(np.int64)
    out = bytearray(int(sizes.sum()))
    assert reader.gather(entries["physical_offset"].astype(np.int64), sizes, out, 0) == len(out)
    return bytes(out)


# Hot and cold


def test_hot_and_cold_look_the_same(deep: Store) -> None:
    entries = all_entries(deep, deep.queue_reader)
    data = whole_log(deep, deep.log_reader, entries)
    assert len(entries) == COUNT
    forget_all_hot(deep)
    assert np.array_equal(all_entries(deep, deep.house.queue_reader()), entries)
    assert whole_log(deep, deep.house.log_reader(), entries) == data
    at = 0
    for number in range(COUNT):
        one = record.decode(data, at)
        assert (one.queue_offset, one.body[:4]) == (number, b"%04d" % number)
        assert one.physical_offset == entries[number]["physical_offset"]
        at += one.size


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(first=st.integers(-2, COUNT + 2), count=st.integers(-1, COUNT + 9))
def test_any_piece_of_a_queue(deep: Store, first: int, count: int) -> None:
    """It begins where it was asked for, and stops at the end of the queue, ring or file at most."""
    got = deep.queue_reader.entries(deep.slot, first, count)
    if not 0 <= first < COUNT or count <= 0:
        assert len(got) == 0
        return
    assert 1 <= len(got) <= count
    for place, entry in enumerate(got.tolist()):
        one = record.decode(deep.log_reader.record(entry[0], entry[1]))
        assert one.queue_offset == first + place


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(picked=st.sets(st.integers(0, COUNT - 1), min_size=1))
def test_any_choice_of_records(deep: Store, picked: set[int]) -> None:
    """As a tag filter leaves them: some in files, some hot, with gaps."""
    entries = all_entries(deep, deep.queue_reader)[sorted(picked)]
    data = whole_log(deep, deep.log_reader, entries)
    at = 0
    for number in sorted(picked):
        one = record.decode(data, at)
        assert one.queue_offset == number
        at += one.size
    assert at == len(data)


def test_not_before_and_not_behind_the_log(deep: Store) -> None:
    end = deep.house.word(Word.APPEND_OFFSET)
    deep.set_word(Word.LOG_START, 1000)
    assert len(deep.log_reader.record(1000, 100)) == 100
    assert len(deep.log_reader.record(end - 100, 100)) == 100
    for offset, size in [
        (999, 10),
        (end - 1, 2),
        (end, 1),
        (2**62, 4),
        (-1, 4),
        (1000, 0),
        (0, -1),
    ]:
        with pytest.raises(StoreError, match="not in the commitlog"):
            deep.log_reader.record(offset, size)


def test_file_that_is_too_short(deep: Store) -> None:
    with (deep.house.store_dir / "commitlog" / ("0" * 20)).open("r+b") as file:
        file.truncate(100)
    with pytest.raises(StoreError, match="shorter than its records"):
        deep.log_reader.record(0, 4096)


def test_folder_without_files(deep: Store) -> None:
    reader = QueueReader(
        arena=deep.arena, files=QueueFiles(deep.house.store_dir / "elsewhere", file_size=800)
    )
    assert len(reader.entries(deep.slot, COUNT - 1, 5)) == 1
    with pytest.raises(StoreError, match="not there"):
        reader.entries(deep.slot, 0, 5)


# A record by its offset


def test_whole_record(deep: Store) -> None:
    for place in (0, COUNT // 2, COUNT - 1):
        entry = deep.queue_reader.entries(deep.slot, place, 1)[0]
        data = deep.log_reader.whole_record(int(entry["physical_offset"]))
        assert record.decode(data).queue_offset == place
        assert len(data) == entry["size"]


def test_no_record_begins_within_a_record(make_store: MakeStore) -> None:
    """Not even one that a client put there: it is at another offset than it says."""
    store = make_store()
    inner = encode("T", b"not what it seems")
    store.put(b"before " + inner + b" behind", inner)
    end = store.house.word(Word.APPEND_OFFSET)
    begins = {0, int(store.queue_reader.entries(store.slot, 1, 1)[0]["physical_offset"])}
    for offset in range(end):
        if offset not in begins:
            with pytest.raises(StoreError):
                store.log_reader.whole_record(offset)


@pytest.mark.parametrize("size", [2**31 - 1, 0, -1, 90])
def test_sizes_that_no_record_has(make_store: MakeStore, size: int) -> None:
    """Bytes of a client that would make the broker read half of the log for them."""
    store = make_store()
    liar = bytearray(encode("T", b"x"))
    liar[0:4] = (size & 0xFFFFFFFF).to_bytes(4, "big")
    at = record.BODY_AT
    liar[record.PHYSICAL_OFFSET_AT : record.PHYSICAL_OFFSET_AT + 8] = at.to_bytes(8, "big")
    store.put(bytes(liar))
    with pytest.raises(StoreError):
        store.log_reader.whole_record(at)


def test_a_blank_is_no_record(deep: Store) -> None:
    offsets = all_entries(deep, deep.queue_reader)
    ends = offsets["physical_offset"] + offsets["size"]
    blanks = sorted(set(ends[:-1].tolist()) - set(offsets["physical_offset"].tolist()))
    assert blanks
    with pytest.raises(StoreError, match="no record"):
        deep.log_reader.whole_record(blanks[0])


@pytest.mark.parametrize("v6", [False, True])
def test_store_timestamp(make_store: MakeStore, *, v6: bool) -> None:
    store = make_store()
    hosts: dict[str, Any] = {"born_host": V6_HOST, "sys_flag": record.BORN_HOST_V6} if v6 else {}
    store.house.producer.submit(store.slot, encode("T", b"", **hosts))
    store.writer.step(1_234_567)
    size = store.house.word(Word.APPEND_OFFSET)
    assert store.log_reader.store_timestamp(0, size) == 1_234_567


# Recycled while it is copied


class SlowEntries:
    """Stands where the hot rings are: copying from it takes long, and meanwhile `then` happens."""

    def __init__(self, hot: NDArray[np.void], then: Callable[[], None]) -> None:
        self._hot = hot
        self._then = then

    def __getitem__(self, place: tuple[int, slice]) -> NDArray[np.void]:
        """The entries as they are after it happened."""
        then, self._then = self._then, lambda: None
        then()
        return self._hot[place]


def overwrite_entries(store: Store, first: int) -> None:
    """Dispatch enters newer messages: the hot start grows first, then the ring is overwritten."""
    queues = store.arena.queues
    end = queues.max_offset(store.slot)
    while queues.hot_starts[store.slot] <= first:
        store.put(b"newer")
    assert queues.max_offset(store.slot) > end


@pytest.mark.parametrize("count", [1, 5, HOT_ENTRIES])
def test_entry_overwritten_while_it_is_copied(deep: Store, count: int) -> None:
    queues = deep.arena.queues
    first = queues.hot_starts[deep.slot]
    expected = deep.queue_reader.entries(deep.slot, first, count)
    reader = deep.house.queue_reader()
    reader._hot = SlowEntries(reader._hot, lambda: overwrite_entries(deep, first))  # type: ignore[assignment]
    got = reader.entries(deep.slot, first, count)
    assert first < queues.hot_starts[deep.slot]
    assert 1 <= len(got) <= count
    assert np.array_equal(got, expected[: len(got)])


def test_entries_overwritten_behind_the_first(deep: Store) -> None:
    """The ring turns a whole round while it is copied."""
    first = COUNT - 1
    expected = deep.queue_reader.entries(deep.slot, first, 1)
    reader = deep.house.queue_reader()

    def turn_round() -> None:
        deep.put(*[b"newer"] * (3 * HOT_ENTRIES))

    reader._hot = SlowEntries(reader._hot, turn_round)  # type: ignore[assignment]
    assert np.array_equal(reader.entries(deep.slot, first, 50), expected)


class SlowWord:
    """HOT_START, and what happens between its first load and its second."""

    def __init__(self, store: Store, then: Callable[[], None]) -> None:
        self._word = store.arena.reader(Word.HOT_START)
        self._loads = iter([lambda: None, then])

    def load(self) -> int:
        """Its value, after it happened."""
        next(self._loads)()
        return self._word.load()


class OldThenNew:
    """HOT_START as a reader loads it that is overtaken by the writer between its two looks."""

    def __init__(self, store: Store, old: int) -> None:
        word = store.arena.reader(Word.HOT_START)
        self._loads = iter([lambda: old, word.load])

    def load(self) -> int:
        """The old value, then the one of now."""
        return next(self._loads)()


def recycle(store: Store, offset: int) -> None:
    """The writer uses the page of `offset` again: HOT_START grows, then it is overwritten."""
    number = 0
    while store.house.word(Word.HOT_START) <= offset:
        store.put(b"newer" * 1600)
        number += 1
    pool = store.arena.pool
    at = offset % store.arena.pool_size
    assert number
    while bytes(pool[at : at + 64]) == store.log_reader._files.read(offset, 64):
        store.put(b"newer" * 1600)


@pytest.mark.parametrize("count", [1, 7])
def test_page_recycled_while_it_is_copied(deep: Store, count: int) -> None:
    """The look at HOT_START is from before the page was used again, the copy from after it."""
    hot_start = deep.house.word(Word.HOT_START)
    entries = all_entries(deep, deep.queue_reader)
    first = int(np.searchsorted(entries["physical_offset"], hot_start))
    wanted = entries[first : first + count]
    expected = whole_log(deep, deep.log_reader, wanted)
    reader = deep.house.log_reader()
    reader._hot_start = OldThenNew(deep, hot_start)  # type: ignore[assignment]
    recycle(deep, int(wanted[-1]["physical_offset"]))
    assert whole_log(deep, reader, wanted) == expected


def test_page_recycled_after_the_copy_is_read_again(deep: Store) -> None:
    """Given up but not overwritten yet: the files have the same."""
    hot_start = deep.house.word(Word.HOT_START)
    entries = all_entries(deep, deep.queue_reader)
    wanted = entries[entries["physical_offset"] >= hot_start][:3]
    expected = whole_log(deep, deep.log_reader, wanted)
    reader = deep.house.log_reader()
    reader._hot_start = SlowWord(  # type: ignore[assignment]
        deep, lambda: deep.set_word(Word.HOT_START, int(wanted[1]["physical_offset"]))
    )
    assert whole_log(deep, reader, wanted) == expected


def test_entries_of_the_layout(deep: Store) -> None:
    got = deep.queue_reader.entries(deep.slot, 3, 1)
    assert cqentry.decode(got.tobytes(), 0) == tuple(got[0].tolist())
