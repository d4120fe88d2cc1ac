"""The boot step: open the store, find where it ends, and fill the shared tables, before any role.

    1. rescue      a killed broker's hot pages: bytes that its files lack are written to them
    2. queues      a slot for each consumequeue folder, with its first and last entry
    3. commitlog   walk the records after what is known to be good; the first bad byte is the end
    4. rebuild     entries that the consumequeues lack; entries past the log's end are cut off
    5. publish     APPEND, WRITTEN, FLUSHED, REPUT and HOT_START at the end; queue offsets

After a clean stop the walk begins at the checkpoint's end of the log; after a crash at the first
file that the checkpoint does not vouch for, and every CRC is checked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.errors import LayoutError, StoreError
from shmq.kernels.crc import crc32
from shmq.kernels.walk import STOP_BAD, STOP_BLANK, STOP_END, STOP_FULL, walk
from shmq.layout.control import Word
from shmq.layout.cqentry import ENTRY
from shmq.log import get_logger
from shmq.shm import segment
from shmq.shm.arena import check_control, remove_remnants
from shmq.shm.queuetable import QueueWords
from shmq.shm.segment import Segment
from shmq.shm.words import WordReader
from shmq.store.checkpoint import CheckpointFile
from shmq.store.commitlog import LogFiles, LogWriter, file_name, list_files
from shmq.store.consumequeue import QueueFiles, queue_folder
from shmq.units import KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.config import Settings
    from shmq.shm.arena import Arena

CHUNK_SIZE: Final = 16 * MiB
ROWS_MAX: Final = 65_536
TRANSACTION_MASK: Final = 0xC
TRANSACTION_COMMIT: Final = 0x8


def commitlog_dir(settings: Settings, store_dir: Path) -> Path:
    """Where the commitlog files lie: storePathCommitLog, or the store's own folder."""
    configured = settings.store_path_commit_log
    return Path(configured).absolute() if configured else store_dir / "commitlog"


