"""µs for passes over bytes of the log: gather of 32 records, walk over 1000, CRC of one body."""

from __future__ import annotations

import zlib
from types import ModuleType

import numpy as np
import pytest

from bench.load import SIZES, Benchmark, note, one_record
from shmq.kernels import crc, crc_plain, gather, gather_plain, walk, walk_plain
from shmq.units import KiB

WALKED = 1000
PULLED = 32


@pytest.mark.parametrize("module", [gather, gather_plain], ids=["kernel", "plain"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.benchmark(group="gather, 32 records")
def test_gather(benchmark: Benchmark, size: int, module: ModuleType) -> None:
    """µs to copy the 32 records of one pull out of hot pages, every fourth of the log."""
    one = one_record(size)
    pool = np.frombuffer(one * (4 * PULLED), dtype=np.uint8).copy()
    positions = np.arange(PULLED, dtype=np.int64) * 4 * len(one)
    sizes = np.full(PULLED, len(one), dtype=np.int64)
    out = bytearray(PULLED * len(one))
    end = benchmark(lambda: module.gather(pool, -1, positions, sizes, out, 0))
    assert end == len(out)
    assert bytes(out) == one * PULLED
    note(benchmark, unit="record", count=PULLED)


@pytest.mark.parametrize("module", [walk, walk_plain], ids=["kernel", "plain"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("checked", [True, False], ids=["checked", "unchecked"])
@pytest.mark.benchmark(group="walk, 1000 records")
def test_walk(benchmark: Benchmark, size: int, module: ModuleType, *, checked: bool) -> None:
    """µs for 1000 records as recovery reads them, with or without their CRC."""
    log = one_record(size) * WALKED
    rows = np.zeros((WALKED + 1, 10), dtype=np.int64)
    count, position, stop = benchmark(lambda: module.walk(log, 0, rows, checked=checked))
    assert (count, position, stop) == (WALKED, len(log), walk.STOP_END)
    assert (rows[:WALKED, 1] == len(log) // WALKED).all()
    note(benchmark, unit="record", count=WALKED)


@pytest.mark.parametrize("module", [crc, crc_plain], ids=["kernel", "zlib"])
@pytest.mark.parametrize("size", [*SIZES, 64 * KiB])
@pytest.mark.benchmark(group="crc32 of one body")
def test_crc(benchmark: Benchmark, size: int, module: ModuleType) -> None:
    """µs for the CRC-32 of one body of 128 B, 1 KiB or 64 KiB, called from Python."""
    body = bytes(number * 7 % 256 for number in range(size))
    assert benchmark(lambda: module.crc32(body)) == zlib.crc32(body)
    note(benchmark, unit="byte", count=size)
