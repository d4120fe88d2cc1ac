"""Room that is set aside: on a full disk the small tables are written all the same.

    STORE/reserve    zeros that take metadataReserveSize bytes; ours, Apache's broker ignores it

The coordinator owns it. When a table or the offsets journal finds no room, the reserve is deleted
and the write is done again. Those who fill the disk, flush and dispatch, begin again only where
has_room() says so, which leaves the room of the reserve to the tables. When there is room for both,
the reserve is made anew.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from shmq.log import get_logger

if TYPE_CHECKING:
    from pathlib import Path

NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Nothing was written for want of room; what was written before is not in doubt."""


class NoRoom(OSError):
    """The disk has no room for a write; the same write may be tried again."""


def room(folder: Path) -> int:
    """Free bytes of the file system that holds `folder`, of those that any user may take."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


def has_room(folder: Path, reserve_size: int) -> bool:
    """Whether who found no room may go on: there is room for the reserve, and as much besides."""
    return room(folder) >= 2 * reserve_size


class Reserve:
    """The file that keeps the room. Its owner has the only one."""

    def __init__(self, path: Path, *, size: int) -> None:
        """`size` 0: nothing is set aside."""
        self._path = path
        self._size = size
        self._held = False

    @property
    def is_held(self) -> bool:
        """Whether the room is set aside now."""
        return self._held

    def keep(self) -> bool:
        """Set the room aside if it is not and there is enough; whether it is."""
        if self._held or not self._size:
            return self._held
        try:
            facts = self._path.stat()
            self._held = facts.st_size == self._size and facts.st_blocks * 512 >= self._size
        except FileNotFoundError:
            self._held = False
        try:
            if not self._held and has_room(self._path.parent, self._size):
                self._make()
        except OSError:  # It was somebody else's in the meantime.
            self._path.unlink(missing_ok=True)
        return self._held

    def give(self, error: OSError) -> bool:
        """Give the room up if `error` says that there is none; True: try that write once more."""
        if error.errno not in NO_ROOM or not self._held:
            return False
        self._path.unlink(missing_ok=True)
        self._held = False
        get_logger().warning(
            "reserve.used", size=self._size, hint="the disk is full; make room for the commitlog"
        )
        return True

    def close(self) -> None:
        """Remove it: without a broker nobody needs it."""
        if self._held:
            self._path.unlink(missing_ok=True)
            self._held = False

    def _make(self) -> None:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self._size)
        finally:
            os.close(fd)
        self._held = True
