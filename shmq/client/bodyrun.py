"""Many bodies in one buffer, as the messages of a parcel: no object for each.

A transport that can writes them from the buffer; to others this is a sequence of Prepared, each of
which is made when it is looked at.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, cast

from shmq.client.made import Made
from shmq.client.model import Message
from shmq.client.prepare import Prepared, properties_of
from shmq.errors import InvalidMessage

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from shmq.client.uniqueid import Ids

PARTS: Final = 3
"""Of bodies as a buffer, offsets and sizes."""


class BodyRun(Made[Prepared]):
    """Messages that have no more than a body, and perhaps a tag that all of them share."""

    __slots__ = ("buffer", "ids", "largest", "size", "sizes", "starts", "tags")

    def __init__(
        self,
        buffer: memoryview,
        starts: memoryview,
        sizes: memoryview,
        *,
        size: int,
        largest: int,
        tags: str | None,
        ids: Ids,
    ) -> None:
        """Body i is buffer[starts[i] : starts[i] + sizes[i]]; its message has the id ids[i].

        `size`: of all bodies together, bytes. No body is larger than `largest`.

        `buffer` has items of one byte, `starts` and `sizes` of 64 bits, as many as `ids`.
        """
        self.buffer = buffer
        self.starts = starts
        self.sizes = sizes
        self.size = size
        self.largest = largest
        self.tags = tags
        self.ids = ids

    def __len__(self) -> int:
        return len(self.sizes)

    def make(self, index: int) -> Prepared:
        """One message."""
        begin = self.starts[index]
        unique_id = self.ids[index]
        body = self.buffer[begin : begin + self.sizes[index]]
        return Prepared(body, properties_of(unique_id, self.tags), unique_id)


class Bodies:
    """Bodies back to back or anywhere in one buffer; all numbers are of 64 bits."""

    __slots__ = ("_ends", "buffer", "largest", "sizes", "smallest", "starts")

    def __init__(
        self,
        buffer: memoryview,
        starts: memoryview,
        sizes: memoryview,
        ends: memoryview,
        *,
        bounds: tuple[int, int],
    ) -> None:
        """Body i is buffer[starts[i] : starts[i] + sizes[i]]; `ends` are the sizes added up.

        `bounds`: the smallest and the largest size.
        """
        self.smallest, self.largest = bounds
        self.buffer = buffer
        self.starts = starts
        self.sizes = sizes
        self._ends = ends

    def __len__(self) -> int:
        return len(self.sizes)

    def run(self, first: int, end: int, *, tags: str | None, ids: Ids) -> BodyRun:
        """Those from `first` to `end`, exclusive."""
        return BodyRun(
            self.buffer,
            self.starts[first:end],
            self.sizes[first:end],
            size=self._ends[end - 1] - self._before(first),
            largest=self.largest,
            tags=tags,
            ids=ids,
        )

    def pieces(self, *, count_max: int, size_max: int) -> Iterator[tuple[int, int]]:
        """First and end of what travels together: so many messages at most, so many bytes.

        A body that is larger travels alone.
        """
        ends: Sequence[int] = self._ends
        first, count = 0, len(ends)
        while first < count:
            last = min(first + count_max, count)
            end = bisect_right(ends, self._before(first) + size_max, first, last)
            end = max(end, first + 1)
            yield first, end
            first = end

    def _before(self, first: int) -> int:
        before: int = self._ends[first - 1] if first else 0
        return before


def bodies_of(given: Any, *, size_max: int) -> Bodies | None:
    """Many bodies that were given as arrays, or as a list of plain ones; None: neither.

    Arrays are not copied if they lie densely.

    Raises:
        InvalidMessage: one is empty, larger than `size_max`, or outside of its buffer.
    """
    if isinstance(given, tuple) and len(given) == PARTS and not _is_body(given[1]):
        made = _of_parts(*given)
    elif getattr(given, "ndim", None) == 2:  # noqa: PLR2004  rows and columns
        made = _of_rows(cast("Buffer", given))
    elif isinstance(given, str) or _is_body(given):
        raise InvalidMessage("one body where several are due", found=type(given).__name__)
    elif isinstance(given, (list, tuple)) and given and set(map(type, given)) == {bytes}:
        made = _of_list(given)
    else:
        return None
    if len(made):
        if made.smallest == 0:
            raise InvalidMessage("empty body", hint="brokers of RocketMQ's protocol refuse it")
        if made.largest > size_max:
            raise InvalidMessage("body too large", size=made.largest, size_max=size_max)
    return made


def _is_body(value: object) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview, Message))


def _of_parts(buffer: Any, offsets: Any, sizes: Any) -> Bodies:
    import numpy as np  # noqa: PLC0415  who posts no arrays does without it

    flat = memoryview(buffer)
    if not flat.c_contiguous:
        raise InvalidMessage("buffer of bodies", found="a view with gaps", allowed="dense bytes")
    starts_array = np.ascontiguousarray(offsets, dtype=np.int64).reshape(-1)
    sizes_array = np.ascontiguousarray(sizes, dtype=np.int64).reshape(-1)
    room = flat.nbytes
    if len(starts_array) != len(sizes_array):
        raise InvalidMessage("offsets and sizes", offsets=len(starts_array), sizes=len(sizes_array))
    outside = (starts_array < 0) | (sizes_array < 0) | (starts_array > room - sizes_array)
    if outside.any():
        index = int(outside.argmax())
        raise InvalidMessage(
            "body outside of its buffer",
            number=index,
            offset=int(starts_array[index]),
            size=int(sizes_array[index]),
            buffer_size=room,
        )
    bounds = (int(sizes_array.min()), int(sizes_array.max())) if len(sizes_array) else (0, 0)
    return Bodies(
        flat.cast("B"),
        starts_array.data,
        sizes_array.data,
        sizes_array.cumsum().data,
        bounds=bounds,
    )


def _of_rows(rows: Buffer) -> Bodies:
    import numpy as np  # noqa: PLC0415

    view = memoryview(rows)
    if view.itemsize != 1:
        raise InvalidMessage("array of bodies", item_size=view.itemsize, allowed=1)
    count, width = view.shape or (0, 0)
    if count * width == 0:
        flat = memoryview(b"")
    elif view.c_contiguous:
        flat = view.cast("B")
    else:
        flat = memoryview(view.tobytes())
    ends = np.arange(1, count + 1, dtype=np.int64) * width
    sizes = np.full(count, width, dtype=np.int64)
    return Bodies(flat, (ends - width).data, sizes.data, ends.data, bounds=(width, width))


def _of_list(listed: Sequence[bytes]) -> Bodies:
    sizes = array("q", map(len, listed))
    ends = array("q", accumulate(sizes))
    starts = array("q", [0])
    starts.extend(ends[:-1])
    return Bodies(
        memoryview(b"".join(listed)),
        memoryview(starts),
        memoryview(sizes),
        memoryview(ends),
        bounds=(min(sizes), max(sizes)),
    )
