from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmq.broker.lookups import Found
from shmq.errors import RequestRefused
from shmq.layout import record
from shmq.units import KiB
from shmq.wire.codes import RequestCode, ResponseCode
from tests.unit.broker_reads.conftest import MakeStore
from tests.unit.broker_reads.store import START_MS, Store

SEARCH = RequestCode.SEARCH_OFFSET_BY_TIMESTAMP
STAMPS = (10, 20, 20, 20, 30, 50)  # after START_MS


@pytest.fixture
def filled(store: Store) -> Store:
    """Messages with these store times in queue 0."""
    for stamp in STAMPS:
        store.put(b"at %d" % stamp, now_ms=START_MS + stamp)
    return store


def ask(store: Store, code: int, **ext: str | int) -> Found:
    """Answer of a look-up about queue 0 of T."""
    values: dict[str, str | int] = {"topic": "T", "queueId": 0}
    values |= ext
    return store.lookups.handlers[code]({name: str(value) for name, value in values.items()})


def search(store: Store, timestamp: int, boundary: str | None = None) -> int:
    """Offset by time, after START_MS."""
    more = {} if boundary is None else {"boundaryType": boundary}
    found = ask(store, SEARCH, timestamp=START_MS + timestamp, **more)
    assert found.body == b""
    return int(found.ext["offset"])


@pytest.mark.parametrize(
    ("timestamp", "lower", "upper"),
    [
        (-(10**6), 0, 0),  # before all
        (9, 0, 0),
        (10, 0, 0),
        (11, 1, 0),
        (19, 1, 0),
        (20, 1, 3),  # the first and the last of equal ones
        (21, 4, 3),
        (30, 4, 4),
        (49, 5, 4),
        (50, 5, 5),
        (51, 6, 5),  # after all
        (10**12, 6, 5),
    ],
)
def test_search(filled: Store, timestamp: int, lower: int, upper: int) -> None:
    assert search(filled, timestamp) == lower
    assert search(filled, timestamp, "LOWER") == lower
    assert search(filled, timestamp, "lower") == lower
    assert search(filled, timestamp, "no such") == lower
    assert search(filled, timestamp, "UPPER") == upper
    assert search(filled, timestamp, "upper") == upper


def test_search_among_what_is_kept(filled: Store) -> None:
    filled.arena.queues.min_offsets[filled.slot] = 2
    assert search(filled, 0) == 2
    assert search(filled, 20) == 2
    assert search(filled, 20, "UPPER") == 3
    assert search(filled, 0, "UPPER") == 2


@pytest.mark.parametrize("boundary", ["LOWER", "UPPER"])
@pytest.mark.parametrize("timestamp", [0, START_MS, 2**63 - 1, -(2**63)])
def test_search_in_an_empty_queue(store: Store, boundary: str, timestamp: int) -> None:
    found = ask(store, SEARCH, timestamp=timestamp, boundaryType=boundary)
    assert found.ext == {"offset": "0"}


@pytest.mark.parametrize("timestamp", [2**63 - 1, -(2**63)])
def test_search_at_the_ends_of_time(filled: Store, timestamp: int) -> None:
    expected = ("6", "5") if timestamp > 0 else ("0", "0")
    for boundary, offset in zip(("LOWER", "UPPER"), expected, strict=True):
        found = ask(filled, SEARCH, timestamp=timestamp, boundaryType=boundary)
        assert found.ext == {"offset": offset}


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(gaps=st.lists(st.integers(0, 2), min_size=1, max_size=40))
def test_search_equals_a_plain_look_at_all(make_store: MakeStore, gaps: list[int]) -> None:
    store = make_store()
    stamps: list[int] = []
    for gap in gaps:
        stamps.append((stamps[-1] if stamps else 0) + gap)
        store.put(b"m", now_ms=START_MS + stamps[-1])
    for asked in range(-1, stamps[-1] + 2):
        at_or_after = [place for place, stamp in enumerate(stamps) if stamp >= asked]
        until = [place for place, stamp in enumerate(stamps) if stamp <= asked]
        assert search(store, asked) == (at_or_after[0] if at_or_after else len(stamps))
        assert search(store, asked, "UPPER") == (until[-1] if until else 0)


