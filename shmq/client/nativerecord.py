"""Records as a native client puts them into its ring: as the remoting door would make them."""

from __future__ import annotations

import re
import struct
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from shmq.kernels.crc import crc32
from shmq.layout import record
from shmq.layout.javahash import hash_code
from shmq.wire.properties import NAME_END, PAIR_END

if TYPE_CHECKING:
    from shmq.client.transport import Submission
    from shmq.wire.native import NativeOpened

LOCAL_HOST: Final = bytes((127, 0, 0, 1))
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

    def __init__(self, facts: NativeOpened, ring_data_size: int) -> None:
        host = bytes.fromhex(facts.store_host)
        self.place = (host, facts.store_port)
        self.data_size_max = ring_data_size // 8 * 8 // SHARE
        self._body_size_max = facts.message_size_max
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
        return any(_size(one.body) > self._body_size_max for one in submission.messages)


def is_special(submission: Submission) -> bool:
    """Whether the broker must look at a message itself."""
    return any(SPECIAL.search(one.properties) for one in submission.messages)


def encode(shape: Shape, submission: Submission) -> tuple[bytes, list[int], int]:
    """Data of the entry, sizes of its records, and the tags code of the only one."""
    topic, magic = _topic(submission.queue.topic)
    queue_id = submission.queue.queue_id
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
        crc = crc32(body) & record.CRC_MASK if body_size else 0
        parts += (
            _HEAD.pack(
                size, magic, crc, queue_id, flag, 0, 0,
                (0 if submission.is_batch else sys_flag) | shape.host_flag, born_ms, LOCAL_HOST, 0,
            ),
            shape.after,
            body_size.to_bytes(4, "big"),
            body,
            topic,
            len(properties).to_bytes(2, "big"),
            properties,
        )  # fmt: skip
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
