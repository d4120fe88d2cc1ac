"""µs for the general path of one request: split frames, decode its header, encode its answer.

Pulls and everything but plain sends go this way. Only split has a compiled path and a plain one.
"""

from __future__ import annotations

from types import ModuleType

import pytest

from bench.load import BATCH, Benchmark, note, send_frames
from shmq.kernels import frames, frames_plain
from shmq.units import KiB, MiB
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.wire.frame import FrameDecoder
from shmq.wire.header import (
    BINARY,
    JSON,
    Header,
    answer,
    decode_header,
    encode_frame,
    encode_header,
)
from shmq.wire.pull import decode_pull, encode_pull_answer

PULL = {
    "consumerGroup": "please_rename_unique_group_name",
    "topic": "TopicTest",
    "queueId": "3",
    "queueOffset": "123456",
    "maxMsgNums": "32",
    "sysFlag": "6",
    "commitOffset": "123456",
    "suspendTimeoutMillis": "15000",
    "subscription": "*",
    "subVersion": "1700000000000",
    "expressionType": "TAG",
}
REQUEST = Header(RequestCode.PULL_MESSAGE, 4711, language="JAVA", version=513, ext=PULL)


@pytest.mark.parametrize("module", [frames, frames_plain], ids=["kernel", "plain"])
@pytest.mark.benchmark(group="split, 256 frames")
def test_split(benchmark: Benchmark, module: ModuleType) -> None:
    """µs for the bounds of 256 frames in one buffer."""
    data = send_frames(BATCH, 128, JSON)
    found = benchmark(lambda: module.split(data, 0, len(data), 16 * MiB))
    assert (len(found), int(found[:, 1].sum())) == (BATCH, len(data))
    note(benchmark, unit="frame", count=BATCH)


@pytest.mark.parametrize("serialization", [JSON, BINARY], ids=["json", "binary"])
@pytest.mark.benchmark(group="header of one pull")
def test_decode_header(benchmark: Benchmark, serialization: int) -> None:
    """µs for the header of one pull request, from its bytes."""
    data = encode_header(REQUEST, serialization)
    assert benchmark(lambda: decode_header(data, serialization)) == REQUEST
    note(benchmark, unit="header", count=1)


@pytest.mark.benchmark(group="header of one pull")
def test_decode_pull(benchmark: Benchmark) -> None:
    """µs for the typed header of one pull, from its ext fields."""
    pull = benchmark(lambda: decode_pull(PULL))
    assert (pull.topic, pull.queue_offset, pull.count_max) == ("TopicTest", 123_456, 32)
    note(benchmark, unit="header", count=1)


@pytest.mark.parametrize("serialization", [JSON, BINARY], ids=["json", "binary"])
@pytest.mark.benchmark(group="answer to one pull")
def test_encode_frame(benchmark: Benchmark, serialization: int) -> None:
    """µs for the frame of one answer to a pull, with a body of 16 KiB."""
    body = bytes(16 * KiB)

    def work() -> bytes:
        ext = encode_pull_answer(next_begin_offset=123_488, min_offset=0, max_offset=200_000)
        return encode_frame(
            answer(REQUEST, ResponseCode.SUCCESS, "FOUND", ext), body, serialization
        )

    decoder = FrameDecoder()
    decoder.feed(benchmark(work))
    frame = decoder.next_frame()
    assert frame is not None
    assert (frame.header.opaque, len(frame.body)) == (4711, len(body))
    assert frame.header.ext["nextBeginOffset"] == "123488"
    note(benchmark, unit="answer", count=1)
