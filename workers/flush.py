"""The flush role: brings appended bytes into the commitlog files and onto the disk.

Publishes WRITTEN_OFFSET (in the files, safe from any death of processes) and FLUSHED_OFFSET (on the
disk, safe from a power cut). Writes the checkpoint. A failed write or sync is final: FLUSH_ERROR
tells the writer to take no more, and nothing is tried again.

But for a write that finds no room: the pages hold its bytes still and nothing was promised, so the
same write is tried again when the disk has room. Until then NO_ROOM_SINCE keeps sends out.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.layout.control import DESCRIPTOR, DESCRIPTORS_MAX, Word
from shmq.log import get_logger
from shmq.store.checkpoint import CheckpointFile
from shmq.store.commitlog import DIRECT_ALIGNMENT, DIRECT_SIZE_MIN, LogWriter
from shmq.store.reserve import NO_ROOM, NoRoom, has_room
from shmq.units import KiB, MiB
from shmq.workers.base import WorkLeft

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.config import Settings
    from shmq.shm.arena import Arena
    from shmq.workers.context import Context

WRITE_SIZE_MAX: Final = 4 * MiB
WRITE_INTERVAL_MS: Final = 20
ZERO_AHEAD_MIN: Final = 128 * KiB
"""With SYNC_FLUSH so much of the file at the least is zeroed before records come to it, ..."""
ZERO_AHEAD_MAX: Final = 16 * MiB
"""... and so much while none come."""
OS_PAGE_SIZE: Final = 4096
CHECKPOINT_INTERVAL_MS: Final = 1000
CHECKPOINT_SIZE: Final = 256 * MiB
"""The checkpoint is saved earlier when it can vouch for so much more."""
ROOM_INTERVAL_MS: Final = 100
"""A full disk is looked at so often."""


class FlushRole:
    """Writes hot pages to the files and syncs them by policy."""

    def __init__(
        self,
        *,
        arena: Arena,
        log: LogWriter,
        checkpoint: CheckpointFile,
        file_size: int,
        sync_each: bool,
        interval_ms: int,
        least_pages: int,
        thorough_interval_ms: int,
        risk_bytes_max: int,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """`risk_bytes_max`: before so much is written and not synced, it is.

        `has_room` says whether a write that found no room may be tried again.
        """
        self._arena = arena
        self._log = log
        self._checkpoint = checkpoint
        self._file_size = file_size
        self._sync_each = sync_each
        self._interval_ms = interval_ms
        self._least_pages = least_pages
        self._thorough_interval_ms = thorough_interval_ms
        self._risk_bytes_max = risk_bytes_max
        self._bell = arena.bells["flush"]
        self._writer_bell = arena.bells["writer"]
        self._dispatch_bell = arena.bells["dispatch"]
        self._serve_bells = [arena.bells[f"serve{i}"] for i in range(arena.serve_count)]
        self._append_offset = arena.reader(Word.APPEND_OFFSET)
        self._blocked_since = arena.reader(Word.BLOCKED_SINCE)
        self._written_offset = arena.writer(Word.WRITTEN_OFFSET, role="flush")
        self._flushed_offset = arena.writer(Word.FLUSHED_OFFSET, role="flush")
        self._flush_error = arena.writer(Word.FLUSH_ERROR, role="flush")
        self._no_room_since = arena.writer(Word.NO_ROOM_SINCE, role="flush")
        self._has_room = has_room
        self._sync_count = arena.writer(Word.SYNC_COUNT, role="flush")
        self._flushed_timestamp = arena.writer(Word.FLUSHED_TIMESTAMP, role="flush")
        self._filed_timestamp = arena.reader(Word.FILED_TIMESTAMP)
        self._filed_offset = arena.reader(Word.FILED_OFFSET)
        self._index_timestamp = arena.reader(Word.INDEX_TIMESTAMP)
        self._descriptor_count = arena.reader(Word.DESCRIPTOR_COUNT)
        self._descriptors = np.frombuffer(arena.descriptors, dtype=DESCRIPTOR)
        self._written_timestamp = 0
        self._last_sync_ms = 0
        self._last_write_size = 0
        self._zeroed = 0
        """Up to here the blocks of the open file are there, a physical offset."""
        self._last_checkpoint_ms = 0
        self._kept = checkpoint.load()
        self._vouched = self._vouched_saved = 0
        self._vouched_next = self._filed_offset.load()
        # A dead predecessor's last writes are in the files, but perhaps not on the disk.
        log.adopt(self._flushed_offset.load(), self._written_offset.load())
        self._logger = get_logger()

    def step(self, now_ms: int) -> int:
        """Write what was appended, then sync if it is time."""
        if self._flush_error.load():
            return 0
        try:
            done = self._write_if_room(now_ms)
            done += self._sync(now_ms, force=False)
            if self._sync_each and not self._no_room_since.load():
                self._zero_ahead(ZERO_AHEAD_MIN if done else ZERO_AHEAD_MAX)
            self._save_checkpoint(now_ms)
        except OSError as error:
            self._fail(error)
            return 0
        return done if self._sync_each else 0

    def wait(self, timeout_ms: int) -> None:
        """Sleep: until rung when nothing is left to write, else for the write interval.

        Not at all when a whole piece is left already, or the writer waits for pages.
        """
        if self._no_room_since.load():
            self._bell.wait(ROOM_INTERVAL_MS)
            return
        written = self._written_offset.load()
        behind = self._append_offset.load() - written
        if behind and not self._sync_each:
            if behind < WRITE_SIZE_MAX and not self._blocked_since.load():
                self._bell.wait(WRITE_INTERVAL_MS)
            return
        self._bell.arm()
        if self._append_offset.load() == written:
            self._bell.wait(timeout_ms)
        self._bell.disarm()
        if not self._sync_each and not self._blocked_since.load():
            # Collect what comes right after the first message into one write.
            self._bell.wait(WRITE_INTERVAL_MS)

    def wake(self) -> None:
        """End the present wait()."""
        self._bell.force()

    def drain(self, now_ms: int) -> bool:
        """Write and sync all that was appended, and save the checkpoint.

        Raises:
            WorkLeft: the disk has failed or is full: the hot pages are kept for the next start.
        """
        if not self._flush_error.load():
            try:
                self._write()
                self._sync(now_ms, force=True)
                self._save_checkpoint(now_ms, force=True)
            except NoRoom as error:
                raise WorkLeft(
                    "messages are not on the disk, which has no room",
                    errno=error.errno,
                    written_offset=self._written_offset.load(),
                    append_offset=self._append_offset.load(),
                ) from error
            except OSError as error:
                self._fail(error)
        if self._flush_error.load():
            raise WorkLeft(
                "messages are not on the disk, which has failed",
                errno=self._flush_error.load(),
                flushed_offset=self._flushed_offset.load(),
                append_offset=self._append_offset.load(),
            )
        return self._append_offset.load() == self._flushed_offset.load()

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change."""
        self._interval_ms = settings.flush_interval_commit_log
        self._least_pages = settings.flush_commit_log_least_pages
        self._thorough_interval_ms = _thorough_interval_of(settings)

    def close(self) -> None:
        """Close the files."""
        self._log.close()
        self._checkpoint.close()

    def _write_if_room(self, now_ms: int) -> int:
        """Write a piece, unless there is no room; then only look whether there is again."""
        waits = self._no_room_since.load() != 0
        if waits and not self._has_room():
            return 0
        try:
            done = self._write()
        except NoRoom as error:
            if not waits:
                self._no_room_since.publish(max(now_ms, 1))
                self._logger.error(  # noqa: TRY400  no fault of ours: no traceback
                    "commitlog.no_room",
                    cause=error.strerror,
                    errno=error.errno,
                    hint="sends are refused until there is room; consumers go on",
                )
            return 0
        if waits:
            self._no_room_since.publish(0)
            self._logger.info("commitlog.room_again")
        return done

    def _write(self) -> int:
        """Bring [WRITTEN, APPEND) into the files, a bounded piece; 1 if there was any."""
        written = self._written_offset.load()
        count = self._descriptor_count.load()  # Before APPEND_OFFSET: those records are in it.
        appended = self._append_offset.load()
        end = min(appended, written + WRITE_SIZE_MAX)
        if end == written:
            return 0
        if end - written >= DIRECT_SIZE_MIN:
            end -= end % DIRECT_ALIGNMENT  # The next piece begins with a whole block.
        pool, pool_size = self._arena.pool, self._arena.pool_size
        self._last_write_size = end - written
        while written < end:
            file_end = written - written % self._file_size + self._file_size
            stop = min(end, file_end)
            at = written % pool_size
            first = min(stop - written, pool_size - at)
            parts = [pool[at : at + first]]
            if first < stop - written:
                parts.append(pool[0 : stop - written - first])
            written = self._log.write(written, parts)
        self._written_offset.publish(written)
        if written == appended and count:
            last = self._descriptors[(count - 1) % DESCRIPTORS_MAX]
            self._written_timestamp = max(self._written_timestamp, int(last["store_timestamp"]))
        if self._blocked_since.load():
            self._writer_bell.force()
        return 1

    def _sync(self, now_ms: int, *, force: bool) -> int:
        written = self._written_offset.load()
        behind = written - self._flushed_offset.load()
        if behind == 0:
            self._last_sync_ms = now_ms
            return 0
        if not self._sync_each and not force:
            waited_ms = abs(now_ms - self._last_sync_ms)  # The clock may be set back.
            pages = behind // OS_PAGE_SIZE
            due = waited_ms >= self._interval_ms and pages >= self._least_pages
            due = due or behind >= self._risk_bytes_max // 2
            if not due and waited_ms < self._thorough_interval_ms:
                return 0
        self._log.sync()
        self._flushed_offset.publish(written)  # After sync, never before: this is the promise.
        self._sync_count.publish(self._sync_count.load() + 1)
        self._last_sync_ms = now_ms
        self._flushed_timestamp.publish(
            max(self._written_timestamp, self._flushed_timestamp.load())
        )
        if self._sync_each:
            self._dispatch_bell.ring()
            for bell in self._serve_bells:
                bell.ring()
        if self._blocked_since.load():
            self._writer_bell.force()
        return 1

    def _zero_ahead(self, least: int) -> None:
        """Zero a piece of the open file when less than `least` bytes of it are left.

        Not before this process has written to it a little, and not where large pieces come.
        """
        written = self._written_offset.load()
        file_end = written - written % self._file_size + self._file_size
        if not written % self._file_size or self._last_write_size >= DIRECT_SIZE_MIN:
            return
        zeroed = max(self._zeroed, written)
        if not self._last_write_size or zeroed - written >= least or zeroed >= file_end:
            return
        try:
            self._zeroed = self._log.zero(zeroed)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._zeroed = file_end  # What room there is, is for records.

    def _save_checkpoint(self, now_ms: int, *, force: bool = False) -> None:
        flushed = self._flushed_offset.load()
        if self._vouched_next <= flushed:  # Entries may be on the disk before their records are.
            self._vouched, self._vouched_next = self._vouched_next, self._filed_offset.load()
        if self._vouched_next <= flushed:
            self._vouched = self._vouched_next
        due = abs(now_ms - self._last_checkpoint_ms) >= CHECKPOINT_INTERVAL_MS
        if not (due or force or self._vouched - self._vouched_saved >= CHECKPOINT_SIZE):
            return
        self._last_checkpoint_ms = now_ms
        try:
            self._checkpoint.save(
                self._kept._replace(
                    physical_timestamp=self._flushed_timestamp.load(),
                    queues_timestamp=self._filed_timestamp.load(),
                    index_timestamp=self._index_timestamp.load(),
                    confirm_offset=flushed,
                    vouched_offset=self._vouched,
                )
            )
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            return  # The one before vouches for less, which is as true.
        self._vouched_saved = self._vouched

    def _fail(self, error: OSError) -> None:
        self._flush_error.publish(error.errno or errno.EIO)
        self._logger.error(
            "commitlog.failed",
            cause=error.strerror,
            errno=error.errno,
            hint="the broker takes no more messages; repair the disk, then restart",
        )


def make(context: Context, index: int = 0) -> FlushRole:
    """The flush role of this broker; there is one."""
    assert index == 0, "one flush"
    settings = context.settings
    folder = context.commitlog_dir
    return FlushRole(
        arena=context.arena,
        log=LogWriter(
            folder,
            file_size=settings.mapped_file_size_commit_log,
            direct=settings.direct_write_enable,
            disk=context.disk,
        ),
        checkpoint=CheckpointFile(context.store_dir / "checkpoint", disk=context.disk),
        file_size=settings.mapped_file_size_commit_log,
        sync_each=settings.flush_disk_type == "SYNC_FLUSH",
        interval_ms=settings.flush_interval_commit_log,
        least_pages=settings.flush_commit_log_least_pages,
        thorough_interval_ms=_thorough_interval_of(settings),
        risk_bytes_max=settings.async_flush_bytes_max or context.arena.pool_size,
        has_room=lambda: has_room(folder, settings.metadata_reserve_size),
    )


def _thorough_interval_of(settings: Settings) -> int:
    """The longest time between syncs, ms: half of what would make sends wait, at most."""
    return min(settings.flush_commit_log_thorough_interval, settings.async_flush_millis_max // 2)
