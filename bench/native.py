"""What one Python process does by shared memory: `python -m bench.native`.

Posts in every form, then reads of a backlog in every form, against a private broker on a real disk.
Three rounds each; the median counts. Results go to bench/results/. See bench/README.md.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import shmq
from bench.host.measure import commit, machine, write_result
from shmq.kernels.crc import crc32
from shmq.testing import PrivateBroker
from shmq.units import MiB

ROUNDS = 3
BATCH = 256
FLUSH_S = 60.0
SETTINGS = {"hotPoolSize": 752 * MiB, "mappedFileSizeCommitLog": 1024 * MiB}
POSTS = (
    # form, bytes, messages of a round, window
    ("post_many, array", 1024, 500_000, 4096),
    ("post_many, array", 128, 2_000_000, 4096),
    ("post_many, list", 1024, 250_000, 4096),
    ("post", 1024, 200_000, 256),
    ("post, linger", 1024, 300_000, 4096),
)
READS = ("untouched", "CRC of all bytes", "every message and body")


def post(producer: shmq.Producer, form: str, size: int, count: int) -> None:
    """Post so many messages in one form, and wait for all."""
    rows = np.random.default_rng(1).integers(0, 256, (BATCH, size), dtype=np.uint8)
    if form == "post_many, array":
        for _ in range(count // BATCH):
            producer.post_many(rows)
    elif form == "post_many, list":
        bodies = [row.tobytes() for row in rows]
        for _ in range(count // BATCH):
            producer.post_many(bodies)
    else:
        body, one = rows[0].tobytes(), producer.post
        for _ in range(count):
            one(body)
    producer.flush(FLUSH_S)


def look(batch: Any, form: str) -> None:
    """Look at a batch in one form."""
    if form == "CRC of all bytes":
        crc32(batch.data)
    elif form == "every message and body":
        for message in batch:
            message.body  # noqa: B018  the look is what is measured


def per_second(work: Callable[[], int]) -> float:
    """Median rate over the rounds; `work` gives how many messages it was."""
    rates = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        count = work()
        rates.append(count / (time.perf_counter() - began))
    return round(statistics.median(rates))


def produce(mq: shmq.Client) -> list[dict[str, Any]]:
    """Every form of posting."""
    rows = []
    for number, (form, size, count, window) in enumerate(POSTS):
        topic = f"post{number}"
        mq.create_topic(topic, queues=4)
        linger = 0.01 if "linger" in form else None
        with mq.producer(topic, window=window, linger=linger) as producer:
            post(producer, form, size, count // 10)

            def work(
                producer: shmq.Producer = producer, form: str = form, size: int = size,
                count: int = count,
            ) -> int:  # fmt: skip
                post(producer, form, size, count)
                return count

            rate = per_second(work)
        rows.append({"what": form, "size": size, "window": window, "messages_per_s": rate})
        print("  ", rows[-1], flush=True)
    return rows


def consume(mq: shmq.Client, size: int = 1024, count: int = 400_000) -> list[dict[str, Any]]:
    """Every form of reading a backlog that is in the hot pages."""
    topic = "backlog"
    mq.create_topic(topic, queues=1)
    with mq.producer(topic, window=4096) as producer:
        post(producer, "post_many, array", size, count)
    stored = count // BATCH * BATCH
    rows = []
    for form in READS:
        for batch_max in (256, 1024):
            rates = [read_rate(mq, topic, stored, form, batch_max) for _ in range(ROUNDS)]
            rate = round(statistics.median(rates))
            row = {"what": f"read, {form}", "size": size, "batch": batch_max}
            rows.append(row | {"messages_per_s": rate})
            print("  ", rows[-1], flush=True)
    return rows


def read_rate(mq: shmq.Client, topic: str, stored: int, form: str, batch_max: int) -> float:
    """Messages/s from the first batch on, which waits for the group to be joined."""
    with mq.subscribe(topic, group=f"g{time.time_ns()}", batch=batch_max) as consumer:
        got = first = 0
        began = 0.0
        while got < stored:
            batch = consumer.poll(10)
            if batch is None:
                msg = f"{got} of {stored} messages came"
                raise RuntimeError(msg)
            look(batch, form)
            got += len(batch)
            batch.ack()
            if not first:
                first, began = got, time.perf_counter()
        return (got - first) / (time.perf_counter() - began)


def main() -> None:
    """Measure and write the result."""
    root = Path("/var/tmp")  # noqa: S108  never a memory file system
    facts = {
        "command": " ".join(["python -m bench.native", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(root),
        "settings": SETTINGS,
    }
    with tempfile.TemporaryDirectory(dir=root) as folder:
        rows = []
        for part in (produce, consume):
            with (
                PrivateBroker(Path(folder) / part.__name__, **SETTINGS) as broker,
                broker.connect(timeout=FLUSH_S) as mq,
            ):
                rows += part(mq)
    print("written:", write_result("native", facts, {"table": rows}).name)


if __name__ == "__main__":
    main()
