"""The offsets journal on disk: commits since the offset table was last written.

Entries are written without fsync: they outlive a killed coordinator, since the kernel has them, and
after a power cut at most the commits since the last table are consumed again. See
shmq.layout.offsetjournal for the bytes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from shmq.errors import StoreError
from shmq.layout import offsetjournal as layout
from shmq.layout.offsetjournal import JournalEntry
from shmq.store.disk import DISK, Disk
from shmq.store.reserve import Reserve
from shmq.store.tables import copy_aside, set_aside
from shmq.units import GiB

JOURNAL_SIZE_MAX: Final = 4 * GiB
_FLAGS: Final = os.O_RDWR | os.O_CREAT
_MODE: Final = 0o640


class OffsetJournal:
    """Append-only file of commits; the only writer of its path."""

    def __init__(self, path: Path, *, disk: Disk = DISK, reserve: Reserve | None = None) -> None:
        """`reserve` is given up when there is no room for entries."""
        self._disk = disk
        self._reserve = reserve
        disk.keep_folders(path.parent)
        self.path = path
        self.cut_size = 0
        """Bytes that open found after the last whole entry, and cut off."""
        self.damaged: Path | None = None
        """Where open put what it cut off, or a file that is no journal at all."""
        self._file = disk.open(path, _FLAGS, _MODE)
        self._generation: int | None = None
        self._start = self._end = 0
        """Where the entries begin and end; 0 when the file has yet to be begun anew."""

    def open(self, generation: int) -> list[JournalEntry]:
        """The entries that come after the table of this generation; goes on after them.

        What a crash left behind the last whole entry is cut off, and kept beside the journal if
        there is anything in it.

        Raises:
            StoreError: the file is larger than a journal can be, or the disk refused.
        """
        try:
            data = self._read()
            found = layout.decode(data)
            self.cut_size = len(data) - found.size
            self._keep_aside(data[found.size :], found.size)
            if found.generation is not None and found.generation < generation:
                self._begin(generation)  # The table has all of it.
                return []
            if found.size == 0:
                self._begin(generation)
            else:
                self._disk.truncate(self._file, found.size)
                self._generation = found.generation
                self._start = found.size - sum(map(_size, found.entries))
                self._end = found.size
        except OSError as error:
            raise self._refused("cannot be opened", error) from error
        return found.entries

    @property
    def size(self) -> int:
        """Bytes of the entries in it."""
        return self._end - self._start

    def append(self, entries: Iterable[JournalEntry]) -> None:
        """Write `entries` behind the others, in one piece.

        Raises:
            StoreError: they are not in the journal, which is whole up to the entry before them.
        """
        entries = list(entries)
        try:
            try:
                size = self._write(entries)
            except OSError as error:
                if self._reserve is None or not self._reserve.give(error):
                    raise
                self._cut()
                size = self._write(entries)
        except OSError as error:
            self._cut()
            raise self._refused("cannot be written", error) from error
        self._end += size

    def _write(self, entries: list[JournalEntry]) -> int:
        """Write behind the end, which the caller moves; how many bytes it is."""
        if not self._end:
            self._begin(self._generation or 0)
        data = b"".join(layout.encode(entry, self._generation) for entry in entries)
        written = self._disk.pwrite(self._file, data, self._end)
        if written != len(data):  # The next byte would have said why.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return written

    def clear(self, generation: int) -> None:
        """Empty it: the offset table on disk has this generation, and holds all of it.

        Raises:
            OSError: the disk refused; what is there counts no more, and append tries again.
        """
        self._generation = generation
        self._begin(generation)

    def close(self) -> None:
        """Give the file back."""
        self._disk.close(self._file)

    def _read(self) -> bytes:
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
        return data

    def _begin(self, generation: int) -> None:
        self._start = self._end = 0
        self._disk.truncate(self._file, 0)
        self._disk.write(self._file, layout.header(generation), 0)
        self._generation = generation
        self._start = self._end = layout.HEADER_SIZE

    def _cut(self) -> None:
        """Take back what a failed write left behind the end."""
        try:
            self._disk.truncate(self._file, self._end)
        except OSError:
            return  # The next write covers it, and no CRC agrees with what is left of it.

    def _keep_aside(self, rest: bytes, size: int) -> None:
        """Keep what is cut off at `size`: the whole file, or a copy of what stands after that.

        Not zeros, nor a header alone.
        """
        if not rest.strip(b"\0") or (size == 0 and len(rest) <= layout.HEADER_SIZE):
            return
        if size == 0:
            self.damaged = set_aside(self.path, disk=self._disk)
            self._disk.close(self._file)
            self._file = self._disk.open(self.path, _FLAGS, _MODE)
        else:
            self.damaged = copy_aside(self.path, rest, disk=self._disk)

    def _refused(self, what: str, error: OSError) -> StoreError:
        return StoreError(
            f"offsets journal {what}",
            path=self.path,
            reason=error.strerror,
            hint="repair the disk or make room",
        )


def _size(entry: JournalEntry) -> int:
    return layout.HEAD_SIZE + len(entry.group.encode()) + len(entry.topic.encode())
