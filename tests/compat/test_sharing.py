"""Several push consumers in one group: they share the queues, and take over from each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from tests.compat.ask import members
from tests.compat.conftest import create_topic
from tests.compat.drivers import (
    PEERS,
    Client,
    Driver,
    Message,
    await_balance,
)
from tests.compat.messages import await_all, expect, fenced, some_messages
from tests.compat.peers import Broker

# Rebalancing on the broker's word: at once, or 1 s after the last time; alone only after 20 s.
NOTIFIED_WITHIN_S: Final = 10.0
CONNECTIONS: Final = 8  # so many that each of the broker's processes gets one, nearly always


def missing(consumers: Iterable[Client], ids: Iterable[str]) -> list[str]:
    """Names of the consumers that are not in a list of client ids."""
    named = {client_id.split("@")[1] for client_id in ids}
    return [consumer.name for consumer in consumers if consumer.name not in named]


def test_own_id_is_listed_at_once(peer: Driver, broker: Broker, topic: str, group: str) -> None:
    """When the start is over, its heartbeat counts, whichever connection asks for the list."""
    consumers = [peer.push(broker.namesrv, group, {topic: "*"}) for _ in range(3)]
    for _ in range(CONNECTIONS):
        ids = members(broker.address, group)
        assert len(ids) == 3
        assert not missing(consumers, ids)
    consumers.pop().stop()
    for _ in range(CONNECTIONS):
        ids = members(broker.address, group)
        assert len(ids) == 2
        assert not missing(consumers, ids)


def test_two_share(peer: Driver, broker: Broker, admin: Client, topic: str, group: str) -> None:
    """The second to come is known to the first at once; each message goes to one of them."""
    first = peer.push(broker.namesrv, group, {topic: "*"})
    await_balance([first], topic, [4])
    second = peer.push(broker.namesrv, group, {topic: "*"})
    held = await_balance([first, second], topic, [2, 2], timeout_s=NOTIFIED_WITHIN_S)
    sent = some_messages(topic, 40)
    admin.send(sent)
    expect([first, second], fenced(admin, topic, sent))
    for consumer, queues in zip([first, second], held, strict=True):
        assert {message.queue_id for message in consumer.inbox} == queues
    second.stop()
    await_balance([first], topic, [4], timeout_s=NOTIFIED_WITHIN_S)


def test_more_consumers_than_queues(
    peer: Driver,
    broker: Broker,
    admin: Client,
    new_name: Callable[[], str],
) -> None:
    """One queue, three consumers: two are idle until the holder leaves."""
    topic, group = create_topic(admin, new_name(), queues=1), new_name()
    consumers = [peer.push(broker.namesrv, group, {topic: "*"}) for _ in range(3)]
    for left in (2, 1, 0):
        await_balance(consumers, topic, [*[0] * left, 1], timeout_s=NOTIFIED_WITHIN_S)
        (holder,) = (consumer for consumer in consumers if consumer.assigned(topic))
        sent = some_messages(topic, 5, prefix=f"{left} idle")
        admin.send(sent)
        expect([holder], sent)
        holder.stop()
        consumers.remove(holder)


def test_kinds_share(
    drivers: Callable[[str], Driver],
    broker: Broker,
    admin: Client,
    new_name: Callable[[], str],
) -> None:
    """Old and new Java and Go divide the queues of one group in the same way."""
    topic, group = create_topic(admin, new_name(), queues=8), new_name()
    consumers = [drivers(peer).push(broker.namesrv, group, {topic: "*"}) for peer in PEERS]
    await_balance(consumers, topic, [2, 2, 2, 2])
    sent = some_messages(topic, 80)
    admin.send(sent)
    expect(consumers, fenced(admin, topic, sent, queues=8))
    assert all(len(consumer.inbox) >= 2 for consumer in consumers)
    while len(consumers) > 1:
        consumers.pop(0).stop()
        sizes = [8 // len(consumers) + (n < 8 % len(consumers)) for n in range(len(consumers))]
        await_balance(consumers, topic, sizes, timeout_s=NOTIFIED_WITHIN_S)


def test_survivor_takes_over_from_a_killed_one(
    own_driver: Callable[..., Driver],
    drivers: Callable[[str], Driver],
    broker: Broker,
    admin: Client,
    topic: str,
) -> None:
    """The closed connection is the farewell: the other of the group has all queues soon after.

    All kinds at once, each beside one of its own and beside the next kind.
    """
    doomed = {peer: own_driver(peer) for peer in PEERS}
    pairs = [*zip(PEERS, PEERS, strict=True), *zip(PEERS, (*PEERS[1:], PEERS[0]), strict=True)]
    couples = [
        [
            driver.push(broker.namesrv, f"{topic}-{number}", {topic: "*"})
            for driver in (doomed[victim], drivers(survivor))
        ]
        for number, (victim, survivor) in enumerate(pairs)
    ]
    for couple in couples:
        await_balance(couple, topic, [2, 2])
    before = some_messages(topic, 40, prefix="before")
    admin.send(before)
    before = fenced(admin, topic, before)
    for couple in couples:
        expect(couple, before)
    for driver in doomed.values():
        driver.process.kill()
    for number, (_, survivor) in enumerate(couples):
        await_balance([survivor], topic, [4], timeout_s=NOTIFIED_WITHIN_S)
        ids = members(broker.address, f"{topic}-{number}")
        assert len(ids) == 1
        assert not missing([survivor], ids)
    after = some_messages(topic, 40, prefix="after")
    admin.send(after)
    for victim, survivor in couples:
        await_all([survivor], after)
        assert_taken_over(victim, survivor, before, after)


def assert_taken_over(
    victim: Client, survivor: Client, before: list[Message], after: list[Message]
) -> None:
    """New messages came once; of the older ones, only those of the victim's came again."""
    came = Counter(message.sha256 for message in survivor.inbox)
    assert all(came.pop(message.sha256) == 1 for message in after)
    of_the_victim = {message.sha256 for message in victim.inbox}
    assert came.keys() | of_the_victim == {message.sha256 for message in before}
    assert set(came.values()) == {1}
    places = {m.sha256: m.place for m in victim.inbox}
    assert all(places.get(m.sha256, m.place) == m.place for m in survivor.inbox)
