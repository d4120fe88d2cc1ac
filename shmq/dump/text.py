"""An item of a dump as one line of text: its kind, then name=value, blanks only between them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def line(item: dict[str, Any]) -> str:
    """`item` as a line; nothing in it can move the cursor of a terminal."""
    fields = (f"{name}={_text(name, value)}" for name, value in item.items() if name != "kind")
    return " ".join((item["kind"], *fields))


def _text(name: str, value: object) -> str:
    if name.endswith("Timestamp") and isinstance(value, int):
        return moment(value)
    if isinstance(value, str):
        return value if _is_plain(value) else _json(value)
    if isinstance(value, bool) or value is None or isinstance(value, dict | list):
        return _json(value)
    return str(value)


def moment(timestamp_ms: int) -> str:
    """A time as ISO 8601, UTC, with ms; the number itself where it is none (0, far away)."""
    if timestamp_ms <= 0:
        return str(timestamp_ms)
    try:
        time = EPOCH + timedelta(milliseconds=timestamp_ms)
    except OverflowError:
        return str(timestamp_ms)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_plain(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(mark in text for mark in " \"'=")


def _json(value: object) -> str:
    encoded = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    # JSON leaves DEL and the controls above it as they are; a terminal obeys some of them.
    return "".join(mark if mark.isprintable() else "".join(_escape(mark)) for mark in encoded)


def _escape(mark: str) -> str:
    units = mark.encode("utf-16-be")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
