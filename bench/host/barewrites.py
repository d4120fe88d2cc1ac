"""What the disk itself gives: one thread that writes a piece and syncs it, again and again."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Final

FILE_SIZE: Final = 256 * 1024 * 1024
ZEROS: Final = bytes(4 * 1024 * 1024)


def write_and_sync(folder: Path, piece_size: int, *, seconds: float) -> float:
    """Pieces a second of `piece_size` bytes, each followed by fdatasync(2).

    The file is filled with zeros and on the disk before, so that no sync has to bring more than
    the piece; a piece follows the one before, and after the last comes the first.
    """
    path = folder / "bare-writes"
    piece = os.urandom(piece_size)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        for at in range(0, FILE_SIZE, len(ZEROS)):
            os.pwrite(fd, ZEROS, at)
        os.fsync(fd)
        count = at = 0
        begin = now = time.perf_counter()
        while now - begin < seconds:
            os.pwrite(fd, piece, at)
            os.fdatasync(fd)
            count += 1
            at = at + piece_size if at + 2 * piece_size <= FILE_SIZE else 0
            now = time.perf_counter()
        return count / (now - begin)
    finally:
        os.close(fd)
        path.unlink()
