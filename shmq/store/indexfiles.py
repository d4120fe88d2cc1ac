"""Index files: which records have a key. A row of equal files, each newer than the one before.

    index/<local time of its creation, yyyyMMddHHmmssSSS>

A file is mapped; its entries get room on the disk before they are written, so that a full disk is
an error here and no signal. Written by the index role alone; read by serve. See layout.indexfile.

Files are never needed: whatever they say is in the commitlog. A file of another size than the
settings say is passed over.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from shmq.kernels.indexing import find, put, relink
from shmq.layout import indexfile
from shmq.layout.indexfile import IndexHeader
from shmq.store.disk import DISK
from shmq.units import SECOND_MS, MiB

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NAME_DIGITS: Final = 17
GROW_SIZE: Final = 4 * MiB
"""Room on the disk is asked for in pieces of this size."""
FIND_MAX: Final = 64
_NAME: Final = re.compile(rf"[0-9]{{{NAME_DIGITS}}}")


@dataclass(frozen=True)
class IndexSizes:
    """How large every index file is."""

    slot_count: int = indexfile.SLOT_COUNT
    entry_count_max: int = indexfile.ENTRY_COUNT

    @property
    def file_size(self) -> int:
        """Bytes of a file."""
        return indexfile.file_size(slot_count=self.slot_count, entry_count=self.entry_count_max)


def file_name(created_ms: int) -> str:
    """Name of a file that is made at this time, ms since the epoch."""
    seconds, millis = divmod(created_ms, SECOND_MS)
    local = datetime.fromtimestamp(seconds)  # noqa: DTZ006  Apache names files by local time
    return f"{local:%Y%m%d%H%M%S}{millis:03d}"


def list_names(folder: Path, sizes: IndexSizes) -> list[str]:
    """Names of the index files in `folder`, the oldest first; others are passed over."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if _NAME.fullmatch(entry.name) and entry.stat().st_size == sizes.file_size
            )
    except FileNotFoundError:
        return []


def read_header(path: Path) -> IndexHeader:
    """Header of the file at `path`.

    Raises:
        OSError: it is not there or cannot be read.
        LayoutError: it is too short.
    """
    with path.open("rb") as file:
        return indexfile.decode_header(file.read(indexfile.HEADER_SIZE))


def delete_before(folder: Path, sizes: IndexSizes, log_start: int) -> int:
    """Delete files all of whose records lie before `log_start`, never the newest; how many.

    Whoever reads such a file keeps what it has mapped.

    Source: RocketMQ store/index/IndexService.deleteExpiredFile.
    """
    count = 0
    for name in list_names(folder, sizes)[:-1]:
        if read_header(folder / name).end_offset >= log_start:
            break
        (folder / name).unlink()
        count += 1
    if count:
        DISK.fsync_folder(folder)
    return count


