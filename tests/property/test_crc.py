from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.kernels import crc, crc_plain


@given(st.binary(max_size=600), st.integers(0, 20))
def test_crc_is_zlibs(data: bytes, start: int) -> None:
    piece = memoryview(data)[start:]
    expected = crc_plain.crc32(piece)
    assert crc.crc32(piece) == expected
    assert crc.crc32_by_table(piece) == expected == crc_plain.crc32_by_table(piece)


@pytest.mark.parametrize("size", [*range(300), 4095, 4096, 4097, 65_536 + 15, 1_048_577])
def test_every_size(size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert crc.crc32(data[:size]) == crc_plain.crc32(data[:size])
    assert crc.crc32_by_table(data[:size]) == crc_plain.crc32(data[:size])


def test_the_twin_has_one_way() -> None:
    assert isinstance(crc.uses_folding(), bool)
    assert not crc_plain.uses_folding()
