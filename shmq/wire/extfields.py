"""Typed reading of ext fields, which travel as text.

Lenient where Java is: a boolean is true if it is "true" in any case, else false; numbers are
decimal text with an optional sign. What is missing or no number is refused with the field's name.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from shmq.errors import RequestRefused
from shmq.wire.codes import ResponseCode

if TYPE_CHECKING:
    from collections.abc import Mapping

INT_BITS: Final = 32
LONG_BITS: Final = 64
_NUMBER: Final = re.compile("[+-]?[0-9]{1,19}")


def required_text(ext: Mapping[str, str], key: str, name: str = "") -> str:
    """A field that must be there; `name` is what it is called in the refusal."""
    value = ext.get(key)
    if value is None:
        raise RequestRefused(
            ResponseCode.SYSTEM_ERROR, f"the required field {name or key} is missing", key=key
        )
    return value


def required_int(ext: Mapping[str, str], key: str, name: str = "", *, bits: int = INT_BITS) -> int:
    """A number that must be there and fit into so many bits, signed."""
    return _number(required_text(ext, key, name), key, name, bits)


def optional_int(
    ext: Mapping[str, str], key: str, name: str = "", *, bits: int = INT_BITS
) -> int | None:
    """A number, or None when the field is absent or empty."""
    value = ext.get(key)
    return _number(value, key, name, bits) if value else None


def boolean(ext: Mapping[str, str], key: str, *, default: bool = False) -> bool:
    """Whether the field says true; `default` when it is absent."""
    value = ext.get(key)
    return default if value is None else value.lower() == "true"


def _number(text: str, key: str, name: str, bits: int) -> int:
    if _NUMBER.fullmatch(text) is None:
        raise RequestRefused(
            ResponseCode.SYSTEM_ERROR,
            f"the field {name or key} is not a number",
            key=key,
            found=text[:40],
        )
    value = int(text)
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    if not low <= value <= high:
        raise RequestRefused(
            ResponseCode.SYSTEM_ERROR,
            f"the field {name or key} leaves {bits} bits",
            key=key,
            found=value,
            allowed=(low, high),
        )
    return value
