"""The client library over shared memory: when it uses it, when not, and what it does without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import shmq
from shmq.client import Client, Message
from shmq.errors import SendFailed
from tests.crash.live import Broker
from tests.crash.peer import eventually
from tests.native.conftest import NewBroker

TIMEOUT_S = 30.0
ROOT = Path(__file__).parents[2]
LONE_PRODUCER = """
import sys, shmq
with shmq.connect(sys.argv[1]) as mq:
    mq.send("Lone", b"x")
    mq.send_many("Lone", [b"y"] * 10)
    with mq.producer("Lone") as producer:
        producer.post(b"z")
    assert mq.core.link.session.writer.submitted >= 2, "not by shared memory"
assert "numpy" not in sys.modules, "a producer needs no numpy"
"""


def connect(broker: Broker, query: str = "") -> Client:
    """A client over the Unix socket."""
    return shmq.connect(f"unix:{broker.socket_path}{query}", timeout=TIMEOUT_S)


def submitted(mq: Client) -> int:
    """Entries that went through the ring."""
    link = mq.core.link
    return 0 if link is None or link.session is None else link.session.writer.submitted


def bodies(mq: Client, topic: str, count: int) -> list[bytes]:
    """So many messages of a topic of one queue, by a consumer."""
    with mq.subscribe(topic, group=f"G-{topic}") as consumer:
        got = []
        for message in consumer.messages(TIMEOUT_S):
            got.append(message.body)
            if len(got) == count:
                return got
    raise AssertionError(f"{len(got)} of {count} messages")


def test_a_producer_needs_no_numpy(shared: Broker) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LONE_PRODUCER, f"unix:{shared.socket_path}"],
        cwd=ROOT,
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_what_goes_through_the_ring(shared: Broker) -> None:
    with connect(shared) as mq:
        mq.create_topic("Ring", queues=1)
        for number in range(100):
            mq.send("Ring", b"%d" % number)
        assert submitted(mq) == 100
        results = mq.send_many("Ring", [b"%d" % number for number in range(100, 400)])
        assert [one.queue_offset for one in results] == list(range(100, 400))
        assert submitted(mq) < 110, "batches are one entry each"
        assert bodies(mq, "Ring", 400) == [b"%d" % number for number in range(400)]


def test_copies_on_request(shared: Broker) -> None:
    with connect(shared, "?copy=1") as mq:
        mq.send("Copy", b"x")
        assert mq.core.link is None


def test_copies_when_the_broker_gives_no_memory(new_broker: NewBroker) -> None:
    with connect(new_broker(nativeEnable=False)) as mq:
        mq.create_topic("Closed", queues=1)
        mq.send("Closed", b"x")
        assert submitted(mq) == 0
        assert bodies(mq, "Closed", 1) == [b"x"]


def test_copies_when_messages_are_synced(new_broker: NewBroker) -> None:
    """The writer answers before the disk has them."""
    with connect(new_broker(flushDiskType="SYNC_FLUSH")) as mq:
        mq.create_topic("Synced", queues=1)
        mq.send("Synced", b"x")
        assert submitted(mq) == 0
        assert bodies(mq, "Synced", 1) == [b"x"]


def test_large_messages_keep_their_place(new_broker: NewBroker) -> None:
    """A body too large for the ring goes by copies, and neither overtakes nor is overtaken."""
    with connect(new_broker(nativeRingSize=65536)) as mq:
        mq.create_topic("Large", queues=1)
        sent = []
        with mq.producer("Large") as producer:
            for number in range(60):
                size = 100_000 if number % 7 == 3 else 100
                sent.append(b"%d" % number + bytes(size))
                producer.post(sent[-1])
        assert 0 < submitted(mq) < 60
        assert bodies(mq, "Large", 60) == sent


def test_a_lost_session_is_opened_again(new_broker: NewBroker) -> None:
    broker = new_broker(serveProcessNums=1)
    with connect(broker) as mq:
        mq.create_topic("Again", queues=1)
        mq.send("Again", b"0")
        for number in range(1, 4):
            name = next(title for title in broker.roles() if title.startswith("serve"))
            pid = broker.kill_role(name)
            mq.send("Again", b"%d" % number)
            broker.await_other(name, pid)
        eventually("shared memory again", lambda: _sent_by_ring(mq), timeout_s=10)
        got = bodies(mq, "Again", 4)
        assert got[0] == b"0"


def _sent_by_ring(mq: Client) -> bool:
    mq.send("Again", b"more")
    return submitted(mq) > 0


def test_what_the_broker_refuses_is_refused(shared: Broker) -> None:
    with connect(shared) as mq:
        with pytest.raises(SendFailed):
            mq.send("SCHEDULE_TOPIC_XXXX", b"x")
        with pytest.raises(SendFailed):
            mq.send(Message("Refused", b"x", delay_level=3))
