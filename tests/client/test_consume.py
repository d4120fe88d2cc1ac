"""Reading alone: messages, batches, acknowledgement, places, tags."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from shmq.client import Client, Consumer, Message, Queue
from shmq.errors import Closed, ConfigError, InvalidMessage
from tests.client.live import (
    PATIENCE_S,
    LiveBroker,
    await_assignment,
    new_name,
    new_topic,
    nothing_more,
    take,
)
from tests.compat.ask import committed
from tests.compat.processes import eventually


def fill(mq: Client, topic: str, count: int) -> None:
    """So many messages, numbered, each queue with its share in order."""
    queues = len(mq.queues(topic))
    for queue in range(queues):
        bodies = [b"%d" % number for number in range(queue, count, queues)]
        mq.send_many(topic, bodies, queue=queue)


def test_each_message_once_and_in_order(mq: Client) -> None:
    topic = new_topic(mq)
    fill(mq, topic, 1000)
    with mq.subscribe(topic, group=new_name("G")) as consumer:
        got = take(consumer, 1000)
        nothing_more(consumer)
        mq.send(topic, b"later")
        assert take(consumer, 1)[0].body == b"later"
    assert sorted(int(message.body) for message in got) == list(range(1000))
    for queue in range(4):
        offsets = [message.queue_offset for message in got if message.queue_id == queue]
        assert offsets == list(range(250))
        numbers = [int(message.body) for message in got if message.queue_id == queue]
        assert numbers == list(range(queue, 1000, 4))


def test_what_is_acknowledged_comes_not_again(mq: Client, live: LiveBroker) -> None:
    topic, group = new_topic(mq, queues=1), new_name("G")
    fill(mq, topic, 100)
    with mq.subscribe(topic, group=group) as consumer:
        take(consumer, 60)
    assert committed(live.address, group, topic, 0) == 60
    with mq.subscribe(topic, group=group) as consumer:
        got = take(consumer, 40)
        assert [int(message.body) for message in got] == list(range(60, 100))
        consumer.commit()
        assert committed(live.address, group, topic, 0) == 100


def test_the_message_in_hand(mq: Client, live: LiveBroker) -> None:
    """It counts as done with when the block ends well, and not when it ends with an error."""
    topic, group = new_topic(mq, queues=1), new_name("G")
    fill(mq, topic, 10)

    def read_to(number: int, *, fail: bool) -> None:
        with mq.subscribe(topic, group=group) as consumer:
            for message in consumer:
                if int(message.body) == number:
                    if fail:
                        raise ZeroDivisionError
                    break

    with pytest.raises(ZeroDivisionError):
        read_to(3, fail=True)
    assert committed(live.address, group, topic, 0) == 3
    read_to(5, fail=False)
    assert committed(live.address, group, topic, 0) == 6


def test_batches_are_acknowledged_by_themselves(mq: Client, live: LiveBroker) -> None:
    topic, group = new_topic(mq, queues=1), new_name("G")
    fill(mq, topic, 100)
    with mq.subscribe(topic, group=group, batch=10) as consumer:
        batches = [consumer.poll(PATIENCE_S) for _ in range(3)]
        assert all(batch is not None and len(batch) == 10 for batch in batches)
        consumer.commit()
        assert committed(live.address, group, topic, 0) == 0
        first, second, _third = batches
        assert first is not None
        assert second is not None
        second.ack()
        first.ack()  # Nothing new: acknowledging takes in what is before.
        consumer.commit()
        assert committed(live.address, group, topic, 0) == 20


def test_offsets_are_committed_from_time_to_time(mq: Client, live: LiveBroker) -> None:
    topic, group = new_topic(mq, queues=1), new_name("G")
    fill(mq, topic, 10)
    with mq.subscribe(topic, group=group, commit_interval=0.1) as consumer:
        take(consumer, 10)
        eventually("a commit", lambda: committed(live.address, group, topic, 0) == 10)


def test_batch_columns(mq: Client) -> None:
    topic = new_topic(mq, queues=1)
    before = int(time.time() * 1000)
    bodies = [b"x" * size for size in (1, 10, 100)]
    results = mq.send_many(topic, [Message(topic, body, tags="Aa") for body in bodies])
    with mq.subscribe(topic, group=new_name("G")) as consumer:
        batch = consumer.poll(PATIENCE_S)
    assert batch is not None
    assert batch.queue == results[0].queue
    assert (len(batch), batch.next_offset) == (3, 3)
    assert batch.offsets.dtype == np.int64
    assert batch.offsets.tolist() == [0, 1, 2]
    assert np.diff(batch.sizes).tolist() == [9, 90]
    assert batch.tags_codes.tolist() == [2112, 2112, 2112]  # "Aa".hashCode()
    assert batch.physical_offsets.tolist() == [result.physical_offset for result in results]
    assert np.all(batch.store_timestamps >= before)
    assert [bytes(body) for body in batch.bodies()] == bodies
    assert all(isinstance(body, memoryview) for body in batch.bodies())
    assert [message.body for message in batch] == bodies
    assert batch[-1].message_id == results[2].message_id
    with pytest.raises(IndexError):
        batch[3]


def test_tags(mq: Client, live: LiveBroker) -> None:
    """By the broker by hash code, and here by text: "Aa" and "BB" have the same code."""
    topic, group = new_topic(mq, queues=1), new_name("G")
    for number in range(60):
        mq.send(topic, b"%d" % number, tags=("Aa", "BB", "c", "d")[number % 4])
    mq.send(topic, b"60")
    with mq.subscribe({topic: "Aa || c"}, group=group) as consumer:
        got = take(consumer, 30)
        assert {message.tags for message in got} == {"Aa", "c"}
        nothing_more(consumer)
    # What nobody wants is behind the consumer too.
    assert committed(live.address, group, topic, 0) == 61
    with mq.subscribe(topic, tags="BB", group=new_name("G")) as consumer:
        assert len(take(consumer, 15)) == 15
        nothing_more(consumer)


def test_several_topics(mq: Client) -> None:
    topics = [new_topic(mq, queues=2) for _ in range(3)]
    for topic in topics:
        mq.send(topic, topic.encode(), tags="a")
        mq.send(topic, topic.encode(), tags="b")
    with mq.subscribe(topics, group=new_name("G")) as consumer:
        assert sorted(m.topic for m in take(consumer, 6)) == sorted(topics * 2)
    with mq.subscribe({topics[0]: "a", topics[1]: "*"}, group=new_name("G")) as consumer:
        got = [message.topic for message in take(consumer, 3)]
        nothing_more(consumer)
    assert sorted(got) == sorted([topics[0], topics[1], topics[1]])


def test_poll_never_waits_longer(mq: Client) -> None:
    with mq.subscribe(new_topic(mq), group=new_name("G")) as consumer:
        begin = time.monotonic()
        assert consumer.poll() is None
        assert consumer.poll(0.2) is None
        assert list(consumer.messages(0.1)) == []
        assert list(consumer.batches(0.1)) == []
        took = time.monotonic() - begin
        assert 0.4 <= took < PATIENCE_S / 2


def test_a_waiting_consumer_is_woken(mq: Client) -> None:
    topic = new_topic(mq)
    with mq.subscribe(topic, group=new_name("G")) as consumer:
        timer = threading.Timer(0.3, lambda: mq.send(topic, b"x"))
        timer.start()
        assert take(consumer, 1)[0].body == b"x"
        timer.join()


@pytest.mark.parametrize("begin", ["first", "last", "time", "datetime"])
def test_where_a_new_group_begins(mq: Client, begin: str) -> None:
    topic = new_topic(mq, queues=1)
    fill(mq, topic, 5)
    eventually("they are in the queue", lambda: mq.offsets(mq.queues(topic)[0])[1] == 5)
    midway = stored_at(mq, topic) + 1
    eventually("the next millisecond", lambda: time.time() * 1000 > midway + 1)
    mq.send(topic, b"new")
    eventually("it is in the queue", lambda: mq.offsets(mq.queues(topic)[0])[1] == 6)
    starts = {
        "time": midway,
        "datetime": datetime.fromtimestamp(midway / 1000, tz=UTC),
    }
    with mq.subscribe(topic, group=new_name("G"), start=starts.get(begin, begin)) as consumer:  # type: ignore[arg-type]
        mq.send(topic, b"newest")
        wanted = {
            "first": [b"0", b"1", b"2", b"3", b"4", b"new", b"newest"],
            "last": [b"newest"],
        }.get(begin, [b"new", b"newest"])
        assert [message.body for message in take(consumer, len(wanted))] == wanted


def stored_at(mq: Client, topic: str) -> int:
    """When the last message of a topic of one queue was stored."""
    queue = mq.queues(topic)[0]
    with mq.assign([queue], group=new_name("G")) as consumer:
        consumer.seek(queue, mq.offsets(queue)[1] - 1)
        return take(consumer, 1)[0].store_timestamp


def test_seek(mq: Client, live: LiveBroker) -> None:
    topic, group = new_topic(mq, queues=1), new_name("G")
    fill(mq, topic, 100)
    (queue,) = mq.queues(topic)
    with mq.subscribe(topic, group=group) as consumer:
        old = consumer.poll(PATIENCE_S)
        assert old is not None
        consumer.seek(queue, 90)
        assert consumer.position(queue) == 90
        assert [int(m.body) for m in take(consumer, 10)] == list(range(90, 100))
        assert consumer.position(queue) == 100
        consumer.seek(queue, 5)
        old.ack()  # What was given before the seek counts no more.
        consumer.commit()
        assert committed(live.address, group, topic, 0) == 5
        assert [int(m.body) for m in take(consumer, 3)] == [5, 6, 7]
        assert consumer.seek_to_time(queue, 0) == 0
        assert take(consumer, 1)[0].queue_offset == 0
        with pytest.raises(InvalidMessage, match="not this consumer's"):
            consumer.seek(queue._replace(queue_id=9), 0)


def test_a_seek_while_iterating(mq: Client) -> None:
    """The rest of the batch in hand is not given."""
    topic = new_topic(mq, queues=1)
    fill(mq, topic, 30)
    (queue,) = mq.queues(topic)
    got = []
    with mq.subscribe(topic, group=new_name("G")) as consumer:
        for message in consumer:
            got.append(int(message.body))
            if got == [0, 1, 2]:
                consumer.seek(queue, 20)
            if got[-1] == 29:
                break
    assert got == [0, 1, 2, *range(20, 30)]


def test_an_offset_that_is_gone(mq: Client) -> None:
    """Beyond the end: the reading goes on where the broker says."""
    topic = new_topic(mq, queues=1)
    fill(mq, topic, 10)
    (queue,) = mq.queues(topic)
    eventually("they are in the queue", lambda: mq.offsets(queue)[1] == 10)
    with mq.assign([queue], group=new_name("G")) as consumer:
        consumer.seek(queue, 1000)
        eventually("it is corrected", lambda: consumer.position(queue) == 10)
        mq.send(topic, b"x")
        assert take(consumer, 1)[0].queue_offset == 10


def test_manual_assignment(mq: Client, live: LiveBroker) -> None:
    topic, group = new_topic(mq), new_name("G")
    fill(mq, topic, 100)
    queues = [queue for queue in mq.queues(topic) if queue.queue_id in {1, 3}]
    with mq.assign(queues, group=group) as consumer:
        assert consumer.assignment() == queues
        got = take(consumer, 50)
        assert {message.queue_id for message in got} == {1, 3}
        nothing_more(consumer)
    assert [committed(live.address, group, topic, n) for n in range(4)] == [None, 25, None, 25]
    with mq.assign(queues, group=group) as consumer:
        nothing_more(consumer)


def test_broadcasting(mq: Client, live: LiveBroker) -> None:
    topic, group = new_topic(mq), new_name("G")
    fill(mq, topic, 20)
    consumers = [mq.subscribe(topic, group=group, model="broadcasting") for _ in range(2)]
    for consumer in consumers:
        assert len(take(consumer, 20)) == 20
        consumer.close()
    assert committed(live.address, group, topic, 0) is None


def test_a_topic_that_comes_later(mq: Client) -> None:
    topic = new_name()
    with mq.subscribe(topic, group=new_name("G")) as consumer:
        assert consumer.assignment() == []
        mq.send(topic, b"first")
        assert take(consumer, 1)[0].body == b"first"


def test_new_queues_of_a_topic_are_read(clients: Callable[..., Client]) -> None:
    mq = clients()
    topic = new_topic(mq, queues=1)
    with mq.subscribe(topic, group=new_name("G")) as consumer:
        await_assignment([consumer], topic, [1])
        mq.create_topic(topic, queues=3)
        consumer.membership.rebalance_soon()
        await_assignment([consumer], topic, [3])
        mq.send(topic, b"x", queue=2)
        assert take(consumer, 1)[0].queue_id == 2


def test_closing(clients: Callable[..., Client]) -> None:
    mq = clients()
    topic = new_topic(mq)
    consumer = mq.subscribe(topic, group=new_name("G"))
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            consumer.poll(PATIENCE_S)
        except Closed as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    consumer.close()
    consumer.close()
    thread.join(PATIENCE_S)
    assert len(waiting) == 1
    for call in (consumer.assignment, consumer.commit, consumer.poll):
        with pytest.raises(Closed):
            call()
    with pytest.raises(Closed):
        next(iter(consumer))
    other = mq.subscribe(topic, group=new_name("G"))
    mq.close()
    with pytest.raises(Closed):
        other.poll()


def test_wrong_arguments(clients: Callable[..., Client]) -> None:
    mq = clients()
    wrong: list[dict[str, object]] = [
        {"group": ""},
        {"group": "G", "start": "middle"},
        {"group": "G", "batch": 0},
        {"group": "G", "model": "both"},
    ]
    for arguments in wrong:
        with pytest.raises(ConfigError):
            mq.subscribe("T", **arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no topic"):
        mq.subscribe([], group="G")
    with pytest.raises(InvalidMessage):
        mq.subscribe({"T": "||"}, group="G")
    with pytest.raises(InvalidMessage):
        mq.subscribe("a topic", group="G")


def test_reads_from_several_threads(clients: Callable[..., Client]) -> None:
    mq = clients()
    topic = new_topic(mq)
    fill(mq, topic, 400)
    got: list[bytes] = []
    with mq.subscribe(topic, group=new_name("G")) as consumer:

        def work() -> None:
            while (batch := consumer.poll(1.0)) is not None:
                got.extend(message.body for message in batch)
                batch.ack()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    assert sorted(map(int, got)) == list(range(400))


def test_repr(clients: Callable[..., Client]) -> None:
    mq = clients()
    topic = new_topic(mq, queues=1)
    mq.send(topic, b"body")
    with mq.subscribe(topic, group="G-repr") as consumer:
        batch = consumer.poll(PATIENCE_S)
        assert batch is not None
        assert "G-repr" in repr(consumer)
        assert repr(batch[0]) == f"<message 0 of {batch.queue}, 4 bytes>"
        assert "1 messages" in repr(batch)
    assert "closed" in repr(consumer)
    assert str(Queue("T", "b", 1)) == "T@b:1"
    assert isinstance(consumer, Consumer)
    assert "shmq.client.batch" in sys.modules


def test_leaving_an_iteration_loses_nothing(mq: Client, live: LiveBroker) -> None:
    """In the middle of a batch, by break, by an error, by polling instead."""
    topic, group = new_topic(mq, queues=1), new_name("G")
    fill(mq, topic, 30)
    (queue,) = mq.queues(topic)
    got: list[int] = []
    with mq.subscribe(topic, group=group) as consumer:
        for wanted in (3, 4, 11):
            for message in consumer:
                got.append(int(message.body))
                if len(got) == wanted:
                    break

        def fail() -> None:
            for message in consumer:
                got.append(int(message.body))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert consumer.position(queue) == 12
        batch = consumer.poll(PATIENCE_S)
        assert batch is not None
        got += [int(message.body) for message in batch]
        assert got == list(range(len(got)))
        consumer.commit()
        assert committed(live.address, group, topic, 0) == 11
        batch.ack()
        consumer.commit()
        assert committed(live.address, group, topic, 0) == len(got)
