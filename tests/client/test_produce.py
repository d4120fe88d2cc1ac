"""Sending by every call and every way, read back by a plain assignment."""

from __future__ import annotations

import os
import threading
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest

from shmq.client import Client, Message, Queue, ReceivedMessage, SendResult
from shmq.client.model import SendStatus
from shmq.errors import Closed, InvalidMessage, SendFailed, Timeout, TopicNotFound
from shmq.units import KiB, MiB
from tests.client.live import PATIENCE_S, new_name, new_topic, take
from tests.compat.processes import eventually


def read_all(mq: Client, topic: str, count: int) -> list[ReceivedMessage]:
    """All messages of a topic."""
    with mq.assign(mq.queues(topic), group=new_name("G")) as consumer:
        return take(consumer, count)


def check_place(mq: Client, result: SendResult, body: bytes) -> None:
    """A message lies where its result says."""
    with mq.assign([result.queue], group=new_name("G")) as consumer:
        consumer.seek(result.queue, result.queue_offset)
        message = take(consumer, 1)[0]
    assert message.body == body
    assert message.queue_offset == result.queue_offset
    assert message.physical_offset == result.physical_offset
    assert message.message_id == result.message_id
    assert message.offset_message_id == result.offset_message_id


def test_send(mq: Client) -> None:
    topic = new_topic(mq)
    result = mq.send(
        topic, b"body", tags="a", keys=["k1", "k2"], properties={"x": "y", "größe": "1"}
    )
    assert result.status is SendStatus.OK
    assert result.queue in mq.queues(topic)
    check_place(mq, result, b"body")
    (message,) = read_all(mq, topic, 1)
    assert (message.topic, message.tags, message.keys) == (topic, "a", ["k1", "k2"])
    assert message.properties["x"] == "y"
    assert message.properties["größe"] == "1"
    assert message.reconsume_times == 0
    assert abs(message.born_timestamp - message.store_timestamp) < PATIENCE_S * 1000


def test_send_a_message_object(mq: Client) -> None:
    topic = new_topic(mq)
    result = mq.send(Message(topic, bytearray(b"body"), keys="k1 k2", queue=2, flag=7))
    assert result.queue_id == 2
    (message,) = read_all(mq, topic, 1)
    assert (message.body, message.keys, message.flag) == (b"body", ["k1", "k2"], 7)


def test_a_queue_or_a_key_decides_where_to(mq: Client) -> None:
    topic = new_topic(mq)
    whole = mq.queues(topic)[3]
    assert mq.send(topic, b"x", queue=whole).queue == whole
    assert mq.send(topic, b"x", queue=1).queue_id == 1
    by_key = {key: {mq.send(topic, b"x", key=key).queue_id for _ in range(3)} for key in "abcdef"}
    assert all(len(queues) == 1 for queues in by_key.values())
    # Java: Math.abs("a".hashCode()) % 4 and so on.
    assert [by_key[key] for key in "abcd"] == [{1}, {2}, {3}, {0}]
    assert {mq.send(topic, b"x").queue_id for _ in range(4)} == {0, 1, 2, 3}


def test_a_topic_is_made_by_its_first_message(mq: Client) -> None:
    topic = new_name()
    first = mq.send(topic, b"first")
    eventually("the name server knows it", lambda: topic in mq.topics())
    check_place(mq, first, b"first")


@pytest.mark.parametrize("size", [1, 4 * KiB - 1, 4 * KiB, 70 * KiB, 4 * MiB])
def test_sizes(mq: Client, size: int) -> None:
    topic = new_topic(mq, queues=1)
    body = os.urandom(size)
    check_place(mq, mq.send(topic, body), body)


def test_compressible_bodies_come_back_whole(clients: Callable[..., Client]) -> None:
    mq = clients(compress=100)
    topic = new_topic(mq, queues=1)
    for size in (99, 100, 200 * KiB):
        mq.send(topic, b"x" * size)
    messages = read_all(mq, topic, 3)
    assert [len(message.body) for message in messages] == [99, 100, 200 * KiB]
    assert [message.sys_flag & 1 for message in messages] == [0, 1, 1]
    assert set(messages[2].body) == {ord("x")}


def test_send_many_gives_each_its_result(mq: Client) -> None:
    topic = new_topic(mq)
    bodies = [b"%d" % number for number in range(1000)]
    results = mq.send_many(topic, bodies, tags="t")
    assert len(results) == len({result.message_id for result in results}) == 1000
    by_place = {(m.queue_id, m.queue_offset): m for m in read_all(mq, topic, 1000)}
    for body, result in zip(bodies, results, strict=True):
        message = by_place[result.queue_id, result.queue_offset]
        assert (message.body, message.tags) == (body, "t")
        assert message.physical_offset == result.physical_offset
        assert message.message_id == result.message_id
        assert message.offset_message_id == result.offset_message_id


