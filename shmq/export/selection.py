"""Which messages are exported: by topic, queue, key and time."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from shmq.errors import ConfigError, ProtocolError
from shmq.units import HOUR_MS, MINUTE_MS, SECOND_MS
from shmq.wire.messageid import offset_message_id
from shmq.wire.properties import KEYS, KEYS_SEPARATOR, UNIQ_KEY, decode_properties

if TYPE_CHECKING:
    from shmq.layout.record import Record

SPAN: Final = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>s|m|h|d)")
MILLIS: Final = re.compile(r"[0-9]{9,15}")
UNITS_MS: Final = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": 24 * HOUR_MS}
MOMENTS: Final = "2026-11-26, 2026-11-26T08:15:00 (UTC), with +02:00, 30m, 2h, 7d, or ms since 1970"


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for; times in ms since the epoch, both inclusive."""

    topic: str
    queue_id: int | None = None
    key: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def may_have_key(self, data: bytes) -> bool:
        """Whether a stored record is worth decoding."""
        if self.key is None or _is_id(self.key):
            return True
        return self.key.encode(errors="surrogateescape") in data

    def matches(self, found: Record) -> bool:
        """Whether a record of the topic is meant."""
        stamp = found.store_timestamp
        return (
            (self.queue_id is None or found.queue_id == self.queue_id)
            and (self.since_ms is None or stamp >= self.since_ms)
            and (self.until_ms is None or stamp <= self.until_ms)
            and (self.key is None or self.key in keys_of(found))
        )


def keys_of(found: Record) -> set[str]:
    """Everything by which a message may be asked for: its keys and its two ids."""
    keys = {offset_message_id(found.store_host, found.store_port, found.physical_offset)}
    try:
        properties = decode_properties(found.properties)
    except ProtocolError:
        return keys
    keys.update(properties.get(KEYS, "").split(KEYS_SEPARATOR))
    keys.add(properties.get(UNIQ_KEY, ""))
    return keys - {""}


def _is_id(key: str) -> bool:
    return len(key) in {32, 56} and re.fullmatch(r"[0-9A-F]+", key) is not None


def moment_of(text: str, *, now_ms: int) -> int:
    """A point in time as people write it, in ms since the epoch; a span is counted back from now.

    Raises:
        ConfigError: it is none.
    """
    span = SPAN.fullmatch(text)
    if span is not None:
        return now_ms - int(span["count"]) * UNITS_MS[span["unit"]]
    if MILLIS.fullmatch(text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError("no point in time", found=text, allowed=MOMENTS) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp() * SECOND_MS)
