from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shmq.errors import LayoutError
from shmq.kernels import answers as answers_kernel
from shmq.kernels import answers_plain
from shmq.layout.ring import (
    ANSWER_BINARY,
    ANSWER_BY_HAND,
    ANSWER_ONEWAY,
    COMPLETION,
    ENTRY,
    STATUS_OK,
)
from shmq.wire.frame import FrameDecoder
from shmq.wire.header import BINARY, JSON, Header, answer, encode_frame
from shmq.wire.messageid import offset_message_id
from shmq.wire.send import encode_send_answer
from tests.property.hostile import INT32, INT64, V4_HOSTS, V6_HOSTS

ENTRIES = 8
DATA_SIZE = 256
MODULES = [answers_kernel, answers_plain]
UNIQUE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)


class Ring:
    """Entries, completions and data in memory."""

    def __init__(self) -> None:
        self.entries = np.zeros(ENTRIES, dtype=ENTRY)
        self.completions = np.zeros(ENTRIES, dtype=COMPLETION)
        self.data = np.zeros(DATA_SIZE, dtype=np.uint8)

    def builder(self, module: Any, **changed: Any) -> Any:
        """An AnswerBuilder of a module on it."""
        parts: dict[str, Any] = {
            "entries": self.entries.view(np.uint8),
            "completions": self.completions.view(np.uint8),
            "data": self.data,
            "entry_count": ENTRIES,
            "data_size": DATA_SIZE,
            "store_host": b"\x7f\0\0\1",
            "store_port": 10911,
            "trace_on": True,
        }
        return module.AnswerBuilder(**parts | changed)


def fill(draw: st.DrawFn, array: NDArray[Any], **strategies: st.SearchStrategy[int]) -> None:
    """Set the named fields of every element."""
    for element in array:
        for name, numbers in strategies.items():
            element[name] = draw(numbers)


@st.composite
def rings(draw: st.DrawFn, *, hostile: bool) -> Ring:
    """Rings of finished entries for few connections; hostile: with places outside of the data."""
    ring = Ring()
    text = draw(st.binary(min_size=1, max_size=60))
    ring.data[:] = np.frombuffer((text * DATA_SIZE)[:DATA_SIZE], dtype=np.uint8)
    edges = st.sampled_from([-1, 255, 256, 257, 2**31 - 1, -(2**31)])
    places = st.integers(0, 80)
    fill(
        draw,
        ring.entries,
        data_position=places | edges | st.just(2**63 - 1) if hostile else places,
        data_size=st.integers(0, 300),
        record_count=st.integers(1, 3),
        opaque=INT32,
        connection=st.integers(0, 1),
        connection_id=st.integers(0, 1),
        answer_flags=st.sampled_from([0, 0, ANSWER_BINARY, ANSWER_BINARY]) | st.integers(0, 15),
        queue_id=INT32,
        unique_at=places | edges if hostile else places,
        unique_size=places | edges if hostile else places,
    )
    fill(
        draw,
        ring.completions,
        status=st.sampled_from([STATUS_OK, STATUS_OK, STATUS_OK, 1]),
        physical_offset=st.integers(0, 1000) | st.just(2**62),
        queue_offset=INT64,
    )
    return ring


def outcome(builder: Any, first: int, end: int, limit: int, out_size: int) -> object:
    """What build() gives and what stands in its output, or its error."""
    out = bytearray(b"." * out_size)
    try:
        result = builder.build(first, end, limit, out)
    except LayoutError as error:
        return str(error)
    return result, bytes(out[: max([0, *(stop for _, _, _, stop in result[1])])])


LIMITS = st.integers(0, 1200) | st.just(2**63 - 1)


@given(
    st.booleans().flatmap(lambda hostile: rings(hostile=hostile)),
    st.integers(0, 2 * ENTRIES),
    st.integers(-1, ENTRIES + 1),
    LIMITS,
    st.integers(0, 400) | st.just(1 << 16),
)
def test_kernel_equals_twin(ring: Ring, first: int, count: int, limit: int, out_size: int) -> None:
    got = [
        outcome(ring.builder(module), first, first + count, limit, out_size) for module in MODULES
    ]
    assert got[0] == got[1]


@given(rings(hostile=False), st.data())
def test_an_answer_after_the_other_is_the_same_as_all_at_once(
    ring: Ring, drawn: st.DataObject
) -> None:
    """Stopping for want of room, and going on, loses and doubles nothing."""
    builder = ring.builder(answers_kernel)
    whole = bytearray(1 << 16)
    _, runs = builder.build(0, ENTRIES, 2**63 - 1, whole)
    at_once = [(run[:2], bytes(whole[run[2] : run[3]])) for run in runs]
    pieces: list[tuple[tuple[int, int], bytes]] = []
    sequence = 0
    while sequence < ENTRIES:
        out = bytearray(drawn.draw(st.integers(900, 1800)))
        following, runs = builder.build(sequence, ENTRIES, 2**63 - 1, out)
        assert following > sequence
        sequence = following
        for run in runs:
            piece = (run[:2], bytes(out[run[2] : run[3]]))
            if pieces and run[0] >= 0 and pieces[-1][0] == piece[0]:
                piece = (piece[0], pieces.pop()[1] + piece[1])
            pieces.append(piece)
    assert pieces == at_once


