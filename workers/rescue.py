"""Rescue: what a killed broker left only in its hot pages is written to the commitlog files.

Done at the next start, before the store is opened and when no process of the broker lives (the
store is locked). The pages are left out, and said to be, when they belong to another store folder,
or when the files hold something else where they should go: then another broker has used the store
since, and its messages stand there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shmq.errors import LayoutError
from shmq.layout.control import Word
from shmq.log import get_logger
from shmq.shm import segment
from shmq.shm.arena import remove_remnants
from shmq.shm.segment import Segment
from shmq.shm.words import WordReader, check_control
from shmq.store.commitlog import LogWriter, file_name, list_files
from shmq.store.disk import DISK, Disk
from shmq.store.sparse import data_pieces

if TYPE_CHECKING:
    from shmq.config import Settings


def commitlog_dir(settings: Settings, store_dir: Path) -> Path:
    """Where the commitlog files lie: storePathCommitLog, or the store's own folder."""
    configured = settings.store_path_commit_log
    return Path(configured).absolute() if configured else store_dir / "commitlog"


def rescue(settings: Settings, instance: str, *, store_dir: Path, disk: Disk = DISK) -> int:
    """Write what a killed broker left only in its hot pages into the files; bytes written.

    Removes every segment of `instance` when that is done.

    Raises:
        StoreError: the files are not those of the settings; the segments stay.
        OSError: the disk refused; the segments stay.
    """
    log = get_logger()
    written = 0
    try:
        control = Segment.attach(segment.segment_name(instance, "control"))
        pool = Segment.attach(segment.segment_name(instance, "pool"))
        check_control(control.view)
    except LayoutError as error:
        if segment.names_of(instance):
            log.warning("remnants.unreadable", cause=str(error))
    else:
        folder = commitlog_dir(settings, store_dir)
        written = _rescue(settings, control.view, pool.view, folder, disk)
        if written:
            log.info("hot_pages.rescued", size=written)
    remove_remnants(instance)
    return written


def _rescue(
    settings: Settings, control: memoryview, pool: memoryview, folder: Path, disk: Disk
) -> int:
    log = get_logger()
    if not WordReader(control, Word.STORE_STATE).load():
        return 0
    if not folder.is_dir() or WordReader(control, Word.STORE_ID).load() != folder.stat().st_ino:
        log.warning(
            "hot_pages.foreign", hint="they belong to a store that was here before; left out"
        )
        return 0
    file_size = settings.mapped_file_size_commit_log
    list_files(folder, file_size=file_size)
    start = WordReader(control, Word.WRITTEN_OFFSET).load()
    if WordReader(control, Word.FLUSH_ERROR).load():
        # After a failed sync the system may have dropped what was written before it.
        flushed = WordReader(control, Word.FLUSHED_OFFSET).load()
        start = max(flushed, WordReader(control, Word.HOT_START).load())
        log.warning(
            "hot_pages.after_failed_write",
            flushed_offset=flushed,
            rescued_from=start,
            hint="the disk refused them before; what is between the two may be damaged",
        )
    end = WordReader(control, Word.APPEND_OFFSET).load()
    parts = _parts(pool, start, end, file_size)
    for offset, part in parts:
        if not _agrees(folder, file_size, offset, part, disk):
            log.error(
                "hot_pages.outdated",
                physical_offset=offset,
                size=end - start,
                hint="another broker has written to the store since; the pages are left out",
            )
            return 0
    files = LogWriter(folder, file_size=file_size, disk=disk)
    for offset, part in parts:
        files.write(offset, [part])
    files.sync()
    files.close()
    return end - start


def _parts(pool: memoryview, start: int, end: int, file_size: int) -> list[tuple[int, memoryview]]:
    """The bytes [start, end) of the log in the pool, cut at the ends of files and of the pool."""
    parts = []
    offset = start
    while offset < end:
        at = offset % len(pool)
        stop = min(end, offset - offset % file_size + file_size, offset + len(pool) - at)
        parts.append((offset, pool[at : at + stop - offset]))
        offset = stop
    return parts


def _agrees(folder: Path, file_size: int, offset: int, part: memoryview, disk: Disk) -> bool:
    """Whether a file holds, where `part` goes, nothing but zeros and bytes of `part`."""
    start = offset - offset % file_size
    try:
        fd = disk.open(folder / file_name(start), os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        at = offset - start
        for position, data in data_pieces(fd, at, at + len(part), disk=disk):
            stored = np.frombuffer(data, dtype=np.uint8)
            begin = position - at
            ours = np.frombuffer(part[begin : begin + len(data)], dtype=np.uint8)
            if ((stored != ours) & (stored != 0)).any():
                return False
    finally:
        disk.close(fd)
    return True
