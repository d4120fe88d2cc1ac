"""Plain twin of frames.py. Layout of a frame: wire/frame.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.errors import ProtocolError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

LENGTH_SIZE: Final = 4
PREFIX_SIZE: Final = 8


def split(buffer: Buffer, start: int, end: int, frame_size_max: int) -> NDArray[np.int64]:
    """Start and size of every whole frame in buffer[start:end], bytes, length word included.

    Returns:
        int64 array, shape (n, 2). The next frame begins where the last of them ends.

    Raises:
        ProtocolError: lengths that cannot be; carries position, total and header_size.
    """
    data = memoryview(buffer).cast("B")
    if not 0 <= start <= end <= len(data):
        raise ProtocolError("range outside of the buffer", start=start, end=end, size=len(data))
    found: list[tuple[int, int]] = []
    at = start
    while end - at >= LENGTH_SIZE:
        total = int.from_bytes(data[at : at + 4], "big", signed=True)
        header_size = None
        if end - at >= PREFIX_SIZE:
            header_size = int.from_bytes(data[at + 5 : at + 8], "big")
        if not 4 <= total <= frame_size_max - LENGTH_SIZE or (header_size or 0) > total - 4:
            raise ProtocolError(
                "frame length",
                position=at,
                total=total,
                header_size=header_size,
                frame_size_max=frame_size_max,
            )
        size = LENGTH_SIZE + total
        if header_size is None or end - at < size:
            break
        found.append((at, size))
        at += size
    return np.array(found, dtype=np.int64).reshape(-1, 2)
