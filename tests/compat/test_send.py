"""Producers of every kind and version: what they send is what is stored, in every mode."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable

import pytest

from tests.compat.drivers import Client, Driver, Message, Received, Sent
from tests.compat.peers import CLUSTER, Broker

KIB = 1024
COMPRESSED = 0x1  # bit of a record's sysFlag


def assert_same(sent: list[Message], got: list[Received]) -> None:
    """Each message was received once, with body, tags, keys and properties as they were sent."""
    by_digest = {message.sha256: message for message in got}
    assert Counter(message.sha256 for message in got) == Counter(m.sha256 for m in sent)
    for message in sent:
        found = by_digest[message.sha256]
        assert found.length == len(message.body)
        assert (found.tags or "", found.keys or "") == (message.tags, message.keys)
        assert message.properties.items() <= found.properties.items()
        assert found.flag == message.flag
        assert found.reconsume_times == 0
        assert found.born_timestamp <= found.store_timestamp + 1000


def assert_matches(results: list[Sent], sent: list[Message], got: list[Received]) -> None:
    """What the sends gave back is where the messages were found."""
    assert all(result.ok for result in results)
    by_digest = {message.sha256: message for message in got}
    for result, message in zip(results, sent, strict=True):
        found = by_digest[message.sha256]
        assert (result.queue_id, result.queue_offset) == (found.queue_id, found.queue_offset)
        assert result.offset_msg_id == found.offset_msg_id
        assert result.msg_id == found.uniq_key


def some_messages(topic: str, count: int, *, prefix: str = "m") -> list[Message]:
    return [
        Message(
            topic=topic,
            body=f"{prefix}-{number}-héllo".encode(),
            tags=f"tag{number % 3}",
            keys=f"key-{prefix}-{number}",
            properties={"number": str(number), "ünïcode": "价值"},
            flag=number,
        )
        for number in range(count)
    ]


def receive(drivers: Callable[[str], Driver], broker: Broker, topic: str, count: int) -> Client:
    """A consumer of the newest Java client that has received `count` messages of `topic`."""
    consumer = drivers("java-5.5.0").push(broker.namesrv, f"GID_{topic}", {topic: "*"})
    consumer.wait(count)
    return consumer


@pytest.mark.parametrize("mode", ["sync", "async", "oneway"])
def test_single_messages(
    peer: Driver, drivers: Callable[[str], Driver], broker: Broker, topic: str, mode: str
) -> None:
    sent = some_messages(topic, 20)
    producer = peer.producer(broker.namesrv)
    results = producer.send(sent, mode=mode)
    consumer = receive(drivers, broker, topic, 20)
    got = consumer.inbox
    assert_same(sent, got)
    if mode == "oneway":
        assert results == []
    else:
        assert_matches(results, sent, got)
    assert {message.properties["CLUSTER"] for message in got} == {CLUSTER}
    assert len({message.queue_id for message in got}) > 1, "spread over the queues"
    places = sorted(message.place for message in got)
    assert len(set(places)) == 20
    port = broker.address.rsplit(":", 1)[1]
    assert {message.store_host for message in got} == {f"127.0.0.1|{port}"}


def test_batch(peer: Driver, drivers: Callable[[str], Driver], broker: Broker, topic: str) -> None:
    """A batch is stored as single messages, one after the other in one queue."""
    sent = some_messages(topic, 25)
    producer = peer.producer(broker.namesrv)
    (result,) = producer.send(sent, mode="batch")
    assert result.ok
    got = receive(drivers, broker, topic, 25).inbox
    assert_same(sent, got)
    assert {message.queue_id for message in got} == {result.queue_id}
    in_order = sorted(got, key=lambda message: message.queue_offset)
    assert [message.queue_offset for message in in_order] == list(range(25))
    assert [message.text for message in in_order] == [message.body.decode() for message in sent]
    assert result.queue_offset == 0
    assert result.offset_msg_id
    assert result.offset_msg_id.split(",") == [message.offset_msg_id for message in in_order]


def test_chosen_queue_keeps_order(
    peer: Driver, drivers: Callable[[str], Driver], broker: Broker, topic: str
) -> None:
    producer = peer.producer(broker.namesrv)
    sent = some_messages(topic, 30)
    results = producer.send(sent, queue_id=2)
    assert [(result.queue_id, result.queue_offset) for result in results] == [
        (2, offset) for offset in range(30)
    ]
    got = receive(drivers, broker, topic, 30).inbox
    assert_same(sent, got)
    assert_matches(results, sent, got)


def test_selector_keeps_keys_apart(peer: Driver, broker: Broker, topic: str) -> None:
    producer = peer.producer(broker.namesrv)
    queue_of_key = {}
    for key in ("order-1", "order-2", "order-3"):
        results = producer.send(some_messages(topic, 5, prefix=key), selector_key=key)
        (queue_of_key[key],) = {result.queue_id for result in results}
        offsets = [result.queue_offset for result in results]
        assert offsets == list(range(offsets[0], offsets[0] + 5))


@pytest.mark.parametrize("mode", ["sync", "async", "oneway"])
def test_large_bodies(
    peer: Driver, drivers: Callable[[str], Driver], broker: Broker, topic: str, mode: str
) -> None:
    """Compressible and incompressible bodies around the sizes where clients and buffers change."""
    source = random.Random(7)
    sizes = [1, 4 * KIB - 1, 4 * KIB, 4 * KIB + 1, 64 * KIB, 300 * KIB]
    sent = [Message(topic=topic, body=source.randbytes(size)) for size in sizes]
    sent += [
        Message(topic=topic, body=bytes([65 + n]) * (size + n)) for n, size in enumerate(sizes)
    ]
    peer.producer(broker.namesrv).send(sent, mode=mode)
    got = receive(drivers, broker, topic, len(sent)).inbox
    assert_same(sent, got)
    squeezed = [message for message in got if message.sys_flag & COMPRESSED]
    assert len(squeezed) >= 8, "the clients compress from 4 KiB on"
    assert min(message.length for message in squeezed) >= 4 * KIB
    assert any(message.store_size < message.length for message in squeezed)


def test_largest_message(
    peer: Driver, drivers: Callable[[str], Driver], broker: Broker, topic: str
) -> None:
    """4 MiB less some room for properties, incompressible: the largest that clients let through."""
    sent = [Message(topic=topic, body=random.Random(8).randbytes(4 * KIB * KIB - 4 * KIB))]
    results = peer.producer(broker.namesrv).send(sent)
    got = receive(drivers, broker, topic, 1).inbox
    assert_same(sent, got)
    assert_matches(results, sent, got)


def test_topic_is_created_by_the_first_send(
    peer: Driver,
    drivers: Callable[[str], Driver],
    broker: Broker,
    new_name: Callable[[], str],
) -> None:
    """Through TBW102: four queues for the client's wish of four, readable at once by others."""
    topic = new_name()
    producer = peer.producer(broker.namesrv)
    sent = some_messages(topic, 8)
    results = producer.send(sent)
    assert {result.queue_id for result in results} == {0, 1, 2, 3}
    got = receive(drivers, broker, topic, 8).inbox
    assert_same(sent, got)
    assert len(producer.queues(topic)) == 4


def test_ids_name_the_place_of_the_record(java: Driver, broker: Broker, topic: str) -> None:
    """offsetMsgId is address, port and physical offset, and the message is found by it."""
    producer = java.producer(broker.namesrv)
    (sent,) = some_messages(topic, 1)
    (result,) = producer.send(sent)
    assert result.offset_msg_id
    assert re.fullmatch(r"[0-9A-F]{32}", result.offset_msg_id)
    port = int(broker.address.rsplit(":", 1)[1])
    assert result.offset_msg_id.startswith(f"7F000001{port:08X}")
    shown = producer.call("view", topic=topic, msgId=result.offset_msg_id)["message"]
    assert shown["sha256"] == sent.sha256
    assert shown["physicalOffset"] == int(result.offset_msg_id[16:], 16)
