from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.kernels import survey as survey_kernel
from shmq.kernels import survey_plain
from shmq.kernels.walk import walk
from shmq.layout import indexfile, record
from shmq.layout.record import Record
from tests.property.hostile import BLANKS, RECORD_BYTES, damaged, records

PAIRS = st.lists(
    st.sampled_from(
        [
            b"UNIQ_KEY\x01u1",
            "UNIQ_KEY\x01schlüssel".encode(),
            b"KEYS\x01a b  c",
            b"KEYS\x01 ",
            b"KEYS\x01\xff x",
            b"TAGS\x01t",
            b"A\x01",
            b"\x01A",
            b"\x01",
            b"",
            b"__CRC32#\x011234567890",
        ]
    ),
    max_size=5,
).map(lambda pairs: b"".join(pair + b"\x02" for pair in pairs))
BODIES = st.sampled_from(
    [b"", b"x", b"\x78", b"\x78\x9c", b"\x04\x22\x4d\x18", b"\x28\xb5\x2f\xfd", b"body" * 9]
)


@st.composite
def examined(draw: st.DrawFn) -> bytes:
    """A record with something to examine in it, at offset 1000 of the log as a rule."""
    one = draw(records())
    one.physical_offset = 1000
    one.body, one.body_crc = draw(BODIES), None
    one.properties = draw(PAIRS | st.just(one.properties))
    one.queue_id = draw(st.sampled_from([0, 1, -1]))
    one.sys_flag |= draw(st.sampled_from([0, 1, 0x101, 0x201, 0x301, 0x401, 0x800]))
    return record.encode(one)


def surveyed(data: bytes, start: int = 0, rows: int = 5, offset: int = 1000) -> Any:
    """What both say of `data`, and what its keys are, after they were compared."""
    got: list[Any] = []
    for module in (survey_kernel, survey_plain):
        out = np.full((rows, 13), -7, dtype=np.int64)
        table = np.full(8, -7, dtype=np.int32)
        count, groups, end, stop = module.survey(memoryview(data), start, offset, out, table)
        assert (out[count:] == -7).all()
        hashes = np.full((40, 2), -7, dtype=np.int64)
        done, hash_count = module.key_hashes(data, out[:count], hashes)
        got.append((out[:count].tolist(), groups, end, stop, done, hashes[:hash_count].tolist()))
    assert got[0] == got[1]
    return got[0]


@given(
    data=damaged(st.lists(examined() | RECORD_BYTES | BLANKS, max_size=4).map(b"".join)),
    start=st.integers(-1, 40),
    rows=st.integers(0, 7),
)
def test_survey_equals_twin(*, data: bytes, start: int, rows: int) -> None:
    surveyed(data, 0, rows)
    surveyed(data, start, rows)