def rescue(settings: Settings, instance: str, *, store_dir: Path) -> int:
    """Write what a killed broker left only in its hot pages into the files; bytes written.

    Removes every segment of `instance`. Only when no process of it lives (the store is locked).
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
        written = _rescue(settings, control.view, pool.view, commitlog_dir(settings, store_dir))
        if written:
            log.info("hot_pages.rescued", size=written)
    remove_remnants(instance)
    return written


def _rescue(settings: Settings, control: memoryview, pool: memoryview, folder: Path) -> int:
    if not WordReader(control, Word.STORE_STATE).load():
        return 0
    if not folder.is_dir() or WordReader(control, Word.STORE_ID).load() != folder.stat().st_ino:
        get_logger().warning(
            "hot_pages.foreign", hint="they belong to a store that was here before; left out"
        )
        return 0
    if WordReader(control, Word.FLUSH_ERROR).load():
        get_logger().warning("hot_pages.after_failed_write", hint="the disk refused them before")
    file_size = settings.mapped_file_size_commit_log
    offset = WordReader(control, Word.WRITTEN_OFFSET).load()
    end = WordReader(control, Word.APPEND_OFFSET).load()
    size = end - offset
    files = LogWriter(folder, file_size=file_size)
    while offset < end:
        at = offset % len(pool)
        stop = min(end, offset - offset % file_size + file_size, offset + len(pool) - at)
        offset = files.write(offset, [pool[at : at + stop - offset]])
    files.sync()
    files.close()
    return size


@dataclass
class _Queue:
    """What boot knows of one queue."""

    topic: str
    queue_id: int
    slot: int
    min_offset: int = 0
    max_offset: int = 0
    log_end: int = 0
    """End of the record of the last entry, a physical offset."""


@dataclass(kw_only=True)
class _Opening:
    """One run of open_store."""

    settings: Settings
    arena: Arena
    store_dir: Path
    clean: bool
    progress: Callable[[int, int], None]
    queues: dict[tuple[str, int], _Queue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.file_size = self.settings.mapped_file_size_commit_log
        self.folder = commitlog_dir(self.settings, self.store_dir)
        self.files = LogFiles(self.folder, file_size=self.file_size)
        self.queue_root = self.store_dir / "consumequeue"
        self.queue_files = QueueFiles(
            self.queue_root, file_size=self.settings.mapped_file_size_consume_queue, writable=True
        )
        self.rows = np.zeros((ROWS_MAX, 10), dtype=np.int64)

    # -- queues

    def find_queues(self) -> None:
        """A slot for every queue folder; its entries up to the last sound one."""
        if not self.queue_root.is_dir():
            return
        if (self.queue_root / "CURRENT").exists():
            raise StoreError(
                "consumequeues are in RocksDB form (storeType=defaultRocksDB)",
                folder=self.queue_root,
                allowed="files",
                hint="move the folder away and put a file named abort into the store: "
                "the consumequeues are then built anew",
            )
        for topic_folder in sorted(self.queue_root.iterdir()):
            if not topic_folder.is_dir():
                continue
            for folder in sorted(topic_folder.iterdir()):
                if folder.name.isascii() and folder.name.isdigit() and folder.is_dir():
                    queue = self.queue(topic_folder.name, int(folder.name))
                    self.measure(queue, folder)

    def queue(self, topic: str, queue_id: int) -> _Queue:
        """The queue, known or new."""
        key = (topic, queue_id)
        found = self.queues.get(key)
        if found is None:
            slot = self.arena.queues.allocate(topic, queue_id)
            found = self.queues[key] = _Queue(topic, queue_id, slot)
        return found

    def measure(self, queue: _Queue, folder: Path) -> None:
        """Find a queue's last sound entry: sound ones stand in front, zeros behind."""
        per_file = self.queue_files_size // ENTRY.itemsize
        starts = list_files(folder, file_size=self.queue_files_size)
        for start in reversed(starts):
            first = start // ENTRY.itemsize
            entries = self.queue_files.read(queue.topic, queue.queue_id, first, per_file)
            bad = np.flatnonzero(entries["size"] <= 0)
            count = int(bad[0]) if len(bad) else len(entries)
            if count:
                last = entries[count - 1]
                queue.max_offset = first + count
                queue.log_end = int(last["physical_offset"]) + int(last["size"])
                return

    @property
    def queue_files_size(self) -> int:
        """Size of a consumequeue file, bytes."""
        return self.settings.mapped_file_size_consume_queue

    # -- commitlog

    def first_to_walk(self, starts: list[int]) -> int:
        """Where the walk begins: everything before it is known to be whole and in its queue."""
        checkpoint = CheckpointFile(self.store_dir / "checkpoint").load()
        indexed = max((queue.log_end for queue in self.queues.values()), default=0)
        if self.clean:
            if starts[-1] <= checkpoint.confirm_offset == indexed:
                return indexed
            floor = [start for start in starts if start <= indexed]
            return floor[-1] if floor else starts[0]
        for start in reversed(starts):
            stamp = self.first_timestamp(start)
            if stamp and stamp <= checkpoint.recovery_timestamp:
                return start
        return starts[0]

    def first_timestamp(self, start: int) -> int:
        """Store timestamp of the first record of a file, 0 when it has no sound one."""
        count, _, _ = walk(self.files.read(start, 8 * MiB), 0, self.rows[:1], crc32)
        return int(self.rows[0, 5]) if count else 0

    def walk_log(self, first: int, starts: list[int]) -> int:
        """Walk from `first` to the first byte that is no record; enter what queues lack; the end.

        Bytes of a record that is cut off by the end of the log count as no record.
        """
        offset = first
        log_end = starts[-1] + self.file_size
        while offset < log_end:
            file_end = offset - offset % self.file_size + self.file_size
            chunk = self.files.read(offset, CHUNK_SIZE)
            offset, stop = self.walk_chunk(memoryview(chunk), offset, whole=len(chunk) < CHUNK_SIZE)
            self.progress(offset - first, log_end - first)
            if stop == STOP_BLANK:
                if file_end >= log_end:
                    return file_end
                offset = file_end
            elif stop == STOP_BAD:
                return offset
        return offset

    def walk_chunk(self, chunk: memoryview, offset: int, *, whole: bool) -> tuple[int, int]:
        """Walk one chunk that lies at `offset`; where the walk stands and why it stopped."""
        position = 0
        while True:
            count, position, stop = walk(chunk, position, self.rows, crc32)
            if count:
                self.enter(chunk, offset, self.rows[:count])
            if stop == STOP_FULL:
                continue
            if stop == STOP_END and (position == 0 or whole):
                stop = STOP_BAD  # The record does not end within its file, or not at all.
            return offset + position, stop

    def enter(self, chunk: memoryview, offset: int, rows: np.ndarray) -> None:
        """Enter the records' entries into their queues, at the records' queue offsets."""
        kinds = rows[:, 4] & TRANSACTION_MASK
        wanted = rows[(kinds == 0) | (kinds == TRANSACTION_COMMIT)]
        groups: dict[tuple[bytes, int], list[int]] = {}
        for number, (queue_id, at, size) in enumerate(wanted[:, 7:10].tolist()):
            groups.setdefault((bytes(chunk[at : at + size]), queue_id), []).append(number)
        for (topic, queue_id), numbers in groups.items():
            try:
                queue = self.queue(topic.decode(), queue_id)
                queue_folder(self.queue_root, queue.topic, queue_id)
            except (UnicodeDecodeError, StoreError) as error:
                get_logger().error("record.unreachable", topic=topic, cause=str(error))
                continue
            self.enter_queue(queue, wanted[numbers], offset)

    def enter_queue(self, queue: _Queue, rows: np.ndarray, offset: int) -> None:
        """Enter records of one queue, in the order of the log."""
        entries = np.zeros(len(rows), dtype=ENTRY)
        entries["physical_offset"] = rows[:, 0] + offset
        entries["size"] = rows[:, 1]
        entries["tags_code"] = rows[:, 6]
        queue_offsets = rows[:, 2]
        breaks = np.flatnonzero(np.diff(queue_offsets) != 1) + 1
        bounds = [0, *breaks.tolist(), len(rows)]
        for begin, end in zip(bounds, bounds[1:], strict=False):
            first = int(queue_offsets[begin])
            self.queue_files.write(
                queue.topic, queue.queue_id, first, memoryview(entries[begin:end].tobytes())
            )
            if queue.max_offset == 0:
                queue.min_offset = first
            queue.max_offset = max(queue.max_offset, first + end - begin)
            queue.log_end = int(entries["physical_offset"][end - 1] + entries["size"][end - 1])

    # -- the ends

    def cut_log(self, end: int, starts: list[int]) -> None:
        """Drop what lies after the log's end, after a copy of it was put aside."""
        for start in starts:
            path = self.folder / file_name(start)
            if start >= end and start > starts[0]:
                self.set_aside(path, start, 0)
                path.unlink()
            elif start <= end < start + self.file_size:
                if self.set_aside(path, start, end - start):
                    os.truncate(path, end - start)
                    os.truncate(path, self.file_size)

    def set_aside(self, path: Path, start: int, at: int) -> bool:
        """Copy what stands in a file after `at`, if anything does; whether it does."""
        target = self.store_dir / "set-aside" / f"commitlog-{start + at:020d}"
        found = False
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for begin, end in _data_ranges(fd, at, self.file_size):
                position = begin
                while position < end:
                    data = os.pread(fd, min(MiB, end - position), position)
                    if data.count(0) != len(data):
                        found = True
                        target.parent.mkdir(exist_ok=True)
                        with target.open("r+b" if target.exists() else "w+b") as file:
                            file.seek(position - at)
                            file.write(data)
                    position += len(data)
        finally:
            os.close(fd)
        if found:
            get_logger().warning(
                "commitlog.cut",
                physical_offset=start + at,
                set_aside=str(target),
                hint="bytes after the last whole record were put aside",
            )
        return found

    def cut_queues(self, end: int) -> None:
        """Drop entries of records that are not in the log any more."""
        for queue in self.queues.values():
            if queue.log_end <= end:
                continue
            while queue.max_offset > 0:
                count = min(queue.max_offset, 4096)
                first = queue.max_offset - count
                entries = self.queue_files.read(queue.topic, queue.queue_id, first, count)
                ends = entries["physical_offset"] + entries["size"]
                kept = np.flatnonzero(ends <= end)
                if len(kept):
                    queue.max_offset = first + int(kept[-1]) + 1
                    queue.log_end = int(ends[kept[-1]])
                    break
                queue.max_offset = first
            self.queue_files.truncate(queue.topic, queue.queue_id, queue.max_offset)

    def find_minimum(self, queue: _Queue, log_start: int) -> int:
        """Queue offset of the first entry whose record is kept."""
        starts = list_files(
            queue_folder(self.queue_root, queue.topic, queue.queue_id),
            file_size=self.queue_files_size,
        )
        for start in starts:
            first = start // ENTRY.itemsize
            count = min(self.queue_files_size // ENTRY.itemsize, queue.max_offset - first)
            if count <= 0:
                break
            entries = self.queue_files.read(queue.topic, queue.queue_id, first, count)
            kept = np.flatnonzero(
                (entries["physical_offset"] >= log_start)
                & (entries["size"] > 0)
                & (entries["size"] != 0x7FFFFFFF)
            )
            if len(kept):
                return first + int(kept[0])
        return queue.max_offset

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
        checkpoint = CheckpointFile(self.store_dir / "checkpoint").load()
        arena.writer(Word.FLUSHED_TIMESTAMP, role="boot").publish(checkpoint.physical_timestamp)
        arena.writer(Word.FILED_TIMESTAMP, role="boot").publish(checkpoint.queues_timestamp)
        words = QueueWords(arena.queues)
        for queue in self.queues.values():
            words.start_at(
                queue.slot,
                min_offset=self.find_minimum(queue, log_start),
                max_offset=queue.max_offset,
            )
        arena.writer(Word.STORE_ID, role="boot").publish(self.folder.stat().st_ino)
        arena.writer(Word.STORE_STATE, role="boot").publish(1)


def _data_ranges(fd: int, at: int, size: int) -> list[tuple[int, int]]:
    """Ranges of a sparse file after `at` that hold data, bytes."""
    ranges = []
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole follows.
            break
        at = os.lseek(fd, begin, os.SEEK_HOLE)
        ranges.append((begin, min(at, size)))
    return ranges


def open_store(
    settings: Settings,
    arena: Arena,
    *,
    store_dir: Path,
    clean: bool,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> int:
    """Open the store and fill the shared tables; the log's end, a physical offset.

    `clean` says that the last broker ended cleanly (no abort file). `progress` is told (bytes
    walked, bytes at most to walk).

    Raises:
        StoreError: the store is not one that this broker can use, with what to do about it.
    """
    opening = _Opening(
        settings=settings, arena=arena, store_dir=store_dir, clean=clean, progress=progress
    )
    folder = opening.folder
    folder.mkdir(parents=True, exist_ok=True)
    if arena.pool_size < 4 * (settings.max_message_size + 64 * KiB):
        raise StoreError(
            "hot pool too small for the largest message",
            pool_size=arena.pool_size,
            needed=4 * (settings.max_message_size + 64 * KiB),
            hint="raise hotPoolSize",
        )
    starts = list_files(folder, file_size=opening.file_size)
    opening.find_queues()
    if starts:
        first = opening.first_to_walk(starts)
        end = opening.walk_log(first, starts)
        opening.cut_log(end, starts)
        log_start = starts[0]
    else:
        end = log_start = 0
    opening.cut_queues(end)
    opening.queue_files.sync()
    opening.publish(end, log_start)
    opening.queue_files.close()
    opening.files.close()
    get_logger().info(
        "store.opened", log_start=log_start, log_end=end, queues=len(opening.queues), clean=clean
    )
    return end
