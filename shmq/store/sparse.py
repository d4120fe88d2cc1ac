"""Sparse files: where a file holds data, and how a part of it becomes zeros again.

A store file keeps its full size from the start; what was never written is a hole. To cut a file it
is not truncated and extended again, since a crash between the two would leave a file of a wrong
size: zeros are written over what stands there, which a crash may interrupt at any byte.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from shmq.store.disk import DISK, Disk
from shmq.units import MiB

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECE_SIZE: Final = MiB


def data_ranges(fd: int, start: int, end: int) -> list[tuple[int, int]]:
    """Ranges (first byte, byte after the last) of a file in [start, end) that are no holes."""
    ranges = []
    at = start
    while at < end:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole follows.
            break
        if begin >= end:
            break
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        ranges.append((begin, min(at, end)))
    return ranges


def data_pieces(fd: int, start: int, end: int, *, disk: Disk = DISK) -> Iterator[tuple[int, bytes]]:
    """Pieces (position, bytes) of a file in [start, end) that are not all zeros."""
    for begin, stop in data_ranges(fd, start, end):
        position = begin
        while position < stop:
            data = disk.pread(fd, min(_PIECE_SIZE, stop - position), position)
            if not data:
                return
            if data.count(0) != len(data):
                yield position, data
            position += len(data)


def zero_from(path: Path, start: int, *, disk: Disk = DISK) -> bool:
    """Make every byte of a file from `start` on zero, durably; whether any was not.

    Raises:
        OSError: the file system refused; some bytes may be as they were.
    """
    found = False
    fd = disk.open(path, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        for position, data in data_pieces(fd, start, size, disk=disk):
            disk.write(fd, bytes(len(data)), position)
            found = True
        if found:
            disk.fdatasync(fd)
    finally:
        disk.close(fd)
    return found
