"""Several consumers of a group: they divide the queues, and take over what another left."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable

from shmq.client import Client, Consumer, ReceivedMessage
from tests.client.live import (
    PATIENCE_S,
    LiveBroker,
    await_assignment,
    connect,
    new_name,
    new_topic,
    take,
)
from tests.compat.ask import members
from tests.compat.processes import eventually


class Collector:
    """Threads that iterate consumers and keep what they get."""

    def __init__(self) -> None:
        self.bodies: Counter[bytes] = Counter()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def collect(self, consumer: Consumer) -> None:
        """Begin to iterate a consumer, until it is closed."""

        def work() -> None:
            for message in consumer:
                with self._lock:
                    self.bodies[message.body] += 1

        self._threads.append(threading.Thread(target=work, daemon=True))
        self._threads[-1].start()

    def await_all(self, wanted: set[bytes]) -> None:
        """Wait until each of these came."""

        def complete() -> bool:
            with self._lock:
                return wanted <= set(self.bodies)

        eventually(f"{len(wanted)} bodies", complete, timeout_s=PATIENCE_S)

    def join(self) -> None:
        """Wait for the threads, after the consumers were closed."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def send_some(mq: Client, topic: str, name: str, count: int = 200) -> set[bytes]:
    """So many messages to all queues; their bodies."""
    bodies = [b"%s %d" % (name.encode(), number) for number in range(count)]
    for queue in range(4):
        mq.send_many(topic, bodies[queue::4], queue=queue)
    return set(bodies)


def test_two_divide_and_one_takes_over(clients: Callable[..., Client], live: LiveBroker) -> None:
    """Each message comes once while nobody joins or leaves; queues of a closed one move at once."""
    first, second = clients(), clients(live.namesrv)
    topic, group = new_topic(first), new_name("G")
    one = first.subscribe(topic, group=group)
    await_assignment([one], topic, [4])
    two = second.subscribe(topic, group=group)
    await_assignment([one, two], topic, [2, 2])
    assert members(live.address, group) == sorted([one.client_id, two.client_id])
    both = Collector()
    both.collect(one)
    both.collect(two)
    wanted = send_some(first, topic, "shared")
    both.await_all(wanted)
    assert set(both.bodies.values()) == {1}
    one.commit()
    two.close()
    await_assignment([one], topic, [4])
    wanted |= send_some(first, topic, "alone")
    both.await_all(wanted)
    # The message that the second had in hand may come again.
    again = [body for body, count in both.bodies.items() if count > 1]
    assert len(again) <= 1, again
    one.close()
    both.join()


def test_three_of_one_client(clients: Callable[..., Client]) -> None:
    """Consumers of one group in one client are members of their own."""
    mq = clients()
    topic, group = new_topic(mq), new_name("G")
    consumers = [mq.subscribe(topic, group=group) for _ in range(3)]
    await_assignment(consumers, topic, [2, 1, 1])
    assert len({consumer.client_id for consumer in consumers}) == 3
    wanted = send_some(mq, topic, "x", 40)
    assert {message.body for consumer in consumers for message in take_all(consumer)} == wanted
    consumers[0].close()
    await_assignment(consumers[1:], topic, [2, 2])


def test_a_consumer_that_is_dropped_is_closed_with_its_client(live: LiveBroker) -> None:
    """Its offsets are committed, its group is left, its threads end."""
    with connect(live.addresses()["unix"]) as mq:
        topic, group = new_topic(mq, queues=2), new_name("G")
        mq.send(topic, b"0", queue=0)
        mq.send(topic, b"1", queue=1)
        for _ in range(2):  # The second has connections of its own.
            for message in mq.subscribe(topic, group=group):
                assert message.body in b"01"
                break
        eventually("both are members", lambda: len(members(live.address, group)) == 2)
    assert members(live.address, group) == []
    left = [one.name for one in threading.enumerate() if one.name.startswith("shmq-")]
    assert not left, left


def take_all(consumer: Consumer) -> list[ReceivedMessage]:
    """What a consumer's queues have: ten messages each."""
    return take(consumer, 10 * len(consumer.assignment()))


def test_groups_do_not_disturb_each_other(clients: Callable[..., Client]) -> None:
    mq = clients()
    topic = new_topic(mq)
    consumers = [mq.subscribe(topic, group=new_name("G")) for _ in range(2)]
    wanted = send_some(mq, topic, "x", 40)
    for consumer in consumers:
        assert {message.body for message in take(consumer, 40)} == wanted


def test_a_killed_member_is_taken_over(clients: Callable[..., Client], live: LiveBroker) -> None:
    """SIGKILL of a child that consumes: its queues move, its commits stand."""
    mq = clients()
    topic, group = new_topic(mq), new_name("G")
    survivor = mq.subscribe(topic, group=group)
    await_assignment([survivor], topic, [4])
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            consume_for_ever(live.addresses()["unix"], topic, group, tell)
        finally:
            os._exit(1)
    os.close(tell)
    try:
        await_assignment([survivor], topic, [2])
        first = send_some(mq, topic, "first", 40)
        mine = {message.body for message in take(survivor, 20)}
        survivor.commit()
        with os.fdopen(ready, "rb") as pipe:
            theirs = {pipe.readline().rstrip(b"\n") for _ in range(20)}
        assert mine | theirs == first
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    await_assignment([survivor], topic, [4])
    second = send_some(mq, topic, "second", 40)
    got: set[bytes] = set()
    for message in survivor.messages(PATIENCE_S):
        got.add(message.body)
        if second <= got:
            break
    # The child acknowledges one message after the other: only its last may come again.
    assert len(got - second) <= 2, got - second


def consume_for_ever(address: str, topic: str, group: str, told: int) -> None:
    """In the child: tell each message, and commit it."""
    with connect(address) as mq, mq.subscribe(topic, group=group) as consumer:
        for batch in consumer.batches():
            for message in batch:
                os.write(told, message.body + b"\n")
            batch.ack()
            consumer.commit()


def test_a_member_that_goes_and_comes_in_a_loop(clients: Callable[..., Client]) -> None:
    """Nothing is lost while members join and leave all the time."""
    stable, mover = clients(), clients()
    topic, group = new_topic(stable), new_name("G")
    all_of_them = Collector()
    consumer = stable.subscribe(topic, group=group)
    all_of_them.collect(consumer)
    wanted: set[bytes] = set()
    for turn in range(4):
        wanted |= send_some(stable, topic, f"turn {turn}", 80)
        other = mover.subscribe(topic, group=group)
        all_of_them.collect(other)
        wanted |= send_some(stable, topic, f"more {turn}", 80)
        other.close()
    all_of_them.await_all(wanted)
    assert set(all_of_them.bodies) == wanted
    consumer.close()
    all_of_them.join()


def test_an_operator_resets_the_offset(clients: Callable[..., Client], live: LiveBroker) -> None:
    """A request of the broker to set the group's offsets, as mqadmin has it sent."""
    mq = clients()
    topic, group = new_topic(mq, queues=1), new_name("G")
    mq.send_many(topic, [b"%d" % number for number in range(20)])
    (queue,) = mq.queues(topic)
    with mq.subscribe(topic, group=group) as consumer:
        take(consumer, 20)
        consumer.membership.reset(topic, {(queue.broker, 0): 5, (queue.broker, 7): 1}, 0)
        assert [int(message.body) for message in take(consumer, 15)] == list(range(5, 20))
