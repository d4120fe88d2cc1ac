"""Reading by pulls: the ReaderPath of every address but shared memory.

One pull of a queue is on its way at any time, unless enough of the queue was read ahead:

    PULLING --(messages; room for more)--> PULLING
       | ^--(nothing new within the hold; refused, after a pause)
       +--(messages; no room)--> FULL --(take() made room, seek())--> PULLING
    any --(stop())--> gone
    PULLING --(moved: deleted messages, an operator's reset)--> the owner seeks --> PULLING
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from shmq.client.batch import Batch, split
from shmq.client.bell import Bell
from shmq.client.flow import Cancelled, Done, Flow, Wait
from shmq.client.model import Queue
from shmq.client.route import MASTER
from shmq.errors import Closed, ProtocolError, Refused, ShmqError
from shmq.units import MiB
from shmq.wire.codes import PullFlag, RequestCode, ResponseCode
from shmq.wire.frame import Frame
from shmq.wire.pull import RESET_NUMBER, TAG, Subscription

if TYPE_CHECKING:
    from shmq.client.core import Core
    from shmq.client.transport import QueueReader

HOLD_MS: Final = 15_000
PULL_TIMEOUT: Final = 30.0
READ_AHEAD_COUNT: Final = 8
"""Batches of one queue that are read ahead at most, and their size together:"""
READ_AHEAD_SIZE: Final = 4 * MiB
PULL_SIZE_MAX: Final = 1 * MiB
PAUSE_FIRST: Final = 0.05
PAUSE_MAX: Final = 1.0
PAUSE_FLOW_CONTROL: Final = 0.02
HELD_MIN: Final = 0.02
"""A broker that says sooner than this that there is nothing new does not hold pulls."""

_log: Final = logging.getLogger("shmq.client")


class PulledQueue:
    """One queue being read by pulls."""

    def __init__(self, path: PullPath, queue: Queue, offset: int) -> None:
        self.queue = queue
        self.next_offset = offset
        self._path = path
        self._lock = path.lock
        self._fetch_offset = offset
        self._ready: deque[tuple[Batch, int]] = deque()
        self._ready_size = 0
        self._broker_id = MASTER
        self._room: Done[None] | None = None
        self._flow: Flow[None] | None = None
        self._run = 0  # A run that is not the last one changes nothing any more.
        self._start(self._run)

    def _start(self, run: int) -> None:
        self._flow = Flow(self._read(run), self._ended)
        self._flow.start()

    def _ended(self, outcome: Exception | None) -> None:
        if isinstance(outcome, Exception) and not isinstance(outcome, (Cancelled, Closed)):
            _log.error("reading %s ended: %s", self.queue, outcome)

    def take(self) -> Batch | None:
        """The next batch that was read ahead."""
        with self._lock:
            if not self._ready:
                return None
            batch, size = self._ready.popleft()
            self._ready_size -= size
            self.next_offset = batch.next_offset if self._ready else self._fetch_offset
            room, self._room = self._room, None
        if room is not None:
            # Not in the application's thread: a signal there would end the reading for good.
            self._path.core.timers.after(0.0, partial(room, None))
        return batch

    def seek(self, offset: int) -> None:
        """Go on at this offset."""
        self.stop()
        with self._lock:
            run = self._run
            self._fetch_offset = self.next_offset = offset
        self._path.core.timers.after(0.0, partial(self._start, run))  # As in take().

    def stop(self) -> None:
        """Read no more."""
        with self._lock:
            self._run += 1
            self._ready.clear()
            self._ready_size = 0
            self._room = None
        if self._flow is not None:
            self._flow.cancel()

    @property
    def _is_full(self) -> bool:
        return len(self._ready) >= READ_AHEAD_COUNT or self._ready_size >= READ_AHEAD_SIZE

    def _await_room(self) -> Wait[None]:
        def begin(done: Done[None]) -> None:
            with self._lock:
                if self._is_full:
                    self._room = done
                    return
            done(None)

        return Wait(begin)

    async def _read(self, run: int) -> None:
        failures = 0
        path = self._path
        while self._run == run:
            if self._is_full:
                await self._await_room()
                continue
            asked_at = time.monotonic()
            try:
                frame = await path.pull(
                    self.queue, self._fetch_offset, self._broker_id, fresh=failures > 0
                )
                pause = self._accept(run, frame, time.monotonic() - asked_at)
                if pause is None:
                    return
            except (Cancelled, Closed):
                return
            except ShmqError as error:
                failures += 1
                self._broker_id = MASTER
                _log.info("pull of %s failed: %s", self.queue, error)
                await path.core.timers.sleep(min(PAUSE_MAX, PAUSE_FIRST * 2**failures))
                continue
            failures = 0
            if pause:
                await path.core.timers.sleep(pause)

    def _accept(self, run: int, frame: Frame, took: float) -> float | None:
        """Take an answer in; the seconds to wait before the next pull, None: there is none.

        Raises:
            Refused, ProtocolError: the answer is of no use.
        """
        code, ext = frame.header.code, frame.header.ext
        if code == ResponseCode.FLOW_CONTROL:
            return PAUSE_FLOW_CONTROL
        next_offset = self._path.next_offset(frame, self.queue)
        self._broker_id = int(ext.get("suggestWhichBrokerId") or MASTER)
        if code == ResponseCode.SUCCESS:
            batch = self._path.split(self.queue, frame.body, next_offset)
            self._add(run, batch, len(frame.body), next_offset)
            return 0.0
        if code == ResponseCode.PULL_OFFSET_MOVED:
            number = int(ext.get(RESET_NUMBER) or 0)
            if self._run == run:
                self._move(next_offset, number)
            return None
        self._add(run, None, 0, next_offset)
        idle = code == ResponseCode.PULL_NOT_FOUND and took < HELD_MIN
        return PAUSE_FIRST if idle else 0.0

    def _move(self, offset: int, number: int) -> None:
        """Have the owner seek: what was given before counts no more."""
        if not number:
            _log.warning(
                "%s has no offset %d, going on at %d", self.queue, self._fetch_offset, offset
            )
        # Not in this flow, which the seek ends.
        self._path.core.timers.after(0.0, partial(self._path.on_moved, self.queue, offset, number))

    def _add(self, run: int, batch: Batch | None, size: int, next_offset: int) -> None:
        with self._lock:
            if self._run != run:
                return
            self._fetch_offset = next_offset
            if batch is not None:
                self._ready.append((batch, size))
                self._ready_size += size
            elif self._ready:
                self._ready[-1][0].next_offset = next_offset
            else:
                self.next_offset = next_offset
        if batch is not None:
            self._path.wake()


class PullPath:
    """Reads the queues of one consumer by pulls."""

    def __init__(
        self,
        core: Core,
        *,
        group: str,
        subscriptions: Mapping[str, Subscription],
        version: int,
        count_max: int,
        on_moved: Callable[[Queue, int, int], None],
    ) -> None:
        """`on_moved` takes a queue, the offset to go on at, and the number of a reset or 0."""
        self.core = core
        self.on_moved = on_moved
        self.lock = threading.Lock()
        self._group = group
        self._subscriptions = subscriptions
        self._version = version
        self._count_max = count_max
        self._tags = {
            topic: None if one.is_all else frozenset(one.tags)
            for topic, one in subscriptions.items()
        }
        self._bell = Bell()
        self._callbacks: list[Callable[[], None]] = []

    def open(self, queue: Queue, offset: int) -> QueueReader:
        """Begin to read a queue."""
        return PulledQueue(self, queue, offset)

    def state(self) -> int:
        """A number that changes whenever something may be there to take."""
        return self._bell.count

    def wait(self, state: int, timeout: float | None) -> None:
        """Wait until state() is another."""
        self._bell.wait(state, timeout)

    def when_ready(self, state: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once when state() is another; gives a function that calls that off."""
        with self.lock:
            self._callbacks.append(callback)
        if self._bell.count != state:
            self._call_back()
        return lambda: self._forget(callback)

    def _forget(self, callback: Callable[[], None]) -> None:
        with self.lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def wake(self) -> None:
        """End all waiting."""
        self._bell.ring()
        self._call_back()

    def _call_back(self) -> None:
        with self.lock:
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    # For the queues

    async def pull(
        self, queue: Queue, offset: int, broker_id: int, *, fresh: bool, hold: bool = True
    ) -> Frame:
        """The answer to one pull, which the broker holds while there is nothing new."""
        routes = self.core.routes
        route = await routes.for_reading(queue.topic, fresh=fresh)
        endpoint = route.reader(queue.broker, broker_id)
        subscription = self._subscriptions[queue.topic]
        ext = {
            "consumerGroup": self._group,
            "topic": queue.topic,
            "queueId": str(queue.queue_id),
            "queueOffset": str(offset),
            "maxMsgNums": str(self._count_max),
            "sysFlag": str(int(PullFlag.SUBSCRIPTION | (PullFlag.SUSPEND if hold else 0))),
            "commitOffset": "0",
            "suspendTimeoutMillis": str(HOLD_MS),
            "subscription": subscription.text,
            "subVersion": str(self._version),
            "maxMsgBytes": str(PULL_SIZE_MAX),
            "expressionType": TAG,
        }
        connection = self.core.pool.get(endpoint)
        return await connection.ask(RequestCode.PULL_MESSAGE, ext, timeout=PULL_TIMEOUT)

    def next_offset(self, frame: Frame, queue: Queue) -> int:
        """Where the next pull goes on.

        Raises:
            Refused: the pull was refused.
        """
        header = frame.header
        if header.code not in {
            ResponseCode.SUCCESS,
            ResponseCode.PULL_NOT_FOUND,
            ResponseCode.PULL_RETRY_IMMEDIATELY,
            ResponseCode.PULL_OFFSET_MOVED,
        }:
            raise Refused("pull refused", code=header.code, remark=header.remark or "", queue=queue)
        try:
            return int(header.ext["nextBeginOffset"])
        except (KeyError, ValueError):
            raise ProtocolError("answer to a pull without its fields", found=header.ext) from None

    def split(self, queue: Queue, data: bytes, next_offset: int) -> Batch | None:
        """Batch of an answer's body."""
        return split(
            queue,
            data,
            next_offset=next_offset,
            count_max=self._count_max,
            tags=self._tags[queue.topic],
        )
