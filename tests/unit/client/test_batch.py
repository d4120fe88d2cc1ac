"""Batches of records that shmq.layout.record encoded, and what one message shows of them."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.client.batch import Batch, split
from shmq.client.model import Queue
from shmq.errors import InvalidMessage, ProtocolError
from shmq.layout import record
from shmq.layout.record import BORN_HOST_V6, STORE_HOST_V6, Record
from shmq.wire.properties import encode_properties

QUEUE = Queue("T", "b", 1)
V6 = bytes(range(16))


def a_record(offset: int, body: bytes = b"body", **fields: Any) -> Record:
    """A record of QUEUE."""
    properties = encode_properties(fields.pop("properties", {}))
    topic = fields.pop("topic", "T")
    return Record(
        topic=topic, body=body, queue_id=1, queue_offset=offset, physical_offset=1000 + offset,
        born_timestamp=5, store_timestamp=7, properties=properties, store_port=10911,
        magic=record.magic_for(topic), **fields,
    )  # fmt: skip


def a_batch(
    *records: Record, tags: frozenset[str] | None = None, queue: Queue = QUEUE
) -> Batch | None:
    """What a pull gives of them."""
    data = b"".join(map(record.encode, records))
    return split(queue, data, next_offset=99, count_max=32, tags=tags)


HOSTS: list[dict[str, Any]] = [
    {},
    {"sys_flag": BORN_HOST_V6, "born_host": V6},
    {"sys_flag": STORE_HOST_V6, "store_host": V6},
    {"sys_flag": BORN_HOST_V6 | STORE_HOST_V6, "born_host": V6, "store_host": V6},
]


@pytest.mark.parametrize("hosts", HOSTS)
@pytest.mark.parametrize("topic", ["T", "T" * 128])
def test_all_fields(hosts: dict[str, Any], topic: str) -> None:
    properties = {"KEYS": "k1 k2", "UNIQ_KEY": "id", "TAGS": "a", "größe": "1"}
    batch = a_batch(
        a_record(3, b"one", topic=topic, properties=properties, reconsume_times=2, flag=9, **hosts),
        a_record(4, b"", topic=topic, **hosts),
        queue=Queue(topic, "b", 1),
    )
    assert batch is not None
    assert len(batch) == 2
    one, two = batch
    assert (one.topic, one.queue_id, one.queue_offset, one.physical_offset) == (topic, 1, 3, 1003)
    assert (one.body, bytes(one.body_view), two.body) == (b"one", b"one", b"")
    assert (one.tags, one.keys, one.message_id) == ("a", ["k1", "k2"], "id")
    assert (one.flag, one.reconsume_times) == (9, 2)
    assert (one.born_timestamp, one.store_timestamp) == (5, 7)
    assert one.properties == properties
    assert (two.properties, two.tags, two.keys) == ({}, None, [])
    host = V6 if hosts.get("store_host") else bytes([127, 0, 0, 1])
    assert two.message_id == two.offset_message_id
    assert (
        two.offset_message_id
        == (host + (10911).to_bytes(4, "big") + (1004).to_bytes(8, "big")).hex().upper()
    )


def test_a_message_that_is_tried_again_shows_its_own_topic() -> None:
    batch = a_batch(
        a_record(0, topic="%RETRY%G", properties={"RETRY_TOPIC": "T"}),
        a_record(1, topic="%RETRY%G"),
        queue=Queue("%RETRY%G", "b", 0),
    )
    assert batch is not None
    assert [message.topic for message in batch] == ["T", "%RETRY%G"]


@pytest.mark.parametrize("sys_flag", [0x1, 0x301])
def test_compressed_bodies(sys_flag: int) -> None:
    packed = zlib.compress(b"x" * 5000)
    batch = a_batch(a_record(0, packed, sys_flag=sys_flag))
    assert batch is not None
    assert batch[0].body == bytes(batch[0].body_view) == b"x" * 5000
    assert bytes(batch.bodies()[0]) == b"x" * 5000


@pytest.mark.parametrize(
    ("sys_flag", "body", "said"),
    [
        (0x1, b"no stream", "broken"),
        (0x1, zlib.compress(b"x" * 100)[:-3], "cut off"),
        (0x401, b"", "unknown compression"),
    ],
)
def test_bodies_that_cannot_be_read(sys_flag: int, body: bytes, said: str) -> None:
    batch = a_batch(a_record(0, body, sys_flag=sys_flag))
    assert batch is not None
    with pytest.raises(InvalidMessage, match=said):
        _ = batch[0].body


@pytest.mark.parametrize(("flag", "package"), [(0x101, "lz4"), (0x201, "zstandard")])
def test_a_package_that_is_missing_is_named(
    flag: int, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", missing)
    batch = a_batch(a_record(0, b"xyz", sys_flag=flag))
    assert batch is not None
    with pytest.raises(InvalidMessage, match=package):
        _ = batch[0].body


def test_tags_by_text() -> None:
    """Aa and BB have one hash code."""
    records = [
        a_record(number, properties={"TAGS": tag} if tag else {})
        for number, tag in enumerate(["Aa", "BB", "", "Aa"])
    ]
    batch = a_batch(*records, tags=frozenset({"Aa", "c"}))
    assert batch is not None
    assert [message.queue_offset for message in batch] == [0, 3]
    assert batch.offsets.tolist() == [0, 3]
    assert a_batch(*records, tags=frozenset({"c"})) is None
    assert a_batch() is None


def test_tails() -> None:
    batch = a_batch(*map(a_record, range(5)))
    assert batch is not None
    rest = batch.tail(2)
    assert [message.queue_offset for message in rest] == rest.offsets.tolist() == [2, 3, 4]
    assert rest.next_offset == 99
    assert [message.queue_offset for message in rest.tail(2)] == [4]
    assert len(batch.tail(5)) == 0


@given(st.integers(0, 10_000), st.binary(max_size=20))
def test_data_that_are_no_records(cut: int, noise: bytes) -> None:
    """Whatever a broker sends: whole records, or an error."""
    data = b"".join(record.encode(a_record(number)) for number in range(3))
    whole = len(data) // 3
    spoilt = data[: cut % (len(data) + 1)] + noise
    if len(spoilt) % whole or (noise and spoilt != data[: len(spoilt)]):
        with pytest.raises(ProtocolError):
            split(QUEUE, spoilt, next_offset=0, count_max=32, tags=None)
    else:
        batch = split(QUEUE, spoilt, next_offset=0, count_max=32, tags=None)
        assert len(batch or ()) == len(spoilt) // whole


def test_more_records_than_were_asked_for() -> None:
    data = b"".join(record.encode(a_record(number)) for number in range(3))
    with pytest.raises(ProtocolError, match="count_max=2"):
        split(QUEUE, data, next_offset=0, count_max=2, tags=None)
