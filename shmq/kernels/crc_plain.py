"""Plain twin of crc.py: zlib's own CRC-32."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


def crc32(data: Buffer) -> int:
    """CRC-32 of all bytes, 0 <= crc < 2**32."""
    return zlib.crc32(data)


def crc32_by_table(data: Buffer) -> int:
    """The same; here there is only one way."""
    return zlib.crc32(data)


def uses_folding() -> bool:
    """Whether the CPU's carry-less multiplication is used: never here."""
    return False
