from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.errors import ProtocolError
from shmq.kernels import frames, frames_plain
from tests.property.hostile import GOLDEN_FRAMES, damaged

LIMITS = st.sampled_from([8, 100, 4096, 1 << 24, 2**31 - 1, 2**40])
STREAMS = st.lists(st.sampled_from(GOLDEN_FRAMES), max_size=4).map(b"".join)


def outcome(split: object, data: bytes, start: int, end: int, limit: int) -> object:
    """What split() gives, or the error that it raises with all its facts."""
    assert callable(split)
    try:
        return split(data, start, end, limit).tolist()
    except ProtocolError as error:
        return str(error)


def same(data: bytes, start: int, end: int, limit: int) -> object:
    """What both give, after they were compared."""
    found = outcome(frames.split, data, start, end, limit)
    assert found == outcome(frames_plain.split, data, start, end, limit)
    return found


@given(damaged(STREAMS) | st.binary(max_size=64), st.data())
def test_kernel_equals_twin(data: bytes, drawn: st.DataObject) -> None:
    start = drawn.draw(st.integers(0, len(data)))
    same(data, start * drawn.draw(st.integers(0, 1)), len(data), drawn.draw(LIMITS))
    same(data, start, drawn.draw(st.integers(-1, len(data) + 1)), drawn.draw(LIMITS))


@given(st.lists(st.sampled_from(GOLDEN_FRAMES), min_size=1, max_size=3), st.data())
def test_whole_frames_before_a_cut_are_found(sent: list[bytes], drawn: st.DataObject) -> None:
    stream = b"".join(sent)
    cut = drawn.draw(st.integers(0, len(stream)))
    expected, at = [], 0
    for frame in sent:
        if at + len(frame) <= cut:
            expected.append([at, len(frame)])
        at += len(frame)
    assert same(stream, 0, cut, 1 << 24) == expected


@pytest.mark.parametrize("total", [3, 4, 5, 95, 96, 97, -1, 2**31 - 1])
@pytest.mark.parametrize("header_size", [0, 1, 91, 92, 93, 0xFFFFFF])
@pytest.mark.parametrize("given_size", [0, 3, 4, 7, 8, 9, 99, 100, 101])
def test_every_limit(total: int, header_size: int, given_size: int) -> None:
    head = total.to_bytes(4, "big", signed=True) + header_size.to_bytes(4, "big")
    data = head.ljust(101, b"x")[: min(given_size, max(total + 4, 8))]  # no second frame
    found = same(data, 0, len(data), 100)
    length_is_bad = given_size >= 4 and not 4 <= total <= 96
    header_is_bad = given_size >= 8 and header_size > total - 4
    if length_is_bad or header_is_bad:
        assert str(found).startswith("frame length")
    elif given_size < 8 or given_size < total + 4:
        assert found == []
    else:
        assert found == [[0, total + 4]]
