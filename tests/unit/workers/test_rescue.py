"""After a kill of all processes: what only the hot pages hold is written to the files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmq.errors import StoreError
from shmq.layout.control import Word
from shmq.shm import segment
from shmq.units import KiB
from shmq.workers.boot import rescue
from tests.unit.workers.conftest import MakeHouse
from tests.unit.workers.house import House, encode, instance_name, small_settings
from tests.unit.workers.seams import Seams

TOPIC = "T"
NOW_MS = 1_700_000_000_000


def append(house: House, count: int, *, size: int = 3000, flushed: int = 0) -> list[bytes]:
    """Append messages, of which the first `flushed` reach the files; their bodies."""
    slot = house.slot(TOPIC)
    writer = house.writer()
    bodies = []
    for number in range(count):
        bodies.append(b"%d:" % number + b"x" * size)
        house.producer.submit(slot, encode(TOPIC, bodies[-1]))
        writer.step(NOW_MS)
        if number + 1 == flushed:
            flush = house.flush()
            flush.step(NOW_MS)
            flush.close()
    return bodies


@pytest.fixture
def killed(make_house: MakeHouse) -> House:
    return make_house()


def rescue_of(house: House) -> int:
    return rescue(house.settings, house.instance, store_dir=house.store_dir)


@pytest.mark.parametrize(("count", "flushed"), [(0, 0), (1, 0), (50, 0), (50, 20), (50, 50)])
def test_hot_pages_are_written_out(
    make_house: MakeHouse, killed: House, count: int, flushed: int
) -> None:
    """Over several commitlog files."""
    bodies = append(killed, count, flushed=flushed)
    waiting = killed.word(Word.APPEND_OFFSET) - killed.word(Word.WRITTEN_OFFSET)
    assert rescue_of(killed) == waiting
    assert segment.names_of(killed.instance) == []
    again = make_house()
    assert again.end == killed.word(Word.APPEND_OFFSET)
    if count:
        assert again.bodies(TOPIC) == bodies
    assert rescue_of(killed) == 0, "there is nothing left"


def test_a_pool_that_went_round(make_house: MakeHouse, killed: House) -> None:
    bodies = append(killed, 100, size=4000, flushed=100)
    killed.dispatch().step(NOW_MS)
    bodies += append(killed, 60, size=4000)
    assert killed.word(Word.APPEND_OFFSET) > killed.arena.pool_size
    assert rescue_of(killed) > 0
    assert make_house().bodies(TOPIC) == bodies


def test_after_a_failed_sync_what_was_written_before_is_written_again(
    make_house: MakeHouse, killed: House
) -> None:
    """The system may have dropped it: here its last file is back at zeros."""
    flush = killed.flush()
    bodies = append(killed, 10)
    flush.step(NOW_MS)
    bodies += append(killed, 30)
    flush.step(NOW_MS + 1)  # It writes, but it is not time for a sync.
    flush.close()
    flushed = killed.word(Word.FLUSHED_OFFSET)
    written = killed.word(Word.WRITTEN_OFFSET)
    assert flushed < written
    for file in sorted((killed.store_dir / "commitlog").iterdir()):
        at = max(flushed - int(file.name), 0)
        if at < file.stat().st_size:
            size = file.stat().st_size
            os.truncate(file, at)
            os.truncate(file, size)
    killed.arena.writer(Word.FLUSH_ERROR, role="flush").publish(5)
    assert rescue_of(killed) == killed.word(Word.APPEND_OFFSET) - flushed
    assert make_house().bodies(TOPIC) == bodies


def test_a_rescue_that_dies_is_done_again(
    make_house: MakeHouse, killed: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = append(killed, 50, flushed=7)
    seams = Seams(monkeypatch)
    for death_at in range(100):
        if seams.run(lambda: rescue_of(killed), death_at=death_at) is not None:
            break
        assert segment.names_of(killed.instance), "still there for the next try"
    assert death_at >= 6
    assert make_house().bodies(TOPIC) == bodies


def test_a_disk_that_refuses_keeps_the_pages(
    make_house: MakeHouse, killed: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = append(killed, 5)
    with monkeypatch.context() as patch:

        def full(_fd: int, _data: bytes, _at: int) -> int:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            rescue_of(killed)
    assert rescue_of(killed) > 0
    assert make_house().bodies(TOPIC) == bodies


def test_pages_of_another_store_are_left_out(make_house: MakeHouse, killed: House) -> None:
    append(killed, 5)
    (killed.store_dir / "commitlog").rename(killed.store_dir / "old")
    (killed.store_dir / "commitlog").mkdir()
    assert rescue_of(killed) == 0
    assert segment.names_of(killed.instance) == []
    assert make_house().end == 0


def test_pages_never_overwrite_what_another_broker_wrote(
    make_house: MakeHouse, killed: House
) -> None:
    """The store was used by a broker that knows nothing of our hot pages."""
    append(killed, 5, flushed=2)
    other = make_house()
    slot = other.slot(TOPIC)
    other.producer.submit(slot, encode(TOPIC, b"theirs"))
    other.writer().step(NOW_MS)
    flush = other.flush()
    assert flush.drain(NOW_MS)
    other.close()
    assert rescue_of(killed) == 0
    assert make_house().bodies(TOPIC)[-1] == b"theirs"


def test_other_file_sizes_are_refused_before_anything_is_written(killed: House) -> None:
    append(killed, 5, flushed=2)
    settings = small_settings(killed.store_dir, mapped_file_size_commit_log=128 * KiB)
    with pytest.raises(StoreError, match="another size than configured"):
        rescue(settings, killed.instance, store_dir=killed.store_dir)
    assert segment.names_of(killed.instance)
    assert rescue_of(killed) > 0


def test_a_broker_that_died_before_its_store_was_open(killed: House) -> None:
    append(killed, 3)
    killed.arena.writer(Word.STORE_STATE, role="boot").publish(0)
    assert rescue_of(killed) == 0
    assert segment.names_of(killed.instance) == []


@pytest.mark.parametrize("what", ["control", "pool"])
def test_partial_remnants_are_removed(killed: House, what: str) -> None:
    append(killed, 3)
    segment.unlink(segment.segment_name(killed.instance, what))
    assert rescue_of(killed) == 0
    assert segment.names_of(killed.instance) == []


def test_no_remnants(tmp_path: Path) -> None:
    assert rescue(small_settings(tmp_path), instance_name(), store_dir=tmp_path) == 0
