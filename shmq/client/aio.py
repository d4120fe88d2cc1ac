"""The asyncio form: the same names and the same core; no thread more, and none per request.

Outcomes come from the core's threads and are handed to the event loop in bunches. A cancelled send
gives up waiting for its result; the message may be stored all the same. Places (`assignment()`,
`position()`) and what only makes an object (`producer()`, `subscribe()`) are no coroutines.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar
from weakref import WeakKeyDictionary

from shmq.client import admin
from shmq.client.admin import QUEUES, READ_WRITE
from shmq.client.client import (
    PARCELS_AT_ONCE,
    PATIENCE,
    RETRIES,
    TIMEOUT,
    Client,
    whole_message,
)
from shmq.client.client import connect as connect_sync
from shmq.client.core import BODY_SIZE_MAX, DEFAULT_GROUP
from shmq.client.flow import Flow, Work
from shmq.client.model import Body, Message, Queue, SendResult, When
from shmq.client.parcels import Bodies, parcels
from shmq.client.publish import Delivered, Parcel
from shmq.client.window import WINDOW, posts_failed
from shmq.errors import ClientError, Closed, Timeout
from shmq.wire.codes import Perm

if TYPE_CHECKING:
    from shmq.client.batch import Batch, ReceivedMessage
    from shmq.client.consumer import Consumer
    from shmq.client.membership import Model, Start, Topics
    from shmq.client.producer import Producer
    from shmq.client.queuestate import QueueState

T = TypeVar("T")


class Mailbox:
    """Outcomes on their way to the event loop: many of them wake it once."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._items: deque[tuple[asyncio.Future[Any], Any]] = deque()
        self._called = False

    def post(self, future: asyncio.Future[Any], outcome: object) -> None:
        """Have the loop settle `future`; from any thread. SYNC POINT: pairs with _deliver()."""
        self._items.append((future, outcome))
        if not self._called:
            self._called = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # The loop is closed: nobody waits any more.
                self._items.clear()

    def _deliver(self) -> None:
        self._called = False  # Before the items are taken: what comes from now on calls again.
        while self._items:
            future, outcome = self._items.popleft()
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


_mailboxes: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox]] = WeakKeyDictionary()


def mailbox() -> Mailbox:
    """That of the running loop."""
    loop = asyncio.get_running_loop()
    found = _mailboxes.get(loop)
    if found is None:
        found = _mailboxes[loop] = Mailbox(loop)
    return found


async def awaited(work: Work[T]) -> T:
    """Result of a flow; cancelling cancels it."""
    box = mailbox()
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    flow = Flow(work, lambda outcome: box.post(future, outcome))
    flow.start()
    try:
        return await future
    except asyncio.CancelledError:
        flow.cancel()
        raise


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
) -> AsyncClient:
    """A client, as shmq.connect() makes one; use it in `async with`."""
    return AsyncClient(
        connect_sync(
            address,
            group=group,
            timeout=timeout,
            retries=retries,
            patience=patience,
            compress=compress,
            body_size_max=body_size_max,
            spin=spin,
        )
    )


