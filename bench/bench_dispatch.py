"""µs for 4096 records of 64 queues: from descriptors into the hot rings of the consumequeues."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from bench.load import Benchmark, note
from shmq.kernels import dispatch, dispatch_plain
from shmq.kernels.dispatch import Dispatcher
from shmq.layout.control import DESCRIPTOR
from shmq.layout.cqentry import ENTRY

COUNT = 4096
QUEUES = 64
HOT_ENTRIES = 1024
RECORD_SIZE = 300


@pytest.mark.parametrize("module", [dispatch, dispatch_plain], ids=["kernel", "plain"])
@pytest.mark.benchmark(group="Dispatcher.dispatch, 4096 records")
def test_dispatch(benchmark: Benchmark, module: ModuleType) -> None:
    """µs for one call over 4096 descriptors that are spread over 64 queues."""
    numbers = np.arange(COUNT)
    descriptors = np.zeros(COUNT, dtype=DESCRIPTOR)
    descriptors["physical_offset"] = numbers * RECORD_SIZE
    descriptors["size"] = RECORD_SIZE
    descriptors["slot"] = numbers % QUEUES
    descriptors["queue_offset"] = numbers // QUEUES
    descriptors["tags_code"] = numbers
    hot = np.ones(QUEUES * HOT_ENTRIES, dtype=ENTRY)
    columns = {
        name: np.zeros(QUEUES, dtype=np.int64) for name in ("max_offsets", "hot_starts", "filed")
    }
    marks = np.zeros(QUEUES, dtype=np.uint8)

    def start_again() -> tuple[tuple[Any, ...], dict[str, Any]]:
        for column in columns.values():
            column[:] = 0
        dispatcher: Dispatcher = module.Dispatcher(
            descriptors=descriptors.view(np.uint8),
            hot=hot.view(np.uint8),
            hot_entries=HOT_ENTRIES,
            marks=marks,
            **columns,
        )
        return (dispatcher,), {}

    done = benchmark.pedantic(
        lambda dispatcher: dispatcher.dispatch(0, COUNT, COUNT * RECORD_SIZE),
        setup=start_again,
        rounds=200 if module is dispatch else 10,
    )
    assert done == COUNT
    assert (columns["max_offsets"] == COUNT // QUEUES).all()
    entries = hot.reshape(QUEUES, HOT_ENTRIES)[:, : COUNT // QUEUES]
    assert (entries["tags_code"].T.reshape(-1) == numbers).all()
    assert (entries["physical_offset"].T.reshape(-1) == numbers * RECORD_SIZE).all()
    note(benchmark, unit="record", count=COUNT)
