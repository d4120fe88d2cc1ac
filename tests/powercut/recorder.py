"""A disk that writes down what a file system does to it: every write, and every barrier, in order.

    ext4 -- loop device, direct I/O -- FUSE file system of the one file `image` -- memory

The FUSE process is the only writer of what is shared with it: an event's bytes, then its row, then
the number of events.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import stat
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from shmq.store.disk import FILE_MODE
from shmq.units import MiB
from shmq.workers.base import end_with
from tests.compat.processes import eventually
from tests.disk.disks import TimedDisk
from tests.powercut.kernel import (
    commit_journal,
    ext4_on,
    own_namespace,
    serve_disks,
    unmount,
    write_back,
)

IMAGE_SIZE: Final = 64 * MiB
IMAGE_NAME: Final = "image"
EVENTS_MAX: Final = 1 << 17
EVENT_BYTES_MAX: Final = 512 * MiB
ROW: Final = np.dtype([("at", "<i8"), ("size", "<i8"), ("data", "<i8")])
BARRIER: Final = -1
"""Stands for a write's place."""
MKFS_OPTIONS: Final = (
    *("-J", "size=4", "-m", "0"),
    *("-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"),
)
UP_WITHIN_S: Final = 20
COMMIT_CHANCE: Final = 0.1
WRITE_BACK_CHANCE: Final = 0.4


class Write(NamedTuple):
    """Bytes that the file system gave to the disk."""

    at: int
    data: bytes


class Recorder:
    """What happened to the image, seen by all processes that are forked after it was made."""

    def __init__(self, first: bytes) -> None:
        self.first: Final = first
        """The image before the first event."""
        self.image = mmap.mmap(-1, len(first))
        self.image[:] = first
        self._data = mmap.mmap(-1, EVENT_BYTES_MAX)
        self._rows = np.frombuffer(mmap.mmap(-1, EVENTS_MAX * ROW.itemsize), dtype=ROW)
        self._count = np.frombuffer(mmap.mmap(-1, 8), dtype=np.int64)

    @property
    def count(self) -> int:
        """How many events there were."""
        return int(self._count[0])

    def __getitem__(self, number: int) -> Write | None:
        """An event; None is a barrier."""
        at, size, start = self._rows[number].tolist()
        return None if at == BARRIER else Write(at, self._data[start : start + size])

    # In the FUSE process

    def write(self, at: int, data: bytes) -> None:
        """The image changes."""
        if at + len(data) > len(self.image):
            raise OSError(errno.ENOSPC, "write past the image's end")
        self.image[at : at + len(data)] = data
        self._add(at, data)

    def barrier(self) -> None:
        """All that was written before is on the disk."""
        self._add(BARRIER, b"")

    def _add(self, at: int, data: bytes) -> None:
        count, start = self.count, 0
        if count:
            _at, size, start = self._rows[count - 1].tolist()
            start += size
        if count == EVENTS_MAX or start + len(data) > EVENT_BYTES_MAX:
            raise OSError(errno.ENOSPC, "the record is full")
        self._data[start : start + len(data)] = data
        self._rows[count] = (at, len(data), start)
        self._count[0] = count + 1


class _ImageFolder:
    """What FUSE asks of a folder with one file; fsync alone is a barrier, closing is none."""

    use_ns = True

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def getattr(self, path: str, _fh: int | None = None) -> dict[str, Any]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path != f"/{IMAGE_NAME}":
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        size = len(self._recorder.image)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size}

    def open(self, _path: str, _flags: int) -> int:
        return 0

    def read(self, _path: str, size: int, at: int, _fh: int) -> bytes:
        return self._recorder.image[at : at + size]

    def write(self, _path: str, data: bytes, at: int, _fh: int) -> int:
        self._recorder.write(at, data)
        return len(data)

    def fsync(self, _path: str, _datasync: int, _fh: int) -> int:
        self._recorder.barrier()
        return 0


def new_ext4(folder: Path) -> bytes:
    """An image with an empty ext4 as mkfs makes it, but for a small journal and all tables made."""
    path = folder / "new"
    with path.open("wb") as file:
        file.truncate(IMAGE_SIZE)
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-b", "4096", *MKFS_OPTIONS, str(path)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    data = path.read_bytes()
    path.unlink()
    return data


@contextmanager
def recorded_ext4(
    folder: Path, image: bytes, *, options: str = ""
) -> Iterator[tuple[Recorder, Path]]:
    """An ext4 and where in `folder` it is mounted, its disk recorded from before its mount.

    No other ext4 of ours may be mounted by this process now. The FUSE process must not share a
    namespace with an ext4 that it serves: were it the last one in it, its own end would unmount
    that, wait for itself for ever, and every sync(2) on the host with it. So the mount is in a
    namespace made after the FUSE process was.
    """
    recorder = Recorder(image)
    below, top = folder / "fuse", folder / "ext4"
    below.mkdir()
    top.mkdir()
    with _served(recorder, below):
        own_namespace()
        image_fd = os.open(below / IMAGE_NAME, os.O_RDWR | os.O_CLOEXEC)
        try:
            with ext4_on(image_fd, top, direct=True, options=options):
                yield recorder, top
        finally:
            os.close(image_fd)
    below.rmdir()
    top.rmdir()


@contextmanager
def _served(recorder: Recorder, where: Path) -> Iterator[None]:
    parent_pid = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            end_with(parent_pid)
            serve_disks()
            import mfusepy  # noqa: PLC0415  loads libfuse, which nobody else needs

            mfusepy.FUSE(_ImageFolder(recorder), str(where), foreground=True, nothreads=True)
        except Exception:  # noqa: BLE001  its parent says that it ended
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    try:
        eventually("FUSE serves the image", lambda: _is_served(pid, where), timeout_s=UP_WITHIN_S)
        yield
    finally:
        with suppress(OSError):  # It was not mounted, or what is above it did not go.
            unmount(where)
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _is_served(pid: int, where: Path) -> bool:
    ended, _status = os.waitpid(pid, os.WNOHANG)
    assert not ended, "the FUSE process ended: the kernel refused the mount, see its last words"
    return (where / IMAGE_NAME).exists()


class RecordedDisk(TimedDisk):
    """The real disk; its time is the recorder's."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    @property
    def moment(self) -> int:
        return self._recorder.count


class RestlessDisk(RecordedDisk):
    """The real disk under a kernel that writes back and commits when it likes, as it may."""

    def __init__(self, recorder: Recorder, *, seed: int) -> None:
        super().__init__(recorder)
        self._rng = random.Random(seed)

    def open(self, path: Path, flags: int, mode: int = FILE_MODE) -> int:
        fd = super().open(path, flags, mode)
        self._perhaps(fd)
        return fd

    def pwrite(self, fd: int, data: memoryview | bytes, at: int) -> int:
        done = super().pwrite(fd, data, at)
        self._perhaps(fd)
        return done

    def truncate(self, fd: int, size: int) -> None:
        super().truncate(fd, size)
        self._perhaps(fd)

    def _perhaps(self, fd: int) -> None:
        chance = self._rng.random()
        if chance < COMMIT_CHANCE:
            commit_journal(fd)
        elif chance < COMMIT_CHANCE + WRITE_BACK_CHANCE:
            write_back(fd)


class LyingDisk(RecordedDisk):
    """A disk that says of everything that it is synced."""

    def fsync(self, fd: int) -> None:
        pass

    def fdatasync(self, fd: int) -> None:
        pass

    def fsync_folder(self, folder: Path) -> None:
        pass

    def sync_all(self, folder: Path) -> None:
        pass
