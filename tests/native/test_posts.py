"""Posting through shared memory by the public client: arrays, single bodies, loans, lingering."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shmq
from shmq.client import Client
from shmq.errors import ClientError, Closed, ConfigError, InvalidMessage, Timeout
from shmq.layout import record
from shmq.layout.record import Record
from shmq.testing import PrivateBroker
from shmq.wire.properties import decode_properties
from tests.compat.processes import eventually

WAIT_S = 30.0
_names = itertools.count()


@pytest.fixture(scope="module")
def broker(shmq_shared_broker: PrivateBroker) -> PrivateBroker:
    return shmq_shared_broker


@pytest.fixture
def mq(broker: PrivateBroker) -> Iterator[Client]:
    with broker.connect(timeout=WAIT_S) as client:
        yield client


def topic_of(mq: Client, queues: int = 1) -> str:
    name = f"Posts{next(_names)}"
    mq.create_topic(name, queues=queues)
    return name


def warm(mq: Client, producer: shmq.Producer) -> None:
    """Until the producer puts single bodies into the ring by itself."""
    producer.post(b"warm").result(WAIT_S)

    def in_ring() -> bool:
        return type(producer.post(b"warm")).__name__ == "LaneTicket"

    eventually("the lane is open", in_ring, timeout_s=WAIT_S)
    producer.flush(WAIT_S)


def stored(
    mq: Client, topic: str, count: int, group: str = ""
) -> list[shmq.client.ReceivedMessage]:
    """So many messages of a topic, after those of warm()."""
    got: list[Any] = []
    with mq.subscribe(topic, group=group or f"g-{topic}") as consumer:
        for message in consumer.messages(WAIT_S):
            if message.body != b"warm":
                got.append(message)
            if len(got) == count:
                break
    return got


def check(results: list[shmq.SendResult], messages: list[Any]) -> None:
    """What the producer was told is what consumers see."""
    by_place = {(one.queue_id, one.queue_offset): one for one in messages}
    assert len(by_place) == len(results)
    for result in results:
        message = by_place[result.queue_id, result.queue_offset]
        assert message.message_id == result.message_id
        assert message.physical_offset == result.physical_offset
        assert message.offset_message_id == result.offset_message_id


# Arrays


def test_rows_of_an_array(mq: Client) -> None:
    topic = topic_of(mq)
    rows = np.random.default_rng(1).integers(0, 256, (1000, 64), dtype=np.uint8)
    with mq.producer(topic, window=2048) as producer:
        results = producer.post_many(rows, tags="A").result(WAIT_S)
    messages = stored(mq, topic, 1000)
    assert [message.body for message in messages] == [row.tobytes() for row in rows]
    assert {message.tags for message in messages} == {"A"}
    assert len({result.message_id for result in results}) == 1000
    check(results, messages)


def test_pieces_of_a_buffer(mq: Client) -> None:
    topic = topic_of(mq)
    buffer = bytes(range(256)) * 40
    sizes = [1 + number * 7 % 300 for number in range(500)]
    starts = [number * 13 % (len(buffer) - 300) for number in range(500)]
    with mq.producer(topic, window=512) as producer:
        results = producer.post_many((buffer, starts, np.array(sizes))).result(WAIT_S)
    messages = stored(mq, topic, 500)
    expected = [buffer[at : at + size] for at, size in zip(starts, sizes, strict=True)]
    assert [message.body for message in messages] == expected
    check(results, messages)


def test_a_list_of_bodies_and_a_generator(mq: Client) -> None:
    topic = topic_of(mq)
    bodies = [b"%d" % number * (1 + number % 9) for number in range(700)]
    with mq.producer(topic) as producer:
        first = producer.post_many(bodies).result(WAIT_S)
        second = producer.post_many(body for body in bodies).result(WAIT_S)
    messages = stored(mq, topic, 1400)
    assert [message.body for message in messages] == bodies * 2
    check(first + second, messages)


@pytest.mark.parametrize(
    ("bodies", "why"),
    [
        ([b"ok", b""], "empty body"),
        ((b"abc", [0, 2], [1, 2]), "outside of its buffer"),
        ((b"abc", [0], [1, 2]), "offsets and sizes"),
        ((b"abc", [-1], [1]), "outside of its buffer"),
        ((memoryview(b"abcdef")[::2], [0], [1]), "buffer of bodies"),
        (np.zeros((2, 3), dtype=np.int16), "array of bodies"),
        (np.zeros((3, 0), dtype=np.uint8), "empty body"),
        ([b"x" * (5 << 20)], "body too large"),
        (b"one", "one body where several"),
        ("text", "one body where several"),
    ],
)
def test_arrays_that_cannot_be(mq: Client, bodies: Any, why: str) -> None:
    with mq.producer(topic_of(mq)) as producer, pytest.raises(InvalidMessage, match=why):
        producer.post_many(bodies)


def test_no_bodies_at_all(mq: Client) -> None:
    with mq.producer(topic_of(mq)) as producer:
        assert producer.post_many([]).result(WAIT_S) == []
        assert producer.post_many(np.zeros((0, 5), dtype=np.uint8)).result(WAIT_S) == []


def test_large_bodies_in_arrays(mq: Client) -> None:
    """Some too large to travel with others, one too large for the ring."""
    topic = topic_of(mq)
    bodies = [
        bytes([number]) * size for number, size in enumerate((10, 900_000, 900_000, 3 << 20, 5))
    ]
    with mq.producer(topic) as producer:
        check(producer.post_many(bodies).result(WAIT_S), messages := stored(mq, topic, 5))
    assert [message.body for message in messages] == bodies


# Both doors


def plain(one: Record) -> dict[str, Any]:
    """A record without what differs from send to send."""
    properties = decode_properties(one.properties)
    properties.pop("UNIQ_KEY")
    return {
        "body": one.body,
        "topic": one.topic,
        "properties": properties,
        "order": list(properties),
        "flags": (one.flag, one.sys_flag, one.reconsume_times, one.magic),
        "host": (one.born_host, one.store_host, one.store_port),
    }


def records(mq: Client, topic: str, count: int) -> list[dict[str, Any]]:
    """The records of a topic's only queue."""
    found = []
    for message in stored(mq, topic, count):
        size, _magic = record.head(
            bytes(message._buffer[message._position : message._position + 8])
        )
        data = bytes(message._buffer[message._position : message._position + size])
        found.append(plain(record.decode(data)))
    return found


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("post"), st.binary(min_size=1, max_size=200)),
        st.tuples(st.just("tagged"), st.binary(min_size=1, max_size=200)),
        st.tuples(st.just("loan"), st.binary(min_size=1, max_size=200)),
        st.tuples(
            st.just("many"), st.lists(st.binary(min_size=1, max_size=90), min_size=1, max_size=9)
        ),
    ),
    min_size=1,
    max_size=8,
)


