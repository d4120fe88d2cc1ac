"""Readings of sensors as arrays: posted by thousands, read as batches, summed up by pandas."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

import shmq

READINGS = 20_000
READING = np.dtype([("sensor", "<u4"), ("value", "<f4")])


def post(mq: shmq.Client, topic: str) -> float:
    """A row of bytes for each reading, all in one array; gives the sum of the values."""
    readings = np.zeros(READINGS, dtype=READING)
    readings["sensor"] = np.arange(READINGS) % 16
    readings["value"] = np.linspace(0, 1, READINGS, dtype="f4")
    with mq.producer(topic, window=8192) as producer:
        producer.post_many(readings.view(np.uint8).reshape(READINGS, READING.itemsize))
    return float(readings["value"].sum(dtype="f8"))


def add_up(mq: shmq.Client, topic: str) -> tuple[int, float, dict[int, float]]:
    """Count and sum of all values, and the mean of each sensor."""
    count, parts = 0, []
    with mq.subscribe(topic, group="analytics", batch=1024) as consumer:
        while count < READINGS:
            batch = consumer.poll(timeout=10)
            if batch is None:
                break
            data, starts, _sizes = batch.arrays()
            # One index for every byte of every body: no Python object for a message.
            rows = data[starts[:, None] + np.arange(READING.itemsize)]
            parts.append(rows.copy().view(READING).reshape(-1))
            count += len(batch)
            batch.ack()
    readings = np.concatenate(parts)
    frame = pd.DataFrame({name: readings[name] for name in ("sensor", "value")})
    means = frame.groupby("sensor")["value"].mean()
    return count, float(frame["value"].sum()), {int(key): float(means[key]) for key in means.index}


def main(address: str | None = None) -> tuple[float, int, float, dict[int, float]]:
    """Run it; gives what was sent, and what was found."""
    with shmq.connect(address) as mq:
        mq.create_topic("readings", queues=2)
        sent = post(mq, "readings")
        return sent, *add_up(mq, "readings")


if __name__ == "__main__":
    sent_sum, found_count, found_sum, sensor_means = main(*sys.argv[1:2])
    print(f"{found_count} readings, sum {found_sum:.3f} (sent {sent_sum:.3f})")
    print("mean of sensor 0:", round(sensor_means[0], 4))
