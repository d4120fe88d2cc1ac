from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.errors import LayoutError
from shmq.kernels import append as append_kernel
from shmq.kernels import append_plain
from shmq.layout import record, ring
from shmq.layout.control import BLOCKED_BY_DISPATCH, BLOCKED_BY_FLUSH, BLOCKED_NOT
from shmq.layout.queuetable import ROW
from shmq.layout.record import Record
from tests.property.hostile import EDGE_NUMBERS, INT64, damaged, records
from tests.property.logs import (
    DATA_SIZE,
    DESCRIPTORS,
    ENTRIES,
    QUEUE_IDS,
    SLOT_COUNT,
    House,
    Sizes,
    batch,
    walked,
)

MODULES = [append_kernel, append_plain]


class Submitted(NamedTuple):
    """One entry as a producer, sound or hostile, would submit it."""

    data: bytes
    fields: dict[str, int]


@st.composite
def submissions(draw: st.DrawFn) -> Submitted:
    """Single records and batches; some of them damaged, or with entry fields that lie."""
    slot = draw(st.integers(0, SLOT_COUNT - 1))
    ids = st.just(QUEUE_IDS[slot])
    good = records(ids).filter(lambda one: one.size < 1024).map(record.encode)
    stored = draw(st.lists(good, min_size=1, max_size=3))
    if draw(st.integers(0, 3)) == 0:
        place = draw(st.integers(0, len(stored) - 1))
        stored[place] = draw(damaged(st.just(stored[place])))
    fields = {"slot": slot, "tags_code": draw(INT64), "record_count": len(stored)}
    if draw(st.integers(0, 5)) == 0:
        name = draw(
            st.sampled_from(["data_position", "data_size", "record_count", "slot", "tags_code"])
        )
        numbers = EDGE_NUMBERS | st.integers(-3, 9) | st.sampled_from([2**31 - 1, -(2**31), 8191])
        fields[name] = draw(numbers)
    if draw(st.integers(0, 9)) == 0:
        fields["data_position"] = draw(st.sampled_from([2**63 - 1, -(2**63), DATA_SIZE, -1]))
    codes = draw(st.lists(INT64, min_size=len(stored), max_size=len(stored)))
    return Submitted(batch(codes, stored) if len(stored) > 1 else stored[0], fields)


@st.composite
def all_sizes(draw: st.DrawFn) -> Sizes:
    """Pools and files of any size that an appender takes."""
    pool = draw(st.integers(1024, 20_000))
    file = draw(st.integers(1024, 9000))
    left = draw(st.integers(8, file))
    return Sizes(
        pool=pool,
        file=file,
        record_max=draw(st.integers(91, pool)),
        start=file * draw(st.integers(1, 5)) - left,
    )


ROUNDS = st.lists(
    st.tuples(
        st.lists(submissions(), min_size=1, max_size=4),
        st.integers(0, 1000),  # room, in thousandths of the pool
        st.integers(0, DESCRIPTORS),
        st.integers(0, 2**41),
    ),
    max_size=4,
)


@given(all_sizes(), ROUNDS)
def test_kernel_equals_twin(sizes: Sizes, rounds: list[Any]) -> None:
    houses = [House(module, sizes) for module in MODULES]
    sequence = 0
    for submitted, room, descriptor_room, stamp in rounds:
        position = 0
        count = 0
        for one in submitted:
            if position + len(one.data) > DATA_SIZE:
                break
            for house in houses:
                house.put(sequence + count, position, one.data, **one.fields)
            position += len(one.data)
            count += 1
        first = houses[0].appender.descriptor_count
        done = {
            house.append(
                sequence,
                sequence + count,
                room=room * sizes.pool // 1000,
                descriptor_room=descriptor_room,
                stamp=stamp,
            )
            for house in houses
        }
        assert len(done) == 1
        assert houses[0].state() == houses[1].state()
        assert houses[0].described(first) == houses[1].described(first)
        sequence += count


@given(all_sizes(), st.lists(submissions(), max_size=30))
def test_the_log_is_always_records(sizes: Sizes, submitted: list[Submitted]) -> None:
    """Whatever is submitted, what is in the log is what descriptors and completions say."""
    house = House(append_kernel, sizes)
    expected = []
    for sequence, one in enumerate(submitted):
        house.put(sequence, 0, one.data[:DATA_SIZE], **one.fields)
        first = house.appender.descriptor_count
        house.append(sequence, sequence + 1, room=sizes.pool, descriptor_room=16, stamp=sequence)
        done = house.completions[sequence % ENTRIES]
        assert house.appender.blocked_on == BLOCKED_NOT, "nothing may wait for ever"
        described = house.described(first)
        assert (done["status"] == ring.STATUS_OK) == bool(described)
        if described:
            assert (done["physical_offset"], done["queue_offset"]) == (
                described[0][0],
                described[0][3],
            )
        expected += [(row[0], row[1], row[3], row[5]) for row in described]
    rows = walked(house.log, sizes)
    assert [(row[0] + sizes.start, row[1], row[2], row[5]) for row in rows.tolist()] == expected
    assert (rows[:, 3] == rows[:, 0] + sizes.start).all()
    if expected:
        assert sum(expected[-1][:2]) == house.appender.append_offset