def test_search_in_files(make_store: MakeStore) -> None:
    """What is asked about lies neither in the hot ring nor in the pool any more."""
    store = make_store(house={"pool_size": 320 * KiB})
    for number in range(100):
        store.put(b"m" * 8000, now_ms=START_MS + number)
    assert [search(store, number) for number in range(0, 100, 9)] == list(range(0, 100, 9))


def test_bounds(filled: Store) -> None:
    assert ask(filled, RequestCode.GET_MAX_OFFSET).ext == {"offset": "6"}
    assert ask(filled, RequestCode.GET_MIN_OFFSET).ext == {"offset": "0"}
    filled.arena.queues.min_offsets[filled.slot] = 4
    assert ask(filled, RequestCode.GET_MIN_OFFSET).ext == {"offset": "4"}


def test_what_is_not_dispatched_is_not_counted(store: Store) -> None:
    store.put(b"seen")
    store.put(b"not yet", visible=False)
    assert ask(store, RequestCode.GET_MAX_OFFSET).ext == {"offset": "1"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (RequestCode.GET_MAX_OFFSET, {"offset": "0"}),
        (RequestCode.GET_MIN_OFFSET, {"offset": "0"}),
        (RequestCode.GET_EARLIEST_MSG_STORETIME, {"timestamp": "-1"}),
        (SEARCH, {"offset": "0"}),
    ],
)
@pytest.mark.parametrize(
    "queue",
    [{}, {"topic": "none"}, {"queueId": 4}, {"queueId": -1}, {"topic": ""}, {"topic": "../x"}],
)
def test_queues_that_are_empty_or_unknown(
    store: Store, code: int, expected: dict[str, str], queue: dict[str, str | int]
) -> None:
    asked: dict[str, str | int] = {"timestamp": 5}
    assert ask(store, code, **(asked | queue)).ext == expected


def test_earliest(filled: Store) -> None:
    code = RequestCode.GET_EARLIEST_MSG_STORETIME
    assert ask(filled, code).ext == {"timestamp": str(START_MS + 10)}
    filled.arena.queues.min_offsets[filled.slot] = 5
    assert ask(filled, code).ext == {"timestamp": str(START_MS + 50)}
    filled.arena.queues.min_offsets[filled.slot] = 6
    assert ask(filled, code).ext == {"timestamp": "-1"}


def test_view(filled: Store) -> None:
    entry = filled.queue_reader.entries(filled.slot, 4, 1)[0]
    found = ask(filled, RequestCode.VIEW_MESSAGE_BY_ID, offset=int(entry["physical_offset"]))
    assert found.ext == {}
    got = record.decode(found.body)
    assert (got.body, got.store_timestamp, got.queue_offset) == (b"at 30", START_MS + 30, 4)


@pytest.mark.parametrize("offset", [-1, 1, 10**6, 2**63 - 1, 2**63])
def test_view_of_what_is_no_message(filled: Store, offset: int) -> None:
    with pytest.raises(RequestRefused) as caught:
        ask(filled, RequestCode.VIEW_MESSAGE_BY_ID, offset=offset)
    assert caught.value.code == ResponseCode.SYSTEM_ERROR


@pytest.mark.parametrize(
    ("code", "ext"),
    [
        (RequestCode.GET_MAX_OFFSET, {"topic": "T"}),
        (RequestCode.GET_MIN_OFFSET, {"queueId": "0"}),
        (RequestCode.GET_EARLIEST_MSG_STORETIME, {"topic": "T", "queueId": "zero"}),
        (SEARCH, {"topic": "T", "queueId": "0"}),
        (SEARCH, {"topic": "T", "queueId": "0", "timestamp": "now"}),
        (SEARCH, {"topic": "T", "queueId": "2147483648", "timestamp": "0"}),
        (RequestCode.VIEW_MESSAGE_BY_ID, {}),
    ],
)
def test_fields_that_are_missing_or_wrong(store: Store, code: int, ext: dict[str, str]) -> None:
    with pytest.raises(RequestRefused) as caught:
        store.lookups.handlers[code](ext)
    assert caught.value.code == ResponseCode.SYSTEM_ERROR
