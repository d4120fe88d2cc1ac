"""The same library with Apache's broker and name server, and with Apache's clients in one group."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from shmq.client import Client
from shmq.errors import TopicNotFound
from shmq.units import MiB
from tests.client.live import PATIENCE_S, LiveBroker, connect, new_name, new_topic, take
from tests.compat.drivers import HERE, Driver, Message, start_driver
from tests.compat.peers import ApachePair
from tests.compat.processes import eventually

SETUP_TIMEOUT_S = 900
OF_JAVA = {"CONSUME_START_TIME", "MIN_OFFSET", "MAX_OFFSET"}
"""Properties that Java's client adds to what it receives."""
pytestmark = [pytest.mark.compat, pytest.mark.timeout(SETUP_TIMEOUT_S + 180)]


@pytest.fixture(scope="module")
def programs() -> None:
    """Have Apache's programs; takes no time when they are there."""
    subprocess.run([HERE / "setup.sh"], check=True, timeout=SETUP_TIMEOUT_S)


@pytest.fixture(scope="module")
def apache(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApachePair]:
    """Apache's broker and name server."""
    pair = ApachePair(tmp_path_factory.mktemp("apache"))
    pair.start()
    yield pair
    pair.stop()


@pytest.fixture(params=["namesrv", "broker"])
def mq(request: pytest.FixtureRequest, apache: ApachePair) -> Iterator[Client]:
    """A client of Apache's broker, by both ways."""
    address = apache.namesrv if request.param == "namesrv" else f"broker:{apache.address}"
    with connect(address) as client:
        yield client


