"""Reading a request's header fields and body: lenient as Apache reads, refused with a reason.

All extFields values are text. Java reads booleans as "true" in any case, else false, and numbers as
decimal text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shmq.errors import ProtocolError, RequestRefused
from shmq.wire import jsonish
from shmq.wire.codes import ResponseCode

INT_MIN: Final = -(2**31)
INT_MAX: Final = 2**31 - 1
LONG_MIN: Final = -(2**63)
LONG_MAX: Final = 2**63 - 1


def refused(what: str, **facts: object) -> RequestRefused:
    """An error that is answered with SYSTEM_ERROR, as Apache does with what it cannot read."""
    return RequestRefused(ResponseCode.SYSTEM_ERROR, what, **facts)


def need_text(ext: Mapping[str, str], name: str) -> str:
    """A required field.

    Raises:
        RequestRefused: it is absent.
    """
    value = ext.get(name)
    if value is None:
        raise refused(f"the required header field {name} is missing", present=sorted(ext))
    return value


def need_int(ext: Mapping[str, str], name: str, *, low: int = INT_MIN, high: int = INT_MAX) -> int:
    """A required number within [low, high].

    Raises:
        RequestRefused: it is absent, no number, or out of range.
    """
    text = need_text(ext, name)
    try:
        value = int(text) if len(text) <= len(str(LONG_MIN)) else None
    except ValueError:
        value = None
    if value is None:
        raise refused(f"the header field {name} is no number", found=repr(text[:40]))
    if not low <= value <= high:
        raise refused(f"the header field {name} is out of range", found=value, allowed=(low, high))
    return value


def flag(ext: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """A boolean field; `default` when absent."""
    value = ext.get(name)
    return default if value is None else value.strip().lower() == "true"


def json_object(body: bytes) -> dict[str, Any]:
    """The body as a JSON object.

    Raises:
        RequestRefused: it is something else.
    """
    if not body:
        raise refused("the request has no body", expected="a JSON object")
    try:
        value = jsonish.loads(body)
    except (ValueError, ProtocolError) as error:
        raise refused("the body is not JSON", reason=str(error), size=len(body)) from error
    if not isinstance(value, dict):
        raise refused("the body is not a JSON object", found=type(value).__name__)
    return value


def text_of(value: object, default: str = "") -> str:
    """A JSON value that should be a string."""
    return default if value is None else str(value)


def int_of(value: object, default: int = 0) -> int:
    """A JSON value that should be a whole number; Go writes some as strings.

    Raises:
        RequestRefused: it is none, or does not fit 64 bits.
    """
    if value is None:
        return default
    if isinstance(value, (int, float, str)) and len(str(value)) <= len(str(LONG_MIN)):
        try:
            number = int(value)
        except (ValueError, OverflowError):
            number = LONG_MIN - 1
        if LONG_MIN <= number <= LONG_MAX:
            return number
    raise refused("a number was expected in the body", found=repr(value)[:40])


def bool_of(value: object, *, default: bool = False) -> bool:
    """A JSON value that should be a boolean."""
    if value is None:
        return default
    return value if isinstance(value, bool) else str(value).lower() == "true"


def objects_of(value: object) -> list[dict[str, Any]]:
    """A JSON value that should be an array of objects; null counts as empty.

    Raises:
        RequestRefused: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise refused("an array of objects was expected in the body", found=repr(value)[:40])
    return value
