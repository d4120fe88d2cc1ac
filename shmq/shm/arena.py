"""All segments and doorbells of one broker: made before the roles are forked, shared by them.

    segment     content                              layout
    control     words, later nothing else            layout.control
    descriptors what was appended                    layout.control.DESCRIPTOR
    queues      queue table                          layout.queuetable
    hot-cq      newest consumequeue entries          layout.queuetable, layout.cqentry
    pool        hot commitlog pages                  physical offset o lies at o % pool size
    counters    what each process has done           layout.counters
    ring-<i>    submissions of serve process i       layout.ring

Rings of native clients have no names: they are made while the broker runs, see nativering.py.

The pool is a row of pages that is touched once and used again for ever: page k of the commitlog
lies in place k % page_count. A page may be used again when its bytes are in the commitlog file and
in the consumequeues (HOT_START says which bytes are gone). After a kill of everything the pool and
the control segment are still there, and boot takes over what the files lack.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from shmq.errors import LayoutError, StoreError
from shmq.layout import control, counters, queuetable, ring
from shmq.shm import segment
from shmq.shm.doorbell import EventBell, SemaphoreBell
from shmq.shm.links import RECEIVERS, Link, LinkReceiver, make_link
from shmq.shm.queuetable import QueueTable
from shmq.shm.ring import Ring
from shmq.shm.segment import Segment
from shmq.shm.words import OwnedCell, WordReader, WordWriter, check_control
from shmq.units import MiB

SEMAPHORE_ROLES = ("flush", "dispatch", "index", "housekeeping")
EVENT_ROLES = ("writer", "coordinator", "namesrv", "register")


@dataclass(frozen=True, kw_only=True)
class ArenaSizes:
    """What the arena needs to know of the settings; sizes in bytes."""

    serve_count: int
    pool_size: int
    queues_max: int = 16_384
    hot_entries: int = 1_024
    ring_entries: int = 8_192
    ring_data_size: int = 16 * MiB


class Arena:
    """Segments, words, rings and bells of one broker."""

    def __init__(self, instance: str, segments: dict[str, Segment]) -> None:
        self.instance = instance
        self.segments = segments
        self.control = segments["control"].view
        self.pool = segments["pool"].view
        self.pool_size = segments["pool"].size
        self.descriptors = segments["descriptors"].view
        self.counters = segments["counters"].view
        self.queues = QueueTable(segments["queues"].view, segments["hot-cq"].view)
        self.rings: list[Ring] = []
        while f"ring-{len(self.rings)}" in segments:
            self.rings.append(Ring(segments[f"ring-{len(self.rings)}"].view))
        self.serve_count = len(self.rings)
        self.bells: dict[str, SemaphoreBell | EventBell] = {}
        self.links: dict[str, list[Link]] = {}
        """By receiver: the links from each serve process."""
        self.grants = memoryview(bytearray())

    @classmethod
    def create(cls, instance: str, sizes: ArenaSizes) -> Arena:
        """Make all segments and bells anew.

        Raises:
            StoreError: a segment exists already, or /dev/shm has too little room for the pool.
        """
        room = segment.room()
        needed = sizes.pool_size + 64 * MiB
        if room < needed:
            raise StoreError(
                "too little room in /dev/shm",
                room=room,
                needed=needed,
                hint="lower hotPoolSize, or enlarge /dev/shm (mount -o remount,size=...)",
            )
        wanted = {
            "control": control.SEGMENT_SIZE,
            "counters": counters.SEGMENT_SIZE,
            "descriptors": control.DESCRIPTORS_MAX * control.DESCRIPTOR.itemsize,
            "queues": queuetable.segment_size(sizes.queues_max),
            "hot-cq": queuetable.hot_size(sizes.queues_max, sizes.hot_entries),
            "pool": sizes.pool_size,
        }
        for index in range(sizes.serve_count):
            wanted[f"ring-{index}"] = ring.segment_size(sizes.ring_entries, sizes.ring_data_size)
        segments: dict[str, Segment] = {}
        try:
            for what, size in wanted.items():
                name = segment.segment_name(instance, what)
                segments[what] = Segment.create(name, size)
            return cls._formatted(instance, sizes, segments)
        except BaseException:
            for made in segments.values():
                segment.unlink(made.name)
            raise

    @classmethod
    def _formatted(cls, instance: str, sizes: ArenaSizes, segments: dict[str, Segment]) -> Arena:
        QueueTable.format(
            segments["queues"].view, slots_max=sizes.queues_max, hot_entries=sizes.hot_entries
        )
        for index in range(sizes.serve_count):
            Ring.format(
                segments[f"ring-{index}"].view,
                entry_count=sizes.ring_entries,
                data_size=sizes.ring_data_size,
            )
        arena = cls(instance, segments)
        arena._make_bells()
        arena.writer(control.Word.MAGIC, role="supervisor").publish(control.MAGIC_VALUE)
        return arena

    @classmethod
    def attach(cls, instance: str) -> Arena:
        """The segments of a running broker, read-only; for `shmq status` and `shmq dump`.

        Raises:
            LayoutError: there is no such broker, or it has another layout.
        """
        segments = {}
        prefix = segment.segment_name(instance, "")
        for name in segment.names_of(instance):
            what = name.removeprefix(prefix)
            if not what.startswith("sem."):
                segments[what] = Segment.attach(name)
        missing = {"control", "counters", "descriptors", "queues", "hot-cq", "pool"} - set(segments)
        if missing:
            raise LayoutError(
                "no running broker of this instance", instance=instance, missing=sorted(missing)
            )
        check_control(segments["control"].view)
        return cls(instance, segments)

    def reader(self, word: control.Word) -> WordReader:
        """A word of the control segment, for reading."""
        return WordReader(self.control, word)

    def writer(self, word: control.Word, *, role: str) -> WordWriter:
        """A word of the control segment, for its owner `role`."""
        return WordWriter(self.control, word, role=role)

    def holding(self, serve: int) -> OwnedCell:
        """The number of pulls that wait in serve process `serve`; its own to write."""
        assert 0 <= serve < control.SERVES_MAX, "serve index"
        return OwnedCell(
            self.control, (control.HOLDING_LINE + serve) * control.LINE_SIZE, free=True
        )

    def open_native_door(self) -> None:
        """Make what hands rings of native clients around; before the roles are forked."""
        self.links = {
            receiver: [make_link() for _ in range(self.serve_count)] for receiver in RECEIVERS
        }
        self.grants = memoryview(
            mmap.mmap(-1, control.NATIVE_MAX * grants_size(self.queues.slots_max))
        )

    def linked(self, serve: int) -> OwnedCell:
        """The number of messages that serve process `serve` has sent over its links."""
        assert 0 <= serve < control.SERVES_MAX, "serve index"
        return OwnedCell(self.control, (control.LINKED_LINE + serve) * control.LINE_SIZE, free=True)

    def granted(self, native: int) -> memoryview:
        """Bits of the queue table slots that native client `native` may append to.

        Written by the serve process that owns the client, read by the writer.
        """
        size = grants_size(self.queues.slots_max)
        return self.grants[native * size : (native + 1) * size]

    def link_receiver(self, receiver: str) -> LinkReceiver:
        """The rings of native clients, for writer or dispatch."""
        return LinkReceiver(
            self.links.get(receiver, []),
            linked=[self.linked(serve) for serve in range(self.serve_count)],
            serve_count=self.serve_count,
        )

    def unlink(self) -> None:
        """Remove the segments' names, close the links; mappings stay until the process ends."""
        for made in self.segments.values():
            segment.unlink(made.name)
        for links in self.links.values():
            for link in links:
                link.sender.close()
                link.receiver.close()

    def _make_bells(self) -> None:
        roles = [*SEMAPHORE_ROLES, *EVENT_ROLES, *(f"serve{i}" for i in range(self.serve_count))]
        for number, role in enumerate(roles):
            line = control.SLEEPING_LINE + number
            sleeping = OwnedCell(self.control, line * control.LINE_SIZE, free=True)
            if role in SEMAPHORE_ROLES:
                self.bells[role] = SemaphoreBell(self.instance, role, sleeping)
            else:
                self.bells[role] = EventBell(sleeping)


def grants_size(slots_max: int) -> int:
    """Bytes of one client's grants, a bit for each slot."""
    return (slots_max + 7) // 8


def remove_remnants(instance: str) -> list[str]:
    """Unlink every segment of `instance`; returns their names. Only when no process uses them."""
    names = segment.names_of(instance)
    for name in names:
        segment.unlink(name)
    return names
