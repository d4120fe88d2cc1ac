"""µs for 256 sends of 128 B or 1 KiB: from a connection's bytes into the ring, and their answers.

One round is what a serve process does with the sends of one wake-up, without socket and writer.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from bench.load import BATCH, SIZES, Benchmark, Ring, feed, note, send_frames
from bench.load import STORE_HOST as HOST
from shmq.kernels import answers, answers_plain, sends, sends_plain
from shmq.kernels.answers import AnswerBuilder
from shmq.kernels.sends import NEED_MORE
from shmq.layout import record
from shmq.wire.frame import FrameDecoder
from shmq.wire.header import BINARY, JSON

NO_LIMIT = 2**62


@pytest.mark.parametrize("module", [sends, sends_plain], ids=["kernel", "plain"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("serialization", [JSON, BINARY], ids=["json", "binary"])
@pytest.mark.benchmark(group="SendParser.feed, 256 sends")
def test_feed(benchmark: Benchmark, serialization: int, size: int, module: ModuleType) -> None:
    """µs for 256 single sends in one feed: header, properties, CRC, record, entry."""
    ring = Ring()
    parser = ring.parser(module)
    frames = send_frames(BATCH, size, serialization)

    def work() -> int:
        why = feed(parser, frames)
        parser.reap(parser.submitted)
        return why

    assert benchmark(work) == NEED_MORE
    assert parser.position == len(frames)
    assert parser.submitted % BATCH == 0
    for number in (0, BATCH - 1):
        at, end = int(ring.entries[number]["data_position"]), int(ring.entries[number]["data_size"])
        made = record.decode(ring.data[at : at + end].tobytes())
        assert (made.topic, len(made.body), made.queue_id) == ("T", size, number % 4)
    note(benchmark, unit="send", count=BATCH)


@pytest.mark.parametrize("module", [answers, answers_plain], ids=["kernel", "plain"])
@pytest.mark.parametrize("serialization", [JSON, BINARY], ids=["json", "binary"])
@pytest.mark.benchmark(group="AnswerBuilder.build, 256 answers")
def test_build(benchmark: Benchmark, serialization: int, module: ModuleType) -> None:
    """µs for the answers to 256 single sends of one connection, as frames."""
    ring = Ring()
    parser = ring.parser(sends)
    assert feed(parser, send_frames(BATCH, 128, serialization)) == NEED_MORE
    ring.completions["physical_offset"] = np.arange(BATCH) * 300
    ring.completions["queue_offset"] = np.arange(BATCH)
    builder: AnswerBuilder = module.AnswerBuilder(
        entries=ring.entries.view(np.uint8),
        completions=ring.completions.view(np.uint8),
        data=ring.data,
        entry_count=BATCH,
        data_size=len(ring.data),
        store_host=HOST,
        store_port=10_911,
        trace_on=True,
    )
    out = bytearray(1 << 20)
    end, runs = benchmark(lambda: builder.build(0, BATCH, NO_LIMIT, out))
    assert (end, len(runs), runs[0][:3]) == (BATCH, 1, (5, 9, 0))
    decoder = FrameDecoder()
    decoder.feed(out[: runs[0][3]])
    for number in range(BATCH):
        frame = decoder.next_frame()
        assert frame is not None
        assert (frame.header.opaque, frame.serialization) == (number, serialization)
        assert frame.header.ext["queueOffset"] == str(number)
    assert decoder.buffered_size == 0
    note(benchmark, unit="answer", count=BATCH)
