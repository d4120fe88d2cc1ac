"""Records as a native client puts them into its ring: as the remoting door would make them."""

from __future__ import annotations

import re
import struct
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from shmq.client.bodyrun import BodyRun
from shmq.client.prepare import properties_of
from shmq.errors import InvalidMessage
from shmq.kernels.produce import Target
from shmq.layout import record
from shmq.layout.javahash import hash_code
from shmq.wire.properties import NAME_END, PAIR_END

if TYPE_CHECKING:
    from shmq.client.model import Queue
    from shmq.client.transport import Submission
    from shmq.wire.native import NativeOpened

LOCAL_HOST: Final = bytes((127, 0, 0, 1))
MARK: Final = "?"
UNIQUE_SIZE: Final = 12
"""Characters at the end of an id that the kernel writes: 8 of the time, 4 of the counter."""
SHARE: Final = 4
"""Part of the ring's data that one entry may have."""
SPECIAL: Final = re.compile(
    r"(?:^|\x02)(?:DELAY|TIMER_[A-Z_]+|TRAN_MSG|INNER_[A-Z]+|POP_CK|MSG_REGION|TRACE_ON|CLUSTER)\x01"
)
"""Properties with which the broker does more than to store them, or which it would add itself."""
TAGS: Final = re.compile(r"(?:^|\x02)TAGS\x01([^\x02]*)")
_HEAD: Final = struct.Struct(">iIiiiqqiq4si")  # size to born port
_CODE: Final = struct.Struct("=q")


class Shape:
    """What the records of one session share."""

    def __init__(self, facts: NativeOpened, ring_data_size: int, id_head: str) -> None:
        """`id_head`: of the ids of runs."""
        self.id_head = id_head.encode()
        host = bytes.fromhex(facts.store_host)
        self.place = (host, facts.store_port)
        self.data_size_max = ring_data_size // 8 * 8 // SHARE
        self.body_size_max = min(facts.message_size_max, self.data_size_max)
        self._message_size_max = facts.message_size_max
        self._sync_flush = facts.sync_flush
        self.host_flag = 0 if len(host) == record.IPV4_SIZE else record.STORE_HOST_V6
        # Store timestamp, host and port; reconsume times; prepared transaction offset.
        self.after = bytes(8) + host + facts.store_port.to_bytes(4, "big") + bytes(12)
        self.added = "".join(
            f"{name}{NAME_END}{value}{PAIR_END}"
            for name, value in (
                ("MSG_REGION", facts.region),
                ("TRACE_ON", "true" if facts.trace_on else "false"),
                ("CLUSTER", facts.cluster_name),
            )
        ).encode()

    def refuses(self, submission: Submission) -> bool:
        """Whether it must go by copies, whatever room there is."""
        if self._sync_flush or is_special(submission):
            return True
        if isinstance(submission.messages, BodyRun):
            return submission.messages.largest > self._message_size_max
        return any(_size(one.body) > self._message_size_max for one in submission.messages)


def is_special(submission: Submission) -> bool:
    """Whether the broker must look at a message itself."""
    if isinstance(submission.messages, BodyRun):
        return False
    return any(SPECIAL.search(one.properties) for one in submission.messages)


def target_of(
    shape: Shape,
    queue: Queue,
    slot: int,
    *,
    tags: str | None,
    is_batch: bool,
    id_head: bytes = b"",
) -> Target:
    """What the records of runs to a queue share; see bodyrun and kernels/produce.py.

    `id_head`: of their ids; that of the session's runs, if empty.

    Raises:
        InvalidMessage: the properties are too long.
    """
    name, _magic = _topic(queue.topic)
    before, _, after = properties_of(MARK, tags).partition(MARK)
    # The kernel writes the last UNIQUE_SIZE characters of the id, the head is the same for all.
    head = before.encode() + (id_head or shape.id_head)
    tail = after.encode() + (b"" if is_batch else shape.added)
    properties_size = len(head) + UNIQUE_SIZE + len(tail)
    if properties_size > record.PROPERTIES_SIZE_MAX:
        raise InvalidMessage(
            "properties too long", size=properties_size, size_max=record.PROPERTIES_SIZE_MAX
        )
    return Target(
        head=_head(shape, queue, size=0, flag=0, sys_flag=0, born_ms=0) + bytes(4),
        tail_before=name + properties_size.to_bytes(2, "big") + head,
        tail_after=tail,
        slot=slot,
        queue_id=queue.queue_id,
        tags_code=_code(tags) if tags else 0,
    )


def _head(
    shape: Shape, queue: Queue, *, size: int, flag: int, sys_flag: int, born_ms: int
) -> bytes:
    """A record up to where the size of its body stands; the writer sets the CRC."""
    _name, magic = _topic(queue.topic)
    return (
        _HEAD.pack(
            size, magic, 0, queue.queue_id, flag, 0, 0,
            sys_flag | shape.host_flag, born_ms, LOCAL_HOST, 0,
        )
        + shape.after
    )  # fmt: skip


def encode(shape: Shape, submission: Submission) -> tuple[bytes, list[int], int]:
    """Data of the entry, sizes of its records, and the tags code of the only one."""
    queue = submission.queue
    topic, _magic = _topic(queue.topic)
    born_ms = time.time_ns() // 1_000_000
    added = b"" if submission.is_batch else shape.added
    parts: list[bytes | bytearray | memoryview] = []
    sizes: list[int] = []
    codes: list[int] = []
    for body, text, _unique_id, flag, sys_flag in submission.messages:
        properties = text.encode() + added
        body_size = _size(body)
        size = record.BODY_AT + len(shape.place[0]) - record.IPV4_SIZE
        size += body_size + len(topic) + 2 + len(properties)
        flags = 0 if submission.is_batch else sys_flag
        parts += (
            _head(shape, queue, size=size, flag=flag, sys_flag=flags, born_ms=born_ms),
            body_size.to_bytes(4, "big"),
            body,
            topic,
            len(properties).to_bytes(2, "big"),
            properties,
        )
        sizes.append(size)
        found = TAGS.search(text)
        codes.append(_code(found[1]) if found else 0)
    if len(sizes) > 1:
        parts[:0] = [_CODE.pack(code) for code in codes]
    return b"".join(parts), sizes, codes[0]


def _size(body: bytes | bytearray | memoryview) -> int:
    return body.nbytes if isinstance(body, memoryview) else len(body)


@lru_cache(maxsize=1024)
def _topic(topic: str) -> tuple[bytes, int]:
    """The topic as a record has it, behind its size, and the magic number that this needs."""
    magic = record.magic_for(topic)
    name = topic.encode()
    return len(name).to_bytes(1 if magic == record.MAGIC_V1 else 2, "big") + name, magic


@lru_cache(maxsize=1024)
def _code(tags: str) -> int:
    return hash_code(tags) if tags else 0
