"""Decisions of retention: every rule below, at and above its limit, and their order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.config import Settings
from shmq.errors import StoreError
from shmq.layout.cqentry import ENTRY, FILLER_SIZE
from shmq.store.retention import (
    FORCED,
    GOING,
    Cause,
    Fate,
    Look,
    Rules,
    StoreFile,
    decide,
    first_kept,
    rules_of,
)
from shmq.units import HOUR_MS

SIZE = 1000
NOW = datetime(2030, 5, 5, 12, 30, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
FAR = 10**12


def rules(**more: Any) -> Rules:
    """Files are kept for 72 h and go at 4 and 12 o'clock."""
    values: dict[str, Any] = {
        "reserved_ms": 72 * HOUR_MS,
        "hours": frozenset({4, 12}),
        "used_max_percent": 75.0,
        "forced_percent": 85.0,
        "quota_size": 0,
        "batch_max": 10,
    }
    return Rules(**(values | more))


def files(*hours: float) -> list[StoreFile]:
    """Files that were changed so many hours ago, the oldest first."""
    return [
        StoreFile(number * SIZE, (number + 1) * SIZE, SIZE, NOW_MS - round(age * HOUR_MS))
        for number, age in enumerate(hours)
    ]


def look(*hours: float, **more: Any) -> Look:
    """What is found at half past twelve."""
    found = files(*hours)
    values: dict[str, Any] = {
        "now_ms": NOW_MS,
        "files": found,
        "log_start": 0,
        "needed_from": FAR,
        "needed_by": "nobody",
        "used_percent": 10.0,
        "usable_size": 100 * SIZE,
        "store_size": len(found) * SIZE,
    }
    return Look(**(values | more))


def causes(fates: list[Fate]) -> list[str]:
    return [str(fate.cause) for fate in fates]


def decided(found: Look, **more: Any) -> list[str]:
    return causes(decide(rules(**more), found, zone=UTC))


def test_an_empty_log_has_no_fates() -> None:
    assert decide(rules(), look(), zone=UTC) == []


@pytest.mark.parametrize(
    ("age", "cause"), [(71.999, "young"), (72.0, "expired"), (72.001, "expired")]
)
def test_age(age: float, cause: str) -> None:
    assert decided(look(age, 1)) == [cause, "newest"]


def test_the_newest_stays_whatever_happens() -> None:
    found = look(900, used_percent=99.0, store_size=FAR, asked=True)
    assert decided(found, quota_size=1) == ["newest"]


def test_only_a_prefix_goes() -> None:
    assert decided(look(80, 80, 1, 80, 0)) == ["expired", "expired", "young", "order", "newest"]


@pytest.mark.parametrize(
    ("needed_from", "expected"),
    [
        (2 * SIZE - 1, ["expired", "needed", "needed", "newest"]),
        (2 * SIZE, ["expired", "expired", "needed", "newest"]),
        (2 * SIZE + 1, ["expired", "expired", "needed", "newest"]),
        (0, ["needed", "needed", "needed", "newest"]),
    ],
)
def test_what_a_role_needs_stays(needed_from: int, expected: list[str]) -> None:
    assert decided(look(80, 80, 80, 80, needed_from=needed_from)) == expected
    forced = look(80, 80, 80, 80, needed_from=needed_from, used_percent=100.0)
    assert causes(decide(rules(), forced, zone=UTC)).count("needed") == expected.count("needed")


@pytest.mark.parametrize(
    ("more", "cause"),
    [
        ({}, "hour"),
        ({"used_percent": 74.99}, "hour"),
        ({"used_percent": 75.0}, "expired"),
        ({"asked": True}, "expired"),
    ],
)
def test_the_hour(more: dict[str, Any], cause: str) -> None:
    found = look(80, 1, **more)
    assert decided(found, hours=frozenset({4})) == [cause, "newest"]


def test_hours_are_local() -> None:
    """12:30 UTC is 4:30 eight hours west."""
    found, only_four = look(80, 1), rules(hours=frozenset({4}))
    west = timezone(timedelta(hours=-8))
    assert causes(decide(only_four, found, zone=west)) == ["expired", "newest"]
    (first, _) = decide(only_four, found, zone=UTC)
    assert first.due_ms == int(datetime(2030, 5, 6, 4, tzinfo=UTC).timestamp() * 1000)


def test_when_files_go() -> None:
    fates = decide(rules(), look(80, 70, 60, 0), zone=UTC)
    assert causes(fates) == ["expired", "young", "order", "newest"]
    at = [None if fate.due_ms is None else (fate.due_ms - NOW_MS) / HOUR_MS for fate in fates]
    assert at == [0, 15.5, 15.5, None], "4 o'clock of the next day; the newest never"
    in_time = decide(rules(hours=frozenset(range(24))), look(70, 60, 0), zone=UTC)
    assert [fate.due_ms and (fate.due_ms - NOW_MS) / HOUR_MS for fate in in_time] == [2, 12, None]