def one_record(size: int = 0, **fields: Any) -> bytes:
    """A record for slot 0, of exactly so many bytes if a size is given."""
    made = Record(topic="T", body=b"b", queue_id=QUEUE_IDS[0], **fields)
    if size:
        made.body = b"b" * (size - made.size + 1)
    return record.encode(made)


def appended(data: bytes, sizes: Sizes, **fields: int) -> tuple[int, int, int]:
    """Status of one entry on an empty log, end of the log, and what it waits for."""
    results = set()
    for module in MODULES:
        house = House(module, sizes)
        house.put(0, 0, data, **fields)
        house.completions[0]["status"] = -1
        house.append(0, 1, room=sizes.pool, descriptor_room=DESCRIPTORS, stamp=5)
        results.add(
            (
                int(house.completions[0]["status"]),
                house.appender.append_offset,
                house.appender.blocked_on,
            )
        )
    assert len(results) == 1
    return results.pop()


OK = ring.STATUS_OK
BAD = ring.STATUS_BAD_RECORD


@pytest.mark.parametrize("size", [92, 999, 1000, 1001, 1015, 1016, 1017, 1500])
def test_record_sizes(size: int) -> None:
    sizes = Sizes(pool=8192, file=1024, record_max=1000)
    wanted = (OK, size, 0) if size <= 1000 else (BAD, 0, 0)
    assert appended(one_record(size), sizes) == wanted
    sizes = Sizes(pool=8192, file=1024, record_max=8000)
    wanted = (OK, size, 0) if size <= 1016 else (BAD, 0, 0)
    assert appended(one_record(size), sizes) == wanted


@pytest.mark.parametrize("size", [1019, 1020, 1021])
def test_an_entry_that_the_pool_could_never_hold_is_refused(size: int) -> None:
    sizes = Sizes(pool=4096, file=1 << 20, record_max=4096)
    wanted = (OK, size, 0) if size <= 1020 else (BAD, 0, 0)
    assert appended(one_record(size), sizes) == wanted


@pytest.mark.parametrize("start", range(1020))
def test_the_largest_entry_finds_room_at_every_place_of_a_file(start: int) -> None:
    """In the half of the pool that is always free, also when a blank comes first."""
    sizes = Sizes(pool=4096, file=1100, record_max=4096, start=start)
    for module in MODULES:
        house = House(module, sizes)
        house.put(0, 0, one_record(1020))
        assert house.append(0, 1, room=2048, descriptor_room=1, stamp=5) == 1
        assert house.completions[0]["status"] == OK


def test_more_records_than_descriptors_are_refused() -> None:
    sizes = Sizes(pool=1 << 16, file=1 << 20)
    tags, stored = [0] * (DESCRIPTORS + 1), [one_record()] * (DESCRIPTORS + 1)
    wanted = (OK, len(b"".join(stored[1:])), 0)
    assert appended(batch(tags[1:], stored[1:]), sizes, record_count=DESCRIPTORS) == wanted
    assert appended(batch(tags, stored), sizes, record_count=DESCRIPTORS + 1) == (BAD, 0, 0)


@pytest.mark.parametrize(("slot", "status"), [(-1, 2), (0, 0), (SLOT_COUNT, 2), (2**31 - 1, 2)])
def test_slots(slot: int, status: int) -> None:
    assert appended(one_record(), Sizes(), slot=slot)[0] == status


@pytest.mark.parametrize(
    "data",
    [
        one_record(body_crc=0),
        one_record(born_port=65_536),
        one_record(born_port=-1),
        one_record(store_port=65_536),
        record.encode(Record(topic="", body=b"b")),
        record.encode(Record(topic="T", body=b"b", queue_id=1)),
        one_record().replace(b"\x01T", b"\x01\xff"),
        one_record()[:-2] + b"\x80\x00" + b"p" * 32_768,
        one_record()[:-1],
        one_record() + b"\0",
        b"\0" * 91,
    ],
)
def test_what_no_reader_takes_for_a_record_is_refused(data: bytes) -> None:
    sizes = Sizes(pool=1 << 18, file=1 << 20, record_max=1 << 17)
    assert appended(data[:DATA_SIZE], sizes) == (BAD, 0, 0)


