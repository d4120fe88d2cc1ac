"""Plain twin of walk.py. Layout: layout/record.py."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.layout import indexfile, record
from shmq.layout.javahash import hash_code

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

STOP_END: Final = 0  # every byte was walked, or the next record is longer than the bytes given
STOP_BLANK: Final = 1  # the blank record at the end of a file
STOP_BAD: Final = 2  # not a record
STOP_FULL: Final = 3  # the array is full

FAULT_BODY_CRC: Final = 1
FAULT_PHYSICAL_OFFSET: Final = 2
FAULT_QUEUE: Final = 4
FAULT_PORT: Final = 8
FAULT_STORE_TIMESTAMP: Final = 16
FAULT_PROPERTY_CRC: Final = 32
FAULT_SYS_FLAG: Final = 64
FAULT_COMPRESSION: Final = 128
FAULT_PROPERTIES: Final = 256
FAULT_SENDER: Final = 512

COLUMNS: Final = 10
SURVEY_COLUMNS: Final = 13
DAY_MS: Final = 86_400_000
RECONSUME_TIMES_MAX: Final = 0xFFFF
SYS_FLAG_MAX: Final = 0x7FF
CRC_PROPERTY_START: Final = b"__CRC32#\x01"
CRC_PROPERTY_SIZE: Final = 20
CRC_DIGITS: Final = 10
ZLIB: Final = (0, 3)
COMPRESSION_STARTS: Final = {1: b"\x04\x22\x4d\x18", 2: b"\x28\xb5\x2f\xfd"}
INT32_MIN_ABS: Final = 0x80000000

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


def survey(
    data: Buffer,
    start: int,
    offset: int,
    out: NDArray[np.int64],
    table: NDArray[np.int32],
) -> tuple[int, int, int, int]:
    """Describe and examine whole records in `data` from `start` on; see the kernel.

    Returns:
        (number of rows filled, number of queues, position after the last row, STOP_*).
    """
    view = memoryview(data).cast("B")
    if out.shape[1] != SURVEY_COLUMNS:
        raise ValueError(f"rows must have {SURVEY_COLUMNS} columns, not {out.shape[1]}")
    if len(table) <= len(out) or len(table) & (len(table) - 1):
        raise ValueError(f"table of {len(table)}: a power of two above {len(out)} is needed")
    queues: dict[tuple[bytes, int], int] = {}
    walked = out[:, :COLUMNS].copy()
    if not len(view):
        return 0, 0, start, STOP_END
    count, position, stop = walk(view, start, walked, checked=False)
    for index, row in enumerate(walked[:count].tolist()):
        found = view[row[0] : row[0] + row[1]]
        parts = parts_of(found, record.head(found)[1])
        assert parts is not None
        key = (bytes(view[row[8] : row[8] + row[9]]), row[7])
        group = queues.setdefault(key, len(queues))
        host_at = parts.store_timestamp_at + _INT64.size
        host_size = record.IPV6_SIZE if parts.sys_flag & record.STORE_HOST_V6 else record.IPV4_SIZE
        host = zlib.crc32(found[host_at : host_at + host_size + _INT32.size])
        out[index] = (*row, group, faults_of(found, offset + row[0], parts), host)
    return count, len(queues), position, stop


def faults_of(found: memoryview, place: int, parts: Parts) -> int:
    """What is wrong with a record whose sizes add up: FAULT_* bits."""
    extra = parts.store_timestamp_at - record.STORE_TIMESTAMP_AT
    body_size_at = parts.body_at - _INT32.size
    numbers_at = body_size_at - record.BODY_SIZE_AT
    body = found[parts.body_at : parts.body_at + parts.body_size]
    properties = bytes(found[parts.properties_at :])

    def number(kind: struct.Struct, at: int) -> int:
        return int(kind.unpack_from(found, at)[0])

    ports = (
        number(_UINT32, record.BORN_PORT_AT + extra),
        number(_UINT32, record.STORE_PORT_AT + numbers_at),
    )
    born = number(_INT64, record.BORN_TIMESTAMP_AT)
    stored = number(_INT64, parts.store_timestamp_at)
    reconsume_times = number(_UINT32, record.RECONSUME_TIMES_AT + numbers_at)
    prepared = number(_INT64, record.PREPARED_TRANSACTION_OFFSET_AT + numbers_at)
    sender_is_sound = (
        0 <= born <= stored + DAY_MS
        and reconsume_times <= RECONSUME_TIMES_MAX
        and 0 <= prepared <= place
    )
    queue_place = (number(_INT32, record.QUEUE_ID_AT), number(_INT64, record.QUEUE_OFFSET_AT))
    checks = {
        FAULT_BODY_CRC: record.body_crc(body) != number(_UINT32, record.BODY_CRC_AT),
        FAULT_PHYSICAL_OFFSET: number(_INT64, record.PHYSICAL_OFFSET_AT) != place,
        FAULT_QUEUE: min(queue_place) < 0,
        FAULT_PORT: max(ports) > record.PORT_MAX,
        FAULT_STORE_TIMESTAMP: stored <= 0,
        FAULT_PROPERTY_CRC: property_crc_differs(found, properties),
        FAULT_SYS_FLAG: parts.sys_flag > SYS_FLAG_MAX,
        FAULT_COMPRESSION: not is_compressed_as(parts.sys_flag, bytes(body[:4])),
        FAULT_PROPERTIES: not are_pairs(properties),
        FAULT_SENDER: not sender_is_sound,
    }
    return sum(bit for bit, wrong in checks.items() if wrong)


def property_crc_differs(found: memoryview, properties: bytes) -> bool:
    """Whether the record ends with a CRC of itself that is wrong."""
    tail = properties[-CRC_PROPERTY_SIZE:]
    if len(tail) < CRC_PROPERTY_SIZE or not tail.startswith(CRC_PROPERTY_START):
        return False
    digits = tail[len(CRC_PROPERTY_START) :][:CRC_DIGITS]
    if not digits.isdigit():
        return True
    return int(digits[::-1]) != record.body_crc(found[: len(found) - CRC_PROPERTY_SIZE])


def is_compressed_as(flags: int, start: bytes) -> bool:
    """Whether a body begins as the compression begins that the sys flag names."""
    kind = (flags >> 8) & 7
    if not flags & 1:
        return kind == 0
    if kind in ZLIB:
        return (
            len(start) > 1 and start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0
        )
    return start == COMPRESSION_STARTS.get(kind)


def are_pairs(properties: bytes) -> bool:
    """Whether every non-empty piece between separators has a name, and all is UTF-8."""
    try:
        properties.decode()
    except UnicodeDecodeError:
        return False
    return all(b"\x01" in pair[1:] and pair[0] != 1 for pair in properties.split(b"\x02") if pair)


def key_hashes(data: Buffer, rows: NDArray[np.int64], out: NDArray[np.int64]) -> tuple[int, int]:
    """Hashes of the index keys of records; see the kernel.

    Returns:
        (number of rows done, number of hashes).
    """
    view = memoryview(data).cast("B")
    count = 0
    if not len(view):
        return 0, 0
    for index, row in enumerate(rows.tolist()):
        position, size, topic_at, topic_size = row[0], row[1], row[8], row[9]
        properties = bytes(view[topic_at + topic_size + 2 : position + size])
        if len(out) - count < len(properties) // 2 + 3:
            return index, count
        topic = bytes(view[topic_at : topic_at + topic_size]).decode(errors="replace")
        words = [
            value_of(properties, b"UNIQ_KEY\x01"),
            *value_of(properties, b"KEYS\x01").split(b" "),
        ]
        keys = [indexfile.index_key(topic, word.decode(errors="replace")) for word in words if word]
        if tag := value_of(properties, b"TAGS\x01"):
            keys.append(indexfile.tag_index_key(topic, tag.decode(errors="replace")))
        for key in keys:
            out[count] = (index, indexfile.key_hash(key))
            count += 1
    return len(rows), count
