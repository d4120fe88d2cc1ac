"""Plain twin of walk.py. Layout: layout/record.py."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.layout import record
from shmq.layout.javahash import hash_code

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

STOP_END: Final = 0  # every byte was walked, or the next record is longer than the bytes given
STOP_BLANK: Final = 1  # the blank record at the end of a file
STOP_BAD: Final = 2  # not a record
STOP_FULL: Final = 3  # the array is full

COLUMNS: Final = 10

_UINT32: Final = struct.Struct(">I")
_INT32: Final = struct.Struct(">i")
_INT64: Final = struct.Struct(">q")
_INT16: Final = struct.Struct(">h")


class Parts(NamedTuple):
    """Where the parts of a record lie whose sizes agree with its size."""

    sys_flag: int
    store_timestamp_at: int
    body_at: int
    body_size: int
    topic_at: int
    topic_size: int
    properties_at: int


def walk(
    data: Buffer,
    start: int,
    out: NDArray[np.int64],
    *,
    checked: bool,
) -> tuple[int, int, int]:
    """Describe whole records in `data` from `start` on; see the kernel for the columns of `out`.

    With `checked` each body must have its CRC.

    Returns:
        (number of rows filled, position after the last of them, why it stopped: STOP_*).
    """
    view = memoryview(data).cast("B")
    if out.shape[1] != COLUMNS:
        raise ValueError(f"rows must have {COLUMNS} columns, not {out.shape[1]}")
    count, position = 0, start
    if start < 0:
        return count, position, STOP_END
    while len(view) - position >= record.BLANK_HEAD_SIZE:
        size, magic = record.head(view, position)
        if magic == record.BLANK_MAGIC:
            return count, position, STOP_BLANK
        if magic not in {record.MAGIC_V1, record.MAGIC_V2} or size < record.RECORD_SIZE_MIN:
            return count, position, STOP_BAD
        if size > len(view) - position:
            return count, position, STOP_END
        if count == len(out):
            return count, position, STOP_FULL
        found = view[position : position + size]
        parts = parts_of(found, magic)
        if parts is None or (checked and not body_is_sound(found, parts)):
            return count, position, STOP_BAD
        out[count] = (
            position,
            size,
            _INT64.unpack_from(found, record.QUEUE_OFFSET_AT)[0],
            _INT64.unpack_from(found, record.PHYSICAL_OFFSET_AT)[0],
            parts.sys_flag,
            _INT64.unpack_from(found, parts.store_timestamp_at)[0],
            tags_code(bytes(found[parts.properties_at :])),
            _INT32.unpack_from(found, record.QUEUE_ID_AT)[0],
            position + parts.topic_at,
            parts.topic_size,
        )
        count += 1
        position += size
    return count, position, STOP_END


def assort(
    data: Buffer, rows: NDArray[np.int64], order: NDArray[np.int64], bounds: NDArray[np.int64]
) -> int:
    """Sort rows of walk() by queue; see the kernel."""
    view = memoryview(data).cast("B")
    queues: dict[tuple[bytes, int], list[int]] = {}
    for number, (queue_id, at, size) in enumerate(rows[:, 7:10].tolist()):
        queues.setdefault((bytes(view[at : at + size]), queue_id), []).append(number)
    at = 0
    for number, members in enumerate(queues.values()):
        bounds[number] = at
        order[at : at + len(members)] = members
        at += len(members)
    bounds[len(queues)] = at
    return len(queues)


def parts_of(found: memoryview, magic: int) -> Parts | None:
    """The parts of one record of exactly these bytes; None when their sizes do not add up."""
    (sys_flag,) = _UINT32.unpack_from(found, record.SYS_FLAG_AT)
    stamp_at, body_size_at = record.STORE_TIMESTAMP_AT, record.BODY_SIZE_AT
    if sys_flag & record.BORN_HOST_V6:
        stamp_at += record.IPV6_EXTRA
        body_size_at += record.IPV6_EXTRA
    if sys_flag & record.STORE_HOST_V6:
        body_size_at += record.IPV6_EXTRA
    body_at = body_size_at + _INT32.size
    if body_at > len(found):
        return None
    (body_size,) = _INT32.unpack_from(found, body_size_at)
    topic_at = body_at + body_size + (2 if magic == record.MAGIC_V2 else 1)
    if body_size < 0 or topic_at > len(found):
        return None
    if magic == record.MAGIC_V2:
        (topic_size,) = _INT16.unpack_from(found, topic_at - 2)
        topic_size_max = record.TOPIC_SIZE_MAX_V2
    else:
        topic_size = found[topic_at - 1]
        topic_size_max = record.TOPIC_SIZE_MAX_V1
    properties_at = topic_at + topic_size + _INT16.size
    if not 1 <= topic_size <= topic_size_max or properties_at > len(found):
        return None
    (properties_size,) = _INT16.unpack_from(found, topic_at + topic_size)
    if properties_size < 0 or properties_at + properties_size != len(found):
        return None
    return Parts(sys_flag, stamp_at, body_at, body_size, topic_at, topic_size, properties_at)


def body_is_sound(found: memoryview, parts: Parts) -> bool:
    """Whether the body has the CRC that the record says; an empty one always has."""
    if parts.body_size == 0:
        return True
    stored = int(_UINT32.unpack_from(found, record.BODY_CRC_AT)[0])
    body = found[parts.body_at : parts.body_at + parts.body_size]
    return zlib.crc32(body) & record.CRC_MASK == stored


def tags_code(properties: bytes) -> int:
    """Hash of the TAGS value in a properties text, 0 without one; the last of several counts."""
    tag = value_of(properties, b"TAGS\x01")
    return hash_code(tag.decode(errors="replace")) if tag else 0


def value_of(properties: bytes, name: bytes) -> bytes:
    """The last value of a property, empty if none; `name` with its 0x01."""
    values = [
        pair.removeprefix(name)
        for pair in properties.split(b"\x02")
        if pair.startswith(name) and pair != name
    ]
    return values[-1] if values else b""
