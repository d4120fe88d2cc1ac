"""Batches over shared memory: what they say without a copy, what they show when looked at."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import shmq
from shmq.client import Batch, Client
from shmq.client.lazybatch import LazyBatch
from shmq.errors import ConfigError, Refused
from shmq.testing import PrivateBroker
from shmq.units import KiB, MiB

WAIT_S = 30.0
_names = itertools.count()


@pytest.fixture
def mq(shmq_shared_broker: PrivateBroker) -> Iterator[Client]:
    with shmq_shared_broker.connect(timeout=WAIT_S) as client:
        yield client


def filled(mq: Client, bodies: list[bytes], tags: str | None = None) -> str:
    """A topic of one queue with these bodies."""
    topic = f"Batches{next(_names)}"
    mq.create_topic(topic, queues=1)
    with mq.producer(topic, window=max(256, len(bodies))) as producer:
        producer.post_many(bodies, tags=tags).result(WAIT_S)
    return topic


def first_batch(mq: Client, topic: str, count: int, tags: str = "*") -> Batch:
    """All of a topic in one batch."""
    with mq.subscribe(topic, group=f"g-{topic}", batch=1024, tags=tags) as consumer:
        batch = consumer.poll(WAIT_S)
        assert batch is not None
        while len(batch) < count:  # It began while they were still being stored.
            consumer.seek(batch.queue, 0)
            batch = consumer.poll(WAIT_S)
            assert batch is not None
        return batch


BODIES = [b"%03d" % number * (1 + number % 50) for number in range(300)]


def test_places_are_known_without_a_look(mq: Client) -> None:
    topic = filled(mq, BODIES, tags="A")
    batch = first_batch(mq, topic, 300)
    assert isinstance(batch, LazyBatch)
    assert batch.offsets.tolist() == list(range(300))
    assert np.array_equal(batch.physical_offsets[1:], (batch.physical_offsets + batch.sizes)[:-1])
    assert set(batch.tags_codes.tolist()) == {65}
    assert batch._starts is None, "nothing was copied"
    assert [message.body for message in batch] == BODIES
    assert batch[-1].body == BODIES[-1]
    assert [message.queue_offset for message in batch.tail(290)] == list(range(290, 300))
    assert np.all(np.diff(batch.store_timestamps) >= 0)


def test_arrays(mq: Client) -> None:
    batch = first_batch(mq, filled(mq, BODIES), 300)
    data, starts, sizes = batch.arrays()
    assert [
        data[at : at + size].tobytes() for at, size in zip(starts, sizes, strict=True)
    ] == BODIES
    assert [bytes(view) for view in batch.bodies()] == BODIES


def test_data_frame(mq: Client) -> None:
    batch = first_batch(mq, filled(mq, BODIES, tags="B"), 300)
    frame = batch.to_pandas()
    assert frame["body"].tolist() == BODIES
    assert frame["queue_offset"].tolist() == list(range(300))
    assert set(frame["tags"]) == {"B"}
    assert str(frame["store_timestamp"].dtype).startswith("datetime64")


def test_arrow(mq: Client) -> None:
    batch = first_batch(mq, filled(mq, BODIES), 300)
    found = batch.to_arrow()
    assert found.column("body").to_pylist() == BODIES
    assert found.column("queue_offset").to_pylist() == list(range(300))
    assert found.column("physical_offset").to_pylist() == batch.physical_offsets.tolist()
    found.validate(full=True)


def test_compressed_bodies_are_opened(shmq_shared_broker: PrivateBroker, mq: Client) -> None:
    topic = f"Batches{next(_names)}"
    mq.create_topic(topic, queues=1)
    bodies = [b"plain", b"x" * 5000]
    with shmq.connect(shmq_shared_broker.tcp_address, timeout=WAIT_S, compress=1000) as far:
        for body in bodies:
            far.send(topic, body)
    batch = first_batch(mq, topic, 2)
    assert len(batch.arrays().data[: batch.arrays().sizes[1]]) < 5000
    assert batch.to_arrow().column("body").to_pylist() == bodies
    assert batch.to_pandas()["body"].tolist() == bodies


def test_batches_of_pulls_have_the_same_forms(
    shmq_shared_broker: PrivateBroker, mq: Client
) -> None:
    topic = filled(mq, BODIES)
    with shmq.connect(f"{shmq_shared_broker.address}?copy=1", timeout=WAIT_S) as copies:
        batch = first_batch(copies, topic, 1)
        data, starts, sizes = batch.arrays()
        got = [data[at : at + size].tobytes() for at, size in zip(starts, sizes, strict=True)]
        assert got == BODIES[: len(batch)]
        assert batch.to_arrow().column("body").to_pylist() == got


def test_a_form_whose_package_is_missing(mq: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = first_batch(mq, filled(mq, [b"x"]), 1)
    for name, form in (("pandas", batch.to_pandas), ("pyarrow", batch.to_arrow)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=f"{name} is not installed.*pip install {name}"):
            form()


def test_tags_are_compared_by_their_text(mq: Client) -> None:
    """`Aa` and `BB` have one hash code."""
    topic = f"Batches{next(_names)}"
    mq.create_topic(topic, queues=1)
    with mq.producer(topic) as producer:
        producer.post_many([b"1"] * 5, tags="Aa")
        producer.post_many([b"2"] * 5, tags="BB")
        producer.post_many([b"3"] * 5, tags="C")
        producer.flush(WAIT_S)
    with mq.subscribe(topic, group=f"g-{topic}", tags="BB || C") as consumer:
        got = [
            message.body for _, message in zip(range(10), consumer.messages(WAIT_S), strict=False)
        ]
    assert got == [b"2"] * 5 + [b"3"] * 5


def test_a_batch_outlives_its_pages(tmp_path: Any) -> None:
    """What was not looked at while it was hot comes from the files, and is the same."""
    settings = {"hotPoolSize": 20 * MiB, "maxMessageSize": MiB, "hotPageSize": 64 * KiB}
    with PrivateBroker(tmp_path, **settings) as broker, broker.connect(timeout=WAIT_S) as mq:
        topic = filled(mq, BODIES)
        kept = first_batch(mq, topic, 300)
        other = filled(mq, [b"x" * 1000])
        rows = np.zeros((1000, 4000), dtype=np.uint8)
        with mq.producer(other, window=2000) as producer:
            for _ in range(12):
                producer.post_many(rows)
            producer.flush(WAIT_S)
        assert isinstance(kept, LazyBatch)
        assert kept._starts is None
        assert [message.body for message in kept] == BODIES


def test_a_batch_of_deleted_messages_raises(tmp_path: Any) -> None:
    settings = {"hotPoolSize": 20 * MiB, "maxMessageSize": MiB, "hotPageSize": 64 * KiB}
    with PrivateBroker(tmp_path, **settings) as broker, broker.connect(timeout=WAIT_S) as mq:
        topic = filled(mq, BODIES)
        kept = first_batch(mq, topic, 300)
        rows = np.zeros((1000, 4000), dtype=np.uint8)
        with mq.producer(topic, window=2000) as producer:
            for _ in range(12):
                producer.post_many(rows)
            producer.flush(WAIT_S)
        (tmp_path / "store" / "commitlog" / ("0" * 20)).unlink()
        with pytest.raises(Refused, match="not kept any more"):
            kept.data  # noqa: B018  the look is the test
