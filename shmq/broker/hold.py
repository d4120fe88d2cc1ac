"""Holds: pulls that wait for a message. Parked in serve, looked through in one array operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEVER: Final = np.iinfo(np.int64).max
T = TypeVar("T")


class HoldTable(Generic[T]):
    """Waiting pulls by number; T is what the caller keeps of each."""

    def __init__(self, max_offsets: NDArray[np.int64], *, count: int = 256) -> None:
        """`max_offsets` is the queue table's live column."""
        self._max_offsets = max_offsets
        self._slots = np.zeros(count, dtype=np.int64)
        self._offsets = np.full(count, NEVER, dtype=np.int64)
        self._deadlines = np.full(count, NEVER, dtype=np.int64)
        self._kept: list[T | None] = [None] * count
        self._free = list(range(count - 1, -1, -1))
        self._used = 0
        self._high = 0

    def __len__(self) -> int:
        """Number of waiting pulls."""
        return self._used

    def park(self, kept: T, *, slot: int, offset: int, deadline_ms: int) -> int:
        """Let a pull wait until the queue has a message at `offset`, or for the deadline."""
        if not self._free:
            self._grow()
        number = self._free.pop()
        self._slots[number] = slot
        self._offsets[number] = offset
        self._deadlines[number] = deadline_ms
        self._kept[number] = kept
        self._used += 1
        self._high = max(self._high, number + 1)
        return number

    def take(self, number: int) -> T | None:
        """Remove a pull; None when it is gone already."""
        kept = self._kept[number]
        if kept is not None:
            self._kept[number] = None
            self._offsets[number] = self._deadlines[number] = NEVER
            self._free.append(number)
            self._used -= 1
        return kept

    def look(self, number: int) -> T | None:
        """What is kept of a pull, without removing it."""
        return self._kept[number]

    def advance(self, number: int, offset: int) -> None:
        """Messages before `offset` were looked at and do not match."""
        self._offsets[number] = offset

    def numbers(self) -> list[int]:
        """Numbers of all that wait."""
        return [number for number in range(self._high) if self._kept[number] is not None]

    def arrived(self) -> list[int]:
        """Numbers of pulls whose queue has a message now."""
        if not self._used:
            return []
        high = self._high
        hit = self._max_offsets[self._slots[:high]] > self._offsets[:high]
        found: list[int] = np.flatnonzero(hit).tolist()
        return found

    def overdue(self, now_ms: int) -> list[int]:
        """Numbers of pulls that waited long enough."""
        if not self._used:
            return []
        found: list[int] = np.flatnonzero(self._deadlines[: self._high] <= now_ms).tolist()
        return found

    def place(self, number: int) -> tuple[int, int]:
        """Slot and offset that a pull waits for."""
        return int(self._slots[number]), int(self._offsets[number])

    def _grow(self) -> None:
        count = len(self._kept)
        self._slots = np.concatenate((self._slots, np.zeros(count, dtype=np.int64)))
        self._offsets = np.concatenate((self._offsets, np.full(count, NEVER, dtype=np.int64)))
        self._deadlines = np.concatenate((self._deadlines, np.full(count, NEVER, dtype=np.int64)))
        self._kept.extend([None] * count)
        self._free.extend(range(2 * count - 1, count - 1, -1))