@given(
    host=V4_HOSTS | V6_HOSTS,
    port=st.integers(0, 65535),
    region=UNIQUE,
    trace_on=st.booleans(),
    unique=UNIQUE | st.none(),
    queue_id=st.integers(0, 2**31 - 1),
    opaque=INT32,
    offsets=st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)),
    flags=st.sampled_from([0, ANSWER_BINARY]),
)
def test_an_answer_is_what_the_general_path_makes(
    *,
    host: bytes,
    port: int,
    region: str,
    trace_on: bool,
    unique: str | None,
    queue_id: int,
    opaque: int,
    offsets: tuple[int, int],
    flags: int,
) -> None:
    ring = Ring()
    text = b"" if unique is None else unique.encode()
    ring.data[100 : 100 + len(text)] = np.frombuffer(text, dtype=np.uint8)
    ring.entries[3] = (8, 200, 1, 0, 0, 0, opaque, 5, 6, flags, queue_id, 92, len(text))
    ring.completions[3] = (STATUS_OK, 0, offsets[0], offsets[1], 0)
    expected = answer(
        Header(code=310, opaque=opaque),
        0,
        ext=encode_send_answer(
            message_id=offset_message_id(host, port, offsets[0]),
            queue_id=queue_id,
            queue_offset=offsets[1],
            transaction_id=unique,
            region=region,
            trace_on=trace_on,
        ),
    )
    for module in MODULES:
        builder = ring.builder(
            module, store_host=host, store_port=port, region=region.encode(), trace_on=trace_on
        )
        out = bytearray(2000)
        following, [run] = builder.build(3, 4, 2**63 - 1, out)
        assert (following, run[:3]) == (4, (5, 6, 0))
        decoder = FrameDecoder()
        decoder.feed(out[: run[3]])
        frame = decoder.next_frame()
        assert frame is not None
        assert decoder.buffered_size == 0
        serialization = BINARY if flags else JSON
        assert (frame.header, frame.body, frame.serialization) == (expected, b"", serialization)
        # Java's order of ext fields is not ours; but for that, every byte is the same.
        assert encode_frame(frame.header, b"", serialization) == bytes(out[: run[3]])


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("flags", [0, ANSWER_BINARY])
def test_room_for_exactly_one_answer(module: Any, flags: int) -> None:
    ring = Ring()
    ring.entries["answer_flags"] = flags
    builder = ring.builder(module)
    _, [run] = builder.build(0, 1, 100, bytearray(1000))
    size = run[3]
    assert builder.build(0, 2, 100, bytearray(size)) == (1, [(0, 0, 0, size)])
    assert builder.build(0, 2, 100, bytearray(2 * size)) == (2, [(0, 0, 0, 2 * size)])
    with pytest.raises(LayoutError, match="no room"):
        builder.build(0, 2, 100, bytearray(size - 1))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(("limit", "done"), [(299, 0), (300, 1), (301, 1)])
@pytest.mark.parametrize(("count", "data_size"), [(1, 200), (3, 224)])
def test_an_answer_waits_for_the_flush(
    module: Any, limit: int, done: int, count: int, data_size: int
) -> None:
    ring = Ring()
    ring.entries[0]["record_count"], ring.entries[0]["data_size"] = count, data_size
    ring.completions[0]["physical_offset"] = 100
    assert ring.builder(module).build(0, 1, limit, bytearray(1000))[0] == done


@pytest.mark.parametrize(("at", "size", "named"), [(0, 5, False), (1, 5, True), (1, 0, False)])
@pytest.mark.parametrize("flags", [0, ANSWER_BINARY])
def test_a_message_without_unique_key(*, at: int, size: int, named: bool, flags: int) -> None:
    for module in MODULES:
        ring = Ring()
        ring.entries[0]["answer_flags"] = flags
        ring.entries[0]["unique_at"], ring.entries[0]["unique_size"] = at, size
        out = bytearray(1000)
        ring.builder(module).build(0, 1, 100, out)
        assert (b"transactionId" in out) == named


@pytest.mark.parametrize("module", MODULES)
def test_what_is_not_answered_here(module: Any) -> None:
    ring = Ring()
    ring.entries["answer_flags"] = [
        ANSWER_ONEWAY,
        ANSWER_BY_HAND,
        ANSWER_ONEWAY | ANSWER_BY_HAND,
        0,
        ANSWER_ONEWAY,
        0,
        0,
        0,
    ]
    ring.completions["status"][[3, 4]] = 1
    following, runs = ring.builder(module).build(0, 6, 100, bytearray(1000))
    assert following == 6
    assert runs[:3] == [(-1, 1, 0, 0), (-1, 2, 0, 0), (-1, 3, 0, 0)]
    assert [run[:3] for run in runs[3:]] == [(0, 0, 0)]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "changed",
    [
        {"entry_count": 0},
        {"entry_count": 3},
        {"entry_count": 16},
        {"entries": bytes(64 * ENTRIES - 1)},
        {"completions": bytes(32 * ENTRIES - 1)},
        {"data_size": DATA_SIZE + 1},
        {"data": np.zeros(DATA_SIZE + 4, np.uint8)[4:]},
        {"store_host": b"12345"},
    ],
)
def test_parts_that_do_not_fit(module: Any, changed: dict[str, Any]) -> None:
    ring = Ring()
    ring.builder(module)
    with pytest.raises(LayoutError):
        ring.builder(module, **changed)


@pytest.mark.parametrize("module", MODULES)
def test_a_closed_builder_lets_go_of_the_ring(module: Any) -> None:
    data = bytearray(DATA_SIZE)
    builder = Ring().builder(module, data=data)
    with pytest.raises(BufferError):
        data.append(0)
    builder.close()
    data.append(0)
    with pytest.raises(LayoutError):
        builder.build(0, 1, 100, bytearray(1000))
