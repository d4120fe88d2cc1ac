"""Attempts: what is tried again, how often, where, and until when."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shmq.client.address import Endpoint
from shmq.client.flow import Done, Waiter
from shmq.client.model import Queue, SendStatus
from shmq.client.prepare import Prepared
from shmq.client.publish import Delivered, Parcel, Publisher
from shmq.client.route import Route, Routes
from shmq.client.timers import Timers
from shmq.client.transport import Stored, Submission
from shmq.errors import (
    ClientError,
    InvalidMessage,
    NotConnected,
    Refused,
    SendFailed,
    Timeout,
    TopicNotFound,
)
from shmq.wire.messageid import offset_message_id

BROKERS = {"a": {0: Endpoint("a", 1)}, "b": {0: Endpoint("b", 1), 1: Endpoint("slave", 1)}}
QUEUES = tuple(Queue("T", broker, number) for broker in BROKERS for number in range(2))
ROUTE = Route("T", QUEUES, QUEUES, BROKERS)


class Directory:
    """Routes as the test wants them, and how often they were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.known = {"T": ROUTE}
        self.gate = threading.Event()
        self.gate.set()

    async def route(self, topic: str) -> Route:
        """One of the known routes."""
        assert self.gate.wait(30)
        self.asked.append(topic)
        if topic not in self.known:
            raise TopicNotFound("topic not found", topic=topic)
        return self.known[topic]

    async def masters(self) -> dict[str, Endpoint]:
        """Not asked for here."""
        return {}

    async def topics(self) -> list[str]:
        """Not asked for here."""
        return []

    async def forget_topic(self, topic: str) -> None:
        """Not asked for here."""


class Path:
    """Answers submissions with what the test has laid out, then with success."""

    def __init__(self) -> None:
        self.outcomes: list[Exception] = []
        self.forever: Exception | None = None
        self.submissions: list[Submission] = []

    def submit(self, submission: Submission, done: Done[Stored]) -> None:
        """Answer at once."""
        self.submissions.append(submission)
        if self.outcomes:
            done(self.outcomes.pop(0))
        elif self.forever is not None:
            done(self.forever)
        else:
            ids = [offset_message_id(bytes(4), 1, 100 + n) for n in range(len(submission.messages))]
            done(Stored(SendStatus.OK, submission.queue.queue_id, 7, ids))

    def submit_oneway(self, submission: Submission) -> ClientError | None:
        """Take it."""
        self.submissions.append(submission)
        return self.forever if isinstance(self.forever, ClientError) else None

    def is_full(self, endpoint: Endpoint) -> bool:
        """Never."""
        return False

    def await_room(self, endpoint: Endpoint, timeout: float) -> None:
        """There is."""


class Bench:
    """A publisher with a directory and a path of the test's."""

    def __init__(self) -> None:
        self.directory = Directory()
        self.path = Path()
        self.timers = Timers()
        self.ever_open = True
        self.publisher = Publisher(
            routes=Routes(self.directory),
            path=self.path,
            timers=self.timers,
            retries=2,
            ever_open=lambda: self.ever_open,
        )

    def begin(self, **options: Any) -> Waiter[Delivered]:
        """Send one message."""
        given: dict[str, Any] = {
            "group": "G", "queue": None, "key": None, "is_batch": False,
            "timeout": 20.0, "patience": 20.0, **options,
        }  # fmt: skip
        topic = given.pop("topic", "T")
        messages = given.pop("messages", [Prepared(b"x", "", "id")])
        waiter: Waiter[Delivered] = Waiter()
        self.publisher.send(Parcel(topic, messages, **given), waiter)
        return waiter

    def send(self, **options: Any) -> Delivered:
        """Send one message and wait."""
        return self.begin(**options).result(30)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.timers.close()


def refused(code: int) -> Refused:
    return Refused("send refused", code=code, remark="because", address="a:1")


def test_results(bench: Bench) -> None:
    messages = [Prepared(b"x", "", f"id{number}") for number in range(3)]
    delivered = bench.send(messages=messages, is_batch=True, queue=1)
    results = delivered.results()
    assert [result.message_id for result in results] == ["id0", "id1", "id2"]
    assert [result.queue_offset for result in results] == [7, 8, 9]
    assert [result.physical_offset for result in results] == [100, 101, 102]
    assert {(result.broker, result.queue_id) for result in results} == {("a", 1)}
    assert bench.directory.asked == ["T"]


def test_queues_in_turn(bench: Bench) -> None:
    queues = [bench.send().result(0).queue for _ in range(8)]
    assert sorted(queues) == sorted(QUEUES * 2)
    assert queues[:4] == queues[4:]


