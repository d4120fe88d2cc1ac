"""The boot step: open the store, find where it ends, and fill the shared tables, before any role.

    1. rescue      (rescue.py) a killed broker's hot pages are written to its files
    2. queues      a slot for each consumequeue folder, with its first and last entry
    3. commitlog   walk the records after what is known to be good; the first bad byte is the end
    4. rebuild     entries that the consumequeues lack; entries past the log's end are cut off
    5. sync        all that was walked or written: FLUSHED is a promise about the disk
    6. publish     APPEND, WRITTEN, FLUSHED, REPUT and HOT_START at the end; queue offsets

After a clean stop the walk begins at the checkpoint's end of the log; after a crash where our
checkpoint vouches for everything before, else at the newest file that Apache's fields of it vouch
for, and every CRC is checked. When a record turns out to be too far from the end of its
consumequeue, entries before it are missing too, and the whole log is walked.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.errors import StoreError
from shmq.kernels.walk import STOP_BAD, STOP_BLANK, STOP_END, STOP_FULL, walk
from shmq.layout import record
from shmq.layout.control import Word
from shmq.log import get_logger
from shmq.shm.queuetable import QueueWords
from shmq.store.checkpoint import CheckpointFile
from shmq.store.commitlog import LogFiles, file_name, list_files
from shmq.store.disk import DISK, Disk
from shmq.store.foreign import refuse_foreign_parts
from shmq.store.logstream import LogStream
from shmq.store.sparse import data_pieces, data_ranges, zero_from
from shmq.units import KiB, MiB
from shmq.workers.bootqueues import QueueRows
from shmq.workers.rescue import commitlog_dir, rescue

if TYPE_CHECKING:
    from pathlib import Path

    from shmq.config import Settings
    from shmq.shm.arena import Arena
    from shmq.workers.bootstep import Progress

__all__ = ["commitlog_dir", "open_store", "rescue"]

ROWS_MAX: Final = 65_536
SET_ASIDE_MAX: Final = 1000
PROPERTIES_SIZE_SIZE: Final = 2
RECORD_MAGICS: Final = frozenset({record.MAGIC_V1, record.MAGIC_V2})
VERSION_MASK: Final = 0xFF


def is_newer(magic: int) -> bool:
    """Whether this is the magic of a record of a later version than the known ones."""
    newest = max(RECORD_MAGICS)
    return magic & ~VERSION_MASK == newest & ~VERSION_MASK and magic > newest


class _Opening:
    """One run of open_store."""

    def __init__(
        self,
        *,
        settings: Settings,
        arena: Arena,
        store_dir: Path,
        clean: bool,
        progress: Progress,
        disk: Disk,
    ) -> None:
        self.disk = disk
        self.arena = arena
        self.store_dir = store_dir
        self.clean = clean
        self.progress = progress
        self.checkpoint = CheckpointFile(store_dir / "checkpoint", disk=disk).load()
        self.file_size = settings.mapped_file_size_commit_log
        self.folder = commitlog_dir(settings, store_dir)
        self.direct = settings.direct_write_enable
        self.files = LogFiles(self.folder, file_size=self.file_size, disk=disk)
        self.queues = QueueRows(
            store_dir / "consumequeue",
            configured_file_size=settings.mapped_file_size_consume_queue,
            delays_ms=settings.delay_level_millis,
            allocate=arena.queues.allocate,
            disk=disk,
        )
        self.rows = np.zeros((ROWS_MAX, 10), dtype=np.int64)
        self.last_record: tuple[int, int, int] | None = None
        """Of the last record that was walked: its place, its properties' place, its end."""

    def run(self) -> int:
        """Open the store; the log's end."""
        self.disk.keep_folders(self.folder)
        starts = list_files(self.folder, file_size=self.file_size)
        self.progress("reading the consumequeues", 0, 1)
        self.queues.find(clean=self.clean)
        end = self.find_end(starts) if starts else 0
        log_start = starts[0] if starts else 0
        self.progress("syncing the consumequeues", 0, 1)
        self.queues.cut(end, clean=self.clean)
        self.queues.sync()
        if starts and not self.clean:
            # What killed processes wrote, and names of files that they made.
            self.disk.sync_all(self.store_dir)
        self.publish(end, log_start)
        get_logger().info(
            "store.opened",
            log_start=log_start,
            log_end=end,
            queues=len(self.queues),
            clean=self.clean,
        )
        return end

    def find_end(self, starts: list[int]) -> int:
        """Walk the log as far as it is sound, and enter what the queues lack; the log's end."""
        first = self.first_to_walk(starts)
        end = self.walk_log(first, starts)
        if not self.clean:
            end = self.before_torn_record(end)
        if (self.queues.gap_found or self.queues.hole_left(end)) and first > starts[0]:
            get_logger().warning(
                "consumequeues.incomplete",
                physical_offset=first,
                hint="entries are missing before the checkpoint; the whole log is walked",
            )
            first = starts[0]
            end = self.before_torn_record(self.walk_log(first, starts))
        self.refuse_newer_record(end, starts)
        self.cut_log(end, starts)
        if not self.clean:
            self.sync_log(first, end)
        return end

    def first_to_walk(self, starts: list[int]) -> int:
        """Where the walk begins: everything before it is known to be whole and in its queue."""
        checkpoint = self.checkpoint
        indexed = self.queues.log_end()
        if self.clean:
            if starts[-1] <= checkpoint.confirm_offset == indexed:
                return indexed
            floor = [start for start in starts if start <= indexed]
            return floor[-1] if floor else starts[0]
        if not indexed:
            return starts[0]
        if starts[0] < checkpoint.vouched_offset <= indexed and self.is_border(
            checkpoint.vouched_offset, starts
        ):
            return checkpoint.vouched_offset
        for start in reversed(starts):
            stamp = self.first_timestamp(start)
            if stamp and stamp <= checkpoint.recovery_timestamp:
                return start
        return starts[0]

    def is_border(self, offset: int, starts: list[int]) -> bool:
        """Whether a record begins at `offset`, or one ends there and nothing follows.

        Else the log is not the one that the checkpoint was written for.
        """
        if offset >= starts[-1] + self.file_size:
            return False
        data = self.files.read(offset, 8 * MiB)
        count, _, stop = walk(data, 0, self.rows[:1], checked=True)
        if count:
            return bool(self.rows[0, 3] == offset)
        if stop == STOP_BLANK:
            return True
        last = self.queues.record_before(offset)
        if last < offset - offset % self.file_size:
            return False
        found = walk(self.files.read(last, offset - last), 0, self.rows[:1], checked=True)
        return found[:2] == (1, offset - last) and bool(self.rows[0, 3] == last)

    def first_timestamp(self, start: int) -> int:
        """Store timestamp of the first record of a file, 0 when it has no sound one."""
        count, _, _ = walk(self.files.read(start, 8 * MiB), 0, self.rows[:1], checked=True)
        return int(self.rows[0, 5]) if count else 0

    def walk_log(self, first: int, starts: list[int]) -> int:
        """Walk from `first` to the first byte that is no record; enter what queues lack; the end.

        Bytes of a record that is cut off by the end of the log count as no record.
        """
        self.queues.begin_walk()
        offset = first
        log_end = starts[-1] + self.file_size
        total = self.data_end(starts[-1]) - first
        with LogStream(
            self.folder,
            file_size=self.file_size,
            start=first,
            end=log_end,
            direct=self.direct,
            disk=self.disk,
        ) as stream:
            while offset < log_end:
                file_end = offset - offset % self.file_size + self.file_size
                chunk, whole = stream.take(offset)
                chunk_end = offset + len(chunk)
                offset, stop = self.walk_chunk(chunk, offset, whole=whole)
                if stop == STOP_END and chunk_end - offset > stream.rest_max:
                    offset, stop = self.walk_large(offset)
                done = offset - first
                self.progress("recovering the commitlog", done, max(total, done))
                if stop == STOP_BLANK:
                    if file_end >= log_end:
                        return file_end
                    offset = file_end
                elif stop == STOP_BAD:
                    return offset
        return offset

    def walk_large(self, offset: int) -> tuple[int, int]:
        """Walk the record at `offset`, which is too large for the stream.

        Where the walk stands then and why it stopped.
        """
        size, _magic = record.head(self.files.read(offset, record.BLANK_HEAD_SIZE))
        file_end = offset - offset % self.file_size + self.file_size
        if size > min(record.RECORD_SIZE_MAX, file_end - offset):
            return offset, STOP_BAD
        return self.walk_chunk(memoryview(self.files.read(offset, size)), offset, whole=True)

    def data_end(self, start: int) -> int:
        """Where the last data of a file end, a physical offset: the log ends there or before."""
        fd = self.disk.open(self.folder / file_name(start), os.O_RDONLY)
        try:
            ranges = data_ranges(fd, 0, self.file_size)
        finally:
            self.disk.close(fd)
        return start + (ranges[-1][1] if ranges else 0)

    def walk_chunk(self, chunk: memoryview, offset: int, *, whole: bool) -> tuple[int, int]:
        """Walk one chunk that lies at `offset`; where the walk stands and why it stopped."""
        position = 0
        while True:
            count, position, stop = walk(chunk, position, self.rows, checked=True)
            rows = self.rows[:count]
            astray = np.flatnonzero(rows[:, 3] != rows[:, 0] + offset)
            if len(astray):  # A whole record of another place: left there by who used the disk.
                rows = rows[: astray[0]]
                position, stop = int(self.rows[astray[0], 0]), STOP_BAD
            if len(rows):
                at, size, topic_at, topic_size = rows[-1][[0, 1, 8, 9]].tolist()
                self.last_record = (
                    offset + at,
                    offset + topic_at + topic_size + PROPERTIES_SIZE_SIZE,
                    offset + at + size,
                )
                self.queues.enter(chunk, offset, rows)
            if stop == STOP_FULL:
                continue
            if stop == STOP_END and whole and position < len(chunk):
                stop = STOP_BAD  # The record does not end within its file, or not at all.
            return offset + position, stop

    def refuse_newer_record(self, end: int, starts: list[int]) -> None:
        """Leave a log alone that goes on with a record of a version that is not known.

        Raises:
            StoreError: it does.
        """
        if end >= starts[-1] + self.file_size:
            return
        head = self.files.read(end, record.RECORD_SIZE_MIN)
        if len(head) < record.RECORD_SIZE_MIN:
            return
        size, magic = record.head(head, 0)
        place = int.from_bytes(head[record.PHYSICAL_OFFSET_AT :][:8], "big")
        if not is_newer(magic) or place != end or size < len(head):
            return
        if self.is_known_but_for_magic(end, size):
            return
        raise StoreError(
            "the commitlog has records of a version that this broker does not know",
            physical_offset=end,
            magic=f"{magic:#x}",
            allowed=[f"{known:#x}" for known in sorted(RECORD_MAGICS)],
            hint="open the store with the newer broker that wrote it, or with a newer shmq",
        )

    def is_known_but_for_magic(self, at: int, size: int) -> bool:
        """Whether a bit of the magic changed: with another one the record is whole.

        Then those after it are of known versions, if there are any.
        """
        file_end = at - at % self.file_size + self.file_size
        if size > min(record.RECORD_SIZE_MAX, file_end - at):
            return False
        data = bytearray(self.files.read(at, size + record.BLANK_HEAD_SIZE))
        if len(data) >= size + record.BLANK_HEAD_SIZE and is_newer(record.head(data, size)[1]):
            return False
        for known in RECORD_MAGICS:
            data[record.MAGIC_AT : record.MAGIC_AT + 4] = known.to_bytes(4, "big")
            if walk(data[:size], 0, self.rows[:1], checked=True)[:2] == (1, size):
                return True
        return False

    def before_torn_record(self, end: int) -> int:
        """The log's end without a last record of which only the front reached the disk.

        The CRC covers the body alone. A power cut leaves zeros where the properties did not arrive,
        and properties end with a separator or a value's last character. Only the log's very last
        record can be torn.
        """
        if self.last_record is None:
            return end
        start, properties_at, record_end = self.last_record
        if record_end != end or properties_at == record_end:
            return end
        if self.files.read(record_end - 1, 1) != b"\0":
            return end
        get_logger().warning("record.torn", physical_offset=start, size=record_end - start)
        return start

    def cut_log(self, end: int, starts: list[int]) -> None:
        """Drop what lies after the log's end, after a copy of it was put aside."""
        for start in reversed(starts):  # The newest first: a crash on the way leaves no gap.
            path = self.folder / file_name(start)
            if start >= end and start > starts[0]:
                self.set_aside(path, start, 0)
                self.disk.unlink(path)
                self.disk.fsync_folder(self.folder)
            elif start <= end < start + self.file_size and self.set_aside(path, start, end - start):
                zero_from(path, end - start, disk=self.disk)

    def set_aside(self, path: Path, start: int, at: int) -> bool:
        """Copy what stands in a file after `at`, if anything does; whether it does."""
        disk = self.disk
        fd = disk.open(path, os.O_RDONLY)
        try:
            pieces = data_pieces(fd, at, self.file_size, disk=disk)
            piece = next(pieces, None)
            if piece is None:
                return False
            target = self.free_name(f"commitlog-{start + at:020d}")
            copy = disk.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                while piece is not None:
                    position, data = piece
                    disk.write(copy, data, position - at)
                    piece = next(pieces, None)
                disk.fsync(copy)
            finally:
                disk.close(copy)
            disk.fsync_folder(target.parent)
        finally:
            disk.close(fd)
        get_logger().warning(
            "commitlog.cut",
            physical_offset=start + at,
            set_aside=str(target),
            hint="bytes after the last whole record were put aside",
        )
        return True

    def free_name(self, name: str) -> Path:
        """A file name in the folder for what was cut; an earlier copy is never overwritten."""
        folder = self.store_dir / "set-aside"
        self.disk.keep_folders(folder)
        for number in range(SET_ASIDE_MAX):
            target = folder / (f"{name}-{number}" if number else name)
            if not target.exists():
                return target
        raise StoreError(
            "too many copies of what was cut off the commitlog",
            folder=folder,
            allowed=SET_ASIDE_MAX,
            hint="move them away",
        )

    def sync_log(self, first: int, end: int) -> None:
        """Bring the walked part of the log to the disk: killed processes may not have done it."""
        begin = first - first % self.file_size
        for start in range(begin, end, self.file_size):
            self.progress("syncing the commitlog", start - begin, end - begin)
            fd = self.disk.open(self.folder / file_name(start), os.O_RDONLY)
            try:
                self.disk.fsync(fd)
            finally:
                self.disk.close(fd)

    def publish(self, end: int, log_start: int) -> None:
        """Show the other roles where the store stands."""
        arena = self.arena
        for word in (
            Word.APPEND_OFFSET,
            Word.WRITTEN_OFFSET,
            Word.FLUSHED_OFFSET,
            Word.REPUT_OFFSET,
            Word.HOT_START,
            Word.CONFIRM_OFFSET,
        ):
            arena.writer(word, role="boot").publish(end)
        arena.writer(Word.LOG_START, role="boot").publish(log_start)
        arena.writer(Word.FILED_OFFSET, role="boot").publish(end)
        checkpoint = self.checkpoint
        arena.writer(Word.FLUSHED_TIMESTAMP, role="boot").publish(checkpoint.physical_timestamp)
        arena.writer(Word.FILED_TIMESTAMP, role="boot").publish(checkpoint.queues_timestamp)
        arena.writer(Word.INDEX_TIMESTAMP, role="boot").publish(checkpoint.index_timestamp)
        words = QueueWords(arena.queues)
        for queue in self.queues.all():
            words.start_at(
                queue.slot,
                min_offset=self.queues.minimum(queue, log_start),
                max_offset=queue.max_offset,
            )
        arena.writer(Word.STORE_ID, role="boot").publish(self.folder.stat().st_ino)
        arena.writer(Word.STORE_STATE, role="boot").publish(1)


