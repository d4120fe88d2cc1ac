"""Publishing: which queue a message goes to, another attempt when one fails, and the results.

    outcome of an attempt                       what follows
    stored (codes 0, 10, 11, 12)                done
    NotConnected, GO_AWAY, before any           failed at once: the address may be wrong
      connection was ever made
    NotConnected, GO_AWAY                       again, until `patience` is over; a restarting
                                                broker costs a pause, no error
    SYSTEM_BUSY, SERVICE_NOT_AVAILABLE          again with growing pauses, until the timeout
    TOPIC_NOT_EXIST, SYSTEM_ERROR,              again `retries` times with a fresh route, on
      NO_PERMISSION, 204, 205, Timeout          another broker if there is one, until the timeout
    any other code                              failed

The timeout counts from when a broker could be reached.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from shmq.client.flow import Cancelled, Done, Flow, Wait
from shmq.client.model import Queue, SendResult
from shmq.client.prepare import Prepared
from shmq.client.route import Route, Routes
from shmq.client.timers import Timers
from shmq.client.transport import ProducerPath, Stored, Submission
from shmq.errors import (
    ClientError,
    Closed,
    InvalidMessage,
    NotConnected,
    Refused,
    SendFailed,
    Timeout,
    TopicNotFound,
)
from shmq.layout.javahash import hash_code
from shmq.wire.codes import ResponseCode
from shmq.wire.messageid import parse_offset_message_id

COUNTED_CODES: Final = frozenset(
    {
        ResponseCode.TOPIC_NOT_EXIST,
        ResponseCode.SYSTEM_ERROR,
        ResponseCode.NO_PERMISSION,
        ResponseCode.NO_BUYER_ID,
        ResponseCode.NOT_IN_CURRENT_UNIT,
    }
)
BUSY_CODES: Final = frozenset({ResponseCode.SYSTEM_BUSY, ResponseCode.SERVICE_NOT_AVAILABLE})
PAUSE_FIRST: Final = 0.02
PAUSE_MAX: Final = 1.0
INT_MIN: Final = -(2**31)


class Parcel:
    """Messages of one topic that go to one queue together, and what is known of their way."""

    __slots__ = (
        "deadline",
        "group",
        "is_batch",
        "key",
        "lazy",
        "messages",
        "patience_end",
        "queue",
        "timeout",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        messages: Sequence[Prepared],
        *,
        group: str,
        queue: Queue | int | None,
        key: str | None,
        is_batch: bool,
        timeout: float,
        patience: float,
    ) -> None:
        now = time.monotonic()
        self.topic = topic
        self.messages = messages
        self.group = group
        self.queue = queue
        self.key = key
        self.is_batch = is_batch
        self.lazy = False
        """Whether who waits for the outcome looks for it by himself; see transport.Submission."""
        self.timeout = timeout
        self.deadline = now + timeout
        self.patience_end = now + max(patience, timeout)


class Delivered:
    """Results of a parcel; each is made when it is looked at."""

    __slots__ = ("messages", "queue", "stored")

    def __init__(self, queue: Queue, messages: Sequence[Prepared], stored: Stored) -> None:
        self.queue = queue
        self.messages = messages
        self.stored = stored

    def __len__(self) -> int:
        return len(self.messages)

    def result(self, index: int) -> SendResult:
        """Where the message of this number is."""
        status, queue_id, queue_offset, offset_ids, physical_offsets = self.stored
        offset_id = offset_ids[index]
        if physical_offsets is None:
            physical_offset = parse_offset_message_id(offset_id).physical_offset
        else:
            physical_offset = physical_offsets[index]
        return SendResult(
            self.queue.topic,
            self.queue.broker,
            queue_id,
            queue_offset + index,
            physical_offset,
            self.messages[index].unique_id,
            offset_id,
            status,
        )

    def results(self) -> list[SendResult]:
        """All, in the order of the messages."""
        return [self.result(index) for index in range(len(self.messages))]


class Publisher:
    """Sends parcels; from any thread, never waiting."""

    def __init__(
        self,
        *,
        routes: Routes,
        path: ProducerPath,
        timers: Timers,
        retries: int,
        ever_open: Callable[[], bool],
    ) -> None:
        self._routes = routes
        self._path = path
        self._timers = timers
        self._retries = retries
        self._ever_open = ever_open
        self._turns: dict[str, itertools.count[int]] = {}
        self._lock = threading.Lock()
        self._lookups: dict[str, deque[tuple[Parcel, Done[Delivered]]]] = {}
        """Parcels by topic whose route is being asked for."""

    def send(self, parcel: Parcel, done: Done[Delivered]) -> None:
        """Send; `done` gets the results or the error, once.

        Parcels keep their order, also those that wait for the topic's route.
        """
        topic = parcel.topic
        route = self._routes.cached_for_sending(topic)
        if route is None or topic in self._lookups:
            with self._lock:
                waiting = self._lookups.get(topic)
                if waiting is not None:
                    waiting.append((parcel, done))
                    return
                if route is None:
                    self._lookups[topic] = deque([(parcel, done)])
            if route is None:
                # Not in this thread: a signal in it must not end what others wait for.
                closed = Closed("client closed", topic=topic)
                self._timers.after(
                    0.0,
                    partial(self._begin_lookup, topic),
                    on_close=partial(self._looked_up, topic, closed),
                )
                return
        self._send_on(route, parcel, done)

    def _begin_lookup(self, topic: str) -> None:
        Flow(self._routes.for_sending(topic), partial(self._looked_up, topic)).start()

    def _looked_up(self, topic: str, outcome: Route | Exception) -> None:
        """Send what has waited for the route, in its order; from then on nobody waits."""
        while True:
            with self._lock:
                waiting = self._lookups[topic]
                if not waiting:
                    del self._lookups[topic]
                    return
                parcel, done = waiting.popleft()
            if isinstance(outcome, Route):
                self._send_on(outcome, parcel, done)
            else:
                Flow(self._deliver(parcel, outcome), done).start()

    def _send_on(self, route: Route, parcel: Parcel, done: Done[Delivered]) -> None:
        try:
            queue = self._choose(route, parcel, avoid=None)
            submission = self._submission(route, parcel, queue)
        except ClientError as error:
            Flow(self._deliver(parcel, error), done).start()
            return

        def answered(outcome: Stored | Exception) -> None:
            if isinstance(outcome, Stored):
                done(Delivered(queue, parcel.messages, outcome))
            else:
                Flow(self._deliver(parcel, outcome, queue.broker), done).start()

        self._path.submit(submission, answered)

    def send_again(
        self, parcel: Parcel, error: Exception, broker: str, done: Done[Delivered]
    ) -> None:
        """Send what has failed once, at this broker, by another way."""
        Flow(self._deliver(parcel, error, broker), done).start()

    def send_oneway(self, parcel: Parcel) -> None:
        """Send to where the topic is known to be, without an answer.

        Raises:
            NotConnected: it could not even be written.
        """
        route = self._routes.cached_for_sending(parcel.topic)
        assert route is not None, "the caller has asked for the route"
        queue = self._choose(route, parcel, avoid=None)
        error = self._path.submit_oneway(self._submission(route, parcel, queue))
        if error is not None:
            raise error

    def await_room(self, topic: str, timeout: float) -> None:
        """Wait while much is to be written to the brokers of a topic."""
        route = self._routes.cached_for_sending(topic)
        if route is not None:
            for addresses in route.brokers.values():
                for endpoint in addresses.values():
                    if self._path.is_full(endpoint):
                        self._path.await_room(endpoint, timeout)

    # Attempts

    async def _deliver(
        self, parcel: Parcel, error: Exception | None, broker: str | None = None
    ) -> Delivered:
        """Send until it is stored or hopeless; `error` is that of an attempt made already."""
        attempts, pauses = (0, 0) if error is None else (1, 0)
        while True:
            if error is not None:
                attempts, pauses = await self._pause(parcel, error, attempts, pauses)
            try:
                fresh = error is not None
                route = await self._routes.for_sending(parcel.topic, fresh=fresh)
                queue = self._choose(route, parcel, avoid=broker)
                broker = queue.broker
                if error is not None and _is_lost(error):
                    parcel.deadline = time.monotonic() + parcel.timeout
                stored = await self._attempt(self._submission(route, parcel, queue))
            except (Cancelled, Closed, InvalidMessage):
                raise
            except ClientError as failure:
                error = failure
                attempts += 1
            else:
                return Delivered(queue, parcel.messages, stored)

    def _attempt(self, submission: Submission) -> Wait[Stored]:
        return Wait(lambda done: self._path.submit(submission, done))

    async def _pause(
        self, parcel: Parcel, error: Exception, attempts: int, pauses: int
    ) -> tuple[int, int]:
        """Wait before the next attempt.

        Gives the attempts that count, and the pauses made.

        Raises:
            ClientError: there will be no other.
        """
        now = time.monotonic()
        if not isinstance(error, ClientError) or isinstance(error, (Cancelled, Closed)):
            raise error
        code = error.code if isinstance(error, Refused) else None
        lost = _is_lost(error)
        if lost:
            if not self._ever_open() or now >= parcel.patience_end:
                raise failed(error, attempts)
            attempts -= 1
        elif code in BUSY_CODES:
            attempts -= 1
        elif (
            not (code in COUNTED_CODES or isinstance(error, (Timeout, TopicNotFound)))
            or attempts > self._retries
        ):
            raise failed(error, attempts)
        pause = 0.0 if attempts and not pauses else min(PAUSE_MAX, PAUSE_FIRST * 2**pauses)
        end = parcel.patience_end if lost else min(parcel.deadline, parcel.patience_end)
        if now >= end:
            raise failed(error, attempts)
        await self._timers.sleep(min(pause, end - now))
        return attempts, pauses + 1

    def _submission(self, route: Route, parcel: Parcel, queue: Queue) -> Submission:
        left = min(parcel.deadline, parcel.patience_end) - time.monotonic()
        return Submission(
            route.master(queue.broker),
            queue,
            parcel.group,
            parcel.messages,
            parcel.is_batch,
            max(left, 0.001),
            parcel.lazy,
        )

    def _choose(self, route: Route, parcel: Parcel, *, avoid: str | None) -> Queue:
        """The queue that was asked for, that of the key, or the next in turn."""
        queues = route.write_queues
        wanted = parcel.queue
        if wanted is not None:
            return _wanted(queues, parcel.topic, wanted)
        if parcel.key is not None:
            # As Java's SelectMessageQueueByHash: Math.abs leaves the smallest int negative.
            value = hash_code(parcel.key)
            index = 0 if value == INT_MIN else abs(value) % len(queues)
            return queues[index]
        turn = self._turns.get(parcel.topic)
        if turn is None:
            turn = self._turns.setdefault(parcel.topic, itertools.count(hash_code(parcel.topic)))
        for _ in range(len(queues)):
            queue = queues[next(turn) % len(queues)]
            if queue.broker != avoid:
                return queue
        return queue


def _wanted(queues: tuple[Queue, ...], topic: str, wanted: Queue | int) -> Queue:
    """The queue that the caller named."""
    if isinstance(wanted, Queue):
        if wanted in queues:
            return wanted
    else:
        for queue in queues:
            if queue.queue_id == wanted:
                return queue
    raise InvalidMessage(
        "no such queue to send to", topic=topic, queue=wanted, queue_count=len(queues)
    )


def _is_lost(error: Exception) -> bool:
    """Whether the broker is away, perhaps for a moment only."""
    return isinstance(error, NotConnected) or (
        isinstance(error, Refused) and error.code == ResponseCode.GO_AWAY
    )


def failed(error: ClientError, attempts: int) -> ClientError:
    """The error that the caller of a send gets."""
    if isinstance(error, Refused):
        facts = {key: value for key, value in error.facts.items() if key not in {"code", "remark"}}
        return SendFailed(
            "message not stored",
            code=error.code,
            remark=error.remark,
            attempts=max(attempts, 1),
            **facts,
        )
    return error
