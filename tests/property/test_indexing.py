from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shmq.kernels import indexing, indexing_plain
from shmq.layout import indexfile, record
from shmq.layout.indexfile import IndexEntry, IndexHeader
from shmq.layout.record import Record
from tests.property.hostile import BLANKS, RECORD_BYTES, damaged, records

ROWS = indexing.ROWS_MIN
FILE_SIZE = 1 << 50  # of the log: a blank ends what is looked at
MODULES = (indexing, indexing_plain)
KEYS = st.sampled_from(
    [
        b"UNIQ_KEY\x01u",
        b"UNIQ_KEY\x01",
        b"UNIQ_KEYS\x01x",
        b"KEYS\x01a b  c",
        b"KEYS\x01 ",
        b"KEYS\x01a\x01b",
        b"KEYS\x01\xff\xed\xa0 \xe4\xb8",
        b"KEYS\x01" + b"k " * 16_000,
        b"TAGS\x01t",
        b"TAGS\x01",
        b"KEYS",
        b"",
        b"\x01x",
    ]
)
PROPERTIES = st.lists(KEYS | st.binary(max_size=12), max_size=5).map(b"\x02".join)
SLOTS, ENTRIES = 7, 12


@st.composite
def logs(draw: st.DrawFn) -> tuple[int, bytes]:
    """Where a piece of a log begins, and records that lie there."""
    start = at = draw(st.integers(0, 2**40))
    data = b""
    for one in draw(st.lists(records(), max_size=4)):
        properties = draw(PROPERTIES)
        if len(properties) <= record.PROPERTIES_SIZE_MAX:
            one.properties = properties
        one.physical_offset = at
        data += record.encode(one)
        at = start + len(data)
    return start, data


def keys_of(data: bytes, start: int, *, turn: int = 0, limit: int) -> Any:
    """What both find in `data`, which lies at `start` in a ring that begins `turn` bytes later."""
    ring = data[turn:] + data[:turn]
    base = start - len(ring) + turn if turn else start
    got: list[Any] = []
    for module in MODULES:
        out: NDArray[np.int64] = np.full((ROWS, 3), -7, dtype=np.int64)
        count, *rest = module.keys_of(ring, base, start, limit, FILE_SIZE, out)
        got.append((out[:count].tolist(), *rest))
    assert got[0] == got[1]
    return got[0]


@given(log=logs(), data=st.data())
def test_kernel_equals_twin(log: tuple[int, bytes], data: st.DataObject) -> None:
    start, stored = log
    stored = data.draw(damaged(st.just(stored)))
    limit = start + data.draw(st.integers(0, len(stored)))
    turn = 0
    if start > len(stored) > 0:
        turn = data.draw(st.integers(0, len(stored) - 1))
    keys_of(stored, start, turn=turn, limit=limit)


@given(data=damaged(st.lists(RECORD_BYTES | BLANKS, max_size=3).map(b"".join)))
def test_any_bytes(data: bytes) -> None:
    keys_of(data, 0, limit=len(data))


@given(logs())
def test_rows_are_the_keys_of_the_layout(log: tuple[int, bytes]) -> None:
    """Each record's keys, as the layout describes them."""
    start, data = log
    rows, end, stop, _ = keys_of(data, start, limit=start + len(data))
    at, wanted = 0, []
    while at < end - start:
        one = record.decode(data, at)
        at += one.size
        if one.sys_flag & 0xC == 0xC:
            continue
        pairs: dict[str, str] = {}
        for pair in one.properties.decode(errors="replace").split("\x02"):
            name, _, value = pair.partition("\x01")
            if value:
                pairs[name] = value
        words = [pairs[name] for name in ("UNIQ_KEY",) if name in pairs]
        words += [word for word in pairs.get("KEYS", "").split(" ") if word]
        keys = [indexfile.index_key(one.topic, word) for word in words]
        keys += [indexfile.tag_index_key(one.topic, pairs["TAGS"])] if "TAGS" in pairs else []
        stamp = one.store_timestamp
        wanted += [[indexfile.key_hash(key), one.physical_offset, stamp] for key in keys]
    assert rows == wanted
    assert (end == start + len(data)) == (stop == indexing.STOP_END)


