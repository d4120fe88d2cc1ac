from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.errors import LayoutError
from shmq.kernels import sends as sends_kernel
from shmq.kernels import sends_plain
from shmq.layout import record
from shmq.layout.javahash import hash_code
from shmq.layout.record import Record
from shmq.layout.ring import ANSWER_BINARY, ANSWER_ONEWAY
from shmq.wire.frame import FrameDecoder
from shmq.wire.properties import decode_properties, encode_properties
from shmq.wire.send import decode_send
from tests.property.hostile import GOLDEN_FRAMES, GOLDEN_SENDS, V4_HOSTS, V6_HOSTS, damaged
from tests.property.sending import (
    CLUSTER,
    DATA_SIZE,
    FRAME_SIZE_MAX,
    MESSAGE_SIZE_MAX,
    ODD_MEMBERS,
    ODD_VALUES,
    REGION,
    STORE_HOST,
    STORE_PORT,
    STREAMS,
    TOPICS,
    Ring,
    binary_frame,
    frame,
    json_frame,
    plain_ext,
    request_frames,
)

MODULES = [sends_kernel, sends_plain]
PLAIN_SENDS = tuple(
    data for data in GOLDEN_SENDS if b"DELAY" not in data and b"TRAN_MSG" not in data
)
assert len(PLAIN_SENDS) == 4


def both(data: bytes, **changed: Any) -> tuple[int, Ring]:
    """Why feeding stopped, and the kernel's ring, after the twin's was compared."""
    rings = [Ring(module, **changed) for module in MODULES]
    stops = [ring.feed(data) for ring in rings]
    assert (stops[0], rings[0].state()) == (stops[1], rings[1].state())
    return stops[0], rings[0]


@given(STREAMS)
def test_kernel_equals_twin_on_requests(data: bytes) -> None:
    both(data, entry_count=8, data_size=8192)


@given(damaged(STREAMS) | damaged(st.sampled_from(GOLDEN_FRAMES)) | st.binary(max_size=99))
def test_kernel_equals_twin_on_broken_frames(data: bytes) -> None:
    both(data)


@given(damaged(st.sampled_from(GOLDEN_SENDS)))
def test_kernel_equals_twin_on_damaged_golden_sends(data: bytes) -> None:
    header_size = int.from_bytes(data[5:8].ljust(3, b"\0"), "big")
    both(data)
    total = (len(data) - 4).to_bytes(4, "big", signed=True)
    both(total + data[4:5] + min(header_size, len(data)).to_bytes(3, "big") + data[8:])


@given(request_frames())
def test_what_the_kernel_takes_the_general_path_takes_with_the_same_result(data: bytes) -> None:
    _, ring = both(data, data_size=1 << 16)
    if ring.parser.submitted == 0:
        return
    [(entry, stored)] = ring.state()[-1]
    decoder = FrameDecoder()
    decoder.feed(data)
    frame = decoder.next_frame()
    assert frame is not None
    header = decode_send(frame.header.code, frame.header.ext)
    assert not header.batch
    text = header.properties.encode()
    text = text if text.endswith(b"\x02") else text + b"\x02"
    properties = decode_properties(text)
    own = {"MSG_REGION": REGION, "TRACE_ON": "true", "CLUSTER": CLUSTER}
    assert not own.keys() & properties.keys()
    one = Record(
        topic=header.topic,
        body=frame.body,
        properties=text + encode_properties(own),
        queue_id=header.queue_id,
        flag=header.flag,
        sys_flag=header.sys_flag,
        born_timestamp=header.born_timestamp,
        born_host=b"\x0a\0\0\2",
        born_port=4711,
        store_host=STORE_HOST,
        store_port=STORE_PORT,
        reconsume_times=header.reconsume_times,
    )
    assert stored == record.encode(one)
    assert record.decode(stored).properties == one.properties
    unique_at, unique_size = entry[11:13]
    assert stored[unique_at : unique_at + unique_size].decode() == properties["UNIQ_KEY"]
    answer_flags = ANSWER_ONEWAY if frame.header.is_oneway else 0
    answer_flags |= ANSWER_BINARY if frame.serialization == 1 else 0
    assert entry[:11] == (
        0,
        len(stored),
        1,
        TOPICS[header.topic][header.queue_id],
        0,
        hash_code(properties["TAGS"]) if "TAGS" in properties else 0,
        frame.header.opaque,
        5,
        2**40,
        answer_flags,
        header.queue_id,
    )


@pytest.mark.parametrize("code", [10, 310])
def test_every_field_with_every_odd_value(code: int) -> None:
    plain = plain_ext(code)
    for changed in [{}, *({key: odd} for key in plain for odd in ODD_VALUES)]:
        for make in (json_frame, binary_frame):
            stop, ring = both(make(plain | changed, code))
            assert (stop == sends_kernel.NEED_MORE) == (ring.parser.submitted == 1)
            assert changed or ring.parser.submitted == 1
    for key in plain:
        without = {name: value for name, value in plain.items() if name != key}
        for make in (json_frame, binary_frame):
            both(make(without, code))


