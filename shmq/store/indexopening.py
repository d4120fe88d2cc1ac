"""Opening the index: which of its files are sound, and where in the log to go on.

`config/indexProgress.json` says {"offset": ..., "file": ...}: all keys of records before that
physical offset were in index files and on the disk when it was written, and which file was the
newest then ("" for none). It is shmq's own; Apache's broker neither reads nor writes it, so it
counts only while its file is there.

    progress  last end  files                                      going on
    --------  --------  -----------------------------------------  ------------------
    counts    clean     kept, as far as the progress goes          at its offset
    counts    crash     the same, and the chains built anew        at its offset
    absent    clean     kept, but for the last record's entries    at the last record
    absent    crash     of those that the checkpoint vouches for   at the last record
                        the same

After a clean end nothing is there that the progress does not know, unless another broker has gone
on, or the disk took only some of the keys. The last record's keys may be there in part. What is
said about records that are not in the log any more is cut off in any case. Without a file the index
begins where the log does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import orjson

from shmq.errors import StoreError
from shmq.layout.indexfile import FIRST_ENTRY_COUNT
from shmq.log import get_logger
from shmq.store.disk import DISK
from shmq.store.indexfiles import IndexFile, IndexSizes, list_names, read_header
from shmq.store.tables import TableFile

if TYPE_CHECKING:
    from pathlib import Path

PROGRESS_NAME: Final = "indexProgress.json"


class Progress(NamedTuple):
    """How far the index is known to be on the disk."""

    offset: int
    """Physical offset: the keys of all records before it are in index files."""
    file: str
    """Name of the newest index file; empty when there was none."""


class ProgressFile:
    """Loads and saves the progress."""

    def __init__(self, path: Path) -> None:
        self._table = TableFile(path)

    def load(self) -> Progress | None:
        """What was saved last; None when nothing was, or what is there cannot be read."""
        try:
            return self._table.load(_decode)
        except StoreError:
            return None

    def save(self, progress: Progress) -> None:
        """Save it durably.

        Raises:
            OSError: the disk refused; what was saved before is still there.
        """
        self._table.replace(orjson.dumps(progress._asdict()))


def _decode(data: bytes) -> Progress:
    said = orjson.loads(data)
    if not isinstance(said, dict):
        raise TypeError("no object")
    return Progress(int(said.get("offset", 0)), str(said.get("file", "")))


def open_index(
    folder: Path,
    sizes: IndexSizes,
    *,
    clean: bool,
    progress: Progress | None,
    vouched_timestamp: int,
    log_start: int,
    log_end: int,
) -> int:
    """Bring the index files into order; the physical offset to go on at.

    `clean` says that the last writer ended cleanly. `vouched_timestamp` is the checkpoint's
    index_timestamp, ms. The log is kept from `log_start` to `log_end`.

    Raises:
        OSError: a file cannot be read, changed or deleted.
    """
    _remove_unborn(folder)
    names = list_names(folder, sizes)
    if progress is not None and progress.file and progress.file not in names:
        progress = None
    if progress is None and not clean:
        _keep_vouched(folder, sizes, vouched_timestamp)
        names = list_names(folder, sizes)
    last = read_header(folder / names[-1]).end_offset if names else -1
    if progress is not None:
        offset = min(progress.offset, log_end)
    else:
        offset = min(last, log_end) if names else log_start
    if not clean or last >= offset:
        cut(folder, sizes, offset)
    return max(offset, log_start)


def cut(folder: Path, sizes: IndexSizes, end_offset: int) -> None:
    """Drop all entries of records at `end_offset` and after it; relink the newest file left.

    Raises:
        OSError: a file cannot be changed or deleted.
    """
    for name in reversed(list_names(folder, sizes)):
        path = folder / name
        header = read_header(path)
        if header.entry_count > FIRST_ENTRY_COUNT and header.begin_offset < end_offset:
            file = IndexFile(path, sizes, writable=True)
            try:
                kept = file.relink(end_offset)
            finally:
                file.close()
            if kept:
                return
        path.unlink()
        DISK.fsync_folder(folder)
        get_logger().info("index.file_dropped", file=name, end_offset=end_offset)


def _keep_vouched(folder: Path, sizes: IndexSizes, timestamp: int) -> None:
    """Delete files with entries that were made after a time, as Apache does after a crash.

    Source: RocketMQ store/index/IndexService.load.
    """
    for name in list_names(folder, sizes):
        if read_header(folder / name).end_timestamp > timestamp:
            (folder / name).unlink()
            DISK.fsync_folder(folder)
            get_logger().warning(
                "index.file_dropped",
                file=name,
                hint="the broker ended in a crash; the index is built again from the commitlog",
            )


def _remove_unborn(folder: Path) -> None:
    """Delete empty files: their maker was killed before they got their size."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.is_file() and path.stat().st_size == 0:
                path.unlink()
