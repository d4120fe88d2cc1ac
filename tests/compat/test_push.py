"""Push consumers, one at a time in a group: what they get, and where they begin and go on."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from tests.compat.ask import committed
from tests.compat.conftest import create_topic
from tests.compat.drivers import PEERS, Client, Driver, Message, Received
from tests.compat.messages import KIB, expect, fenced, noise, some_messages
from tests.compat.peers import Broker
from tests.compat.processes import eventually

MIB = KIB * KIB
DAY_S = 24 * 3600


def await_commits(broker: Broker, group: str, got: Iterable[Received]) -> None:
    """Wait until the broker's offsets of the group are past each message of `got`."""
    ends: dict[tuple[str, int], int] = {}
    for message in got:
        queue = message.topic, message.queue_id
        ends[queue] = max(ends.get(queue, 0), message.queue_offset + 1)

    def reached() -> bool:
        return all(
            committed(broker.address, group, topic, queue_id) == end
            for (topic, queue_id), end in ends.items()
        )

    eventually(f"{group} has committed {ends}", reached)


def test_each_message_once(
    peer: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """What was there before the start, and what comes later to pulls that wait."""
    before = some_messages(topic, 40, prefix="before")
    admin.send(before)
    consumer = peer.push(broker.namesrv, group, {topic: "*"})
    consumer.wait(40)
    after = some_messages(topic, 40, prefix="after")
    results = admin.send(after)
    got = expect([consumer], fenced(admin, topic, [*before, *after]))
    places = {message.sha256: message for message in got}
    for message, result in zip(after, results, strict=True):
        found = places[message.sha256]
        assert (found.queue_id, found.queue_offset) == (result.queue_id, result.queue_offset)
        assert found.offset_msg_id == result.offset_msg_id
        assert found.uniq_key == found.msg_id == result.msg_id


def test_large_messages(
    peer: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """Compressed ones, ones larger than a pull's share, and many of them."""
    sizes = [4 * KIB, 64 * KIB, 300 * KIB, 2 * MIB]
    sent = [Message(topic=topic, body=bytes([65 + n]) * size) for n, size in enumerate(sizes)]
    sent += [Message(topic=topic, body=noise(100 * KIB, seed=n)) for n in range(16)]
    sent += [Message(topic=topic, body=noise(size, seed=size)) for size in sizes]
    admin.send(sent)
    consumer = peer.push(broker.namesrv, group, {topic: "*"})
    expect([consumer], fenced(admin, topic, sent))


def test_tags(
    peer: Driver,
    broker: Broker,
    admin: Client,
    new_name: Callable[[], str],
) -> None:
    """One tag, one of two, all; and two tags with the same hash code, which clients tell apart."""
    topic = create_topic(admin, new_name(), queues=2)
    sent = some_messages(topic, 30)
    sent += [
        Message(topic=topic, body=f"{tag} {n}".encode(), tags=tag)
        for n in range(5)
        for tag in ("Aa", "BB")
    ]
    sent.append(Message(topic=topic, body=b"without a tag"))
    admin.send(sent)
    expressions = {"tag0": {"tag0"}, "tag0 || tag2": {"tag0", "tag2"}, "Aa || tag0": {"Aa", "tag0"}}
    consumers = {
        expression: peer.push(broker.namesrv, new_name(), {topic: expression})
        for expression in (*expressions, "*")
    }
    sent = fenced(admin, topic, sent, queues=2)
    for expression, consumer in consumers.items():
        wanted = [m for m in sent if expression == "*" or m.tags in expressions[expression]]
        expect([consumer], wanted)


def test_goes_on_after_an_orderly_stop(
    peer: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """A consumer that stops commits what it had; the next of its group begins there."""
    first = some_messages(topic, 20, prefix="first")
    admin.send(first)
    consumer = peer.push(broker.namesrv, group, {topic: "*"})
    got = expect([consumer], fenced(admin, topic, first))
    consumer.stop()
    await_commits(broker, group, got)
    second = some_messages(topic, 20, prefix="second")
    admin.send(second)
    consumer = peer.push(broker.namesrv, group, {topic: "*"})
    expect([consumer], fenced(admin, topic, second))


def test_goes_on_after_a_kill(
    own_driver: Callable[..., Driver],
    drivers: Callable[[str], Driver],
    broker: Broker,
    admin: Client,
    topic: str,
) -> None:
    """What a consumer had committed is not delivered again after its process was killed.

    All kinds at once, in groups of their own, because they commit first after some 10 s.
    """
    first = some_messages(topic, 20, prefix="first")
    admin.send(first)
    first = fenced(admin, topic, first)
    victims = {peer: own_driver(peer) for peer in PEERS}
    groups = {peer: f"{topic}-{number}" for number, peer in enumerate(PEERS)}
    killed = {
        peer: victim.push(broker.namesrv, groups[peer], {topic: "*"})
        for peer, victim in victims.items()
    }
    for peer, consumer in killed.items():
        await_commits(broker, groups[peer], expect([consumer], first))
        victims[peer].process.kill()
    second = some_messages(topic, 20, prefix="second")
    admin.send(second)
    heirs = [drivers(peer).push(broker.namesrv, groups[peer], {topic: "*"}) for peer in PEERS]
    last = Message(topic=topic, body=b"the very last")
    admin.send(last, queue_id=0)
    for heir in heirs:
        expect([heir], [*second, last])


def test_broadcasting(peer: Driver, broker: Broker, admin: Client, topic: str, group: str) -> None:
    """Each member of the group gets every message, and the broker keeps no offset for it."""
    sent = some_messages(topic, 30)
    admin.send(sent[:15])
    consumers = [
        peer.push(broker.namesrv, group, {topic: "*"}, messageModel="BROADCASTING")
        for _ in range(3)
    ]
    for consumer in consumers:
        consumer.wait(15)
    admin.send(sent[15:])
    for consumer in consumers:
        consumer.wait(30)
    sent = fenced(admin, topic, sent)
    for consumer in consumers:
        expect([consumer], sent)
        consumer.stop()
    assert all(committed(broker.address, group, topic, queue) is None for queue in range(4))


def test_new_group_misses_nothing_of_a_young_topic(
    peer: Driver, broker: Broker, admin: Client, topic: str, new_name: Callable[[], str]
) -> None:
    """While the first message is in memory, the broker lets every new group begin there."""
    sent = some_messages(topic, 20)
    admin.send(sent)
    tomorrow = time.strftime("%Y%m%d%H%M%S", time.gmtime(time.time() + DAY_S))
    begin: list[dict[str, Any]] = [
        {"consumeFromWhere": "CONSUME_FROM_LAST_OFFSET"},
        {"consumeFromWhere": "CONSUME_FROM_TIMESTAMP", "consumeTimestamp": tomorrow},
    ]
    consumers = [peer.push(broker.namesrv, new_name(), {topic: "*"}, **config) for config in begin]
    sent = fenced(admin, topic, sent)
    for consumer in consumers:
        expect([consumer], sent)


def test_new_group_begins_where_it_wants(
    drivers: Callable[[str], Driver],
    own_broker: Callable[..., Broker],
    new_name: Callable[[], str],
) -> None:
    """First, last, or by time, for each kind of client, when the first message is no longer near.

    Near is what the share of the memory that the broker counts with holds. Apache's broker asks the
    kernel instead what the page cache has, which in a test is everything: there all begin at 0.
    """
    broker = own_broker(settings={"accessMessageInMemoryMaxRatio": 1})
    producer = drivers("java-5.5.0").producer(broker.namesrv)
    topic = create_topic(producer, new_name(), queues=4)
    old = some_messages(topic, 20, prefix="old")
    producer.send(old)
    push_back(producer, create_topic(producer, new_name(), queues=1))
    midway = round(time.time()) + 1
    eventually("the next second begins", lambda: time.time() > midway)
    middle = some_messages(topic, 20, prefix="middle")
    producer.send(middle)
    moment = time.strftime("%Y%m%d%H%M%S", time.gmtime(midway))
    begin: dict[str, dict[str, Any]] = {
        "first": {},
        "last": {"consumeFromWhere": "CONSUME_FROM_LAST_OFFSET"},
        "time": {"consumeFromWhere": "CONSUME_FROM_TIMESTAMP", "consumeTimestamp": moment},
    }
    consumers = [
        (where, drivers(peer).push(broker.namesrv, new_name(), {topic: "*"}, **config))
        for peer in PEERS
        for where, config in begin.items()
    ]
    eventually(
        "the consumers have their queues",
        lambda: all(len(consumer.assigned(topic)) == 4 for _, consumer in consumers),
        timeout_s=90.0,
    )
    new = some_messages(topic, 20, prefix="new")
    producer.send(new)
    new = fenced(producer, topic, new)
    wanted = {"first": [*old, *middle, *new], "last": new, "time": [*middle, *new]}
    for where, consumer in consumers:
        expect([consumer], wanted["first" if broker.target == "apache" else where])


def push_back(producer: Client, topic: str) -> None:
    """Fill the commitlog by more than a hundredth of the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    count = math.ceil(memory / 100 / MIB) + 8
    producer.call(
        "load_send", topics=[topic], count=count, size=MIB, firstStream=0, timeout_s=120.0
    )