def test_send_many_messages(mq: Client) -> None:
    """Queue, key and topic of each message count; large ones travel alone."""
    topic, other = new_topic(mq), new_topic(mq)
    messages: list[bytes | Message] = [
        Message(topic, b"0", queue=1, tags="a"),
        Message(topic, b"1", queue=1, properties={"n": "1"}),
        Message(other, b"2", queue=0),
        b"x" * (2 * MiB),
        Message(topic, b"4", key="a"),
    ]
    results = mq.send_many(topic, messages)
    assert [result.topic for result in results] == [topic, topic, other, topic, topic]
    assert [result.queue_id for result in results[:3]] == [1, 1, 0]
    assert results[4].queue_id == 1
    assert len(read_all(mq, topic, 4)) == 4


def test_send_async(mq: Client) -> None:
    topic = new_topic(mq)
    called = threading.Event()
    futures = [mq.send_async(topic, b"%d" % number) for number in range(100)]
    futures.append(mq.send_async(topic, b"last", callback=lambda _: called.set()))
    results = [future.result(PATIENCE_S) for future in futures]
    assert len({result.message_id for result in results}) == 101
    assert called.wait(PATIENCE_S)


def test_send_oneway(mq: Client) -> None:
    topic = new_topic(mq, queues=1)
    for number in range(10):
        mq.send_oneway(topic, b"%d" % number)
    assert [m.body for m in read_all(mq, topic, 10)] == [b"%d" % number for number in range(10)]


def test_posts_keep_their_order(mq: Client) -> None:
    topic = new_topic(mq)
    with mq.producer(topic, window=64) as producer:
        tickets = [producer.post(b"%d" % number, key=str(number % 7)) for number in range(2000)]
        assert producer.in_flight <= 64
        producer.flush(PATIENCE_S)
        assert producer.in_flight == 0
        assert all(ticket.done() for ticket in tickets)
    assert len({ticket.result().message_id for ticket in tickets}) == 2000
    by_queue = defaultdict(list)
    for message in read_all(mq, topic, 2000):
        by_queue[message.queue_id].append(int(message.body))
    assert all(numbers == sorted(numbers) for numbers in by_queue.values())
    assert sum(map(len, by_queue.values())) == 2000


def test_post_many_takes_arrays(mq: Client) -> None:
    topic = new_topic(mq, queues=1)
    rows = np.arange(60, dtype=np.uint8).reshape(20, 3)
    buffer = bytes(range(100))
    with mq.producer(topic) as producer:
        listed = producer.post_many([b"a", memoryview(b"b"), Message(topic, b"c", tags="t")])
        cut = producer.post_many((buffer, [0, 10, 90], np.array([10, 1, 10])))
        array = producer.post_many(rows)
        sparse = producer.post_many(rows[:, ::2])
        generated = producer.post_many(b"%d" % number for number in range(600))
        empty = producer.post_many([])
    wanted = [b"a", b"b", b"c", buffer[:10], buffer[10:11], buffer[90:]]
    wanted += [bytes(row) for row in rows] + [bytes(row[::2]) for row in rows]
    wanted += [b"%d" % number for number in range(600)]
    assert empty.result() == []
    tickets = (listed, cut, array, sparse, generated)
    results = [result for ticket in tickets for result in ticket.result(PATIENCE_S)]
    assert len(results) == len(wanted) == 646
    by_offset = {m.queue_offset: m.body for m in read_all(mq, topic, 646)}
    assert [by_offset[result.queue_offset] for result in results] == wanted


def test_who_posts_faster_than_the_broker_waits(clients: Callable[..., Client]) -> None:
    """With a window of one, no second message is on its way before the first is stored."""
    mq = clients()
    topic = new_topic(mq, queues=1)
    with mq.producer(topic, window=1) as producer:
        tickets = []
        for number in range(50):
            tickets.append(producer.post(b"%d" % number))
            assert all(ticket.done() for ticket in tickets[:-1])
            assert producer.in_flight <= 1


