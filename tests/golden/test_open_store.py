"""Stores that a real RocketMQ left, clean and crashed, opened by our boot step."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shmq.config import Settings
from shmq.layout import cqentry, record
from shmq.layout.control import Word
from shmq.store.checkpoint import CheckpointFile
from shmq.units import MiB
from tests.unit.workers.house import House

QUEUE_FILE_SIZE = 20_000
LOG_FILE_SIZE = MiB
DELAY_TOPIC = "SCHEDULE_TOPIC_XXXX"
DELAYS_MS = {1: 1_000, 3: 10_000, 18: 7_200_000}


@contextmanager
def opened(root: Path, *, clean: bool) -> Iterator[House]:
    settings = Settings(
        store_path_root_dir=str(root),
        mapped_file_size_commit_log=LOG_FILE_SIZE,
        mapped_file_size_consume_queue=QUEUE_FILE_SIZE,
    )
    with House(root, settings=settings, clean=clean, pool_size=32 * MiB) as house:
        yield house


@pytest.fixture(params=["clean", "crashed"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def manifest(kind: str, golden_manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return golden_manifests[kind]


@pytest.fixture
def root(kind: str, tmp_path: Path, unpack_golden_store: Callable[[str, Path], Path]) -> Path:
    return unpack_golden_store(kind, tmp_path / "store")


def log_end(manifest: dict[str, Any]) -> int:
    last = manifest["stored"][-1]
    return int(last["commitlogOffset"]) + int(last["size"])


def check_all(house: House, manifest: dict[str, Any]) -> None:
    """Every message is where Apache put it, and read through queue and log as it was written."""
    assert house.end == log_end(manifest)
    for word in (Word.APPEND_OFFSET, Word.WRITTEN_OFFSET, Word.FLUSHED_OFFSET, Word.REPUT_OFFSET):
        assert house.word(word) == house.end
    assert house.word(Word.HOT_START) == house.end
    assert (house.word(Word.LOG_START), house.word(Word.STORE_STATE)) == (0, 1)
    queues, log, table = house.queue_reader(), house.log_reader(), house.arena.queues
    counts = {
        f"{topic}/{queue_id}": table.max_offset(slot) - table.min_offset(slot)
        for topic, ids in table.topics().items()
        for queue_id, slot in ids.items()
    }
    assert counts == manifest["recordsPerQueue"]
    for name, (lowest, end) in manifest["queueMinMax"].items():
        topic, queue_id = name.split("/")
        slot = table.slot(topic, int(queue_id))
        assert slot is not None
        assert (table.min_offset(slot), table.max_offset(slot)) == (lowest, end)
    for stored in manifest["stored"]:
        slot = table.slot(stored["topic"], stored["queueId"])
        assert slot is not None
        entry = queues.entries(slot, stored["queueOffset"], 1)[0]
        assert entry["physical_offset"] == stored["commitlogOffset"]
        assert entry["size"] == stored["size"]
        assert entry["tags_code"] == wanted_code(stored)
        found = record.decode(log.record(stored["commitlogOffset"], stored["size"]))
        assert hashlib.sha256(found.body).hexdigest() == stored["storedBodySha256"]
        assert (found.topic, found.queue_offset) == (stored["topic"], stored["queueOffset"])


def wanted_code(stored: dict[str, Any]) -> int:
    properties = stored["properties"]
    if stored["topic"] == DELAY_TOPIC:
        return int(stored["storeTimestamp"]) + DELAYS_MS[int(properties["DELAY"])]
    return cqentry.tags_code(properties.get("TAGS"))


def digests(root: Path) -> dict[str, str]:
    """What stands in every file of a store."""
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def test_every_message_is_found(root: Path, kind: str, manifest: dict[str, Any]) -> None:
    with opened(root, clean=kind == "clean") as house:
        check_all(house, manifest)


def test_a_second_opening_changes_nothing(root: Path, manifest: dict[str, Any]) -> None:
    with opened(root, clean=False) as house:
        check_all(house, manifest)
    before = digests(root)
    for clean in (False, True):
        with opened(root, clean=clean) as house:
            check_all(house, manifest)
        assert digests(root) == before


def test_a_clean_store_is_not_changed(
    tmp_path: Path,
    unpack_golden_store: Callable[[str, Path], Path],
    golden_manifests: dict[str, dict[str, Any]],
) -> None:
    root = unpack_golden_store("clean", tmp_path / "store")
    before = digests(root)
    for clean in (True, False):
        with opened(root, clean=clean) as house:
            check_all(house, golden_manifests["clean"])
        assert digests(root) == before


def test_missing_consumequeues_are_built_anew(root: Path, manifest: dict[str, Any]) -> None:
    wanted = {name: data for name, data in digests(root).items() if name.startswith("consumequeue")}
    shutil.rmtree(root / "consumequeue")
    with opened(root, clean=False) as house:
        check_all(house, manifest)
    built = {name: data for name, data in digests(root).items() if name.startswith("consumequeue")}
    assert set(wanted) <= set(built)
    assert {name for name in wanted if built[name] != wanted[name]} == set()


def test_one_missing_queue_is_built_anew(root: Path, manifest: dict[str, Any]) -> None:
    """Its first messages lie before what the checkpoint vouches for."""
    newest = manifest["stored"][-1]["storeTimestamp"] + 10_000
    vouch(root, newest)
    shutil.rmtree(root / "consumequeue" / "GoldenB" / "3")
    with opened(root, clean=False) as house:
        check_all(house, manifest)


def vouch(root: Path, timestamp: int) -> None:
    file = CheckpointFile(root / "checkpoint")
    file.save(file.load()._replace(physical_timestamp=timestamp, queues_timestamp=timestamp))
    file.close()


@pytest.mark.parametrize("kept", [0, 1, 5, 1000, 1001, 1106])
def test_short_consumequeue_is_completed(root: Path, manifest: dict[str, Any], kept: int) -> None:
    folder = root / "consumequeue" / "GoldenB" / "3"
    for file in sorted(folder.iterdir()):
        at = max(0, kept * 20 - int(file.name))
        if at < QUEUE_FILE_SIZE:
            with file.open("r+b") as opened_file:
                opened_file.truncate(at)
                opened_file.truncate(QUEUE_FILE_SIZE)
    with opened(root, clean=False) as house:
        check_all(house, manifest)


@pytest.mark.parametrize("more", [1, 7, 893])
def test_long_consumequeue_is_cut(root: Path, manifest: dict[str, Any], more: int) -> None:
    """A power cut may keep entries of records that it took."""
    end = log_end(manifest)
    file = root / "consumequeue" / "GoldenB" / "3" / f"{QUEUE_FILE_SIZE:020d}"
    with file.open("r+b") as opened_file:
        opened_file.seek((1107 - 1000) * 20)
        for number in range(more):
            opened_file.write(cqentry.encode(end + 300 * number, 300, 5))
    with opened(root, clean=False) as house:
        check_all(house, manifest)
    assert not any(file.read_bytes()[(1107 - 1000) * 20 :])


def test_log_cut_within_its_last_record(
    tmp_path: Path,
    unpack_golden_store: Callable[[str, Path], Path],
    golden_manifests: dict[str, dict[str, Any]],
) -> None:
    """Whatever a power cut leaves of the last record, all before it is there and it is gone."""
    manifest = golden_manifests["clean"]
    root = unpack_golden_store("clean", tmp_path / "store")
    last = manifest["stored"][-1]
    start, size = int(last["commitlogOffset"]), int(last["size"])
    path = root / "commitlog" / f"{2 * MiB:020d}"
    whole = path.read_bytes()
    vouch(root, last["storeTimestamp"] + 10_000)  # Only the last file is walked: quicker.
    queue = (last["topic"], last["queueId"])
    for kept in sorted({*range(0, size, 17), *range(0, 90, 4), *range(size - 6, size)}):
        data = bytearray(whole)
        data[start - 2 * MiB + kept :] = bytes(len(data) - (start - 2 * MiB + kept))
        path.write_bytes(data)
        with opened(root, clean=False) as house:
            assert house.end == start, kept
            slot = house.arena.queues.slot(*queue)
            assert slot is not None
            assert house.arena.queues.max_offset(slot) == last["queueOffset"]
        aside = root / "set-aside"
        copies = list(aside.iterdir()) if aside.exists() else []
        for copy in copies:
            assert copy.read_bytes().rstrip(b"\0") == bytes(
                whole[start - 2 * MiB : start - 2 * MiB + kept]
            ).rstrip(b"\0")
            copy.unlink()
    path.write_bytes(whole)
    with opened(root, clean=False) as house:
        check_all(house, manifest)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\xff" * 5000,
        b"\0\0\0\x5b\xda\xa3\x20\xa7" + b"\1" * 200,
        b"\x7f\xff\xff\xff\xda\xa3\x20\xa7" + b"\2" * 200,
        b"\0" * 9000 + b"late",
    ],
)
def test_garbage_after_the_end_is_set_aside(
    root: Path, manifest: dict[str, Any], garbage: bytes
) -> None:
    end = log_end(manifest)
    path = root / "commitlog" / f"{2 * MiB:020d}"
    with path.open("r+b") as file:
        file.seek(end - 2 * MiB)
        file.write(garbage)
    with opened(root, clean=False) as house:
        check_all(house, manifest)
    copy = root / "set-aside" / f"commitlog-{end:020d}"
    assert copy.read_bytes().rstrip(b"\0") == garbage
    data = path.read_bytes()
    assert len(data) == LOG_FILE_SIZE
    assert not any(data[end - 2 * MiB :])


def test_a_record_of_another_place_is_the_end(root: Path, manifest: dict[str, Any]) -> None:
    """A whole record, its CRC right, but written for another place of the log."""
    end = log_end(manifest)
    first = manifest["stored"][0]
    copied = (root / "commitlog" / f"{0:020d}").read_bytes()[: first["size"]]
    with (root / "commitlog" / f"{2 * MiB:020d}").open("r+b") as file:
        file.seek(end - 2 * MiB)
        file.write(copied)
    with opened(root, clean=False) as house:
        check_all(house, manifest)
    assert (root / "set-aside" / f"commitlog-{end:020d}").read_bytes().startswith(copied)
