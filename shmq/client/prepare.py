"""Messages made ready to travel: checked, with their properties text and an id."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.client.compression import COMPRESSED_ZLIB, compressed
from shmq.client.model import Body, Message, milliseconds
from shmq.client.uniqueid import IdMaker
from shmq.errors import ConfigError, InvalidMessage
from shmq.wire.properties import (
    DELAY,
    KEYS,
    KEYS_SEPARATOR,
    NAME_END,
    PAIR_END,
    PROPERTIES_SIZE_MAX,
    TAGS,
    TIMER_DELIVER_MS,
    UNIQ_KEY,
    WAIT,
)

if TYPE_CHECKING:
    from shmq.client.bodyrun import Bodies, BodyRun

TOPIC: Final = re.compile(r"[%|a-zA-Z0-9_-]{1,255}")
FIELDS: Final = {
    KEYS: "keys",
    TAGS: "tags",
    DELAY: "delay_level",
    TIMER_DELIVER_MS: "deliver_at",
    UNIQ_KEY: "nothing: the client sets it",
    WAIT: "nothing: the client sets it",
}
"""Properties that messages have a field for."""
DELAY_LEVEL_MAX: Final = 18


class Prepared(NamedTuple):
    """One message, ready to travel."""

    body: Body
    properties: str
    unique_id: str
    flag: int = 0
    sys_flag: int = 0


class Preparer:
    """Makes messages ready; from any thread."""

    def __init__(self, ids: IdMaker, *, body_size_max: int, compress_from: int | None) -> None:
        """`compress_from`: size from which a body travels compressed; None: never."""
        self._ids = ids
        self._body_size_max = body_size_max
        self._compress_from = compress_from
        self._good_topics: set[str] = set()

    def check_topic(self, topic: str) -> None:
        """Refuse names that no topic has.

        Raises:
            InvalidMessage: it has other characters than a topic may have, or too many.
        """
        if topic in self._good_topics:
            return
        if TOPIC.fullmatch(topic) is None:
            raise InvalidMessage(
                "topic name", found=topic[:300], allowed="letters, digits, _ - % |, 255 at most"
            )
        self._good_topics.add(topic)

    @staticmethod
    def check_group(group: str) -> None:
        """Refuse names that no group has: brokers would, and tell nobody who waits for messages.

        Raises:
            ConfigError: it has other characters than a group may have, or too many.
        """
        if TOPIC.fullmatch(group) is None:
            raise ConfigError(
                "group name", found=group[:300], allowed="letters, digits, _ - % |, 255 at most"
            )

    def body(self, body: Body, tags: str | None = None, *, compress: bool = True) -> Prepared:
        """A message of which there is no more than a body, and perhaps a tag."""
        self._check_size(body)
        unique_id = self._ids.next()
        properties = properties_of(unique_id, tags)
        body, sys_flag = self._travelling(body, compress=compress)
        return Prepared(body, properties, unique_id, 0, sys_flag)

    def run(self, bodies: Bodies, first: int, end: int, tags: str | None) -> BodyRun:
        """Messages of some of many bodies; never compressed."""
        return bodies.run(first, end, tags=tags, ids=self._ids.run(end - first))

    @property
    def body_size_max(self) -> int:
        """Larger bodies are refused, bytes."""
        return self._body_size_max

    def message(self, message: Message, *, compress: bool = True) -> Prepared:
        """A message with all its fields.

        Raises:
            InvalidMessage: a field has a value that cannot travel.
        """
        self._check_size(message.body)
        unique_id = self._ids.next()
        properties = self._properties(message, unique_id)
        body, sys_flag = self._travelling(message.body, compress=compress)
        return Prepared(body, properties, unique_id, message.flag, sys_flag)

    def _travelling(self, body: Body, *, compress: bool) -> tuple[Body, int]:
        """The body as it travels, and its system flag; compressed if that makes it smaller."""
        if compress and self._compress_from is not None and len(body) >= self._compress_from:
            packed = compressed(body)
            if len(packed) < len(body):
                return packed, COMPRESSED_ZLIB
        return body, 0

    def _check_size(self, body: Body) -> None:
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise InvalidMessage(
                "body", found=type(body).__name__, allowed="bytes, bytearray or memoryview"
            )
        size = body.nbytes if isinstance(body, memoryview) else len(body)
        if not size:
            raise InvalidMessage("empty body", hint="brokers of RocketMQ's protocol refuse it")
        if size > self._body_size_max:
            raise InvalidMessage("body too large", size=size, size_max=self._body_size_max)

    @staticmethod
    def _properties(message: Message, unique_id: str) -> str:
        parts = []
        for name, value in message.properties.items():
            field = FIELDS.get(name)
            if field is not None:
                raise InvalidMessage("property that has a field", property=name, use=field)
            parts.append(pair(name, value))
        keys = message.keys if isinstance(message.keys, str) else KEYS_SEPARATOR.join(message.keys)
        if keys:
            parts.append(pair(KEYS, keys))
        parts.append(f"UNIQ_KEY\x01{unique_id}\x02WAIT\x01true\x02")
        if message.delay_level:
            if not 0 < message.delay_level <= DELAY_LEVEL_MAX:
                raise InvalidMessage(
                    "delay level", found=message.delay_level, allowed=(1, DELAY_LEVEL_MAX)
                )
            parts.append(pair(DELAY, str(message.delay_level)))
        if message.deliver_at is not None:
            parts.append(pair(TIMER_DELIVER_MS, str(milliseconds(message.deliver_at))))
        if message.tags:
            parts.append(pair(TAGS, message.tags))
        text = "".join(parts)
        if len(text) * 4 > PROPERTIES_SIZE_MAX and len(text.encode()) > PROPERTIES_SIZE_MAX:
            raise InvalidMessage(
                "properties too long", size=len(text.encode()), size_max=PROPERTIES_SIZE_MAX
            )
        return text


def properties_of(unique_id: str, tags: str | None) -> str:
    """Text of the properties of a message that has no more than a body, and perhaps a tag."""
    text = f"UNIQ_KEY\x01{unique_id}\x02WAIT\x01true\x02"
    return text + pair(TAGS, tags) if tags else text


def pair(name: object, value: object) -> str:
    """One property as text.

    Raises:
        InvalidMessage: it has a separator in it, or is empty: readers would drop it.
    """
    if not isinstance(name, str) or not isinstance(value, str):
        raise InvalidMessage("property that is no text", name=name, value=value)
    if not name or not value:
        raise InvalidMessage("empty property", name=name, value=value)
    if NAME_END in name or PAIR_END in name or NAME_END in value or PAIR_END in value:
        raise InvalidMessage("property with a separator in it", name=name, value=value)
    return f"{name}\x01{value}\x02"