def play(producer: shmq.Producer, calls: list[tuple[str, Any]]) -> int:
    """Make the calls; how many messages that is."""
    count = 0
    for kind, value in calls:
        if kind == "post":
            producer.post(value)
        elif kind == "tagged":
            producer.post(value, tags="标签")
        elif kind == "loan":
            with producer.loan(len(value)) as body:
                body[:] = value
        else:
            producer.post_many(value)
        count += len(value) if kind == "many" else 1
    producer.flush(WAIT_S)
    return count


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(calls=CALLS)
def test_both_doors_store_the_same(broker: PrivateBroker, mq: Client, calls: list[Any]) -> None:
    topics = [topic_of(mq), topic_of(mq)]
    with mq.producer(topics[0]) as native:
        warm(mq, native)
        count = play(native, calls)
    with (
        shmq.connect(f"{broker.address}?copy=1", timeout=WAIT_S) as copies,
        copies.producer(topics[1]) as producer,
    ):
        play(producer, calls)
    by_ring, by_copies = (records(mq, topic, count) for topic in topics)
    for one in (*by_ring, *by_copies):
        assert one.pop("topic") in topics
    assert by_ring == by_copies


# Single bodies


def test_results_of_single_bodies(mq: Client) -> None:
    topic = topic_of(mq, queues=3)
    bodies = [b"%d" % number for number in range(3000)]
    with mq.producer(topic) as producer:
        warm(mq, producer)
        tickets = [producer.post(body) for body in bodies]
        assert sum(type(ticket).__name__ == "LaneTicket" for ticket in tickets) > 2900
        results = [ticket.result(WAIT_S) for ticket in tickets]
        assert all(ticket.done() and ticket.exception() is None for ticket in tickets)
    messages = stored(mq, topic, 3000)
    assert {message.body for message in messages} == set(bodies)
    for queue_id in range(3):
        numbers = [int(message.body) for message in messages if message.queue_id == queue_id]
        assert numbers == sorted(numbers), "in order"
        assert len(numbers) >= 900, "spread evenly"
    check(results, messages)
    assert len({result.message_id for result in results}) == 3000


