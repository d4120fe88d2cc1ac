"""shmq: arrays of bodies into a producer's window, batches of views out of a subscription."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import shmq
from bench.peers.load import WORD, pool
from bench.peers.python.agent import Body, Options, main

WINDOW_MAX = 4096
WINDOW_BYTES = 16 << 20
BATCH = 1024
POLL_S = 0.1
SPIN_S = 0.0001
FLUSH_S = 60.0


class Sender:
    """post_many for batches, post for one message."""

    def __init__(self, options: Options) -> None:
        self._client = shmq.connect(options.address, spin=SPIN_S if options.spin else 0.0)
        window = min(WINDOW_MAX, WINDOW_BYTES // options.size)
        self._producer = self._client.producer(options.stream, window=window, group="peers")
        self._pool = pool(options.size)

    def send_pool(self, bodies: list[bytes]) -> None:
        """The whole pool, as the array that it is."""
        assert len(bodies) == len(self._pool)
        self._producer.post_many(self._pool)

    def send_one(self, body: bytes) -> None:
        """One message."""
        self._producer.post(body)

    def flush(self) -> None:
        """Wait for all results; an error of one is raised here."""
        self._producer.flush(timeout=FLUSH_S)

    def close(self) -> None:
        """Close all."""
        self._producer.close()
        self._client.close()


class Views(Sequence[Body]):
    """The bodies of a batch where they are; added up by one call."""

    def __init__(self, batch: Any) -> None:
        self._data, self._starts, self._sizes = batch.arrays()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> Any:
        start = int(self._starts[index])
        return memoryview(self._data)[start : start + int(self._sizes[index])]

    def word_sum(self) -> int:
        """The words of all bodies, added."""
        size, step = int(self._sizes[0]), np.diff(self._starts)
        even = (self._sizes == size).all() and (step == step[:1]).all() and not size % WORD.itemsize
        if not even:
            return sum(int(np.frombuffer(body, dtype=WORD).sum()) for body in self)
        rows = np.ndarray(
            (len(self), size // WORD.itemsize),
            dtype=WORD,
            buffer=self._data,
            offset=int(self._starts[0]),
            strides=(int(step[0]) if len(step) else size, WORD.itemsize),
        )
        return int(rows.sum())


class Receiver:
    """Batches of views; one is acknowledged when the next is asked for, after it was read."""

    def __init__(self, options: Options) -> None:
        self._client = shmq.connect(options.address, spin=SPIN_S if options.spin else 0.0)
        self._consumer = self._client.subscribe(
            options.stream, group=f"peers_{options.stream}", start="first", batch=BATCH
        )
        self._batch: Any = None

    def receive(self) -> Sequence[Body]:
        """The bodies of the next batch."""
        if self._batch is not None:
            self._batch.ack()
        self._batch = self._consumer.poll(POLL_S)
        if self._batch is None:
            return []
        return Views(self._batch)

    def close(self) -> None:
        """Close all."""
        if self._batch is not None:
            self._batch.ack()
        self._consumer.close()
        self._client.close()


if __name__ == "__main__":
    main(Sender, Receiver)
