"""Batches whose records are copied when somebody looks at them: until then only their places.

Offsets, sizes and tags codes come from the consumequeue. The records are copied out of the hot
pages, or read from the files, with the first look at one of them, and what was copied is checked
not to have been recycled meanwhile. So a batch may be kept as long as one likes: it shows the right
bytes, or raises where the messages were deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from shmq.client.batch import (
    PHYSICAL_OFFSET,
    POSITION,
    QUEUE_OFFSET,
    ROW_WIDTH,
    SIZE,
    TAGS_CODE,
    Batch,
    Buffer,
    ReceivedMessage,
)
from shmq.errors import NotConnected, Refused, RequestRefused, StoreError, Unavailable
from shmq.kernels.walk import walk
from shmq.wire.codes import ResponseCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from shmq.client.batch import Column
    from shmq.client.model import Queue

    Gather = Callable[[NDArray[np.int64], NDArray[np.int64], bytearray, int], int]


class LazyBatch(Batch):
    """Messages of one queue, by their places."""

    __slots__ = ("_gather", "_known", "_starts")

    def __init__(
        self,
        queue: Queue,
        known: dict[int, Column],
        next_offset: int,
        gather: Gather,
    ) -> None:
        """`known`: columns by number; at least the four that the consumequeue says."""
        super().__init__(queue, b"", memoryview(b"").cast("q"), next_offset)
        self._known = known
        self._gather = gather
        self._starts: list[int] | None = None

    def __len__(self) -> int:
        return len(self._known[SIZE])

    def record(self, index: int) -> tuple[Buffer, int]:
        """A buffer and the position in it where the record of this message begins."""
        if self._starts is None:
            self._load()
        return self._data, cast("list[int]", self._starts)[index]

    def tail(self, first: int) -> Batch:
        """The messages from this number on."""
        known = {
            number: column[first:] for number, column in self._known.items() if number != POSITION
        }
        return LazyBatch(self.queue, known, self.next_offset, self._gather)

    def column(self, number: int) -> Column:
        """One column of the rows; what the consumequeue does not say is read from the records."""
        if number == POSITION and self._starts is None:
            self._load()
        column = self._known.get(number)
        if column is None:
            if self._columns is None:
                self._columns = np.zeros((len(self), ROW_WIDTH), dtype=np.int64)
                walk(self.data, 0, self._columns, checked=False)
            column = self._columns[:, number]
        return column

    @property
    def data(self) -> Buffer:
        """The records, back to back.

        Raises:
            Refused: they were deleted meanwhile.
            NotConnected: they are not in memory any more, and the broker is gone.
        """
        if self._starts is None:
            self._load()
        return self._data

    def _load(self) -> None:
        sizes = self._known[SIZE]
        data = bytearray(int(sizes.sum()))
        try:
            self._gather(self._known[PHYSICAL_OFFSET], sizes, data, 0)
        except (StoreError, RequestRefused) as error:
            raise Refused(
                "the messages are not kept any more",
                code=ResponseCode.PULL_OFFSET_MOVED,
                remark=str(error),
                queue=str(self.queue),
            ) from error
        except Unavailable as error:
            raise NotConnected(
                "connection lost", queue=str(self.queue), cause=str(error)
            ) from error
        self._data = data
        starts = sizes.cumsum() - sizes
        self._known[POSITION] = starts
        self._starts = starts.tolist()

    def __iter__(self) -> Any:
        queue = self.queue
        data = self.data
        for start in self._starts or ():
            yield ReceivedMessage(queue, data, start)


def places(
    first: int, offsets: Column, sizes: Column, tags_codes: Column, wanted: Column | None
) -> dict[int, Column]:
    """Columns of a batch from entries that begin at queue offset `first`.

    `wanted`: numbers of the entries that belong to it, None: all.
    """
    if wanted is None:
        queue_offsets = np.arange(first, first + len(sizes), dtype=np.int64)
    else:
        queue_offsets = first + wanted
        offsets, sizes, tags_codes = offsets[wanted], sizes[wanted], tags_codes[wanted]
    return {
        SIZE: sizes,
        QUEUE_OFFSET: queue_offsets,
        PHYSICAL_OFFSET: offsets,
        TAGS_CODE: tags_codes,
    }
