"""µs for messages of 128 B through a submission ring: submitted, appended, completed.

In one process it is the work alone, without a wake-up. Between two processes it is the round trip
of one message: ring the writer's bell, sleep on one's own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.load import BATCH, Benchmark, note
from shmq.layout.ring import STATUS_OK
from shmq.units import MiB
from tests.unit.workers.house import House, encode, small_settings

DEADLINE_S = 30.0
WAIT_MS = 100
NOW_MS = 1_700_000_000_000


@contextmanager
def opened(folder: Path) -> Iterator[House]:
    """A broker's memory with a queue; its log is written to files as it grows."""
    settings = small_settings(folder, mapped_file_size_commit_log=64 * MiB)
    with House(folder, settings=settings, pool_size=4 * MiB, ring_entries=2 * BATCH) as house:
        house.slot("T")
        yield house


@pytest.mark.parametrize("count", [1, BATCH])
@pytest.mark.benchmark(group="ring hop in one process")
def test_hop(benchmark: Benchmark, tmp_path: Path, count: int) -> None:
    """µs to publish so many entries and have WriterRole.step append and complete them."""
    with opened(tmp_path / "store") as house:
        writer, flush, dispatch = house.writer(), house.flush(), house.dispatch()
        one = encode("T", bytes(128))
        producer = house.producer

        def submit() -> tuple[tuple[int], dict[str, int]]:
            flush.step(NOW_MS)
            dispatch.step(NOW_MS)
            ring = producer.ring
            before = ring.submitted.load()
            for _ in range(count):
                producer.submit(0, one)
            return (before,), {}

        def work(before: int) -> int:
            writer.step(NOW_MS)
            return producer.ring.completed.load() - before

        assert benchmark.pedantic(work, setup=submit, rounds=300) == count
        assert producer.done(producer.ring.completed.load() - 1).status == STATUS_OK
        flush.close()
        dispatch.close()
        note(benchmark, unit="message", count=count)


@pytest.mark.benchmark(group="ring hop between two processes")
def test_round_trip(benchmark: Benchmark, tmp_path: Path) -> None:
    """µs until the completion of one message is seen, with the writer in a process of its own."""
    with opened(tmp_path / "store") as house:
        one = encode("T", bytes(128))
        child = os.fork()
        if child == 0:
            _serve_as_writer(house)
        try:
            end = time.monotonic() + DEADLINE_S

            def work() -> int:
                number = house.producer.submit(0, one)
                house.arena.bells["writer"].ring()
                _wait_for(house, number)
                assert time.monotonic() < end, "the writer does not answer"
                return number

            number = benchmark(work)
            assert house.producer.done(number).status == STATUS_OK
            assert house.producer.waiting == 0
            note(benchmark, unit="message", count=1)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _wait_for(house: House, number: int) -> None:
    """Sleep until an entry is completed, or for a moment too long."""
    completed, bell = house.producer.ring.completed, house.arena.bells["serve0"]
    for _ in range(int(DEADLINE_S * 1000) // WAIT_MS):
        if completed.load() > number:
            return
        bell.arm()
        if completed.load() <= number:
            bell.wait(WAIT_MS)
        bell.disarm()


def _serve_as_writer(house: House) -> None:
    """The writer, with flush and dispatch beside it so that pages are used again; never returns."""
    parent = os.getppid()
    try:
        writer, flush, dispatch = house.writer(), house.flush(), house.dispatch()
        while os.getppid() == parent:
            if writer.step(NOW_MS) == 0:
                flush.step(NOW_MS)
                dispatch.step(NOW_MS)
                writer.wait(1)
    finally:
        os._exit(1)