@pytest.fixture(scope="module")
def java(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """A process with Apache's Java client."""
    driver = start_driver("java-5.5.0", tmp_path_factory.mktemp("java"))
    yield driver
    driver.stop()


def test_apache_broker(mq: Client) -> None:
    """Topics, every form of sending, groups, places."""
    topic = new_topic(mq)
    assert topic in mq.topics()
    one = mq.send(topic, b"one", tags="a", keys=["k"], properties={"x": "y"})
    many = mq.send_many(topic, [b"%d" % number for number in range(500)])
    large = mq.send(topic, b"z" * (4 * MiB))
    with mq.producer(topic) as producer:
        posted = [producer.post(b"p%d" % number) for number in range(200)]
        rows = producer.post_many(np.zeros((50, 8), np.uint8))
    results = [one, *many, large, *(ticket.result() for ticket in posted), *rows.result()]
    assert len({result.offset_message_id for result in results}) == 752
    places = {(result.queue_id, result.queue_offset): result for result in results}
    with mq.subscribe(topic, group=new_name("G")) as consumer:
        got = take(consumer, 752)
        assert consumer.poll(0.5) is None
        consumer.commit()
    for message in got:
        result = places[message.queue_id, message.queue_offset]
        assert message.message_id == result.message_id
        assert message.offset_message_id == result.offset_message_id
        assert message.physical_offset == result.physical_offset
    bodies = Counter(message.body for message in got)
    assert bodies[b"z" * (4 * MiB)] == bodies[b"one"] == 1
    assert bodies[bytes(8)] == 50
    (first,) = [message for message in got if message.body == b"one"]
    assert (first.tags, first.keys, first.properties["x"]) == ("a", ["k"], "y")
    ends = {queue: mq.offsets(queue)[1] for queue in mq.queues(topic)}
    assert sum(ends.values()) == 752
    mq.delete_topic(topic)
    with pytest.raises(TopicNotFound):
        mq.queues(topic)


def test_apache_groups(mq: Client) -> None:
    """Take-over of a closed member, offsets that stay, tags, and a place by time."""
    topic, group = new_topic(mq), new_name("G")
    mq.send_many(topic, [b"%d" % number for number in range(100)], tags="a")
    with mq.subscribe({topic: "a"}, group=group) as consumer:
        take(consumer, 100)
    with mq.subscribe({topic: "a"}, group=group) as one:
        with mq.subscribe({topic: "a"}, group=group) as two:
            eventually(
                "two queues each",
                lambda: len(one.assignment()) == len(two.assignment()) == 2,
                timeout_s=PATIENCE_S,
            )
        eventually("all four", lambda: len(one.assignment()) == 4, timeout_s=PATIENCE_S)
        mq.send(topic, b"unwanted", tags="b")
        mq.send(topic, b"wanted", tags="a")
        assert take(one, 1)[0].body == b"wanted"
        queue = one.assignment()[0]
        assert one.seek_to_time(queue, 0) == 0


def test_a_topic_is_made_by_its_first_message(mq: Client) -> None:
    topic = new_name()
    mq.send(topic, b"first")
    with mq.subscribe(topic, group=new_name("G")) as consumer:
        assert take(consumer, 1)[0].body == b"first"


@pytest.mark.parametrize("kind", ["apache", "shmq"])
def test_java_and_ours_divide_a_group(
    kind: str, java: Driver, request: pytest.FixtureRequest
) -> None:
    """Each message comes once to one of them, and who stays takes over from who leaves."""
    broker: ApachePair | LiveBroker = request.getfixturevalue(
        {"apache": "apache", "shmq": "live"}[kind]
    )
    with connect(broker.namesrv) as mq:
        topic, group = new_topic(mq), new_name("G")
        theirs = java.push(broker.namesrv, group, {topic: "*"})
        ours = mq.subscribe(topic, group=group)
        got: Counter[str] = Counter()
        thread = threading.Thread(
            target=lambda: got.update(message.body.decode() for message in ours), daemon=True
        )
        thread.start()
        eventually(
            "two queues each",
            lambda: len(ours.assignment()) == 2 and len(theirs.assigned(topic)) == 2,
            timeout_s=PATIENCE_S,
        )
        held = {queue.queue_id for queue in ours.assignment()}
        assert held | theirs.assigned(topic) == {0, 1, 2, 3}
        shared = send_to_all(mq, topic, "shared")
        await_all(shared, lambda: [*got.elements(), *(m.text for m in theirs.inbox)])
        theirs.stop()
        eventually("all four", lambda: len(ours.assignment()) == 4, timeout_s=PATIENCE_S)
        alone = send_to_all(mq, topic, "alone")
        eventually("they come", lambda: set(alone) <= set(got), timeout_s=PATIENCE_S)
        back = java.push(broker.namesrv, group, {topic: "*"})
        eventually("two again", lambda: len(ours.assignment()) == 2, timeout_s=PATIENCE_S)
        ours.close()
        thread.join(PATIENCE_S)
        eventually("Java has all", lambda: len(back.assigned(topic)) == 4, timeout_s=PATIENCE_S)
        last = send_to_all(mq, topic, "last")
        texts: Callable[[], list[str]] = lambda: [message.text for message in back.inbox]  # noqa: E731
        eventually("they come", lambda: set(last) <= set(texts()), timeout_s=PATIENCE_S)
        # What ours had in hand when it was closed may come once more.
        assert len(set(texts()) - set(last)) <= 1
        back.stop()


def send_to_all(mq: Client, topic: str, name: str) -> list[str]:
    """Ten messages to each of four queues; their texts."""
    texts = [f"{name} {number}" for number in range(40)]
    for number, text in enumerate(texts):
        mq.send(topic, text.encode(), queue=number % 4)
    return texts


def await_all(wanted: list[str], got: Callable[[], list[str]]) -> None:
    """Wait until each of these came, and check that it came once."""
    eventually("all come", lambda: set(wanted) <= set(got()), timeout_s=PATIENCE_S)
    assert sorted(text for text in got() if text in wanted) == sorted(wanted)


def test_java_reads_ours_and_we_read_java(java: Driver, live: LiveBroker) -> None:
    """Bodies, properties, ids and places are the same on both sides, compressed ones too."""
    with connect(live.namesrv) as mq:
        topic = new_topic(mq, queues=1)
        ours = [
            mq.send(topic, b"plain", tags="a", keys=["k1", "k2"], properties={"größe": "1"}),
            mq.send(topic, b"x" * 10_000),
            *mq.send_many(topic, [b"in a batch", b"in it too"], tags="b"),
        ]
        producer = java.producer(live.namesrv)
        theirs = producer.send(
            [
                Message(topic=topic, body=b"java", tags="j", keys="k3", properties={"p": "q"}),
                Message(topic=topic, body=b"y" * 10_000),
            ]
        )
        results = [
            *((r.message_id, r.offset_message_id, r.queue_offset) for r in ours),
            *((r.msg_id, r.offset_msg_id, r.queue_offset) for r in theirs),
        ]
        reader = java.push(live.namesrv, new_name("G"), {topic: "*"})
        inbox = sorted(reader.wait(6), key=lambda message: message.queue_offset)
        with mq.subscribe(topic, group=new_name("G")) as consumer:
            messages = take(consumer, 6)
        for result, told, message in zip(results, inbox, messages, strict=True):
            assert (told.uniq_key, told.offset_msg_id, told.queue_offset) == result
            mine = (message.message_id, message.offset_message_id, message.queue_offset)
            assert mine == result
            assert told.length == len(message.body)
            properties = {key: told.properties[key] for key in told.properties.keys() - OF_JAVA}
            assert (told.tags, properties) == (message.tags, message.properties)
            assert (told.keys or "") == " ".join(message.keys)
            assert told.physical_offset == message.physical_offset
            assert told.born_timestamp == message.born_timestamp
            assert told.store_timestamp == message.store_timestamp
        assert [message.body for message in messages] == [
            b"plain", b"x" * 10_000, b"in a batch", b"in it too", b"java", b"y" * 10_000,
        ]  # fmt: skip
        reader.stop()
        producer.stop()
