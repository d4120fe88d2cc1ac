"""Places of records that lie back to back, worked out when somebody looks at them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from shmq.client.made import Made
from shmq.wire.messageid import offset_message_id


class RunSizes(Made[int]):
    """Sizes of the records of a run."""

    __slots__ = ("_overhead", "_sizes")

    def __init__(self, sizes: Sequence[int], overhead: int) -> None:
        self._sizes = sizes
        self._overhead = overhead

    def __len__(self) -> int:
        return len(self._sizes)

    def make(self, index: int) -> int:
        """The size of one."""
        return self._sizes[index] + self._overhead


class Offsets(Made[int]):
    """Physical offsets of records back to back, added up when they are looked at."""

    __slots__ = ("_first", "_offsets", "_sizes")

    def __init__(self, first: int, sizes: Sequence[int]) -> None:
        self._first = first
        self._sizes = sizes
        self._offsets: list[int] | None = None

    def __len__(self) -> int:
        return len(self._sizes)

    def make(self, index: int) -> int:
        """The offset of one."""
        if index == 0:
            return self._first
        if self._offsets is None:
            self._offsets = list(accumulate(self._sizes[:-1], initial=self._first))
        return self._offsets[index]


class OffsetIds(Made[str]):
    """Ids of messages that follow each other, made when they are looked at."""

    __slots__ = ("_offsets", "_place")

    def __init__(self, place: tuple[bytes, int], offsets: Sequence[int]) -> None:
        self._place = place
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def make(self, index: int) -> str:
        """The id of one."""
        return offset_message_id(*self._place, self._offsets[index])
