from __future__ import annotations

import struct

import pytest

from shmq.errors import CorruptRecord
from shmq.layout import record

V4 = bytes((10, 0, 0, 1))
V6 = bytes(range(16))
BOTH_V6 = record.BORN_HOST_V6 | record.STORE_HOST_V6


def make(**changes: object) -> record.Record:
    fields: dict[str, object] = {
        "topic": "T",
        "body": b"hello",
        "properties": b"TAGS\x01a\x02",
        "queue_id": 3,
        "flag": -5,
        "queue_offset": 7,
        "physical_offset": 1 << 40,
        "born_timestamp": 1_700_000_000_000,
        "born_port": 4711,
        "store_timestamp": 1_700_000_000_001,
        "store_port": 10911,
        "reconsume_times": 2,
        "prepared_transaction_offset": 99,
    }
    return record.Record(**(fields | changes))  # type: ignore[arg-type]


RECORDS = {
    "ipv4": make(),
    "ipv6 born": make(sys_flag=record.BORN_HOST_V6, born_host=V6),
    "ipv6 store": make(sys_flag=record.STORE_HOST_V6, store_host=V6),
    "ipv6 both": make(sys_flag=BOTH_V6, born_host=V6, store_host=V6),
    "long topic": make(topic="%RETRY%" + "t" * 200, magic=record.MAGIC_V2),
    "empty": make(topic="", body=b"", properties=b""),
    "topic of 127": make(topic="t" * 127),
}


def stored(found: record.Record) -> record.Record:
    found.body_crc = None
    return found


@pytest.mark.parametrize("name", RECORDS)
def test_round_trip(name: str) -> None:
    data = record.encode(RECORDS[name])
    assert len(data) == RECORDS[name].size
    assert stored(record.decode(data)) == RECORDS[name]
    assert stored(record.decode(b"xyz" + data + b"more", 3)) == RECORDS[name]
    assert stored(record.decode(memoryview(bytearray(data)))) == RECORDS[name]


@pytest.mark.parametrize("name", RECORDS)
def test_cut_at_every_byte(name: str) -> None:
    data = record.encode(RECORDS[name])
    for size in range(len(data)):
        with pytest.raises(CorruptRecord):
            record.decode(data[:size])


def test_fields_lie_where_the_table_says() -> None:
    data = record.encode(make())

    def at(kind: str, position: int) -> int:
        (value,) = struct.unpack_from(">" + kind, data, position)
        return int(value)

    assert at("i", record.SIZE_AT) == len(data)
    assert at("I", record.MAGIC_AT) == record.MAGIC_V1
    assert at("i", record.BODY_CRC_AT) == record.body_crc(b"hello")
    assert at("i", record.QUEUE_ID_AT) == 3
    assert at("i", record.FLAG_AT) == -5
    assert at("q", record.QUEUE_OFFSET_AT) == 7
    assert at("q", record.PHYSICAL_OFFSET_AT) == 1 << 40
    assert at("i", record.SYS_FLAG_AT) == 0
    assert at("q", record.BORN_TIMESTAMP_AT) == 1_700_000_000_000
    assert at("i", record.BORN_PORT_AT) == 4711
    assert at("q", record.STORE_TIMESTAMP_AT) == 1_700_000_000_001
    assert at("i", record.STORE_PORT_AT) == 10911
    assert at("i", record.RECONSUME_TIMES_AT) == 2
    assert at("q", record.PREPARED_TRANSACTION_OFFSET_AT) == 99
    assert at("i", record.BODY_SIZE_AT) == 5
    assert data[record.BODY_AT : record.BODY_AT + 5] == b"hello"


def test_ipv6_moves_what_follows() -> None:
    data = record.encode(make(sys_flag=record.BORN_HOST_V6, born_host=V6))
    position = record.STORE_TIMESTAMP_AT + record.IPV6_EXTRA
    assert struct.unpack_from(">q", data, position) == (1_700_000_000_001,)


