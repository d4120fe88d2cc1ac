"""Commitlog files: a row of equal files named by the physical offset of their first byte.

    commitlog/00000000000000000000  commitlog/00000000001073741824  ...

Every file has its full size from the start (sparse); the newest is followed by zeros. Written by
flush alone; read by serve, boot and housekeeping, each with descriptors of its own.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from shmq.errors import StoreError
from shmq.kernels.gather import read_pieces
from shmq.store.disk import DISK, Disk
from shmq.store.reserve import NO_ROOM, NoRoom
from shmq.units import MiB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

NAME_DIGITS: Final = 20
OPEN_FILES_MAX: Final = 16
DIRECT_SIZE_MIN: Final = 1 * MiB
"""A piece of this size goes past the page cache; smaller ones through it."""
DIRECT_ALIGNMENT: Final = 4096
ZEROS: Final = memoryview(bytes(1 * MiB))
"""So much of a file is zeroed at once."""


def file_name(start: int) -> str:
    """Name of the file whose first byte is at physical offset `start`."""
    return f"{start:0{NAME_DIGITS}d}"


def list_files(folder: Path, *, file_size: int) -> list[int]:
    """First offsets of the files in `folder`, ascending; an empty last file is not counted.

    Raises:
        StoreError: a foreign file, a wrong size, or a gap between files.
    """
    if not folder.is_dir():
        return []
    starts: list[int] = []
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    for name in names:
        size = (folder / name).stat().st_size
        if not (len(name) == NAME_DIGITS and name.isascii() and name.isdigit()):
            raise StoreError(
                "foreign file in the store",
                file=folder / name,
                allowed=f"names of {NAME_DIGITS} digits",
                hint="move it out of this folder",
            )
        if size == 0 and name == names[-1]:
            continue
        if size != file_size:
            raise StoreError(
                "store file has another size than configured",
                file=folder / name,
                size=size,
                configured=file_size,
                hint="set the file size that this store was made with",
            )
        start = int(name)
        if start % file_size or (starts and start != starts[-1] + file_size):
            raise StoreError(
                "gap in the row of store files",
                file=folder / name,
                expected=file_name(starts[-1] + file_size) if starts else "a multiple of the size",
            )
        starts.append(start)
    return starts


class LogWriter:
    """Writes and syncs commitlog files. Only flush (and boot before it) has one.

    With `direct`, large pieces go past the page cache (O_DIRECT) where the file system lets them;
    their memory must then be aligned as their place in the log is.
    """

    def __init__(
        self, folder: Path, *, file_size: int, direct: bool = False, disk: Disk = DISK
    ) -> None:
        self._disk = disk
        self._folder = folder
        self._file_size = file_size
        self._direct = direct and file_size % DIRECT_ALIGNMENT == 0
        self._fd = -1
        self._direct_fd = -1
        self._start = -1
        self._dirty: list[tuple[int, int]] = []
        disk.keep_folders(folder)
        disk.fsync_folder(folder)  # A predecessor may have died right after it made a file.

    def adopt(self, start: int, end: int) -> None:
        """Take the bytes [start, end), which another process wrote, as written but not synced.

        Raises:
            OSError: a file of theirs is not there.
        """
        for first in range(start - start % self._file_size, end, self._file_size):
            self._start = first
            path = self._folder / file_name(first)
            self._fd = self._disk.open(path, os.O_RDWR)
            self._dirty.append((self._fd, first))
            self._open_direct(path)

    def write(self, offset: int, parts: Sequence[memoryview]) -> int:
        """Write `parts` back to back at physical offset `offset`; the offset after them.

        They must not cross the end of a file.

        Raises:
            NoRoom: what was written before is whole; the same write may be tried again.
            OSError: the file system refused; nothing after `offset` may be believed.
        """
        start = offset - offset % self._file_size
        size = sum(len(part) for part in parts)
        assert offset + size <= start + self._file_size, "a write never crosses a file's end"
        if start != self._start:
            self._open(start)
        at = offset - start
        try:
            for part in parts:
                self._put(part, at)
                at += len(part)
        except OSError as error:
            raise _refusal(error) from error
        return offset + size

    def _put(self, part: memoryview, at: int) -> None:
        """Write one part at a place in the open file: its whole blocks directly, if it is large."""
        if self._direct_fd >= 0 and len(part) >= DIRECT_SIZE_MIN:
            first = -at % DIRECT_ALIGNMENT
            blocks = part[first : len(part) - (at + len(part)) % DIRECT_ALIGNMENT]
            try:
                done = self._disk.pwrite(self._direct_fd, blocks, at + first)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = False
                self._close_direct()  # The file system took the flag, but not the write.
                done = 0
            if done:
                self._disk.write(self._fd, part[:first], at)
                part, at = part[first + done :], at + first + done
        self._disk.write(self._fd, part, at)

    def zero(self, offset: int) -> int:
        """Write some zeros into the first hole of the open file from `offset` on; where they end.

        A sync of what is written there later has no blocks to allocate, and takes half the time.
        Through the page cache: a block that is written in part later must not be read for it.

        Raises:
            OSError: the file system refused.
        """
        at = offset - self._start
        if self._fd < 0 or not 0 <= at < self._file_size:
            return offset  # Another file is to be written next.
        hole = os.lseek(self._fd, at, os.SEEK_HOLE)
        zeros = ZEROS[: self._file_size - hole]
        self._disk.write(self._fd, zeros, hole)
        return self._start + hole + len(zeros)

    def sync(self) -> None:
        """Bring all that was written to the disk (fdatasync of every file written since).

        Raises:
            OSError: the disk refused; what was written may be lost, and a second sync may lie.
        """
        for fd, _ in self._dirty:
            self._disk.fdatasync(fd)
        for fd, start in self._dirty:
            if start != self._start:
                self._disk.close(fd)
        self._dirty = [(fd, start) for fd, start in self._dirty if start == self._start]

    def ensure(self, start: int) -> None:
        """Make the file at `start` ahead of its use, if it is not there yet."""
        path = self._folder / file_name(start)
        if not path.exists() or path.stat().st_size == 0:
            self._create(path)

    def close(self) -> None:
        """Close the files; does not sync."""
        for fd, _ in self._dirty:
            self._disk.close(fd)
        self._dirty = []
        self._fd = self._start = -1
        self._close_direct()

    def _open(self, start: int) -> None:
        path = self._folder / file_name(start)
        self.ensure(start)
        self._fd = self._disk.open(path, os.O_RDWR)
        self._start = start
        self._dirty.append((self._fd, start))
        self._open_direct(path)

    def _open_direct(self, path: Path) -> None:
        self._close_direct()
        if self._direct:
            try:
                self._direct_fd = self._disk.open(path, os.O_WRONLY | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = False

    def _close_direct(self) -> None:
        if self._direct_fd >= 0:
            self._disk.close(self._direct_fd)
            self._direct_fd = -1

    def _create(self, path: Path) -> None:
        disk = self._disk
        try:
            fd = disk.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise _refusal(error) from error
        try:
            try:
                disk.truncate(fd, self._file_size)
            except OSError as error:
                raise _refusal(error) from error
            disk.fsync(fd)
        finally:
            disk.close(fd)
        disk.fsync_folder(self._folder)


def _refusal(error: OSError) -> OSError:
    """NoRoom where a call that wrote nothing said so. Never for a sync: that is final."""
    return NoRoom(error.errno, error.strerror) if error.errno in NO_ROOM else error


class LogFiles:
    """Reads commitlog files by physical offset."""

    def __init__(
        self,
        folder: Path,
        *,
        file_size: int,
        open_file: Callable[[int], int] | None = None,
        disk: Disk = DISK,
    ) -> None:
        """`open_file` gives a descriptor of the file that begins at an offset; else by path."""
        self._disk = disk
        self._folder = folder
        self._file_size = file_size
        self._open_file = open_file or self._open_path
        self._fds: dict[int, int] = {}

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes at `offset`, which lie in one file; fewer where the file ends.

        Raises:
            StoreError: the file is gone (deleted by retention) or cannot be read.
        """
        start = offset - offset % self._file_size
        size = min(size, start + self._file_size - offset)
        fd = self._file(start)
        try:
            return self._disk.pread(fd, size, offset - start)
        except OSError as error:
            raise StoreError(
                "cannot read the commitlog", physical_offset=offset, size=size, cause=error
            ) from error

    def read_records(
        self, offsets: NDArray[np.int64], sizes: NDArray[np.int64], out: bytearray, at: int
    ) -> int:
        """Read records, ascending, back to back into `out` from `at` on; the end in `out`.

        Raises:
            StoreError: a file is gone (deleted by retention), shorter, or cannot be read.
        """
        first, count = 0, len(offsets)
        while first < count:
            start = int(offsets[first]) // self._file_size * self._file_size
            last = first + int(offsets[first:].searchsorted(start + self._file_size))
            fd = self._file(start)
            try:
                at = read_pieces(fd, start, offsets[first:last], sizes[first:last], out, at)
            except EOFError as error:
                raise StoreError(
                    "commitlog file is shorter than its records",
                    physical_offset=int(offsets[first]),
                    file=file_name(start),
                    cause=error,
                ) from error
            except OSError as error:
                raise StoreError(
                    "cannot read the commitlog",
                    physical_offset=int(offsets[first]),
                    file=file_name(start),
                    cause=error,
                ) from error
            first = last
        return at

    def open_at(self, offset: int) -> None:
        """Open the file that has the byte at `offset`, if it is not open.

        Raises:
            StoreError: it is gone or cannot be opened.
        """
        self._file(offset - offset % self._file_size)

    def forget_before(self, offset: int) -> None:
        """Close files that end at or before `offset`; retention deleted them."""
        for start in [start for start in self._fds if start + self._file_size <= offset]:
            self._disk.close(self._fds.pop(start))

    def close(self) -> None:
        """Close all files."""
        for fd in self._fds.values():
            self._disk.close(fd)
        self._fds.clear()

    def _file(self, start: int) -> int:
        fd = self._fds.get(start)
        return self._open(start) if fd is None else fd

    def _open(self, start: int) -> int:
        fd = self._open_file(start)
        if len(self._fds) >= OPEN_FILES_MAX:
            oldest = next(iter(self._fds))
            self._disk.close(self._fds.pop(oldest))
        self._fds[start] = fd
        return fd

    def _open_path(self, start: int) -> int:
        path = self._folder / file_name(start)
        try:
            return self._disk.open(path, os.O_RDONLY)
        except OSError as error:
            raise StoreError(
                "commitlog file cannot be opened", file=path, cause=error.strerror
            ) from error
