"""Plain twin of takes.py."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from shmq.layout import record
from shmq.layout.cqentry import ENTRY_SIZE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

COUNT_MAX = 64


def take(
    hot: Buffer, first: int, count: int, pool: Buffer, size_max: int
) -> tuple[bytes | bytearray, int, int]:
    """Copy the records of `count` entries from queue offset `first` on; fewer beyond `size_max`.

    Returns:
        (the records back to back, how many, physical offset of the first); no record: an entry
        made no sense, or the first is larger than `size_max`.
    """
    entries, pages = memoryview(hot).cast("B"), memoryview(pool).cast("B")
    entry_count, room = len(entries) // ENTRY_SIZE, len(pages)
    out = bytearray()
    done, begin = 0, -1
    if first < 0:
        return b"", 0, -1
    while done < min(count, entry_count, COUNT_MAX):
        at = (first + done) % entry_count * ENTRY_SIZE
        physical, size = struct.unpack_from(">qi", entries, at)
        if physical < 0 or not 0 < size <= room or len(out) + size > size_max:
            break
        place = physical % room
        piece = bytes(pages[place : place + size])
        out += piece + bytes(pages[: size - len(piece)])
        begin = physical if done == 0 else begin
        done += 1
    return (out, done, begin) if done else (b"", 0, -1)


def body_places(
    data: Buffer,
    positions: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
) -> None:
    """Where the bodies of the records at `positions` in `data` begin, and their sizes, bytes.

    Raises:
        ValueError: a record does not lie in `data`, or the lengths differ.
    """
    view = memoryview(data).cast("B")
    if not len(positions) == len(starts) == len(sizes):
        raise ValueError("positions, starts and sizes differ in length")
    for number, at in enumerate(positions.tolist()):
        if not 0 <= at <= len(view) - record.RECORD_SIZE_MIN:
            raise ValueError(f"record {number} does not lie in the data: position={at}")
        flags = view[at + record.SYS_FLAG_AT + 3]
        begin = at + record.BODY_AT
        begin += record.IPV6_EXTRA if flags & record.BORN_HOST_V6 else 0
        begin += record.IPV6_EXTRA if flags & record.STORE_HOST_V6 else 0
        size = -1
        if begin <= len(view):
            (size,) = struct.unpack_from(">i", view, begin - 4)
        if not 0 <= size <= len(view) - begin:
            raise ValueError(f"body {number} does not lie in the data: position={at} size={size}")
        starts[number] = begin
        sizes[number] = size
