"""Resets of a group's offsets by mqadmin, while its consumers run and while they are stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import pytest

from tests.compat.ask import SUCCESS, ask, committed, members
from tests.compat.drivers import GO, Client, Driver, Message, await_messages
from tests.compat.peers import BROKER_NAME, Broker
from tests.compat.processes import eventually
from tests.compat.test_pull import await_later_ms

COUNT: Final = 20
QUEUE: Final = 2
GET_CONSUMER_STATUS: Final = 223


class Operator:
    """Who resets groups of a topic that has numbers in a queue, each stored in a ms of its own."""

    def __init__(
        self, broker: Broker, mqadmin: Callable[..., str], *, topic: str, stamps: list[int]
    ) -> None:
        self.broker = broker
        self.topic = topic
        self.stamps = stamps
        """When the numbers were stored, ms."""
        self._mqadmin = mqadmin

    def run(self, command: str, group: str, *words: str) -> str:
        """What a command of mqadmin about a group and the topic printed."""
        return self._mqadmin(
            command, "-g", group, "-t", self.topic, *words, namesrv=self.broker.namesrv
        )

    def reset(self, group: str, number: int) -> None:
        """Reset a group to the time when a number was stored."""
        printed = self.run("resetOffsetByTime", group, "-s", str(self.stamps[number]))
        assert offsets_in(printed) == {0: 0, 1: 0, QUEUE: number, 3: 0}

    def committed(self, group: str) -> int | None:
        """A group's offset of the queue that has the numbers."""
        return committed(self.broker.address, group, self.topic, QUEUE)

    def await_commit(self, group: str, offset: int = COUNT) -> None:
        """Wait until a group has committed an offset."""
        eventually(
            f"offset {offset} of {group}", lambda: self.committed(group) == offset, timeout_s=30
        )


def offsets_in(printed: str) -> dict[int, int]:
    """New offsets by queue id, in what mqadmin printed."""
    rows = [line.split() for line in printed.splitlines() if line.startswith(BROKER_NAME)]
    return {int(queue_id): int(offset) for _, queue_id, offset in rows}


@pytest.fixture
def operator(
    broker: Broker, mqadmin: Callable[..., str], admin: Client, reader: Client, topic: str
) -> Operator:
    """An operator of a topic that is filled."""
    for number in range(COUNT):
        admin.send(Message(topic=topic, body=b"%d" % number), queue_id=QUEUE)
        await_later_ms(time.time())
    pulled = reader.pull_once(topic, QUEUE, offset=0)
    assert len(pulled.messages) == COUNT
    stamps = [message.store_timestamp for message in pulled.messages]
    return Operator(broker, mqadmin, topic=topic, stamps=stamps)


def await_numbers(client: Client, first: int, *, since: int = 0) -> None:
    """Wait until a client has all numbers from `first` on, and check that it has no others."""
    wanted = list(range(first, COUNT))
    await_messages(
        [client],
        lambda got: set(wanted) <= {int(one.text) for one in got[since:]},
        f"{first} and what follows, after the first {since} messages",
    )
    assert sorted(int(message.text) for message in client.inbox[since:]) == wanted


