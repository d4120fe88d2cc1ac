"""The client: sends, opens producers and consumers, and manages topics. From any thread."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from shmq.client.address import Address, find_address, parse_address
from shmq.client.admin import Admin
from shmq.client.core import BODY_SIZE_MAX, COMPRESS_FROM, DEFAULT_GROUP, Core, Options
from shmq.client.flow import Waiter, run
from shmq.client.model import Body, Message, Queue, SendResult
from shmq.client.parcels import Bodies, Defaults, parcels
from shmq.client.producer import Producer
from shmq.client.publish import Delivered, Parcel
from shmq.client.window import WINDOW
from shmq.errors import ClientError, Closed, ConfigError, InvalidMessage

if TYPE_CHECKING:
    from shmq.client.consumer import Consumer
    from shmq.client.membership import Model, Start, Topics

TIMEOUT: Final = 3.0
RETRIES: Final = 2
PATIENCE: Final = 30.0
TURN: Final = 0.005
"""Longest sleep of a thread that waits for its turn to look for its result."""
SPIN_MAX: Final = 1.0
PARCELS_AT_ONCE: Final = 16
"""Batches of one send_many() that are on their way."""
_GRACE: Final = 5.0
"""A waiting thread gives up so much later than what it waits for should have."""

_clients: Final[weakref.WeakSet[Client]] = weakref.WeakSet()
_watching_forks: Final = threading.Event()


def connect(
    address: str | None = None,
    *,
    group: str = DEFAULT_GROUP,
    timeout: float = TIMEOUT,
    retries: int = RETRIES,
    patience: float = PATIENCE,
    compress: int | bool | None = None,
    body_size_max: int = BODY_SIZE_MAX,
    spin: float = 0.0,
) -> Client:
    """A client of the broker, or brokers, at `address`; see shmq.client.address for its forms.

    Nothing is connected before the first call, so a client may be made before a fork.

    Args:
        address: where to connect; None: by convention, from the environment or the run directory.
        group: producer group of messages that are not sent by a producer with its own.
        timeout: seconds in which a send must be stored, all its attempts together.
        retries: how often a send is tried again when a broker refuses it.
        patience: seconds that a send waits for a broker that was there and is not now.
        compress: size in bytes from which bodies travel compressed; False: never; None: from 4 KiB
            over TCP, never over a Unix socket. Batches never are.
        body_size_max: larger bodies are refused here already.
        spin: seconds that a thread looks for results or messages in shared memory before it
            sleeps; for hosts with cores to spare.

    Raises:
        NotConnected: no address was given and no broker found; says what was tried.
        ConfigError: the address has no form that is known.
    """
    found = find_address() if address is None else parse_address(address)
    return Client(
        Options(
            found,
            group=group,
            timeout=timeout,
            retries=retries,
            patience=patience,
            compress=_compress_from(compress, found),
            body_size_max=body_size_max,
            spin=_spin_of(spin),
        )
    )


def _spin_of(spin: float) -> float:
    if not 0 <= spin <= SPIN_MAX:
        raise ConfigError("spin", found=spin, allowed=f"seconds from 0 to {SPIN_MAX}")
    return spin


def _compress_from(
    compress: int | bool | None,  # noqa: FBT001  what connect() was given
    address: Address,
) -> int | None:
    if compress is None:
        compress = not address.is_local
    if compress is True:
        return COMPRESS_FROM
    if compress is False:
        return None
    if compress < 0:
        raise ConfigError("compress", found=compress, allowed="a size in bytes, True or False")
    return compress


class Client(Admin):
    """A client of a broker, or of several behind name servers. Made by connect()."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._lock = threading.RLock()
        self._core: Core | None = None
        self._consumers: set[Consumer] = set()
        """Those that are open, whether the application still holds them or not."""
        self._producers: weakref.WeakSet[Producer] = weakref.WeakSet()
        self._closed = False
        _watch_forks()
        _clients.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<shmq client of {self.options.address.text}, {state}>"

    def close(self) -> None:
        """Close its consumers and connections; what is still on its way fails. May be repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            core = self._core
            consumers = list(self._consumers)
        try:
            for consumer in consumers:
                consumer.close()
        finally:
            if core is not None:
                if core.producer_groups:
                    core.farewell()
                core.close()

    @property
    def core(self) -> Core:
        """What it is made of in this process.

        Raises:
            Closed: it was closed.
        """
        core = self._core
        if core is not None and not self._closed:
            return core
        with self._lock:
            if self._closed:
                raise Closed("client closed", address=self.options.address.text)
            if self._core is None:
                self._core = Core(self.options)
            return self._core

    # Sending

    def send(
        self,
        topic: str | Message,
        body: Body | None = None,
        *,
        tags: str | None = None,
        keys: Sequence[str] | str = (),
        properties: Mapping[str, str] | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,
        group: str | None = None,
    ) -> SendResult:
        """Send a message and wait until it is stored.

        Args:
            topic: where to; or a whole Message.
            body: the bytes.
            tags: what consumers select by.
            keys: what the broker's index finds it by.
            properties: more names and values.
            queue: the queue, by its number or whole.
            key: messages with an equal one go to the same queue.
            timeout: seconds in all, waiting for a broker that is away included.
            group: the producer group.

        Raises:
            NotConnected: no broker could be reached; says which were tried.
            SendFailed: a broker refused it; has its code and remark.
            Timeout: no answer in time. It may be stored or not.
            TopicNotFound: there is no such topic, and the broker does not make it.
            InvalidMessage: it cannot be sent as it is.
        """
        message = whole_message(topic, body, tags=tags, keys=keys, properties=properties)
        parcel = self.parcel(message, queue=queue, key=key, timeout=timeout, group=group)
        return self._wait_for(parcel).result(0)

    def send_many(
        self,
        topic: str,
        bodies: Bodies,
        *,
        tags: str | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,
        group: str | None = None,
    ) -> list[SendResult]:
        """Send bodies or Messages in batches and wait until all are stored; their results in order.

        Raises:
            ClientError: one was not stored; others may be.
        """
        defaults = self.defaults(
            topic, tags=tags, queue=queue, key=key, timeout=timeout, group=group
        )
        core = self.core
        limit = max(defaults.timeout, defaults.patience) * 2 + _GRACE
        waiters: deque[Waiter[Delivered]] = deque()
        results: list[SendResult] = []
        for parcel in parcels(bodies, defaults, core.preparer):
            waiters.append(self._launch(core, parcel))
            if len(waiters) >= PARCELS_AT_ONCE:
                results += waiters.popleft().result(limit, "send_many").results()
        for waiter in waiters:
            results += waiter.result(limit, "send_many").results()
        return results

    def send_async(
        self,
        topic: str | Message,
        body: Body | None = None,
        *,
        tags: str | None = None,
        keys: Sequence[str] | str = (),
        properties: Mapping[str, str] | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,
        group: str | None = None,
        callback: Callable[[Future[SendResult]], object] | None = None,
    ) -> Future[SendResult]:
        """Send a message without waiting; `callback` gets the future when it is done.

        Callbacks run in a thread of the client and must not wait.
        """
        message = whole_message(topic, body, tags=tags, keys=keys, properties=properties)
        parcel = self.parcel(message, queue=queue, key=key, timeout=timeout, group=group)
        core = self.core
        core.publisher.await_room(parcel.topic, parcel.timeout)
        future: Future[SendResult] = Future()
        if callback is not None:
            future.add_done_callback(callback)

        def done(outcome: Delivered | Exception) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if isinstance(outcome, Delivered):
                future.set_result(outcome.result(0))
            else:
                future.set_exception(outcome)

        core.publisher.send(parcel, done)
        return future

    def send_oneway(
        self,
        topic: str | Message,
        body: Body | None = None,
        *,
        tags: str | None = None,
        keys: Sequence[str] | str = (),
        properties: Mapping[str, str] | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        group: str | None = None,
    ) -> None:
        """Send a message of which nobody will know whether it was stored.

        Raises:
            NotConnected: it could not even be written.
        """
        message = whole_message(topic, body, tags=tags, keys=keys, properties=properties)
        parcel = self.parcel(message, queue=queue, key=key, group=group)
        core = self.core
        if core.routes.cached_for_sending(parcel.topic) is None:
            run(core.routes.for_sending(parcel.topic), self.options.timeout + _GRACE, "route")
        core.publisher.await_room(parcel.topic, parcel.timeout)
        core.publisher.send_oneway(parcel)

    def producer(
        self,
        topic: str,
        *,
        window: int = WINDOW,
        group: str | None = None,
        linger: float | None = None,
    ) -> Producer:
        """A producer of one topic, with at most `window` messages on their way.

        `linger`: seconds that a posted body may wait for others to travel with; None: it goes at
        once.
        """
        core = self.core
        core.preparer.check_topic(topic)
        core.preparer.check_group(group or self.options.group)
        producer = Producer(self, topic, window=window, group=group, linger=linger)
        core.add_producer_group(producer.group)
        self._producers.add(producer)
        return producer

    # Consuming

    def subscribe(
        self,
        topics: Topics,
        *,
        group: str,
        tags: str = "*",
        start: Start = "first",
        batch: int = 256,
        model: Model = "clustering",
        commit_interval: float = 5.0,
    ) -> Consumer:
        """A consumer of one or several topics, in a group that divides their queues.

        Args:
            topics: a topic, several, or a dict of topic and tag expression (`a || b`, `*`).
            group: its name; Java, Go and shmq consumers may be in it together.
            tags: expression for topics that come without one.
            start: where a group begins that has no offset yet: "first", "last", or a moment.
            batch: messages in a batch at most.
            model: "clustering": the group divides the queues; "broadcasting": each gets all.
            commit_interval: seconds between commits of what was acknowledged.

        Raises:
            NotConnected: no broker could be reached.
        """
        return self._open(
            self.new_consumer(
                topics,
                group=group,
                tags=tags,
                start=start,
                batch=batch,
                model=model,
                commit_interval=commit_interval,
            )
        )

    def assign(
        self,
        queues: Sequence[Queue],
        *,
        group: str,
        tags: str = "*",
        start: Start = "first",
        batch: int = 256,
        commit_interval: float = 5.0,
    ) -> Consumer:
        """A consumer of these very queues, whoever else reads them; offsets are the group's."""
        return self._open(
            self.new_consumer(
                {queue.topic: tags for queue in queues},
                group=group,
                start=start,
                batch=batch,
                commit_interval=commit_interval,
                queues=queues,
            )
        )

    @staticmethod
    def _open(consumer: Consumer) -> Consumer:
        try:
            consumer.open()
        except BaseException:
            consumer.close()
            raise
        return consumer

    # Shared with producers and the asyncio form

    def new_consumer(
        self,
        topics: Topics,
        *,
        group: str,
        tags: str = "*",
        start: Start = "first",
        batch: int = 256,
        model: Model = "clustering",
        commit_interval: float = 5.0,
        queues: Sequence[Queue] | None = None,
    ) -> Consumer:
        """A consumer that has not joined its group yet."""
        # Who only produces needs neither these modules nor the kernels that they use.
        from shmq.client.consumer import Consumer  # noqa: PLC0415
        from shmq.client.membership import Membership, subscriptions_of  # noqa: PLC0415

        subscriptions = subscriptions_of(topics, tags)
        with self._lock:
            core = self.core
            core.preparer.check_group(group)
            for topic in subscriptions:
                core.preparer.check_topic(topic)
            # Brokers know one consumer of a group on a connection; another gets its own.
            own_core = queues is None and group in self._groups()
            membership = Membership(
                Core(self.options) if own_core else core,
                group=group,
                subscriptions=subscriptions,
                begin=start,
                batch=batch,
                model=model,
                commit_interval=commit_interval,
                queues=queues,
            )
            consumer = Consumer(membership, own_core=own_core, on_close=self._consumers.discard)
            self._consumers.add(consumer)
        return consumer

    def _groups(self) -> set[str]:
        """Groups of which a consumer uses the connections of this client."""
        return {
            consumer.group
            for consumer in self._consumers
            if consumer.membership.core is self._core
            and consumer.membership.manual is None
            and not consumer.membership.closed
        }

    def defaults(
        self,
        topic: str,
        *,
        tags: str | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,
        group: str | None = None,
    ) -> Defaults:
        """What holds for messages that do not say otherwise."""
        self.core.preparer.check_topic(topic)
        options = self.options
        return Defaults(
            topic,
            group or options.group,
            tags,
            queue,
            key,
            options.timeout if timeout is None else timeout,
            options.patience if timeout is None else timeout,
        )

    def parcel(
        self,
        message: Message,
        *,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,
        group: str | None = None,
    ) -> Parcel:
        """One message, ready to be sent."""
        options, preparer = self.options, self.core.preparer
        preparer.check_topic(message.topic)
        return Parcel(
            message.topic,
            (preparer.message(message),),
            group=group or options.group,
            queue=message.queue if queue is None else queue,
            key=message.key if key is None else key,
            is_batch=False,
            timeout=options.timeout if timeout is None else timeout,
            patience=options.patience if timeout is None else timeout,
        )

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call a function after so many seconds, by a thread of the client."""
        self.core.timers.after(seconds, function)

    def body_parcel(
        self,
        topic: str,
        body: Body,
        *,
        tags: str | None,
        queue: Queue | int | None,
        key: str | None,
        group: str,
    ) -> Parcel:
        """As parcel(), of a message that has no more than a body and a tag; `topic` is checked."""
        options = self.options
        return Parcel(
            topic,
            (self.core.preparer.body(body, tags),),
            group=group,
            queue=queue,
            key=key,
            is_batch=False,
            timeout=options.timeout,
            patience=options.patience,
        )

    def _wait_for(self, parcel: Parcel) -> Delivered:
        limit = max(parcel.timeout, parcel.patience_end - parcel.deadline + parcel.timeout) + _GRACE
        core = self.core
        link = core.link
        parcel.lazy = link is not None
        waiter = self._launch(core, parcel)
        if link is not None:
            end = time.monotonic() + limit
            while not link.help(waiter.done, end) and time.monotonic() < end:
                if waiter.wait(TURN):
                    break
        return waiter.result(0 if link is not None else limit, "send")

    @staticmethod
    def _launch(core: Core, parcel: Parcel) -> Waiter[Delivered]:
        waiter: Waiter[Delivered] = Waiter()
        core.publisher.send(parcel, waiter)
        return waiter

    # Forks

    def forked(self) -> None:
        """In a forked child: begin anew with the first call; consumers stay with the parent."""
        core, self._core = self._core, None
        self._lock = threading.RLock()
        if core is not None:
            core.abandon()
        for producer in list(self._producers):
            producer.forked()
        for consumer in list(self._consumers):
            consumer.forked()
        self._consumers = set()


def whole_message(
    topic: str | Message,
    body: Body | None,
    *,
    tags: str | None,
    keys: Sequence[str] | str,
    properties: Mapping[str, str] | None,
) -> Message:
    """The message that the arguments of a send make.

    Raises:
        InvalidMessage: they contradict each other.
    """
    if isinstance(topic, Message):
        if body is not None or tags is not None or keys or properties:
            raise InvalidMessage("fields beside a Message", hint="set them on the message itself")
        return topic
    if body is None:
        raise InvalidMessage("message without a body", topic=topic)
    return Message(topic, body, tags=tags, keys=keys, properties=properties or {})


def _watch_forks() -> None:
    """Have forks noticed; once, and not before there is a client."""
    if not _watching_forks.is_set():
        _watching_forks.set()
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for client in list(_clients):
        client.forked()


__all__ = ["Client", "ClientError", "connect"]
