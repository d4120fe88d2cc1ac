"""A client's tie to the broker's shared memory: one session and one thread.

    submit() --room, topic known--> ring --completed--> done(Stored), by the thread
       +--else--> waiting, in order --thread: opens, asks for the topic, waits for room--> ring
                     +--what the ring does not take--> copies, with nothing else under way meanwhile

    session:  none --(first use, or lost)--> open --(its serve process is gone)--> none
              none --(refused)--> copies for REFUSED_S, then it is asked again

What was in the ring when a session is lost ends with NotConnected: it may have been stored.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, overload

from shmq.client.flow import call_safely
from shmq.client.model import SendStatus
from shmq.client.nativerecord import Shape, encode, is_special
from shmq.client.transport import Stored
from shmq.errors import Closed, NotConnected, Refused, ShmqError, Timeout, Unavailable
from shmq.layout import ring as ring_layout
from shmq.shm.bellpair import hush_bell, ring_bell
from shmq.wire.codes import ResponseCode
from shmq.wire.messageid import offset_message_id

if TYPE_CHECKING:
    from shmq.client.address import Endpoint
    from shmq.client.flow import Done
    from shmq.client.nativesession import NativeSession
    from shmq.client.transport import ProducerPath, Submission
    from shmq.errors import ClientError

REFUSED_S: Final = 30.0
RETRY_S: Final = 0.2
TOPIC_REFUSED_S: Final = 1.0
LOOK_S: Final = 0.1
"""Longest sleep while something is under way: time limits are looked at as often."""
IDLE_LOOK_S: Final = 0.5
"""Longest sleep otherwise: what is submitted does not wake the thread, its completion does."""
WAITING_MAX: Final = 4096
_COMPLETION: Final = struct.Struct("=iiqqq")
_log: Final = logging.getLogger("shmq.client")


class Listener(Protocol):
    """Who reads queues over the link."""

    def has_grown(self) -> bool:
        """Whether a queue has grown since the last wake()."""

    def wake(self) -> None:
        """Something may be there to take, or the session is another."""


class _Waiting(NamedTuple):
    submission: Submission
    done: Done[Stored]
    deadline: float


class _Flying:
    """An entry of the ring that was not completed yet."""

    __slots__ = ("deadline", "done", "sizes", "submission")

    def __init__(self, waiting: _Waiting, sizes: Sequence[int]) -> None:
        self.submission = waiting.submission
        self.done: Done[Stored] | None = waiting.done
        self.deadline = waiting.deadline
        self.sizes = sizes


class _OffsetIds(Sequence[str]):
    """Ids of messages that follow each other, made when they are looked at."""

    __slots__ = ("_offsets", "_place")

    def __init__(self, place: tuple[bytes, int], offsets: Sequence[int]) -> None:
        self._place = place
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [offset_message_id(*self._place, one) for one in self._offsets[index]]
        return offset_message_id(*self._place, self._offsets[index])


class NativeLink:
    """One for each client and broker; from any thread."""

    def __init__(self, path: str, copies: ProducerPath) -> None:
        self._path = path
        self._copies = copies
        # Of the kind that one thread may take twice: a consumer may be collected while it is held.
        self._lock = threading.RLock()
        self._room = threading.Condition(self._lock)
        self._waiting: deque[_Waiting] = deque()
        self._flying: deque[_Flying] = deque()
        self._copying = 0
        self._listeners: set[Listener] = set()
        self._thread: threading.Thread | None = None
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._closed = False
        self._try_after = 0.0
        self._topics: dict[str, tuple[list[int], float]] = {}
        """Slots of the write queues, and until when that is believed."""
        self._shape: Shape | None = None
        self.session: NativeSession | None = None
        self._refused_until = 0.0
        self.only_reads = False
        """Whether all sends go by copies, since they must be on the disk before the answer."""

    @property
    def refused(self) -> bool:
        """Whether the broker gives no shared memory, as far as is known."""
        return time.monotonic() < self._refused_until

    # Producers

    def submit(self, submission: Submission, done: Done[Stored]) -> None:
        """As ProducerPath.submit()."""
        waiting = _Waiting(submission, done, time.monotonic() + submission.timeout)
        with self._lock:
            if not self._closed:
                if not self._waiting and not self._copying and self._put(waiting):
                    return
                self._waiting.append(waiting)
                self._begin()
                return
        call_safely(done, Closed("client closed", address=self._path))

    @property
    def is_full(self) -> bool:
        """Whether much waits for room in the ring."""
        return len(self._waiting) >= WAITING_MAX

    def await_room(self, timeout: float) -> None:
        """Wait until less waits for room in the ring."""
        with self._room:
            self._room.wait_for(lambda: not self.is_full or self._closed, timeout)

    def _put(self, waiting: _Waiting) -> bool:
        """Into the ring, if it can go there now; False: the thread sees to it."""
        session, shape = self.session, self._shape
        submission = waiting.submission
        if session is None or shape is None:
            return False
        queue = submission.queue
        slots, until = self._topics.get(queue.topic, ((), 0.0))
        if queue.queue_id >= len(slots) or time.monotonic() >= until or shape.refuses(submission):
            return False
        data, sizes, code = encode(shape, submission)
        if len(data) > shape.data_size_max:
            return False
        number = session.writer.put_made(
            data,
            count=len(sizes),
            slot=slots[queue.queue_id],
            queue_id=queue.queue_id,
            tags_code=code,
        )
        if number < 0:
            return False
        self._flying.append(_Flying(waiting, sizes))
        session.publish()
        if submission.timeout < IDLE_LOOK_S:
            self._wake()
        return True

    # Readers

    def listen(self, listener: Listener) -> None:
        """Wake it when queues have grown; opens the session."""
        with self._lock:
            self._listeners.add(listener)
            if not self._closed:
                self._begin()

    def unlisten(self, listener: Listener) -> None:
        """Wake it no more."""
        with self._lock:
            self._listeners.discard(listener)

    # The thread

    def _begin(self) -> None:
        """Have the thread look; begin it first. With the lock held."""
        if self._thread is None:
            self._ends = socket.socketpair()
            self._thread = threading.Thread(target=self._run, name="shmq-native", daemon=True)
            self._thread.start()
        self._wake()

    def _wake(self) -> None:
        if self._ends is not None:
            ring_bell(self._ends[0])

    def _run(self) -> None:
        while not self._closed:
            try:
                self._step()
                self._sleep()
            except Unavailable as error:
                self._lose(error)
            except Exception:  # noqa: BLE001  the edge of the thread: logged, and it goes on
                _log.exception("native link of %s", self._path)
                time.sleep(RETRY_S)

    def _step(self) -> None:
        """Answers first, then what waits, then time limits."""
        self._answer()
        if (self._waiting or self._listeners) and self.session is None:
            self._open()
        while self._waiting and self._advance():
            pass
        self._expire()

    def _answer(self) -> None:
        finished: list[tuple[Done[Stored], Stored | Exception]] = []
        with self._lock:
            session = self.session
            if session is None:
                return
            completed = session.ring.completed.load()
            writer = session.writer
            count = completed - writer.reaped
            if not 0 < count <= len(self._flying):
                return
            mask = session.ring.entry_count - 1
            for number in range(writer.reaped, completed):
                flying = self._flying.popleft()
                place = (number & mask) * ring_layout.COMPLETION_SIZE
                outcome = self._outcome(
                    flying, *_COMPLETION.unpack_from(session.ring.completions, place)
                )
                if flying.done is not None:
                    finished.append((flying.done, outcome))
            writer.reap(completed)
        for done, outcome in finished:
            call_safely(done, outcome)

    def _outcome(
        self, flying: _Flying, status: int, _zero: int, physical: int, queue_offset: int, _ms: int
    ) -> Stored | Exception:
        queue = flying.submission.queue
        if status == ring_layout.STATUS_OK:
            assert self._shape is not None
            offsets = [physical]
            for size in flying.sizes[:-1]:
                offsets.append(offsets[-1] + size)
            ids = _OffsetIds(self._shape.place, offsets)
            return Stored(SendStatus.OK, queue.queue_id, queue_offset, ids, offsets)
        code, why = ResponseCode.MESSAGE_ILLEGAL, "the broker found a record unsound"
        if status == ring_layout.STATUS_BAD_SLOT:
            self._topics.pop(queue.topic, None)
            code, why = ResponseCode.TOPIC_NOT_EXIST, "leave to append to the queue has ended"
        elif status == ring_layout.STATUS_CLOSED:
            code, why = ResponseCode.SERVICE_NOT_AVAILABLE, "writing the commitlog failed"
        return Refused("send refused", code=code, remark=why, topic=queue.topic, address=self._path)

    def _open(self) -> None:
        """A new session, unless one was refused or failed just now."""
        if time.monotonic() < self._try_after:
            return
        from shmq.client.nativesession import NativeSession  # noqa: PLC0415  with first use

        try:
            session = NativeSession(self._path)
        except OSError:
            self._try_after = time.monotonic() + RETRY_S
            return
        except Unavailable:
            self._try_after = time.monotonic() + RETRY_S
            return
        except ShmqError as error:
            _log.info("no shared memory from %s: %s", self._path, error)
            self._try_after = self._refused_until = time.monotonic() + REFUSED_S
            self._tell()
            return
        with self._lock:
            self.only_reads = session.facts.sync_flush
            self._topics.clear()
            self._shape = Shape(session.facts, session.ring.data_size)
            self.session = session
        self._tell()

    def _advance(self) -> bool:
        """See to what has waited longest; False when it must wait on."""
        head = self._waiting[0]
        topic = head.submission.queue.topic
        native = self.session is not None and not is_special(head.submission)
        if native and time.monotonic() >= self._topics.get(topic, ((), 0.0))[1]:
            self._ask_topic(topic)
        with self._lock:
            if native and self._fits(head):
                if self._copying or not self._put(head):
                    return False  # There is no room now, or it would overtake a copy.
                self._waiting.popleft()
                self._room.notify_all()
                return True
            if self._flying:
                return False  # It must not overtake them.
            self._waiting.popleft()
            self._room.notify_all()
            self._copying += 1
        left = max(head.deadline - time.monotonic(), 0.001)
        self._copies.submit(head.submission._replace(timeout=left), self._copied(head.done))
        return True

    def _copied(self, done: Done[Stored]) -> Done[Stored]:
        def then(outcome: Stored | Exception) -> None:
            with self._lock:
                self._copying -= 1
            self._wake()
            done(outcome)

        return then

    def _fits(self, waiting: _Waiting) -> bool:
        """Whether the ring will take it when it has room."""
        shape, submission = self._shape, waiting.submission
        if shape is None or shape.refuses(submission):
            return False
        slots, _until = self._topics.get(submission.queue.topic, ((), 0.0))
        if submission.queue.queue_id >= len(slots):
            return False
        return len(encode(shape, submission)[0]) <= shape.data_size_max

    def _ask_topic(self, topic: str) -> None:
        session = self.session
        assert session is not None, "only the thread ends it"
        try:
            found = session.topic(topic)
        except Unavailable:
            raise
        except ShmqError:  # By copies it is refused with the true reason.
            self._topics[topic] = ([], time.monotonic() + TOPIC_REFUSED_S)
        else:
            self._topics[topic] = (found.slots[: found.write_queue_nums], float("inf"))

    def _expire(self) -> None:
        now = time.monotonic()
        late: list[Done[Stored]] = []
        with self._lock:
            for flying in self._flying:
                if flying.done is not None and flying.deadline <= now:
                    late.append(flying.done)
                    flying.done = None
            if any(waiting.deadline <= now for waiting in self._waiting):
                late += [one.done for one in self._waiting if one.deadline <= now]
                self._waiting = deque(one for one in self._waiting if one.deadline > now)
        for done in late:
            call_safely(done, Timeout("no answer in time", address=self._path))

    def _sleep(self) -> None:
        session, ends = self.session, self._ends
        assert ends is not None
        busy = bool(self._flying or self._waiting or (self._listeners and session is None))
        poller = select.poll()
        poller.register(ends[1], select.POLLIN)
        if session is None:
            poller.poll(RETRY_S * 1000 if busy else None)
            hush_bell(ends[1])
            return
        if session.sleep(
            poller,
            over=self._work_waits,
            news=bool(self._listeners),
            timeout_s=LOOK_S if busy else IDLE_LOOK_S,
        ):
            hush_bell(ends[1])
        with self._lock:
            grown = [one for one in self._listeners if one.has_grown()]
        for listener in grown:
            listener.wake()

    def _work_waits(self) -> bool:
        session = self.session
        if session is None or self._closed:
            return True
        if session.ring.completed.load() > session.writer.reaped:
            return True
        with self._lock:
            return any(one.has_grown() for one in self._listeners)

    def _tell(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()

    def _lose(self, error: Exception) -> None:
        """The session is gone: answers that came count, of the rest nothing is known."""
        self._answer()
        with self._lock:
            session, self.session = self.session, None
            flying, self._flying = self._flying, deque()
            self._topics.clear()
        if session is not None:
            session.close()
        for one in flying:
            if one.done is not None:
                call_safely(
                    one.done, NotConnected("connection lost", address=self._path, cause=str(error))
                )
        self._tell()

    # End

    def close(self) -> None:
        """End the thread and the session; what is under way ends with Closed."""
        with self._lock:
            self._closed = True
            thread = self._thread
            self._room.notify_all()
            self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
        with self._lock:
            session, self.session = self.session, None
            left = [one.done for one in self._flying if one.done is not None]
            left += [one.done for one in self._waiting]
            self._flying.clear()
            self._waiting.clear()
        self._shut(session)
        for done in left:
            call_safely(done, Closed("client closed", address=self._path))

    def abandon(self) -> None:
        """In a forked child: the lock may be held by a thread that is not here."""
        self._closed = True
        session, self.session = self.session, None
        self._shut(session)

    def _shut(self, session: NativeSession | None) -> None:
        ends, self._ends = self._ends, None
        for end in ends or ():
            with contextlib.suppress(OSError):
                end.close()
        if session is not None:
            session.close()


class NativeProducerPath:
    """The ProducerPath over a link; see transport."""

    def __init__(self, link: NativeLink, copies: ProducerPath) -> None:
        self._link = link
        self._copies = copies

    def submit(self, submission: Submission, done: Done[Stored]) -> None:
        """Send, with an answer."""
        if self._goes_by_copies(submission):
            self._copies.submit(submission, done)
        else:
            self._link.submit(submission, done)

    def submit_oneway(self, submission: Submission) -> ClientError | None:
        """Send; nobody waits for the answer."""
        if self._goes_by_copies(submission):
            return self._copies.submit_oneway(submission)
        self._link.submit(submission, _nobody)
        return None

    def _goes_by_copies(self, submission: Submission) -> bool:
        link = self._link
        return link.refused or link.only_reads or not submission.endpoint.path

    def is_full(self, endpoint: Endpoint) -> bool:
        """Whether much waits to be written."""
        return self._link.is_full or self._copies.is_full(endpoint)

    def await_room(self, endpoint: Endpoint, timeout: float) -> None:
        """Wait until less waits to be written."""
        if self._link.is_full:
            self._link.await_room(timeout)
        else:
            self._copies.await_room(endpoint, timeout)


def _nobody(_outcome: Stored | Exception) -> None:
    """Nobody waits for it."""
