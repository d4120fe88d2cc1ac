"""Index files that Apache wrote, queried by us; and our own over its log, the same byte by byte."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shmq.broker.queries import Queries
from shmq.config import Settings
from shmq.errors import RequestRefused
from shmq.layout import record
from shmq.layout.control import Word
from shmq.store.indexfiles import IndexReader, IndexSizes
from shmq.units import MiB
from shmq.wire.codes import RequestCode
from tests.unit.broker_reads.store import records_in
from tests.unit.workers.house import House

SIZES = IndexSizes(100, 400)
NOW_MS = 1_700_000_000_000
LONG_MAX = 2**63 - 1


@contextmanager
def opened(root: Path, *, clean: bool) -> Iterator[House]:
    settings = Settings(
        store_path_root_dir=str(root),
        mapped_file_size_commit_log=MiB,
        mapped_file_size_consume_queue=20_000,
        max_hash_slot_num=SIZES.slot_count,
        max_index_num=SIZES.entry_count_max,
    )
    with House(root, settings=settings, clean=clean, pool_size=32 * MiB) as house:
        yield house


@pytest.fixture(params=["clean", "crashed"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(kind: str, tmp_path: Path, unpack_golden_store: Callable[[str, Path], Path]) -> Path:
    return unpack_golden_store(kind, tmp_path / "store")


@pytest.fixture
def stored(kind: str, golden_manifests: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Every record of the log, as Apache's decoder read it."""
    listed: list[dict[str, Any]] = golden_manifests[kind]["stored"]
    return listed


def run(house: House) -> None:
    """Let the index go as far as the log does, and stop."""
    role = house.index()
    while not role.drain(NOW_MS):
        pass
    assert house.word(Word.INDEX_OFFSET) == house.word(Word.REPUT_OFFSET) == house.end


def files(root: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((root / "index").iterdir())]


def places(house: House, **ext: object) -> list[int]:
    """Physical offsets of what a query finds."""
    index = IndexReader(house.store_dir / "index", SIZES)
    queries = Queries(settings=house.settings, index=index, log_reader=house.log_reader())
    asked = {"maxNum": "64", "beginTimestamp": "0", "endTimestamp": str(LONG_MAX)}
    asked |= {name: str(value) for name, value in ext.items()}
    try:
        found = queries.handlers[RequestCode.QUERY_MESSAGE](asked)
    except RequestRefused:
        return []
    finally:
        index.close()
    return [one.physical_offset for one in records_in(found.body)]


def wanted(stored: list[dict[str, Any]], topic: str, has: Callable[[dict[str, str]], bool]) -> Any:
    """Physical offsets of the newest 64 records of a topic with such properties."""
    return [
        one["commitlogOffset"]
        for one in stored
        if one["topic"] == topic and has(one["properties"]) and not is_rolled_back(one)
    ][-64:]


def is_rolled_back(one: dict[str, Any]) -> bool:
    flags: int = one["sysFlag"]
    return flags & 0xC == 0xC


def test_every_message_is_found_by_each_of_its_keys(
    root: Path, kind: str, stored: list[dict[str, Any]]
) -> None:
    """In the files that Apache wrote, and what it did not come to after the crash is completed."""
    with opened(root, clean=kind == "clean") as house:
        run(house)
        for one in stored[::7]:
            topic, mine = one["topic"], one["properties"]
            if is_rolled_back(one):
                continue
            if unique := mine.get("UNIQ_KEY"):
                found = places(house, topic=topic, key=unique, _UNIQUE_KEY_QUERY=True, maxNum=1)
                expected = wanted(stored, topic, lambda p, key=unique: has_key(p, key))  # type: ignore[misc]
                assert found == expected[-32:]
            for word in filter(None, mine.get("KEYS", "").split(" ")):
                found = places(house, topic=topic, key=word)
                assert found == wanted(stored, topic, lambda p, key=word: has_key(p, key))  # type: ignore[misc]
            if tag := mine.get("TAGS"):
                found = places(house, topic=topic, key=tag, indexType="T")
                assert found == wanted(stored, topic, lambda p, tag=tag: p.get("TAGS") == tag)  # type: ignore[misc]


def has_key(properties: dict[str, str], key: str) -> bool:
    return key == properties.get("UNIQ_KEY") or key in properties.get("KEYS", "").split(" ")


def test_a_clean_store_is_not_changed(
    tmp_path: Path, unpack_golden_store: Callable[[str, Path], Path]
) -> None:
    root = unpack_golden_store("clean", tmp_path / "store")
    before = files(root)
    for _ in range(2):
        with opened(root, clean=True) as house:
            run(house)
        assert files(root) == before


def test_our_own_files_are_the_same(
    root: Path, kind: str, unpack_golden_store: Callable[[str, Path], Path], tmp_path: Path
) -> None:
    """Made anew from Apache's log: eight files that differ in their names alone."""
    apache = files(root)
    shutil.rmtree(root / "index")
    with opened(root, clean=kind == "clean") as house:
        run(house)
    ours = files(root)
    assert len(ours) == len(apache) >= 8
    if kind == "clean":
        assert ours == apache
    else:  # One record, and perhaps the last header, was not there when the broker was killed.
        assert ours[:-1] == apache[:-1]


def test_an_index_that_lost_its_newest_file(
    tmp_path: Path, unpack_golden_store: Callable[[str, Path], Path]
) -> None:
    root = unpack_golden_store("clean", tmp_path / "store")
    before = files(root)
    for path in sorted((root / "index").iterdir())[-2:]:
        path.unlink()
    with opened(root, clean=True) as house:
        run(house)
    assert files(root) == before


def test_an_index_whose_end_is_not_in_the_log(
    tmp_path: Path, unpack_golden_store: Callable[[str, Path], Path]
) -> None:
    """The log was cut: what the index says of the rest goes, and comes again with the rest."""
    root = unpack_golden_store("clean", tmp_path / "store")
    before = files(root)
    last = max((root / "commitlog").iterdir())
    whole = last.read_bytes()
    end = 0
    while record.head(whole, end)[1] == record.MAGIC_V1:
        end += record.head(whole, end)[0]
    half = 0
    while half < end // 2:
        half += record.head(whole, half)[0]
    last.write_bytes(whole[:half].ljust(len(whole), b"\0"))
    (root / "abort").touch()
    with opened(root, clean=False) as house:
        run(house)
        assert house.end == int(last.name) + half
    fewer = files(root)
    assert fewer != before
    last.write_bytes(whole)
    with opened(root, clean=False) as house:
        run(house)
    assert files(root) == before