def test_what_is_passed_over() -> None:
    """The blank at the end of a file, and what is not there as a whole."""
    one = Record(topic="T", body=b"b", properties=b"KEYS\x01k", physical_offset=64)
    data = record.blank(64).ljust(64, b"\0") + record.encode(one)
    limit = len(data)
    for module in MODULES:
        out = np.zeros((ROWS, 3), dtype=np.int64)
        assert module.keys_of(data, 0, 0, limit, 64, out) == (1, limit, module.STOP_END, 0)
        assert module.keys_of(data, 0, 0, 63, 64, out) == (0, 0, module.STOP_END, 64)
        needed = one.size
        assert module.keys_of(data, 0, 64, limit - 1, 64, out) == (
            0,
            64,
            module.STOP_END,
            needed,
        )


@pytest.mark.parametrize("properties_size", [32767, 32768])
def test_properties_sizes(properties_size: int) -> None:
    data = record.encode(Record(topic="T", body=b"b"))[:-2]
    data += properties_size.to_bytes(2, "big") + b"KEYS\x01".ljust(properties_size, b"k")
    data = len(data).to_bytes(4, "big") + data[4:]
    rows, _, stop, _ = keys_of(data, 0, limit=len(data))
    assert (len(rows), stop) == ((1, 0) if properties_size == 32767 else (0, indexing.STOP_BAD))


@pytest.mark.parametrize("module", MODULES)
def test_what_no_caller_may_give(module: Any) -> None:
    out = np.zeros((ROWS, 3), dtype=np.int64)
    file = bytearray(indexfile.file_size(slot_count=SLOTS, entry_count=ENTRIES))
    with pytest.raises(ValueError, match="rows must be"):
        module.keys_of(b"", 0, 0, 0, 1, out[1:])
    with pytest.raises(ValueError, match="no such bytes"):
        module.keys_of(b"x", 0, 0, 2, 1, out)
    with pytest.raises(ValueError, match="no such bytes"):
        module.keys_of(b"x", 1, 0, 1, 1, out)
    with pytest.raises(ValueError, match="no index file"):
        module.put(file[1:], SLOTS, ENTRIES, out, 0, 0)
    with pytest.raises(ValueError, match="no such rows"):
        module.put(file, SLOTS, ENTRIES, out, 0, ROWS + 1)
    with pytest.raises(ValueError, match="no index file"):
        module.relink(file, SLOTS + 1, ENTRIES, 0)
    with pytest.raises(ValueError, match="no such key hash"):
        module.find(file, SLOTS, ENTRIES, 0, 0, 0, ENTRIES, 1, np.zeros(1, dtype=np.int64))


def test_reasons_have_the_same_numbers() -> None:
    for name in ("STOP_END", "STOP_FULL", "STOP_BAD", "ROWS_MIN"):
        assert getattr(indexing, name) == getattr(indexing_plain, name)


HASHES = st.integers(0, 20) | st.integers(0, 2**31 - 1)
GIVEN_ROWS = st.lists(
    st.tuples(HASHES, st.integers(0, 2**40), st.integers(0, 2**41)), max_size=2 * ENTRIES
)


def new_file(*, end_timestamp: int = 0, end_offset: int = 0) -> bytearray:
    """An empty index file after another one that ended so."""
    size = indexfile.file_size(slot_count=SLOTS, entry_count=ENTRIES)
    header = IndexHeader(
        begin_timestamp=end_timestamp,
        end_timestamp=end_timestamp,
        begin_offset=end_offset,
        end_offset=end_offset,
    )
    return bytearray(indexfile.encode_header(header).ljust(size, b"\0"))


def putting(rows: list[tuple[int, int, int]], *, cut: int, end_timestamp: int) -> bytearray:
    """A file after rows were put into it in two calls, the same by both."""
    array = np.array(rows, dtype=np.int64).reshape(-1, 3)
    files = []
    for module in MODULES:
        file = new_file(end_timestamp=end_timestamp)
        done = module.put(file, SLOTS, ENTRIES, array, 0, min(cut, len(rows)))
        done = module.put(file, SLOTS, ENTRIES, array, done, len(rows))
        assert done == min(len(rows), ENTRIES - 1)
        files.append(file)
    assert files[0] == files[1]
    return files[0]