@pytest.mark.parametrize(
    ("used", "going"), [(84.99, 0), (85.0, 1), (85.9, 1), (86.0, 2), (88.5, 4), (99.0, 4)]
)
def test_a_full_disk_takes_as_many_as_it_needs(used: float, going: int) -> None:
    """100 files fill it: one for each percent."""
    fates = decide(rules(), look(1, 1, 1, 1, 1, used_percent=used), zone=UTC)
    assert causes(fates).count("disk") == going
    if not going:
        assert fates[0].cause is Cause.YOUNG


def test_what_comes_back_anyway_is_counted() -> None:
    found = look(1, 1, 1, used_percent=86.5, coming_size=SIZE)
    assert decided(found) == ["disk", "young", "newest"]
    assert decided(look(1, 1, used_percent=86.5, coming_size=2 * SIZE))[0] == "young"


def test_force_may_be_forbidden() -> None:
    settings = Settings(store_path_root_dir="/x", clean_file_forcibly_enable=False)
    assert causes(decide(rules_of(settings), look(1, 1, used_percent=100.0))) == ["young", "newest"]


@pytest.mark.parametrize(
    ("quota", "going"), [(5 * SIZE, 0), (5 * SIZE - 1, 1), (3 * SIZE, 2), (1, 4), (0, 0)]
)
def test_quota(quota: int, going: int) -> None:
    fates = decide(rules(quota_size=quota), look(1, 1, 1, 1, 1), zone=UTC)
    assert causes(fates).count("quota") == going


def test_rounds_are_bounded() -> None:
    assert decided(look(80, 80, 80, 80), batch_max=2) == ["expired", "expired", "batch", "newest"]
    begun = look(1, 1, 80, 80, 0, log_start=2 * SIZE)
    assert decided(begun, batch_max=1) == ["begun", "begun", "expired", "batch", "newest"]


def test_what_was_begun_is_finished() -> None:
    """Even where nothing may go any more."""
    assert decided(look(1, 1, 1, log_start=SIZE, needed_from=0)) == ["begun", "needed", "newest"]


@given(
    ages=st.lists(st.floats(0, 200), max_size=12),
    used=st.floats(0, 100),
    quota=st.integers(0, 15 * SIZE),
    needed=st.integers(0, 13 * SIZE),
    start=st.integers(0, 12),
    batch=st.integers(1, 12),
    asked=st.booleans(),
)
def test_whatever_is_found(
    *, ages: list[float], used: float, quota: int, needed: int, start: int, batch: int, asked: bool
) -> None:
    """A prefix goes, never the newest or one that is needed; and nothing young without force."""
    log_start = min(start, max(len(ages) - 1, 0)) * SIZE
    found = look(*ages, used_percent=used, needed_from=needed, log_start=log_start, asked=asked)
    held = rules(quota_size=quota, batch_max=batch)
    fates = decide(held, found, zone=UTC)
    going = [fate.goes for fate in fates]
    assert going == sorted(going, reverse=True)
    assert going[-1:] != [True]
    begun = [fate for fate in fates if fate.cause is Cause.BEGUN]
    assert len(begun) == log_start // SIZE
    for fate in fates:
        assert fate.goes == (fate.cause in GOING)
        if fate.goes and fate.cause is not Cause.BEGUN:
            assert fate.file.end <= needed
        if fate.cause in FORCED:
            assert used >= 85 or found.store_size > quota > 0
        if fate.cause is Cause.EXPIRED:
            assert fate.file.modified_ms <= NOW_MS - held.reserved_ms
    assert sum(going) - len(begun) <= batch


# Queues


def entries_of(places: list[int | None]) -> np.ndarray[Any, np.dtype[np.void]]:
    """Entries whose records begin at `places`; None: a filler."""
    found = np.zeros(len(places), dtype=ENTRY)
    for number, place in enumerate(places):
        found[number] = (0, FILLER_SIZE, 0) if place is None else (place, 10, 0)
    return found


def kept(places: list[int | None], log_start: int, *, low: int = 0, piece: int = 4096) -> int:
    entries = entries_of(places)
    return first_kept(
        lambda first, count: entries[first : first + min(count, piece)],
        low=low,
        high=len(places),
        log_start=log_start,
    )


@given(
    gaps=st.lists(st.integers(1, 50), max_size=60),
    holes=st.sets(st.integers(0, 59)),
    log_start=st.integers(0, 1600),
    low=st.integers(0, 60),
    piece=st.integers(1, 7),
)
def test_the_first_kept_entry_is_found(
    gaps: list[int], holes: set[int], log_start: int, low: int, piece: int
) -> None:
    """As by looking at each, with fillers anywhere."""
    places: list[int | None] = [int(place) for place in np.cumsum(gaps)]
    for hole in holes & set(range(len(places))):
        places[hole] = None
    expected = len(places)
    for number in range(low, len(places)):
        place = places[number]
        if place is not None and place >= log_start:
            expected = number
            break
    found = kept(places, log_start, low=low, piece=piece)
    if places and places[-1] is not None and places[-1] < log_start:
        assert found == len(places)
    else:
        assert found == max(expected, min(low, len(places)))


def test_an_entry_that_is_not_there_is_said() -> None:
    with pytest.raises(StoreError, match="entry is not there"):
        first_kept(lambda _first, _count: entries_of([]), low=0, high=3, log_start=5)
