"""POSIX shared memory segments: create, attach, unlink; `/shmq.<instance>.<what>`."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final

import posix_ipc

from shmq.errors import LayoutError, StoreError

SHM_FOLDER: Final = Path("/dev/shm")  # noqa: S108  where Linux shows POSIX shared memory
MADV_POPULATE_READ: Final = 22
MADV_POPULATE_WRITE: Final = 23


def segment_name(instance: str, what: str) -> str:
    """Name of the segment `what` of `instance`, as posix_ipc wants it."""
    return f"/shmq.{instance}.{what}"


def names_of(instance: str) -> list[str]:
    """Names of all segments that exist for `instance`."""
    return sorted("/" + path.name for path in SHM_FOLDER.glob(f"shmq.{instance}.*"))


class Segment:
    """One mapped segment. The mapping lives until the process ends or close() is called."""

    def __init__(self, name: str, mapping: mmap.mmap, *, size: int) -> None:
        self.name = name
        self.size = size
        self._mapping = mapping
        self.view = memoryview(mapping)

    @classmethod
    def create(cls, name: str, size: int) -> Segment:
        """A new segment of `size` zero bytes; memory is taken when it is touched.

        Raises:
            StoreError: it exists already, or /dev/shm has no room for it.
        """
        try:
            shared = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=size, mode=0o600)
        except posix_ipc.ExistentialError as error:
            raise StoreError("segment exists already", name=name) from error
        except OSError as error:
            raise StoreError("cannot create segment", name=name, size=size, cause=error) from error
        try:
            mapping = mmap.mmap(shared.fd, size)
        except OSError as error:
            unlink(name)
            raise StoreError("cannot map segment", name=name, size=size, cause=error) from error
        finally:
            shared.close_fd()
        return cls(name, mapping, size=size)

    @classmethod
    def attach(cls, name: str, *, writable: bool = False) -> Segment:
        """An existing segment, read-only unless asked otherwise.

        Raises:
            LayoutError: there is no such segment.
        """
        try:
            shared = posix_ipc.SharedMemory(name, read_only=not writable)
        except (posix_ipc.ExistentialError, posix_ipc.PermissionsError) as error:
            raise LayoutError("no such segment, or not ours", name=name) from error
        try:
            size = os.fstat(shared.fd).st_size
            if size == 0:
                raise LayoutError("segment is empty", name=name)
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            mapping = mmap.mmap(shared.fd, size, access=access)
        finally:
            shared.close_fd()
        return cls(name, mapping, size=size)

    def populate(self, start: int = 0, size: int | None = None, *, write: bool = True) -> None:
        """Map pages of this segment into this process now, not at their first touch.

        `start` and `size` are in bytes, multiples of the page size. Does not survive a fork.
        """
        advice = MADV_POPULATE_WRITE if write else MADV_POPULATE_READ
        self._mapping.madvise(advice, start, self.size - start if size is None else size)

    def close(self) -> None:
        """Drop the mapping; views handed out must be released before."""
        self.view.release()
        self._mapping.close()


def unlink(name: str) -> None:
    """Remove a segment's name; nothing happens when it is gone already."""
    try:
        posix_ipc.unlink_shared_memory(name)
    except posix_ipc.ExistentialError:
        return


def room() -> int:
    """Bytes that /dev/shm can still take."""
    facts = os.statvfs(SHM_FOLDER)
    return facts.f_bavail * facts.f_frsize
