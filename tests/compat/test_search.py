"""Offsets by time: Apache's broker and ours, asked about the same store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shmq.broker.timesearch import TimeSearch
from shmq.units import KiB
from tests.compat.ask import SUCCESS, ask
from tests.compat.peers import ApacheBroker, ApacheNamesrv
from tests.unit.broker_reads.store import START_MS, TOPIC, Store

SEARCH_OFFSET_BY_TIMESTAMP = 29
CQ_FILE_SIZE = 20 * 16
LOG_FILE_SIZE = 64 * KiB
STAMPS = {
    0: [number // 3 * 2 for number in range(60)],  # each three times, over several files
    1: [1, 2, 3, 9, 4, 5, 5, 3, 7, 7, 2, 8],  # a clock that was set back
    2: [5],
    3: [],
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store of ours, its files written."""
    made = Store(
        tmp_path / "ours",
        mapped_file_size_consume_queue=CQ_FILE_SIZE,
        mapped_file_size_commit_log=LOG_FILE_SIZE,
    )
    for queue_id, stamps in STAMPS.items():
        for stamp in stamps:
            made.now_ms = START_MS + stamp
            made.put(b"m" * 3000, queue_id=queue_id)
    assert made.flush.drain(made.now_ms)
    assert made.dispatch.drain(made.now_ms)
    yield made
    made.close()


def test_the_same_store(store: Store, apache_namesrv: ApacheNamesrv, tmp_path: Path) -> None:
    """Equal stamps, several files, stamps that go back, one message, none; before and after all."""
    folder = tmp_path / "apache"
    for part in ("commitlog", "consumequeue"):
        shutil.copytree(store.house.store_dir / part, folder / "store" / part)
    apache = ApacheBroker(
        folder,
        namesrv=apache_namesrv.address,
        settings={
            "mappedFileSizeConsumeQueue": CQ_FILE_SIZE,
            "mappedFileSizeCommitLog": LOG_FILE_SIZE,
        },
    )
    apache.start()
    try:
        compare(store, apache.address)
    finally:
        apache.kill()  # Its store is a copy, and an orderly end takes 15 s.


def compare(store: Store, address: str) -> None:
    """Ask both about every moment."""
    search = TimeSearch(
        queues=store.arena.queues, queue_reader=store.queue_reader, log_reader=store.log_reader
    )
    for queue_id, stamps in STAMPS.items():
        slot = store.arena.queues.slot(TOPIC, queue_id)
        assert slot is not None
        for moment in range(-2, max(stamps, default=0) + 3):
            for boundary in ("LOWER", "UPPER"):
                fields = {
                    "topic": TOPIC,
                    "queueId": queue_id,
                    "timestamp": START_MS + moment,
                    "boundaryType": boundary,
                }
                answer = ask(address, SEARCH_OFFSET_BY_TIMESTAMP, fields)
                assert answer.code == SUCCESS
                ours = search.offset(slot, START_MS + moment, upper=boundary == "UPPER")
                assert ours == int(answer.fields["offset"]), fields
