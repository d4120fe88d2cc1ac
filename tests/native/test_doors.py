"""Both doors give the same bytes, ids, offsets and order for the same messages, in any mix."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from array import array
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shmq.client.nativeread import NativeReader
from shmq.layout import record
from shmq.layout.control import Word
from shmq.layout.record import Record
from shmq.wire.codes import RequestCode
from shmq.wire.properties import decode_properties, encode_properties
from tests.crash.live import Broker
from tests.crash.peer import Peer, eventually, pull_fields, send_fields
from tests.native.conftest import NewBroker, Open
from tests.native.engine import NativeEngine, Stored, records_of

_topics = itertools.count()


class Given(NamedTuple):
    """One message, and the door that it takes."""

    native: bool
    body: bytes
    tags: str
    keys: str
    queue_id: int


MESSAGES = st.lists(
    st.builds(
        Given,
        native=st.booleans(),
        body=st.binary(min_size=1, max_size=300),
        tags=st.sampled_from(["", "a", "标签"]),
        keys=st.sampled_from(["", "k1 k2"]),
        queue_id=st.integers(0, 1),
    ),
    min_size=1,
    max_size=12,
)


def text_of(one: Given) -> dict[str, str]:
    """Its properties, but for those that the broker and the client add."""
    pairs = {"KEYS": one.keys, "TAGS": one.tags, "own": "value"}
    return {name: value for name, value in pairs.items() if value}


def send_plain(peer: Peer, topic: str, one: Given) -> Stored:
    """By the remoting door."""
    text = encode_properties({**text_of(one), "UNIQ_KEY": "0" * 32, "WAIT": "true"}).decode()
    fields = send_fields(topic, one.queue_id) | {"i": text}
    answer = peer.ask_ok(RequestCode.SEND_MESSAGE_V2, fields, one.body).header.ext
    offset = int(answer["queueOffset"])
    return Stored(one.queue_id, offset, int(answer["msgId"][16:], 16), "0" * 32, answer["msgId"], 0)


def send_native(engine: NativeEngine, topic: str, one: Given) -> Stored:
    """By the native door."""
    properties = text_of(one)
    properties.pop("TAGS", None)
    spec = engine.spec(topic, one.queue_id, tags=one.tags, properties=properties)
    (stored,) = engine.put(spec, one.body).result(10)
    return stored


def pulled(peer: Peer, topic: str, queue_id: int, count: int) -> list[bytes]:
    """Records by the remoting door."""
    got: list[bytes] = []
    while len(got) < count:
        fields = pull_fields(topic, queue_id, len(got), group="G", hold_ms=5000)
        body = peer.ask_ok(RequestCode.PULL_MESSAGE, fields).body
        while body:
            size, _magic = record.head(body)
            got.append(bytes(body[:size]))
            body = body[size:]
    return got


def read(reader: NativeReader, topic: str, queue_id: int, count: int) -> list[bytes]:
    """Records by the native door."""
    slot = reader.slot(topic, queue_id)
    assert slot is not None
    eventually("all are visible", lambda: reader.bounds(slot)[1] == count, timeout_s=5)
    got: list[bytes] = []
    while (batch := reader.batch(slot, len(got), 7)) is not None:
        assert batch.first == len(got)
        got += records_of(batch)
    return got


@pytest.fixture(scope="module")
def group(shared: Broker) -> None:
    """A group that may pull, and the broker that all examples share."""
    with Peer(shared.tcp) as peer:
        peer.ask_ok(
            RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
            body=b'{"groupName":"G","consumeEnable":true}',
        )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=MESSAGES)
@pytest.mark.usefixtures("group")
def test_any_mix(shared: Broker, opened: Open, messages: list[Given]) -> None:
    topic = f"Mix{next(_topics)}"
    engine = opened(shared)
    reader = NativeReader(engine.session)
    with Peer(shared.tcp) as peer:
        peer.create_topic(topic, 2)
        results = [
            send_native(engine, topic, one) if one.native else send_plain(peer, topic, one)
            for one in messages
        ]
        for queue_id in range(2):
            mine = [
                (one, result)
                for one, result in zip(messages, results, strict=True)
                if one.queue_id == queue_id
            ]
            if mine:
                records = pulled(peer, topic, queue_id, len(mine))
                assert read(reader, topic, queue_id, len(mine)) == records
                for number, (data, (one, result)) in enumerate(zip(records, mine, strict=True)):
                    check(record.decode(data), one, result, number)
    engine.session.close()


def check(found: Record, one: Given, result: Stored, number: int) -> None:
    """A record is what was sent, and the result names it; by whatever door."""
    assert (found.body, found.queue_id, found.queue_offset) == (one.body, one.queue_id, number)
    assert (result.queue_offset, result.physical_offset) == (number, found.physical_offset)
    text = decode_properties(found.properties)
    assert text.pop("UNIQ_KEY") == result.message_id
    added = {"WAIT": "true", "MSG_REGION": "DefaultRegion", "TRACE_ON": "true"}
    cluster = {"CLUSTER": "DefaultCluster"}
    assert text == text_of(one) | added | cluster
    place = found.store_host + found.store_port.to_bytes(4, "big")
    offset_id = place + found.physical_offset.to_bytes(8, "big")
    assert result.offset_message_id == offset_id.hex().upper()
    assert (found.sys_flag, found.flag, found.reconsume_times) == (0, 0, 0)
    assert abs(found.born_timestamp - found.store_timestamp) < 60_000


def test_cold_messages_come_from_files(new_broker: NewBroker, opened: Open) -> None:
    """The pool goes round, so what was first is in the files alone."""
    broker = new_broker()
    engine = opened(broker)
    spec = engine.spec("Cold", 0)
    count, size = 256, 2048
    wanted = hashlib.sha256()
    sizes = [size] * count
    starts, lengths = array("q", range(0, count * size, size)), array("q", sizes)
    hot_start = engine.session.reader(Word.HOT_START)
    total = 0
    noise = np.random.default_rng(1)
    while hot_start.load() == 0 or total < 40_000:
        bodies = noise.bytes(count * size)
        wanted.update(bodies)
        engine.put_many(spec, bodies, starts, sizes, lengths, timeout_s=30)
        total += count
    assert engine.flush(30)
    reader = NativeReader(engine.session)
    slot = reader.slot("Cold", 0)
    assert slot is not None
    eventually("all are visible", lambda: reader.bounds(slot)[1] == total, timeout_s=20)
    found, first = hashlib.sha256(), 0
    while (batch := reader.batch(slot, first, 512)) is not None:
        assert batch.first == first
        for data in records_of(batch):
            found.update(data[record.BODY_AT : record.BODY_AT + size])
        first += len(batch.sizes)
    assert first == total
    assert found.digest() == wanted.digest()


def test_a_waiting_reader_is_woken(shared: Broker, opened: Open) -> None:
    """By dispatch, for what comes through either door; nobody looks by the clock."""
    engine, waiting = opened(shared), opened(shared)
    spec = engine.spec("News", 0)
    engine.put(spec, b"first").result(10)
    reader = NativeReader(waiting.session)
    slot = reader.slot("News", 0)
    assert slot is not None
    eventually("the first", lambda: reader.bounds(slot)[1] == 1, timeout_s=5)
    took = []

    for number in range(1, 41):
        woken: list[float] = []

        def wait(end: int = number, woken: list[float] = woken) -> None:
            assert waiting.session.wait_news(lambda: reader.bounds(slot)[1] > end, 10)
            woken.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        eventually("it sleeps", lambda: waiting.session._news._sleeping.load() == 1, timeout_s=5)
        begin = time.monotonic()
        engine.put(spec, b"x")
        thread.join(10)
        took.append(woken[0] - begin)
    assert sorted(took)[len(took) // 2] < 0.02, took
