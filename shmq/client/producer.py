"""A producer of one topic with a bounded window: who posts faster than the broker stores waits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from shmq.client.collect import CollectedTicket, Collector
from shmq.client.loan import Loan, OwnRoom
from shmq.client.model import Body, Message, Queue, SendResult
from shmq.client.nativelane import Lane, LaneTicket
from shmq.client.parcels import BATCH_COUNT_MAX, Bodies, parcels
from shmq.client.publish import Delivered, Parcel
from shmq.client.tickets import Ticket
from shmq.client.window import Window
from shmq.errors import ClientError, Closed, ConfigError, InvalidMessage, Timeout

if TYPE_CHECKING:
    from shmq.client.client import Client
    from shmq.client.core import Core

LINGER_MAX: Final = 60.0

Posted: TypeAlias = Ticket[SendResult] | LaneTicket | CollectedTicket
"""A ticket of one posted message."""


class Producer:
    """Sends to one topic. Leaving its `with` block waits for what is on its way."""

    def __init__(
        self,
        client: Client,
        topic: str,
        *,
        window: int,
        group: str | None,
        linger: float | None = None,
    ) -> None:
        if window < 1:
            raise ConfigError("window", found=window, allowed="1 or more")
        if linger is not None and not 0 < linger <= LINGER_MAX:
            raise ConfigError(
                "linger", found=linger, allowed=f"seconds up to {LINGER_MAX}, or None"
            )
        self.topic = topic
        self.group = group or client.options.group
        self._client = client
        self._window = Window(window)
        self._closed = False
        self._lane: Lane | None = None
        self._core: Core | None = None
        """Of which the lane is, if there is one."""
        self._collector: Collector | None = None
        if linger is not None:
            count_max = min(BATCH_COUNT_MAX, window)
            self._collector = Collector(
                self._send_collected, client.later, linger, count_max=count_max
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._closed = True

    @property
    def window(self) -> int:
        """How many messages may be on their way."""
        return self._window.size

    @property
    def in_flight(self) -> int:
        """How many messages are on their way."""
        if self._lane is not None:
            self._lane.link.answer()
        return self._window.count

    def send(
        self,
        body: Body | Message,
        *,
        tags: str | None = None,
        keys: Sequence[str] | str = (),
        properties: Mapping[str, str] | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> SendResult:
        """Send a message and wait until it is stored.

        Raises:
            ClientError: it was not, as far as is known.
        """
        self._check_open()
        self._send_collector()
        message = self.message(body, tags=tags, keys=keys, properties=properties)
        return self._client.send(message, queue=queue, key=key, timeout=timeout, group=self.group)

    def post(
        self,
        body: Body | Message,
        *,
        tags: str | None = None,
        keys: Sequence[str] | str = (),
        properties: Mapping[str, str] | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> Posted:
        """Send a message without waiting for it, but for room in the window.

        Raises:
            Timeout: no room in the window within `timeout` seconds.
        """
        self._check_open()
        if type(body) is bytes and not (tags or keys or properties or key) and queue is None:
            return self._post_plain(body, timeout)
        if isinstance(body, Message) or keys or properties:
            message = self.message(body, tags=tags, keys=keys, properties=properties)
            parcel = self._client.parcel(message, queue=queue, key=key, group=self.group)
        else:
            parcel = self._client.body_parcel(
                self.topic, body, tags=tags, queue=queue, key=key, group=self.group
            )
        self._send_collector()
        self._open_lane()
        self._window.enter(1, timeout)
        return self._launch_one(parcel)

    def _post_plain(self, body: bytes, timeout: float | None) -> Posted:
        """Post what is no more than a body: with others, straight into the ring, or as any."""
        if self._collector is not None:
            return self._collector.post(body)
        lane = self._open_lane()
        self._window.enter(1, timeout)
        if lane is not None and lane.fits(body):
            ticket = lane.post(body)
            if ticket is not None:
                return ticket
        try:
            parcel = self._client.body_parcel(
                self.topic, body, tags=None, queue=None, key=None, group=self.group
            )
        except BaseException:
            self._window.leave(1, None)
            raise
        return self._launch_one(parcel)

    def _launch_one(self, parcel: Parcel) -> Ticket[SendResult]:
        ticket: Ticket[SendResult] = Ticket(self._window.news, single=True)
        self.launch(parcel, ticket, 0)
        return ticket

    def _open_lane(self) -> Lane | None:
        """The lane of the present core; None where there is no shared memory."""
        core = self._client.core
        if core is not self._core:
            self._core, self._lane = core, None
            if core.link is not None:
                self._lane = Lane(core, core.link, self._window, topic=self.topic, group=self.group)
                self._window.news.follow(core.link)
                core.link.add_lane(self._lane)
        return self._lane

    def loan(self, size: int, *, timeout: float | None = None) -> Loan:
        """Room for a body of `size` bytes, to be filled in place and then committed.

            with producer.loan(1024) as body:
                body[:] = ...  # a writable memoryview

        Where the broker gives shared memory, the room is in the ring itself: nobody copies the
        body on its way to the broker. One at a time; other posts wait until it is committed.

        Raises:
            Timeout: no room in the window within `timeout` seconds.
        """
        self._check_open()
        self._send_collector()
        if size < 1:
            raise InvalidMessage("empty body", hint="brokers of RocketMQ's protocol refuse it")
        lane = self._open_lane()
        self._window.enter(1, timeout)
        in_ring = lane.lend(size) if lane is not None else None
        if in_ring is not None:
            return Loan(in_ring)
        self._window.leave(1, None)
        return Loan(OwnRoom(size, self.post))

    def _send_collected(
        self,
        bodies: list[bytes],
        wait: bool,  # noqa: FBT001  as the collector calls it
    ) -> Ticket[list[SendResult]] | None:
        """Send bodies that travel together; None when there is no room and it may not wait."""
        parcels = self.parcels(bodies, tags=None, queue=None, key=None)
        if not wait and not self._window.try_enter(len(bodies)):
            return None
        return self._post_parcels(parcels, None, entered=not wait)

    def _send_collector(self) -> None:
        """Let no message overtake what was collected before it."""
        if self._collector is not None:
            self._collector.send()

    def post_many(
        self,
        bodies: Bodies,
        *,
        tags: str | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,
    ) -> Ticket[list[SendResult]]:
        """Send many messages in batches; as post(), with one ticket for all their results.

        Arrays must not be changed before their messages are stored.
        """
        self._check_open()
        self._send_collector()
        return self._post_parcels(self.parcels(bodies, tags=tags, queue=queue, key=key), timeout)

    def _post_parcels(
        self, made: Iterator[Parcel], timeout: float | None, *, entered: bool = False
    ) -> Ticket[list[SendResult]]:
        """Launch parcels; `entered`: there is room for them in the window already."""
        self._open_lane()
        ticket: Ticket[list[SendResult]] = Ticket(self._window.news, single=False)
        end = None if timeout is None else time.monotonic() + timeout
        for parcel in made:
            if not entered:
                left = None if end is None else end - time.monotonic()
                self._window.enter(len(parcel.messages), left)
            self.launch(parcel, ticket, ticket.new_part())
        ticket.no_more_parts()
        return ticket

    def flush(self, timeout: float | None = None) -> None:
        """Wait until nothing is on its way any more.

        Raises:
            Timeout: something still is.
            SendFailed: messages that were posted since the last flush were not stored.
        """
        self._send_collector()
        window = self._window
        if not window.news.wait(lambda: window.count == 0, timeout):
            raise Timeout("messages are still on their way", count=window.count, timeout_s=timeout)
        window.raise_failures()

    def close(self, timeout: float | None = None) -> None:
        """Flush, and take no more."""
        if not self._closed:
            self._closed = True
            self.flush(timeout)

    # Shared with the asyncio form

    def message(
        self,
        body: Body | Message,
        *,
        tags: str | None,
        keys: Sequence[str] | str,
        properties: Mapping[str, str] | None,
    ) -> Message:
        """A message of this producer's topic."""
        if isinstance(body, Message):
            if tags is not None or keys or properties:
                raise ConfigError("fields beside a Message", hint="set them on the message itself")
            if body.topic != self.topic:
                raise ConfigError("message of another topic", found=body.topic, topic=self.topic)
            return body
        return Message(self.topic, body, tags=tags, keys=keys, properties=properties or {})

    def parcels(
        self,
        bodies: Bodies,
        *,
        tags: str | None,
        queue: Queue | int | None,
        key: str | None,
    ) -> Iterator[Parcel]:
        """What many bodies travel in."""
        defaults = self._client.defaults(
            self.topic, group=self.group, tags=tags, queue=queue, key=key
        )
        preparer = self._client.core.preparer
        count_max = min(BATCH_COUNT_MAX, self._window.size)
        return parcels(bodies, defaults, preparer, count_max=count_max)

    def launch(self, parcel: Parcel, ticket: Ticket[Any], part: int) -> None:
        """Send a parcel for which there is room in the window."""
        window = self._window
        count = len(parcel.messages)
        parcel.lazy = self._lane is not None
        finished = False

        def done(outcome: Delivered | Exception) -> None:
            nonlocal finished
            if not finished:
                finished = True
                window.leave(count, outcome)
                ticket.complete(part, outcome)

        try:
            self._client.core.publisher.send(parcel, done)
        except ClientError as error:  # The client was closed meanwhile.
            done(error)
        except BaseException:  # A signal: nobody knows how far it came.
            done(Timeout("interrupted while sending", topic=self.topic))
            raise

    def forked(self) -> None:
        """In a forked child: what was on its way is the parent's business."""
        self._window = Window(self._window.size)
        self._lane = self._core = None
        if self._collector is not None:
            self._collector.forget()

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("producer closed", topic=self.topic)
