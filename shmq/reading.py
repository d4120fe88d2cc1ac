"""Reading what was stored: entries of a queue and records of the commitlog, hot or from files.

To the caller the two look the same. What lies in shared memory is copied first, then it is checked
that it was not recycled meanwhile; if it was, the files have it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from shmq.errors import StoreError
from shmq.kernels.gather import gather
from shmq.layout import record
from shmq.layout.control import Word
from shmq.layout.cqentry import ENTRY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shmq.shm.queuetable import QueueTable
    from shmq.shm.words import WordReader
    from shmq.store.commitlog import LogFiles
    from shmq.store.consumequeue import QueueFiles

AHEAD_ENTRIES: Final = 1024
AHEAD_SLOTS_MAX: Final = 256
"""Queues of which entries are kept that were read ahead: 20 KiB each."""
_INT: Final = struct.Struct(">i")
_LONG: Final = struct.Struct(">q")
_PLACE: Final = struct.Struct(">qi")
HEAD_SIZE: Final = record.STORE_TIMESTAMP_AT + _LONG.size + record.IPV6_EXTRA
"""As much of a record as has its store timestamp, whatever its hosts are."""
STAMP_SIZE: Final = HEAD_SIZE - record.SYS_FLAG_AT
"""From the sys flag, which tells where the store timestamp is, to its end."""


class SharedPages(Protocol):
    """What a reader needs of the shared memory: an Arena, or a native client's session."""

    @property
    def pool(self) -> memoryview:
        """The hot commitlog pages."""

    @property
    def queues(self) -> QueueTable:
        """The queue table."""

    def reader(self, word: Word) -> WordReader:
        """A word of the control segment."""


class Ahead:
    """Entries of one queue that were read from its files, and where its reader is."""

    __slots__ = ("entries", "first", "next")

    def __init__(self, first: int, entries: NDArray[np.void], next_offset: int) -> None:
        self.first = first
        self.entries = entries
        self.next = next_offset
        """Queue offset that a reader in order asks for next."""


class QueueReader:
    """Entries of any queue by its slot."""

    def __init__(self, *, arena: SharedPages, files: QueueFiles) -> None:
        self._queues = arena.queues
        self._files = files
        size = self._queues.slots_max * self._queues.hot_entries * ENTRY.itemsize
        self._hot = np.frombuffer(self._queues.hot[:size], dtype=ENTRY).reshape(
            self._queues.slots_max, self._queues.hot_entries
        )
        self._ahead: dict[int, Ahead] = {}

    @property
    def file_entries(self) -> int:
        """Entries of one consumequeue file."""
        return self._files.file_entries

    def place(self, slot: int, offset: int) -> tuple[int, int]:
        """Physical offset and size of one visible entry's record; reads nothing ahead.

        Raises:
            StoreError: the entry is gone.
        """
        queues = self._queues
        if offset >= queues.hot_starts[slot]:
            at = (slot * queues.hot_entries + offset % queues.hot_entries) * ENTRY.itemsize
            place = _PLACE.unpack(bytes(queues.hot[at : at + _PLACE.size]))
            # SYNC POINT: dispatch grows the hot start before it overwrites an entry.
            if offset >= queues.hot_starts[slot]:
                return place
        topic, queue_id = queues.name(slot)
        entries = self._files.read(topic, queue_id, offset, 1)
        if not len(entries):
            raise StoreError("the queue has lost this entry", topic=topic, offset=offset)
        return int(entries[0]["physical_offset"]), int(entries[0]["size"])

    def entries(self, slot: int, first: int, count_max: int) -> NDArray[np.void]:
        """Entries from queue offset `first` on, as far as they are visible.

        Returns:
            cqentry.ENTRY array, shape (n,), no live view; n < count_max at the end of the queue, of
            a file, or of the hot ring.

        Raises:
            StoreError: the entries are gone.
        """
        queues = self._queues
        count = min(count_max, queues.max_offset(slot) - first)
        if count <= 0 or first < 0:
            return np.zeros(0, dtype=ENTRY)
        hot_start = queues.hot_starts[slot]
        if first >= hot_start:
            place = first % queues.hot_entries
            head = np.empty(
                count, dtype=ENTRY
            )  # Joined by hand: numpy would change the byte order.
            before_wrap = min(count, queues.hot_entries - place)
            head[:before_wrap] = self._hot[slot, place : place + before_wrap]
            head[before_wrap:] = self._hot[slot, : count - before_wrap]
            # SYNC POINT: dispatch grows the hot start before it overwrites an entry.
            if first >= queues.hot_starts[slot]:
                return head
        return self._from_files(slot, first, count, queues.hot_starts[slot] - first)

    def _from_files(self, slot: int, first: int, count: int, filed: int) -> NDArray[np.void]:
        """Entries of which `filed` are in the files: more are read ahead of who reads in order.

        Visible entries never change, so nothing that was read ahead is ever wrong.
        """
        count = min(count, filed)
        ahead = self._ahead.get(slot)
        if ahead is not None:
            at = first - ahead.first
            if at >= 0 and at + count <= len(ahead.entries):
                ahead.next = first + count
                return ahead.entries[at : at + count]
        wanted = count
        if ahead is not None and ahead.next == first:
            wanted = min(max(count, AHEAD_ENTRIES), filed)
        elif len(self._ahead) >= AHEAD_SLOTS_MAX:
            self._ahead.clear()
        topic, queue_id = self._queues.name(slot)
        entries = self._files.read(topic, queue_id, first, wanted)
        self._ahead[slot] = Ahead(first, entries, first + min(count, len(entries)))
        return entries[:count]


