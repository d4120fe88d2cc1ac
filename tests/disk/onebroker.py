"""A whole broker's storage in one process, on any disk, that keeps account of what it promised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from shmq.broker.names import AUTO_CREATE_TOPIC, BuiltIn
from shmq.config import Settings
from shmq.kernels.walk import walk
from shmq.layout.control import Word
from shmq.shm import segment
from shmq.shm.arena import remove_remnants
from shmq.store.commitlog import LogFiles
from shmq.units import KiB
from shmq.wire.codes import RequestCode, ResponseCode
from shmq.workers import abortfile, boot
from shmq.workers.base import WorkLeft
from shmq.workers.storelock import StoreLock
from tests.disk.disks import TimedDisk
from tests.disk.promises import Found, Message, Promises, Queue
from tests.unit.broker.controlroom import ControlRoom
from tests.unit.workers.house import House, encode, instance_name, small_settings

STORE: Final = "store"
"""The store folder's name under the disk's root."""
GROUP: Final = "G"
LOG_FILE_SIZE: Final = 16 * KiB
QUEUES_MAX: Final = 48
FIRST_MS: Final = 1_700_000_000_000
BUILT_IN: Final = (BuiltIn(AUTO_CREATE_TOPIC, 4, 7),)


def settings_of(store_dir: Path, *, sync: bool) -> Settings:
    """Settings of a store of tiny files."""
    return small_settings(
        store_dir,
        mapped_file_size_commit_log=LOG_FILE_SIZE,
        flush_disk_type="SYNC_FLUSH" if sync else "ASYNC_FLUSH",
    )


class OneBroker:
    """Starts as the supervisor starts a broker, and does what the roles do when it is told to."""

    def __init__(
        self,
        root: Path,
        *,
        disk: TimedDisk,
        promises: Promises,
        sync: bool,
        now_ms: int,
        instance: str | None = None,
    ) -> None:
        self._disk = disk
        self._promises = promises
        self._sync = sync
        self.now_ms = now_ms
        self.instance = instance or instance_name()
        store_dir = root / STORE
        settings = settings_of(store_dir, sync=sync)
        disk.keep_folders(store_dir)
        self._lock = StoreLock(store_dir, disk=disk)
        self._lock.take()
        try:
            if segment.names_of(self.instance):
                boot.rescue(settings, self.instance, store_dir=store_dir, disk=disk)
            self.house = House(
                store_dir,
                settings=settings,
                clean=not abortfile.is_there(store_dir),
                queues_max=QUEUES_MAX,
                instance=self.instance,
                disk=disk,
            )
        except BaseException:
            self._lock.release()
            raise
        try:
            self._start_roles(store_dir)
        except BaseException:
            self.power_off()
            raise

    def _start_roles(self, store_dir: Path) -> None:
        abortfile.create(store_dir, disk=self._disk)
        self._writer = self.house.writer()
        self._flush = self.house.flush()
        self._dispatch = self.house.dispatch()
        self._control = ControlRoom(
            store_dir / "config",
            queues=self.house.arena.queues,
            built_in=BUILT_IN,
            disk=self._disk,
        )
        self._unflushed: list[tuple[int, Message]] = []
        self._last_records: dict[Queue, int] = {}
        self._control.heartbeat("c", GROUP)
        self.settle()
        self._note_recovered()

    # What clients ask for

    def create_topic(self, name: str, *, queues: int = 2) -> bool:
        """Whether the topic was made, as its creator was told."""
        done = False
        try:
            done = self._control.create_topic(name, queues=queues) == ResponseCode.SUCCESS
        finally:  # A broker that is killed may have made it all the same.
            self._note_tables(topics_promised=done)
        return done

    def send(self, topic: str, queue_id: int, *bodies: bytes) -> int:
        """Append messages, how many; they become safe, and are seen, when work() says so."""
        slot = self.house.slot(topic, queue_id)
        accepted = 0
        for body in bodies:
            number = self.house.producer.submit(slot, encode(topic, body, queue_id=queue_id))
            self._writer.step(self.now_ms)
            done = self.house.producer.done(number)
            if done.status == 0:
                message = Message((topic, queue_id), done.queue_offset, done.physical_offset, body)
                accepted += 1
                self._promises.sent.add(message)
                self._promises.appended.append(message)
                self._unflushed.append((self.house.word(Word.APPEND_OFFSET), message))
        return accepted

    def commit(self, topic: str, queue_id: int, offset: int) -> bool:
        """Whether the offset was committed, as the consumer was told."""
        ext = {
            "consumerGroup": GROUP,
            "topic": topic,
            "queueId": str(queue_id),
            "commitOffset": str(offset),
        }
        row = self._promises.commits.setdefault((topic, queue_id), [None])
        row.append(offset)
        index = len(row) - 1
        reply = self._control.reply(RequestCode.UPDATE_CONSUMER_OFFSET, ext)
        done = bool(reply.code == ResponseCode.SUCCESS)
        if done:
            self._promises.commits_answered[topic, queue_id] = index
        self._note_tables()
        return done

    # What time brings

    def work(self, *, pass_ms: int = 1) -> None:
        """Let time pass, and let every role do a step."""
        self.now_ms += pass_ms
        self._dispatch.step(self.now_ms)  # With SYNC_FLUSH it must show nothing of this yet.
        self._note_shown()
        self._flush.step(self.now_ms)
        self._note_flushed()
        self._dispatch.step(self.now_ms)
        self._note_shown()
        self._control.pass_time(pass_ms)
        self._note_tables()

    def settle(self) -> None:
        """Let the coordinator write what it has."""
        try:
            self._control.settle()
        finally:
            self._note_tables()

    def stop(self) -> bool:
        """Drain as at a clean stop; whether all of it was clean."""
        self._flush.step(self.now_ms)
        clean = True
        for drain in (self._dispatch.drain, self._flush.drain):
            try:
                clean &= bool(drain(self.now_ms))
            except WorkLeft:
                clean = False
            self._note_flushed()
            self._note_shown()
        clean &= self._control.control.save_all()
        self._note_tables()
        if clean:
            try:
                abortfile.remove(self.house.store_dir, disk=self._disk)
            except OSError:
                clean = False
        all_written = not self.flush_error and not self.no_room
        self._end(keep_segments=not all_written)
        return clean

    def kill(self) -> None:
        """End at once, as by kill -9 of all processes: the segments keep their names."""
        self._end(keep_segments=True)

    def power_off(self) -> None:
        """End at once, and leave nothing in memory."""
        self._end(keep_segments=False)

    def _end(self, *, keep_segments: bool) -> None:
        if hasattr(self, "_control"):
            self._control.close()
        self.house.close(keep_segments=keep_segments)
        self._lock.release()

    def topics(self) -> dict[str, tuple[int, int, int]]:
        """The topic table."""
        return topics_in(self._control)

    def offsets(self) -> dict[Queue, int]:
        """The committed offsets."""
        return offsets_in(self._control)

    @property
    def flush_error(self) -> int:
        """Errno of the write or sync that ended the taking of messages; 0 if none did."""
        return self.house.word(Word.FLUSH_ERROR)

    @property
    def no_room(self) -> bool:
        """Whether a write waits for room on the disk; until then no message is taken."""
        return self.house.word(Word.NO_ROOM_SINCE) != 0

    # Keeping account

    def _note_recovered(self) -> None:
        """What was found at the start is shown to consumers, and so safe."""
        done = self._disk.moment
        known = {message for _when, message in self._promises.safe}
        found = look(self.house, topics={}, offsets={})
        for row in found.messages.values():
            self._promises.safe += [(done, message) for message in row if message not in known]
        self._note_shown()

    def _note_flushed(self) -> None:
        flushed = self.house.word(Word.FLUSHED_OFFSET)
        done = self._disk.moment
        self._promises.safe += [(done, one) for end, one in self._unflushed if end <= flushed]
        self._unflushed = [(end, one) for end, one in self._unflushed if end > flushed]

    def _note_shown(self) -> None:
        if not self._sync:
            return
        queues = self.house.arena.queues
        for topic, slots in queues.topics().items():
            for queue_id, slot in slots.items():
                end = queues.max_offset(slot)
                if end > self._last_records.get((topic, queue_id), 0):
                    self._last_records[topic, queue_id] = end
                    self._promises.shown.append((self._disk.moment, (topic, queue_id), end))

    def _note_tables(self, *, topics_promised: bool = False) -> None:
        promises, plane = self._promises, self._control.plane
        done = self._disk.moment
        table = topics_in(self._control)
        if promises.topic_tables[-1] != table:
            promises.topic_tables.append(table)
        if topics_promised or not plane.topics.unsaved:
            promises.topics_safe.append((done, len(promises.topic_tables) - 1))
        offsets = offsets_in(self._control)
        for queue in promises.commits.keys() | offsets.keys():
            row = promises.commits.setdefault(queue, [None])
            if row[-1] != offsets.get(queue):
                row.append(offsets.get(queue))
        if not plane.offsets.unsaved:
            promises.commits_safe.append(
                (done, {queue: len(row) - 1 for queue, row in promises.commits.items()})
            )


def topics_in(control: ControlRoom) -> dict[str, tuple[int, int, int]]:
    """The topic table, as far as it is compared."""
    return {
        name: (config.read_queue_nums, config.write_queue_nums, int(config.perm))
        for name, config in control.plane.topics.configs.items()
    }


def offsets_in(control: ControlRoom) -> dict[Queue, int]:
    """The committed offsets of the one group."""
    return {
        (key.topic, queue_id): offset
        for key, row in control.plane.offsets._table.items()
        for queue_id, offset in row.items()
    }


def recover(root: Path, *, sync: bool, instance: str | None = None) -> Found:
    """Open a store as a starting broker does, look at everything in it, and leave it so.

    The tables are those on the disk: a built-in topic that lacks is not added.
    """
    if instance is not None:
        store_dir = root / STORE
        boot.rescue(settings_of(store_dir, sync=sync), instance, store_dir=store_dir)
    with opened(root, sync=sync) as (house, control):
        return look(house, topics=topics_in(control), offsets=offsets_in(control))


def reopen(root: Path, *, sync: bool) -> None:
    """Open a store as recover() does, without looking at it."""
    with opened(root, sync=sync):
        pass


@contextmanager
def opened(root: Path, *, sync: bool) -> Iterator[tuple[House, ControlRoom]]:
    """A store that was opened as a starting broker does, and its tables."""
    store_dir = root / STORE
    with House(
        store_dir,
        settings=settings_of(store_dir, sync=sync),
        clean=not abortfile.is_there(store_dir),
        queues_max=QUEUES_MAX,
    ) as house:
        control = ControlRoom(store_dir / "config", queues=house.arena.queues, built_in=())
        try:
            yield house, control
        finally:
            control.close()


def look(
    house: House, *, topics: dict[str, tuple[int, int, int]], offsets: dict[Queue, int]
) -> Found:
    """All that an opened store shows."""
    queues = house.arena.queues
    minimum: dict[Queue, int] = {}
    messages: dict[Queue, list[Message]] = {}
    for topic, slots in queues.topics().items():
        for queue_id, slot in slots.items():
            queue = (topic, queue_id)
            minimum[queue] = queues.min_offset(slot)
            messages[queue] = [
                Message(queue, one.queue_offset, one.physical_offset, one.body)
                for one in house.messages(topic, queue_id)
            ]
    return Found(
        end=house.end,
        log_record_count=_count_records(house),
        min_offsets=minimum,
        messages=messages,
        topics=topics,
        offsets=offsets,
    )


def _count_records(house: House) -> int:
    """Records that the log holds before its end."""
    file_size = house.settings.mapped_file_size_commit_log
    files = LogFiles(boot.commitlog_dir(house.settings, house.store_dir), file_size=file_size)
    rows = np.zeros((4096, 10), dtype=np.int64)
    found = 0
    for start in range(house.word(Word.LOG_START), house.end, file_size):
        data = files.read(start, min(file_size, house.end - start))
        count, _position, _stop = walk(data, 0, rows, checked=True)
        found += count
    files.close()
    return found


def remove_segments(instance: str) -> None:
    """Remove what a killed broker left in memory, as a power cut does."""
    remove_remnants(instance)
