"""Frames that a real Java client, broker and name server exchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from shmq.layout import record
from shmq.wire import jsonish
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.frame import Frame, FrameDecoder
from shmq.wire.header import BINARY, JSON, encode_frame
from shmq.wire.properties import decode_properties
from shmq.wire.pull import decode_pull, encode_pull_answer, parse_tags
from shmq.wire.send import decode_send, encode_send, encode_send_answer, join_batch, split_batch

EMPTY_EXT = b'"extFields":{},'
FRAMES_COUNT = 70


def decode(data: bytes) -> Frame:
    decoder = FrameDecoder()
    decoder.feed(data)
    frame = decoder.next_frame()
    assert frame is not None
    assert decoder.next_frame() is None
    assert decoder.buffered_size == 0
    return frame


@pytest.fixture(scope="session")
def frames(golden_dir: Path) -> dict[str, bytes]:
    """Raw frames by file name without its end."""
    return {file.stem: file.read_bytes() for file in (golden_dir / "frames").glob("*.bin")}


def test_every_frame_says_what_its_name_says(frames: dict[str, bytes]) -> None:
    assert len(frames) == FRAMES_COUNT
    for name, data in frames.items():
        serialization, code, command, kind, *_ = name.split("-")
        header = decode(data).header
        assert RequestCode[command] == int(code)
        assert header.language == "JAVA"
        assert header.version == 513
        assert (header.is_response, header.is_oneway) == (kind == "resp", kind == "oneway")
        assert decode(data).serialization == {"json": JSON, "binary": BINARY}[serialization]
        if kind == "resp":
            assert ResponseCode(header.code) in {0, 17, 20, 22}
        else:
            assert header.code == int(code)


def test_every_frame_is_written_again(frames: dict[str, bytes]) -> None:
    """Same bytes, but for an empty extFields, which Java writes now and then and we in answers."""
    same_count = 0
    for name, data in frames.items():
        frame = decode(data)
        again = encode_frame(frame.header, frame.body, frame.serialization)
        assert decode(again) == frame, name
        same_count += again == data
        assert again[8:].replace(EMPTY_EXT, b"") == data[8:].replace(EMPTY_EXT, b""), name
    assert same_count == 61


def test_every_frame_comes_through_in_one_byte_pieces(frames: dict[str, bytes]) -> None:
    decoder, got = FrameDecoder(), []
    for data in frames.values():
        for byte in data:
            decoder.feed(bytes((byte,)))
            while (frame := decoder.next_frame()) is not None:
                got.append(frame)
    assert got == [decode(data) for data in frames.values()]


@pytest.mark.parametrize("serialization", ["json", "binary"])
def test_send(frames: dict[str, bytes], serialization: str) -> None:
    frame = decode(frames[f"{serialization}-310-SEND_MESSAGE_V2-req"])
    header = decode_send(frame.header.code, frame.header.ext)
    assert (header.producer_group, header.topic) == ("frame_p", "FrameT")
    assert (header.default_topic, header.default_topic_queue_count) == ("TBW102", 4)
    assert header.broker_name == "golden-a"
    properties = decode_properties(header.properties.encode())
    assert properties["属性"] == "值"
    assert properties["TAGS"] == "TagA"
    assert frame.body.decode() == "frame 帧"
    assert encode_send(header, frame.header.code) == frame.header.ext


@pytest.mark.parametrize("serialization", ["json", "binary"])
def test_batch(frames: dict[str, bytes], serialization: str) -> None:
    frame = decode(frames[f"{serialization}-320-SEND_BATCH_MESSAGE-req"])
    assert decode_send(frame.header.code, frame.header.ext).batch
    messages = split_batch(frame.body)
    assert [message.body for message in messages] == [b"batch 0", b"batch 1", b"batch 2"]
    keys = [decode_properties(message.properties)["KEYS"] for message in messages]
    assert keys == ["b0", "b1", "b2"]
    assert join_batch(messages) == frame.body


def test_send_answer(frames: dict[str, bytes]) -> None:
    ext = decode(frames["json-310-SEND_MESSAGE_V2-resp"]).header.ext
    again = encode_send_answer(
        message_id=ext["msgId"],
        queue_id=int(ext["queueId"]),
        queue_offset=int(ext["queueOffset"]),
        transaction_id=ext["transactionId"],
    )
    assert again == ext


def test_pull(frames: dict[str, bytes]) -> None:
    header = decode_pull(decode(frames["json-011-PULL_MESSAGE-req"]).header.ext)
    assert (header.consumer_group, header.topic) == ("frame_pull", "FrameT")
    assert (header.queue_id, header.queue_offset, header.count_max) == (0, 0, 8)
    assert (header.commits, header.suspends, header.subscribes) == (False, False, True)
    assert header.suspend_timeout_ms == 20_000
    assert header.size_max == 2**31 - 1
    assert parse_tags(header.subscription).tags == ("TagA",)


def test_pull_answer(frames: dict[str, bytes]) -> None:
    frame = decode(frames["json-011-PULL_MESSAGE-resp"])
    again = encode_pull_answer(next_begin_offset=2, min_offset=0, max_offset=2)
    assert list(again.items()) == list(frame.header.ext.items())
    found = record.decode(frame.body)
    assert found.topic == "FrameT"
    assert found.size == len(frame.body)


def test_json_bodies_are_understood(frames: dict[str, bytes]) -> None:
    lock = jsonish.loads(decode(frames["json-041-LOCK_BATCH_MQ-resp"]).body)
    assert lock == {"lockOKMQSet": [{"brokerName": "golden-a", "queueId": 3, "topic": "FrameT"}]}
    cluster = jsonish.loads(decode(frames["json-106-GET_BROKER_CLUSTER_INFO-resp"]).body)
    assert cluster["brokerAddrTable"]["golden-a"]["brokerAddrs"] == {"0": "127.0.0.1:40911"}
    route = jsonish.loads(decode(frames["json-105-GET_ROUTEINFO_BY_TOPIC-resp"]).body)
    body = decode(frames["json-105-GET_ROUTEINFO_BY_TOPIC-resp"]).body
    assert jsonish.dumps(route) == body
