"""The dispatch role (reput): what was appended becomes visible in the consumequeues.

Reads the writer's descriptors, enters them into the hot rings, publishes each queue's max offset
and REPUT_OFFSET, wakes the serve processes that hold pulls, and brings entries into the files in
large pieces, always before their place in the hot ring is used again.

When the disk refuses them, entries stay in the hot rings and are tried again: the commitlog has
everything that they say. A queue whose hot ring is full then holds up all, until there is room.
After a failed sync nothing more is promised, and the next start walks the log from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.kernels.dispatch import Dispatcher
from shmq.layout.control import DESCRIPTOR, DESCRIPTORS_MAX, Word
from shmq.layout.cqentry import ENTRY
from shmq.log import get_logger
from shmq.reading import StaleFiles
from shmq.store.consumequeue import QueueFiles
from shmq.store.reserve import has_room
from shmq.units import MiB
from shmq.workers.base import WorkLeft, monotonic_ms, spin

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.shm.arena import Arena
    from shmq.workers.context import Context

BATCH_MAX: Final = 4096
PACE_MS: Final = 5
AWAITED_MS: Final = 20
"""So long nothing is collected after somebody has waited for a message."""
COMING_MICROS: Final = 50
"""So long dispatch looks for what it was rung for, before it sleeps again."""
FILE_INTERVAL_MS: Final = 1000
SYNC_INTERVAL_MS: Final = 10_000
SYNC_SIZE: Final = 256 * MiB
"""Entries of so much of the log are synced earlier: it is what a start after a crash must walk."""
SYNC_PAUSE_MS: Final = 500
"""At the least between two syncs, whatever came meanwhile."""
HELD_UP_WAIT_MS: Final = 100


class DispatchRole:
    """Builds consumequeue entries and publishes them."""

    polls_in_wait = True

    def __init__(
        self,
        *,
        arena: Arena,
        files: QueueFiles,
        sync_each: bool,
        spin_micros: int = 0,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """`has_room` says whether entries that were refused may be tried again."""
        self._has_room = has_room
        self._arena = arena
        self._spin_micros = spin_micros
        self._files = files
        self._stale_files = StaleFiles(arena=arena, queue_files=files)
        self._queues = arena.queues
        self._bell = arena.bells["dispatch"]
        self._writer_bell = arena.bells["writer"]
        self._serve_bells = [arena.bells[f"serve{i}"] for i in range(arena.serve_count)]
        self._holding = [arena.holding(index) for index in range(arena.serve_count)]
        self._natives = arena.link_receiver("dispatch")
        starts = arena.writer(Word.DISPATCH_STARTS, role="dispatch")
        starts.publish(starts.load() + 1)  # Native rings are handed over anew.
        limit = Word.FLUSHED_OFFSET if sync_each else Word.APPEND_OFFSET
        self._limit_offset = arena.reader(limit)
        self._descriptor_count = arena.reader(Word.DESCRIPTOR_COUNT)
        self._blocked_since = arena.reader(Word.BLOCKED_SINCE)
        self._reput_offset = arena.writer(Word.REPUT_OFFSET, role="dispatch")
        self._reput_count = arena.writer(Word.REPUT_COUNT, role="dispatch")
        self._filed_timestamp = arena.writer(Word.FILED_TIMESTAMP, role="dispatch")
        self._filed_offset = arena.writer(Word.FILED_OFFSET, role="dispatch")
        self._descriptors = np.frombuffer(arena.descriptors, dtype=DESCRIPTOR)
        slots_max = self._queues.slots_max
        # What a dead predecessor filed is not known: all that is in the hot rings is filed again,
        # but for what retention deletes, lest it make a file anew that is gone.
        self._filed = np.maximum(
            np.frombuffer(self._queues.hot_starts, dtype=np.int64),
            np.frombuffer(self._queues.min_offsets, dtype=np.int64),
        )
        self._marks = np.zeros(slots_max, dtype=np.uint8)
        max_offsets = np.frombuffer(self._queues.max_offsets, dtype=np.int64)
        self._marks[max_offsets > self._filed] = 1
        self._dispatcher = Dispatcher(
            descriptors=arena.descriptors,
            max_offsets=self._queues.max_offsets,
            hot_starts=self._queues.hot_starts,
            hot=self._queues.hot,
            hot_entries=self._queues.hot_entries,
            filed=self._filed.data,
            marks=self._marks.data,
        )
        self._dispatcher.last_offset = self._reput_offset.load()
        self._last_file_ms = 0
        self._last_sync_ms = 0
        # Nor is it known which files a dead predecessor, or a killed broker, wrote without syncing.
        behind = self._filed_offset.load() < self._reput_offset.load()
        self._inherited = self._unsynced = behind or self._reput_count.load() > 0
        self._gaps = 0
        self._held_up = False
        self._awaited_until_ms = 0
        self._refused = False
        self._logger = get_logger()

    def step(self, now_ms: int) -> int:
        """Enter one batch of records; now and then bring entries into the files."""
        if self._natives.changes_wait():
            gone, _came = self._natives.receive()
            for native in gone:
                native.close()
        done = self._dispatch()
        if not self._last_sync_ms:
            self._last_sync_ms = now_ms  # What a new dispatch inherits waits as long as the rest.
        sync_due = self._sync_is_due(abs(now_ms - self._last_sync_ms))
        if sync_due or abs(now_ms - self._last_file_ms) >= FILE_INTERVAL_MS:
            self._last_file_ms = now_ms
            self._stale_files.close()
            self._file_all()
        if sync_due:
            self._last_sync_ms = now_ms
            self._sync()
        return done

    def _sync_is_due(self, waited_ms: int) -> bool:
        if waited_ms < SYNC_PAUSE_MS:
            return False
        behind = self._reput_offset.load() - self._filed_offset.load()
        # On a full disk retention waits for what can be synced, to delete what is older.
        interval_ms = FILE_INTERVAL_MS if self._refused else SYNC_INTERVAL_MS
        return behind >= SYNC_SIZE or (self._unsynced and waited_ms >= interval_ms)

    def wait(self, timeout_ms: int) -> None:
        """Sleep until records come; when nobody waits for a message, collect some first."""
        if self._held_up:
            self._bell.wait(HELD_UP_WAIT_MS)
            return
        if self._work_waits():
            return
        if spin(self._work_waits, self._spin_micros):
            return
        if not self._is_awaited() and (self._bell.wait(PACE_MS) or self._work_waits()):
            return
        self._bell.arm()
        if not self._work_waits() and self._bell.wait(timeout_ms):
            spin(self._work_waits, COMING_MICROS)  # The writer may have rung before it appends.
        self._bell.disarm()

    def _is_awaited(self) -> bool:
        """Whether somebody waits for messages, or did a moment ago: he will again."""
        now_ms = monotonic_ms()
        if (
            self._blocked_since.load()
            or any(cell.load() for cell in self._holding)
            or any(native.waits_for_news for native in self._natives.rings.values())
        ):
            self._awaited_until_ms = now_ms + AWAITED_MS
        return now_ms < self._awaited_until_ms

    def wake(self) -> None:
        """End the present wait()."""
        self._bell.force()

    def drain(self, now_ms: int) -> bool:  # noqa: ARG002  same form as every role
        """Enter what is left, bring all entries into the files and sync them.

        Raises:
            WorkLeft: the disk refuses them, so the next start must look at the log.
        """
        if self._dispatch() or (self._work_waits() and not self._held_up):
            return False
        self._file_all()
        self._sync()
        if self._held_up or self._marks.any() or self._files.sync_failed:
            raise WorkLeft(
                "entries are not in the consumequeues, which the disk refuses",
                reput_offset=self._reput_offset.load(),
            )
        return True

    def close(self) -> None:
        """Close the files and let go of native rings."""
        self._files.close()
        self._natives.close()

    def _work_waits(self) -> bool:
        return self._descriptor_count.load() > self._reput_count.load() and (
            self._limit_offset.load() > self._reput_offset.load()
        )

    def _dispatch(self) -> int:
        first = self._reput_count.load()
        end = min(self._descriptor_count.load(), first + BATCH_MAX)
        if end == first:
            return 0
        dispatcher = self._dispatcher
        limit = self._limit_offset.load()
        done = dispatcher.dispatch(first, end, limit)
        while dispatcher.full_slot >= 0 and self._file(int(dispatcher.full_slot)):
            done = dispatcher.dispatch(done, end, limit)
        self._held_up = dispatcher.full_slot >= 0
        if dispatcher.gaps != self._gaps:
            self._gaps = dispatcher.gaps
            self._logger.error(
                "dispatch.gap_found",
                gaps=self._gaps,
                reput_offset=self._reput_offset.load(),
                hint="a record's queue offset is past its queue's end; run shmq verify",
            )
        if done == first:
            return 0
        self._reput_offset.publish(max(dispatcher.last_offset, self._reput_offset.load()))
        self._reput_count.publish(done)
        for cell, bell in zip(self._holding, self._serve_bells, strict=True):
            if cell.load():
                bell.ring()
        for native in self._natives.rings.values():
            native.ring_news()
        if self._blocked_since.load():
            self._writer_bell.force()
        return done - first

    def _file_all(self) -> None:
        for slot in np.flatnonzero(self._marks):
            self._file(int(slot))

    def _file(self, slot: int) -> bool:
        """Bring all entries of a queue that are only in its hot ring into its files; whether so."""
        if self._refused and not self._has_room():
            return False
        try:
            self._write(slot)
        except OSError as error:
            self._note_refusal(error)
            return False
        if self._refused:
            self._refused = False
            self._logger.info("consumequeue.written_again")
        return True

    def _write(self, slot: int) -> None:
        topic, queue_id = self._queues.name(slot)
        first, end = int(self._filed[slot]), self._queues.max_offset(slot)
        hot_entries = self._queues.hot_entries
        base = slot * hot_entries * ENTRY.itemsize
        while first < end:
            place = first % hot_entries
            count = min(end - first, hot_entries - place)
            at = base + place * ENTRY.itemsize
            self._files.write(
                topic, queue_id, first, self._queues.hot[at : at + count * ENTRY.itemsize]
            )
            first += count
        self._filed[slot] = end
        self._marks[slot] = 0
        self._unsynced = True

    def _sync(self) -> None:
        count = self._reput_count.load()
        if not self._unsynced or self._files.sync_failed:
            return
        try:
            if self._inherited:
                self._files.sync_all()
                self._inherited = False
            self._files.sync()
        except OSError as error:
            self._note_refusal(error)
            return
        self._unsynced = False
        self._filed_offset.publish(max(self._filed_to(), self._filed_offset.load()))
        if count and not self._marks.any():
            end = self._reput_offset.load()
            last = self._descriptors[(count - 1) % DESCRIPTORS_MAX].copy()
            if int(last["physical_offset"]) + int(last["size"]) == end:  # Else it was used again.
                stamp = int(last["store_timestamp"])
                self._filed_timestamp.publish(max(stamp, self._filed_timestamp.load()))

    def _filed_to(self) -> int:
        """Physical offset of the first record whose entry is only in a hot ring; else REPUT."""
        end = self._reput_offset.load()
        hot_entries = self._queues.hot_entries
        for slot in np.flatnonzero(self._marks).tolist():
            place = slot * hot_entries + int(self._filed[slot]) % hot_entries
            entry = np.frombuffer(
                self._queues.hot, dtype=ENTRY, count=1, offset=place * ENTRY.itemsize
            )
            end = min(end, int(entry[0]["physical_offset"]))
        return end

    def _note_refusal(self, error: OSError) -> None:
        if not self._refused:
            self._refused = True
            self._logger.error(
                "consumequeue.not_written",
                cause=error.strerror,
                errno=error.errno,
                hint="entries stay in memory and are tried again; repair the disk or make room",
            )


def make(context: Context, index: int = 0) -> DispatchRole:
    """The dispatch role of this broker; there is one."""
    assert index == 0, "one dispatch"
    settings = context.settings
    folder = context.store_dir
    return DispatchRole(
        arena=context.arena,
        files=QueueFiles(
            folder / "consumequeue",
            file_size=settings.mapped_file_size_consume_queue,
            writable=True,
            disk=context.disk,
        ),
        sync_each=settings.flush_disk_type == "SYNC_FLUSH",
        spin_micros=settings.spin_micros,
        has_room=lambda: has_room(folder, settings.metadata_reserve_size),
    )
