"""The bound on what a power cut may take: in bytes, in time, and as the writer keeps it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.layout import ring
from shmq.layout.control import BLOCKED_BY_RISK, BLOCKED_NOT, Word
from shmq.shm.words import OwnedCell
from shmq.units import KiB
from shmq.workers.atrisk import AtRisk
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import House, encode, small_settings

TOPIC = "T"
NOW_MS = 1_700_000_000_000


class Log:
    """Offsets and times of records, and an AtRisk that is asked before each."""

    def __init__(self, *, bytes_max: int, millis_max: int) -> None:
        cells = memoryview(bytearray(128))
        self.flushed = OwnedCell(cells, 0)
        self.since = OwnedCell(cells, 64, free=True)
        self.at_risk = AtRisk(
            flushed=self.flushed,  # type: ignore[arg-type]
            since=self.since,
            bytes_max=bytes_max,
            millis_max=millis_max,
        )
        self.records: list[tuple[int, int]] = []
        """End and time of each."""
        self.end = 0

    def append(self, size: int, now_ms: int) -> bool:
        """Append a record if that is allowed."""
        if self.end + size > self.at_risk.limit(self.end, now_ms):
            return False
        self.end += size
        self.records.append((self.end, now_ms))
        return True

    def lost(self) -> list[tuple[int, int]]:
        """What a power cut takes."""
        return [one for one in self.records if one[0] > self.flushed.load()]


STEPS = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 120), st.sampled_from([0, 0, 0, 0.5, 1])),
    max_size=60,
)


@given(STEPS)
def test_no_more_is_lost_than_the_bounds_say(steps: list[tuple[int, int, float]]) -> None:
    """Whatever the flush does: bytes, and the age of each record when one is confirmed after it."""
    log, now_ms = Log(bytes_max=200, millis_max=1000), 0
    for size, pause_ms, flushed_part in steps:
        now_ms += pause_ms
        behind = log.end - log.flushed.load()
        log.flushed.publish(log.flushed.load() + int(behind * flushed_part))
        log.append(size, now_ms)
        assert log.end - log.flushed.load() <= 200
        assert all(log.records[-1][1] - at_ms < 1000 for _, at_ms in log.lost())


def test_who_flushes_in_time_is_never_held_up() -> None:
    log = Log(bytes_max=200, millis_max=1000)
    for now_ms in range(0, 100_000, 10):
        assert log.append(1, now_ms)
        if now_ms % 500 == 0:
            log.flushed.publish(log.end)
    assert log.since.load() >= 99_000


def test_time_without_messages_does_not_count() -> None:
    log = Log(bytes_max=200, millis_max=1000)
    assert log.append(10, 0)
    log.flushed.publish(10)
    assert log.append(10, 1_000_000)
    assert log.append(10, 1_000_999)
    assert not log.append(10, 1_001_000)
    log.flushed.publish(20)
    assert log.append(10, 1_001_000)


@pytest.fixture
def bound_house(make_house: MakeHouse, house: House) -> House:
    """A house that lets 256 KiB be at risk, and whose flush stands still."""
    settings = small_settings(
        house.store_dir, max_message_size=16 * KiB, async_flush_bytes_max=256 * KiB
    )
    house.close()
    return make_house(settings=settings)


def test_the_writer_waits_and_says_for_what(bound_house: House) -> None:
    house = bound_house
    slot, writer = house.slot(TOPIC), house.writer()
    numbers = []
    while not house.word(Word.BLOCKED_SINCE):
        numbers.append(house.producer.submit(slot, encode(TOPIC, b"x" * 8000)))
        writer.step(NOW_MS)
        assert len(numbers) < 100
    at_risk = house.word(Word.APPEND_OFFSET)
    assert 256 * KiB - 9000 < at_risk <= 256 * KiB
    assert house.word(Word.BLOCKED_ON) == BLOCKED_BY_RISK
    assert house.word(Word.HOT_START) == 0, "no page is given up for that"
    house.flush().step(NOW_MS)
    assert house.word(Word.FLUSHED_OFFSET) == at_risk, "half of what is allowed is flushed early"
    writer.step(NOW_MS)
    assert house.producer.done(numbers[-1]).status == ring.STATUS_OK
    assert house.word(Word.BLOCKED_ON) == BLOCKED_NOT or not house.word(Word.BLOCKED_SINCE)
