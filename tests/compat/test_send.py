"""Producers of every kind and version: what they send is what is stored, in every mode."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.compat.drivers import Driver, Message, Received
from tests.compat.messages import KIB, assert_matches, assert_same, noise, some_messages
from tests.compat.peers import CLUSTER, Broker

ReadAll = Callable[[str, int], list[Received]]


@pytest.mark.parametrize("mode", ["sync", "async", "oneway"])
def test_single_messages(
    peer: Driver, broker: Broker, topic: str, read_all: ReadAll, mode: str
) -> None:
    sent = some_messages(topic, 20)
    producer = peer.producer(broker.namesrv)
    results = producer.send(sent, mode=mode)
    got = read_all(topic, 20)
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


def test_batch(peer: Driver, broker: Broker, topic: str, read_all: ReadAll) -> None:
    """A batch is stored as single messages, one after the other in one queue."""
    sent = some_messages(topic, 25)
    producer = peer.producer(broker.namesrv)
    (result,) = producer.send(sent, mode="batch")
    assert result.ok
    got = read_all(topic, 25)
    assert_same(sent, got)
    assert {message.queue_id for message in got} == {result.queue_id}
    in_order = sorted(got, key=lambda message: message.queue_offset)
    assert [message.queue_offset for message in in_order] == list(range(25))
    assert [message.text for message in in_order] == [message.body.decode() for message in sent]
    assert result.queue_offset == 0
    assert result.offset_msg_id
    assert result.offset_msg_id.split(",") == [message.offset_msg_id for message in in_order]


def test_chosen_queue_keeps_order(
    peer: Driver, broker: Broker, topic: str, read_all: ReadAll
) -> None:
    producer = peer.producer(broker.namesrv)
    sent = some_messages(topic, 30)
    results = producer.send(sent, queue_id=2)
    assert [(result.queue_id, result.queue_offset) for result in results] == [
        (2, offset) for offset in range(30)
    ]
    got = read_all(topic, 30)
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
    peer: Driver, broker: Broker, topic: str, read_all: ReadAll, mode: str
) -> None:
    """Compressible and incompressible bodies around the sizes where clients and buffers change."""
    sizes = [1, 4 * KIB - 1, 4 * KIB, 4 * KIB + 1, 64 * KIB, 300 * KIB]
    sent = [Message(topic=topic, body=noise(size, seed=size)) for size in sizes]
    sent += [
        Message(topic=topic, body=bytes([65 + n]) * (size + n)) for n, size in enumerate(sizes)
    ]
    peer.producer(broker.namesrv).send(sent, mode=mode)
    got = read_all(topic, len(sent))
    assert_same(sent, got)
    squeezed = [message for message in got if message.store_size < message.length]
    assert len(squeezed) == 5, "the clients compress from 4 KiB on"
    assert min(message.length for message in squeezed) >= 4 * KIB


def test_largest_message(peer: Driver, broker: Broker, topic: str, read_all: ReadAll) -> None:
    """4 MiB less some room for properties, incompressible: the largest that clients let through."""
    sent = [Message(topic=topic, body=noise(4 * KIB * KIB - 4 * KIB, seed=8))]
    results = peer.producer(broker.namesrv).send(sent)
    got = read_all(topic, 1)
    assert_same(sent, got)
    assert_matches(results, sent, got)


def test_topic_is_created_by_the_first_send(
    peer: Driver, broker: Broker, new_name: Callable[[], str], read_all: ReadAll
) -> None:
    """Through TBW102: four queues for the client's wish of four, then readable by others."""
    topic = new_name()
    producer = peer.producer(broker.namesrv)
    sent = some_messages(topic, 8)
    results = producer.send(sent)
    assert {result.queue_id for result in results} == {0, 1, 2, 3}
    got = read_all(topic, 8)
    assert_same(sent, got)
    assert len(producer.queues(topic)) == 4


def test_ids_name_the_place_of_the_record(java: Driver, broker: Broker, topic: str) -> None:
    """The offsetMsgId is address, port and physical offset, and the message is found by it."""
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
