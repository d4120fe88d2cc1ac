"""A broker's store and shared memory in one process: roles are made here and stepped by tests."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from shmq.config import Settings
from shmq.layout import record
from shmq.layout import ring as ring_layout
from shmq.layout.control import Word
from shmq.layout.record import Record
from shmq.reading import LogReader, QueueReader
from shmq.shm.arena import Arena, ArenaSizes
from shmq.shm.ring import Ring
from shmq.store.commitlog import LogFiles
from shmq.store.consumequeue import QueueFiles
from shmq.store.disk import DISK, Disk
from shmq.units import KiB
from shmq.workers import boot, dispatch, flush, index, writer
from shmq.workers.context import Context
from shmq.workers.giveway import GiveWay

_numbers = itertools.count()
MESSAGE_SIZE_MAX = 8 * KiB
POOL_SIZE = 512 * KiB
LOG_FILE_SIZE = 64 * KiB
QUEUE_FILE_SIZE = 40 * 20
INDEX_SLOTS = 100
INDEX_ENTRIES = 400


def instance_name() -> str:
    """A name that no other arena has."""
    return f"test-{os.getpid()}-{next(_numbers)}"


def small_settings(store_dir: Path, **more: Any) -> Settings:
    """Settings of a store with small files."""
    values: dict[str, Any] = {
        "store_path_root_dir": str(store_dir),
        "mapped_file_size_commit_log": LOG_FILE_SIZE,
        "mapped_file_size_consume_queue": QUEUE_FILE_SIZE,
        "max_message_size": MESSAGE_SIZE_MAX,
        "hot_page_size": 16 * KiB,
        "max_hash_slot_num": INDEX_SLOTS,
        "max_index_num": INDEX_ENTRIES,
    }
    return Settings(**(values | more))


class Done(NamedTuple):
    """A completion."""

    status: int
    physical_offset: int
    queue_offset: int
    store_timestamp: int


class Producer:
    """The submitting side of a ring, as a serve process has it; keeps no state of its own."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self._head = 0

    def submit(self, slot: int, *records: bytes, code: int = 0, data: bytes | None = None) -> int:
        """Put one entry into the ring, a batch when there are several records; its number."""
        ring = self.ring
        sequence = ring.submitted.load()
        assert sequence - ring.completed.load() < ring.entry_count, "ring is full"
        if data is None:
            codes = np.full(len(records), code, dtype=np.int64).tobytes()
            data = (codes if len(records) > 1 else b"") + b"".join(records)
        if self._head + len(data) > ring.data_size:
            self._head = 0
        ring.data[self._head : self._head + len(data)] = data
        entry = np.zeros((), dtype=ring_layout.ENTRY)
        entry["data_position"] = self._head
        entry["data_size"] = len(data)
        entry["record_count"] = max(len(records), 1)
        entry["slot"] = slot
        entry["tags_code"] = code
        ring.entry_array()[sequence % ring.entry_count] = entry
        self._head += (len(data) + 7) // 8 * 8
        ring.submitted.publish(sequence + 1)
        return sequence

    def done(self, sequence: int) -> Done:
        """The completion of an entry, which must be there."""
        assert sequence < self.ring.completed.load(), "not completed"
        status, _, *rest = self.ring.completion_array()[sequence % self.ring.entry_count].tolist()
        return Done(status, *rest)

    @property
    def waiting(self) -> int:
        """Number of entries that are not completed."""
        return self.ring.submitted.load() - self.ring.completed.load()


