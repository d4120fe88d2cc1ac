"""Many messages from many producers to many consumers, in two languages, counted and summed."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Final

import pytest

from tests.compat.conftest import create_topic
from tests.compat.drivers import GO, Driver, await_balance
from tests.compat.peers import Broker
from tests.compat.processes import eventually

MESSAGES: Final = int(os.environ.get("SHMQ_COMPAT_MESSAGES", "200000"))
SIZE: Final = 1024
TOPICS: Final = 4
QUEUES: Final = 4
PRODUCERS: Final = 8
SLOWEST_PER_S: Final = 1000
WITHIN_S: Final = 60 + MESSAGES / SLOWEST_PER_S
WORD: Final = 1 << 64

Sums = dict[str, tuple[int, int, int]]


def together(parts: Iterable[dict[str, str]]) -> Sums:
    """Count, sum and exclusive-or of each queue's message hashes, over all parts."""
    total: dict[str, tuple[int, int, int]] = defaultdict(lambda: (0, 0, 0))
    for part in parts:
        for queue, text in part.items():
            count, added, xored = text.split()
            before = total[queue]
            total[queue] = (
                before[0] + int(count),
                (before[1] + int(added, 16)) % WORD,
                before[2] ^ int(xored, 16),
            )
    return dict(total)


@pytest.mark.timeout(900 + WITHIN_S)
def test_nothing_is_lost_or_changed(
    own_driver: Callable[..., Driver],
    own_broker: Callable[..., Broker],
    new_name: Callable[[], str],
) -> None:
    """8 producers, 4 topics, 4 consumers of one group: each message once, in its stream's order.

    200,000 messages of 1 KiB, or as many as SHMQ_COMPAT_MESSAGES says. Each consumer has one
    thread, so that it sees each queue's messages in the order in which the broker gave them.
    """
    broker = own_broker()
    drivers = [own_driver("java-5.5.0", "-Xmx768m", "-XX:TieredStopAtLevel=4"), own_driver(GO)]
    producers = [
        drivers[n % 2].producer(broker.namesrv, sendMsgTimeout=60_000) for n in range(PRODUCERS)
    ]
    topics = [create_topic(producers[0], new_name(), queues=QUEUES) for _ in range(TOPICS)]
    single: list[dict[str, Any]] = [
        {"consumeThreadMin": 1, "consumeThreadMax": 1},
        {"consumeThreadMin": 1},
    ]
    group = new_name()
    consumers = [
        drivers[n % 2].push(
            broker.namesrv,
            group,
            dict.fromkeys(topics, "*"),
            load=True,
            consumeMessageBatchMaxSize=32,
            **single[n % 2],
        )
        for n in range(4)
    ]
    for topic in topics:
        await_balance(consumers, topic, [1, 1, 1, 1])
    shares = [MESSAGES // PRODUCERS + (n < MESSAGES % PRODUCERS) for n in range(PRODUCERS)]
    sending = [
        producer.driver.begin(
            "load_send",
            client=producer.name,
            topics=topics,
            count=share,
            size=SIZE,
            batch=1,
            streams=1,
            firstStream=n,
        )
        for n, (producer, share) in enumerate(zip(producers, shares, strict=True))
    ]
    sent = together(future.result(WITHIN_S)["sums"] for future in sending)
    assert sum(count for count, _, _ in sent.values()) == MESSAGES
    assert len(sent) == TOPICS * QUEUES
    eventually(
        "all messages are with the consumers",
        lambda: sum(one.call("load_stats")["count"] for one in consumers) >= MESSAGES,
        timeout_s=WITHIN_S,
    )
    stats = [consumer.call("load_stats") for consumer in consumers]
    assert [(one["disorder"], one["firstDisorder"]) for one in stats] == [(0, "")] * 4
    assert together(one["sums"] for one in stats) == sent