class AsyncClient:
    """A client for coroutines."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._consumers: list[AsyncConsumer] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._client)

    async def close(self) -> None:
        """Close its consumers and connections. May be repeated."""
        for consumer in self._consumers:
            await consumer.close()
        self._consumers.clear()
        await asyncio.to_thread(self._client.close)

    # Sending

    async def send(
        self,
        topic: str | Message,
        body: Body | None = None,
        *,
        tags: str | None = None,
        keys: Sequence[str] | str = (),
        properties: Mapping[str, str] | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  as in the sync form
        group: str | None = None,
    ) -> SendResult:
        """Send a message and wait until it is stored; see Client.send()."""
        message = whole_message(topic, body, tags=tags, keys=keys, properties=properties)
        parcel = self._client.parcel(message, queue=queue, key=key, timeout=timeout, group=group)
        return (await self._launch(parcel)).result(0)

    async def send_many(
        self,
        topic: str,
        bodies: Bodies,
        *,
        tags: str | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109  as in the sync form
        group: str | None = None,
    ) -> list[SendResult]:
        """Send bodies or Messages in batches; see Client.send_many()."""
        defaults = self._client.defaults(
            topic, tags=tags, queue=queue, key=key, timeout=timeout, group=group
        )
        waiting: deque[asyncio.Future[Delivered]] = deque()
        results: list[SendResult] = []
        for parcel in parcels(bodies, defaults, self._client.core.preparer):
            waiting.append(self._launch(parcel))
            if len(waiting) >= PARCELS_AT_ONCE:
                results += (await waiting.popleft()).results()
        for future in waiting:
            results += (await future).results()
        return results

    async def send_oneway(
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
        """Send a message of which nobody will know whether it was stored."""
        message = whole_message(topic, body, tags=tags, keys=keys, properties=properties)
        parcel = self._client.parcel(message, queue=queue, key=key, group=group)
        core = self._client.core
        if core.routes.cached_for_sending(parcel.topic) is None:
            await awaited(core.routes.for_sending(parcel.topic))
        core.publisher.send_oneway(parcel)

    def _launch(self, parcel: Parcel) -> asyncio.Future[Delivered]:
        box = mailbox()
        future: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        self._client.core.publisher.send(parcel, lambda outcome: box.post(future, outcome))
        return future

    def producer(
        self, topic: str, *, window: int = WINDOW, group: str | None = None
    ) -> AsyncProducer:
        """A producer of one topic, with at most `window` messages on their way."""
        return AsyncProducer(self._client, self._client.producer(topic, window=window, group=group))

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
    ) -> AsyncConsumer:
        """A consumer, see Client.subscribe(); it joins its group when it is first used."""
        return self._keep(
            self._client.new_consumer(
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
    ) -> AsyncConsumer:
        """A consumer of these very queues; see Client.assign()."""
        return self._keep(
            self._client.new_consumer(
                {queue.topic: tags for queue in queues},
                group=group,
                start=start,
                batch=batch,
                commit_interval=commit_interval,
                queues=queues,
            )
        )

    def _keep(self, consumer: Consumer) -> AsyncConsumer:
        made = AsyncConsumer(consumer)
        self._consumers.append(made)
        return made

    # Topics and queues

    async def topics(self) -> list[str]:
        """Names of the topics that applications have made."""
        return await awaited(admin.topics(self._client.core))

    async def create_topic(
        self, topic: str, *, queues: int = QUEUES, perm: Perm = READ_WRITE
    ) -> None:
        """Make a topic with so many queues on every broker, or change it."""
        await awaited(admin.create_topic(self._client.core, topic, queues=queues, perm=perm))

    async def delete_topic(self, topic: str) -> None:
        """Remove a topic from all brokers and name servers."""
        await awaited(admin.delete_topic(self._client.core, topic))

    async def queues(self, topic: str) -> list[Queue]:
        """Queues that a topic can be read from."""
        return await awaited(admin.queues_of(self._client.core, topic))

    async def offsets(self, queue: Queue) -> tuple[int, int]:
        """First offset that a queue still has, and the one that its next message will have."""
        return await awaited(admin.offsets(self._client.core, queue))

    async def search_offset(self, queue: Queue, when: When) -> int:
        """Offset of the first message stored at that moment or later; else the queue's end."""
        return await awaited(admin.search_offset(self._client.core, queue, when))


