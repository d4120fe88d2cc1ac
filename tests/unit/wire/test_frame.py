"""Frames: whole at any split, refused at every limit before memory is taken."""

from __future__ import annotations

import struct

import pytest

from shmq.errors import ProtocolError
from shmq.wire.frame import FRAME_SIZE_MAX, Frame, FrameDecoder
from shmq.wire.header import BINARY, JSON, Header, answer, encode_frame
from tests.conftest import GOLDEN_DIR

GOLDEN = [file.read_bytes() for file in sorted((GOLDEN_DIR / "frames").glob("*.bin"))]


def frames(decoder: FrameDecoder) -> list[Frame]:
    found = []
    while (frame := decoder.next_frame()) is not None:
        found.append(frame)
    return found


def prefix(length: int, header_size: int = 0, serialization: int = JSON) -> bytes:
    return struct.pack(">iI", length, serialization << 24 | header_size)


def test_golden_frames_at_any_split() -> None:
    stream = b"".join(GOLDEN)
    whole = FrameDecoder()
    whole.feed(stream)
    wanted = frames(whole)
    assert len(wanted) == len(GOLDEN)
    for piece in (1, 7, 8, 9, 100, 4096):
        decoder, got = FrameDecoder(), []
        for start in range(0, len(stream), piece):
            decoder.feed(stream[start : start + piece])
            got += frames(decoder)
        assert got == wanted
        assert decoder.buffered_size == 0


def test_a_frame_cut_anywhere_waits_for_the_rest() -> None:
    for data in GOLDEN[:6]:
        for cut in range(len(data)):
            decoder = FrameDecoder()
            decoder.feed(data[:cut])
            assert decoder.next_frame() is None
            assert decoder.buffered_size == cut
            decoder.feed(memoryview(data)[cut:])
            assert decoder.next_frame() is not None


@pytest.mark.parametrize("length", [-1, 0, 3, FRAME_SIZE_MAX - 3, 2**31 - 1, -(2**31)])
def test_lengths_outside_the_limits(length: int) -> None:
    decoder = FrameDecoder()
    decoder.feed(prefix(length))
    with pytest.raises(ProtocolError, match="frame length"):
        decoder.next_frame()
    with pytest.raises(AssertionError):
        decoder.next_frame()


def test_the_longest_frame_is_taken() -> None:
    frame = encode_frame(Header(1))
    body = bytes(FRAME_SIZE_MAX - len(frame))
    decoder = FrameDecoder()
    decoder.feed(encode_frame(Header(1), body))
    found = decoder.next_frame()
    assert found is not None
    assert found.body == body
    decoder.feed(prefix(FRAME_SIZE_MAX - 4, 10))
    assert decoder.next_frame() is None
    decoder = FrameDecoder()
    decoder.feed(encode_frame(Header(1), body + b"x")[:8])
    with pytest.raises(ProtocolError):
        decoder.next_frame()


@pytest.mark.parametrize(("length", "header_size"), [(4, 1), (100, 97), (4, 0xFFFFFF)])
def test_a_header_longer_than_its_frame(length: int, header_size: int) -> None:
    decoder = FrameDecoder()
    decoder.feed(prefix(length, header_size))
    with pytest.raises(ProtocolError, match="header longer than frame"):
        decoder.next_frame()


def test_a_header_above_its_own_limit() -> None:
    for header_size, fails in ((100, False), (101, True)):
        decoder = FrameDecoder(header_size_max=100)
        decoder.feed(prefix(4 + header_size, header_size))
        if fails:
            with pytest.raises(ProtocolError, match="header too long"):
                decoder.next_frame()
        else:
            assert decoder.next_frame() is None


@pytest.mark.parametrize("serialization", [2, 3, 255])
def test_serializations_that_nobody_knows(serialization: int) -> None:
    decoder = FrameDecoder()
    decoder.feed(prefix(4, 0, serialization))
    with pytest.raises(ProtocolError, match="unknown serialization"):
        decoder.next_frame()


@pytest.mark.parametrize("serialization", [JSON, BINARY])
def test_written_and_read(serialization: int) -> None:
    sent = Header(10, -5, 3, "GO", 5, 'r"é\n', {"a": "1", "名": "值\\"})
    decoder = FrameDecoder()
    decoder.feed(encode_frame(sent, b"body", serialization) + encode_frame(Header(0)))
    assert frames(decoder)[0] == Frame(sent, b"body", serialization)


def test_an_answer_has_fields_even_when_it_has_none() -> None:
    data = encode_frame(answer(Header(34, 77), 0))
    assert b'"extFields":{}' in data
    assert b'"opaque":77' in data
    assert b" " not in data
