"""The retention chore of housekeeping: deletes what may go, file by file, and says why.

    1 look       files, disk, words -> store.retention.decide() -> the log's new start
    2 raise      each queue's min offset, then LOG_START: nobody begins to read there any more
    3 delete     commitlog files before LOG_START, then consumequeue files before the min offsets
    4 release    deleted files that somebody has open are held until he has let go (store.removal)

A death between any two steps leaves files before LOG_START; the next housekeeping, or the next
start of the broker, finds them and goes on. Of a queue's files the one with its newest entry always
stays, else its offsets would begin again at 0.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import psutil

from shmq.errors import StoreError
from shmq.layout import cqentry
from shmq.layout.control import Word
from shmq.log import get_logger
from shmq.reading import QueueReader, StaleFiles
from shmq.store.commitlog import file_name
from shmq.store.consumequeue import QueueFiles, queue_folder
from shmq.store.disk import DISK
from shmq.store.indexfiles import IndexSizes, delete_before
from shmq.store.removal import Removal, find_log_files, find_queue_files
from shmq.store.retention import FORCED, Cause, Fate, Look, Rules, decide, first_kept, rules_of
from shmq.workers.base import monotonic_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from shmq.config import Settings
    from shmq.shm.arena import Arena
    from shmq.store.disk import Disk
    from shmq.workers.context import Context

    DiskLook = Callable[[Sequence[Path]], tuple[float, int]]
    """(used part of the fullest disk, %; its bytes that this user may use, used ones too)."""

TICK_MS: Final = 100
FILES_AT_ONCE_MAX: Final = 64
"""Deletions between two beats where no pause between them is asked for."""
NEEDED_BY: Final = {
    Word.FLUSHED_OFFSET: "flush",
    Word.REPUT_OFFSET: "dispatch",
    Word.FILED_OFFSET: "dispatch",
}


def disk_use(folders: Sequence[Path]) -> tuple[float, int]:
    """How full the fullest of the folders' disks is, and how much this user may use of it."""
    uses = [psutil.disk_usage(str(folder)) for folder in folders if folder.is_dir()]
    fullest = max(uses, key=lambda use: use.percent)
    return fullest.percent, fullest.used + fullest.free


def needed_from(arena: Arena) -> tuple[int, str]:
    """Physical offset from which on the log's files are needed, and by which role."""
    offsets = {word: arena.reader(word).load() for word in NEEDED_BY}
    word = min(offsets, key=offsets.__getitem__)
    return offsets[word], NEEDED_BY[word]


def look_at(
    settings: Settings,
    *,
    folders: tuple[Path, Path],
    needed: tuple[int, str],
    log_start: int,
    now_ms: int,
    disk_look: DiskLook = disk_use,
    coming_size: int = 0,
    asked: bool = False,
) -> Look:
    """What decide() must know; `folders` are those of the commitlog and of the consumequeues."""
    commitlog_dir, queue_root = folders
    files = find_log_files(commitlog_dir, file_size=settings.mapped_file_size_commit_log)
    store_size = sum(file.disk_size for file in files)
    if settings.store_quota_bytes:
        store_size += sum(size for _, _, _, size in find_queue_files(queue_root))
    used_percent, usable_size = disk_look(folders)
    return Look(
        now_ms=now_ms,
        files=files,
        log_start=log_start,
        needed_from=needed[0],
        needed_by=needed[1],
        used_percent=used_percent,
        usable_size=usable_size,
        store_size=store_size,
        coming_size=coming_size,
        asked=asked,
    )


