"""Pull consumers: one pull at a time, and lite ones by subscription or by assigned queues."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import TimeoutError as NotYet
from typing import Final

import pytest

from tests.compat.ask import committed
from tests.compat.drivers import Client, Driver, Message, Received, await_balance
from tests.compat.messages import KIB, assert_in_order, assert_same, expect, fenced, some_messages
from tests.compat.peers import Broker
from tests.compat.processes import eventually

ARRIVAL_WITHIN_S: Final = 1.0
PARKED_S: Final = 0.5


def test_pull_statuses(peer: Driver, broker: Broker, admin: Client, topic: str, group: str) -> None:
    """Found, in parts and in order; nothing new; an offset that is past the end."""
    sent = some_messages(topic, 20)
    admin.send(sent, queue_id=1)
    consumer = peer.pull(broker.namesrv, group, topic)
    first = consumer.pull_once(topic, 1, offset=0, count=8)
    assert (first.status, first.next, first.min, first.max) == ("FOUND", 8, 0, 20)
    assert [message.queue_offset for message in first.messages] == list(range(8))
    rest = consumer.pull_once(topic, 1, offset=first.next, count=32)
    assert (rest.status, rest.next, rest.min, rest.max) == ("FOUND", 20, 0, 20)
    assert_same(sent, [*first.messages, *rest.messages])
    assert_in_order([*first.messages, *rest.messages])
    beyond = consumer.pull_once(topic, 1, offset=1000)
    assert (beyond.status, beyond.next, beyond.messages) == ("OFFSET_ILLEGAL", 20, [])


def test_pull_without_waiting(java: Driver, broker: Broker, topic: str, group: str) -> None:
    """At the end of a queue, and in a queue that never had a message."""
    consumer = java.pull(broker.namesrv, group, topic)
    pulled = consumer.pull_once(topic, 0, offset=0)
    assert (pulled.status, pulled.next, pulled.messages) == ("NO_NEW_MSG", 0, [])
    pulled = consumer.pull_once(topic, 0, offset=5)
    assert (pulled.status, pulled.next, pulled.messages) == ("OFFSET_ILLEGAL", 0, [])


def test_pull_by_tag(java: Driver, broker: Broker, admin: Client, topic: str, group: str) -> None:
    """What matches, and where to go on when nothing does."""
    sent = some_messages(topic, 30)
    admin.send(sent, queue_id=2)
    consumer = java.pull(broker.namesrv, group, topic)
    pulled = consumer.pull_once(topic, 2, offset=0, expression="tag1 || tag2")
    assert pulled.status == "FOUND"
    assert_same([m for m in sent if m.tags != "tag0"], pulled.messages)
    assert pulled.next == 30
    pulled = consumer.pull_once(topic, 2, offset=0, expression="nobody")
    assert (pulled.status, pulled.next, pulled.messages) == ("NO_MATCHED_MSG", 30, [])


def test_parked_pull_is_answered_on_arrival(
    peer: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """A pull that waits at the end of a queue gets the next message soon after its arrival."""
    consumer = peer.pull(broker.namesrv, group, topic)
    consumer.queues(topic)
    for offset in range(3):
        waiting = peer.begin(
            "pull_once",
            client=consumer.name,
            topic=topic,
            queueId=3,
            offset=offset,
            count=32,
            block=True,
        )
        with pytest.raises(NotYet):
            waiting.result(PARKED_S)
        message = Message(topic=topic, body=f"number {offset}".encode())
        admin.send(message, queue_id=3)
        begin = time.monotonic()
        pulled = waiting.result(20)
        assert time.monotonic() - begin < ARRIVAL_WITHIN_S
        assert (pulled["status"], pulled["next"]) == ("FOUND", offset + 1)
        assert [one["sha256"] for one in pulled["messages"]] == [message.sha256]


def test_parked_pull_ends_in_time(java: Driver, broker: Broker, topic: str, group: str) -> None:
    """With nothing new, when the time is over that the client gives."""
    consumer = java.pull(broker.namesrv, group, topic, brokerSuspendMaxTimeMillis=1000)
    pulled = consumer.pull_once(topic, 0, offset=0, block=True)
    assert (pulled.status, pulled.next, pulled.messages) == ("NO_NEW_MSG", 0, [])


def test_parked_pull_wakes_for_its_tag_alone(
    java: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """Another tag's arrival moves the place on, but is no answer."""
    consumer = java.pull(broker.namesrv, group, topic)
    waiting = java.begin(
        "pull_once",
        client=consumer.name,
        topic=topic,
        queueId=0,
        offset=0,
        expression="tag1",
        block=True,
    )
    zero, one = some_messages(topic, 2)
    for _ in range(2):
        with pytest.raises(NotYet):
            waiting.result(PARKED_S)
        admin.send(zero, queue_id=0)
    with pytest.raises(NotYet):
        waiting.result(PARKED_S)
    admin.send(one, queue_id=0)
    pulled = waiting.result(20)
    assert [message["sha256"] for message in pulled["messages"]] == [one.sha256]


