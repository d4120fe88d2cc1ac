"""The broker stops, or is killed, and starts again: nothing is lost, and clients go on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.compat.ask import committed
from tests.compat.conftest import create_topic
from tests.compat.drivers import PEERS, Client, Driver, DriverError, Message, Sent
from tests.compat.messages import assert_same, await_all, fenced, some_messages
from tests.compat.peers import Broker
from tests.compat.processes import eventually


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_messages_and_offsets_survive(
    how: str,
    drivers: Callable[[str], Driver],
    own_broker: Callable[..., Broker],
    new_name: Callable[[], str],
) -> None:
    """Running producers and consumers of each kind go on by themselves.

    After an orderly stop each message comes once. After a kill, what was consumed but whose offset
    was not yet with the broker may come again.
    """
    broker = own_broker()
    producers = {peer: drivers(peer).producer(broker.namesrv) for peer in PEERS}
    topic = create_topic(producers["java-5.5.0"], new_name(), queues=4)
    sent: list[Message] = []
    for peer, producer in producers.items():
        messages = some_messages(topic, 10, prefix=f"before {peer}")
        assert all(result.ok for result in producer.send(messages))
        sent += messages
    groups = {peer: f"{topic}-{number}" for number, peer in enumerate(PEERS)}
    consumers = {
        peer: drivers(peer).push(broker.namesrv, group, {topic: "*"})
        for peer, group in groups.items()
    }
    for consumer in consumers.values():
        consumer.wait(40)
    for group in groups.values():
        await_all_committed(broker, group, topic, 40)
    getattr(broker, how)()
    broker.start()
    for peer, producer in producers.items():
        sent += send_until_taken(producer, some_messages(topic, 10, prefix=f"after {peer}"))
    sent = fenced(producers["java-5.5.0"], topic, sent)
    for consumer in consumers.values():
        await_all([consumer], sent)
        unique = {message.place: message for message in consumer.inbox}
        assert_same(sent, list(unique.values()))
        assert len(consumer.inbox) == len(sent), "what was committed did not come again"
    for group in groups.values():
        await_all_committed(broker, group, topic, len(sent))


def await_all_committed(broker: Broker, group: str, topic: str, count: int) -> None:
    """Wait until the group's offsets in all queues add up to `count`."""

    def total() -> int:
        return sum(committed(broker.address, group, topic, queue) or 0 for queue in range(4))

    eventually(f"{group} has committed {count}", lambda: total() == count, timeout_s=60.0)


def send_until_taken(producer: Client, messages: list[Message]) -> list[Message]:
    """Send one by one; a client may fail for a while after the broker came back."""
    for message in messages:
        taken: list[Sent] = []

        def attempt(one: Message = message, into: list[Sent] = taken) -> bool:
            try:
                into.extend(producer.send(one))
            except DriverError:
                return False
            return True

        eventually("a send that succeeds", attempt, timeout_s=60.0)
        assert [result.ok for result in taken] == [True]
    return messages
