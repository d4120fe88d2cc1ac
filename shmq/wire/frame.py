"""Frames of the remoting protocol: the unit that travels on a connection.

    offset  size  type  field          meaning
         0     4  i32   length         bytes that follow this field: 4 + header + body
         4     1  u8    serialization  of the header: 0 JSON, 1 binary
         5     3  u24   header_size    bytes
         8     n        header         see wire.header
       8+n     m        body           as the header's code says; may be empty

Big-endian, packed. Java closes a connection whose frame is longer than 16 MiB in all.

Source: Apache RocketMQ remoting/netty/NettyDecoder and protocol/RemotingCommand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.errors import ProtocolError
from shmq.units import MiB
from shmq.wire.header import BINARY, Header, decode_header

if TYPE_CHECKING:
    from shmq.wire.header import Buffer

PREFIX_SIZE: Final = 8
LENGTH_SIZE: Final = 4
FRAME_SIZE_MAX: Final = 16 * MiB
HEADER_SIZE_MAX: Final = 1 * MiB


class Frame(NamedTuple):
    """One whole frame, decoded."""

    header: Header
    body: bytes
    serialization: int


class FrameDecoder:
    """Incremental decoder of one connection's inbound bytes.

    feed() takes what the socket gave, in pieces of any size; next_frame() gives the next whole
    frame, or None until more is fed. After a ProtocolError the decoder must not be used.
    """

    def __init__(
        self, *, frame_size_max: int = FRAME_SIZE_MAX, header_size_max: int = HEADER_SIZE_MAX
    ) -> None:
        self._length_max = frame_size_max - LENGTH_SIZE
        self._header_size_max = header_size_max
        self._buffer = bytearray()
        self._start = 0  # of the next frame in the buffer
        self._broken = False

    def feed(self, data: Buffer) -> None:
        """Add bytes as they came from the peer."""
        if self._start:
            del self._buffer[: self._start]
            self._start = 0
        self._buffer += data

    @property
    def buffered_size(self) -> int:
        """Bytes fed that are not yet part of a frame handed out."""
        return len(self._buffer) - self._start

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None until more is fed.

        Raises:
            ProtocolError: the bytes are no frame, or one above the limits.
        """
        assert not self._broken, "not used after a ProtocolError"
        start = self._start
        if len(self._buffer) - start < PREFIX_SIZE:
            return None
        try:
            return self._frame_at(start)
        except ProtocolError:
            self._broken = True
            raise

    def _frame_at(self, start: int) -> Frame | None:
        buffer = self._buffer
        length = int.from_bytes(buffer[start : start + 4], "big", signed=True)
        serialization = buffer[start + 4]
        header_size = int.from_bytes(buffer[start + 5 : start + 8], "big")
        if not LENGTH_SIZE <= length <= self._length_max:
            raise ProtocolError(
                "frame length", found=length, allowed=(LENGTH_SIZE, self._length_max)
            )
        if header_size > length - 4:
            raise ProtocolError("header longer than frame", header_size=header_size, length=length)
        if header_size > self._header_size_max:
            raise ProtocolError(
                "header too long", header_size=header_size, allowed=self._header_size_max
            )
        if serialization > BINARY:
            raise ProtocolError(
                "unknown serialization type", found=serialization, allowed=(0, BINARY)
            )
        end = start + LENGTH_SIZE + length
        if len(buffer) < end:
            return None
        header_end = start + PREFIX_SIZE + header_size
        with memoryview(buffer) as view:
            head = view[start + PREFIX_SIZE : header_end].tobytes()
            body = view[header_end:end].tobytes()
        frame = Frame(decode_header(head, serialization), body, serialization)
        self._start = end
        return frame