def test_pulled_offsets_are_kept(
    java: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """What a pull consumer stores is what the next of its group is told.

    The Go client stores only for queues that it got by rebalancing.
    """
    admin.send(some_messages(topic, 10), queue_id=0)
    consumer = java.pull(broker.namesrv, group, topic)
    assert consumer.pull_once(topic, 0, offset=0, count=7).next == 7
    consumer.call("store_offset", topic=topic, queueId=0, offset=7)
    eventually("the offset is there", lambda: committed(broker.address, group, topic, 0) == 7)
    consumer.stop()
    consumer = java.pull(broker.namesrv, group, topic)
    assert consumer.call("fetch_offset", topic=topic, queueId=0)["offset"] == 7
    assert committed(broker.address, group, topic, 0) == 7
    assert committed(broker.address, group, topic, 1) is None


def test_bounds_and_search_by_time(java: Driver, broker: Broker, admin: Client, topic: str) -> None:
    """Least and greatest offset, the oldest message's time, and the offset of a moment."""
    producer = java.producer(broker.namesrv)
    empty = producer.offsets(topic, 0)
    assert (empty.min, empty.max) == (0, 0)
    for message in some_messages(topic, 3):
        admin.send(message, queue_id=0)
        await_later_ms(time.time())
    consumer = java.pull(broker.namesrv, f"GID_{topic}", topic)
    stored = [m.store_timestamp for m in consumer.pull_once(topic, 0, offset=0).messages]
    assert len(stored) == 3
    for offset, moment in enumerate(stored):
        for client in (producer, consumer):
            bounds = client.offsets(topic, 0, timestamp=moment, earliest=True)
            assert (bounds.min, bounds.max, bounds.found) == (0, 3, offset)
            assert bounds.earliest == stored[0]
        assert producer.offsets(topic, 0, timestamp=moment - 1).found == offset
    assert producer.offsets(topic, 0, timestamp=stored[0] - 3_600_000).found == 0
    assert producer.offsets(topic, 0, timestamp=stored[2] + 3_600_000).found == 3


def await_later_ms(moment: float) -> None:
    """Wait until the clock is some ms past `moment`."""
    eventually("some ms have gone by", lambda: time.time() - moment > 0.02)


def test_large_messages_in_parts(
    peer: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """A pull gets as much as the broker gives at once, and goes on where that ended."""
    sent = [Message(topic=topic, body=f"{n:03}".encode() * KIB) for n in range(200)]
    admin.send(sent, queue_id=0, mode="async")
    consumer = peer.pull(broker.namesrv, group, topic)
    got: list[Received] = []
    while len(got) < 200:
        pulled = consumer.pull_once(topic, 0, offset=len(got), count=1000)
        assert pulled.status == "FOUND"
        assert pulled.messages
        got += pulled.messages
        assert pulled.next == len(got)
    assert_same(sent, got)
    assert_in_order(got)


def test_lite_by_subscription(
    peer: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """Two members share the queues."""
    consumers = [peer.lite(broker.namesrv, group, {topic: "*"}) for _ in range(2)]
    held = await_balance(consumers, topic, [2, 2])
    sent = some_messages(topic, 40)
    admin.send(sent)
    expect(consumers, fenced(admin, topic, sent))
    for consumer, queues in zip(consumers, held, strict=True):
        assert {message.queue_id for message in consumer.inbox} == queues
        assert_in_order(sorted(consumer.inbox, key=lambda message: message.place))


def test_lite_by_tag(java: Driver, broker: Broker, admin: Client, topic: str, group: str) -> None:
    """The subscription's text goes with each pull."""
    sent = some_messages(topic, 30)
    consumer = java.lite(broker.namesrv, group, {topic: "tag0 || tag1"})
    admin.send(sent)
    sent = fenced(admin, topic, sent)
    expect([consumer], [m for m in sent if m.tags != "tag2"])


def test_lite_by_assignment(
    java: Driver, broker: Broker, admin: Client, topic: str, new_name: Callable[[], str]
) -> None:
    """Only the assigned queues, from the sought place on; commits and searches by queue."""
    group = new_name()
    for queue_id in range(4):
        admin.send(some_messages(topic, 10, prefix=f"queue {queue_id}"), queue_id=queue_id)
    consumer = java.lite(broker.namesrv, group, topic=topic, queueIds=[1, 3], offset=4)
    got = consumer.wait(12)
    assert {m.queue_id for m in got} == {1, 3}
    assert sorted(m.queue_offset for m in got) == sorted([*range(4, 10)] * 2)
    consumer.call("commit")
    eventually(
        "both commits are there",
        lambda: (
            [committed(broker.address, group, topic, q) for q in range(4)] == [None, 10, None, 10]
        ),
    )
    assert consumer.call("committed", topic=topic, queueId=3)["offset"] == 10
    consumer.call("seek", topic=topic, queueId=1, offset="8")
    consumer.wait(14)
    consumer.call("seek", topic=topic, queueId=3, offset="begin")
    consumer.wait(24)
    consumer.call("seek", topic=topic, queueId=1, offset="end")
    last = Message(topic=topic, body=b"the last")
    admin.send(last, queue_id=1)
    assert consumer.wait(25)[-1].sha256 == last.sha256
    moment = consumer.inbox[-1].store_timestamp
    assert consumer.call("search", topic=topic, queueId=1, timestamp=moment)["found"] == 10