def test_callbacks(mq: Client) -> None:
    with mq.producer(topic_of(mq)) as producer:
        warm(mq, producer)
        got: list[Any] = []
        ticket = producer.post(b"x")
        ticket.add_done_callback(got.append)
        producer.flush(WAIT_S)
        ticket.add_done_callback(got.append)
    assert got == [ticket, ticket]


def test_many_threads_share_a_producer(mq: Client) -> None:
    topic = topic_of(mq)
    with mq.producer(topic, window=64) as producer:
        warm(mq, producer)

        def work(number: int) -> None:
            for index in range(500):
                producer.post(b"%d %d" % (number, index))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
    bodies = [message.body for message in stored(mq, topic, 2000)]
    for number in range(4):
        own = [int(body.split()[1]) for body in bodies if body.startswith(b"%d " % number)]
        assert own == list(range(500))


# Loans


def test_a_loan(mq: Client) -> None:
    topic = topic_of(mq)
    with mq.producer(topic) as producer:
        warm(mq, producer)
        loan = producer.loan(5)
        loan.body[:] = b"12345"
        result = loan.commit().result(WAIT_S)
        with pytest.raises(Closed, match="loan is over"):
            loan.commit()
        with producer.loan(3) as body:
            body[:] = b"abc"
        with pytest.raises(ZeroDivisionError), producer.loan(3):
            raise ZeroDivisionError
        assert producer.in_flight <= 1
    messages = stored(mq, topic, 2)
    assert [message.body for message in messages] == [b"12345", b"abc"]
    check([result], messages[:1])


def test_others_wait_for_a_loan(mq: Client) -> None:
    topic = topic_of(mq)
    with mq.producer(topic) as producer:
        warm(mq, producer)
        loan = producer.loan(4)
        late = producer.post(b"late")
        with pytest.raises(Timeout):
            late.result(0.2)
        other = producer.loan(5)  # Not in the ring: one is lent out.
        other.body[:] = b"other"
        loan.body[:] = b"loan"
        loan.commit()
        late.result(WAIT_S)
        other.commit().result(WAIT_S)
    assert [message.body for message in stored(mq, topic, 3)] == [b"loan", b"late", b"other"]


def test_loans_that_cannot_be(mq: Client) -> None:
    with mq.producer(topic_of(mq)) as producer:
        with pytest.raises(InvalidMessage, match="empty body"):
            producer.loan(0)
        with producer.loan(3 << 20) as body:  # Larger than the ring takes.
            body[:4] = b"long"
        producer.flush(WAIT_S)


# Lingering


def test_lingering_posts_travel_together(mq: Client) -> None:
    topic = topic_of(mq)
    bodies = [b"%d" % number for number in range(1000)]
    with mq.producer(topic, window=4096, linger=60.0) as producer:
        tickets = [producer.post(body) for body in bodies]
        assert not tickets[-1].done()
        results = [ticket.result(WAIT_S) for ticket in tickets]
    messages = stored(mq, topic, 1000)
    assert [message.body for message in messages] == bodies
    check(results, messages)


def test_lingering_ends_with_time(mq: Client) -> None:
    with mq.producer(topic_of(mq), linger=0.05) as producer:
        ticket = producer.post(b"alone")
        eventually("it is sent", ticket.done, timeout_s=WAIT_S)
        got: list[Any] = []
        ticket.add_done_callback(got.append)
        assert got == [ticket]
        assert ticket.exception() is None


def test_nothing_overtakes_what_lingers(mq: Client) -> None:
    topic = topic_of(mq)
    with mq.producer(topic, linger=60.0) as producer:
        producer.post(b"1")
        producer.post(b"2", tags="t")
        producer.post(b"3")
        producer.send(b"4")
        producer.post(b"5")
        producer.post_many([b"6", b"7"])
        producer.post(b"8")
        with producer.loan(1) as body:
            body[:] = b"9"
    assert b"".join(message.body for message in stored(mq, topic, 9)) == b"123456789"


