"""A consumer: takes batches or messages, acknowledges, seeks. Its waits end with a signal."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Final, Self

from shmq.client import admin
from shmq.client.batch import Batch, ReceivedMessage
from shmq.client.flow import run
from shmq.client.membership import Membership
from shmq.client.model import Queue, When
from shmq.client.queuestate import QueueState
from shmq.errors import Closed, Refused
from shmq.wire.codes import ResponseCode

JOIN_TIMEOUT: Final = 30.0
LEAVE_TIMEOUT: Final = 15.0


class Hand:
    """The message that the application has in hand: done with when it asks for the next."""

    __slots__ = ("_end", "_epoch", "_state")

    def __init__(self) -> None:
        self._state: QueueState | None = None
        self._epoch = 0
        self._end = 0

    def hold(self, state: QueueState, end: int) -> None:
        """Now it is this one."""
        self._state = state
        self._epoch = state.epoch
        self._end = end

    def put_down(self) -> None:
        """It is done with."""
        state, self._state = self._state, None
        if state is not None:
            state.acknowledge(self._epoch, self._end)


class Consumer:
    """Reads queues of one or several topics. Made by Client.subscribe() and assign().

    Iterating gives messages, and acknowledges each one when the next is asked for; batches() and
    poll() give batches, to be acknowledged by their ack(). What was not acknowledged is delivered
    again, to whoever reads the queue after this consumer.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        own_core: bool,
        on_close: Callable[[Consumer], None],
    ) -> None:
        self._membership = membership
        self._own_core = own_core
        self._on_close = on_close
        self._hand = Hand()
        self._closed: Closed | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self._hand.put_down()
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{len(self._membership.states)} queues"
        return f"<consumer of {self.group}, {state}>"

    @property
    def group(self) -> str:
        """Its group."""
        return self._membership.group

    @property
    def client_id(self) -> str:
        """How the brokers call it."""
        return self._membership.core.client_id

    def open(self) -> None:
        """Join the group; done by whoever makes a consumer."""
        run(self._membership.join(), JOIN_TIMEOUT, "joining the group")

    def close(self) -> None:
        """Commit what was acknowledged and leave the group. May be repeated."""
        if self.begin_close():
            try:
                run(self._membership.leave(), LEAVE_TIMEOUT, "leaving the group")
            finally:
                self.end_close()

    # Reading

    def __iter__(self) -> Iterator[ReceivedMessage]:
        return self.messages()

    def messages(self, timeout: float | None = None) -> Iterator[ReceivedMessage]:
        """Messages, until the consumer is closed or none comes for `timeout` seconds.

        A message is acknowledged when the next is asked for, also by another iteration, and the
        last one when the consumer's `with` block ends without an error.
        """
        self.put_down()
        for state, batch in self._each_taken(timeout):
            yield from self.each(state, batch)

    def each(self, state: QueueState, batch: Batch) -> Generator[ReceivedMessage, None, None]:
        """Messages of a batch, each acknowledged when the next is asked for."""
        epoch = state.epoch
        count = len(batch)
        number = 0
        if not self._is_kept(state, batch):
            return
        try:
            for message in batch:
                if state.released or state.epoch != epoch or self._closed is not None:
                    number = count  # Whoever reads the queue now gets the rest.
                    return
                number += 1
                last = number == count
                self._hand.hold(state, batch.next_offset if last else message.queue_offset + 1)
                yield message
                self._hand.put_down()
        finally:
            if number < count:
                self._membership.put_back(state, batch.tail(number), epoch)

    def _is_kept(self, state: QueueState, batch: Batch) -> bool:
        """Whether the messages can be shown; else their queue goes on at the first that is kept."""
        try:
            batch.data  # noqa: B018  it is read now if it was not before
        except Refused as error:
            if error.code != ResponseCode.PULL_OFFSET_MOVED:
                raise
            self._membership.read_again(state, batch)
            return False
        return True

    def batches(self, timeout: float | None = None) -> Iterator[Batch]:
        """Batches, until the consumer is closed or none comes for `timeout` seconds."""
        for _state, batch in self._each_taken(timeout):
            yield batch

    def poll(self, timeout: float | None = 0.0) -> Batch | None:
        """The next batch, None if there is none within `timeout` seconds."""
        taken = self._take(timeout)
        return None if taken is None else taken[1]

    def _each_taken(self, timeout: float | None) -> Iterator[tuple[QueueState, Batch]]:
        """Batches, until none comes in time, or the consumer is closed by another thread."""
        self.check_open()
        while self._closed is None:
            try:
                taken = self._take(timeout)
            except Closed:
                return
            if taken is None:
                return
            yield taken

    def _take(self, timeout: float | None) -> tuple[QueueState, Batch] | None:
        end = None if timeout is None else time.monotonic() + timeout
        membership = self._membership
        while True:
            self.check_open()
            state = membership.path.state()
            taken = membership.take()
            if taken is not None:
                return taken
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return None
            membership.path.wait(state, left)

    # Places

    def assignment(self) -> list[Queue]:
        """The queues that it reads now."""
        self.check_open()
        retry_topic = self._membership.retry_topic
        with self._membership.lock:
            return sorted(queue for queue in self._membership.states if queue.topic != retry_topic)

    def position(self, queue: Queue) -> int:
        """Offset of the next message that it will give of a queue."""
        self.check_open()
        return self._membership.position(queue)

    def seek(self, queue: Queue, offset: int) -> None:
        """Go on at this offset; what was given before counts as acknowledged no more."""
        self.check_open()
        self._membership.seek(queue, offset)

    def seek_to_time(self, queue: Queue, when: When) -> int:
        """Go on at the first message stored at that moment or later; gives its offset."""
        self.check_open()
        offset = run(admin.search_offset(self._membership.core, queue, when))
        self._membership.seek(queue, offset)
        return offset

    def commit(self) -> None:
        """Tell the brokers what was acknowledged, now.

        Raises:
            ClientError: one could not be told.
        """
        self.check_open()
        run(self._membership.commit())

    # Shared with the client and the asyncio form

    @property
    def closed(self) -> bool:
        """Whether it gives nothing any more."""
        return self._closed is not None

    def begin_close(self) -> bool:
        """Give nothing any more; False when it was closed before."""
        if self._closed is not None:
            return False
        self._closed = Closed("consumer closed", group=self.group)
        return True

    def end_close(self) -> None:
        """End the connections that nobody else uses."""
        self._on_close(self)
        if self._own_core:
            self._membership.core.close()

    def put_down(self) -> None:
        """The message in hand is done with."""
        self._hand.put_down()

    @property
    def membership(self) -> Membership:
        """What it stands on."""
        return self._membership

    def forked(self) -> None:
        """In a forked child: the parent's consumer is of no use here."""
        self._closed = Closed(
            "the consumer belongs to the process before the fork", group=self.group
        )
        if self._own_core:
            self._membership.core.abandon()

    def check_open(self) -> None:
        """Refuse if it is closed.

        Raises:
            Closed: it is.
        """
        if self._closed is not None:
            raise self._closed
