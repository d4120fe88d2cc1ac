"""Consumequeue files: rows of dense 20-byte entries, a row for each queue.

    consumequeue/<topic>/<queue id>/<position of the first byte, 20 digits>

Written by dispatch alone; read by serve, boot and housekeeping. See layout.cqentry.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.errors import StoreError
from shmq.layout import cqentry
from shmq.layout.cqentry import ENTRY
from shmq.store.commitlog import NAME_DIGITS, file_name, list_files
from shmq.store.disk import DISK, Disk
from shmq.store.sparse import data_ranges, zero_from

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

OPEN_FILES_MAX: Final = 512


def queue_folder(root: Path, topic: str, queue_id: int) -> Path:
    """Folder of a queue under `root`; the name cannot leave it.

    Raises:
        StoreError: the topic's name is no plain folder name.
    """
    if not topic or "/" in topic or "\0" in topic or topic in (".", ".."):
        raise StoreError("topic name is no folder name", topic=topic)
    return root / topic / str(queue_id)


class QueueFiles:
    """Entries of all queues by slot-free names; keeps the files it used last open."""

    def __init__(
        self,
        root: Path,
        *,
        file_size: int,
        writable: bool = False,
        open_file: Callable[[str, int, int], int] | None = None,
        disk: Disk = DISK,
    ) -> None:
        """`file_size` is rounded up to whole entries.

        `open_file` gives a descriptor of (topic, queue id, first byte); else files have paths.
        """
        self._disk = disk
        self._open_file = open_file or self._open_path
        self._root = root
        self._file_size = cqentry.file_size(file_size)
        self._writable = writable
        self._fds: dict[tuple[str, int, int], int] = {}
        self._unsynced: set[tuple[str, int, int]] = set()
        self._changed_folders: dict[Path, None] = {}
        """Folders, as a set in order, whose names have changed since they were synced."""
        self.sync_failed = False
        """Whether the disk has refused a sync: what was written before it may be lost."""

    @property
    def file_entries(self) -> int:
        """Entries of one file."""
        return self._file_size // ENTRY.itemsize

    def write(self, topic: str, queue_id: int, first: int, entries: memoryview) -> None:
        """Write whole entries from queue offset `first` on, making files as needed.

        Raises:
            OSError: the file system refused.
        """
        at = first * ENTRY.itemsize
        left = entries
        while len(left):
            start = at - at % self._file_size
            part = left[: start + self._file_size - at]
            key = (topic, queue_id, start)
            fd = self._fds.get(key) or self._open(key)
            self._unsynced.add(key)
            self._disk.write(fd, part, at - start)
            at += len(part)
            left = left[len(part) :]

    def read(self, topic: str, queue_id: int, first: int, count: int) -> NDArray[np.void]:
        """Entries from queue offset `first` on, at most `count`, fewer at the end of a file.

        Returns:
            cqentry.ENTRY array, shape (n,), its own memory.

        Raises:
            StoreError: the file is not there.
        """
        at = first * ENTRY.itemsize
        start = at - at % self._file_size
        key = (topic, queue_id, start)
        fd = self._fds.get(key)
        if fd is None:
            fd = self._open(key)
        size = min(count * ENTRY.itemsize, start + self._file_size - at)
        data = self._disk.pread(fd, size, at - start)
        return np.frombuffer(data[: len(data) // ENTRY.itemsize * ENTRY.itemsize], dtype=ENTRY)

    def data_bounds(self, topic: str, queue_id: int, start: int) -> tuple[int, int]:
        """Queue offsets between which the file that begins at byte `start` is more than a hole.

        A new file is one hole, whose reading costs as much as that of entries.

        Raises:
            StoreError: the file is not there.
        """
        key = (topic, queue_id, start)
        fd = self._fds.get(key)
        if fd is None:
            fd = self._open(key)
        ranges = data_ranges(fd, 0, self._file_size)
        if not ranges:
            return start // ENTRY.itemsize, start // ENTRY.itemsize
        first, end = start + ranges[0][0], start + ranges[-1][1]
        return first // ENTRY.itemsize, -(-end // ENTRY.itemsize)

    def truncate(self, topic: str, queue_id: int, end: int) -> None:
        """Zero every entry from queue offset `end` on and drop later files; for boot only.

        The next sync makes it certain that no dropped file comes back.
        """
        folder = queue_folder(self._root, topic, queue_id)
        for start in reversed(list_files(folder, file_size=self._file_size)):
            at = max(0, end * ENTRY.itemsize - start)
            path = folder / file_name(start)
            if at == 0 and start > 0:
                self._disk.unlink(path)
                self._changed_folders[folder] = None
            elif at < self._file_size:
                zero_from(path, at, disk=self._disk)

    def mend(self, topic: str, queue_id: int) -> None:
        """Fill a row of which a power cut left out files or their bytes with zeros; for boot only.

        Files made between two syncs may reach the disk in any order, and without their size. A row
        that is not of this file size stays as it is, for list_files to say so. The next sync brings
        the row's names to the disk: a killed process may have made them.
        """
        folder = queue_folder(self._root, topic, queue_id)
        self._changed_folders |= dict.fromkeys(
            (self._root.parent, self._root, folder.parent, folder)
        )
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
        names = sorted(sizes)
        if not all(_fits(name, size, self._file_size) for name, size in sizes.items()):
            return
        for start in range(int(names[0]), int(names[-1]), self._file_size) if names else ():
            if not sizes.get(file_name(start)):
                self._unsynced.add((topic, queue_id, start))
                self._open((topic, queue_id, start))

    def sync(self) -> None:
        """Bring what was written since the last call to the disk, and the names of new files.

        Raises:
            OSError: the disk refused.
        """
        for key in self._unsynced:
            fd = self._fds.get(key)
            if fd is not None:
                self._sync_file(fd)
        self._unsynced.clear()
        while self._changed_folders:
            self._sync_folder(next(iter(self._changed_folders)))

    def sync_all(self) -> None:
        """Bring all that anybody wrote to the disk: a dead writer's files are not known."""
        self._disk.sync_all(self._root if self._root.is_dir() else self._root.parent)

    def forget_before(self, first_kept: Callable[[str, int], int]) -> None:
        """Close files whose entries are all before their queue's first that is kept.

        `first_kept(topic, queue_id)` gives its queue offset. Retention deletes such files; as long
        as somebody has one open its space is not given back.
        """
        for key in list(self._fds):
            topic, queue_id, start = key
            if start + self._file_size <= first_kept(topic, queue_id) * ENTRY.itemsize:
                self._unsynced.discard(key)
                os.close(self._fds.pop(key))

    def close(self) -> None:
        """Close all files; does not sync."""
        for fd in self._fds.values():
            self._disk.close(fd)
        self._fds.clear()
        self._unsynced.clear()

    def _open(self, key: tuple[str, int, int]) -> int:
        if len(self._fds) >= OPEN_FILES_MAX:
            self._drop_oldest()
        self._fds[key] = fd = self._open_file(*key)
        return fd

    def _open_path(self, topic: str, queue_id: int, start: int) -> int:
        folder = queue_folder(self._root, topic, queue_id)
        path = folder / file_name(start)
        if self._writable:
            self._disk.make_folders(folder, self._changed_folders)
            if not path.exists():
                self._changed_folders[folder] = None
            fd = self._disk.open(path, os.O_RDWR | os.O_CREAT)
            try:
                if os.fstat(fd).st_size < self._file_size:
                    self._disk.truncate(fd, self._file_size)
            except OSError:
                self._disk.close(fd)
                raise
            return fd
        try:
            return self._disk.open(path, os.O_RDONLY)
        except OSError as error:
            raise StoreError(
                "consumequeue file is not there",
                topic=topic,
                queue_id=queue_id,
                file=path.name,
                cause=error.strerror,
            ) from error

    def _drop_oldest(self) -> None:
        key = next(iter(self._fds))
        fd = self._fds.pop(key)
        try:
            if key in self._unsynced:
                self._unsynced.discard(key)
                self._sync_file(fd)
        finally:
            self._disk.close(fd)

    def _sync_file(self, fd: int) -> None:
        try:
            self._disk.fdatasync(fd)
        except OSError:
            self.sync_failed = True
            raise

    def _sync_folder(self, folder: Path) -> None:
        try:
            self._disk.fsync_folder(folder)
        except OSError:
            self.sync_failed = True
            raise
        del self._changed_folders[folder]


def _fits(name: str, size: int, file_size: int) -> bool:
    """Whether a file may be one of a row of files of `file_size`, perhaps empty."""
    named = len(name) == NAME_DIGITS and name.isascii() and name.isdigit()
    return named and int(name) % file_size == 0 and size in (0, file_size)
