"""What an application hands in and gets back: messages, queues, results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

import msgspec

Body: TypeAlias = bytes | bytearray | memoryview
When: TypeAlias = int | float | datetime
"""A moment: ms since the epoch, or a datetime (one without a zone is local time)."""

ALL_TAGS: Final = "*"


class Queue(NamedTuple):
    """One queue of a topic on one broker; sorts as all clients of a group sort queues."""

    topic: str
    broker: str
    queue_id: int

    def __str__(self) -> str:
        return f"{self.topic}@{self.broker}:{self.queue_id}"


class Message(msgspec.Struct):
    """A message to be sent.

    `key` puts messages with an equal one into the same queue, and so in order; `keys` are what the
    broker's index finds it by. `delay_level` is RocketMQ's, 1 to 18; `deliver_at` the moment before
    which nobody gets it.
    """

    topic: str
    body: Body
    tags: str | None = None
    keys: Sequence[str] | str = ()
    properties: Mapping[str, str] = {}
    queue: Queue | int | None = None
    key: str | None = None
    delay_level: int = 0
    deliver_at: When | None = None
    flag: int = 0


class SendStatus(IntEnum):
    """How safely a message was stored; all but OK mean less safely than the broker aims at."""

    OK = 0
    FLUSH_DISK_TIMEOUT = 10
    SLAVE_NOT_AVAILABLE = 11
    FLUSH_SLAVE_TIMEOUT = 12


class SendResult(msgspec.Struct, frozen=True, gc=False):
    """Where a message was stored."""

    topic: str
    broker: str
    queue_id: int
    queue_offset: int
    physical_offset: int
    message_id: str
    """Made by the client: UNIQ_KEY."""
    offset_message_id: str
    """Made by the broker: names the place in its commitlog."""
    status: SendStatus = SendStatus.OK

    @property
    def queue(self) -> Queue:
        """The queue that it is in."""
        return Queue(self.topic, self.broker, self.queue_id)


def milliseconds(when: When) -> int:
    """Ms since the epoch."""
    if isinstance(when, datetime):
        return round(when.timestamp() * 1000)
    return int(when)