def test_magic_for_long_topics() -> None:
    assert record.magic_for("t" * 127) == record.MAGIC_V1
    assert record.magic_for("t" * 128) == record.MAGIC_V2
    assert record.magic_for("ü" * 64) == record.MAGIC_V2  # 128 bytes


def test_body_crc_has_31_bits() -> None:
    assert record.body_crc(b"") == 0
    assert record.body_crc(b"123456789") == 0xCBF43926 & 0x7FFFFFFF


def test_crc_is_checked_on_demand() -> None:
    data = bytearray(record.encode(make()))
    data[record.BODY_AT] ^= 1
    with pytest.raises(CorruptRecord, match="body CRC differs"):
        record.decode(data)
    assert record.decode(data, check_crc=False).body == b"iello"


def test_blank() -> None:
    assert record.blank(8) == bytes.fromhex("00000008 cbd43194")
    assert record.head(record.blank(500)) == (500, record.BLANK_MAGIC)
    with pytest.raises(CorruptRecord, match="blank"):
        record.decode(record.blank(8))


PATCHES = {
    "magic": (record.MAGIC_AT, "I", 0xDAA320A8),
    "size 0": (record.SIZE_AT, "i", 0),
    "size negative": (record.SIZE_AT, "i", -1),
    "size below least": (record.SIZE_AT, "i", 90),
    "size one less": (record.SIZE_AT, "i", 91 + 1 + 5 + 7 - 1),
    "size one more": (record.SIZE_AT, "i", 91 + 1 + 5 + 7 + 1),
    "queue_id": (record.QUEUE_ID_AT, "i", -1),
    "queue_offset": (record.QUEUE_OFFSET_AT, "q", -1),
    "physical_offset": (record.PHYSICAL_OFFSET_AT, "q", -1),
    "sys_flag claims IPv6": (record.SYS_FLAG_AT, "i", BOTH_V6),
    "born_port": (record.BORN_PORT_AT, "i", 65536),
    "store_port": (record.STORE_PORT_AT, "i", -1),
    "body_size negative": (record.BODY_SIZE_AT, "i", -1),
    "body_size huge": (record.BODY_SIZE_AT, "i", 0x7FFFFFFF),
    "body_size one more": (record.BODY_SIZE_AT, "i", 6),
    "topic_size negative": (93, "b", -1),
    "topic_size 127": (93, "b", 127),
    "topic not UTF-8": (94, "B", 0xFF),
    "properties_size negative": (95, "h", -1),
    "properties_size one less": (95, "h", 6),
    "properties_size one more": (95, "h", 8),
}


@pytest.mark.parametrize("name", PATCHES)
def test_wrong_fields(name: str) -> None:
    data = bytearray(record.encode(make())) + b"\0"
    position, kind, value = PATCHES[name]
    struct.pack_into(">" + kind, data, position, value)
    with pytest.raises(CorruptRecord):
        record.decode(data)


def test_zeros_are_no_record() -> None:
    with pytest.raises(CorruptRecord, match="magic"):
        record.decode(bytes(200))
    with pytest.raises(CorruptRecord, match="no room"):
        record.decode(bytes(200), 193)
    with pytest.raises(CorruptRecord, match="no room"):
        record.decode(bytes(200), -1)


@pytest.mark.parametrize(
    "wrong",
    [
        make(topic="t" * 128),
        make(properties=bytes(32768)),
        make(born_host=V6),
        make(sys_flag=record.STORE_HOST_V6, store_host=V4),
        make(magic=record.BLANK_MAGIC),
    ],
)
def test_we_never_write_what_nobody_reads(wrong: record.Record) -> None:
    with pytest.raises(AssertionError):
        record.encode(wrong)


def test_largest_properties() -> None:
    largest = make(properties=bytes(32767))
    assert stored(record.decode(record.encode(largest))) == largest
