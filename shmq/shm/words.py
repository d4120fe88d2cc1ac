"""Words that processes show each other: one writer, any readers, one aligned 8-byte store.

The only module that leans on memory order in Python. A native memoryview.cast("q") store of 8
aligned bytes is never seen half; x86-64 shows stores to other cores in program order. Other
machines do not, so the module refuses to start there.
"""

from __future__ import annotations

import platform

from shmq.errors import LayoutError
from shmq.layout.control import LINE_SIZE, MAGIC_VALUE, OWNERS, STATE_WORDS, Word

if platform.machine() not in ("x86_64", "AMD64"):  # pragma: no cover
    raise LayoutError(
        "stores may be seen out of order on this machine",
        machine=platform.machine(),
        allowed="x86_64",
    )


class Cell:
    """One 8-byte word at a fixed place, for reading."""

    def __init__(self, view: memoryview, at: int) -> None:
        assert at % 8 == 0, "a word must be aligned"
        self._cell = view[at : at + 8].cast("q")

    def load(self) -> int:
        """The word's value now. SYNC POINT: pairs with publish() in its one writer."""
        return self._cell[0]


class OwnedCell(Cell):
    """One word for its writer; only grows unless `free`."""

    def __init__(self, view: memoryview, at: int, *, free: bool = False) -> None:
        super().__init__(view, at)
        self._free = free

    def publish(self, value: int) -> None:
        """Make `value` visible. SYNC POINT: pairs with load() in every reader."""
        assert self._free or value >= self._cell[0], "a published offset never goes back"
        self._cell[0] = value


class WordReader(Cell):
    """A word of the control segment, for reading."""

    def __init__(self, segment: memoryview, word: Word) -> None:
        super().__init__(segment, word * LINE_SIZE)
        self.word = word


class WordWriter(OwnedCell):
    """A word of the control segment, for its owner."""

    def __init__(self, segment: memoryview, word: Word, *, role: str) -> None:
        if OWNERS[word] != role and role != "boot":
            raise LayoutError("not the owner", word=word.name, owner=OWNERS[word], role=role)
        super().__init__(segment, word * LINE_SIZE, free=word in STATE_WORDS)
        self.word = word


def check_control(view: memoryview) -> None:
    """Refuse a control segment that this version does not know.

    Raises:
        LayoutError: it names what was found and what is known.
    """
    found = Cell(view, 0).load()
    if found != MAGIC_VALUE:
        raise LayoutError(
            "not a control segment of this version",
            found=hex(found),
            expected=hex(MAGIC_VALUE),
        )
