from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.errors import CorruptRecord
from shmq.kernels import walk as walk_kernel
from shmq.kernels import walk_plain
from shmq.layout import record
from shmq.layout.javahash import hash_code
from shmq.layout.record import Record
from tests.property.hostile import BLANKS, RECORD_BYTES, damaged, records

STREAMS = st.lists(RECORD_BYTES | BLANKS | st.binary(max_size=9), max_size=4).map(b"".join)


def same(
    data: bytes, start: int = 0, rows: int = 5, *, checks: bool = False
) -> tuple[list[list[int]], int, int]:
    """Rows, end and stop reason that both give, after they were compared."""
    got: list[Any] = []
    for module in (walk_kernel, walk_plain):
        out = np.full((rows, 10), -7, dtype=np.int64)
        count, end, stop = module.walk(memoryview(data), start, out, checked=checks)
        assert (out[count:] == -7).all()
        got.append((out[:count].tolist(), end, stop))
    assert got[0] == got[1]
    found: tuple[list[list[int]], int, int] = got[0]
    return found


@given(
    data=damaged(STREAMS),
    start=st.integers(-1, 40),
    rows=st.integers(0, 5),
    checks=st.booleans(),
)
def test_kernel_equals_twin(*, data: bytes, start: int, rows: int, checks: bool) -> None:
    same(data, 0, rows, checks=checks)
    same(data, start, rows, checks=checks)


@given(st.lists(records(), max_size=4))
def test_rows_say_what_the_records_say(stored: list[Record]) -> None:
    data = b"".join(map(record.encode, stored))
    rows, end, stop = same(data, checks=True)
    assert (end, stop, len(rows)) == (len(data), walk_kernel.STOP_END, len(stored))
    at = 0
    for row, one in zip(rows, stored, strict=True):
        assert row[:6] == [
            at,
            one.size,
            one.queue_offset,
            one.physical_offset,
            one.sys_flag,
            one.store_timestamp,
        ]
        assert row[7] == one.queue_id
        assert data[row[8] : row[8] + row[9]].decode() == one.topic
        assert record.decode(data, at) == record.decode(record.encode(one))
        at += one.size


@given(records())
def test_cut_at_every_byte(one: Record) -> None:
    data = record.encode(one)
    for size in [*range(min(len(data), 400)), len(data) - 1]:
        rows, end, stop = same(data[:size])
        assert (rows, end, stop) == ([], 0, walk_kernel.STOP_END)


@given(damaged(RECORD_BYTES))
def test_what_reads_as_a_record_is_walked(data: bytes) -> None:
    try:
        one = record.decode(data)
    except CorruptRecord:
        return
    rows, end, _ = same(data, checks=True)
    assert one.topic == "" or (len(rows), end) == (1, one.size)


@given(st.binary(max_size=24))
def test_hash_of_any_tag(tag: bytes) -> None:
    tag = tag.replace(b"\x02", b"")
    data = record.encode(Record(topic="T", body=b"b", properties=b"TAGS\x01" + tag))
    rows, _, _ = same(data)
    assert rows[0][6] == (hash_code(tag.decode(errors="replace")) if tag else 0)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x02"), max_size=9))
def test_hash_of_text(tag: str) -> None:
    data = record.encode(Record(topic="T", body=b"b", properties=f"TAGS\x01{tag}\x02".encode()))
    assert same(data)[0][0][6] == hash_code(tag)


@pytest.mark.parametrize("magic", [record.MAGIC_V1, record.MAGIC_V2])
@pytest.mark.parametrize("topic_size", [0, 1, 127, 128, 32767, 32768, 65535])
def test_topic_sizes(magic: int, topic_size: int) -> None:
    """A size that Java would read as negative ends the log, as it does there."""
    v2 = magic == record.MAGIC_V2
    if not v2 and topic_size > 255:
        return
    head = bytearray(record.encode(Record(topic="T", body=b"b"))[: record.BODY_AT + 1])
    head[4:8] = magic.to_bytes(4, "big")
    data = bytes(head) + topic_size.to_bytes(2 if v2 else 1, "big") + b"t" * topic_size + b"\0\0"
    data = len(data).to_bytes(4, "big") + data[4:]
    rows, _, stop = same(data)
    allowed = 1 <= topic_size <= (32767 if v2 else 127)
    assert (len(rows), stop) == (
        (1, walk_kernel.STOP_END) if allowed else (0, walk_kernel.STOP_BAD)
    )