@pytest.mark.parametrize(("name", "value"), ODD_MEMBERS)
def test_every_odd_member(name: str, value: object) -> None:
    both(json_frame(plain_ext(), **{name: value}))


@pytest.mark.parametrize(
    "extra", [*plain_ext(), *plain_ext(10), "AccessKey", "Signature", "x", "k"]
)
def test_fields_that_come_twice(extra: str) -> None:
    """Those that are not used may; a signed request is never taken."""
    for ext in (plain_ext(), plain_ext() | {extra: "1"}):
        fields = b"".join(b'"%b":"1",' % name.encode() for name in (extra, extra))
        whole = json_frame(ext)
        header = whole[8:-4].replace(b'"extFields": {', b'"extFields": {' + fields)
        assert header != whole[8:-4]
        both(frame(header, b"body"))
        both(frame(header.replace(fields, fields[: len(fields) // 2]), b"body"))


@pytest.mark.parametrize("member", ["code", "flag", "opaque", "extFields", "version", "language"])
def test_members_that_come_twice(member: str) -> None:
    whole = json_frame(plain_ext())
    for value in (b"1", b'"x"', b"{}", b"null"):
        both(frame(b'{"%b":%b,' % (member.encode(), value) + whole[9:-4], b"body"))


GRAMMAR = [
    b'{"code":310}', b"{}", b"", b"{", b"}", b"{,}", b'{"a":1,}', b'{"a":1}x', b' {"a" : 1 } ',
    b'{"a":01}', b'{"a":-0}', b'{"a":-}', b'{"a":999999999999999999}', b'{"a":9999999999999999999}',
    b'{"a":1e5}', b'{"a":truex}', b'{"a":tru}', b'{"a":nul', b'{"a":"\\u12"}', b'{"a":"\\u12g4"}',
    b'{"a":"\\x"}', b'{"a":"\\', b'{"a":"\\"', b'{"a":"\x1f"}', b'{"a":"\x7f"}', b'{"a":"\xff"}',
    b'{"a":"\xed\xa0\x80"}', b'{"a":"\xc0\x80"}', b'{"a":"\xf4\x90\x80\x80"}', b'{"\\u0061":1}',
    b'{"a" 1}', b'{"a":}', b"{:1}", b'{"a":1 "b":2}', b'{"a":1\x0b}', b"[]", b'"a"', b'{"a":"b"',
    b'{"extFields":{}}', b'{"extFields":{ }}', b'{"extFields":{"a":"b",}}',
    b'{"extFields":{"a":1}}', b'{"extFields":{"a":null}}', b'{"extFields":{"\\u0061":"b"}}',
    b'{"extFields":{"a":"b" , "c":"d" }}',
]  # fmt: skip


@pytest.mark.parametrize("piece", GRAMMAR)
def test_the_grammar_of_headers(piece: bytes) -> None:
    """Each piece alone, and as the start of a header that is else plain."""
    both(frame(piece, b"body"))
    inner = json_frame(plain_ext())[9:-4]
    stop, ring = both(frame(piece.rstrip(b" }") + b"," + inner, b"body"))
    assert (stop == sends_kernel.NEED_MORE) == (ring.parser.submitted == 1)


@pytest.mark.parametrize("bit", range(31))
def test_every_bit_of_sys_flag(bit: int) -> None:
    stop, ring = both(json_frame(plain_ext() | {"f": str(1 << bit)}))
    assert (
        (stop == sends_kernel.NEED_MORE)
        == (ring.parser.submitted == 1)
        == (bit in {0, 1, 8, 9, 10})
    )


def test_sizes_in_a_binary_header() -> None:
    whole = binary_frame(plain_ext())
    header = whole[8:-4]
    for extra in (b"\0", b"\0\1x\0\0\0\0", b"\0\0\0\0\0\0", b"\xff\xff\0\0\0\0"):
        ext = header[21:] + extra
        for size in (len(ext), len(ext) - len(extra), len(ext) + 1, -1, 2**31 - 1):
            both(frame(header[:17] + size.to_bytes(4, "big", signed=True) + ext, b"body", 1))
    for remark_size in (-1, 1, len(header) - 21, len(header) - 20, 2**31 - 1):
        remark = remark_size.to_bytes(4, "big", signed=True)
        both(frame(header[:13] + remark + header[17:], b"body", 1))
    for cut in range(len(header)):
        assert both(frame(header[:cut], b"body", 1))[0] == sends_kernel.OTHER


@pytest.mark.parametrize("total", [*range(-1, 7), *range(FRAME_SIZE_MAX - 6, FRAME_SIZE_MAX + 2)])
def test_frame_limits(total: int) -> None:
    head = total.to_bytes(4, "big", signed=True)
    wanted = sends_kernel.NEED_MORE if 4 <= total <= FRAME_SIZE_MAX - 4 else sends_kernel.BAD_FRAME
    assert both(head)[0] == wanted
    for header_size in (0, max(0, total - 4), max(0, total - 3), 0xFFFFFF):
        both(head + header_size.to_bytes(4, "big"))


@pytest.mark.parametrize("size", range(1, MESSAGE_SIZE_MAX + 3, 100))
def test_message_limits(size: int) -> None:
    for body_size in (0, size, MESSAGE_SIZE_MAX, MESSAGE_SIZE_MAX + 1):
        header = json_frame(plain_ext())[8:-4]
        stop, _ = both(frame(header, b"b" * body_size))
        assert (stop == sends_kernel.NEED_MORE) == (1 <= body_size <= MESSAGE_SIZE_MAX)


@pytest.mark.parametrize("off", [-8, -1, 0, 1, 8])
def test_room_that_is_just_enough(off: int) -> None:
    """Behind the newest entry, before the oldest, between the two, and for requests too."""
    rings = [Ring(module) for module in MODULES]
    half = DATA_SIZE // 2
    plans: list[list[int | str]] = [
        [half, half + off],  # behind the newest
        [half, half - 8, "reap", half + off],  # before the oldest
        [512, 512, 1024, "reap", "reap", 512, 512 + off],  # between the two
        [512, 512, 1024, "reap", 512, 8],  # nothing is left between the two
    ]
    for plan in plans:
        for ring in rings:
            ring.parser.reap(ring.parser.submitted)
        for step in plan:
            results = []
            for ring in rings:
                if step == "reap":
                    results.append(ring.parser.reap(ring.parser.reaped + 1))
                else:
                    results.append(ring.parser.submit(b"x" * int(step), **entry_fields(1)))
            assert results[0] == results[1], (plan, step)
            assert rings[0].state() == rings[1].state()


@pytest.mark.parametrize("off", range(-3, 4))
def test_room_for_a_request_that_is_just_enough(off: int) -> None:
    data = json_frame(plain_ext())
    _, ring = both(data)
    needed = int(ring.entries[0]["data_size"]) + 1  # one more: the closing 0x02 might be missing
    for free in (needed + off, -(-needed // 8) * 8 + off):
        both(data, data_size=free)
        rings = [Ring(module) for module in MODULES]
        for one in rings:
            one.parser.submit(b"x" * (DATA_SIZE - free), **entry_fields(1))
        assert len({one.feed(data) for one in rings}) == 1
        assert rings[0].state() == rings[1].state()


@pytest.mark.parametrize("data", PLAIN_SENDS)
def test_golden_sends_are_plain(data: bytes) -> None:
    stop, ring = both(data)
    assert (stop, ring.parser.submitted, ring.parser.position) == (1, 1, len(data))


@pytest.mark.parametrize("data", sorted(set(GOLDEN_FRAMES) - set(PLAIN_SENDS)))
def test_all_other_golden_frames_are_for_the_general_path(data: bytes) -> None:
    stop, ring = both(data)
    assert (stop, ring.parser.submitted) == (sends_kernel.OTHER, 0)


@pytest.mark.parametrize("data", PLAIN_SENDS)
def test_cut_at_every_byte(data: bytes) -> None:
    """Whole frames are taken, the rest is left for more bytes; the answer tells how many."""
    rings = [Ring(module) for module in MODULES]
    for cut in range(len(data)):
        assert {ring.feed(data, 0, cut) for ring in rings} == {sends_kernel.NEED_MORE}
        assert rings[0].state() == rings[1].state()
        assert rings[0].parser.frame_size == (len(data) if cut >= 4 else 0)
    assert {ring.feed(data) for ring in rings} == {sends_kernel.NEED_MORE}
    assert rings[0].parser.submitted == 1


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("feed"), st.sampled_from(PLAIN_SENDS), st.integers(1, 6)),
            st.tuples(st.just("feed one"), request_frames()),
            st.tuples(st.just("reap"), st.integers(0, 4)),
            st.tuples(st.just("submit"), st.integers(0, DATA_SIZE + 1)),
            st.tuples(st.just("reserve"), st.integers(0, DATA_SIZE + 1), st.integers(0, 2000)),
            st.tuples(st.just("drop"), st.sampled_from(sorted(TOPICS))),
            st.tuples(st.just("put"), st.sampled_from(sorted(TOPICS)), st.integers(0, 3)),
        ),
        max_size=25,
    )
)
def test_kernel_equals_twin_over_a_ring_that_wraps_and_fills(steps: list[Any]) -> None:
    rings = [Ring(module) for module in MODULES]
    held: list[tuple[int, int]] = []
    for step in steps:
        results = [outcome(ring, step) for ring in rings]
        assert results[0] == results[1]
        states = [ring.state() for ring in rings]
        assert states[0] == states[1]
        held = sorted((row[0], row[0] + row[1]) for row, _ in states[0][-1])
        assert all(first[1] <= second[0] for first, second in pairwise(held))
        assert all(start % 8 == 0 and end <= DATA_SIZE for start, end in held)


def entry_fields(number: int) -> dict[str, int]:
    return {
        "record_count": 1,
        "slot": number,
        "tags_code": -number,
        "opaque": number,
        "connection": 1,
        "connection_id": 2,
        "answer_flags": 4,
        "queue_id": 3,
        "unique_at": 0,
        "unique_size": 0,
    }


def outcome(ring: Ring, step: Any) -> object:
    """What one step gives, or the error that it raises."""
    result: object = None
    parser = ring.parser
    try:
        match step:
            case ("feed", data, count):
                result = ring.feed(data * count)
            case ("feed one", data):
                result = ring.feed(data)
            case ("reap", count):
                parser.reap(parser.reaped + count)
            case ("submit", size):
                result = parser.submit(b"s" * size, **entry_fields(size))
            case ("reserve", size, used):
                result = parser.reserve(size)
                if result is not None:
                    result = result, parser.commit_entry(used, **entry_fields(size))
            case ("drop", topic):
                parser.drop_topic(topic.encode())
            case ("put", topic, count):
                parser.put_topic(topic.encode(), [1, 2], count)
    except LayoutError as error:
        return str(error)
    return result


@given(V4_HOSTS | V6_HOSTS, V4_HOSTS | V6_HOSTS, st.integers(0, 65535))
def test_hosts_of_both_kinds(born: bytes, store: bytes, port: int) -> None:
    for module in MODULES:
        ring = Ring(module, store_host=store)
        ring.feed(PLAIN_SENDS[0], born_host=born, born_port=port)
        [(_, stored)] = ring.state()[-1]
        one = record.decode(stored)
        assert (one.born_host, one.born_port, one.store_host) == (born, port, store)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("host", [b"", b"123", b"12345", b"1" * 17])
def test_wrong_hosts(module: Any, host: bytes) -> None:
    with pytest.raises(LayoutError, match="born host"):
        Ring(module).feed(PLAIN_SENDS[0], born_host=host)
    with pytest.raises(LayoutError, match="store host"):
        Ring(module, store_host=host)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(("start", "end"), [(-1, 4), (5, 4), (0, 9)])
def test_ranges_outside_of_the_buffer(module: Any, start: int, end: int) -> None:
    ring = Ring(module)
    with pytest.raises(LayoutError, match="range outside"):
        ring.parser.feed(
            b"12345678",
            start,
            end,
            connection=1,
            connection_id=1,
            born_host=b"1234",
            born_port=1,
        )


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "changed",
    [
        {"entry_count": 3},
        {"cluster": b""},
        {"cluster": b"a\x01"},
        {"region": b"a\x02"},
        {"region": b"a" * 1025},
        {"message_size_max": 0},
        {"message_size_max": (1 << 30) + 1},
        {"frame_size_max": 7},
        {"frame_size_max": 1 << 31},
        {"entries": bytearray(64 * 4 - 1)},
        {"data": bytearray(DATA_SIZE - 1)},
        {"data": bytearray(), "data_size": -8},
        {"data": bytearray(), "data_size": 1 << 31},
        {"data": memoryview(bytearray(DATA_SIZE + 4))[4:]},
    ],
)
def test_parts_that_do_not_fit(module: Any, changed: dict[str, Any]) -> None:
    with pytest.raises(LayoutError):
        Ring(module, **changed)


@pytest.mark.parametrize("module", MODULES)
def test_topics_that_do_not_fit(module: Any) -> None:
    parser = Ring(module).parser
    for slots, count in (([1], 2), ([1], -1), ([1, -1], 2)):
        with pytest.raises(LayoutError):
            parser.put_topic(b"T", slots, count)
    parser.put_topic(b"T", [1, -1], 1)


@pytest.mark.parametrize("module", MODULES)
def test_a_closed_parser_lets_go_of_the_ring(module: Any) -> None:
    data = bytearray(DATA_SIZE)
    parser = Ring(module, data=data).parser
    with pytest.raises(BufferError):
        data.append(0)
    parser.close()
    data.append(0)
    with pytest.raises(LayoutError):
        parser.reserve(1)
    with pytest.raises(LayoutError):
        parser.submit(b"x", **entry_fields(1))


def test_reasons_have_the_same_numbers() -> None:
    for name in ("NEED_MORE", "OTHER", "RING_FULL", "BAD_FRAME"):
        assert getattr(sends_kernel, name) == getattr(sends_plain, name)
