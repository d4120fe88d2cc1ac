"""The kernel of pulls, its twin, and the general path: the same fields and the same answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shmq.errors import LayoutError, RequestRefused
from shmq.kernels import pulls, pulls_plain
from shmq.layout.cqentry import ENTRY, FILLER_SIZE
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.header import BINARY, JSON, Header, answer, decode_header, encode_frame
from shmq.wire.pull import decode_pull, encode_pull_answer
from tests.property.hostile import GOLDEN_FRAMES, damaged
from tests.property.sending import ODD_MEMBERS, ODD_VALUES, frame, json_text

FIELDS = (
    "opaque", "queue_id", "queue_offset", "count_max", "sys_flag", "commit_offset",
    "suspend_timeout_ms", "size_max", "binary", "key",
)  # fmt: skip
TEXTS = st.sampled_from(["G", "组", "a b", "x" * 200, "", 'quote"', "back\\slash"])


@st.composite
def pull_ext(draw: st.DrawFn) -> dict[str, str]:
    """Ext fields of a pull, mostly as a client writes them."""
    ext = {
        "consumerGroup": draw(TEXTS | st.just("G")),
        "topic": draw(TEXTS | st.just("T")),
        "queueId": str(draw(st.integers(-1, 9))),
        "queueOffset": str(draw(st.sampled_from([0, 1, 10**17, 10**18, -1]))),
        "maxMsgNums": str(draw(st.sampled_from([32, 0, -1, 2**31 - 1]))),
        "sysFlag": str(draw(st.integers(0, 15))),
        "commitOffset": str(draw(st.sampled_from([0, 7, -1]))),
        "suspendTimeoutMillis": "15000",
        "subVersion": str(draw(st.sampled_from([0, 1_700_000_000_000, -5]))),
    }
    for name, values in (
        ("subscription", ["*", "", "A || B", "标签"]),
        ("expressionType", ["TAG", "", "SQL92"]),
        ("maxMsgBytes", ["", "1", "262144", "-1"]),
        ("requestSource", ["", "0", "x"]),
        ("proxyFrowardClientId", ["id"]),
    ):
        if draw(st.booleans()):
            ext[name] = draw(st.sampled_from(values))
    if draw(st.integers(0, 3)) == 0:
        key = draw(st.sampled_from([*ext, "AccessKey", "Signature", "a", "x"]))
        if draw(st.booleans()):
            ext.pop(key, None)
        else:
            ext[key] = draw(st.sampled_from(ODD_VALUES))
    return ext


@st.composite
def pull_frames(draw: st.DrawFn) -> bytes:
    """Frames of pulls: both serializations, loose JSON, odd members, other codes."""
    header = Header(
        draw(st.sampled_from([11, 11, 11, 361, 310])),
        draw(st.integers(-(2**31), 2**31 - 1)),
        draw(st.sampled_from([0, 0, 0, 0, 1, 2])),
        ext=draw(pull_ext()),
    )
    body = draw(st.sampled_from([b"", b"body"]))
    if draw(st.booleans()):
        return encode_frame(header, body, BINARY)
    fields: dict[str, Any] = {
        "code": header.code,
        "extFields": header.ext,
        "flag": header.flag,
        "language": "JAVA",
        "opaque": header.opaque,
        "serializeTypeCurrentRPC": "JSON",
        "version": 513,
    }
    if draw(st.integers(0, 3)) == 0:
        name, value = draw(st.sampled_from(ODD_MEMBERS))
        fields[name] = value
    text = json_text(
        fields,
        loose=draw(st.booleans()),
        ascii_only=draw(st.booleans()),
        rng=draw(st.randoms(use_true_random=False)),
    )
    return frame(text.encode(), body, JSON)


def both(data: bytes) -> pulls.PullReader | None:
    """The kernel's reader after a plain pull, once the twin was found equal."""
    kernel, twin = pulls.PullReader(), pulls_plain.PullReader()
    plain = kernel.read(data)
    assert plain is twin.read(data)
    if not plain:
        return None
    assert [getattr(kernel, name) for name in FIELDS] == [getattr(twin, name) for name in FIELDS]
    return kernel


def general(data: bytes) -> Header:
    return decode_header(data[8 : 8 + int.from_bytes(data[5:8], "big")], data[4])


@given(pull_frames())
def test_a_plain_pull_says_what_the_general_path_reads(data: bytes) -> None:
    reader = both(data)
    if reader is None:
        return
    header = general(data)
    said = decode_pull(header.ext)
    assert header.code == RequestCode.PULL_MESSAGE
    assert (header.opaque, header.flag) == (reader.opaque, 0)
    assert said.queue_id == reader.queue_id
    assert said.queue_offset == reader.queue_offset
    assert said.count_max == reader.count_max
    assert said.sys_flag == reader.sys_flag
    assert said.commit_offset == reader.commit_offset
    assert said.suspend_timeout_ms == reader.suspend_timeout_ms
    assert said.size_max == (None if reader.size_max < 0 else reader.size_max)


