"""Plain twin of gather.py."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer


def gather(
    source: Buffer,
    base: int,
    positions: NDArray[np.int64],
    sizes: NDArray[np.int64],
    out: Buffer,
    out_at: int,
) -> int:
    """Copy pieces of `source` back to back into `out` from `out_at` on; the end in `out`.

    `source` is a ring: byte `p` of the log lies at p % len(source) when base < 0, else it is plain
    and byte p lies at p - base.

    Raises:
        ValueError: a piece lies outside `source`, or `out` is too small.
    """
    data = memoryview(source).cast("B")
    target = memoryview(out).cast("B")
    if len(positions) != len(sizes):
        raise ValueError("positions and sizes differ in length")
    for number, (position, size) in enumerate(zip(positions.tolist(), sizes.tolist(), strict=True)):
        room = min(len(data), len(target) - out_at)
        if not 0 <= size <= room or position < 0 or out_at < 0:
            raise ValueError(f"piece {number} does not fit: size={size}")
        if base < 0:
            at = position % len(data) if len(data) else 0
            piece = bytes(data[at : at + size])
            piece += bytes(data[: size - len(piece)])
        else:
            at = position - base
            if not 0 <= at <= len(data) - size:
                raise ValueError(f"piece {number} lies outside: position={position} size={size}")
            piece = bytes(data[at : at + size])
        target[out_at : out_at + size] = piece
        out_at += size
    return out_at


def read_pieces(
    fd: int,
    base: int,
    positions: NDArray[np.int64],
    sizes: NDArray[np.int64],
    out: Buffer,
    out_at: int,
) -> int:
    """Read pieces of a file back to back into `out` from `out_at` on; the end in `out`.

    Byte p of the log lies at p - base in the file.

    Raises:
        ValueError: a piece begins before the file, or `out` is too small.
        EOFError: the file ends before a piece does.
        OSError: the file system refused.
    """
    target = memoryview(out).cast("B")
    if len(positions) != len(sizes):
        raise ValueError("positions and sizes differ in length")
    pieces = list(zip(positions.tolist(), sizes.tolist(), strict=True))
    total = 0
    for number, (position, size) in enumerate(pieces):
        if not 0 <= size <= len(target) - out_at - total or out_at < 0 or position < base:
            raise ValueError(f"piece {number} does not fit: position={position} size={size}")
        total += size
    for position, size in pieces:
        piece = os.pread(fd, size, position - base)
        if len(piece) < size:
            at, left = position - base + len(piece), size - len(piece)
            raise EOFError(f"file ends at {at}, {left} bytes before the end of a piece")
        target[out_at : out_at + size] = piece
        out_at += size
    return out_at