def test_threads_share_a_producer(clients: Callable[..., Client]) -> None:
    mq = clients()
    topic = new_topic(mq)
    with mq.producer(topic, window=16) as producer:

        def work(name: int) -> None:
            for number in range(100):
                producer.post(b"%d %d" % (name, number), queue=name % 4)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    got = [tuple(map(int, m.body.split())) for m in read_all(mq, topic, 800)]
    assert len(set(got)) == 800
    for name in range(8):
        numbers = [number for one, number in got if one == name]
        assert numbers == sorted(numbers)


def test_what_fails_after_a_post_is_told_by_flush(clients: Callable[..., Client]) -> None:
    """Bodies that this client lets pass and the broker refuses."""
    mq = clients(body_size_max=8 * MiB)
    topic = new_topic(mq)
    producer = mq.producer(topic)
    good = producer.post(b"good")
    bad = producer.post(b"x" * (5 * MiB))
    with pytest.raises(SendFailed) as caught:
        producer.flush(PATIENCE_S)
    assert caught.value.facts["failed_count"] == 1
    assert caught.value.code == 13
    assert good.result().topic == topic
    error = bad.exception()
    assert isinstance(error, SendFailed)
    assert error.code == 13
    producer.flush(PATIENCE_S)  # told once
    producer.close()
    with pytest.raises(Closed):
        producer.post(b"late")


@pytest.mark.parametrize(
    "message",
    [
        Message("bad topic", b"x"),
        Message("T", b""),
        Message("T", b"x" * (4 * MiB + 1)),
        Message("T", b"x", properties={"KEYS": "k"}),
        Message("T", b"x", properties={"a\x01b": "c"}),
        Message("T", b"x", properties={"a": ""}),
        Message("T", b"x", tags="a\x02"),
        Message("T", b"x", delay_level=19),
        Message("T", b"x", properties={"a": "x" * 40_000}),
        Message("T", "text"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_sent_is_refused_here(
    clients: Callable[..., Client], message: Message
) -> None:
    with pytest.raises(InvalidMessage):
        clients().send(message)


def test_a_queue_that_is_not_there(mq: Client) -> None:
    topic = new_topic(mq, queues=2)
    with pytest.raises(InvalidMessage, match="no such queue"):
        mq.send(topic, b"x", queue=2)
    with pytest.raises(InvalidMessage, match="no such queue"):
        mq.send(topic, b"x", queue=Queue(topic, "elsewhere", 0))


def test_topics(mq: Client) -> None:
    topic = new_topic(mq, queues=3)
    assert topic in mq.topics()
    assert not [name for name in mq.topics() if name.startswith(("%", "TBW102", "rmq_sys"))]
    assert [queue.queue_id for queue in mq.queues(topic)] == [0, 1, 2]
    mq.create_topic(topic, queues=5)
    assert len(mq.queues(topic)) == 5
    mq.delete_topic(topic)
    assert topic not in mq.topics()
    with pytest.raises(TopicNotFound, match=topic):
        mq.queues(topic)


def test_offsets(mq: Client) -> None:
    topic = new_topic(mq, queues=1)
    (queue,) = mq.queues(topic)
    assert mq.offsets(queue) == (0, 0)
    mq.send_many(topic, [b"x"] * 10)
    eventually("ten messages are in their queue", lambda: mq.offsets(queue) == (0, 10))
    assert mq.search_offset(queue, 0) == 0
    with pytest.raises(TopicNotFound):
        mq.offsets(queue._replace(queue_id=1))


def test_a_closed_client_refuses(clients: Callable[..., Client]) -> None:
    mq = clients()
    mq.send(new_topic(mq), b"x")
    mq.close()
    mq.close()
    with pytest.raises(Closed):
        mq.send("T", b"x")
    with pytest.raises(Closed):
        mq.topics()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("shmq-")]
    assert not left, left


def test_a_window_that_stays_full_times_out(clients: Callable[..., Client]) -> None:
    """A consumer of results that blocks the answers' thread: nothing can be completed meanwhile."""
    mq = clients()
    topic = new_topic(mq, queues=1)
    entered, leave = threading.Event(), threading.Event()

    def block(_: object) -> None:
        entered.set()
        leave.wait(PATIENCE_S)

    producer = mq.producer(topic, window=2)
    mq.send_async(topic, b"first", callback=block)
    assert entered.wait(PATIENCE_S)
    producer.post(b"1")
    ticket = producer.post(b"2")
    with pytest.raises(Timeout, match="window is full"):
        producer.post(b"3", timeout=0.05)
    with pytest.raises(Timeout):
        producer.flush(0.05)
    with pytest.raises(Timeout):
        ticket.result(0.05)
    leave.set()
    producer.flush(PATIENCE_S)
    producer.close()
