"""Sparse files: data found behind holes, zeroed durably."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shmq.store.sparse import data_pieces, data_ranges, zero_from
from shmq.units import KiB, MiB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    with made.open("wb") as file:
        file.truncate(4 * MiB)
        file.seek(100)
        file.write(b"first")
        file.seek(2 * MiB - 3)
        file.write(b"middle")
        file.seek(3 * MiB)
        file.write(bytes(64 * KiB))
    return made


@pytest.mark.parametrize("start", [0, 99, 100, 104, 105, 2 * MiB - 3, 2 * MiB + 3, 4 * MiB])
def test_data_is_found_behind_holes(path: Path, start: int) -> None:
    whole = path.read_bytes()
    fd = os.open(path, os.O_RDONLY)
    try:
        found = bytearray(4 * MiB)
        for position, data in data_pieces(fd, start, 4 * MiB):
            found[position : position + len(data)] = data
        assert found[start:] == whole[start:]
        assert all(
            start <= begin < end <= 4 * MiB for begin, end in data_ranges(fd, start, 4 * MiB)
        )
        assert list(data_pieces(fd, 0, 100)) == []
    finally:
        os.close(fd)


@pytest.mark.parametrize("start", [0, 102, 105, 2 * MiB, 2 * MiB + 3])
def test_zeroed_from_a_place_on(path: Path, start: int) -> None:
    whole = path.read_bytes()
    assert zero_from(path, start) == any(whole[start:])
    assert path.read_bytes() == whole[:start] + bytes(4 * MiB - start)
    assert not zero_from(path, start), "there is nothing left to do"
