from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shmq.broker.hold import HoldTable


def table(
    slots: int = 4, *, count: int = 2
) -> tuple[HoldTable[str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    max_offsets = np.zeros(slots, dtype=np.int64)
    return HoldTable[str](max_offsets, count=count), max_offsets


def test_empty() -> None:
    holds, _ = table()
    assert (len(holds), holds.arrived(), holds.overdue(2**60)) == (0, [], [])


def test_arrival() -> None:
    holds, max_offsets = table()
    number = holds.park("a", slot=1, offset=5, deadline_ms=100)
    other = holds.park("b", slot=2, offset=0, deadline_ms=100)
    for end, hit in [(4, []), (5, []), (6, [number]), (7, [number])]:
        max_offsets[1] = end
        assert holds.arrived() == hit
    assert holds.place(number) == (1, 5)
    assert holds.look(number) == "a"
    assert holds.take(number) == "a"
    assert holds.take(number) is None
    assert holds.look(number) is None
    assert holds.arrived() == []
    assert (len(holds), holds.look(other)) == (1, "b")


def test_advance() -> None:
    """What does not match is not looked at again."""
    holds, max_offsets = table()
    number = holds.park("a", slot=0, offset=0, deadline_ms=100)
    max_offsets[0] = 3
    assert holds.arrived() == [number]
    holds.advance(number, 3)
    assert holds.arrived() == []
    max_offsets[0] = 4
    assert holds.arrived() == [number]


def test_deadline() -> None:
    holds, _ = table()
    number = holds.park("a", slot=0, offset=0, deadline_ms=100)
    assert holds.overdue(99) == []
    assert holds.overdue(100) == [number]
    assert holds.overdue(101) == [number]
    holds.take(number)
    assert holds.overdue(2**62) == []


def test_grows() -> None:
    holds, max_offsets = table(count=2)
    numbers = [holds.park(str(at), slot=at % 4, offset=at, deadline_ms=at) for at in range(100)]
    assert sorted(numbers) == list(range(100))
    assert len(holds) == 100
    max_offsets[:] = 50
    assert sorted(holds.arrived()) == sorted(numbers[:50])
    assert sorted(holds.overdue(10)) == sorted(numbers[:11])


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("park"), st.integers(0, 3), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("take"), st.integers(0, 30), st.just(0), st.just(0)),
        st.tuples(st.just("advance"), st.integers(0, 30), st.integers(0, 12), st.just(0)),
        st.tuples(st.just("append"), st.integers(0, 3), st.integers(1, 3), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=100, deadline=None)
@given(OPERATIONS, st.integers(0, 9))
def test_equals_a_plain_table(operations: list[tuple[str, int, int, int]], now_ms: int) -> None:
    holds, max_offsets = table()
    plain: dict[int, tuple[str, int, int, int]] = {}
    for turn, (what, first, second, third) in enumerate(operations):
        if what == "park":
            number = holds.park(str(turn), slot=first, offset=second, deadline_ms=third)
            assert number not in plain
            plain[number] = (str(turn), first, second, third)
        elif what == "append":
            max_offsets[first] += second
        elif plain:
            number = sorted(plain)[first % len(plain)]
            if what == "take":
                assert holds.take(number) == plain.pop(number)[0]
            else:
                kept, slot, _, deadline = plain[number]
                holds.advance(number, second)
                plain[number] = (kept, slot, second, deadline)
        arrived = {number for number, kept in plain.items() if max_offsets[kept[1]] > kept[2]}
        assert set(holds.arrived()) == arrived
        assert set(holds.overdue(now_ms)) == {
            number for number, kept in plain.items() if kept[3] <= now_ms
        }
        assert len(holds) == len(plain)