@given(pull_frames(), pull_frames())
def test_equal_keys_are_equal_questions(one: bytes, other: bytes) -> None:
    first, second = both(one), both(other)
    if first is None or second is None:
        return
    questions = []
    for data in (one, other):
        said = decode_pull(general(data).ext)
        questions.append(
            (
                said.consumer_group,
                said.topic,
                said.subscribes,
                said.subscription,
                said.expression_type,
                said.subscription_version,
            )
        )
    if first.key == second.key:
        assert questions[0] == questions[1]


@given(damaged(pull_frames() | st.sampled_from(GOLDEN_FRAMES)))
def test_kernel_equals_twin_on_damaged_frames(data: bytes) -> None:
    if len(data) >= 8:
        both(data)


def test_pulls_of_real_clients_are_plain() -> None:
    plain = [data for data in GOLDEN_FRAMES if both(data) is not None]
    asked = []
    for data in GOLDEN_FRAMES:
        try:
            header = general(data)
            if header.code == RequestCode.PULL_MESSAGE and not header.is_response:
                decode_pull(header.ext)
                asked.append(data)
        except RequestRefused:
            continue
    assert plain == asked
    assert {data[4] for data in plain} == {JSON, BINARY}


@given(
    binary=st.booleans(),
    opaque=st.integers(-(2**31), 2**31 - 1),
    offsets=st.tuples(*[st.integers(0, 2**63 - 1)] * 3),
    broker_id=st.integers(0, 2**63 - 1),
    body=st.binary(max_size=40),
)
def test_an_answer_is_that_of_the_general_path(
    *, binary: bool, opaque: int, offsets: tuple[int, int, int], broker_id: int, body: bytes
) -> None:
    ext = encode_pull_answer(
        next_begin_offset=offsets[0],
        min_offset=offsets[1],
        max_offset=offsets[2],
        suggested_broker_id=broker_id,
    )
    header = answer(Header(11, opaque), ResponseCode.SUCCESS, "FOUND", ext)
    expected = encode_frame(header, body, BINARY if binary else JSON)
    for module in (pulls, pulls_plain):
        found, at = module.found_frame(
            len(body),
            binary=binary,
            opaque=opaque,
            next_offset=offsets[0],
            min_offset=offsets[1],
            max_offset=offsets[2],
            broker_id=broker_id,
        )
        found[at:] = body
        assert bytes(found) == expected


@pytest.mark.parametrize("size", [-1, 2**31])
@pytest.mark.parametrize("module", [pulls, pulls_plain])
def test_a_body_that_no_frame_holds(module: Any, size: int) -> None:
    with pytest.raises(LayoutError, match="size of a body"):
        module.found_frame(
            size, binary=False, opaque=1, next_offset=1, min_offset=0, max_offset=1, broker_id=0
        )


def chosen(
    entries: NDArray[np.void], count_max: int, size_max: int
) -> tuple[int, int, list[int], list[int]]:
    """What both choose."""
    got = []
    for module in (pulls, pulls_plain):
        offsets, sizes = np.zeros(8, dtype=np.int64), np.zeros(8, dtype=np.int64)
        count, total = module.choose(entries, count_max, size_max, offsets, sizes)
        got.append((count, total, offsets[:count].tolist(), sizes[:count].tolist()))
    assert got[0] == got[1]
    return got[0]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**62),
            st.sampled_from([100, 101, 5000, 2**31 - 2]) | st.sampled_from([0, -1, FILLER_SIZE]),
        ),
        max_size=10,
    ),
    st.integers(1, 8),
    st.sampled_from([0, 100, 201, 300, 10_000, 2**40]),
)
def test_chosen_entries(drawn: list[tuple[int, int]], count_max: int, size_max: int) -> None:
    entries = np.array([(*pair, 7) for pair in drawn], dtype=ENTRY)
    count, total, offsets, sizes = chosen(entries, count_max, size_max)
    assert total == sum(sizes)
    assert list(zip(offsets, sizes, strict=True)) == drawn[:count]
    assert count == 1 or total <= size_max
    if count == 0:
        assert not drawn or any(not 0 < size < FILLER_SIZE for _, size in drawn[:count_max])
    elif count < min(count_max, len(drawn)):
        assert total + drawn[count][1] > size_max


@pytest.mark.parametrize("count_max", [0, 9])
@pytest.mark.parametrize("module", [pulls, pulls_plain])
def test_choosing_needs_room(module: Any, count_max: int) -> None:
    room = np.zeros(8, dtype=np.int64)
    with pytest.raises(LayoutError, match="room"):
        module.choose(np.zeros(9, dtype=ENTRY), count_max, 100, room, room.copy())


def test_json_of_an_answer_is_json() -> None:
    found, at = pulls.found_frame(
        0, binary=False, opaque=-5, next_offset=1, min_offset=0, max_offset=2, broker_id=0
    )
    assert json.loads(bytes(found[8:at]))["remark"] == "FOUND"
