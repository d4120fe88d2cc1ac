"""µs for 4096 records: their keys found in the log, and put into an index file."""

from __future__ import annotations

from types import ModuleType
from typing import Any, Final

import numpy as np
import pytest

from bench.load import Benchmark, note
from shmq.kernels import indexing, indexing_plain
from shmq.layout import indexfile, record
from shmq.layout.indexfile import IndexHeader
from shmq.layout.record import Record

COUNT: Final = 4096
SLOTS, ENTRIES = 5_000_000, 20_000
UNIQUE: Final = b"UNIQ_KEY\x01AC11000200002A9F%016X\x02WAIT\x01true\x02"
KINDS: Final = (b"WAIT\x01true\x02", UNIQUE, UNIQUE + b"KEYS\x01order-%d\x02TAGS\x01t\x02")
KEY_COUNTS: Final = (0, 1, 3)
KIND = pytest.mark.parametrize("kind", range(3), ids=["no keys", "a unique key", "three keys"])
MODULES = pytest.mark.parametrize("module", [indexing, indexing_plain], ids=["kernel", "plain"])


def log_of(kind: int) -> bytes:
    """Records of 1 KiB with properties of this kind."""
    data = bytearray()
    for number in range(COUNT):
        properties = KINDS[kind]
        one = Record(
            topic="TopicTest",
            body=b"b" * 1024,
            properties=properties % ((number,) * properties.count(b"%")),
            physical_offset=len(data),
            store_timestamp=1_700_000_000_000 + number,
        )
        data += record.encode(one)
    return bytes(data)


@MODULES
@KIND
@pytest.mark.benchmark(group="keys_of, 4096 records")
def test_keys_of(benchmark: Benchmark, module: ModuleType, kind: int) -> None:
    """µs for one call over 4096 records of 1 KiB."""
    data = log_of(kind)
    rows = np.zeros((module.ROWS_MIN, 3), dtype=np.int64)
    count, end, _, _ = benchmark(lambda: module.keys_of(data, 0, 0, len(data), 1 << 30, rows))
    assert (count, end) == (COUNT * KEY_COUNTS[kind], len(data))
    note(benchmark, unit="record", count=COUNT)


@MODULES
@pytest.mark.benchmark(group="put, 4096 keys")
def test_put(benchmark: Benchmark, module: ModuleType) -> None:
    """µs for one call with 4096 keys, into a file with the slots of a real one."""
    file = bytearray(indexfile.file_size(slot_count=SLOTS, entry_count=ENTRIES))
    header = indexfile.encode_header(IndexHeader())
    numbers = np.arange(COUNT, dtype=np.int64)
    rows = np.stack([numbers * 7_919_317 % 2**31, numbers * 1200, numbers], axis=1)

    def start_again() -> tuple[tuple[Any, ...], dict[str, Any]]:
        file[: len(header)] = header
        return (file, SLOTS, ENTRIES, rows, 0, COUNT), {}

    done = benchmark.pedantic(
        module.put, setup=start_again, rounds=200 if module is indexing else 3
    )
    assert done == COUNT
    found = indexfile.decode_header(file)
    assert (found.entry_count, found.end_timestamp) == (COUNT + 1, COUNT - 1)
    note(benchmark, unit="key", count=COUNT)
