"""Java's String.hashCode(), on which tag filtering and the message index are built.

Over the UTF-16 code units of the text: h = 31 * h + unit, in 32 bits, signed.
"""

from __future__ import annotations

from array import array
from functools import lru_cache


@lru_cache(maxsize=4096)
def hash_code(text: str) -> int:
    """Signed 32-bit hash of `text`, equal to every Java client's; kept for the next time."""
    return hash_once(text)


def hash_once(text: str) -> int:
    """The same, of a text that hardly comes again."""
    if text.isascii():
        units: bytes | array[int] = text.encode("ascii")
    else:
        units = array("H", text.encode("utf-16-le", "surrogatepass"))  # x86-64 is little-endian.
    value = 0
    for unit in units:
        value = (31 * value + unit) & 0xFFFFFFFF
    return value - 0x1_0000_0000 if value & 0x8000_0000 else value
