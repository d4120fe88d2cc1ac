"""The frames of sends: byte for byte as the general encoder has them, and as Java writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmq.client.address import Endpoint
from shmq.client.model import Queue
from shmq.client.prepare import Prepared
from shmq.client.remoting import COPY_SIZE_MAX, encode, join
from shmq.client.transport import Submission
from shmq.wire.codes import RequestCode
from shmq.wire.frame import Frame, FrameDecoder
from shmq.wire.send import decode_send, split_batch

ENDPOINT = Endpoint("h", 1)


def submission(messages: list[Prepared], *, is_batch: bool = False, **names: Any) -> Submission:
    queue = Queue(names.get("topic", "T"), names.get("broker", "b"), names.get("queue_id", 3))
    return Submission(ENDPOINT, queue, names.get("group", "PID"), messages, is_batch, 1.0)


def decoded(parts: list[bytes | memoryview]) -> Frame:
    decoder = FrameDecoder()
    decoder.feed(b"".join(parts))
    frame = decoder.next_frame()
    assert frame is not None
    assert decoder.buffered_size == 0
    return frame


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


numbers = st.integers(0, 2**31 - 1)


@given(st.binary(max_size=100), st.tuples(texts, texts, texts, texts), st.tuples(numbers, numbers))
def test_any_header(body: bytes, words: tuple[str, ...], some: tuple[int, ...]) -> None:
    topic, group, broker, value = words
    queue_id, flag = some
    opaque = flag ^ queue_id
    message = Prepared(body, f"UNIQ_KEY\x01id\x02x\x01{value}\x02", "id", flag, 0x301)
    names: dict[str, Any] = {"topic": topic, "group": group, "broker": broker, "queue_id": queue_id}
    code, parts = encode(submission([message], **names), opaque, flag=2)
    frame = decoded(parts)
    assert frame.body == body
    header = frame.header
    assert (header.code, code, header.opaque, header.flag) == (310, 310, opaque, 2)
    assert header.language == "PYTHON"
    send = decode_send(code, header.ext)
    assert (send.topic, send.producer_group, send.broker_name) == (topic, group, broker)
    assert (send.queue_id, send.flag, send.sys_flag) == (queue_id, flag, 0x301)
    assert send.properties == message.properties
    assert not send.batch


@pytest.mark.parametrize("size", [0, 1, COPY_SIZE_MAX, COPY_SIZE_MAX + 1, 1 << 20])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bodies_of_any_kind(size: int, kind: Any) -> None:
    """Those above the limit are not copied."""
    body = kind(b"x" * size)
    _code, parts = encode(submission([Prepared(body, "", "id")]), 1, flag=0)
    assert decoded(parts).body == b"x" * size
    assert len(parts) == (2 if size > COPY_SIZE_MAX else 1)


batches = st.lists(
    st.tuples(st.binary(max_size=50), texts, st.integers(0, 100)), min_size=1, max_size=9
)


@given(batches)
def test_batches(messages: list[tuple[bytes, str, int]]) -> None:
    prepared = [
        Prepared(memoryview(body), f"a\x01{value}\x02", "id", flag)
        for body, value, flag in messages
    ]
    code, parts = encode(submission(prepared, is_batch=True), 7, flag=0)
    frame = decoded(parts)
    assert code == frame.header.code == RequestCode.SEND_BATCH_MESSAGE
    assert decode_send(code, frame.header.ext).batch
    assert frame.body == join(prepared)
    found = [(one.body, one.properties.decode(), one.flag) for one in split_batch(frame.body)]
    assert found == [(body, f"a\x01{value}\x02", flag) for body, value, flag in messages]


def test_as_java_writes_it(golden_dir: Path) -> None:
    """The frame of a Java client, but for language, time and opaque."""
    golden = (golden_dir / "frames" / "json-310-SEND_MESSAGE_V2-req.bin").read_bytes()
    java = decoded([golden])
    properties = java.header.ext["i"]
    message = Prepared(java.body, properties, "id")
    names: dict[str, Any] = {"topic": "FrameT", "group": "frame_p", "broker": "golden-a"}
    sent = submission([message], queue_id=0, **names)
    _code, parts = encode(sent, java.header.opaque, flag=0)
    ours = b"".join(parts)

    def plain(data: bytes) -> bytes:
        data = re.sub(rb'"g":"[0-9]+"', b'"g":"0"', data[8:])
        return data.replace(b'"JAVA"', b'"PYTHON"')

    assert plain(ours) == plain(golden)
