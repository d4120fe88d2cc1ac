"""A producer that changes its memory while the writer reads it."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest

from shmq.kernels import append as append_kernel
from shmq.layout import record
from shmq.layout.record import Record
from shmq.layout.ring import STATUS_BAD_RECORD, STATUS_OK
from tests.property.logs import DESCRIPTORS, QUEUE_IDS, House, Sizes, walked

ROUNDS_MIN = 5000
DEADLINE_S = 50
TORN_MIN = 20
DATA = record.encode(
    Record(topic="Topic", body=b"b" * 300, properties=b"TAGS\x01t\x02", queue_id=QUEUE_IDS[0])
)
PLACES = [0, 1, 2, 3, 7, 15, 36, 39, 55, 71, 84, 86, 87, 200, 388, 389, 394, 395, len(DATA) - 1]


def scribble(memory: mmap.mmap) -> None:
    """Damage one byte after the other, for ever, and make it good again."""
    rng = random.Random(1)  # noqa: S311  not secret
    while True:
        at = rng.choice(PLACES)
        memory[at] = rng.randrange(256)
        memory[at] = DATA[at]


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Memory with one record, which another process changes all the time."""
    shared = mmap.mmap(-1, 4096)
    shared[: len(DATA)] = DATA
    pid = os.fork()
    if pid == 0:
        try:
            scribble(shared)
        finally:
            os._exit(1)
    yield shared
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_only_the_copy_is_believed(memory: mmap.mmap) -> None:
    """Torn reads end as refused records, never as bytes in the log that are no record."""
    sizes = Sizes(pool=8192, file=4096)
    house = House(append_kernel, sizes)
    data = np.frombuffer(memory, dtype=np.uint8)
    house.ring = 1
    house.appender.set_ring(1, house.entries.view(np.uint8), house.completions.view(np.uint8), data)
    house.entries[0]["data_size"] = len(DATA)
    house.entries[0]["record_count"] = 1
    seen = {STATUS_OK: 0, STATUS_BAD_RECORD: 0}
    deadline = time.monotonic() + DEADLINE_S
    rounds = 0
    while rounds < ROUNDS_MIN or seen[STATUS_BAD_RECORD] < TORN_MIN:
        assert time.monotonic() < deadline, seen
        house.append(0, 1, room=sizes.pool, descriptor_room=DESCRIPTORS, stamp=rounds)
        seen[int(house.completions[0]["status"])] += 1
        rounds += 1
    assert len(walked(house.log, sizes)) == seen[STATUS_OK]
    assert seen[STATUS_OK] > 0
    del data