class Retention:
    """Deletes old files of the store. See the module."""

    interval_ms = TICK_MS

    def __init__(
        self,
        *,
        settings: Settings,
        arena: Arena,
        commitlog_dir: Path,
        queue_root: Path,
        followers: Sequence[Callable[[int], int]] = (),
        disk_look: DiskLook = disk_use,
        disk: Disk = DISK,
        clock_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        """`followers` are called with a new log start; each gives how much it has deleted."""
        self._settings = settings
        self._arena = arena
        self._folders = (commitlog_dir, queue_root)
        self._followers = followers
        self._disk_look = disk_look
        self._clock_ms = clock_ms
        self._log_start = arena.writer(Word.LOG_START, role="housekeeping")
        self._asked = [arena.reader(word) for word in (Word.DELETE_ASKED, Word.CLEAN_ASKED)]
        self._answered = [0, 0]
        files = QueueFiles(queue_root, file_size=settings.mapped_file_size_consume_queue)
        self._queue_files = files
        self._reader = QueueReader(arena=arena, files=files)
        self._stale_files = StaleFiles(arena=arena, queue_files=files)
        self._removal = Removal(force_ms=settings.destroy_maped_file_interval_forcibly, disk=disk)
        self._logs: list[Path] = []
        """Commitlog files to be deleted, the oldest first."""
        self._queues: Iterator[Path] = iter(())
        """Consumequeue files to be deleted."""
        self._queues_cleaned_to = -1
        self._more = False
        """Whether the last round was cut short by deleteFileBatchMax."""
        self._refused: Path | None = None
        self._due_ms = self._next_ms = clock_ms()
        self._log = get_logger()

    def do(self, now_ms: int) -> int:
        """A bounded piece of what is to be done; how many files went."""
        tick_ms = self._clock_ms()
        for path in self._removal.release(tick_ms):
            self._log.warning(
                "file.emptied",
                file=str(path),
                hint="it was deleted, but somebody has it open still; he reads no more of it",
            )
        asked = [word.load() for word in self._asked]
        if tick_ms < self._next_ms:
            return 0
        if self._logs:
            return self._delete_logs(tick_ms)
        gone = self._delete_queue_files(tick_ms)
        if gone or tick_ms < self._next_ms:
            return gone
        if self._more or tick_ms >= self._due_ms or asked != self._answered:
            self._due_ms = tick_ms + self._settings.clean_resource_interval
            self._begin_round(now_ms, asked)
        return 0

    def reload(self, settings: Settings) -> None:
        """Take the settings anew; the next round is at once."""
        self._settings = settings
        self._removal.force_ms = settings.destroy_maped_file_interval_forcibly
        self._due_ms = self._next_ms = self._clock_ms()

    def close(self) -> None:
        """Close what is open."""
        self._removal.close()
        self._queue_files.close()

    # A round

    def _begin_round(self, now_ms: int, asked: list[int]) -> None:
        settings = self._settings
        delete_asked = asked[0] != self._answered[0]
        clean_asked = asked[1] != self._answered[1]
        self._answered = asked
        rules = rules_of(settings)
        look = look_at(
            settings,
            folders=self._folders,
            needed=needed_from(self._arena),
            log_start=self._log_start.load(),
            now_ms=now_ms,
            disk_look=self._disk_look,
            coming_size=self._removal.held_size,
            asked=delete_asked,
        )
        fates = decide(rules, look)
        going = [fate for fate in fates if fate.goes]
        self._more = any(fate.cause is Cause.BATCH for fate in fates)
        if self._more and delete_asked:
            self._answered = [asked[0] - 1, asked[1]]  # The next round is asked for as well.
        self._logs = [self._folders[0] / file_name(fate.file.start) for fate in going]
        self._raise_start(max([look.log_start, *(fate.file.end for fate in going)]), going, rules)
        if clean_asked or self._queues_cleaned_to != self._log_start.load():
            self._queues_cleaned_to = self._log_start.load()
            self._queues = self._stale_queue_files()

    def _raise_start(self, start: int, going: list[Fate], rules: Rules) -> None:
        """Let nobody begin to read before `start` any more."""
        if start == self._log_start.load():
            return
        self._raise_minima(start)
        # SYNC POINT: after the min offsets; who sees it closes the files before it.
        self._log_start.publish(start)
        forced = sorted({str(fate.cause) for fate in going if fate.cause in FORCED})
        facts = {
            "log_start": start,
            "files": len(going),
            "size": sum(fate.file.disk_size for fate in going),
            "causes": sorted({str(fate.cause) for fate in going}),
        }
        if forced:
            self._log.warning(
                "retention.deleted_early",
                **facts,
                kept_hours=rules.reserved_ms // 3_600_000,
                hint="messages went that were not old; see `shmq retention explain`",
            )
        else:
            self._log.info("retention.deleted", **facts)
        self._stale_files.close()
        for follow in self._followers:
            follow(start)

    def _raise_minima(self, log_start: int) -> None:
        """Publish each queue's first entry whose record is kept."""
        queues = self._arena.queues
        for slot in range(len(queues)):
            low, high = queues.min_offset(slot), queues.max_offset(slot)
            if low >= high:
                continue
            try:
                found = first_kept(
                    lambda first, count, slot=slot: self._reader.entries(slot, first, count),  # type: ignore[misc]
                    low=low,
                    high=high,
                    log_start=log_start,
                )
            except (StoreError, OSError) as error:
                topic, queue_id = queues.name(slot)
                self._log.error(
                    "min_offset.unknown", topic=topic, queue_id=queue_id, cause=str(error)
                )
                continue
            if found > low:
                queues.min_offsets[slot] = found

    # Deleting

    def _delete_logs(self, tick_ms: int) -> int:
        pause_ms = self._settings.delete_commit_log_files_interval
        gone = 0
        while self._logs and gone < FILES_AT_ONCE_MAX:
            if not self._remove(self._logs[0], tick_ms):
                return gone
            del self._logs[0]
            gone += 1
            if pause_ms:
                self._next_ms = tick_ms + pause_ms
                break
        return gone

    def _delete_queue_files(self, tick_ms: int) -> int:
        pause_ms = self._settings.delete_consume_queue_files_interval
        gone = 0
        for path in self._queues:
            if not self._remove(path, tick_ms):
                self._queues_cleaned_to = -1  # Looked for again, from the first.
                self._queues = iter(())
                return gone
            gone += 1
            if pause_ms:
                self._next_ms = tick_ms + pause_ms
                break
            if gone >= FILES_AT_ONCE_MAX:
                break
        return gone

    def _remove(self, path: Path, tick_ms: int) -> bool:
        """Delete a file; False when it must be tried again later, and those after it must wait."""
        try:
            self._removal.remove(path, now_ms=tick_ms)
        except OSError as error:
            self._next_ms = tick_ms + self._settings.redelete_hanged_file_interval
            if self._refused != path:
                self._refused = path
                self._log.error(
                    "file.not_deleted",
                    file=str(path),
                    cause=error.strerror,
                    hint="it is tried again; newer files stay until it is gone",
                )
            return False
        self._refused = None
        return True

    def _stale_queue_files(self) -> Iterator[Path]:
        """Consumequeue files that end before their queue's first kept and its newest entry."""
        queues = self._arena.queues
        root = self._folders[1]
        size = cqentry.file_size(self._settings.mapped_file_size_consume_queue)
        for topic, queue_id, starts, _size in find_queue_files(root):
            slot = queues.slot(topic, queue_id)
            if slot is None:
                continue
            first = min(queues.min_offset(slot), queues.max_offset(slot) - 1)
            folder = queue_folder(root, topic, queue_id)
            for start in starts:
                if start + size > first * cqentry.ENTRY_SIZE:
                    break
                yield folder / file_name(start)


def make(context: Context) -> Retention:
    """The retention of this broker."""
    settings = context.settings
    index_sizes = IndexSizes(settings.max_hash_slot_num, settings.max_index_num)
    return Retention(
        settings=settings,
        arena=context.arena,
        commitlog_dir=context.commitlog_dir,
        queue_root=context.store_dir / "consumequeue",
        followers=[partial(delete_before, context.store_dir / "index", index_sizes)],
        disk=context.disk,
    )
