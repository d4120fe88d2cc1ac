"""The writer role: the only process that appends to the commitlog.

Takes submissions from every ring in turn, appends them to the hot pages and publishes. It knows no
business rules: what a message means was settled by the submitter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.kernels.append import Appender
from shmq.layout import control
from shmq.layout.control import DESCRIPTOR, DESCRIPTORS_MAX, Word
from shmq.layout.ring import STATUS_CLOSED
from shmq.units import KiB, MiB
from shmq.workers.atrisk import AtRisk
from shmq.workers.base import monotonic_ms, spin
from shmq.workers.identity import identity_of, store_place_of
from shmq.workers.lanes import Lane, Lanes
from shmq.workers.stepaside import StepAside

if TYPE_CHECKING:
    from shmq.shm.arena import Arena
    from shmq.workers.context import Context

BATCH_MAX: Final = 512
STREAM_SIZE: Final = 64 * KiB
"""So many bytes of one ring at once are a stream: its producer is filling the ring meanwhile."""
NO_LIMIT: Final = (1 << 63) - 1
PAGES_AHEAD: Final = 4
MAPPED_AT_START: Final = 32 * MiB
MAPPED_AT_ONCE: Final = 1 * MiB


class WriterRole:
    """Appends what the rings ask for and publishes APPEND_OFFSET and completions."""

    polls_in_wait = True

    def __init__(
        self,
        *,
        arena: Arena,
        file_size: int,
        record_size_max: int,
        page_size: int,
        store_place: bytes = b"",
        spin_micros: int = 0,
        tells_early: bool = True,
        at_risk: AtRisk | None = None,
    ) -> None:
        """`store_place` is host and port as records hold them; strangers' records must have it.

        `tells_early`: native clients that wait for messages are woken at the same time as dispatch,
        whose work takes less time than their waking. `at_risk`: None where the disk decides what
        is confirmed.
        """
        self._arena = arena
        self._file_size = file_size
        self._spin_micros = spin_micros
        self._tells_early = tells_early
        self._at_risk = at_risk
        self._page_size = page_size
        self._bell = arena.bells["writer"]
        self._flush_bell = arena.bells["flush"]
        self._dispatch_bell = arena.bells["dispatch"]
        self._lanes = Lanes(arena=arena)
        self._step_aside = StepAside()
        self._append_offset = arena.writer(Word.APPEND_OFFSET, role="writer")
        self._descriptor_count = arena.writer(Word.DESCRIPTOR_COUNT, role="writer")
        self._hot_start = arena.writer(Word.HOT_START, role="writer")
        self._blocked_since = arena.writer(Word.BLOCKED_SINCE, role="writer")
        self._blocked_on = arena.writer(Word.BLOCKED_ON, role="writer")
        self._written_offset = arena.reader(Word.WRITTEN_OFFSET)
        self._reput_offset = arena.reader(Word.REPUT_OFFSET)
        self._reput_count = arena.reader(Word.REPUT_COUNT)
        self._flush_error = arena.reader(Word.FLUSH_ERROR)
        self._no_room_since = arena.reader(Word.NO_ROOM_SINCE)
        self._next_offsets = np.zeros(arena.queues.slots_max, dtype=np.int64)
        self._known_slots = 0
        self._store_timestamp = 0
        self._first_lane = 0
        self._restore_later: tuple[int, int, int] | None = None
        starts = arena.writer(Word.WRITER_STARTS, role="writer")
        starts.publish(starts.load() + 1)  # Native rings are handed over anew.
        self._map_begin = self._append_offset.load() // page_size * page_size
        self._mapped_size = 0
        self._map_more(MAPPED_AT_START)
        self._restore_counters()
        self._appender = Appender(
            pool=arena.pool,
            descriptors=arena.descriptors,
            next_offsets=self._next_offsets.data,
            rows=arena.queues.rows,
            file_size=file_size,
            record_size_max=record_size_max,
            append_offset=self._append_offset.load(),
            descriptor_count=self._descriptor_count.load(),
            store_place=store_place,
        )
        for index, ring in enumerate(arena.rings):
            self._appender.set_ring(index, ring.entries, ring.completions, ring.data)

    def step(self, now_ms: int) -> int:
        """One batch from every ring; a ring that is held up holds up those after it.

        Else small records would take the room that a large one waits for. The next step begins
        with the ring that waits.
        """
        self._store_timestamp = max(self._store_timestamp, now_ms)
        self._lanes.refresh(self._appender, self._restore_lane)
        done = 0
        lanes = self._lanes.all
        for number in range(self._first_lane, self._first_lane + len(lanes)):
            lane = lanes[number % len(lanes)]
            waiting = lane.waiting()
            if waiting:
                first = lane.completed
                done += self._append(lane, first, first + min(waiting, BATCH_MAX))
                if self._blocked_since.load():
                    self._first_lane = number % len(lanes)
                    break
        if done:
            self._flush_bell.ring()
        return done

    def wait(self, timeout_ms: int) -> None:
        """Sleep until a ring has work; as long as pages wait to be touched, touch some instead."""
        if self._blocked_since.load():
            self._lanes.poll(1)
            return
        if self._lanes.work_waits():
            return
        if self._mapped_size < self._arena.pool_size:
            self._map_more(MAPPED_AT_ONCE)
            return
        if spin(self._lanes.work_waits, self._spin_micros):
            return
        self._bell.arm()
        if not self._lanes.work_waits() and self._lanes.poll(timeout_ms) and self._tells_early:
            self._dispatch_bell.ring()
        self._bell.hush()

    def wake(self) -> None:
        """End the present wait()."""
        self._bell.force()

    def drain(self, now_ms: int) -> bool:
        """Append what is left in the rings."""
        return self.step(now_ms) == 0 and not self._lanes.work_waits()

    def close(self) -> None:
        """Let go of native rings; the segments belong to the supervisor."""
        self._lanes.close()

    def _map_more(self, size: int) -> None:
        """Touch the next pages of the pool, from where the log goes on, before they are needed."""
        pool_size = self._arena.pool_size
        while size > 0 and self._mapped_size < pool_size:
            at = (self._map_begin + self._mapped_size) % pool_size
            piece = min(size, pool_size - at, pool_size - self._mapped_size)
            self._arena.segments["pool"].populate(at, piece)
            self._mapped_size += piece
            size -= piece

    def _append(self, lane: Lane, first: int, end: int) -> int:
        appender = self._appender
        if self._flush_error.load() or self._no_room_since.load():
            return self._refuse(lane, first, end)
        slot_count = len(self._arena.queues)
        if slot_count > self._known_slots:
            self._learn_slots(slot_count)
        done = 0
        risk_limit = self._risk_limit()
        while True:
            room_limit = self._hot_start.load() + self._arena.pool_size
            done += appender.append(
                lane.index,
                first + done,
                end,
                min(room_limit, risk_limit),
                self._reput_count.load() + DESCRIPTORS_MAX,
                slot_count,
                self._store_timestamp,
            )
            blocked_on = appender.blocked_on
            if blocked_on == control.BLOCKED_BY_FLUSH and risk_limit < room_limit:
                blocked_on = control.BLOCKED_BY_RISK
            if blocked_on != control.BLOCKED_BY_FLUSH or not self._recycle():
                break
        if done:
            # Bytes and descriptors are there: now the words that promise them, in this order.
            size = appender.append_offset - self._append_offset.load()
            self._append_offset.publish(appender.append_offset)
            self._descriptor_count.publish(appender.descriptor_count)
            self._dispatch_bell.ring()
            if self._tells_early:
                self._lanes.ring_news()
            lane.publish(first + done)
            if size >= STREAM_SIZE and lane.producer_core is not None:
                self._step_aside.avoid(lane.producer_core())
        self._note_blocked(blocked_on)
        return done

    def _risk_limit(self) -> int:
        """Physical offset up to which records may be appended that a power cut may take back."""
        if self._at_risk is None:
            return NO_LIMIT
        return self._at_risk.limit(self._appender.append_offset, monotonic_ms())

    def _recycle(self) -> bool:
        """Give up the oldest hot pages that are written and dispatched; False: there is none."""
        hot_start = self._hot_start.load()
        reusable = min(self._written_offset.load(), self._reput_offset.load())
        reusable -= reusable % self._page_size
        if reusable <= hot_start:
            return False
        wanted = self._appender.append_offset + PAGES_AHEAD * self._page_size
        wanted = max(wanted - self._arena.pool_size, hot_start + self._page_size)
        # SYNC POINT: readers look at HOT_START again after they copied.
        self._hot_start.publish(min(reusable, wanted - wanted % self._page_size))
        return True

    def _note_blocked(self, blocked_on: int) -> None:
        if blocked_on == control.BLOCKED_NOT:
            if self._blocked_since.load():
                self._blocked_since.publish(0)
            return
        if blocked_on == control.BLOCKED_BY_FLUSH and (
            self._reput_offset.load() < self._written_offset.load()
        ):
            blocked_on = control.BLOCKED_BY_DISPATCH
        self._blocked_on.publish(blocked_on)
        if not self._blocked_since.load():
            self._blocked_since.publish(self._store_timestamp)
        self._flush_bell.ring()
        self._dispatch_bell.ring()

    def _refuse(self, lane: Lane, first: int, end: int) -> int:
        """Nothing is appended after a failed write or sync, nor while the disk has no room."""
        completions = lane.ring.completion_array()
        for sequence in range(first, end):
            completions[sequence % lane.ring.entry_count] = (STATUS_CLOSED, 0, 0, 0, 0)
        lane.publish(end)
        self._note_blocked(control.BLOCKED_NOT)
        return end - first

    def _learn_slots(self, slot_count: int) -> None:
        """New queues begin where their consumequeue ends."""
        max_offsets = self._arena.queues.max_offsets
        for slot in range(self._known_slots, slot_count):
            self._next_offsets[slot] = max(self._next_offsets[slot], max_offsets[slot])
        self._known_slots = slot_count

    def _restore_counters(self) -> None:
        """Take over from a dead writer, from the published words alone.

        APPEND_OFFSET is the truth: what was appended but not published is appended again, over it.
        Descriptors up to it are whole even if DESCRIPTOR_COUNT is behind. Queue offsets follow from
        what dispatch published and from the descriptors that it has not read yet.
        """
        arena = self._arena
        reput_count = self._reput_count.load()  # Before the queues' offsets, which may grow.
        self._learn_slots(len(arena.queues))
        table = np.frombuffer(arena.descriptors, dtype=DESCRIPTOR)
        count = self._descriptor_count.load()
        append_offset = self._append_offset.load()
        last_end = -1
        if count:
            last = table[(count - 1) % DESCRIPTORS_MAX]
            last_end = int(last["physical_offset"]) + int(last["size"])
        while last_end < append_offset and count - reput_count < DESCRIPTORS_MAX:
            following = table[count % DESCRIPTORS_MAX]
            end = int(following["physical_offset"]) + int(following["size"])
            if following["size"] <= 0 or not last_end < end <= append_offset:
                break
            last_end = end
            count += 1
        self._descriptor_count.publish(count)
        if not count:
            return
        waiting = table[np.arange(reput_count, count) % DESCRIPTORS_MAX]
        np.maximum.at(self._next_offsets, waiting["slot"], waiting["queue_offset"] + 1)
        last = table[(count - 1) % DESCRIPTORS_MAX]
        self._store_timestamp = int(last["store_timestamp"])
        newest = (int(last["ring"]), int(last["epoch"]), int(last["ring_sequence"]) + 1)
        for lane in self._lanes.own:
            self._restore_completions(lane, 0, newest)
        self._restore_later = newest

    def _restore_lane(self, lane: Lane, epoch: int) -> None:
        """A native ring was handed over; its completions may be behind as well."""
        if self._restore_later is not None:
            self._restore_completions(lane, epoch, self._restore_later)

    def _restore_completions(self, lane: Lane, epoch: int, newest: tuple[int, int, int]) -> None:
        """Publish what the dead writer completed but did not publish.

        Only the ring of the newest record can be behind, since the words of one ring are published
        before the next ring's records are appended. Completions are written before APPEND_OFFSET is
        published, so all of them up to that record's entry are there.
        """
        ring, of_epoch, end = newest
        if (lane.index, epoch) == (ring, of_epoch) and 0 < end - lane.completed <= lane.waiting():
            lane.publish(end)


def make(context: Context, index: int = 0) -> WriterRole:
    """The writer of this broker; there is one."""
    assert index == 0, "one writer"
    settings = context.settings
    arena = context.arena
    at_risk: AtRisk | None = None
    if settings.flush_disk_type != "SYNC_FLUSH":
        at_risk = AtRisk(
            flushed=arena.reader(Word.FLUSHED_OFFSET),
            since=arena.writer(Word.AT_RISK_SINCE, role="writer"),
            bytes_max=settings.async_flush_bytes_max or arena.pool_size,
            millis_max=settings.async_flush_millis_max,
        )
    return WriterRole(
        arena=arena,
        file_size=settings.mapped_file_size_commit_log,
        record_size_max=settings.max_message_size + 64 * KiB,
        page_size=settings.hot_page_size,
        store_place=store_place_of(identity_of(context)),
        spin_micros=settings.spin_micros,
        tells_early=at_risk is not None,
        at_risk=at_risk,
    )
