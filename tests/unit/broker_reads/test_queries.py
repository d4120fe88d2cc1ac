"""Messages by key: what the index says is compared with the records, and the work is bounded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from shmq.broker import queries
from shmq.broker.queries import Queries
from shmq.errors import RequestRefused
from shmq.layout import indexfile
from shmq.layout.control import Word
from shmq.store.indexfiles import IndexFile, IndexReader, IndexSizes, list_names
from shmq.units import KiB
from shmq.wire.codes import RequestCode, ResponseCode
from tests.unit.broker_reads.conftest import MakeStore
from tests.unit.broker_reads.store import START_MS, TOPIC, Store, records_in
from tests.unit.workers.house import INDEX_ENTRIES, INDEX_SLOTS

SIZES = IndexSizes(INDEX_SLOTS, INDEX_ENTRIES)
LONG_MAX = 2**63 - 1


class Asked:
    """A store with an index, and what is asked about it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._role = store.house.index()
        self.folder = store.house.store_dir / "index"
        self._reader = IndexReader(self.folder, SIZES)
        self.queries = Queries(
            settings=store.settings, index=self._reader, log_reader=store.log_reader
        )

    def put(self, body: bytes, *, at: int = 0, **properties: str) -> None:
        """Store a message `at` ms after the start, and index it."""
        self.store.put(body, now_ms=START_MS + at, properties=properties)
        while self._role.step(START_MS):
            pass

    def bodies(self, key: str, **ext: object) -> list[bytes]:
        """Bodies of what is found, in the order of the answer."""
        asked: dict[str, object] = {
            "topic": TOPIC,
            "key": key,
            "maxNum": 64,
            "beginTimestamp": 0,
            "endTimestamp": LONG_MAX,
        }
        asked |= ext
        handler = self.queries.handlers[RequestCode.QUERY_MESSAGE]
        try:
            found = handler({name: str(value) for name, value in asked.items()})
        except RequestRefused as error:
            if error.code != ResponseCode.QUERY_NOT_FOUND:
                raise
            return []
        newest = self._reader.files()[0].header
        assert found.ext == {
            "indexLastUpdateTimestamp": str(newest.end_timestamp),
            "indexLastUpdatePhyoffset": str(newest.end_offset),
        }
        return [one.body for one in records_in(found.body)]

    def close(self) -> None:
        """Close the files of the reader."""
        self._reader.close()


@pytest.fixture
def asked(store: Store) -> Iterator[Asked]:
    one = Asked(store)
    yield one
    one.close()


def test_each_kind_of_key(asked: Asked) -> None:
    asked.put(b"0", KEYS="a b", UNIQ_KEY="u0", TAGS="t")
    asked.put(b"1", KEYS="b", UNIQ_KEY="u1", TAGS="t")
    asked.put(b"2", KEYS="t", UNIQ_KEY="b")
    asked.put(b"3")
    assert asked.bodies("a") == [b"0"]
    assert asked.bodies("b") == [b"0", b"1", b"2"]
    assert asked.bodies("u1", _UNIQUE_KEY_QUERY="true") == [b"1"]
    assert asked.bodies("t") == [b"2"]
    assert asked.bodies("t", indexType="T") == [b"0", b"1"]
    assert asked.bodies("t", indexType="T", _UNIQUE_KEY_QUERY=True) == [b"2"]
    for key in ("", "a b", " ", "T#t", "u", "x"):
        assert asked.bodies(key) == []
    assert asked.bodies("a", topic="Other") == []


def test_a_key_that_a_message_has_twice(asked: Asked) -> None:
    asked.put(b"0", KEYS="k k u", UNIQ_KEY="u")
    assert asked.bodies("k") == asked.bodies("u") == [b"0"]


def test_keys_with_the_same_hash(asked: Asked) -> None:
    assert indexfile.key_hash("T#Aa") == indexfile.key_hash("T#BB")
    for number in range(6):
        asked.put(b"%d" % number, KEYS=("Aa", "BB")[number % 2])
    assert asked.bodies("Aa") == [b"0", b"2", b"4"]
    assert asked.bodies("BB", maxNum=1) == [b"5"]


def test_the_newest_ones_in_the_order_of_the_log(asked: Asked) -> None:
    for number in range(70):
        asked.put(b"%d" % number, KEYS="k")
    everything = [b"%d" % number for number in range(70)]
    assert asked.bodies("k", maxNum=3) == everything[-3:]
    assert asked.bodies("k", maxNum=1000) == everything[-64:]
    assert asked.bodies("k", maxNum=0) == []
    assert asked.bodies("k", maxNum=1, _UNIQUE_KEY_QUERY="TRUE") == everything[-32:]


