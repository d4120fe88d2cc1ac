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
from shmq.store.commitlog import file_name, list_files
from shmq.store.sparse import zero_from

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
    ) -> None:
        """`file_size` is rounded up to whole entries.

        `open_file` gives a descriptor of (topic, queue id, first byte); else files have paths.
        """
        self._open_file = open_file or self._open_path
        self._root = root
        self._file_size = cqentry.file_size(file_size)
        self._writable = writable
        self._fds: dict[tuple[str, int, int], int] = {}
        self._unsynced: set[tuple[str, int, int]] = set()
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
            done = os.pwrite(fd, part, at - start)
            self._unsynced.add(key)
            at += done
            left = left[done:]

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
        data = os.pread(fd, size, at - start)
        return np.frombuffer(data[: len(data) // ENTRY.itemsize * ENTRY.itemsize], dtype=ENTRY)

    def truncate(self, topic: str, queue_id: int, end: int) -> None:
        """Zero every entry from queue offset `end` on and drop later files; for boot only."""
        folder = queue_folder(self._root, topic, queue_id)
        for start in reversed(list_files(folder, file_size=self._file_size)):
            at = max(0, end * ENTRY.itemsize - start)
            path = folder / file_name(start)
            if at == 0 and start > 0:
                path.unlink()
            elif at < self._file_size:
                zero_from(path, at)

    def sync(self) -> None:
        """Bring what was written since the last call to the disk.

        Raises:
            OSError: the disk refused.
        """
        for key in self._unsynced:
            fd = self._fds.get(key)
            if fd is not None:
                self._sync_file(fd)
        self._unsynced.clear()

    def close(self) -> None:
        """Close all files; does not sync."""
        for fd in self._fds.values():
            os.close(fd)
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
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if os.fstat(fd).st_size < self._file_size:
                    os.ftruncate(fd, self._file_size)
            except OSError:
                os.close(fd)
                raise
            return fd
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
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
            os.close(fd)

    def _sync_file(self, fd: int) -> None:
        try:
            os.fdatasync(fd)
        except OSError:
            self.sync_failed = True
            raise