class House:
    """Store, arena and the roles' makers of one broker."""

    def __init__(
        self,
        store_dir: Path,
        *,
        settings: Settings | None = None,
        clean: bool = False,
        serve_count: int = 1,
        pool_size: int = POOL_SIZE,
        hot_entries: int = 16,
        queues_max: int = 64,
        ring_entries: int = 64,
        instance: str | None = None,
        native: bool = False,
        disk: Disk = DISK,
    ) -> None:
        self.store_dir = store_dir
        self.settings = settings or small_settings(store_dir)
        self.instance = instance or instance_name()
        self.arena = Arena.create(
            self.instance,
            ArenaSizes(
                serve_count=serve_count,
                pool_size=pool_size,
                queues_max=queues_max,
                hot_entries=hot_entries,
                ring_entries=ring_entries,
                ring_data_size=768 * KiB,
            ),
        )
        if native:
            self.arena.open_native_door()
        try:
            self.end = boot.open_store(
                self.settings, self.arena, store_dir=store_dir, clean=clean, disk=disk
            )
        except BaseException:
            self._files: list[Any] = []
            self.close()
            raise
        self.context = Context(
            settings=self.settings,
            instance=self.instance,
            store_dir=store_dir,
            run_dir=store_dir,
            started_ms=0,
            serve_count=serve_count,
            shared=self.arena,
            disk=disk,
            last_exit_clean=clean,
        )
        self.producers = [Producer(ring) for ring in self.arena.rings]
        self.producer = self.producers[0]
        self._files = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self, *, keep_segments: bool = False) -> None:
        """Remove the segments' names; close the bells, the roles' files and the readers'."""
        if not keep_segments:
            self.arena.unlink()
        for files in self._files:
            files.close()
        self._files.clear()
        for bell in self.arena.bells.values():
            bell.close()
        self.arena.bells.clear()

    # -- roles

    def writer(self) -> writer.WriterRole:
        """A new writer on what is published."""
        role = writer.make(self.context)
        self._files.append(role)
        return role

    def flush(self) -> flush.FlushRole:
        """A new flush on what is published."""
        role = flush.make(self.context)
        self._files.append(role)
        return role

    def dispatch(self) -> dispatch.DispatchRole:
        """A new dispatch on what is published."""
        role = dispatch.make(self.context)
        self._files.append(role)
        return role

    def index(self) -> index.IndexRole:
        """A new index role on what is published."""
        role = index.make(self.context, give_way=GiveWay(set_policy=lambda _policy: None))
        self._files.append(role)
        return role

    # -- looking

    def word(self, word: Word) -> int:
        """A word's value."""
        return self.arena.reader(word).load()

    def slot(self, topic: str, queue_id: int = 0) -> int:
        """Slot of a queue, made if it is new."""
        return self.arena.queues.allocate(topic, queue_id)

    def queue_reader(self) -> QueueReader:
        """A reader of entries; its files are closed with the house."""
        files = QueueFiles(
            self.store_dir / "consumequeue",
            file_size=self.settings.mapped_file_size_consume_queue,
        )
        self._files.append(files)
        return QueueReader(arena=self.arena, files=files)

    def log_reader(self) -> LogReader:
        """A reader of records; its files are closed with the house."""
        files = LogFiles(
            boot.commitlog_dir(self.settings, self.store_dir),
            file_size=self.settings.mapped_file_size_commit_log,
        )
        self._files.append(files)
        return LogReader(arena=self.arena, files=files)

    def messages(self, topic: str, queue_id: int = 0) -> list[Record]:
        """All visible messages of a queue, as a consumer would read them, checked."""
        queues, log = self.queue_reader(), self.log_reader()
        slot = self.arena.queues.slot(topic, queue_id)
        assert slot is not None, (topic, queue_id)
        found: list[Record] = []
        at = self.arena.queues.min_offset(slot)
        while at < self.arena.queues.max_offset(slot):
            entries = queues.entries(slot, at, 1000)
            assert len(entries)
            for offset, size, code in entries.tolist():
                one = record.decode(log.record(offset, size))
                assert (one.topic, one.queue_id, one.queue_offset) == (topic, queue_id, at)
                assert one.physical_offset == offset
                assert code == 0 or one.topic
                found.append(one)
                at += 1
        return found

    def bodies(self, topic: str, queue_id: int = 0) -> list[bytes]:
        """Bodies of all visible messages of a queue."""
        return [one.body for one in self.messages(topic, queue_id)]


def encode(topic: str, body: bytes, *, queue_id: int = 0, **fields: Any) -> bytes:
    """A record as a submitter encodes it: what the writer owns is zero."""
    return record.encode(
        Record(
            topic=topic,
            body=body,
            queue_id=queue_id,
            magic=record.magic_for(topic),
            born_timestamp=1,
            **fields,
        )
    )
