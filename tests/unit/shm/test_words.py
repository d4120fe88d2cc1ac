"""Words: one owner each, only growing, never seen half."""

from __future__ import annotations

import mmap
import os

import pytest

from shmq.errors import LayoutError
from shmq.layout import control
from shmq.layout.control import LINE_SIZE, OWNERS, STATE_WORDS, Word
from shmq.shm.words import Cell, OwnedCell, WordReader, WordWriter


def memory() -> memoryview:
    return memoryview(bytearray(control.SEGMENT_SIZE))


@pytest.mark.parametrize("word", list(Word))
def test_every_word_has_a_line_of_its_own(word: Word) -> None:
    view = memory()
    WordWriter(view, word, role=OWNERS[word]).publish(7)
    assert WordReader(view, word).load() == 7
    lines = [WordReader(view, other).load() for other in Word]
    assert lines.count(7) == 1
    assert view[word * LINE_SIZE] == 7


@pytest.mark.parametrize("word", list(Word))
def test_only_the_owner_and_boot_may_write(word: Word) -> None:
    view = memory()
    WordWriter(view, word, role="boot").publish(1)
    for role in {*OWNERS.values(), "serve", ""} - {OWNERS[word], "boot"}:
        with pytest.raises(LayoutError, match="not the owner") as raised:
            WordWriter(view, word, role=role)
        assert raised.value.facts["owner"] == OWNERS[word]


@pytest.mark.parametrize("word", [word for word in Word if word not in STATE_WORDS])
def test_progress_never_goes_back(word: Word) -> None:
    writer = WordWriter(memory(), word, role=OWNERS[word])
    writer.publish(5)
    writer.publish(5)
    with pytest.raises(AssertionError, match="never goes back"):
        writer.publish(4)
    assert writer.load() == 5


@pytest.mark.parametrize("word", sorted(STATE_WORDS))
def test_states_take_any_value(word: Word) -> None:
    writer = WordWriter(memory(), word, role=OWNERS[word])
    for value in (5, 4, 0, -1, 2**63 - 1, -(2**63)):
        writer.publish(value)
        assert writer.load() == value


@pytest.mark.parametrize("at", [1, 4, 7, 12])
def test_a_word_at_an_odd_place_is_refused(at: int) -> None:
    with pytest.raises(AssertionError, match="aligned"):
        Cell(memory(), at)


def test_a_reader_never_sees_half_a_store() -> None:
    """Two processes: one writes two patterns in turn, one reads."""
    shared = mmap.mmap(-1, 4096)
    low, high = 0x0101_0101_0101_0101, 0x7E7E_7E7E_7E7E_7E7E
    word, stop = OwnedCell(memoryview(shared), 64, free=True), Cell(memoryview(shared), 128)
    word.publish(low)
    pid = os.fork()
    if pid == 0:
        while not stop.load():
            word.publish(high)
            word.publish(low)
        os._exit(0)
    try:
        seen = {word.load() for _ in range(200_000)}
    finally:
        OwnedCell(memoryview(shared), 128).publish(1)
        assert os.waitpid(pid, 0)[1] == 0
    assert seen <= {low, high}


def test_the_layout_has_room_for_all_roles() -> None:
    assert max(Word) < control.SLEEPING_LINE
    assert control.HOLDING_LINE >= control.SLEEPING_LINE + control.ROLES_MAX
