"""The disk: the few system calls by which the store changes its files.

Everything that the store writes goes through one Disk, which is passed in; DISK is the real one.
Tests put others in its place: one that writes down what was done, to build from it every state that
a power cut may leave, and one that refuses.

What a power cut leaves, and what these calls are for:

    done                            on the disk for certain after
    ------------------------------  ---------------------------------------------
    pwrite, truncate                fsync or fdatasync of that file
    a new name, rename, unlink      fsync_folder of the folder that has the name
    any of them                     sync_all

Before that, each of them may be there or not, in any order, a write also in part. A sync that
failed has taken nothing to the disk and is never tried again: the kernel may have dropped the pages
and would say that all is well (Rebello et al. 2020, "Can applications recover from fsync
failures?").
"""

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

FILE_MODE: Final = 0o644
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Disk:
    """The real disk. Every method raises an OSError that names the file."""

    def open(self, path: Path, flags: int, mode: int = FILE_MODE) -> int:
        """Descriptor of a file, not inherited by programs; made when `flags` say O_CREAT."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def close(self, fd: int) -> None:
        """Give a descriptor back."""
        os.close(fd)

    def pread(self, fd: int, size: int, at: int) -> bytes:
        """At most `size` bytes from byte `at` on."""
        try:
            return os.pread(fd, size, at)
        except OSError as error:
            _name(error, fd)

    def pread_into(self, fd: int, buffer: memoryview, at: int) -> int:
        """Fill `buffer` from byte `at` on; how many bytes came, perhaps not all."""
        try:
            return os.preadv(fd, [buffer], at)
        except OSError as error:
            _name(error, fd)

    def pwrite(self, fd: int, data: memoryview | bytes, at: int) -> int:
        """Write at byte `at`; how many bytes of `data` were taken, perhaps not all."""
        try:
            return os.pwrite(fd, data, at)
        except OSError as error:
            _name(error, fd)

    def write(self, fd: int, data: memoryview | bytes, at: int) -> None:
        """Write all of `data` at byte `at`."""
        left = memoryview(data)
        while left:
            done = self.pwrite(fd, left, at)
            if not done:
                _name(OSError(errno.EIO, "no byte of a write was taken"), fd)
            at += done
            left = left[done:]

    def truncate(self, fd: int, size: int) -> None:
        """Make a file end at `size`; what it gains is zero."""
        try:
            os.ftruncate(fd, size)
        except OSError as error:
            _name(error, fd)

    def fsync(self, fd: int) -> None:
        """Bring what was written to a file, and its facts, to the disk."""
        try:
            os.fsync(fd)
        except OSError as error:
            _name(error, fd)

    def fdatasync(self, fd: int) -> None:
        """Bring what was written to a file, and its size, to the disk."""
        try:
            os.fdatasync(fd)
        except OSError as error:
            _name(error, fd)

    def fsync_folder(self, folder: Path) -> None:
        """Bring new, changed and removed names in `folder` to the disk."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            _name(error, fd)
        finally:
            os.close(fd)

    def rename(self, path: Path, target: Path) -> None:
        """Give a file another name, in place of the file that has it."""
        path.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def mkdir(self, path: Path) -> None:
        """Make a folder."""
        path.mkdir()

    def sync_all(self, folder: Path) -> None:
        """Bring all that anybody wrote to the file system of `folder` to the disk (syncfs(2)).

        Not sync(2): that waits for every file system of the host, also one that hangs.
        """
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if _LIBC.syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(folder))
        finally:
            os.close(fd)

    # -- made of these

    def make_folders(self, folder: Path, changed: dict[Path, None]) -> None:
        """Make a folder and those above it that lack, not durably.

        `changed` gets, as a set in order, every folder that has a new name, also when this fails.
        """
        if folder.is_dir():
            return
        self.make_folders(folder.parent, changed)
        changed[folder.parent] = None
        with suppress(FileExistsError):
            self.mkdir(folder)

    def keep_folders(self, folder: Path) -> None:
        """Make a folder and those above it that lack, durably.

        One that is there is synced too: whoever made it may have died before that.
        """
        changed: dict[Path, None] = {}
        self.make_folders(folder, changed)
        changed[folder.parent] = None
        for parent in changed:
            self.fsync_folder(parent)

    def read_file(self, path: Path, size_max: int) -> bytes:
        """The first `size_max` bytes of a file, or all of it."""
        fd = self.open(path, os.O_RDONLY)
        data = b""
        try:
            while piece := self.pread(fd, size_max - len(data), len(data)):
                data += piece
        finally:
            self.close(fd)
        return data


DISK: Final = Disk()


def _name(error: OSError, fd: int) -> NoReturn:
    """Raise `error` again, with the path of its file."""
    with suppress(OSError):
        error.filename = str(Path(f"/proc/self/fd/{fd}").readlink())
    raise error
