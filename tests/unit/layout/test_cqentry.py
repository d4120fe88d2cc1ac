from __future__ import annotations

import numpy as np
import pytest

from shmq.layout import cqentry


def test_bytes_of_an_entry() -> None:
    data = cqentry.encode(0x0102030405060708, 0x0A0B0C0D, -2)
    assert data.hex() == "01020304050607080a0b0c0dfffffffffffffffe"
    assert cqentry.decode(bytes(20) + data, 1) == (0x0102030405060708, 0x0A0B0C0D, -2)
    row = np.frombuffer(data, cqentry.ENTRY)[0]
    assert row.tolist() == (0x0102030405060708, 0x0A0B0C0D, -2)


@pytest.mark.parametrize(
    ("tag", "code"), [(None, 0), ("", 0), ("TagA", 2598919), ("值", 0x503C), ("a" * 40, 1042809472)]
)
def test_tags_code(tag: str | None, code: int) -> None:
    assert cqentry.tags_code(tag) == code


def test_valid_and_filler() -> None:
    assert cqentry.decode(cqentry.encode(0, 91, 0), 0).is_valid
    assert not cqentry.decode(bytes(20), 0).is_valid
    assert not cqentry.decode(cqentry.encode(-1, 91, 0), 0).is_valid
    assert cqentry.decode(cqentry.FILLER, 0).is_filler
    assert not cqentry.decode(cqentry.encode(0, 91, 0), 0).is_filler


@pytest.mark.parametrize(
    ("configured", "size"), [(1, 20), (20, 20), (21, 40), (6_000_000, 6_000_000)]
)
def test_file_size_is_whole_entries(configured: int, size: int) -> None:
    assert cqentry.file_size(configured) == size