@pytest.mark.parametrize("properties_size", [0, 32767, 32768, 65535])
def test_properties_sizes(properties_size: int) -> None:
    data = record.encode(Record(topic="T", body=b"b"))[:-2]
    data += properties_size.to_bytes(2, "big") + b"p" * properties_size
    data = len(data).to_bytes(4, "big") + data[4:]
    assert len(same(data)[0]) == (properties_size <= 32767)


def test_a_wrong_crc_ends_the_log() -> None:
    good = record.encode(Record(topic="T", body=b"body"))
    bad = record.encode(Record(topic="T", body=b"body", body_crc=1))
    assert same(good + bad, checks=True)[1:] == (len(good), walk_kernel.STOP_BAD)
    assert same(good + bad)[1:] == (len(good + bad), walk_kernel.STOP_END)


def test_the_crc_of_an_empty_body_is_not_looked_at() -> None:
    data = record.encode(Record(topic="T", body=b"", body_crc=1))
    assert same(data, checks=True)[1:] == (len(data), walk_kernel.STOP_END)


@pytest.mark.parametrize("module", [walk_kernel, walk_plain])
def test_columns(module: Any) -> None:
    with pytest.raises(ValueError, match="10 columns"):
        module.walk(b"", 0, np.zeros((1, 9), dtype=np.int64), checked=False)


@given(
    st.lists(
        st.tuples(st.sampled_from(["T", "TT", "Ü", "%RETRY%T"]), st.sampled_from([0, 1, -1])),
        max_size=40,
    )
)
def test_rows_are_sorted_by_queue(queues: list[tuple[str, int]]) -> None:
    """Kernel and twin agree, and each row is in the list of its queue, in its order."""
    data = b"".join(
        record.encode(Record(topic=topic, queue_id=queue_id, body=b""))
        for topic, queue_id in queues
    )
    rows = np.zeros((len(queues), 10), dtype=np.int64)
    assert walk_kernel.walk(data, 0, rows, checked=False)[0] == len(queues)
    found: list[Any] = []
    for module in (walk_kernel, walk_plain):
        order, bounds = (np.full(len(queues) + 1, -7, dtype=np.int64) for _ in range(2))
        count = module.assort(data, rows, order[: len(queues)], bounds)
        found.append((order.tolist(), bounds[: count + 1].tolist()))
    assert found[0] == found[1]
    order, bounds = found[0]
    lists = [order[begin:end] for begin, end in itertools.pairwise(bounds)]
    wanted = {queue: [i for i, one in enumerate(queues) if one == queue] for queue in queues}
    assert lists == list(wanted.values())


def test_rows_of_other_data_are_refused() -> None:
    rows = np.zeros((1, 10), dtype=np.int64)
    places, bounds = np.zeros(1, dtype=np.int64), np.zeros(2, dtype=np.int64)
    for at, size in ((-1, 1), (1, 3), (2**62, 2**62), (3, -1)):
        rows[0, 8:10] = at, size
        with pytest.raises(ValueError, match="outside of the data"):
            walk_kernel.assort(b"abc", rows, places, bounds)
    with pytest.raises(ValueError, match="a place for each"):
        walk_kernel.assort(b"abc", rows, places, bounds[:1])


def test_reasons_have_the_same_numbers() -> None:
    names = [name for name in vars(walk_plain) if name.startswith("STOP_")]
    assert len(names) == 4
    for name in names:
        assert getattr(walk_kernel, name) == getattr(walk_plain, name)
