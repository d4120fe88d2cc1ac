"""What the agents of all languages must agree on: bodies, checksums, cells."""

from __future__ import annotations

import numpy as np
import pytest

from bench.peers.load import (
    END,
    WARM,
    Cell,
    cells,
    flood_sum,
    paced_sum,
    pool,
    pool_count,
    size_text,
    word_sum,
)
from bench.peers.python.agent import marker, paced_body, sum_bodies

MASK = (1 << 64) - 1


def splitmix64(seed: int, number: int) -> int:
    """One word, as the agents in Java, Go and Rust make it."""
    word = (number * 0x9E3779B97F4A7C15 + seed) & MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & MASK
    return word ^ (word >> 31)


@pytest.mark.parametrize("size", [24, 128, 1024, 65536])
def test_pool_holds_the_words_of_splitmix64(size: int) -> None:
    bodies = pool(size)
    assert bodies.shape == (pool_count(size), size)
    words = bodies.reshape(-1).view("<u8")
    for index in (0, 1, size // 8, len(words) - 1):
        assert int(words[index]) == splitmix64(size, index + 1)


def test_no_body_of_a_pool_looks_like_a_marker() -> None:
    for size in (128, 1024, 65536):
        firsts = {int(word) for word in pool(size)[:, :8].copy().view("<u8").reshape(-1)}
        assert not firsts & {WARM, END}
        assert len(firsts) == pool_count(size)


@pytest.mark.parametrize("size", [0, 16, 23, 25, 1025])
def test_pool_refuses_sizes_without_whole_words(size: int) -> None:
    with pytest.raises(ValueError, match="whole ones"):
        pool(size)


def test_pool_count_changes_above_4_kib() -> None:
    assert [pool_count(size) for size in (4088, 4096, 4104)] == [256, 256, 16]


def test_word_sum_wraps() -> None:
    words = np.array([MASK, 2, 5], dtype="<u8")
    assert word_sum(words.view(np.uint8)) == 6


@pytest.mark.parametrize("size", [128, 8192])
def test_flood_sum_is_that_of_the_bodies_and_markers(size: int) -> None:
    bodies = [bytes(body) for body in pool(size)]
    stream = [*bodies, marker(WARM, size), *bodies, *bodies, marker(END, size)]
    assert flood_sum(size, 3 * len(bodies)) == sum(word_sum(body) for body in stream) & MASK


def test_flood_sum_refuses_a_part_of_a_pool() -> None:
    with pytest.raises(ValueError, match="whole pools"):
        flood_sum(128, 257)


@pytest.mark.parametrize("size", [24, 128])
def test_paced_sum_does_not_depend_on_the_clock(size: int) -> None:
    rest = bytes(pool(size)[0])[24:]
    stream = [paced_body(1_000_000_007 * (n + 3), n, rest) for n in range(5)]
    assert all(len(body) == size for body in stream)
    assert sum(word_sum(body) for body in stream) & MASK == paced_sum(size, 5)


@pytest.mark.parametrize("size", [128, 65536])
def test_sum_bodies_takes_bytes_and_views(size: int) -> None:
    bodies = [bytes(body) for body in pool(size)]
    expected = sum(word_sum(body) for body in bodies) & MASK
    assert sum_bodies(bodies) & MASK == expected
    assert sum_bodies([memoryview(body) for body in bodies]) & MASK == expected


def test_cells_stand_in_the_order_in_which_they_run() -> None:
    loads = ("latency", "both", "consume", "produce")
    found = cells(loads=loads, sizes=(128, 1024), rates=(1000,), spinning=True)
    assert [cell.label() for cell in found] == [
        "produce 128 B",
        "consume 128 B",
        "both 128 B",
        "produce 1 KiB",
        "consume 1 KiB",
        "both 1 KiB",
        "latency 128 B 1000/s waiting",
        "latency 1 KiB 1000/s waiting",
        "latency 1 KiB 1000/s spinning",
    ]


def test_cells_can_be_narrowed() -> None:
    found = cells(loads=("both",), sizes=(65536,), rates=(1000,), spinning=True)
    assert found == [Cell("both", 65536)]


def test_size_text_names_whole_kib() -> None:
    assert [size_text(size) for size in (128, 1000, 1024, 65536)] == [
        "128 B",
        "1000 B",
        "1 KiB",
        "64 KiB",
    ]
