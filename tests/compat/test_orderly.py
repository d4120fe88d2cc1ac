"""Orderly push consumers: the order of each queue holds, whoever has the queue."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final

from tests.compat.ask import try_lock
from tests.compat.drivers import (
    ANSWER_TIMEOUT_S,
    PEERS,
    Client,
    Driver,
    Message,
    Received,
    await_balance,
    await_messages,
)
from tests.compat.messages import (
    assert_in_order,
    assert_same,
    await_all,
    expect,
    fenced,
    some_messages,
)
from tests.compat.peers import Broker

# A lock that nobody renews is free after 60 s; the next attempt comes within a client's 20 s.
LOCK_LOST_WITHIN_S: Final = 90.0


class Stream:
    """Numbered messages to all queues of a topic, sent while the test goes on."""

    def __init__(self, producer: Client, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._futures: list[Future[dict[str, Any]]] = []
        self.sent: list[Message] = []

    def begin(self, count: int) -> None:
        """Send so many more, in order in each queue; the earlier ones are out by then."""
        self.finish()
        more = some_messages(self._topic, count, prefix=f"from {len(self.sent)}")
        self.sent += more
        self._futures.append(
            self._producer.driver.begin(
                "send", client=self._producer.name, mode="sync", topic=self._topic, messages=more
            )
        )

    def finish(self) -> list[Message]:
        """All that was sent, when all of it is confirmed."""
        for future in self._futures:
            assert {one["status"] for one in future.result(ANSWER_TIMEOUT_S)["results"]} == {
                "SEND_OK"
            }
        return self.sent


def test_order_holds_while_queues_move(
    java: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """A second member comes, the first goes, and messages flow: each comes in its turn.

    Once, but for one message a queue: the clients do not commit what is in consumption when they
    give the queue up. The Go client has no part in this: it does not unlock such queues.
    """
    stream = Stream(admin, topic)
    stream.begin(100)
    first = java.push(broker.namesrv, group, {topic: "*"}, orderly=True)
    await_balance([first], topic, [4])
    stream.begin(400)
    second = java.push(broker.namesrv, group, {topic: "*"}, orderly=True)
    await_balance([first, second], topic, [2, 2])
    stream.begin(200)
    await_messages([first], lambda got: len(got) >= 200, "the first has 200 messages")
    first.stop()
    stream.begin(100)
    await_balance([second], topic, [4])
    sent = fenced(admin, topic, stream.finish())
    await_all([first, second], sent)
    assert len(second.inbox) > 100
    assert_order_goes_on(first.inbox, second.inbox, again_max=1)
    parted = [m for m in second.inbox if m.place not in {m.place for m in first.inbox}]
    assert_same(sent, [*first.inbox, *parted])


def test_order_holds(peer: Driver, broker: Broker, admin: Client, topic: str, group: str) -> None:
    """Messages that were there and messages that come, to one consumer."""
    stream = Stream(admin, topic)
    stream.begin(200)
    consumer = peer.push(broker.namesrv, group, {topic: "*"}, orderly=True)
    stream.begin(200)
    got = expect([consumer], fenced(admin, topic, stream.finish()))
    assert_in_order(got)


def test_locks_are_exclusive(
    peer: Driver, broker: Broker, admin: Client, topic: str, group: str
) -> None:
    """Nobody else gets the lock of a queue before its holder has stopped."""
    holder = peer.push(broker.namesrv, group, {topic: "*"}, orderly=True)
    await_balance([holder], topic, [4])
    sent = some_messages(topic, 20)
    admin.send(sent)
    expect([holder], sent)
    for queue_id in range(4):
        assert not try_lock(broker.address, group, "stranger", topic, queue_id)
        assert try_lock(broker.address, f"{group}-other", "stranger", topic, queue_id)
    holder.stop()
    for queue_id in range(4):
        assert try_lock(broker.address, group, "stranger", topic, queue_id)
        assert not try_lock(broker.address, group, "another", topic, queue_id)


def test_heir_takes_over_from_a_killed_one(
    own_driver: Callable[..., Driver],
    drivers: Callable[[str], Driver],
    broker: Broker,
    admin: Client,
    topic: str,
) -> None:
    """The dead one's locks run out, and then the order goes on; all kinds at once."""
    groups = {peer: f"{topic}-{number}" for number, peer in enumerate(PEERS)}
    before = some_messages(topic, 40, prefix="before")
    admin.send(before)
    before = fenced(admin, topic, before)
    doomed = [own_driver(peer) for peer in PEERS]
    victims = [
        driver.push(broker.namesrv, groups[driver.name], {topic: "*"}, orderly=True)
        for driver in doomed
    ]
    for victim in victims:
        expect([victim], before)
    for driver in doomed:
        driver.process.kill()
    after = some_messages(topic, 40, prefix="after")
    admin.send(after)
    heirs = [
        drivers(peer).push(broker.namesrv, groups[peer], {topic: "*"}, orderly=True)
        for peer in PEERS
    ]
    for victim, heir in zip(victims, heirs, strict=True):
        await_balance([heir], topic, [4], timeout_s=LOCK_LOST_WITHIN_S)
        await_all([heir], after)
        assert_order_goes_on(victim.inbox, heir.inbox, again_max=len(before))
        assert_same(after, [m for m in heir.inbox if m.text.startswith("after")])


def assert_order_goes_on(before: list[Received], after: list[Received], *, again_max: int) -> None:
    """In each queue, the one after began where the one before ended, or a little earlier."""
    assert_in_order(before)
    assert_in_order(after)
    ends: dict[int, int] = defaultdict(int)
    for message in before:
        ends[message.queue_id] = message.queue_offset + 1
    begins = {message.queue_id: message.queue_offset for message in reversed(after)}
    for queue_id, begin in begins.items():
        assert ends[queue_id] - again_max <= begin <= ends[queue_id], (queue_id, ends, begins)