@given(st.lists(records(), max_size=4))
def test_survey_sees_what_walk_sees(stored: list[Record]) -> None:
    data = b"".join(map(record.encode, stored))
    rows, groups, end, stop = surveyed(data)[:4]
    walked = np.zeros((5, 10), dtype=np.int64)
    count, *ended = walk(data, 0, walked, checked=False)
    assert ([row[:10] for row in rows], [end, stop]) == (walked[:count].tolist(), ended)
    queues = list(dict.fromkeys((one.topic, one.queue_id) for one in stored))
    assert groups == len(queues)
    assert [row[10] for row in rows] == [queues.index((s.topic, s.queue_id)) for s in stored]


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("body_crc", 1, survey_plain.FAULT_BODY_CRC),
        ("physical_offset", 1001, survey_plain.FAULT_PHYSICAL_OFFSET),
        ("queue_id", -1, survey_plain.FAULT_QUEUE),
        ("queue_offset", -1, survey_plain.FAULT_QUEUE),
        ("born_port", 65536, survey_plain.FAULT_PORT),
        ("store_port", -1, survey_plain.FAULT_PORT),
        ("store_timestamp", 0, survey_plain.FAULT_STORE_TIMESTAMP),
        ("sys_flag", 0x800, survey_plain.FAULT_SYS_FLAG),
        ("sys_flag", 1, survey_plain.FAULT_COMPRESSION),
        ("sys_flag", 0x100, survey_plain.FAULT_COMPRESSION),
        ("properties", b"A", survey_plain.FAULT_PROPERTIES),
        ("properties", b"A\x01\xff\x02", survey_plain.FAULT_PROPERTIES),
        ("born_timestamp", -1, survey_plain.FAULT_SENDER),
        ("reconsume_times", -1, survey_plain.FAULT_SENDER),
        ("prepared_transaction_offset", -1, survey_plain.FAULT_SENDER),
        ("prepared_transaction_offset", 1001, survey_plain.FAULT_SENDER),
        ("born_timestamp", 5 + 86_400_001, survey_plain.FAULT_SENDER),
        ("reconsume_times", 65536, survey_plain.FAULT_SENDER),
    ],
)
def test_each_fault(field: str, value: Any, fault: int) -> None:
    one = Record(topic="T", body=b"body", physical_offset=1000, store_timestamp=5, born_port=65535)
    assert surveyed(record.encode(one))[0][0][11] == 0
    setattr(one, field, value)
    assert surveyed(record.encode(one))[0][0][11] == fault


@pytest.mark.parametrize("change", [0, 1])
def test_crc_of_a_whole_record(change: int) -> None:
    """As brokers with enabledAppendPropCRC write it: ten digits, the lowest first."""
    one = Record(topic="T", body=b"body", physical_offset=1000, store_timestamp=5)
    one.properties = b"A\x01b\x02" + b"__CRC32#\x01" + b"0" * 10 + b"\x02"
    data = bytearray(record.encode(one))
    digits = str(record.body_crc(data[:-20]))[::-1].ljust(10, "0").encode()
    data[-11:-1] = digits
    data[record.FLAG_AT] += change
    wanted = survey_plain.FAULT_PROPERTY_CRC if change else 0
    assert surveyed(bytes(data))[0][0][11] == wanted


def test_keys() -> None:
    properties = "KEYS\x01k1 k2  k1\x02UNIQ_KEY\x01ü\x02TAGS\x01t\x02".encode()
    data = record.encode(Record(topic="Thema-ä", body=b"", properties=properties))
    hashes = surveyed(data)[5]
    keys = ["Thema-ä#ü", "Thema-ä#k1", "Thema-ä#k2", "Thema-ä#k1", "Thema-ä#T#t"]
    assert hashes == [[0, indexfile.key_hash(key)] for key in keys]


def test_keys_without_room_are_left() -> None:
    data = record.encode(Record(topic="T", body=b"", properties=b"UNIQ_KEY\x01u\x02"))
    rows = np.zeros((2, 13), dtype=np.int64)
    table = np.zeros(4, dtype=np.int32)
    assert survey_kernel.survey(data * 2, 0, 0, rows, table)[0] == 2
    for module in (survey_kernel, survey_plain):
        assert module.key_hashes(data * 2, rows, np.zeros((8, 2), dtype=np.int64)) == (1, 1)


@pytest.mark.parametrize("module", [survey_kernel, survey_plain])
def test_survey_needs_room(module: Any) -> None:
    rows = np.zeros((4, 13), dtype=np.int64)
    for size in (0, 4, 6):
        with pytest.raises(ValueError, match="power of two"):
            module.survey(b"x", 0, 0, rows, np.zeros(size, dtype=np.int32))
    with pytest.raises(ValueError, match="13 columns"):
        module.survey(b"x", 0, 0, rows[:, :10].copy(), np.zeros(8, dtype=np.int32))


def test_faults_have_the_same_numbers() -> None:
    names = [name for name in vars(survey_plain) if name.startswith("FAULT_")]
    assert len(names) == 10
    for name in names:
        assert getattr(survey_kernel, name) == getattr(survey_plain, name)
