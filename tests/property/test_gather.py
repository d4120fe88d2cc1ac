from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shmq.kernels import gather as gather_kernel
from shmq.kernels import gather_plain

NUMBERS = st.integers(-3, 90) | st.sampled_from([2**63 - 1, -(2**63), 2**62, 2**40])


def int64(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def same(
    source: bytes, base: int, pieces: list[tuple[int, int]], out_size: int, at: int
) -> tuple[int | str, bytes]:
    """Result or error of both, and what stands in `out`, after they were compared."""
    positions = int64([position for position, _ in pieces])
    sizes = int64([size for _, size in pieces])
    got: list[tuple[int | str, bytes]] = []
    for module in (gather_kernel, gather_plain):
        out = bytearray(b"." * out_size)
        result: int | str
        try:
            result = module.gather(source, base, positions, sizes, out, at)
        except ValueError as error:
            result = str(error)
        got.append((result, bytes(out)))
    assert got[0] == got[1]
    return got[0]


@given(
    st.binary(max_size=64),
    st.sampled_from([-1, 0, 7, 2**63 - 1]),
    st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5),
    st.integers(0, 150),
    st.integers(-1, 80),
)
def test_kernel_equals_twin_on_hostile_numbers(
    source: bytes, base: int, pieces: list[tuple[int, int]], out_size: int, at: int
) -> None:
    same(source, base, pieces, out_size, at)


@given(
    source=st.binary(min_size=1, max_size=64),
    ring=st.booleans(),
    base=st.integers(0, 2**40),
    drawn=st.data(),
)
def test_pieces_lie_back_to_back(
    *, source: bytes, ring: bool, base: int, drawn: st.DataObject
) -> None:
    room = len(source)
    places = st.tuples(st.integers(0, 3 * room if ring else room), st.integers(0, room))
    pieces = [
        (place, size if ring else min(size, room - place))
        for place, size in drawn.draw(st.lists(places, max_size=6))
    ]
    expected = b"".join(
        (source * 5)[place % room if ring else place :][:size] for place, size in pieces
    )
    at = drawn.draw(st.integers(0, 5))
    shifted = [(place if ring else place + base, size) for place, size in pieces]
    end, out = same(source, -1 if ring else base, shifted, at + len(expected), at)
    assert end == at + len(expected)
    assert out == b"." * at + expected


@pytest.mark.parametrize("size", [9, 10, 11])
@pytest.mark.parametrize("out_size", [9, 10, 11])
@pytest.mark.parametrize("base", [-1, 0])
def test_limits(size: int, out_size: int, base: int) -> None:
    result, _ = same(b"0123456789", base, [(0, size)], out_size, 0)
    assert (result == size) == (size <= min(10, out_size))


def test_nothing_of_nothing() -> None:
    assert same(b"", -1, [], 0, 0) == (0, b"")
    assert same(b"", -1, [(5, 0)], 0, 0) == (0, b"")
    assert same(b"", -1, [(5, 1)], 9, 0)[0] == "piece 0 does not fit: size=1"


@pytest.mark.parametrize("module", [gather_kernel, gather_plain])
def test_columns_of_different_length(module: object) -> None:
    with pytest.raises(ValueError, match="differ in length"):
        module.gather(b"abc", -1, int64([0, 1]), int64([1]), bytearray(9), 0)  # type: ignore[attr-defined]


def both_read(
    path: Path, base: int, pieces: list[tuple[int, int]], out_size: int, at: int
) -> tuple[int | str, bytes]:
    """Result or error of both, and what stands in `out` after success."""
    positions = int64([position for position, _ in pieces])
    sizes = int64([size for _, size in pieces])
    got: list[tuple[int | str, bytes]] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        for module in (gather_kernel, gather_plain):
            out = bytearray(b"." * out_size)
            try:
                end = module.read_pieces(fd, base, positions, sizes, out, at)
                got.append((end, bytes(out)))
            except (ValueError, EOFError) as error:
                got.append((type(error).__name__, b""))
    finally:
        os.close(fd)
    assert got[0] == got[1]
    return got[0]


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pieces") / "file"
    path.write_bytes(bytes(range(64)))
    return path


@given(
    base=st.sampled_from([0, 7, 2**40]),
    pieces=st.lists(st.tuples(st.integers(-2, 70), st.integers(-1, 70)), max_size=5),
    out_size=st.integers(0, 150),
    at=st.integers(-1, 80),
)
def test_reading_equals_twin(
    *, letters: Path, base: int, pieces: list[tuple[int, int]], out_size: int, at: int
) -> None:
    moved = [(base + position, size) for position, size in pieces]
    result, out = both_read(letters, base, moved, out_size, at)
    if isinstance(result, int):
        expected = b"".join(bytes(range(64))[place : place + size] for place, size in pieces)
        assert out == (b"." * at + expected).ljust(out_size, b".")[:out_size]


def test_neighbours_are_read_at_once(letters: Path) -> None:
    assert both_read(letters, 0, [(3, 4), (7, 1), (8, 0), (8, 2), (20, 1)], 8, 0) == (
        8,
        bytes([3, 4, 5, 6, 7, 8, 9, 20]),
    )
    assert both_read(letters, 0, [(60, 4), (64, 1)], 8, 0) == ("EOFError", b"")


def test_a_closed_file_is_an_error(letters: Path) -> None:
    fd = os.open(letters, os.O_RDONLY)
    os.close(fd)
    for module in (gather_kernel, gather_plain):
        with pytest.raises(OSError, match="Bad file descriptor"):
            module.read_pieces(fd, 0, int64([0]), int64([1]), bytearray(9), 0)
