"""Sending what is no request, and judging what comes back."""

from __future__ import annotations

import random
import select
import socket
import time
from collections.abc import Iterable
from typing import Final

import msgspec

from shmq.wire.codes import RequestCode
from shmq.wire.frame import FRAME_SIZE_MAX, Frame, FrameDecoder
from shmq.wire.header import BINARY, JSON, Header, encode_frame
from tests.crash.peer import PATIENCE, RECEIVE_SIZE, Address, connect, request_frame
from tests.property.hostile import GOLDEN_FRAMES

PATIENCE_S: Final = 10.0 * PATIENCE
SENTINEL: Final = 0x5EED0000
SENTINEL_CODES: Final = (RequestCode.GET_MAX_OFFSET, RequestCode.GET_ROUTEINFO_BY_TOPIC)


def _whole(data: bytes) -> Frame:
    decoder = FrameDecoder()
    decoder.feed(data)
    frame = decoder.next_frame()
    assert frame is not None
    return frame


VALUES: Final = (
    *("", " ", "0", "-1", "1", "65535", "2147483647", "2147483648", "-9223372036854775808"),
    *("9223372036854775808", "1e9", "NaN", "true", "null", "*", "||", "TAG", "SQL92", "TBW102"),
    *("../../x", "a/b", "/etc/passwd", "a\0b", "%RETRY%", "%RETRY%x", "%DLQ%x", "RMQ_SYS_TRACE"),
    *("x" * 127, "x" * 128, "x" * 300, "x" * 70_000, "{}", "[]", "\u65e5\u672c", "\U0001f600"),
    *("A\x01b\x02C", "\x01\x02" * 9, "DELAY\x0118\x02", "WAIT\x01false\x02", "a;b", "a,b"),
)
REQUESTS: Final = tuple(
    (frame.header, frame.body)
    for frame in map(_whole, GOLDEN_FRAMES)
    if not frame.header.is_response
)
LENGTHS: Final = (0, 1, 3, 4, 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, FRAME_SIZE_MAX + 1)


def judge(frame: Frame) -> None:
    """An answer must be one, and a refusal must say why."""
    header = frame.header
    if not header.is_response:
        return  # Something that the broker says to a member of a group.
    if header.code:
        assert header.remark, f"a refusal without a remark: {header}"


class Attacker:
    """One connection after the other; each piece is followed by a request that must be answered.

    When the piece leaves the stream in step, the answer to that request says that the piece was
    dealt with. Else the broker must close the connection.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._sock: socket.socket | None = None
        self._decoder = FrameDecoder()
        self._number = 0
        self.closed_count = 0
        self.answered_count = 0

    def close(self) -> None:
        """Close the connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def send(self, piece: bytes) -> list[Frame]:
        """Send bytes and wait until the broker has dealt with them; what it answered to them."""
        if self._sock is None:
            self._sock = connect(self._address, timeout_s=PATIENCE_S)
            self._decoder = FrameDecoder()
        sock = self._sock
        self._number += 1
        opaque = SENTINEL | self._number & 0xFFFF
        sentinel = request_frame(
            SENTINEL_CODES[0], {"topic": "TBW102", "queueId": 0}, opaque=opaque
        )
        try:
            sock.sendall(piece + sentinel)
            if not in_step(piece):
                sock.shutdown(socket.SHUT_WR)  # The broker may wait for the rest of a frame.
        except OSError:
            pass  # It was closed while we wrote; what was answered is still to be read.
        return self._read(sock, opaque)

    def _read(self, sock: socket.socket, opaque: int) -> list[Frame]:
        answers: list[Frame] = []
        end = time.monotonic() + PATIENCE_S
        while True:
            while (frame := self._decoder.next_frame()) is not None:
                judge(frame)
                if frame.header.is_response and frame.header.opaque == opaque:
                    self.answered_count += 1
                    return answers
                answers.append(frame)
            left_s = max(end - time.monotonic(), 0)
            assert select.select([sock], [], [], left_s)[0], "neither answered nor closed"
            try:
                data = sock.recv(RECEIVE_SIZE)
            except ConnectionResetError:
                data = b""
            if not data:
                assert self._decoder.buffered_size == 0, "closed amid an answer"
                self.closed_count += 1
                self.close()
                return answers
            self._decoder.feed(data)


def in_step(piece: bytes) -> bool:
    """Whether bytes are whole frames, going by their lengths alone."""
    at = 0
    while at < len(piece):
        if at + 8 > len(piece):
            return False
        length = int.from_bytes(piece[at : at + 4], "big", signed=True)
        if not 4 <= length <= FRAME_SIZE_MAX:
            return False
        at += 4 + length
    return at == len(piece)


def mutated(chance: random.Random) -> bytes:
    """A golden frame, damaged in one of several ways; its length is often right again."""
    frame = bytearray(chance.choice(GOLDEN_FRAMES))
    kind = chance.randrange(8)
    if kind == 0:
        for _ in range(chance.randrange(1, 9)):
            frame[chance.randrange(len(frame))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del frame[chance.randrange(len(frame)) :]
    elif kind == 2:
        other = chance.choice(GOLDEN_FRAMES)
        frame[chance.randrange(4, len(frame)) :] = other[chance.randrange(4, len(other)) :]
    elif kind == 3:
        frame[0:4] = chance.choice(LENGTHS).to_bytes(4, "big")
    elif kind == 4:
        frame[5:8] = chance.randrange(1 << 24).to_bytes(3, "big")
    elif kind == 5:
        at = chance.randrange(8, len(frame))
        frame[at:at] = chance.randbytes(chance.randrange(1, 40))
    elif kind == 6:
        at = chance.randrange(8, len(frame))
        frame[at : at + chance.randrange(1, 20)] = chance.choice(
            [b"99999999999999999999", b'"', b"{", b"null", b"-1", b"\0", b"\xff\xfe", b"[[[["]
        )
    else:
        frame[:] = chance.randbytes(chance.randrange(1, 200))
    if kind != 3 and len(frame) >= 8 and chance.random() < 0.8:
        frame[0:4] = (len(frame) - 4).to_bytes(4, "big")
    return bytes(frame)


def nonsense(chance: random.Random) -> bytes:
    """The frame of a request of which the header can be read, but says what no client would."""
    header, body = request(chance)
    return encode_frame(header, body, chance.choice([JSON, BINARY]))


def request(chance: random.Random) -> tuple[Header, bytes]:
    """A golden request with values that no client would send, and a damaged body."""
    header, body = chance.choice(REQUESTS)
    header = msgspec.structs.replace(header, ext=dict(header.ext))
    if chance.random() < 0.3:
        header.code = chance.choice(REQUESTS)[0].code
    if chance.random() < 0.05:
        header.code = chance.randrange(-(1 << 15), 1 << 15)
    header.flag = chance.choice([0, 0, 0, 0, 2, 4, -2, 0x7FFFFFFE])
    keys = list(header.ext)
    for key in chance.sample(keys, min(len(keys), chance.randrange(3))):
        if chance.random() < 0.3:
            del header.ext[key]
        else:
            header.ext[key] = chance.choice(VALUES)
    spoiled = bytearray(body)
    for _ in range(chance.choice([0, 0, 1, 5]) if body else 0):
        spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
    del spoiled[chance.choice([0, len(body) // 2, len(body), len(body), len(body)]) :]
    return header, bytes(spoiled)


def attack(address: Address, pieces: Iterable[bytes]) -> Attacker:
    """Send many pieces; the broker must deal with each."""
    attacker = Attacker(address)
    try:
        for piece in pieces:
            attacker.send(piece)
    finally:
        attacker.close()
    return attacker
