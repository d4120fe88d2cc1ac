"""The native transport: sends go through the ring, reads come from shared memory."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from shmq.client.batch import Batch, split
from shmq.client.flow import start
from shmq.client.nativeread import NativeReader
from shmq.client.reading import PULL_SIZE_MAX, PulledQueue, PullPath
from shmq.client.route import MASTER
from shmq.errors import ClientError, RequestRefused, StoreError, Unavailable
from shmq.layout.javahash import hash_code

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shmq.client.core import Core
    from shmq.client.model import Queue
    from shmq.client.nativelink import NativeLink
    from shmq.client.nativesession import NativeSession
    from shmq.client.transport import QueueReader
    from shmq.wire.pull import Subscription

ENTRIES_AT_ONCE: Final = 4096
"""Entries that one take() looks at, at most, for one that is wanted."""
SHORT_LOOK_S: Final = 0.005
LOOK_S: Final = 0.1
"""Longest sleep where something else than the session may end it."""
_log: Final = logging.getLogger("shmq.client")


class NativeQueue:
    """One queue being read from shared memory; by pulls when that is not given."""

    def __init__(self, path: NativeReaderPath, queue: Queue, offset: int) -> None:
        self.queue = queue
        self._path = path
        self._offset = offset
        self._pulled: PulledQueue | None = None
        self._known: tuple[NativeReader | None, int | None] = (None, None)
        """A reader, and the queue's slot in its table: the same as long as there is that table."""
        self.seen_end = 0
        """End of the queue when its growth was last told of."""
        path.add(self)

    @property
    def next_offset(self) -> int:
        """All messages before it were given by take(), or are not wanted."""
        if self._pulled is not None:
            return self._pulled.next_offset
        reader = self._path.reader()
        slot = self._slot(reader)
        if reader is not None and slot is not None:
            self._correct(*reader.bounds(slot))
        return self._offset

    def _slot(self, reader: NativeReader | None) -> int | None:
        """Slot of the queue in the reader's table, None while it has none."""
        known, slot = self._known
        if known is not reader or slot is None:
            slot = None
            if reader is not None:
                slot = reader.slot(self.queue.topic, self.queue.queue_id)
            self._known = (reader, slot)
        return slot

    def _correct(self, first: int, end: int) -> None:
        """Go on within what there is, if the offset is of what is deleted or does not exist."""
        offset = min(max(self._offset, first), max(end, first))
        if offset != self._offset:
            _log.warning("%s has no offset %d, going on at %d", self.queue, self._offset, offset)
            self._offset = offset

    def take(self) -> Batch | None:
        """The next messages, None if there are none now."""
        if self._pulled is None:
            if self._is_at_end():
                return None
            if not self._path.gives_up(self.queue):
                reader = self._path.reader()
                if reader is None:
                    return None
                try:
                    return self._take(reader)
                except (StoreError, RequestRefused) as error:
                    _log.info("reading %s goes on by pulls: %s", self.queue, error)
                except Unavailable:
                    return None  # The link opens another session, and then wakes us.
            self._pulled = self._path.open_pulled(self.queue, self._offset)
        return self._pulled.take()

    def _is_at_end(self) -> bool:
        """Whether there is nothing new, if that is easily said."""
        reader, slot = self._known
        if slot is None or reader is None or reader is not self._path.reader():
            return False
        return reader.end(slot) == self._offset

    def _take(self, reader: NativeReader) -> Batch | None:
        slot = self._slot(reader)
        if slot is None:
            return None
        path = self._path
        with path.reading:
            looked = 0
            batch: Batch | None
            while looked < ENTRIES_AT_ONCE:
                self._correct(*reader.bounds(slot))
                offset = self._offset
                codes = path.codes(self.queue.topic)
                if codes is None:
                    batch = reader.few(self.queue, slot, offset, path.count_max)
                    if batch is not None:
                        self._offset = batch.next_offset
                        return batch
                try:
                    raw = reader.batch(slot, offset, path.count_max)
                except (StoreError, RequestRefused):
                    if reader.bounds(slot)[0] <= offset:
                        raise
                    continue  # It was deleted meanwhile.
                if raw is None:
                    return None
                count = raw.fitting(PULL_SIZE_MAX)
                looked += count
                batch = None
                if codes is None:
                    batch = raw.lazy(self.queue, count, None, offset + count)
                else:
                    wanted = np.flatnonzero(np.isin(raw.tags_codes[:count], codes))
                    if len(wanted):
                        batch = path.cut(raw.lazy(self.queue, count, wanted, offset + count))
                self._offset = offset + count
                if batch is not None:
                    return batch
        path.wake()  # There is more to look at.
        return None

    def has_grown(self) -> bool:
        """Whether there is more than was told of; remembers it as told."""
        reader = self._path.current
        if self._pulled is not None or reader is None:
            return False
        slot = self._slot(reader)
        if slot is None:
            return False
        return reader.end(slot) > max(self.seen_end, self._offset)

    @property
    def is_pulled(self) -> bool:
        """Whether it is read by pulls."""
        return self._pulled is not None

    def has_more(self) -> bool:
        """Whether there is something to take."""
        reader = self._path.current
        if self._pulled is not None or reader is None:
            return False
        slot = self._slot(reader)
        return slot is not None and reader.end(slot) > self._offset

    def note_told(self) -> None:
        """Its growth is being told of."""
        reader = self._path.current
        if reader is not None:
            slot = self._slot(reader)
            if slot is not None:
                self.seen_end = reader.end(slot)

    def seek(self, offset: int) -> None:
        """Go on at this offset."""
        self._offset = offset
        if self._pulled is not None:
            self._pulled.seek(offset)
        self._path.wake()

    def stop(self) -> None:
        """Read no more."""
        self._path.remove(self)
        if self._pulled is not None:
            self._pulled.stop()