class StaleFiles:
    """Closes what retention deletes, once LOG_START has grown: else its space is not given back."""

    def __init__(
        self, *, arena: SharedPages, queue_files: QueueFiles, log_files: LogFiles | None = None
    ) -> None:
        self._queues = arena.queues
        self._log_start = arena.reader(Word.LOG_START)
        self._queue_files = queue_files
        self._log_files = log_files
        self._seen = self._log_start.load()

    def are_there(self) -> bool:
        """Whether LOG_START has grown since they were closed last; one look at a word."""
        return self._log_start.load() != self._seen

    def close(self) -> None:
        """Close them, if there are any."""
        # SYNC POINT: housekeeping raises min offsets before LOG_START.
        log_start = self._log_start.load()
        if log_start == self._seen:
            return
        self._seen = log_start
        if self._log_files is not None:
            self._log_files.forget_before(log_start)
        self._queue_files.forget_before(self._first_kept)

    def _first_kept(self, topic: str, queue_id: int) -> int:
        slot = self._queues.slot(topic, queue_id)
        return 0 if slot is None else self._queues.min_offset(slot)


class LogReader:
    """Records of the commitlog by physical offset."""

    def __init__(self, *, arena: SharedPages, files: LogFiles) -> None:
        self._pool = arena.pool
        self._files = files
        self._hot_start = arena.reader(Word.HOT_START)
        self._append_offset = arena.reader(Word.APPEND_OFFSET)
        self._log_start = arena.reader(Word.LOG_START)

    def gather(
        self, offsets: NDArray[np.int64], sizes: NDArray[np.int64], out: bytearray, at: int
    ) -> int:
        """Copy records back to back into `out` from `at` on; the end in `out`.

        `offsets` and `sizes` come from visible entries, ascending.

        Raises:
            StoreError: a record is gone or cannot be read.
        """
        hot_start = self._hot_start.load()
        cold = 0 if offsets[0] >= hot_start else int(offsets.searchsorted(hot_start))
        if cold:
            self._check_kept(int(offsets[0]))
            at = self._files.read_records(offsets[:cold], sizes[:cold], out, at)
        if cold == len(offsets):
            return at
        end = gather(self._pool, -1, offsets[cold:], sizes[cold:], out, at)
        # SYNC POINT: the writer grows HOT_START before it uses a page again.
        if self._hot_start.load() <= offsets[cold]:
            return end
        return self._files.read_records(offsets[cold:], sizes[cold:], out, at)

    def _check_kept(self, offset: int) -> None:
        """Refuse what retention deletes, whether its file is gone yet or not."""
        log_start = self._log_start.load()
        if offset < log_start:
            raise StoreError("deleted", physical_offset=offset, log_start=log_start)

    def reach(self, offset: int) -> None:
        """Make sure that records from `offset` on can be read, now or from their file later.

        Raises:
            StoreError: the file is gone or cannot be opened.
        """
        if offset < self._hot_start.load():
            self._check_kept(offset)
            self._files.open_at(offset)

    def record(self, offset: int, size: int) -> bytes:
        """Bytes of the log, whatever they are.

        Raises:
            StoreError: they are not there.
        """
        self._check(offset, size)
        out = bytearray(size)
        self.gather(np.array([offset]), np.array([size]), out, 0)
        return bytes(out)

    def _check(self, offset: int, size: int) -> None:
        start, end = self._log_start.load(), self._append_offset.load()
        if size <= 0 or offset < start or offset + size > end:
            raise StoreError(
                "not in the commitlog", physical_offset=offset, size=size, allowed=(start, end)
            )

    @property
    def start(self) -> int:
        """Physical offset of the first record that is kept."""
        return self._log_start.load()

    def store_timestamp(self, offset: int, size: int) -> int:
        """Store timestamp of the record at `offset`, ms: one read of STAMP_SIZE bytes.

        Raises:
            StoreError: the record is not there.
        """
        self._check(offset, size)
        at = offset + record.SYS_FLAG_AT
        head = self._few_bytes(at, STAMP_SIZE)
        if len(head) < STAMP_SIZE:
            raise StoreError("commitlog file is shorter than its records", physical_offset=offset)
        (flags,) = _INT.unpack_from(head)
        extra = record.IPV6_EXTRA if flags & record.BORN_HOST_V6 else 0
        (stamp,) = _LONG.unpack_from(head, record.STORE_TIMESTAMP_AT - record.SYS_FLAG_AT + extra)
        return int(stamp)

    def _few_bytes(self, offset: int, size: int) -> bytes:
        """Bytes of the log that lie in one file, read for themselves."""
        if offset >= self._hot_start.load():
            at = offset % len(self._pool)
            head = bytes(self._pool[at : at + size])
            head += bytes(self._pool[: size - len(head)])
            # SYNC POINT: the writer grows HOT_START before it uses a page again.
            if self._hot_start.load() <= offset:
                return head
        return self._files.read(offset, size)

    def whole_record(self, offset: int) -> bytes:
        """The record that begins at `offset`, by its own size.

        Raises:
            StoreError: no record begins there.
        """
        size, magic = record.head(self.record(offset, record.BLANK_HEAD_SIZE))
        if magic not in {record.MAGIC_V1, record.MAGIC_V2} or size < record.RECORD_SIZE_MIN:
            raise StoreError("no record begins here", physical_offset=offset)
        (found,) = _LONG.unpack_from(self.record(offset, HEAD_SIZE), record.PHYSICAL_OFFSET_AT)
        if found != offset:  # Bytes that a client stored, in the middle of a record.
            raise StoreError("no record begins here", physical_offset=offset, found=found)
        return self.record(offset, size)
