"""Plain twin of survey.py. Layouts: layout/record.py, layout/indexfile.py."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

from shmq.kernels.walk_plain import COLUMNS, STOP_END, Parts, parts_of, value_of, walk
from shmq.layout import indexfile, record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

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

SURVEY_COLUMNS: Final = 13
DAY_MS: Final = 86_400_000
RECONSUME_TIMES_MAX: Final = 0xFFFF
SYS_FLAG_MAX: Final = 0x7FF
CRC_PROPERTY_START: Final = b"__CRC32#\x01"
CRC_PROPERTY_SIZE: Final = 20
CRC_DIGITS: Final = 10
ZLIB: Final = (0, 3)
COMPRESSION_STARTS: Final = {1: b"\x04\x22\x4d\x18", 2: b"\x28\xb5\x2f\xfd"}

_UINT32: Final = struct.Struct(">I")
_INT32: Final = struct.Struct(">i")
_INT64: Final = struct.Struct(">q")


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