def open_store(
    settings: Settings,
    arena: Arena,
    *,
    store_dir: Path,
    clean: bool,
    progress: Progress = lambda _doing, _done, _total: None,
    disk: Disk = DISK,
) -> int:
    """Open the store and fill the shared tables; the log's end, a physical offset.

    `clean` says that the last broker ended cleanly (no abort file). `progress` is told what is
    being done, and how many bytes of how many are done.

    Raises:
        StoreError: the store is not one that this broker can use, with what to do about it; or the
            disk refused, and then the next start begins again.
    """
    refuse_foreign_parts(store_dir)
    opening = _Opening(
        settings=settings,
        arena=arena,
        store_dir=store_dir,
        clean=clean,
        progress=progress,
        disk=disk,
    )
    if arena.pool_size < 4 * (settings.max_message_size + 64 * KiB):
        raise StoreError(
            "hot pool too small for the largest message",
            pool_size=arena.pool_size,
            needed=4 * (settings.max_message_size + 64 * KiB),
            hint="raise hotPoolSize",
        )
    try:
        return opening.run()
    except OSError as error:
        raise StoreError(
            "the disk refused while the store was opened",
            file=error.filename,
            cause=error.strerror,
            hint="repair the disk or make room, then start again",
        ) from error
    finally:
        opening.queues.close()
        opening.files.close()