def test_running_consumers(drivers: Callable[[str], Driver], operator: Operator) -> None:
    """Backwards and forwards to the very message; what they commit after that stays.

    Several at once, as Java's clients of 4.x, and Go's, wait 10 s before they go on.
    """
    back: dict[str, Client] = {}
    forth: dict[str, Client] = {}
    namesrv, topic = operator.broker.namesrv, operator.topic
    for peer in map(drivers, ("java-5.5.0", "java-4.9.8", GO)):
        soon: dict[str, Any] = {"persistConsumerOffsetInterval": 1000} if peer.is_java else {}
        group = f"back-{topic}-{peer.name[-5:-4]}"
        back[group] = peer.push(namesrv, group, {topic: "*"}, **soon)
        if peer.is_java:
            group = f"forth-{topic}-{peer.name[-5:-4]}"
            slow = {"pullInterval": 1500, "pullBatchSize": 1, **soon}
            forth[group] = peer.push(namesrv, group, {topic: "*"}, **slow)
    for group, consumer in back.items():
        await_numbers(consumer, 0)  # Java commits that 10 s after its start.
        operator.reset(group, 7)
    for group, consumer in forth.items():
        await_messages([consumer], lambda got: len(got) > 0, "the first message")
        operator.reset(group, 18)
    for group, consumer in back.items():
        await_numbers(consumer, 7, since=COUNT)
        operator.await_commit(group)
    for group, consumer in forth.items():
        await_messages([consumer], lambda got: got[-1].text == "19", "the last message")
        got = [int(message.text) for message in consumer.inbox]
        assert got == [*range(len(got) - 2), 18, 19]
        operator.await_commit(group)


def test_stopped_consumers(
    drivers: Callable[[str], Driver], operator: Operator, group: str
) -> None:
    """They begin where they were set, whether to a time, an offset or the end."""
    java, broker, topic = drivers("java-5.5.0"), operator.broker, operator.topic

    def start_and_stop(first: int) -> None:
        consumer = java.push(broker.namesrv, group, {topic: "*"})
        await_numbers(consumer, first)
        consumer.stop()
        assert operator.committed(group) == COUNT

    start_and_stop(0)
    operator.reset(group, 13)
    start_and_stop(13)
    words = ("-b", broker.address, "-q", str(QUEUE), "-s", "0", "-o", "3")
    operator.run("resetOffsetByTime", group, *words)
    assert operator.committed(group) == 3
    operator.run("resetOffsetByTime", group, "-s", "0")
    assert operator.committed(group) == 0
    printed = operator.run("skipAccumulatedMessage", group)
    assert offsets_in(printed) == {0: 0, 1: 0, QUEUE: COUNT, 3: 0}
    consumer = java.push(broker.namesrv, group, {topic: "*"})
    eventually("its queues", lambda: QUEUE in consumer.assigned(topic))
    assert consumer.inbox == []
    assert operator.committed(group) == COUNT


@pytest.mark.parametrize("version", ["5.5.0", "4.9.8"])
def test_lite_consumers(
    drivers: Callable[[str], Driver], operator: Operator, group: str, version: str
) -> None:
    """They ask for messages at the end of the queue, and go back in the answer."""
    consumer = drivers(f"java-{version}").lite(
        operator.broker.namesrv, group, {operator.topic: "*"}
    )
    await_numbers(consumer, 0)
    operator.reset(group, 15)
    await_numbers(consumer, 15, since=COUNT)
    consumer.stop()
    assert operator.committed(group) == 15, "not what it still remembers from before"


def test_status_of_running_consumers(
    drivers: Callable[[str], Driver], operator: Operator, mqadmin: Callable[..., str], group: str
) -> None:
    """What clients say when the broker asks them: how far they have come, and how they are."""
    consumer = drivers("java-5.5.0").push(operator.broker.namesrv, group, {operator.topic: "*"})
    await_numbers(consumer, 0)
    (client_id,) = members(operator.broker.address, group)

    fields: dict[str, object] = {"topic": operator.topic, "group": group}

    def told() -> bool:
        answer = ask(operator.broker.address, GET_CONSUMER_STATUS, fields)
        assert answer.code == SUCCESS, answer.remark
        queue = rb'"queueId":%d,"topic":"%b"}:%d' % (QUEUE, operator.topic.encode(), COUNT)
        return client_id.encode() in answer.body and queue in answer.body

    eventually("the consumer's own offset", told, timeout_s=30)
    words = ("-g", group, "-i", client_id)
    printed = mqadmin("consumerStatus", *words, namesrv=operator.broker.namesrv)
    assert "#Consumer Properties#" in printed
    assert "PROP_CONSUME_TYPE" in printed