@pytest.mark.parametrize(("room", "done"), [(0, 0), (183, 0), (184, 1), (185, 1)])
def test_limit_offset(room: int, done: int) -> None:
    for module in MODULES:
        house = House(module)
        house.put(0, 0, one_record(184))
        assert house.append(0, 1, room=room, descriptor_room=1, stamp=5) == done
        assert house.appender.blocked_on == (BLOCKED_NOT if done else BLOCKED_BY_FLUSH)


@pytest.mark.parametrize(("room", "done"), [(0, 0), (1, 0), (2, 1)])
def test_descriptor_limit(room: int, done: int) -> None:
    for module in MODULES:
        house = House(module)
        house.put(0, 0, batch([1, 2], [one_record(), one_record()]), record_count=2)
        assert house.append(0, 1, room=8192, descriptor_room=room, stamp=5) == done
        assert house.appender.blocked_on == (BLOCKED_NOT if done else BLOCKED_BY_DISPATCH)


@given(records(st.just(0)).filter(lambda one: one.size < 600))
def test_cut_at_every_byte(one: Record) -> None:
    data = record.encode(one)
    for size in range(len(data)):
        assert appended(data[:size], Sizes())[0] == BAD
    assert appended(data, Sizes()) == (OK, one.size, 0)


@pytest.mark.parametrize("module", MODULES)
def test_wrong_use(module: Any) -> None:
    house = House(module)
    with pytest.raises(IndexError, match="no such ring"):
        house.appender.append(1, 0, 1, 100, 1, 1, 0)
    with pytest.raises(ValueError, match="more slots"):
        house.appender.append(0, 0, 1, 100, 1, 5, 0)
    ring_parts = (np.zeros(64, np.uint8), np.zeros(32, np.uint8), np.zeros(9, np.uint8))
    house.appender.set_ring(191, *ring_parts)
    for index in (-1, 192):
        with pytest.raises(LayoutError, match="ring index"):
            house.appender.set_ring(index, *ring_parts)
        with pytest.raises(LayoutError, match="ring index"):
            house.appender.drop_ring(index)
    house.appender.drop_ring(191)
    with pytest.raises(IndexError, match="no such ring"):
        house.appender.append(191, 0, 1, 100, 1, 1, 0)
    with pytest.raises(LayoutError, match="grants too short"):
        house.appender.set_ring(1, *ring_parts, grants=np.zeros(0, np.uint8))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("entries", "completions", "start"), [(0, 1, 0), (3, 3, 0), (4, 3, 0), (1, 1, 4)]
)
def test_ring_parts_that_do_not_fit(
    module: Any, entries: int, completions: int, start: int
) -> None:
    house = House(module)
    with pytest.raises(LayoutError):
        house.appender.set_ring(
            1,
            np.zeros(64 * entries, np.uint8),
            np.zeros(32 * completions + start, np.uint8)[start:],
            np.zeros(64, np.uint8),
        )


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "sizes",
    [Sizes(file=1023), Sizes(record_max=90), Sizes(record_max=8193), Sizes(pool=0)],
)
def test_sizes_that_do_not_fit(module: Any, sizes: Sizes) -> None:
    with pytest.raises(ValueError, match="sizes"):
        House(module, sizes)


@pytest.mark.parametrize("module", MODULES)
def test_a_log_that_ends_too_near_to_the_end_of_a_file(module: Any) -> None:
    House(module, Sizes(start=4096 - 8))
    for start in (4096 - 7, 4096 - 1, -1):
        with pytest.raises(ValueError, match="no room for a blank"):
            House(module, Sizes(start=start))


@pytest.mark.parametrize("module", MODULES)
def test_columns_that_do_not_fit(module: Any) -> None:
    parts: dict[str, Any] = {
        "pool": np.zeros(4096, np.uint8),
        "descriptors": np.zeros(64, np.uint8),
        "next_offsets": np.zeros(2, np.int64),
        "rows": np.zeros(2 * ROW.itemsize, np.uint8),
        "file_size": 4096,
        "record_size_max": 1024,
        "append_offset": 0,
        "descriptor_count": 0,
    }
    module.Appender(**parts)
    with pytest.raises(ValueError, match="different length"):
        module.Appender(**parts | {"rows": np.zeros(ROW.itemsize, np.uint8)})
    with pytest.raises(ValueError, match="power of two"):
        module.Appender(**parts | {"descriptors": np.zeros(192, np.uint8)})


PLACE = b"\x0a\x00\x00\x01" + (10911).to_bytes(4, "big")
PLACE_V6 = bytes(range(16)) + (10911).to_bytes(4, "big")


def stranger_record(**fields: Any) -> bytes:
    """A record as a stranger may append it to slot 1, whose topic is "T"; or not quite."""
    usual: dict[str, Any] = {
        "topic": "T",
        "body": b"body",
        "queue_id": QUEUE_IDS[1],
        "store_host": PLACE[:4],
        "store_port": 10911,
    }
    return record.encode(Record(**usual | fields))