class AsyncProducer:
    """Sends to one topic with a bounded window. For one event loop."""

    def __init__(self, client: Client, producer: Producer) -> None:
        self._client = client
        self._producer = producer
        self._count = 0
        self._changed: list[asyncio.Future[None]] = []
        self._failed_count = 0
        self._first_error: Exception | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            await self.close()
        self._closed = True

    @property
    def in_flight(self) -> int:
        """How many messages are on their way."""
        return self._count

    async def send(
        self,
        body: Body | Message,
        *,
        tags: str | None = None,
        keys: Sequence[str] | str = (),
        properties: Mapping[str, str] | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
    ) -> SendResult:
        """Send a message and wait until it is stored."""
        return await (
            await self.post(body, tags=tags, keys=keys, properties=properties, queue=queue, key=key)
        )

    async def post(
        self,
        body: Body | Message,
        *,
        tags: str | None = None,
        keys: Sequence[str] | str = (),
        properties: Mapping[str, str] | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
    ) -> asyncio.Future[SendResult]:
        """Send a message; waits for room in the window only. Gives its result to come."""
        self._check_open()
        message = self._producer.message(body, tags=tags, keys=keys, properties=properties)
        parcel = self._client.parcel(message, queue=queue, key=key, group=self._producer.group)
        future = await self._launch(parcel)
        result: asyncio.Future[SendResult] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: _pass_on([done], result, single=True))
        return result

    async def post_many(
        self,
        bodies: Bodies,
        *,
        tags: str | None = None,
        queue: Queue | int | None = None,
        key: str | None = None,
    ) -> asyncio.Future[list[SendResult]]:
        """Send many messages in batches; as post(), with one future for all their results."""
        self._check_open()
        made = self._producer.parcels(bodies, tags=tags, queue=queue, key=key)
        futures = [await self._launch(parcel) for parcel in made]
        result: asyncio.Future[list[SendResult]] = asyncio.get_running_loop().create_future()
        left = len(futures)

        def one_done(_future: asyncio.Future[Delivered]) -> None:
            nonlocal left
            left -= 1
            if not left:
                _pass_on(futures, result, single=False)

        for future in futures:
            future.add_done_callback(one_done)
        if not futures:
            result.set_result([])
        return result

    @contextlib.asynccontextmanager
    async def loan(self, size: int) -> AsyncIterator[memoryview]:
        """Room for a body of `size` bytes, to be filled in place; see Producer.loan().

            async with producer.loan(1024) as body:
                body[:] = ...

        It is committed at the end of the block; flush() tells of its errors.
        """
        self._check_open()
        while self._count >= self._producer.window:
            await self._change()
        lent = self._producer.loan(size)
        try:
            yield lent.body
        except BaseException:
            lent.give_back()
            raise
        box = mailbox()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: self._arrived(1, done))
        self._count += 1
        lent.commit().add_done_callback(
            lambda ticket: box.post(future, ticket.exception(0) or ticket.result(0))
        )

    async def flush(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  as in the sync form
        """Wait until nothing is on its way any more.

        Raises:
            Timeout: something still is.
            SendFailed: messages that were posted since the last flush were not stored.
        """
        try:
            async with asyncio.timeout(timeout):
                while self._count:
                    await self._change()
        except TimeoutError:
            raise Timeout(
                "messages are still on their way", count=self._count, timeout_s=timeout
            ) from None
        count, self._failed_count = self._failed_count, 0
        error, self._first_error = self._first_error, None
        if error is not None:
            raise posts_failed(count, error) from error

    async def close(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  as above
        """Flush, and take no more."""
        if not self._closed:
            self._closed = True
            await self.flush(timeout)

    async def _launch(self, parcel: Parcel) -> asyncio.Future[Delivered]:
        count = len(parcel.messages)
        while self._count + count > self._producer.window:
            await self._change()
        self._count += count
        box = mailbox()
        future: asyncio.Future[Delivered] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: self._arrived(count, done))
        try:
            self._client.core.publisher.send(parcel, lambda outcome: box.post(future, outcome))
        except ClientError as error:
            future.set_exception(error)
        return future

    def _arrived(self, count: int, future: asyncio.Future[Delivered]) -> None:
        self._count -= count
        error = future.exception()
        if isinstance(error, Exception):
            self._failed_count += count
            self._first_error = self._first_error or error
        changed, self._changed = self._changed, []
        for waiter in changed:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.append(waiter)
        await waiter

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("producer closed", topic=self._producer.topic)


def _pass_on(
    futures: list[asyncio.Future[Delivered]], result: asyncio.Future[Any], *, single: bool
) -> None:
    """Settle the application's future; flush() tells of errors that it does not look at."""
    if result.done():
        return
    results: list[SendResult] = []
    for future in futures:
        error = future.exception()
        if error is not None:
            result.set_exception(error)
            result.exception()
            return
        results += future.result().results()
    result.set_result(results[0] if single else results)


class AsyncConsumer:
    """Reads queues; see Consumer. For one event loop and one reader at a time."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._joining: asyncio.Task[None] | None = None
        self._current: Generator[ReceivedMessage, None, None] | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._consumer.put_down()
        await self.close()

    def __repr__(self) -> str:
        return repr(self._consumer)

    @property
    def group(self) -> str:
        """Its group."""
        return self._consumer.group

    @property
    def client_id(self) -> str:
        """How the brokers call it."""
        return self._consumer.client_id

    async def _open(self) -> None:
        if self._joining is None:
            self._joining = asyncio.ensure_future(awaited(self._consumer.membership.join()))
        await asyncio.shield(self._joining)

    async def close(self) -> None:
        """Commit what was acknowledged and leave the group. May be repeated."""
        if self._consumer.begin_close():
            if self._joining is not None and not self._joining.done():
                self._joining.cancel()
            try:
                await awaited(self._consumer.membership.leave())
            finally:
                await asyncio.to_thread(self._consumer.end_close)

    # Reading

    def __aiter__(self) -> AsyncIterator[ReceivedMessage]:
        return self.messages()

    def messages(
        self,
        timeout: float | None = None,
    ) -> AsyncIterator[ReceivedMessage]:
        """Messages, until the consumer is closed or none comes for `timeout` seconds.

        Acknowledged as those of Consumer.messages().
        """
        self._consumer.check_open()
        return _Messages(self, timeout)

    def batches(self, timeout: float | None = None) -> AsyncIterator[Batch]:
        """Batches, until the consumer is closed or none comes for `timeout` seconds."""
        self._consumer.check_open()
        return _Batches(self, timeout)

    async def next_message(self, timeout: float | None) -> ReceivedMessage | None:  # noqa: ASYNC109
        """For iterators: the next message; what another iterator left comes first."""
        self._consumer.put_down()
        while True:
            if self._current is not None:
                for message in self._current:
                    return message
            taken = await self.next_taken(timeout)
            if taken is None:
                return None
            self._current = self._consumer.each(*taken)

    async def next_taken(self, timeout: float | None) -> tuple[QueueState, Batch] | None:  # noqa: ASYNC109
        """For iterators: the next batch, None when none comes in time or all is over."""
        if self._consumer.closed:
            return None
        try:
            return await self._take(timeout)
        except Closed:
            return None

    async def poll(self, timeout: float | None = 0.0) -> Batch | None:  # noqa: ASYNC109  as above
        """The next batch, None if there is none within `timeout` seconds."""
        taken = await self._take(timeout)
        return None if taken is None else taken[1]

    async def _take(self, timeout: float | None) -> tuple[QueueState, Batch] | None:  # noqa: ASYNC109
        await self._open()
        if self._current is not None:
            self._current.close()  # What is left of it comes first.
            self._current = None
        try:
            async with asyncio.timeout(timeout):
                while True:
                    self._consumer.check_open()
                    state = self._consumer.membership.path.state()
                    taken = self._consumer.membership.take()
                    if taken is not None:
                        return taken
                    await self._change(state)
        except TimeoutError:
            return None

    async def _change(self, state: int) -> None:
        box = mailbox()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        path = self._consumer.membership.path
        undo = path.when_ready(state, lambda: box.post(future, None))
        try:
            await future
        finally:
            undo()

    # Places

    def assignment(self) -> list[Queue]:
        """The queues that it reads now."""
        return self._consumer.assignment()

    def position(self, queue: Queue) -> int:
        """Offset of the next message that it will give of a queue."""
        return self._consumer.position(queue)

    async def seek(self, queue: Queue, offset: int) -> None:
        """Go on at this offset."""
        self._consumer.seek(queue, offset)

    async def seek_to_time(self, queue: Queue, when: When) -> int:
        """Go on at the first message stored at that moment or later; gives its offset."""
        membership = self._consumer.membership
        offset = await awaited(admin.search_offset(membership.core, queue, when))
        self._consumer.seek(queue, offset)
        return offset

    async def commit(self) -> None:
        """Tell the brokers what was acknowledged, now."""
        self._consumer.check_open()
        await awaited(self._consumer.membership.commit())


class _Messages:
    """Iterates messages; leaving it in the middle of a batch loses nothing."""

    def __init__(self, consumer: AsyncConsumer, timeout: float | None) -> None:
        self._consumer = consumer
        self._timeout = timeout

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReceivedMessage:
        message = await self._consumer.next_message(self._timeout)
        if message is None:
            raise StopAsyncIteration
        return message


class _Batches:
    """Iterates batches."""

    def __init__(self, consumer: AsyncConsumer, timeout: float | None) -> None:
        self._consumer = consumer
        self._timeout = timeout

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        taken = await self._consumer.next_taken(self._timeout)
        if taken is None:
            raise StopAsyncIteration
        return taken[1]