def test_time_that_is_over_waits_for_nobody(shmq_broker: PrivateBroker) -> None:
    """With the window full the housekeeping thread goes on; what lingers is sent later."""
    with shmq_broker.connect(timeout=WAIT_S) as mq:
        topic = topic_of(mq)
        with mq.producer(topic, window=4, linger=0.02) as producer:
            producer.post(b"1").result(WAIT_S)
            with shmq_broker.stopped("writer"):
                full = [producer.post(b"%d" % number) for number in range(2, 6)]
                late = producer.post(b"6")
                ticked = threading.Event()
                mq.later(0.2, ticked.set)
                assert ticked.wait(5), "the housekeeping thread waits for room"
                assert not late.done()
            for ticket in (*full, late):
                ticket.result(WAIT_S)
        assert b"".join(message.body for message in stored(mq, topic, 6)) == b"123456"


@pytest.mark.parametrize("linger", [0, -1, 1e9])
def test_odd_lingering(mq: Client, linger: float) -> None:
    with pytest.raises(ConfigError, match="linger"):
        mq.producer("T", linger=linger)


# What goes wrong


def await_more(tickets: list[Any], count: int) -> None:
    """Until so many more were posted."""
    end = len(tickets) + count
    eventually("posts go on", lambda: len(tickets) > end, timeout_s=WAIT_S)


def test_the_broker_dies_and_comes_back(shmq_broker: PrivateBroker) -> None:
    """Posts in the ring when it dies are sent again; none is lost, each has its result."""
    with shmq_broker.connect(timeout=WAIT_S, patience=WAIT_S) as mq:
        topic = topic_of(mq)
        with mq.producer(topic, window=256) as producer:
            warm(mq, producer)
            stop = threading.Event()
            tickets: list[tuple[bytes, Any]] = []

            def post() -> None:
                number = 0
                while not stop.is_set():
                    body = b"%d" % number
                    tickets.append((body, producer.post(body)))
                    number += 1

            thread = threading.Thread(target=post)
            thread.start()
            for _ in range(2):
                await_more(tickets, 2000)
                shmq_broker.crash()
                shmq_broker.start()
            await_more(tickets, 2000)
            stop.set()
            thread.join(WAIT_S)
            producer.flush(WAIT_S)
            results = {body: ticket.result(WAIT_S) for body, ticket in tickets}
        end = mq.send(topic, b"last").queue_offset + 1
        found: dict[int, bytes] = {}
        with mq.subscribe(topic, group="all") as consumer:
            for message in consumer.messages(WAIT_S):
                found[message.queue_offset] = message.body
                if message.queue_offset == end - 1:
                    break
    for body, result in results.items():
        assert found[result.queue_offset] == body


def test_a_writer_that_stands_still(shmq_broker: PrivateBroker) -> None:
    with shmq_broker.connect(timeout=1.0) as mq, mq.producer(topic_of(mq)) as producer:
        warm(mq, producer)
        with shmq_broker.stopped("writer"):
            ticket = producer.post(b"x")
            began = time.monotonic()
            assert isinstance(ticket.exception(WAIT_S), ClientError)
            assert time.monotonic() - began < 10
        with pytest.raises(ClientError):
            producer.flush(WAIT_S)
        producer.post(b"y").result(WAIT_S)


def test_a_topic_that_is_deleted_meanwhile(mq: Client) -> None:
    topic = topic_of(mq)
    with mq.producer(topic) as producer:
        warm(mq, producer)
        mq.delete_topic(topic)
        mq.create_topic(topic, queues=1)
        tickets = [producer.post(b"%d" % number) for number in range(100)]
        for ticket in tickets:
            ticket.result(WAIT_S)


def test_a_closed_client_ends_what_is_under_way(shmq_broker: PrivateBroker) -> None:
    mq = shmq_broker.connect(timeout=WAIT_S)
    producer = mq.producer(topic_of(mq))
    warm(mq, producer)
    with shmq_broker.stopped("writer"):
        ticket = producer.post(b"x")
        mq.close()
        assert isinstance(ticket.exception(WAIT_S), Closed)
