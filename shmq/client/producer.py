"""A producer of one topic with a bounded window: who posts faster than the broker stores waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from shmq.client.model import Body, Message, Queue, SendResult
from shmq.client.parcels import BATCH_COUNT_MAX, Bodies, parcels
from shmq.client.publish import Delivered, Parcel
from shmq.client.tickets import News, Ticket
from shmq.errors import ClientError, Closed, ConfigError, SendFailed, Timeout

if TYPE_CHECKING:
    from shmq.client.client import Client

WINDOW: Final = 256


def posts_failed(count: int, first_error: Exception) -> SendFailed:
    """The error of a flush after which so many posted messages are not stored."""
    return SendFailed(
        "posted messages were not stored",
        code=getattr(first_error, "code", 0),
        failed_count=count,
        first_error=str(first_error),
    )


class Window:
    """How many messages are on their way, and what became of those that failed."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.news = News()
        self._lock = threading.Lock()
        self.count = 0
        self._failed_count = 0
        self._first_error: Exception | None = None

    def try_enter(self, count: int) -> bool:
        """Let so many messages on their way, if there is room for them."""
        with self._lock:
            if self.count + count > self.size:
                return False
            self.count += count
            return True

    def enter(self, count: int, timeout: float | None) -> None:
        """Let so many messages on their way as soon as there is room.

        Raises:
            Timeout: there was none in time.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while not self.try_enter(count):
            left = None if end is None else end - time.monotonic()
            if (left is not None and left <= 0) or not self.news.wait(
                lambda: self.count + count <= self.size, left
            ):
                raise Timeout(
                    "the window is full",
                    on_their_way=self.count,
                    window=self.size,
                    timeout_s=timeout,
                )

    def leave(self, count: int, outcome: object) -> None:
        """So many messages have arrived, or failed."""
        with self._lock:
            self.count -= count
            if isinstance(outcome, Exception):
                self._failed_count += count
                self._first_error = self._first_error or outcome
        self.news.bell.ring()

    def raise_failures(self) -> None:
        """Raise if messages have failed since the last time.

        Raises:
            SendFailed: says how many, and why the first.
        """
        with self._lock:
            count, self._failed_count = self._failed_count, 0
            error, self._first_error = self._first_error, None
        if error is not None:
            raise posts_failed(count, error) from error


class Producer:
    """Sends to one topic. Leaving its `with` block waits for what is on its way."""

    def __init__(self, client: Client, topic: str, *, window: int, group: str | None) -> None:
        if window < 1:
            raise ConfigError("window", found=window, allowed="1 or more")
        self.topic = topic
        self.group = group or client.options.group
        self._client = client
        self._window = Window(window)
        self._closed = False

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
    ) -> Ticket[SendResult]:
        """Send a message without waiting for it, but for room in the window.

        Raises:
            Timeout: no room in the window within `timeout` seconds.
        """
        self._check_open()
        if isinstance(body, Message) or keys or properties:
            message = self.message(body, tags=tags, keys=keys, properties=properties)
            parcel = self._client.parcel(message, queue=queue, key=key, group=self.group)
        else:
            parcel = self._client.body_parcel(
                self.topic, body, tags=tags, queue=queue, key=key, group=self.group
            )
        self._window.enter(1, timeout)
        ticket: Ticket[SendResult] = Ticket(self._window.news, single=True)
        self.launch(parcel, ticket, 0)
        return ticket

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
        made = self.parcels(bodies, tags=tags, queue=queue, key=key)
        ticket: Ticket[list[SendResult]] = Ticket(self._window.news, single=False)
        end = None if timeout is None else time.monotonic() + timeout
        for parcel in made:
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

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("producer closed", topic=self.topic)
