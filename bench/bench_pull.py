"""µs for one pull of 32 messages of 128 B or 1 KiB from hot pages: entries, filter, records."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.load import SIZES, Benchmark, note
from shmq.units import MiB
from shmq.wire.pull import SUBSCRIBE_ALL, Subscription, parse_tags
from tests.unit.broker_reads.store import Store, bodies_in, pull_header

PULLED = 32
STORED = 256


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tags", ["*", "A || B"], ids=["all", "tags"])
@pytest.mark.benchmark(group="pull of 32 messages")
def test_execute(benchmark: Benchmark, tmp_path: Path, size: int, tags: str) -> None:
    """µs for PullService.execute, without request and answer; with tags every message matches."""
    store = Store(tmp_path / "store", house={"pool_size": MiB, "hot_entries": STORED})
    try:
        store.put(*[b"m" * size] * STORED, tag="B")
        subscription: Subscription = SUBSCRIBE_ALL if tags == "*" else parse_tags(tags)
        header = pull_header(offset=64, count=PULLED)
        result = benchmark(lambda: store.pulls.execute(header, store.slot, subscription))
        assert (result.message_count, result.next_begin_offset) == (PULLED, 64 + PULLED)
        assert bodies_in(result) == [b"m" * size] * PULLED
        note(benchmark, unit="message", count=PULLED)
    finally:
        store.close()
