from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shmq.kernels import dispatch as dispatch_kernel
from shmq.kernels import dispatch_plain
from shmq.layout import cqentry
from shmq.layout.control import DESCRIPTOR
from tests.property.hostile import INT64

SLOTS = 3
HOT_ENTRIES = 4
DESCRIPTORS = 8


class Columns(NamedTuple):
    """The memory that one dispatcher works on."""

    descriptors: NDArray[Any]
    max_offsets: NDArray[Any]
    hot_starts: NDArray[Any]
    hot: NDArray[Any]
    filed: NDArray[Any]
    marks: NDArray[Any]

    def copy(self) -> Columns:
        """Columns of the same content."""
        return Columns(*(column.copy() for column in self))

    def dispatcher(self, module: Any) -> Any:
        """A dispatcher on them."""
        return module.Dispatcher(
            descriptors=self.descriptors.view(np.uint8),
            max_offsets=self.max_offsets,
            hot_starts=self.hot_starts,
            hot=self.hot,
            hot_entries=HOT_ENTRIES,
            filed=self.filed,
            marks=self.marks,
        )


def empty() -> Columns:
    return Columns(
        np.zeros(DESCRIPTORS, dtype=DESCRIPTOR),
        np.zeros(SLOTS, dtype=np.int64),
        np.zeros(SLOTS, dtype=np.int64),
        np.zeros(SLOTS * HOT_ENTRIES * cqentry.ENTRY_SIZE, dtype=np.uint8),
        np.zeros(SLOTS, dtype=np.int64),
        np.zeros(SLOTS, dtype=np.uint8),
    )


DESCRIPTOR_ROWS = st.lists(
    st.tuples(
        st.integers(0, 2**40),
        st.integers(0, 2**31 - 1),
        st.integers(-1, SLOTS) | st.sampled_from([-(2**31), 2**31 - 1]),
        st.integers(0, 12) | st.sampled_from([-1, 2**62]),
        INT64,
    ),
    min_size=DESCRIPTORS,
    max_size=DESCRIPTORS,
)


@st.composite
def columns(draw: st.DrawFn) -> Columns:
    """Queues of any state that can be, and descriptors with any content."""
    made = empty()
    for number, row in enumerate(draw(DESCRIPTOR_ROWS)):
        made.descriptors[number] = (*row, 0, 0, 0, 0, 0)
    for slot in range(SLOTS):
        end = draw(st.integers(0, 9))
        made.max_offsets[slot] = end
        made.hot_starts[slot] = draw(st.integers(max(0, end - HOT_ENTRIES), end))
        made.filed[slot] = draw(st.integers(0, end))
    return made


@given(columns(), st.integers(0, 9), st.integers(0, 9), st.integers(0, 2**41))
def test_kernel_equals_twin(made: Columns, first: int, count: int, limit: int) -> None:
    got = []
    for module in (dispatch_kernel, dispatch_plain):
        own = made.copy()
        dispatcher = own.dispatcher(module)
        number = dispatcher.dispatch(first, first + count, limit)
        state = (dispatcher.full_slot, dispatcher.gaps, dispatcher.last_offset)
        got.append((number, state, [column.tobytes() for column in own]))
    assert got[0] == got[1]


@given(st.lists(st.tuples(st.integers(0, SLOTS - 1), INT64), max_size=60))
def test_queues_in_order_with_files_written_when_asked(sent: list[tuple[int, int]]) -> None:
    """What a queue's ring and its filed entries hold together is all that was sent to it."""
    made = empty()
    dispatcher = made.dispatcher(dispatch_kernel)
    filed: list[list[tuple[int, int, int]]] = [[] for _ in range(SLOTS)]
    sent_to: list[list[tuple[int, int, int]]] = [[] for _ in range(SLOTS)]

    def file(slot: int) -> None:
        for offset in range(int(made.filed[slot]), int(made.max_offsets[slot])):
            place = slot * HOT_ENTRIES + offset % HOT_ENTRIES
            filed[slot].append(tuple(cqentry.decode(made.hot.tobytes(), place)))  # type: ignore[arg-type]
        made.filed[slot] = made.max_offsets[slot]

    for number, (slot, code) in enumerate(sent):
        queue_offset = len(sent_to[slot])
        made.descriptors[number % DESCRIPTORS] = (number * 100, 100, slot, queue_offset, code) + (
            (0,) * 5
        )
        sent_to[slot].append((number * 100, 100, code))
        while dispatcher.dispatch(number, number + 1, 2**62) == number:
            assert dispatcher.full_slot == slot
            file(slot)
    for slot in range(SLOTS):
        file(slot)
    assert filed == sent_to
    assert dispatcher.gaps == 0
    assert dispatcher.last_offset == 100 * len(sent)
    assert made.marks.tolist() == [int(bool(rows)) for rows in sent_to]


def test_what_was_entered_before_is_passed_over() -> None:
    for module in (dispatch_kernel, dispatch_plain):
        made = empty()
        for number in range(3):
            made.descriptors[number] = (number * 100, 100, 1, number, 5, 0, 0, 0, 0, 0)
        made.max_offsets[1] = 2
        dispatcher = made.dispatcher(module)
        assert dispatcher.dispatch(0, 3, 300) == 3
        assert made.max_offsets.tolist() == [0, 3, 0]
        assert dispatcher.gaps == 0
        assert cqentry.decode(made.hot.tobytes(), HOT_ENTRIES + 2) == (200, 100, 5)
        assert cqentry.decode(made.hot.tobytes(), HOT_ENTRIES + 1) == (0, 0, 0)


@pytest.mark.parametrize(("filed", "done"), [(0, 4), (1, 5), (2, 6)])
def test_a_ring_full_of_entries_that_are_in_no_file(filed: int, done: int) -> None:
    for module in (dispatch_kernel, dispatch_plain):
        made = empty()
        made.filed[2] = filed
        for number in range(DESCRIPTORS):
            made.descriptors[number] = (number * 100, 100, 2, number, 0, 0, 0, 0, 0, 0)
        dispatcher = made.dispatcher(module)
        assert dispatcher.dispatch(0, DESCRIPTORS, 2**40) == done
        assert (dispatcher.full_slot, dispatcher.last_offset) == (2, done * 100)
        assert made.hot_starts.tolist() == [0, 0, max(0, done - HOT_ENTRIES)]


@pytest.mark.parametrize(("limit", "done"), [(299, 2), (300, 3), (301, 3)])
def test_limit_offset(limit: int, done: int) -> None:
    for module in (dispatch_kernel, dispatch_plain):
        made = empty()
        for number in range(3):
            made.descriptors[number] = (number * 100, 100, 0, number, 0, 0, 0, 0, 0, 0)
        assert made.dispatcher(module).dispatch(0, 3, limit) == done


@pytest.mark.parametrize("module", [dispatch_kernel, dispatch_plain])
@pytest.mark.parametrize("part", ["hot_starts", "hot", "filed", "marks"])
def test_columns_of_different_length(module: Any, part: str) -> None:
    made = empty()
    short = made._replace(**{part: getattr(made, part)[:-1]})
    with pytest.raises(ValueError, match="different length"):
        short.dispatcher(module)


@pytest.mark.parametrize("module", [dispatch_kernel, dispatch_plain])
@pytest.mark.parametrize("count", [0, 3, 6])
def test_descriptor_count(module: Any, count: int) -> None:
    made = empty()
    with pytest.raises(ValueError, match="power of two"):
        made._replace(descriptors=made.descriptors[:count]).dispatcher(module)
