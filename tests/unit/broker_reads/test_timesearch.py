"""Offsets by time: sorted stamps against a plain look at all, others against Apache's own steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmq.broker.timesearch import GONE, WALK_MAX, TimeSearch, search
from shmq.layout import record
from shmq.layout.control import Word
from shmq.units import KiB
from tests.unit.broker_reads.conftest import MakeStore
from tests.unit.broker_reads.store import START_MS, Store

ONE_FILE = 10**6
stamps_in_order = st.lists(st.integers(0, 3), min_size=1, max_size=60).map(
    lambda gaps: [sum(gaps[: place + 1]) for place in range(len(gaps))]
)


def find(
    stamps: Sequence[int], timestamp: int, *, upper: bool, low: int = 0, file: int = ONE_FILE
) -> int:
    """What the search says of a queue with these stamps that keeps what begins at `low`."""
    found = search(stamps.__getitem__, low, len(stamps), timestamp, upper=upper, file_entries=file)
    return min(max(found, low), len(stamps))


def plain(stamps: Sequence[int], timestamp: int, *, upper: bool, low: int = 0) -> int:
    """The same by looking at every stamp."""
    kept = range(low, len(stamps))
    if upper:
        return max((place for place in kept if stamps[place] <= timestamp), default=low)
    return min((place for place in kept if stamps[place] >= timestamp), default=len(stamps))


def apache(stamps: Sequence[int], timestamp: int, *, upper: bool) -> int:
    """Apache's steps through a queue of one file whose records are all there."""
    low, high = 0, len(stamps) - 1
    if stamps[high] < timestamp:
        return high if upper else high + 1
    if stamps[low] > timestamp:
        return 0
    left = right = -1
    while high >= low:
        middle = (low * 20 + high * 20) // 40
        if stamps[middle] == timestamp:
            step = 1 if upper else -1
            while 0 <= middle + step < len(stamps) and stamps[middle + step] == timestamp:
                middle += step
            return middle
        if stamps[middle] > timestamp:
            high, right = middle - 1, middle
        else:
            low, left = middle + 1, middle
    return left if upper else right


@given(
    stamps=stamps_in_order,
    low=st.integers(0, 59),
    file=st.sampled_from([1, 2, 3, 7, 16, ONE_FILE]),
    upper=st.booleans(),
)
def test_sorted_stamps(stamps: list[int], low: int, file: int, upper: bool) -> None:  # noqa: FBT001
    """Any number of files, any part of them deleted, any moment before, among and after."""
    low = min(low, len(stamps) - 1)
    for timestamp in range(-1, stamps[-1] + 2):
        expected = plain(stamps, timestamp, upper=upper, low=low)
        assert find(stamps, timestamp, upper=upper, low=low, file=file) == expected


@given(
    stamps=st.lists(st.integers(0, 8), min_size=1, max_size=60),
    timestamp=st.integers(-1, 9),
    upper=st.booleans(),
)
def test_stamps_of_a_clock_that_was_set_back(
    stamps: list[int],
    timestamp: int,
    upper: bool,  # noqa: FBT001
) -> None:
    assert find(stamps, timestamp, upper=upper) == apache(stamps, timestamp, upper=upper)


@given(
    stamps=st.lists(st.integers(0, 8), min_size=1, max_size=60),
    timestamp=st.integers(-1, 9),
    file=st.integers(1, 8),
)
def test_the_answer_divides_earlier_from_later(
    stamps: list[int], timestamp: int, file: int
) -> None:
    """Whatever the clock did: before the answer lies something earlier, at it something later."""
    lower = find(stamps, timestamp, upper=False, file=file)
    assert lower == len(stamps) or stamps[lower] >= timestamp or lower == 0
    assert lower == 0 or stamps[lower - 1] < timestamp or lower % file == 0
    upper = find(stamps, timestamp, upper=True, file=file)
    assert stamps[upper] <= timestamp or upper % file == 0
    after = upper + 1
    assert after == len(stamps) or stamps[after] > timestamp or 0 in (upper % file, after % file)