class IndexFile:
    """One mapped index file."""

    def __init__(self, path: Path, sizes: IndexSizes, *, writable: bool = False) -> None:
        """Map the file, which has its full size.

        Raises:
            OSError: it is not there, has another size, or cannot be mapped.
        """
        self.path = path
        self._sizes = sizes
        self._fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
        try:
            self._map = _mapped(self._fd, sizes, writable=writable)
        except BaseException:
            os.close(self._fd)
            raise
        # A hash says nothing about its neighbours: reading ahead would only read in vain.
        self._map.madvise(mmap.MADV_RANDOM)
        self._room_end = 0

    @classmethod
    def create(cls, path: Path, sizes: IndexSizes, header: IndexHeader) -> Self:
        """Make an empty file with this header, and map it for writing.

        Raises:
            OSError: the file system refused; there is no such file then.
        """
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            os.ftruncate(fd, sizes.file_size)
            os.posix_fallocate(fd, 0, indexfile.entry_position(0, slot_count=sizes.slot_count))
            os.pwrite(fd, indexfile.encode_header(header), 0)
            os.fsync(fd)
            DISK.fsync_folder(path.parent)
            return cls(path, sizes, writable=True)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(fd)

    @property
    def header(self) -> IndexHeader:
        """What the header says now."""
        return indexfile.decode_header(self._map[: indexfile.HEADER_SIZE])

    @property
    def is_full(self) -> bool:
        """Whether no entry finds room any more."""
        return self.header.entry_count >= self._sizes.entry_count_max

    def put(self, rows: NDArray[np.int64], first: int, end: int) -> int:
        """Enter rows `first` to `end` as kernels.indexing.keys_of gives them; the first left over.

        Raises:
            OSError: there is no room for them on the disk; none is entered.
        """
        sizes = self._sizes
        self._make_room(self.header.entry_count + end - first)
        return put(self._map, sizes.slot_count, sizes.entry_count_max, rows, first, end)

    def relink(self, end_offset: int) -> int:
        """Keep the entries of records before `end_offset` and build all chains anew; how many.

        Raises:
            OSError: there is no room for the slots on the disk.
        """
        sizes = self._sizes
        self._make_room(self.header.entry_count)
        return relink(self._map, sizes.slot_count, sizes.entry_count_max, end_offset) - 1

    def find(
        self,
        key_hash: int,
        *,
        begin_timestamp: int,
        end_timestamp: int,
        start: int,
        steps_max: int,
    ) -> tuple[list[int], int, int]:
        """Physical offsets of some records that may have this key, newest first.

        `start` is 0, or the entry to go on from that an earlier call gave.

        Returns:
            (at most FIND_MAX offsets, the entry to go on from or 0 at the end of the chain,
            entries looked at: `steps_max` at most).
        """
        sizes = self._sizes
        out = np.zeros(FIND_MAX, dtype=np.int64)
        count, following, steps = find(
            self._map,
            sizes.slot_count,
            sizes.entry_count_max,
            key_hash,
            begin_timestamp,
            end_timestamp,
            start,
            steps_max,
            out,
        )
        return out[:count].tolist(), following, steps

    def sync(self) -> None:
        """Bring what was entered to the disk.

        Raises:
            OSError: the disk refused.
        """
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Give the mapping back."""
        self._map.close()
        os.close(self._fd)

    def _make_room(self, entry_count: int) -> None:
        """Have blocks on the disk for the slots and `entry_count` entries."""
        sizes = self._sizes
        count = min(entry_count, sizes.entry_count_max)
        needed = indexfile.entry_position(count, slot_count=sizes.slot_count)
        if needed <= self._room_end:
            return
        end = min(-(-needed // GROW_SIZE) * GROW_SIZE, sizes.file_size)
        os.posix_fallocate(self._fd, self._room_end, end - self._room_end)
        self._room_end = end


def _mapped(fd: int, sizes: IndexSizes, *, writable: bool) -> mmap.mmap:
    """The whole file, mapped.

    Raises:
        OSError: it has another size, or cannot be mapped.
    """
    size = os.fstat(fd).st_size
    if size != sizes.file_size:
        raise OSError(errno.EINVAL, f"an index file of {size} bytes, not {sizes.file_size}")
    return mmap.mmap(
        fd, sizes.file_size, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    )


class IndexWriter:
    """Writes the newest index file, and the next one when that is full."""

    def __init__(
        self,
        folder: Path,
        sizes: IndexSizes,
        *,
        clock_ms: Callable[[], int],
        on_full: Callable[[int], None],
    ) -> None:
        """`on_full` is told the end timestamp of a file that is full and on the disk."""
        self._folder = folder
        self._sizes = sizes
        self._clock_ms = clock_ms
        self._on_full = on_full
        names = list_names(folder, sizes)
        self._file = IndexFile(folder / names[-1], sizes, writable=True) if names else None
        self._dirty = self._file is not None  # A predecessor may not have synced what it entered.
        self.sync_failed = False
        """Whether the disk has refused a sync: what was entered before it may be lost."""

    @property
    def newest(self) -> str:
        """Name of the newest file; empty when there is none."""
        return self._file.path.name if self._file is not None else ""

    @property
    def is_dirty(self) -> bool:
        """Whether entries were made since the last sync."""
        return self._dirty

    def put(self, rows: NDArray[np.int64], first: int, end: int) -> int:
        """Enter rows `first` to `end` as far as one file takes them; the first one left over.

        Raises:
            OSError: the file system refused; what this call should enter is not entered.
        """
        if first == end:
            return end
        if self._file is None or self._file.is_full:
            self._begin_file()
        assert self._file is not None
        self._dirty = True
        return self._file.put(rows, first, end)

    def sync(self) -> None:
        """Bring all entries to the disk.

        Raises:
            OSError: the disk refused.
        """
        if self._dirty and self._file is not None:
            try:
                self._file.sync()
            except OSError:
                self.sync_failed = True  # A second sync may report success for what is lost.
                raise
        self._dirty = False

    def close(self) -> None:
        """Close the newest file; does not sync."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin_file(self) -> None:
        """Make the next file; the one before is then on the disk, unless a sync has failed."""
        header = IndexHeader()
        if self._file is not None:
            full = self._file.header
            header = IndexHeader(
                begin_timestamp=full.end_timestamp,
                end_timestamp=full.end_timestamp,
                begin_offset=full.end_offset,
                end_offset=full.end_offset,
            )
            if not self.sync_failed:
                self.sync()
        else:
            self._folder.mkdir(parents=True, exist_ok=True)
        following = IndexFile.create(self._folder / self._next_name(), self._sizes, header)
        self.close()
        self._file = following
        if header.end_timestamp and not self.sync_failed:
            self._on_full(header.end_timestamp)

    def _next_name(self) -> str:
        """A name after all names that there are, whatever the clock says."""
        names = [path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name)]
        last = max(names, default="")
        name = file_name(self._clock_ms())
        return name if name > last else f"{int(last) + 1:0{NAME_DIGITS}d}"


class IndexReader:
    """All index files as a reader sees them; maps each once."""

    def __init__(self, folder: Path, sizes: IndexSizes) -> None:
        self._folder = folder
        self._sizes = sizes
        self._files: dict[str, IndexFile] = {}

    def files(self) -> list[IndexFile]:
        """The files that are there now, the newest first."""
        names = list_names(self._folder, self._sizes)
        for name in self._files.keys() - set(names):
            self._files.pop(name).close()
        for name in names:
            if name not in self._files:
                try:
                    self._files[name] = IndexFile(self._folder / name, self._sizes)
                except OSError:  # Deleted since it was listed.
                    continue
        return [self._files[name] for name in reversed(names) if name in self._files]

    def close(self) -> None:
        """Give all mappings back."""
        for file in self._files.values():
            file.close()
        self._files.clear()
