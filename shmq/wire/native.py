"""The native door's own requests: remoting frames that only a Unix socket of shmq answers.

All else that a native client asks is the remoting protocol on the same socket. These give it
shared memory:

    NATIVE_OPEN   once a connection; the answer carries descriptors (SCM_RIGHTS), in this order:
                  ring memory, work bell, done bell, news bell (all to read and write),
                  control words, hot commitlog pages, queue table, hot entries (to read only)
    NATIVE_TOPIC  leave to append to a topic's write queues, made first if it may be; the answer
                  says which slots of the queue table they are

    NATIVE_FILE   a file of the store, to read only: what is no longer in shared memory. The answer
                  carries its descriptor. kind=commitlog, start; or kind=consumequeue, topic,
                  queueId, start

The first two answers are typed below; their fields travel as text, as all ext fields do.
LAYOUT_VERSION grows with every change of the shared structures: a client of another version is
refused, and goes on by copies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from shmq.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T", bound=msgspec.Struct)
NATIVE_OPEN: Final = 900_001
NATIVE_TOPIC: Final = 900_002
NATIVE_FILE: Final = 900_003
COMMITLOG: Final = "commitlog"
CONSUMEQUEUE: Final = "consumequeue"
LAYOUT_VERSION: Final = 1
DESCRIPTORS: Final = (
    "ring", "work", "done", "news", "control", "pool", "queues", "hot_entries",
)  # fmt: skip


class NativeOpened(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a client must know of the broker to read and write the shared structures."""

    instance: str
    broker_name: str
    cluster_name: str
    region: str
    trace_on: bool
    store_host: str
    """Hex of 4 or 16 bytes."""
    store_port: int
    message_size_max: int
    ring_index: int
    ring_epoch: int
    commitlog_file_size: int
    consumequeue_file_size: int
    sync_flush: bool
    """Whether messages count as stored only when they are on the disk. A result from the ring says
    that the writer has appended, so a client sends them by copies then."""
    writer_line: int
    """Line of the writer's SLEEPING word in the control words."""


class NativeTopic(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Where a topic's messages go."""

    slots: list[int]
    """Queue table slot of each queue."""
    write_queue_nums: int
    read_queue_nums: int
    perm: int


def to_ext(value: msgspec.Struct) -> dict[str, str]:
    """Ext fields of a typed answer."""
    plain = msgspec.to_builtins(value)
    return {name: msgspec.json.encode(item).decode() for name, item in plain.items()}


def from_ext(ext: Mapping[str, str], kind: type[T]) -> T:
    """A typed answer from its ext fields."""
    try:
        plain = {name: msgspec.json.decode(text) for name, text in ext.items()}
        return msgspec.convert(plain, kind)
    except msgspec.MsgspecError as error:
        raise ProtocolError("native answer", kind=kind.__name__, reason=str(error)) from error
