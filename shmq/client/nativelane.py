"""Single bodies straight into the ring: what Producer.post() does when nothing stands against it.

    post() --plain body, session open, nobody waits, room--> ring --completed--> ticket
       +--else--> None: the general way (publish.py), which keeps the order

What ends otherwise than well (refused, the session is lost) is handed to the general way, which
tries again by its rules, with the same id.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from shmq.client.flow import call_safely
from shmq.client.model import SendResult, SendStatus
from shmq.client.nativerecord import target_of
from shmq.client.prepare import Prepared, properties_of
from shmq.client.publish import Delivered, Parcel
from shmq.client.uniqueid import COUNTER_MASK
from shmq.errors import NotConnected, Timeout
from shmq.wire.messageid import offset_message_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from shmq.client.core import Core
    from shmq.client.model import Queue
    from shmq.client.nativelink import NativeLink
    from shmq.client.nativesession import NativeSession
    from shmq.client.route import Route
    from shmq.client.window import Window
    from shmq.errors import ClientError
    from shmq.kernels.produce import Target


class LaneTicket:
    """One posted body; see tickets.Ticket."""

    __slots__ = (
        "_callbacks",
        "_lane",
        "body",
        "counter",
        "deadline",
        "outcome",
        "physical_offset",
        "place",
        "queue",
        "queue_offset",
        "stamp",
    )

    def __init__(
        self,
        lane: Lane,
        body: bytes | memoryview,
        queue: Queue,
        *,
        place: tuple[bytes, int],
        stamp: bytes,
        counter: int,
        deadline: float,
    ) -> None:
        self._lane = lane
        self.body: bytes | memoryview | None = body
        """As long as it may have to be sent again."""
        self.queue = queue
        self.place = place
        self.stamp = stamp
        self.counter = counter
        self.deadline = deadline
        self.physical_offset = -1
        self.queue_offset = -1
        self.outcome: Delivered | Exception | None = None
        """Of the general way, if it went there."""
        self._callbacks: list[Callable[[Any], object]] | None = None

    @property
    def window(self) -> Window:
        """That of its producer."""
        return self._lane.window

    @property
    def message_id(self) -> str:
        """Its id."""
        return f"{self._lane.head}{self.stamp.decode()}{self.counter:04X}"

    def done(self) -> bool:
        """Whether the result or the error is there; looks at the ring."""
        if not self.is_over():
            self._lane.link.answer()
        return self.is_over()

    def is_over(self) -> bool:
        """The same, as far as was seen."""
        return self.physical_offset >= 0 or self.outcome is not None

    @property
    def lazy(self) -> bool:
        """Whether who waits for it looks for it by himself."""
        return self._callbacks is None

    def result(self, timeout: float | None = None) -> SendResult:
        """The result, waiting for it if need be.

        Raises:
            Timeout: it is not there in time; it may still come.
            ClientError: the message was not stored.
        """
        self._await(timeout)
        outcome = self.outcome
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            return outcome.result(0)
        queue = self.queue
        return SendResult(
            queue.topic,
            queue.broker,
            queue.queue_id,
            self.queue_offset,
            self.physical_offset,
            self.message_id,
            offset_message_id(*self.place, self.physical_offset),
            SendStatus.OK,
        )

    def exception(self, timeout: float | None = None) -> Exception | None:
        """The error, None if there is none."""
        self._await(timeout)
        return self.outcome if isinstance(self.outcome, Exception) else None

    def add_done_callback(self, callback: Callable[[Any], object]) -> None:
        """Call `callback` with this ticket when it is complete; it must not wait."""
        with self._lane.window.news.lock:
            late = self.is_over()
            if not late:
                self._callbacks = [*(self._callbacks or ()), callback]
        if late:
            callback(self)
        else:
            self._lane.link.look_out()

    def finish(self) -> None:
        """Call who waits for it; for the lane, after what done() looks at was set."""
        self.body = None
        if self._callbacks is None:  # SYNC POINT: who adds one now sees that it is over.
            return
        with self._lane.window.news.lock:
            callbacks, self._callbacks = self._callbacks, None
        for callback in callbacks or ():
            call_safely(callback, self)

    def keep(self) -> None:
        """Its body is to stay when its place in the ring is given back."""
        if isinstance(self.body, memoryview):
            self.body = bytes(self.body)

    def retry(self, error: Exception) -> None:
        """It ended in the ring with `error`: the general way sees to it."""
        self._lane.retry(self, error)

    def _await(self, timeout: float | None) -> None:
        if not self.done() and not self._lane.window.news.wait(self.is_over, timeout):
            raise Timeout("no result in time", waiting_for="posted message", timeout_s=timeout)


class RingRoom:
    """A body that is filled in the ring; see loan.Room."""

    def __init__(self, lane: Lane, session: NativeSession, queue: Queue, view: memoryview) -> None:
        self.view = view
        self.session = session
        self.queue = queue
        self._lane = lane

    def commit(self) -> LaneTicket:
        """Submit it."""
        return self._lane.commit(self)

    def give_back(self) -> None:
        """Forget it."""
        self._lane.take_back(self)


class Lane:
    """Of one producer; from any thread."""

    def __init__(
        self, core: Core, link: NativeLink, window: Window, *, topic: str, group: str
    ) -> None:
        self.window = window
        self._core = core
        self.link = link
        self._topic = topic
        self._group = group
        self.head = core.ids.new_head()  # Its messages count for themselves.
        self._session: NativeSession | None = None
        self._route: Route | None = None
        self._targets: list[tuple[Queue, Target]] = []
        self._turn = 0
        self._counter = 0
        self._timeout = core.options.timeout
        self._stamp_ms, self._stamp = -1, b""
        self._place: tuple[bytes, int] = (b"", 0)
        self._data_size_max = 0

    def post(self, body: bytes) -> LaneTicket | None:
        """Put a body into the ring; None when that cannot be now. There is room in the window."""
        link = self.link
        with link.lock:
            session = self._ready()
            if session is None:
                return None
            queue, target = self._targets[self._turn % len(self._targets)]
            if len(body) + target.overhead > self._data_size_max:
                return None
            now_ms = self._now()
            number = session.writer.put_one(
                target, body, born_ms=now_ms, stamp=self._stamp, counter=self._counter
            )
            if number < 0:
                return None
            return self._submitted(session, queue, body)

    def lend(self, size: int) -> RingRoom | None:
        """Room in the ring for a body; None when there is none now."""
        link = self.link
        with link.lock:
            session, shape = self._ready(), link.shape
            if session is None or shape is None or size > shape.body_size_max:
                return None
            queue, target = self._targets[self._turn % len(self._targets)]
            if size + target.overhead > self._data_size_max:
                return None
            place = session.writer.loan(target, size)
            if place is None:
                return None
            link.lent = True
            return RingRoom(self, session, queue, session.ring.data[place : place + size])

    def commit(self, room: RingRoom) -> LaneTicket:
        """Submit what was lent; by the general way if the session is another now."""
        link = self.link
        with link.lock:
            if link.session is room.session:
                link.lent = False
                now_ms = self._now()
                room.session.writer.commit(born_ms=now_ms, stamp=self._stamp, counter=self._counter)
                ticket = self._submitted(room.session, room.queue, room.view)
                link.go_on()
                return ticket
            ticket = self._ticket(room.queue, bytes(room.view))
            self._counter = self._counter + 1 & COUNTER_MASK
        self.retry(ticket, NotConnected("connection lost", queue=str(room.queue)))
        return ticket

    def take_back(self, room: RingRoom) -> None:
        """Forget what was lent."""
        link = self.link
        with link.lock:
            if link.session is room.session:
                link.lent = False
                room.session.writer.take_back()
                link.go_on()
        self.window.leave(1, None)

    def _ready(self) -> NativeSession | None:
        """The session, if something may be put into its ring now; with the link's lock held."""
        link = self.link
        session = link.session
        if session is None or not link.is_clear():
            return None
        link.mend(session)
        if session is not self._session or not self._targets:
            return session if self._prepare(session) else None
        if self._core.routes.cached_for_sending(self._topic) is not self._route:
            self._targets = []
            return None
        return session

    def _now(self) -> int:
        """Ms since the epoch; the stamp of ids is set to it."""
        now_ms = time.time_ns() // 1_000_000
        if now_ms != self._stamp_ms:
            self._stamp_ms, self._stamp = now_ms, self._core.ids.stamp().encode()
        return now_ms

    def _submitted(
        self, session: NativeSession, queue: Queue, body: bytes | memoryview
    ) -> LaneTicket:
        """The ticket of what was put into the ring just now."""
        ticket = self._ticket(queue, body)
        self._turn += 1
        self._counter = self._counter + 1 & COUNTER_MASK
        self.link.flying.append(ticket)
        session.publish()
        return ticket

    def _ticket(self, queue: Queue, body: bytes | memoryview) -> LaneTicket:
        return LaneTicket(
            self,
            body,
            queue,
            place=self._place,
            stamp=self._stamp,
            counter=self._counter,
            deadline=time.monotonic() + self._timeout,
        )

    def _prepare(self, session: NativeSession) -> bool:
        """Make targets for the queues of the topic; False when they are not known yet."""
        route = self._core.routes.cached_for_sending(self._topic)
        shape = self.link.shape
        if route is None or shape is None or session.facts.sync_flush:
            return False
        targets: list[tuple[Queue, Target]] = []
        for queue in route.write_queues:
            slot = self.link.slot(queue)
            if slot is None:
                return False
            targets.append(
                (
                    queue,
                    target_of(
                        shape,
                        queue,
                        slot,
                        tags=None,
                        is_batch=False,
                        id_head=self.head.encode(),
                    ),
                )
            )
        self._session, self._route, self._targets = session, route, targets
        self._place, self._data_size_max = shape.place, shape.data_size_max
        return bool(targets)

    def fits(self, body: bytes) -> bool:
        """Whether a body is of a size that the ring takes."""
        shape = self.link.shape
        return shape is not None and 0 < len(body) <= shape.body_size_max

    def forget(self) -> None:
        """The slots are others now."""
        self._targets = []

    def retry(self, ticket: LaneTicket, error: Exception) -> None:
        """Send by the general way what ended with `error` in the ring."""
        body = ticket.body
        assert body is not None, "not done"
        message_id = ticket.message_id
        options = self._core.options
        parcel = Parcel(
            self._topic,
            (Prepared(body, properties_of(message_id, None), message_id),),
            group=self._group,
            queue=None,
            key=None,
            is_batch=False,
            timeout=options.timeout,
            patience=options.patience,
        )
        self._core.publisher.send_again(
            parcel, error, ticket.queue.broker, partial(self._retried, ticket)
        )

    def _retried(self, ticket: LaneTicket, outcome: Delivered | Exception) -> None:
        ticket.outcome = outcome
        self.window.leave(1, outcome)
        ticket.finish()


def finish_all(tickets: list[LaneTicket]) -> None:
    """Tickets whose outcomes were set: room in the windows, then their callbacks."""
    at = 0
    while at < len(tickets):
        window, outcome, first = tickets[at].window, tickets[at].outcome, at
        while at < len(tickets) and tickets[at].window is window and tickets[at].outcome is outcome:
            at += 1
        window.leave(at - first, outcome)
    for ticket in tickets:
        ticket.finish()


def retry_all(failures: list[tuple[LaneTicket, ClientError]]) -> None:
    """Hand what ended with an error to the general way."""
    for ticket, error in failures:
        ticket.retry(error)
