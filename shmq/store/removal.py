"""Deletion of store files, so that a crash leaves no gap, and their space is really given back.

Files of one row go oldest first, and the folder is synced before the next of the same folder goes:
a power cut never leaves a gap, which nobody would start on. A file that somebody has open keeps its
bytes for him after its name is gone. So each deleted file is held until nobody else has it open,
which a write lease tells; after `force_ms` it is emptied, whoever still reads it.

Source: fcntl(2), F_SETLEASE; RocketMQ's destroyMapedFileIntervalForcibly.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.store.commitlog import NAME_DIGITS
from shmq.store.disk import DISK, Disk
from shmq.store.retention import StoreFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK_SIZE: Final = 512
"""Unit of st_blocks, bytes."""
HELD_MAX: Final = 64
NANOS_OF_A_MS: Final = 1_000_000


class Held(NamedTuple):
    """A deleted file that somebody had open when it was looked at last."""

    fd: int
    path: Path
    disk_size: int
    since_ms: int


class Removal:
    """Deletes files and sees to it that their space comes back. One process has one."""

    def __init__(self, *, force_ms: int, disk: Disk = DISK) -> None:
        self._disk = disk
        self.force_ms = force_ms
        self._held: list[Held] = []
        self._unsynced: set[Path] = set()
        """Folders from which a file was removed since they were synced."""

    @property
    def held_size(self) -> int:
        """Bytes of deleted files that somebody has open still."""
        return sum(held.disk_size for held in self._held)

    def remove(self, path: Path, *, now_ms: int) -> int:
        """Delete a file; the bytes that it took on the disk, 0 when it was gone already.

        Raises:
            OSError: it is still there.
        """
        if path.parent in self._unsynced:
            self._disk.fsync_folder(path.parent)
            self._unsynced.discard(path.parent)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return 0
        try:
            size = os.fstat(fd).st_blocks * BLOCK_SIZE
            self._disk.unlink(path)
        except OSError:
            os.close(fd)
            raise
        self._unsynced.add(path.parent)
        if _is_mine_alone(fd):
            os.close(fd)
        else:
            self._held.append(Held(fd, path, size, now_ms))
        return size

    def release(self, now_ms: int) -> list[Path]:
        """Let go of files that nobody reads any more; gives those that were emptied by force."""
        emptied: list[Path] = []
        kept: list[Held] = []
        for number, held in enumerate(self._held):
            if _is_mine_alone(held.fd):
                os.close(held.fd)
                continue
            late = abs(now_ms - held.since_ms) >= self.force_ms
            if late or len(self._held) - number > HELD_MAX:
                os.ftruncate(held.fd, 0)
                os.close(held.fd)
                emptied.append(held.path)
            else:
                kept.append(held)
        self._held = kept
        return emptied

    def close(self) -> None:
        """Close what is held; who has it open keeps it."""
        for held in self._held:
            os.close(held.fd)
        self._held.clear()


def _is_mine_alone(fd: int) -> bool:
    """Whether no other open file leads to this one; also where the file system cannot tell."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno != errno.EAGAIN
    return True


def find_log_files(folder: Path, *, file_size: int) -> list[StoreFile]:
    """Commitlog files of a folder, the oldest first; what has another name or size is left out."""
    found = []
    for start, facts in sorted(_numbered(folder)):
        if facts.st_size == file_size:
            modified_ms = facts.st_mtime_ns // NANOS_OF_A_MS
            size = facts.st_blocks * BLOCK_SIZE
            found.append(StoreFile(start, start + file_size, size, modified_ms))
    return found


def find_queue_files(root: Path) -> Iterator[tuple[str, int, list[int], int]]:
    """Each queue: topic, queue id, first bytes of its files, ascending, and bytes on the disk."""
    for topic in _folders(root):
        for queue in _folders(topic.path):
            if not (queue.name.isascii() and queue.name.isdigit()):
                continue
            starts, size = [], 0
            for start, facts in _numbered(queue.path):
                starts.append(start)
                size += facts.st_blocks * BLOCK_SIZE
            if starts:
                yield topic.name, int(queue.name), sorted(starts), size


def _folders(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return


def _numbered(folder: Path | str) -> Iterator[tuple[int, os.stat_result]]:
    """Files that are named by their first byte; one may be deleted meanwhile."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if len(name) == NAME_DIGITS and name.isascii() and name.isdigit():
                    with contextlib.suppress(FileNotFoundError):
                        yield int(name), entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return