def stranger_house(module: Any, grants: int, place: bytes = PLACE) -> House:
    house = House(module, Sizes(), store_place=place, topics=["", "T", "TT"])
    house.set_stranger(grants, epoch=2**40 + 7)
    return house


def as_stranger(
    data: bytes, *, grants: int = 0b010, place: bytes = PLACE, **entry: int
) -> tuple[int, list[Any]]:
    """Status of a stranger's entry, and the descriptors that it got."""
    results = []
    for module in MODULES:
        house = stranger_house(module, grants, place)
        house.put(0, 0, data, **{"slot": 1} | entry)
        house.append(0, 1, room=8192, descriptor_room=DESCRIPTORS, stamp=5)
        results.append((int(house.completions[0]["status"]), house.described(0)))
    assert results[0] == results[1]
    return results[0]


@pytest.mark.parametrize(("crc", "status"), [(0, OK), (1, BAD), (-1, BAD), (None, OK)])
def test_a_stranger_may_leave_the_crc_to_the_writer(crc: int | None, status: int) -> None:
    """A CRC of 0 stands for one that is to be set; every other one must be right."""
    stored: set[bytes] = set()
    for module in MODULES:
        house = stranger_house(module, 0b010)
        house.put(0, 0, stranger_record(body=b"body", body_crc=crc), slot=1)
        house.append(0, 1, room=8192, descriptor_room=DESCRIPTORS, stamp=5)
        assert house.completions[0]["status"] == status
        stored.add(house.pool.tobytes())
    if status == OK:
        (pool,) = stored
        assert record.decode(pool).body == b"body"


def test_a_stranger_appends_what_it_was_granted() -> None:
    status, described = as_stranger(stranger_record())
    assert status == OK
    assert described[0][-3:] == (1, 0, 2**40 + 7)  # ring, remaining, epoch
    assert as_stranger(batch([1, 2], [stranger_record()] * 2), record_count=2)[0] == OK
    v6 = stranger_record(store_host=PLACE_V6[:16], sys_flag=record.STORE_HOST_V6)
    assert as_stranger(v6, place=PLACE_V6)[0] == OK
    born = stranger_record(born_host=PLACE_V6[:16], sys_flag=record.BORN_HOST_V6)
    assert as_stranger(born)[0] == OK
    assert as_stranger(stranger_record(magic=record.MAGIC_V2))[0] == OK


@pytest.mark.parametrize("grants", [0, 0b101, 0b1000])
def test_a_slot_that_was_not_granted(grants: int) -> None:
    assert as_stranger(stranger_record(), grants=grants) == (ring.STATUS_BAD_SLOT, [])


@pytest.mark.parametrize(
    "fields",
    [
        *({"topic": topic} for topic in ("U", "TT", "t", "T" * 127)),
        {"topic": "TT", "magic": record.MAGIC_V2},
        {"store_host": b"\x0a\x00\x00\x02"},
        {"store_port": 10912},
        {"store_host": PLACE_V6[:16], "sys_flag": record.STORE_HOST_V6},
        *({"sys_flag": 1 << bit} for bit in (2, 3, 6, 7)),
        {"queue_id": QUEUE_IDS[0]},
    ],
)
def test_what_no_stranger_may_append(fields: dict[str, Any]) -> None:
    data = stranger_record(**fields)
    assert as_stranger(data) == (BAD, [])
    assert as_stranger(batch([1, 2], [stranger_record(), data]), record_count=2) == (BAD, [])


@pytest.mark.parametrize("bit", [0, 1, 8, 31])
def test_flags_that_are_a_strangers_own(bit: int) -> None:
    assert as_stranger(stranger_record(sys_flag=(1 << bit) - (2**32 if bit == 31 else 0)))[0] == OK


@given(
    st.lists(
        st.tuples(
            damaged(st.just(stranger_record())) | submissions().map(lambda one: one.data),
            st.integers(0, SLOT_COUNT),
            st.integers(1, 2),
        ),
        max_size=8,
    ),
    st.integers(0, 7),
)
def test_strangers_kernel_equals_twin(entries: list[tuple[bytes, int, int]], grants: int) -> None:
    houses = [stranger_house(module, grants) for module in MODULES]
    for sequence, (data, slot, count) in enumerate(entries):
        for house in houses:
            house.put(sequence, 0, data[:DATA_SIZE], slot=slot, record_count=count)
            house.append(sequence, sequence + 1, room=8192, descriptor_room=16, stamp=1)
        assert houses[0].state() == houses[1].state()
        assert houses[0].described(0) == houses[1].described(0)
    for row in houses[0].described(0):
        assert grants >> row[2] & 1
