"""The offsets journal on disk: commits since the offset table was last written.

Entries are written without fsync: they outlive a killed coordinator, since the kernel has them, and
after a power cut at most the commits since the last table are consumed again. See
shmq.layout.offsetjournal for the bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shmq.errors import StoreError
from shmq.layout import offsetjournal as layout
from shmq.layout.offsetjournal import JournalEntry
from shmq.store.disk import DISK, Disk
from shmq.store.tables import set_aside
from shmq.units import GiB

JOURNAL_SIZE_MAX: Final = 4 * GiB
_FLAGS: Final = os.O_RDWR | os.O_CREAT
_MODE: Final = 0o640


class OffsetJournal:
    """Append-only file of commits; the only writer of its path."""

    def __init__(self, path: Path, *, disk: Disk = DISK) -> None:
        self._disk = disk
        disk.keep_folders(path.parent)
        self.path = path
        self.cut_size = 0
        """Bytes that open found after the last whole entry, and cut off."""
        self.damaged: Path | None = None
        """Where open put a file that is no journal at all."""
        self._file = disk.open(path, _FLAGS, _MODE)
        self._end = 0

    def open(self) -> list[JournalEntry]:
        """Read all whole entries, cut off what a crash left after them, and go on from there.

        Raises:
            StoreError: the file is larger than a journal can be.
        """
        size = os.fstat(self._file).st_size
        if size > JOURNAL_SIZE_MAX:
            raise StoreError(
                "offsets journal too large", path=self.path, size=size, allowed=JOURNAL_SIZE_MAX
            )
        data = b""
        while len(data) < size:
            piece = self._disk.pread(self._file, size - len(data), len(data))
            if not piece:
                break
            data += piece
        entries, self._end = layout.decode(data)
        self.cut_size = len(data) - self._end
        if self._end == 0 and len(data) >= len(layout.MAGIC):
            self.damaged = set_aside(self.path, disk=self._disk)
            self._disk.close(self._file)
            self._file = self._disk.open(self.path, _FLAGS, _MODE)
        if self._end == 0:
            self.clear()
        else:
            self._disk.truncate(self._file, self._end)
        return entries

    @property
    def size(self) -> int:
        """Bytes of the entries in it."""
        return self._end - len(layout.MAGIC)

    def append(self, entries: Iterable[JournalEntry]) -> None:
        """Write `entries` behind the others, in one piece.

        Raises:
            StoreError: they are not in the journal, which is whole up to the entry before them.
        """
        data = b"".join(map(layout.encode, entries))
        try:
            written = self._disk.pwrite(self._file, data, self._end)
            if written != len(data):
                self._disk.truncate(self._file, self._end)
                raise StoreError(
                    "offsets journal written in part",
                    path=self.path,
                    written=written,
                    wanted=len(data),
                    hint="is the disk full?",
                )
        except OSError as error:
            self._disk.truncate(self._file, self._end)
            raise StoreError(
                "offsets journal cannot be written", path=self.path, reason=error.strerror
            ) from error
        self._end += len(data)

    def clear(self) -> None:
        """Empty it: the offset table on disk holds all of it."""
        self._disk.truncate(self._file, 0)
        self._disk.write(self._file, layout.MAGIC, 0)
        self._end = len(layout.MAGIC)

    def close(self) -> None:
        """Give the file back."""
        self._disk.close(self._file)
