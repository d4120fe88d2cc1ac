"""Native consumers and `shmq reset-offset`: backwards and forwards, running and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson
import pytest
from click.testing import CliRunner

from shmq.client import Client, Consumer, Queue
from shmq.wire.codes import RequestCode
from shmq.workers.cli import cli
from tests.client.live import (
    PATIENCE_S,
    LiveBroker,
    connect,
    new_name,
    new_topic,
    nothing_more,
    take,
)
from tests.compat.ask import ask, committed
from tests.compat.processes import eventually

COUNT = 20


def reset(
    live: LiveBroker, topic: str, group: str, moment: object, *options: str
) -> list[tuple[int | None, int]]:
    """Reset a group as an operator does; the offset of each queue before and after."""
    words = ["reset-offset", "-a", live.addresses()["unix"], "-t", topic, "-g", group]
    done = CliRunner().invoke(cli, [*words, "--time", str(moment), "--json", *options])
    assert done.exit_code == 0, done.output
    return [(one["before"], one["after"]) for one in orjson.loads(done.stdout)]


def send_apart(mq: Client, topic: str, count: int = COUNT) -> list[int]:
    """Send numbers, each in a ms of its own; the times of storing, ms."""
    with mq.subscribe(topic, group=new_name("W"), start="first") as watcher:
        stamps: list[int] = []
        for number in range(count):
            mq.send(topic, b"%d" % number)
            (message,) = take(watcher, 1)
            stamps.append(message.store_timestamp)
            eventually("the next ms", lambda: time.time() * 1000 > stamps[-1] + 2)
        return stamps


def commit_as_another(live: LiveBroker, topic: str, group: str, offset: int) -> int | None:
    """Commit an offset over a connection of its own; what the broker then has."""
    fields = {"consumerGroup": group, "topic": topic, "queueId": 0, "commitOffset": offset}
    assert ask(live.address, RequestCode.UPDATE_CONSUMER_OFFSET, fields).code == 0
    return committed(live.address, group, topic, 0)


def numbers(consumer: Consumer, count: int) -> list[int]:
    """Bodies of the next messages."""
    return [int(message.body) for message in take(consumer, count)]


@pytest.fixture
def group() -> str:
    """A group that nobody is in."""
    return new_name("G")


def test_backwards_and_forwards_while_it_runs(mq: Client, live: LiveBroker, group: str) -> None:
    """By each way: it goes on at the very message, and what it had before counts no more."""
    topic = new_topic(mq, queues=1)
    stamps = send_apart(mq, topic)
    with mq.subscribe(topic, group=group, start="first", commit_interval=0.05) as consumer:
        assert numbers(consumer, COUNT) == list(range(COUNT))
        eventually("its commit", lambda: committed(live.address, group, topic, 0) == COUNT)
        assert reset(live, topic, group, stamps[11]) == [(COUNT, 11)]
        assert numbers(consumer, 4) == list(range(11, 15))
        assert reset(live, topic, group, stamps[17], "--force")[0][1] == 17
        eventually("it has heard", lambda: consumer.position(mq.queues(topic)[0]) == 17)
        assert numbers(consumer, 3) == list(range(17, 20))
        nothing_more(consumer, within=0.2)
        eventually("its commit", lambda: committed(live.address, group, topic, 0) == COUNT)


def test_messages_in_hand_are_not_committed(mq: Client, live: LiveBroker, group: str) -> None:
    """A batch that was taken before the reset is acknowledged after it."""
    topic = new_topic(mq, queues=1)
    stamps = send_apart(mq, topic, 10)
    with mq.subscribe(topic, group=group, start="first", commit_interval=0.05) as consumer:
        batch = consumer.poll(PATIENCE_S)
        assert batch is not None
        reset(live, topic, group, stamps[3])
        eventually(
            "the offset", lambda: consumer.position(Queue(topic, batch.queue.broker, 0)) <= 3
        )
        batch.ack()
        consumer.commit()
        assert committed(live.address, group, topic, 0) == 3
        assert numbers(consumer, 7) == list(range(3, 10))


def test_what_is_done_after_the_reset_is_committed(
    mq: Client, live: LiveBroker, group: str
) -> None:
    """The broker takes commits again as soon as the consumer has gone back, of whomever."""
    topic = new_topic(mq, queues=1)
    stamps = send_apart(mq, topic, 10)
    with mq.subscribe(topic, group=group, start="first", commit_interval=0) as consumer:
        take(consumer, 10)
        consumer.commit()
        reset(live, topic, group, stamps[3])
        eventually("it has gone back", lambda: commit_as_another(live, topic, group, 5) == 5)
        assert numbers(consumer, 4) == [3, 4, 5, 6]
        consumer.commit()
        assert committed(live.address, group, topic, 0) == 7


def test_backwards_and_forwards_while_it_is_stopped(
    clients: Callable[..., Client], live: LiveBroker, group: str
) -> None:
    mq = clients()
    topic = new_topic(mq, queues=1)
    stamps = send_apart(mq, topic, 10)
    with mq.subscribe(topic, group=group, start="first") as consumer:
        assert numbers(consumer, 10) == list(range(10))
    assert reset(live, topic, group, stamps[4]) == [(10, 4)]
    with mq.subscribe(topic, group=group) as consumer:
        assert numbers(consumer, 2) == [4, 5]
    assert reset(live, topic, group, "latest") == [(6, 6)], "not forward without --force"
    assert reset(live, topic, group, stamps[9] + 1, "--force", "--dry-run") == [(6, 10)]
    assert committed(live.address, group, topic, 0) == 6
    assert reset(live, topic, group, stamps[8], "--force") == [(6, 8)]
    with mq.subscribe(topic, group=group) as consumer:
        assert numbers(consumer, 2) == [8, 9]
        nothing_more(consumer, within=0.2)
    assert reset(live, topic, group, "earliest", "-q", "0") == [(10, 0)]


@pytest.mark.parametrize("way", ["native", "broker"])
def test_the_broker_dies_before_it_is_adopted(own_live: LiveBroker, way: str) -> None:
    """The reset waits on the disk, and the consumer hears of it when it is back."""
    group = new_name("G")
    with connect(own_live.addresses()[way]) as mq:
        topic = new_topic(mq, queues=1)
        mq.send_many(topic, [b"%d" % number for number in range(10)])
        with mq.subscribe(topic, group=group, start="first", commit_interval=0.05) as consumer:
            assert numbers(consumer, 10) == list(range(10))
            eventually("commit", lambda: committed(own_live.address, group, topic, 0) == 10)
        own_live.kill()
        own_live.start()
        assert reset(own_live, topic, group, "earliest") == [(10, 0)]
        own_live.kill()
        own_live.start()
        assert committed(own_live.address, group, topic, 0) == 0
        with mq.subscribe(topic, group=group) as consumer:
            assert numbers(consumer, 10) == list(range(10))


def test_what_it_prints(clients: Callable[..., Client], live: LiveBroker, group: str) -> None:
    mq = clients()
    topic = new_topic(mq, queues=1)
    mq.send_many(topic, [b"0"] * 4)
    with mq.subscribe(topic, group=group, start="first") as consumer:
        take(consumer, 3)
    words = ["reset-offset", "-a", live.namesrv, "-t", topic, "-g", group]
    shown = CliRunner().invoke(cli, [*words, "--time", "-1"])
    assert shown.exit_code == 0
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert lines[0] == ["QUEUE", "FIRST", "END", "BEFORE", "AFTER"]
    assert lines[1][1:5] == ["0", "4", "3", "3"]
    assert lines[1][5:] == ["left:", "--force", "would", "skip", "1"]
    assert lines[2] == ["0", "of", "1", "queues", "reset"]
    for wrong, code in ((["-t", "none"], 1), (["-q", "7"], 2), (["--time", "noon"], 2)):
        failed = CliRunner().invoke(cli, [*words, "--time", "earliest", *wrong])
        assert failed.exit_code == code
        assert failed.stderr.startswith("shmq: ")
