"""What a disk gives a loop of write and fdatasync, and how much a broker's flush writes at once."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import psutil

FILE_SIZE: Final = 256 << 20
ZERO_SIZE: Final = 4 << 20


def syncs_per_s(folder: Path, size: int, seconds: float) -> float:
    """Pieces of `size` bytes a second, each written and synced, one after the other.

    Into a file that was filled with zeros before, so that only data are synced.
    """
    path = folder / "bare"
    data = os.urandom(size)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for at in range(0, FILE_SIZE, ZERO_SIZE):
            os.pwrite(fd, bytes(ZERO_SIZE), at)
        os.fsync(fd)
        count, at = 0, 0
        begin = time.perf_counter()
        while (took := time.perf_counter() - begin) < seconds:
            os.pwrite(fd, data, at)
            os.fdatasync(fd)
            count += 1
            at = at + size if at + 2 * size <= FILE_SIZE else 0
        return count / took
    finally:
        os.close(fd)
        path.unlink()


def writes_of(tree: list[psutil.Process], role: str) -> int:
    """Write calls that one role of shmq has made so far."""
    for process in tree:
        if process.cmdline()[:1] == [f"shmq: {role}"]:
            return int(process.io_counters().write_count)
    message = f"no role {role} runs"
    raise LookupError(message)
