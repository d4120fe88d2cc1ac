"""The index role: the keys of what is visible go into index files, for queries by key.

Follows REPUT at its own pace (keyscan.py). It holds up nobody, nobody rings it, and the scheduler
gives it only what nobody else wants of the cores (giveway.py), until it is long behind. A record
without keys costs a look at its head and its properties.

Publishes INDEX_OFFSET when entries are in the mapped files, where they outlive this process. What
a power cut leaves is told by the progress file, which is written after a sync; the next start goes
on from there (store/indexopening.py). A successor goes on at INDEX_OFFSET: what its predecessor
entered after it is cut off, so that no entry is there twice.

When the disk refuses entries they are tried again, and meanwhile queries do not find them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shmq.layout.control import Word
from shmq.log import get_logger
from shmq.store.commitlog import LogFiles
from shmq.store.indexfiles import IndexSizes, IndexWriter, list_names
from shmq.store.indexopening import PROGRESS_NAME, Progress, ProgressFile, open_index
from shmq.workers.base import epoch_ms, monotonic_ms
from shmq.workers.giveway import GiveWay
from shmq.workers.keyscan import KeyScan

if TYPE_CHECKING:
    from pathlib import Path

    from shmq.shm.arena import Arena
    from shmq.workers.context import Context

PACE_MS: Final = 20
"""While messages come, they are collected for so long."""
ACTIVE_MS: Final = 1000
SYNC_INTERVAL_MS: Final = 10_000
KEYLESS_SYNC_INTERVAL_MS: Final = 60_000
RETRY_MS: Final = 1000
DRAIN_SHARE: Final = 0.5
"""Part of the time for draining after which the rest is left to the next start."""


class IndexRole:
    """Enters keys of records into index files."""

    def __init__(
        self,
        *,
        arena: Arena,
        folder: Path,
        sizes: IndexSizes,
        scan: KeyScan,
        progress: ProgressFile,
        give_way: GiveWay,
        clean: bool,
        safe: bool,
        drain_max_ms: int,
    ) -> None:
        """`clean`: the last broker ended cleanly; `safe`: else its progress is not believed."""
        self._arena = arena
        self._folder = folder
        self._sizes = sizes
        self._scan = scan
        self._progress = progress
        self._give_way = give_way
        self._clean = clean
        self._safe = safe
        self._drain_max_ms = drain_max_ms
        self._bell = arena.bells["index"]
        self._reput_offset = arena.reader(Word.REPUT_OFFSET)
        self._index_offset = arena.writer(Word.INDEX_OFFSET, role="index")
        self._index_timestamp = arena.writer(Word.INDEX_TIMESTAMP, role="index")
        self._writer: IndexWriter | None = None
        """None until the files are in order."""
        self._next_row = 0
        self._saved_offset = -1
        self._last_sync_ms = 0
        self._last_work_ms = 0
        self._refused_ms = 0
        self._drain_since_ms = 0
        self._logger = get_logger()

    def step(self, now_ms: int) -> int:
        """Enter the keys of a piece of the log, now and then sync; 1 when another piece is left.

        What has come meanwhile is left to collect.
        """
        if 0 <= now_ms - self._refused_ms < RETRY_MS:
            return 0
        limit, before = self._reput_offset.load(), self._index_offset.load()
        try:
            if self._writer is None:
                self._writer = self._open()
                return 1
            self._follow(self._writer, limit)
            self._sync_when_due(self._writer, now_ms)
        except OSError as error:
            self._note_refusal(error, now_ms)
            return 0
        if self._refused_ms:
            self._refused_ms = 0
            self._logger.info("index.written_again")
        reached = self._index_offset.load()
        self._give_way.note(monotonic_ms(), behind=reached < limit)
        if reached == before:
            return 0
        self._last_work_ms = now_ms
        return int(reached < limit)

    def wait(self, timeout_ms: int) -> None:
        """Sleep; not long when there was something to do a moment ago."""
        if abs(epoch_ms() - self._last_work_ms) < ACTIVE_MS:
            timeout_ms = min(timeout_ms, PACE_MS)
        self._bell.arm()
        self._bell.wait(timeout_ms)
        self._bell.disarm()

    def wake(self) -> None:
        """End the present wait()."""
        self._bell.force()

    def drain(self, now_ms: int) -> bool:
        """Enter what is left and sync it; what takes too long is left to the next start."""
        self._drain_since_ms = self._drain_since_ms or monotonic_ms()
        self._give_way.end()
        spent_ms = monotonic_ms() - self._drain_since_ms
        in_time = spent_ms < self._drain_max_ms * DRAIN_SHARE
        if (self._writer is None or self._is_behind()) and in_time and not self._refused_ms:
            self.step(now_ms)
            return False
        if self._is_behind():
            self._logger.warning(
                "index.left_behind",
                index_offset=self._index_offset.load(),
                reput_offset=self._reput_offset.load(),
                hint="the next start goes on from there",
            )
        if self._writer is not None:
            try:
                self._sync(self._writer)
            except OSError as error:
                self._note_refusal(error, now_ms)
        return True

    def close(self) -> None:
        """Close the files."""
        if self._writer is not None:
            self._writer.close()
        self._scan.close()

    def _is_behind(self) -> bool:
        return self._index_offset.load() < self._reput_offset.load()

    def _open(self) -> IndexWriter:
        """Bring the files into order, and publish where the index goes on."""
        starts = self._arena.writer(Word.INDEX_STARTS, role="index")
        known = self._progress.load()
        if starts.load():
            names = list_names(self._folder, self._sizes)
            known = Progress(self._index_offset.load(), names[-1] if names else "")
        elif self._safe and not self._clean:
            known = None
        start = open_index(
            self._folder,
            self._sizes,
            clean=self._clean and not starts.load(),
            progress=known,
            vouched_timestamp=self._index_timestamp.load(),
            log_start=self._arena.reader(Word.LOG_START).load(),
            log_end=self._reput_offset.load(),
        )
        writer = IndexWriter(self._folder, self._sizes, clock_ms=epoch_ms, on_full=self._vouch)
        self._scan.position = start
        self._index_offset.publish(max(start, self._index_offset.load()))
        starts.publish(starts.load() + 1)
        return writer

    def _follow(self, writer: IndexWriter, limit: int) -> None:
        """Look at a piece of the log before `limit`, enter its keys, publish."""
        scan = self._scan
        if self._next_row == scan.count:
            self._next_row = 0
            scan.look(limit)
        while self._next_row < scan.count:
            self._next_row = writer.put(scan.rows, self._next_row, scan.count)
        # SYNC POINT: entries first, then the word that promises them.
        self._index_offset.publish(max(scan.position, self._index_offset.load()))

    def _vouch(self, timestamp: int) -> None:
        """A file that ends at this time is full and on the disk."""
        self._index_timestamp.publish(max(timestamp, self._index_timestamp.load()))

    def _sync_when_due(self, writer: IndexWriter, now_ms: int) -> None:
        interval_ms = SYNC_INTERVAL_MS if writer.is_dirty else KEYLESS_SYNC_INTERVAL_MS
        if not self._last_sync_ms:
            self._last_sync_ms = now_ms
        elif abs(now_ms - self._last_sync_ms) >= interval_ms:
            self._last_sync_ms = now_ms
            self._sync(writer)

    def _sync(self, writer: IndexWriter) -> None:
        """Bring entries to the disk, then the word of how far they go."""
        if writer.sync_failed:
            return  # Nothing is promised any more; the next start enters again what was not.
        offset = self._index_offset.load()
        writer.sync()
        if offset != self._saved_offset:
            self._progress.save(Progress(offset, writer.newest))
            self._saved_offset = offset

    def _note_refusal(self, error: OSError, now_ms: int) -> None:
        if not self._refused_ms:
            self._logger.error(
                "index.not_written",
                cause=error.strerror,
                errno=error.errno,
                hint="queries by key lack the newest messages; repair the disk or make room",
            )
        self._refused_ms = now_ms


def make(context: Context, index: int = 0, *, give_way: GiveWay | None = None) -> IndexRole:
    """The index role of this broker; there is one.

    `give_way`: None to leave the cores to others, as its process does.
    """
    assert index == 0, "one index"
    settings, arena = context.settings, context.arena
    file_size = settings.mapped_file_size_commit_log
    return IndexRole(
        arena=arena,
        folder=context.store_dir / "index",
        sizes=IndexSizes(settings.max_hash_slot_num, settings.max_index_num),
        scan=KeyScan(
            arena=arena,
            files=LogFiles(context.commitlog_dir, file_size=file_size),
            file_size=file_size,
        ),
        progress=ProgressFile(context.store_dir / "config" / PROGRESS_NAME),
        give_way=give_way or GiveWay(may_idle=settings.flush_disk_type != "SYNC_FLUSH"),
        clean=context.last_exit_clean,
        safe=settings.message_index_safe,
        drain_max_ms=settings.shutdown_timeout,
    )
