"""Small tables on disk (topics.json, consumerOffset.json and the like), replaced as a whole.

A table X is replaced in this order, so that a crash at any point leaves a whole table under X or
X.bak, and an Apache broker finds its way too:

    1 write X.tmp and fsync it        X old       X.bak older   X.tmp partial
    2 rename X to X.bak               -           X.bak old     X.tmp new
    3 rename X.tmp to X               X new       X.bak old
    4 fsync the folder                            (only now replace() returns)

Load takes X, else X.bak. A file that cannot be understood is renamed to X.damaged-<n> and kept.
What the bytes mean is the caller's business: it passes a decode function that raises ValueError or
ShmqError on bytes that are no table.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from shmq.errors import ShmqError, StoreError
from shmq.store.disk import DISK, Disk
from shmq.store.reserve import Reserve
from shmq.units import MiB

T = TypeVar("T")
TABLE_SIZE_MAX: Final = 512 * MiB
DAMAGED_COUNT_MAX: Final = 1000


class TableFile:
    """One table on disk; the only writer of its path."""

    def __init__(self, path: Path, *, disk: Disk = DISK, reserve: Reserve | None = None) -> None:
        """`reserve` is given up when there is no room for the table."""
        self._disk = disk
        self.path = path
        self._reserve = reserve
        self.damaged: list[Path] = []
        """Where load() put files that could not be understood; an operator should look."""
        self._temporary = path.with_name(path.name + ".tmp")
        self._previous = path.with_name(path.name + ".bak")

    def load(self, decode: Callable[[bytes], T]) -> T | None:
        """The table as it was last replaced, decoded; None when there was none yet.

        Raises:
            StoreError: files are there, but none of them can be understood, or the disk refused.
        """
        reasons: list[str] = []
        for path in (self.path, self._previous):
            try:
                return decode(self._read(path))
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StoreError(
                    "table cannot be read",
                    file=path,
                    cause=error.strerror,
                    hint="repair the disk; the file stays as it is",
                ) from error
            except (ValueError, ShmqError) as error:
                reasons.append(f"{path.name}: {error}")
                self.damaged.append(set_aside(path, disk=self._disk))
        if reasons:
            raise StoreError(
                "table cannot be read, neither the file nor its previous version",
                path=self.path,
                reasons=reasons,
                kept_as=[str(path) for path in self.damaged],
                hint="repair one of these files and rename it back, or remove them to begin anew",
            )
        return None

    def replace(self, data: bytes) -> None:
        """Make `data` the table, durably; the table before it stays as X.bak.

        Raises:
            OSError: nothing is lost, the table before is still there; try again later.
        """
        try:
            self._replace(data)
        except OSError as error:
            if self._reserve is None or not self._reserve.give(error):
                raise
            self._replace(data)

    def _replace(self, data: bytes) -> None:
        disk = self._disk
        if not self.path.parent.is_dir():
            disk.keep_folders(self.path.parent)
        fd = disk.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            disk.write(fd, data, 0)
            disk.fsync(fd)
        finally:
            disk.close(fd)
        if self.path.exists():
            disk.rename(self.path, self._previous)
        disk.rename(self._temporary, self.path)
        disk.fsync_folder(self.path.parent)

    def _read(self, path: Path) -> bytes:
        size = path.stat().st_size
        if size > TABLE_SIZE_MAX:
            raise StoreError("table too large", size=size, allowed_max=TABLE_SIZE_MAX)
        if size == 0:
            raise StoreError("table is empty", path=path)
        return self._disk.read_file(path, size)


def set_aside(path: Path, *, disk: Disk = DISK) -> Path:
    """Rename a damaged file so that it is kept but not read again; returns its new name.

    Raises:
        StoreError: too many are kept already.
    """
    target = _free_name(path)
    disk.rename(path, target)
    return target


def copy_aside(path: Path, data: bytes, *, disk: Disk = DISK) -> Path:
    """Keep damaged bytes of a file, durably, before they are cut off; returns where they are.

    Raises:
        StoreError: too many are kept already.
        OSError: the disk refused.
    """
    target = _free_name(path)
    fd = disk.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        disk.write(fd, data, 0)
        disk.fsync(fd)
    finally:
        disk.close(fd)
    disk.fsync_folder(target.parent)
    return target


def _free_name(path: Path) -> Path:
    for number in range(1, DAMAGED_COUNT_MAX):
        target = path.with_name(f"{path.name}.damaged-{number}")
        if not target.exists():
            return target
    raise StoreError(
        "too many damaged files kept",
        path=path,
        allowed_max=DAMAGED_COUNT_MAX,
        hint="remove the *.damaged-* files that are no longer needed",
    )