def test_times_are_exact(asked: Asked) -> None:
    for at in (0, 10, 990, 1500, 1999, 2000, 5000):
        asked.put(b"%d" % at, at=at, KEYS="k")

    def between(begin: int, end: int) -> list[int]:
        times = {"beginTimestamp": START_MS + begin, "endTimestamp": START_MS + end}
        return [int(body) for body in asked.bodies("k", **times)]

    assert between(0, 5000) == [0, 10, 990, 1500, 1999, 2000, 5000]
    assert between(1, 1999) == [10, 990, 1500, 1999]
    assert between(1500, 1500) == [1500]
    assert between(2001, 4999) == []
    assert between(5001, 10**9) == []
    assert between(-1000, -1) == []


def test_over_all_files(asked: Asked) -> None:
    """From the newest to the oldest; times say which are looked into."""
    for number in range(450):
        at = number * 100
        asked.put(b"%d" % number, at=at, KEYS="even" if number % 2 == 0 else "odd", UNIQ_KEY="u")
    assert len(list_names(asked.folder, SIZES)) == 3
    found = asked.bodies("odd", endTimestamp=START_MS + 100 * 99)
    assert found == [b"%d" % number for number in range(1, 100, 2)]
    assert asked.bodies("even", beginTimestamp=START_MS + 448 * 100) == [b"448"]


def test_what_the_log_has_no_more(make_store: MakeStore) -> None:
    """Deleted by retention, or overwritten after a crash by another message."""
    asked = Asked(make_store())
    for number in range(4):
        asked.put(b"%d" % number, KEYS="k", UNIQ_KEY=f"u{number}")
    second = asked.store.house.messages(TOPIC)[1].physical_offset
    asked.store.set_word(Word.LOG_START, second)
    assert asked.bodies("k") == [b"1", b"2", b"3"]
    file = IndexFile(asked.folder / list_names(asked.folder, SIZES)[0], SIZES, writable=True)
    wrong = [
        (second + 1, TOPIC, "k"),
        (10**12, TOPIC, "k"),
        (-5, TOPIC, "k"),
        (second, TOPIC, "other"),
        (second, "Other", "k"),
    ]
    rows = [
        [indexfile.key_hash(indexfile.index_key(topic, key)), offset, START_MS]
        for offset, topic, key in wrong
    ]
    file.put(np.array(rows, dtype=np.int64), 0, len(rows))
    file.close()
    assert asked.bodies("k") == [b"1", b"2", b"3"]
    assert asked.bodies("other") == []
    assert asked.bodies("k", topic="Other") == []
    asked.close()


def test_work_is_bounded(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries looked at, records read, bytes read, bytes answered."""
    asked = Asked(make_store(house={"pool_size": 512 * KiB}))
    for number in range(30):
        asked.put(b"%d" % number * 100, KEYS="BB" if number % 3 else "Aa")
    everything = len(asked.bodies("Aa"))
    assert everything == 10
    for limit, at_most in (
        ("STEPS_MAX", 10),
        ("READ_COUNT_MAX", 10),
        ("READ_SIZE_MAX", 2000),
        ("ANSWER_SIZE_MAX", 1000),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(queries, limit, at_most)
            found = asked.bodies("Aa")
            assert 1 <= len(found) < everything, limit
            assert found[-1].startswith(b"27")
    monkeypatch.setattr(queries, "ANSWER_SIZE_MAX", 1)
    assert len(asked.bodies("Aa")) == 1
    asked.close()


def test_no_index_at_all(asked: Asked) -> None:
    assert asked.bodies("k") == []
    asked.put(b"0")
    assert asked.bodies("k") == []


@pytest.mark.parametrize("missing", ["topic", "key", "maxNum", "beginTimestamp", "endTimestamp"])
def test_missing_and_wrong_fields(asked: Asked, missing: str) -> None:
    ext = {
        "topic": TOPIC,
        "key": "k",
        "maxNum": "1",
        "beginTimestamp": "0",
        "endTimestamp": "1",
    }
    handler = asked.queries.handlers[RequestCode.QUERY_MESSAGE]
    with pytest.raises(RequestRefused, match=missing):
        handler({name: value for name, value in ext.items() if name != missing})
    if missing not in {"topic", "key"}:
        with pytest.raises(RequestRefused, match=missing):
            handler(ext | {missing: "x"})
    with pytest.raises(RequestRefused, match="maxNum"):
        handler(ext | {"maxNum": "-1"})


@pytest.mark.parametrize("field", ["topic", "key"])
def test_what_no_message_can_have(asked: Asked, field: str) -> None:
    asked.put(b"0", KEYS="k" * 32_000)
    assert asked.bodies("k" * 32_000) == [b"0"]
    assert asked.bodies(**{"key": "k", field: "x" * 32_768}) == []
    assert asked.bodies(**{"key": "k", field: "\ud800"}) == []
