"""The seam between what all transports share and how the data itself travels.

Shared by all: addresses, routes, the choice of a queue, retries, windows, groups, rebalancing,
offsets, heartbeats. They go over connections of the remoting protocol, TCP or Unix socket.

A transport is two things: how some messages for one queue are handed to its broker
(`ProducerPath`), and how the messages of a queue are read (`ReaderPath`, `QueueReader`). The
remoting transport is in remoting.py: requests with the bodies in them.

    Publisher --submit(Submission)--> ProducerPath --Stored or error, once--> Publisher
    Consumer --open(queue, offset)--> ReaderPath --QueueReader--> take() gives Batches
             --wait() or when_ready()--> ReaderPath: something may be there to take
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from shmq.client.model import SendStatus

if TYPE_CHECKING:
    from shmq.client.address import Endpoint
    from shmq.client.batch import Batch
    from shmq.client.flow import Done
    from shmq.client.model import Queue
    from shmq.client.prepare import Prepared
    from shmq.errors import ClientError


class Stored(NamedTuple):
    """Where the messages of a submission are, in their order."""

    status: SendStatus
    queue_id: int
    queue_offset: int
    """Of the first; the others follow it."""
    offset_ids: Sequence[str]
    """One each; a transport may make them when they are looked at."""
    physical_offsets: Sequence[int] | None = None
    """One each, where they are known without reading the ids."""


class Submission(NamedTuple):
    """Messages of one topic for one queue; they are stored together or not at all."""

    endpoint: Endpoint
    queue: Queue
    group: str
    messages: Sequence[Prepared]
    is_batch: bool
    timeout: float
    lazy: bool = False
    """Whether who waits for the outcome looks for it by himself."""


class ProducerPath(Protocol):
    """How messages get to brokers. Its methods are called by any thread and must not wait."""

    def submit(self, submission: Submission, done: Done[Stored]) -> None:
        """Hand messages over; `done` is called once, by any thread, perhaps before this returns.

        Errors: NotConnected (worth another try), Timeout, Refused with the broker's code.
        """

    def submit_oneway(self, submission: Submission) -> ClientError | None:
        """Hand messages over whose storing nobody waits for."""

    def is_full(self, endpoint: Endpoint) -> bool:
        """Whether so much waits to be written that a thread that may wait should."""

    def await_room(self, endpoint: Endpoint, timeout: float) -> None:
        """Wait until less waits to be written, or for `timeout` seconds."""


class QueueReader(Protocol):
    """Reads one queue from an offset on. Called by any thread, one at a time."""

    @property
    def next_offset(self) -> int:
        """All messages before it were given by take(), or are not wanted by the subscription."""

    def take(self) -> Batch | None:
        """The next messages, None if there are none now. Never waits.

        Raises:
            ClientError: reading failed for good; trying again is useless.
        """

    def seek(self, offset: int) -> None:
        """Go on at this offset; what was read ahead is dropped."""

    def stop(self) -> None:
        """Read no more."""


class ReaderPath(Protocol):
    """How one consumer reads its queues. Its methods may be called by any thread."""

    def open(self, queue: Queue, offset: int) -> QueueReader:
        """Begin to read a queue."""

    def state(self) -> int:
        """A number that changes whenever something may be there to take."""

    def wait(self, state: int, timeout: float | None) -> None:
        """Wait in the calling thread until state() is another than this, got before a take()."""

    def when_ready(self, state: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once, from any thread, when state() is another.

        Gives a function that calls that off.
        """

    def wake(self) -> None:
        """Change state(): the queues are others now, or the consumer is closed."""