@given(GIVEN_ROWS, st.integers(0, ENTRIES), st.sampled_from([0, 1000, 2**41]))
def test_what_was_put_is_in_its_chain(
    rows: list[tuple[int, int, int]], cut: int, end_timestamp: int
) -> None:
    file = putting(rows, cut=cut, end_timestamp=end_timestamp)
    kept = rows[: ENTRIES - 1]
    header = indexfile.decode_header(file)
    assert header.entry_count == len(kept) + 1
    assert header.used_slot_count == len({hashed % SLOTS for hashed, _, _ in kept})
    if kept:
        assert header[:4] == (kept[0][2], kept[-1][2], kept[0][1], kept[-1][1])
    for hashed in {hashed for hashed, _, _ in kept}:
        chain = [e.physical_offset for e in indexfile.chain(file, hashed, slot_count=SLOTS)]
        assert chain == [offset for one, offset, _ in reversed(kept) if one == hashed]
        out = np.zeros(ENTRIES, dtype=np.int64)
        count, following, _ = indexing.find(file, SLOTS, ENTRIES, hashed, 0, 2**62, 0, ENTRIES, out)
        assert following == 0
        assert [offset in chain for offset in out[:count].tolist()] == [True] * count


@given(GIVEN_ROWS.map(sorted), st.integers(0, 2**40), st.data())
def test_a_file_that_was_left_is_linked_again(
    rows: list[tuple[int, int, int]], end_offset: int, data: st.DataObject
) -> None:
    """Whatever stood in the slots and in what follows the count: it is as if put anew."""
    rows = sorted(rows, key=lambda row: row[1])
    files = []
    whole = putting(rows, cut=0, end_timestamp=0)
    for at in data.draw(st.lists(st.integers(0, SLOTS * 4 - 1), max_size=4)):
        whole[indexfile.HEADER_SIZE + at] = data.draw(st.integers(0, 255))
    for module in MODULES:
        file = bytearray(whole)
        module.relink(file, SLOTS, ENTRIES, end_offset)
        files.append(file)
    assert files[0] == files[1]
    kept = [row for row in rows[: ENTRIES - 1] if row[1] < end_offset]
    assert indexfile.decode_header(files[0]).entry_count == len(kept) + 1
    fresh = putting(kept, cut=0, end_timestamp=0)
    entries_at = indexfile.entry_position(0, slot_count=SLOTS)
    entries_end = indexfile.entry_position(len(kept) + 1, slot_count=SLOTS)
    assert (
        files[0][indexfile.HEADER_SIZE : entries_end]
        == (fresh[indexfile.HEADER_SIZE : entries_end])
    )
    assert entries_at < entries_end
    if kept:
        assert files[0][24:40] == fresh[24:40]


@given(
    file=damaged(GIVEN_ROWS.map(lambda rows: bytes(putting(rows, cut=0, end_timestamp=0)))),
    asked=st.tuples(
        HASHES,
        st.integers(0, 2**41),
        st.integers(0, 2**62),
        st.integers(0, ENTRIES - 1),
        st.integers(0, 5),
    ),
    room=st.integers(0, 5),
)
def test_finding_in_any_bytes(file: bytes, asked: tuple[int, ...], room: int) -> None:
    size = indexfile.file_size(slot_count=SLOTS, entry_count=ENTRIES)
    file = file[:size].ljust(size, b"\0")
    got = []
    for module in MODULES:
        out = np.zeros(room, dtype=np.int64)
        got.append((module.find(file, SLOTS, ENTRIES, *asked, out), out.tolist()))
    assert got[0] == got[1]


@pytest.mark.parametrize("module", MODULES)
def test_times_are_whole_seconds(module: Any) -> None:
    """An entry is given when its second touches what is asked for; the record decides."""
    file = new_file()
    rows = np.array([[5, 100, 1_000_000], [5, 200, 1_001_999]], dtype=np.int64)
    module.put(file, SLOTS, ENTRIES, rows, 0, 2)
    entries = list(indexfile.chain(file, 5, slot_count=SLOTS))
    assert entries[0] == IndexEntry(5, 200, 1, 1)

    def found(begin: int, end: int) -> list[int]:
        out = np.zeros(4, dtype=np.int64)
        count, _, _ = module.find(file, SLOTS, ENTRIES, 5, begin, end, 0, 9, out)
        listed: list[int] = out[:count].tolist()
        return listed

    assert found(0, 2**62) == [200, 100]
    assert found(1_001_999, 2**62) == [200]
    assert found(1_002_000, 2**62) == []
    assert found(0, 1_000_999) == [100]