@given(stamps=stamps_in_order, gone=st.integers(0, 60), file=st.integers(1, 8), upper=st.booleans())
def test_deleted_records_are_older_than_any_moment(
    stamps: list[int],
    gone: int,
    file: int,
    upper: bool,  # noqa: FBT001
) -> None:
    """The queue still has their entries."""
    left = [GONE] * min(gone, len(stamps)) + stamps[gone:]
    for timestamp in range(-1, stamps[-1] + 2):
        expected = plain(left, timestamp, upper=upper)
        assert find(left, timestamp, upper=upper, file=file) == expected


@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("file", [1000, 300_000])
def test_a_question_takes_few_looks(file: int, upper: bool) -> None:  # noqa: FBT001
    """Also where very many messages were stored in the same millisecond."""
    count = 2_000_000
    looks: list[int] = []

    def stamp(offset: int) -> int:
        looks.append(offset)
        return 1 if offset < count // 4 else 2 if offset < count // 2 else 3

    found = search(stamp, 5, count, 2, upper=upper, file_entries=file)
    assert found == (count // 2 - 1 if upper else count // 4)
    assert len(looks) <= WALK_MAX + 3 * math.log2(count)


def times(store: Store) -> TimeSearch:
    """The search over a store."""
    return TimeSearch(
        queues=store.arena.queues, queue_reader=store.queue_reader, log_reader=store.log_reader
    )


@pytest.fixture
def old(make_store: MakeStore) -> Store:
    """100 messages, one a ms; the first are in files alone, of which there are several."""
    store = make_store(
        house={"pool_size": 320 * KiB},
        mapped_file_size_consume_queue=20 * 16,
        mapped_file_size_commit_log=128 * KiB,
    )
    for number in range(100):
        store.put(b"m" * 8000, now_ms=START_MS + number)
    return store


def test_files_and_memory(old: Store) -> None:
    assert old.queue_reader.file_entries == 16
    for number in range(100):
        for upper in (False, True):
            assert times(old).offset(old.slot, START_MS + number, upper=upper) == number


def test_records_that_were_deleted(old: Store) -> None:
    """The log begins later than the queue's entries say."""
    place, size = old.queue_reader.place(old.slot, 40)
    old.set_word(Word.LOG_START, place)
    search = times(old)
    assert search.stamp(old.slot, 39) == GONE
    assert search.stamp(old.slot, 40) == START_MS + 40
    assert search.offset(old.slot, START_MS) == 40
    assert search.offset(old.slot, START_MS + 41) == 41
    assert search.offset(old.slot, START_MS, upper=True) == 39
    old.set_word(Word.LOG_START, place + size)
    assert search.offset(old.slot, START_MS) == 41


def test_born_on_ipv6(store: Store) -> None:
    """The time of storing lies further back in the record."""
    store.put(b"four", now_ms=START_MS + 1)
    store.put(b"six", now_ms=START_MS + 2, born_host=b"\x20" * 16, sys_flag=record.BORN_HOST_V6)
    assert [times(store).stamp(store.slot, place) for place in (0, 1)] == [
        START_MS + 1,
        START_MS + 2,
    ]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.integers(-3, 3), min_size=1, max_size=40))
def test_stored_while_the_clock_was_set(make_store: MakeStore, steps: list[int]) -> None:
    """What is found in the store is what is found among its stamps."""
    store = make_store()
    for place in range(len(steps)):
        store.now_ms = START_MS + sum(steps[: place + 1])
        store.put(b"m")
    search = times(store)
    stamps = [search.stamp(store.slot, place) - START_MS for place in range(len(steps))]
    for timestamp in range(min(stamps) - 1, max(stamps) + 2):
        for upper in (False, True):
            expected = apache(stamps, timestamp, upper=upper)
            assert search.offset(store.slot, START_MS + timestamp, upper=upper) == expected
