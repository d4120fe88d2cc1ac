"""Layout of a record in the commitlog: one stored message, and the blank at the end of a file.

Big-endian, packed. Offsets for IPv4 hosts; each IPv6 host before a field moves it by 12.

    offset  size  type  field                        meaning
         0     4  i32   size                         of the whole record, in bytes
         4     4  u32   magic                        MAGIC_V1 or MAGIC_V2
         8     4  i32   body_crc                     CRC-32 of the stored body & 0x7FFFFFFF
        12     4  i32   queue_id
        16     4  i32   flag                         the sender's own
        20     8  i64   queue_offset                 place in the queue, in entries; 0 for prepared
                                                     and rolled back transactions
        28     8  i64   physical_offset              of this record, in bytes of the commitlog
        36     4  i32   sys_flag                     bit 4: born host is IPv6, bit 5: store host is
        40     8  i64   born_timestamp               ms since the epoch, the sender's clock
        48     4  u8[]  born_host                    16 bytes if IPv6
        52     4  i32   born_port
        56     8  i64   store_timestamp              ms since the epoch, never falls in the log
        64     4  u8[]  store_host                   16 bytes if IPv6
        68     4  i32   store_port
        72     4  i32   reconsume_times
        76     8  i64   prepared_transaction_offset  physical offset of the half message, or 0
        84     4  i32   body_size
        88     b  u8[]  body                         still compressed if sys_flag bit 0 is set
      88+b     1  i8    topic_size                   V2: i16, for topics of more than 127 characters
      89+b     t  utf8  topic
    89+b+t     2  i16   properties_size              at most 32767
    91+b+t     p  utf8  properties                   see wire.properties

A record never crosses the end of a commitlog file. What does not fit, with BLANK_HEAD_SIZE bytes to
spare, goes into the next file, and the rest of the old one is a blank:

    offset  size  type  field      meaning
         0     4  i32   size       bytes to the end of the file
         4     4  u32   magic      BLANK_MAGIC
         8     n  u8[]  (unused)

Written by: writer, append only. Read by: dispatch, serve, recovery, replication.
Source: Apache RocketMQ store/CommitLog, MessageExtEncoder, common/message/MessageDecoder.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, TypeAlias

import msgspec

from shmq.errors import CorruptRecord

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC_V1: Final = 0xDAA320A7
MAGIC_V2: Final = 0xDAA320AB
BLANK_MAGIC: Final = 0xCBD43194
BLANK_HEAD_SIZE: Final = 8

SIZE_AT: Final = 0
MAGIC_AT: Final = 4
BODY_CRC_AT: Final = 8
QUEUE_ID_AT: Final = 12
FLAG_AT: Final = 16
QUEUE_OFFSET_AT: Final = 20
PHYSICAL_OFFSET_AT: Final = 28
SYS_FLAG_AT: Final = 36
BORN_TIMESTAMP_AT: Final = 40
BORN_HOST_AT: Final = 48
BORN_PORT_AT: Final = 52
STORE_TIMESTAMP_AT: Final = 56  # and all below: + IPV6_EXTRA if the born host is IPv6
STORE_HOST_AT: Final = 64
STORE_PORT_AT: Final = 68  # and all below: + IPV6_EXTRA if the store host is IPv6
RECONSUME_TIMES_AT: Final = 72
PREPARED_TRANSACTION_OFFSET_AT: Final = 76
BODY_SIZE_AT: Final = 84
BODY_AT: Final = 88

IPV4_SIZE: Final = 4
IPV6_SIZE: Final = 16
IPV6_EXTRA: Final = IPV6_SIZE - IPV4_SIZE
BORN_HOST_V6: Final = 0x10  # in sys_flag
STORE_HOST_V6: Final = 0x20

RECORD_SIZE_MIN: Final = 91  # no body, no topic, no properties
RECORD_SIZE_MAX: Final = (512 << 20) + (64 << 10)
"""Of the largest body that can be allowed, and all that stands beside it; more is damage."""
TOPIC_SIZE_MAX_V1: Final = 127
TOPIC_SIZE_MAX_V2: Final = 0x7FFF
PROPERTIES_SIZE_MAX: Final = 0x7FFF
PORT_MAX: Final = 0xFFFF
CRC_MASK: Final = 0x7FFFFFFF

_HEAD: Final = struct.Struct(">iIiiiqqiq")  # size to born_timestamp
_AFTER_HOSTS: Final = struct.Struct(">iqi")  # reconsume_times to body_size
_INT32: Final = struct.Struct(">i")
_INT64: Final = struct.Struct(">q")
_INT16: Final = struct.Struct(">h")
_BLANK: Final = struct.Struct(">iI")
assert _HEAD.size == BORN_HOST_AT
assert _AFTER_HOSTS.size == BODY_AT - RECONSUME_TIMES_AT
assert _BLANK.size == BLANK_HEAD_SIZE
assert BODY_AT + 1 + 2 == RECORD_SIZE_MIN


class Record(msgspec.Struct, kw_only=True):
    """One record, all its fields; size and CRC follow from the others."""

    topic: str
    body: bytes
    properties: bytes = b""
    queue_id: int = 0
    flag: int = 0
    queue_offset: int = 0
    physical_offset: int = 0
    sys_flag: int = 0
    born_timestamp: int = 0
    born_host: bytes = b"\x7f\x00\x00\x01"
    born_port: int = 0
    store_timestamp: int = 0
    store_host: bytes = b"\x7f\x00\x00\x01"
    store_port: int = 0
    reconsume_times: int = 0
    prepared_transaction_offset: int = 0
    magic: int = MAGIC_V1
    body_crc: int | None = None  # None: computed when encoded

    @property
    def size(self) -> int:
        """Bytes of the whole record."""
        return record_size(
            body_size=len(self.body),
            topic_size=len(self.topic.encode()),
            properties_size=len(self.properties),
            sys_flag=self.sys_flag,
            magic=self.magic,
        )


def record_size(
    *, body_size: int, topic_size: int, properties_size: int, sys_flag: int, magic: int
) -> int:
    """Bytes of a record with parts of these sizes."""
    return (
        RECORD_SIZE_MIN
        + (1 if magic == MAGIC_V2 else 0)
        + (IPV6_EXTRA if sys_flag & BORN_HOST_V6 else 0)
        + (IPV6_EXTRA if sys_flag & STORE_HOST_V6 else 0)
        + body_size
        + topic_size
        + properties_size
    )


def magic_for(topic: str) -> int:
    """The magic that a record of this topic needs: V2 only where V1 cannot hold the name."""
    return MAGIC_V2 if len(topic.encode()) > TOPIC_SIZE_MAX_V1 else MAGIC_V1


def body_crc(body: Buffer) -> int:
    """CRC of a stored body, as records hold it; 0 for an empty one."""
    return zlib.crc32(body) & CRC_MASK


def encode(record: Record) -> bytes:
    """Bytes of `record`. Its hosts, sys_flag, magic and sizes must agree."""
    topic = record.topic.encode()
    v2 = record.magic == MAGIC_V2
    assert v2 or record.magic == MAGIC_V1, record.magic
    assert len(topic) <= (TOPIC_SIZE_MAX_V2 if v2 else TOPIC_SIZE_MAX_V1), len(topic)
    assert len(record.properties) <= PROPERTIES_SIZE_MAX, len(record.properties)
    assert len(record.born_host) == _host_size(record.sys_flag & BORN_HOST_V6), record.born_host
    assert len(record.store_host) == _host_size(record.sys_flag & STORE_HOST_V6), record.store_host
    crc = body_crc(record.body) if record.body_crc is None else record.body_crc
    return b"".join(
        (
            _HEAD.pack(
                record.size,
                record.magic,
                crc,
                record.queue_id,
                record.flag,
                record.queue_offset,
                record.physical_offset,
                record.sys_flag,
                record.born_timestamp,
            ),
            record.born_host,
            _INT32.pack(record.born_port),
            _INT64.pack(record.store_timestamp),
            record.store_host,
            _INT32.pack(record.store_port),
            _AFTER_HOSTS.pack(
                record.reconsume_times, record.prepared_transaction_offset, len(record.body)
            ),
            record.body,
            _INT16.pack(len(topic)) if v2 else bytes((len(topic),)),
            topic,
            _INT16.pack(len(record.properties)),
            record.properties,
        )
    )


def decode(buffer: Buffer, position: int = 0, *, check_crc: bool = True) -> Record:
    """The record that begins at `position`; its parts are copied.

    Raises:
        CorruptRecord: what lies there is not one whole record; a blank is none either.
    """
    size, magic = head(buffer, position)
    end = position + size
    if magic == BLANK_MAGIC:
        raise CorruptRecord("blank at the end of a file", position=position, size=size)
    if magic not in (MAGIC_V1, MAGIC_V2):
        raise CorruptRecord(
            "magic", position=position, found=f"{magic:#x}", allowed="0xdaa320a7, 0xdaa320ab"
        )
    if size < RECORD_SIZE_MIN or end > len(buffer):
        raise CorruptRecord(
            "record size",
            position=position,
            found=size,
            allowed=(RECORD_SIZE_MIN, len(buffer) - position),
        )
    fields = _HEAD.unpack_from(buffer, position)
    sys_flag = fields[7]
    born_end = position + BORN_HOST_AT + _host_size(sys_flag & BORN_HOST_V6)
    store_at = born_end + _INT32.size + _INT64.size
    store_end = store_at + _host_size(sys_flag & STORE_HOST_V6)
    body_at = store_end + _INT32.size + _AFTER_HOSTS.size
    if body_at + 3 > end:
        raise CorruptRecord("record too short for its hosts", position=position, size=size)
    reconsume_times, prepared_offset, body_size = _AFTER_HOSTS.unpack_from(buffer, store_end + 4)
    topic_at, topic_end, properties_at = _parts(buffer, body_at, body_size, magic, end)
    record = Record(
        topic=_topic(buffer, topic_at, topic_end, position),
        body=bytes(buffer[body_at : body_at + body_size]),
        properties=bytes(buffer[properties_at:end]),
        magic=magic,
        body_crc=fields[2],
        queue_id=fields[3],
        flag=fields[4],
        queue_offset=fields[5],
        physical_offset=fields[6],
        sys_flag=sys_flag,
        born_timestamp=fields[8],
        born_host=bytes(buffer[position + BORN_HOST_AT : born_end]),
        born_port=_INT32.unpack_from(buffer, born_end)[0],
        store_timestamp=_INT64.unpack_from(buffer, born_end + 4)[0],
        store_host=bytes(buffer[store_at:store_end]),
        store_port=_INT32.unpack_from(buffer, store_end)[0],
        reconsume_times=reconsume_times,
        prepared_transaction_offset=prepared_offset,
    )
    _check(record, position, check_crc=check_crc)
    return record


def head(buffer: Buffer, position: int = 0) -> tuple[int, int]:
    """Size and magic of what begins at `position`, unchecked: a record, a blank or neither.

    Raises:
        CorruptRecord: fewer than eight bytes are left.
    """
    if position < 0 or position + BLANK_HEAD_SIZE > len(buffer):
        raise CorruptRecord("no room for a record head", position=position, buffer_size=len(buffer))
    size, magic = _BLANK.unpack_from(buffer, position)
    return size, magic


def blank(size: int) -> bytes:
    """The head of a blank that fills `size` bytes to the end of a commitlog file."""
    assert size >= BLANK_HEAD_SIZE, size
    return _BLANK.pack(size, BLANK_MAGIC)


def _host_size(v6: int) -> int:
    return IPV6_SIZE if v6 else IPV4_SIZE


def _parts(
    buffer: Buffer, body_at: int, body_size: int, magic: int, end: int
) -> tuple[int, int, int]:
    """Places of topic, its end, and properties, after all sizes were checked against `end`."""
    topic_size_size = 2 if magic == MAGIC_V2 else 1
    topic_at = body_at + body_size + topic_size_size
    if body_size < 0 or topic_at + _INT16.size > end:
        raise CorruptRecord("body longer than record", body_size=body_size, end=end)
    if magic == MAGIC_V2:
        topic_size = _INT16.unpack_from(buffer, topic_at - 2)[0]
    else:
        topic_size = buffer[topic_at - 1]
        if topic_size > TOPIC_SIZE_MAX_V1:
            topic_size = -1  # Java reads the byte with its sign.
    topic_end = topic_at + topic_size
    if topic_size < 0 or topic_end + _INT16.size > end:
        raise CorruptRecord("topic longer than record", topic_size=topic_size, end=end)
    properties_size = _INT16.unpack_from(buffer, topic_end)[0]
    properties_at = topic_end + _INT16.size
    if properties_size < 0 or properties_at + properties_size != end:
        raise CorruptRecord(
            "parts do not add up to the record's size",
            properties_size=properties_size,
            allowed=end - properties_at,
        )
    return topic_at, topic_end, properties_at


def _topic(buffer: Buffer, start: int, end: int, position: int) -> str:
    try:
        return bytes(buffer[start:end]).decode()
    except UnicodeDecodeError as error:
        raise CorruptRecord(
            "topic is not UTF-8", position=position, topic_position=error.start
        ) from None


def _check(record: Record, position: int, *, check_crc: bool) -> None:
    """What the sizes cannot show."""
    for name in ("queue_id", "queue_offset", "physical_offset"):
        if getattr(record, name) < 0:
            raise CorruptRecord(f"negative {name}", position=position, found=getattr(record, name))
    for name in ("born_port", "store_port"):
        if not 0 <= getattr(record, name) <= PORT_MAX:
            raise CorruptRecord(name, position=position, found=getattr(record, name), max=PORT_MAX)
    if check_crc:
        computed = body_crc(record.body)
        if record.body_crc != computed:
            raise CorruptRecord(
                "body CRC differs", position=position, stored=record.body_crc, computed=computed
            )
