"""takes: kernel and twin give the same for any bytes, and the right thing for sound ones."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.kernels import takes, takes_plain
from shmq.layout.cqentry import ENTRY_SIZE
from shmq.layout.record import BORN_HOST_V6, STORE_HOST_V6, Record, encode

NUMBERS = st.integers(-3, 90) | st.sampled_from([2**63 - 1, -(2**63), 2**62, 2**40])


def both(name: str, *arguments: Any) -> Any:
    """Result of kernel and twin, after they were compared."""
    results: list[Any] = []
    for module in (takes, takes_plain):
        try:
            result = getattr(module, name)(*arguments)
        except ValueError as error:
            result = str(error)
        results.append(result)
    assert results[0] == results[1]
    return results[0]


@given(
    entries=st.lists(st.tuples(NUMBERS, st.integers(-2, 40)), min_size=1, max_size=5),
    first=NUMBERS,
    count=st.integers(-1, 70),
    pool=st.binary(min_size=1, max_size=64),
    size_max=st.integers(-1, 100),
)
def test_take_is_the_same_for_any_entries(
    entries: list[tuple[int, int]], first: int, count: int, pool: bytes, size_max: int
) -> None:
    hot = b"".join(struct.pack(">qiq", *entry, 7) for entry in entries)
    assert len(hot) == len(entries) * ENTRY_SIZE
    data, done, begin = both("take", hot, first, count, pool, size_max)
    assert len(data) <= max(size_max, 0)
    if done:
        assert begin == entries[first % len(entries)][0]
        assert data.startswith((pool * 2)[begin % len(pool) :][: entries[first % len(entries)][1]])


def test_take_goes_on_over_both_rings_ends() -> None:
    pool = bytes(range(10))
    hot = (
        struct.pack(">qiq", 8, 4, 0) + struct.pack(">qiq", 12, 3, 0) + struct.pack(">qiq", 5, 3, 0)
    )
    data, done, begin = both("take", hot, 5, 3, pool, 100)
    assert (bytes(data), done, begin) == (bytes([5, 6, 7, 8, 9, 0, 1, 2, 3, 4]), 3, 5)


@given(data=st.binary(max_size=300), positions=st.lists(NUMBERS, max_size=3))
def test_body_places_are_the_same_for_any_bytes(data: bytes, positions: list[int]) -> None:
    found = []
    for module in (takes, takes_plain):
        starts, sizes = (np.zeros(len(positions), dtype=np.int64) for _ in range(2))
        try:
            module.body_places(data, np.array(positions, dtype=np.int64), starts, sizes)
        except ValueError as error:
            found.append(str(error))
        else:
            found.append(f"{starts.tolist()} {sizes.tolist()}")
    assert found[0] == found[1]


@pytest.mark.parametrize("born_v6", [0, BORN_HOST_V6])
@pytest.mark.parametrize("store_v6", [0, STORE_HOST_V6])
def test_body_places_of_records(born_v6: int, store_v6: int) -> None:
    first, second = (
        encode(
            Record(
                topic="T",
                body=body,
                sys_flag=born_v6 | store_v6,
                born_host=bytes(16 if born_v6 else 4),
                store_host=bytes(16 if store_v6 else 4),
            )
        )
        for body in (b"abc", b"")
    )
    data = first + second
    starts, sizes = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=np.int64)
    positions = np.array([0, len(first)], dtype=np.int64)
    takes.body_places(data, positions, starts, sizes)
    assert [data[at : at + size] for at, size in zip(starts, sizes, strict=True)] == [b"abc", b""]
