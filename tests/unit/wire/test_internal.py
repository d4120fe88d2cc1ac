"""Messages between the coordinator and the serve processes."""

from __future__ import annotations

import struct

import pytest

from shmq.errors import ProtocolError
from shmq.wire import internal
from shmq.wire.internal import MESSAGE_SIZE_MAX, Message, MessageDecoder, encode

MESSAGES: list[Message] = [
    internal.Hello(3, 4711),
    internal.Ask(
        1, 2, "127.0.0.1:5", 34, 9, 513, "JAVA", {"a": "名"}, b"\0body", None, oneway=True
    ),
    internal.Closed(7),
    internal.Commit([("G", "T", 0, 2**62)]),
    internal.CreateTopic(5, "T", "TBW102", 4),
    internal.CreateGroup(6, "G", "p"),
    internal.Reply(5, 0, "r", {"x": "y"}, b"z"),
    internal.TopicUpdate(
        [internal.TopicView("T", 6, 4, 4, 0, order=False, attributes={}, slots=[1, 2])], ["U"]
    ),
    internal.GroupUpdate([], complete=True),
    internal.Push(1, 40, {"consumerGroup": "G"}),
    internal.Disconnect(4),
]


def messages(decoder: MessageDecoder) -> list[Message]:
    found = []
    while (message := decoder.next_message()) is not None:
        found.append(message)
    return found


@pytest.mark.parametrize("piece", [1, 3, 4, 5, 64, 10_000])
def test_whole_at_any_split(piece: int) -> None:
    stream = b"".join(map(encode, MESSAGES))
    decoder, got = MessageDecoder(), []
    for start in range(0, len(stream), piece):
        decoder.feed(stream[start : start + piece])
        got += messages(decoder)
    assert got == MESSAGES
    assert decoder.pending_size == 0


def test_lengths_at_the_limit() -> None:
    data = encode(internal.Reply(1, 0, body=b"x" * 100))
    for size_max, fits in ((len(data) - 4, True), (len(data) - 5, False)):
        decoder = MessageDecoder(message_size_max=size_max)
        decoder.feed(data)
        if fits:
            assert decoder.next_message() is not None
        else:
            with pytest.raises(ProtocolError, match="length"):
                decoder.next_message()
    with pytest.raises(ProtocolError, match="too large"):
        encode(internal.Reply(1, 0, body=bytes(MESSAGE_SIZE_MAX)))


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x90", b"\x91\x63", b"\x92\x01\xa1x", b"\x93\x0f\x01"]
)
def test_bytes_that_are_no_message(data: bytes) -> None:
    decoder = MessageDecoder()
    decoder.feed(struct.pack("=I", len(data)) + data)
    with pytest.raises(ProtocolError, match="not an internal message"):
        decoder.next_message()


def test_a_message_cut_at_every_byte_waits() -> None:
    data = encode(MESSAGES[1])
    for cut in range(len(data)):
        decoder = MessageDecoder()
        decoder.feed(data[:cut])
        assert decoder.next_message() is None
        decoder.feed(data[cut:])
        assert decoder.next_message() == MESSAGES[1]