class NativeReaderPath(PullPath):
    """Reads the queues of one consumer from shared memory."""

    def __init__(
        self,
        core: Core,
        link: NativeLink,
        *,
        group: str,
        subscriptions: Mapping[str, Subscription],
        version: int,
        count_max: int,
        on_moved: Callable[[Queue, int, int], None],
    ) -> None:
        super().__init__(
            core,
            group=group,
            subscriptions=subscriptions,
            version=version,
            count_max=count_max,
            on_moved=on_moved,
        )
        self.reading = threading.Lock()
        self.count_max = count_max
        self._link = link
        self._queues: set[NativeQueue] = set()
        self._session: NativeSession | None = None
        self.current: NativeReader | None = None
        """Of the session that there is now."""
        self.looks_itself = False
        """Whether a thread that waits for messages looks for news by itself."""
        self._introduced = False
        self._codes = {
            topic: None if one.is_all else np.array([hash_code(tag) for tag in one.tags])
            for topic, one in subscriptions.items()
        }

    def open(self, queue: Queue, offset: int) -> QueueReader:
        """Begin to read a queue."""
        if not self._introduced:
            self._introduced = True
            start(self._introduce(queue, offset))
        return NativeQueue(self, queue, offset)

    async def _introduce(self, queue: Queue, offset: int) -> None:
        """Pull once, so that the broker knows the group, which may have no heartbeats."""
        try:
            await self.pull(queue, offset, MASTER, fresh=False, hold=False)
        except ClientError as error:
            _log.info("group %s is not introduced: %s", self._group, error)

    def open_pulled(self, queue: Queue, offset: int) -> PulledQueue:
        """Begin to read a queue by pulls."""
        return PulledQueue(self, queue, offset)

    def gives_up(self, queue: Queue) -> bool:
        """Whether a queue cannot be read from shared memory."""
        session = self._link.session
        foreign = session is not None and session.facts.broker_name != queue.broker
        return self._link.refused or foreign

    def reader(self) -> NativeReader | None:
        """Reads over the present session; None while there is none."""
        session = self._link.session
        if session is not self._session:
            with self.reading:
                self.current = None if session is None else NativeReader(session)
                self._session = session
        return self.current

    def codes(self, topic: str) -> np.ndarray[tuple[int], np.dtype[np.int64]] | None:
        """Tags codes that are wanted; None: all."""
        return self._codes[topic]

    def cut(self, batch: Batch) -> Batch | None:
        """The messages of a batch whose tags are wanted by their text; None: there is none."""
        return split(
            batch.queue,
            batch.data,
            next_offset=batch.next_offset,
            count_max=len(batch),
            tags=self._tags[batch.queue.topic],
        )

    def add(self, queue: NativeQueue) -> None:
        """One more queue is read."""
        with self.lock:
            self._queues.add(queue)
        self._link.listen(self)

    def remove(self, queue: NativeQueue) -> None:
        """One less."""
        with self.lock:
            self._queues.discard(queue)
            left = bool(self._queues)
        if not left:
            self._link.unlisten(self)

    def has_grown(self) -> bool:
        """Whether a queue has grown since the last wake()."""
        self._release()
        return any(queue.has_grown() for queue in list(self._queues))

    def wait(self, state: int, timeout: float | None) -> None:
        """Wait until state() is another, or a queue has something to take.

        The calling thread sleeps on the session's own bell, if all queues are read from it.
        """
        session, reader = self._session, self.current
        direct = session is not None and session is self._link.session and reader is not None
        if not direct or any(queue.is_pulled for queue in list(self._queues)):
            self.looks_itself = False
            super().wait(state, LOOK_S if timeout is None else min(timeout, LOOK_S))
            return
        assert session is not None
        if not self.looks_itself:
            self.looks_itself = True
            self._link.look_out()  # It is not to listen for us any more.
        if self._link.hears_news:  # For others, or not yet: then it wakes us too.
            super().wait(state, SHORT_LOOK_S)
            return
        try:
            session.wait_news(lambda: self.state() != state or self._something_to_take(), timeout)
        except Unavailable:  # The link opens another session, and then wakes us.
            self.looks_itself = False
            super().wait(state, LOOK_S if timeout is None else min(timeout, LOOK_S))

    def _release(self) -> None:
        """Whoever looks for news now and then also lets go of what the broker has deleted."""
        if self.current is not None:
            self.current.release()

    def _something_to_take(self) -> bool:
        self._release()
        return any(queue.has_more() for queue in list(self._queues))

    def when_ready(self, state: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once when state() is another; gives a function that calls that off."""
        self.looks_itself = False
        undo = super().when_ready(state, callback)
        self._link.look_out()
        return undo

    def wake(self) -> None:
        """End all waiting."""
        for queue in list(self._queues):
            queue.note_told()
        super().wake()
