"""µs for one batch of the writer, 1 or 256 records of 128 B or 1 KiB, into pages that are mapped.

Checks, patches and copies each record, and writes its descriptor and completion; no file, no words.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from bench.load import BATCH, SIZES, Benchmark, Ring, note, one_record
from shmq.kernels import append, append_plain
from shmq.kernels.append import Appender
from shmq.layout import record, ring
from shmq.layout.control import DESCRIPTOR
from shmq.layout.queuetable import ROW
from shmq.units import MiB

POOL_SIZE = 8 * MiB
DESCRIPTORS = 1024
QUEUES = 4


@pytest.mark.parametrize("module", [append, append_plain], ids=["kernel", "plain"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, BATCH])
@pytest.mark.benchmark(group="Appender.append")
def test_append(benchmark: Benchmark, count: int, size: int, module: ModuleType) -> None:
    """µs for one call that appends a batch, always the same entries, to a log that grows."""
    source = Ring()
    source.fill([one_record(size, queue_id=number % QUEUES) for number in range(count)])
    pool = np.ones(POOL_SIZE, dtype=np.uint8)
    descriptors = np.ones(DESCRIPTORS, dtype=DESCRIPTOR)
    rows = np.zeros(QUEUES, dtype=ROW)
    rows["queue_id"] = np.arange(QUEUES)
    appender: Appender = module.Appender(
        pool=pool,
        descriptors=descriptors.view(np.uint8),
        next_offsets=np.zeros(QUEUES, dtype=np.int64),
        rows=rows.view(np.uint8),
        file_size=1024 * MiB,
        record_size_max=4 * MiB,
        append_offset=0,
        descriptor_count=0,
    )
    number = 0
    appender.set_ring(
        number, source.entries.view(np.uint8), source.completions.view(np.uint8), source.data
    )

    def work() -> int:
        return appender.append(
            number,
            0,
            count,
            appender.append_offset + POOL_SIZE,
            appender.descriptor_count + DESCRIPTORS,
            QUEUES,
            1_700_000_000_123,
        )

    assert benchmark(work) == count
    done = source.completions[:count]
    assert (done["status"] == ring.STATUS_OK).all()
    last = int(done[-1]["physical_offset"])
    at = last % POOL_SIZE
    length = int(source.entries[count - 1]["data_size"])
    stored = pool[np.arange(at, at + length) % POOL_SIZE].tobytes()
    made = record.decode(stored)
    assert (made.physical_offset, len(made.body)) == (last, size)
    assert made.queue_offset == done[-1]["queue_offset"]
    assert appender.descriptor_count % count == 0
    note(benchmark, unit="record", count=count)