@pytest.mark.parametrize("code", [17, 1, 16, 204, 205])
def test_codes_that_are_tried_again(bench: Bench, code: int) -> None:
    """Two more attempts, on another broker, with a fresh route; and no third."""
    bench.path.outcomes = [refused(code)] * 2
    bench.send()
    brokers = [submission.queue.broker for submission in bench.path.submissions]
    assert brokers[0] != brokers[1] != brokers[2]
    assert len(bench.directory.asked) == 3
    bench.path.outcomes = [refused(code)] * 3
    with pytest.raises(SendFailed) as caught:
        bench.send()
    assert (caught.value.code, caught.value.remark) == (code, "because")
    assert caught.value.facts["attempts"] == 3
    assert caught.value.facts["address"] == "a:1"


@pytest.mark.parametrize("code", [13, 29, 26, 3])
def test_codes_that_are_final(bench: Bench, code: int) -> None:
    bench.path.outcomes = [refused(code)]
    with pytest.raises(SendFailed):
        bench.send()
    assert len(bench.path.submissions) == 1


@pytest.mark.parametrize("code", [2, 14])
def test_a_busy_broker_is_asked_until_the_timeout(bench: Bench, code: int) -> None:
    bench.path.outcomes = [refused(code)] * 5
    bench.send()
    assert len(bench.path.submissions) == 6
    bench.path.forever = refused(code)
    begin = time.monotonic()
    with pytest.raises(SendFailed):
        bench.send(timeout=0.2, patience=20.0)
    assert 0.2 <= time.monotonic() - begin < 15


@pytest.mark.parametrize("error", [NotConnected("gone"), refused(1500)])
def test_a_broker_that_is_away_is_waited_for(bench: Bench, error: ClientError) -> None:
    """Longer than the timeout, which counts anew when it is back."""
    bench.path.outcomes = [error] * 5
    bench.send(timeout=0.1, patience=20.0)
    assert len(bench.path.submissions) == 6
    assert bench.path.submissions[-1].timeout > 0.01
    bench.path.forever = error
    begin = time.monotonic()
    with pytest.raises((NotConnected, SendFailed)):
        bench.send(timeout=0.05, patience=0.3)
    assert 0.3 <= time.monotonic() - begin < 15


def test_a_broker_that_never_was_there_is_not_waited_for(bench: Bench) -> None:
    bench.ever_open = False
    bench.path.forever = NotConnected("nobody there")
    with pytest.raises(NotConnected, match="nobody there"):
        bench.send()
    assert len(bench.path.submissions) == 1


def test_timeouts(bench: Bench) -> None:
    bench.path.outcomes = [Timeout("no answer")]
    bench.send()
    bench.path.forever = Timeout("no answer")
    with pytest.raises(Timeout):
        bench.send()
    assert len(bench.path.submissions) == 2 + 3


def test_a_topic_that_the_broker_makes(bench: Bench) -> None:
    """The route of TBW102 stands in, with four queues of each broker at most."""
    many = tuple(Queue("TBW102", "a", number) for number in range(8))
    bench.directory.known["TBW102"] = Route("TBW102", many, many, BROKERS)
    assert {bench.send(topic="N").result(0).queue for _ in range(8)} == {
        Queue("N", "a", number) for number in range(4)
    }
    del bench.directory.known["TBW102"]
    with pytest.raises(TopicNotFound, match="topic=other"):
        bench.send(topic="other")


def test_a_topic_that_nobody_writes_to(bench: Bench) -> None:
    bench.directory.known["R"] = Route("R", (), QUEUES, BROKERS)
    with pytest.raises(TopicNotFound, match="no broker takes messages"):
        bench.send(topic="R")


def test_queues_that_are_not_there(bench: Bench) -> None:
    for queue in (2, Queue("T", "c", 0)):
        with pytest.raises(InvalidMessage):
            bench.send(queue=queue)
    assert not bench.path.submissions


def test_order_while_the_route_is_asked_for(bench: Bench) -> None:
    """What is sent meanwhile waits in a row, and so does what comes while the row is sent."""
    bench.directory.gate.clear()
    messages = [[Prepared(b"%d" % number, "", "id")] for number in range(50)]
    waiters = [bench.begin(messages=one, queue=0) for one in messages[:40]]
    bench.directory.gate.set()
    waiters += [bench.begin(messages=one, queue=0) for one in messages[40:]]
    for waiter in waiters:
        waiter.result(30)
    sent = [int(bytes(one.messages[0].body)) for one in bench.path.submissions]
    assert sent == list(range(50))
    assert bench.directory.asked == ["T"]
