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
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from shmq.client.address import Endpoint
from shmq.client.bodyrun import BodyRun
from shmq.client.flow import call_safely
from shmq.client.model import Queue, SendStatus
from shmq.client.nativelane import LaneTicket, finish_all, retry_all
from shmq.client.nativerecord import Shape, encode, is_special, target_of
from shmq.client.places import OffsetIds, Offsets, RunSizes
from shmq.client.transport import Stored, Submission
from shmq.errors import Closed, NotConnected, Refused, ShmqError, Timeout, Unavailable
from shmq.layout import ring as ring_layout
from shmq.shm.bellpair import hush_bell, ring_bell
from shmq.wire.codes import ResponseCode

if TYPE_CHECKING:
    from shmq.client.bell import Bell
    from shmq.client.flow import Done
    from shmq.client.nativelane import Lane
    from shmq.client.nativesession import NativeSession
    from shmq.client.transport import ProducerPath
    from shmq.errors import ClientError
    from shmq.kernels.produce import Target

REFUSED_S: Final = 30.0
RETRY_S: Final = 0.2
TOPIC_REFUSED_S: Final = 1.0
RING_LOOK_S: Final = 0.005
"""Longest sleep of a thread that waits for its turn to look at the ring."""
LOOK_S: Final = 0.1
"""Longest sleep while something is under way: time limits are looked at as often."""
IDLE_LOOK_S: Final = 0.5
"""Longest sleep otherwise: what is submitted does not wake the thread, its completion does."""
WAITING_MAX: Final = 4096
TARGETS_MAX: Final = 4096
_CODE_SIZE: Final = 8
"""Of a tags code, one for each of several records."""
_COMPLETION: Final = struct.Struct("=iiqqq")
_log: Final = logging.getLogger("shmq.client")


class Listener(Protocol):
    """Who reads queues over the link."""

    @property
    def looks_itself(self) -> bool:
        """Whether a thread of its own waits for news."""

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

    __slots__ = ("deadline", "done", "lazy", "sizes", "submission")

    def __init__(self, waiting: _Waiting, sizes: Sequence[int]) -> None:
        self.submission = waiting.submission
        self.done: Done[Stored] | None = waiting.done
        self.deadline = waiting.deadline
        self.lazy = waiting.submission.lazy
        self.sizes = sizes


_NOBODY: Final = _Waiting(
    Submission(Endpoint("", 0), Queue("", "", 0), "", (), is_batch=False, timeout=0.0, lazy=True),
    lambda _outcome: None,
    float("inf"),
)
"""What stands for something that nobody waits for."""


class NativeLink:
    """One for each client and broker; from any thread."""

    def __init__(self, path: str, copies: ProducerPath, *, id_head: str, spin: float = 0.0) -> None:
        """`id_head`: of the ids of runs, which the kernel completes; `spin`: see connect()."""
        self._spin = spin
        self._path = path
        self._id_head = id_head
        self._copies = copies
        # Of the kind that one thread may take twice: a consumer may be collected while it is held.
        self.lock = threading.RLock()
        self._room = threading.Condition(self.lock)
        self._waiting: deque[_Waiting] = deque()
        self.flying: deque[_Flying | LaneTicket] = deque()
        """What is in the ring, in its order."""
        self._copying = 0
        self._listeners: set[Listener] = set()
        self._thread: threading.Thread | None = None
        self._ends: tuple[socket.socket, socket.socket] | None = None
        self._closed = False
        self.lent = False
        """Whether a body of the ring is being filled: nothing else may be put then."""
        self._direct: set[object] = set()
        """Threads that look for the completions by themselves."""
        self._hears = False
        """Whether completions wake the thread now; never while a thread looks by itself."""
        self.hears_news = False
        """Whether the growth of queues wakes it now."""
        self._asleep = False
        self._alert = False
        """Whether somebody is to be called after something that is under way."""
        self._try_after = 0.0
        self._expire_due = 0.0
        self._lanes: weakref.WeakSet[Lane] = weakref.WeakSet()
        self._topics: dict[str, tuple[list[int], float]] = {}
        """Slots of the write queues, and until when that is believed."""
        self._targets: dict[tuple[Queue, str | None, bool], Target] = {}
        """For runs, by queue, tags, and whether they are batches; of the present session."""
        self.shape: Shape | None = None
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
        with self.lock:
            if not self._closed:
                if not self._waiting and not self._copying and self._put(waiting):
                    return
                self._waiting.append(waiting)
                self._begin()
                return
        call_safely(done, Closed("client closed", address=self._path))

    def add_lane(self, lane: Lane) -> None:
        """A producer puts single bodies into the ring by itself, once the session is open."""
        with self.lock:
            self._lanes.add(lane)

    def is_clear(self) -> bool:
        """Whether what is put into the ring now overtakes nothing; with the lock held."""
        return not (self._waiting or self._copying or self.lent or self._closed)

    def go_on(self) -> None:
        """What was lent is back: put in what has waited meanwhile; with the lock held."""
        if self._waiting:
            self._wake()

    def slot(self, queue: Queue) -> int | None:
        """Slot of a queue to which there is leave to append, as far as is known."""
        slots, until = self._topics.get(queue.topic, ((), 0.0))
        if queue.queue_id >= len(slots) or time.monotonic() >= until:
            return None
        return slots[queue.queue_id]

    def await_results(self, reached: Callable[[], bool], timeout: float | None, bell: Bell) -> bool:
        """Wait until `reached`, which results may bring about; whether it was.

        The calling thread sleeps on the ring itself while what it waits for may be there; else on
        `bell`, which rings after every result.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            count = bell.count
            if self.help(reached, end):
                return True
            left = LOOK_S if self._hears else RING_LOOK_S
            if end is not None:
                left = min(left, end - time.monotonic())
            if left <= 0:
                return False
            bell.wait(count, left)

    def help(self, reached: Callable[[], bool], end: float | None) -> bool:
        """Give out what is completed until `reached`; whether it was.

        Ends without it when the time is over, when the thread looks for completions already, or
        when none can bring it about.
        """
        self.answer()
        if reached():
            return True
        token = object()  # In a set: a signal's handler may raise between any two steps.
        try:
            with self.lock:
                if self._hears:
                    return False
                self._direct.add(token)
            while True:
                left = LOOK_S if end is None else min(LOOK_S, end - time.monotonic())
                session = self.session
                if left <= 0 or session is None or not self.flying:
                    return False
                under_way = session.writer.submitted - session.writer.reaped
                enough = session.writer.reaped + max(1, under_way // 2)
                try:
                    session.wait_done(enough, left)
                except Unavailable:  # The thread sees to that.
                    return False
                self.answer()
                if reached():
                    return True
        finally:
            with self.lock:
                self._direct.discard(token)
                deaf = self._asleep and not self._hears
                if deaf and not self._direct and self._is_awaited():
                    self._wake()

    def _is_awaited(self) -> bool:
        """Whether the thread is to see completions when they come; with the lock held."""
        if not self.flying:
            self._alert = False
        return self._alert or any(not one.lazy for one in self.flying)

    def look_out(self) -> None:
        """Somebody is to be called after what is under way, or waits for other things now."""
        with self.lock:
            self._alert = True
            self._wake()

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
        session, shape = self.session, self.shape
        submission = waiting.submission
        if session is None or shape is None or self.lent:
            return False
        self.mend(session)
        queue = submission.queue
        slot = self.slot(queue)
        if slot is None or shape.refuses(submission):
            return False
        messages = submission.messages
        if isinstance(messages, BodyRun):
            overhead = self._put_run(session, shape, submission, messages, slot)
            if overhead < 0:
                return False
            sizes: Sequence[int] = RunSizes(messages.sizes, overhead)
        else:
            data, sizes, code = encode(shape, submission)
            if len(data) > shape.data_size_max:
                return False
            number = session.writer.put_made(
                data, count=len(sizes), slot=slot, queue_id=queue.queue_id, tags_code=code
            )
            if number < 0:
                return False
        self.flying.append(_Flying(waiting, sizes))
        session.publish()
        awaited = not submission.lazy or submission.timeout < IDLE_LOOK_S
        if awaited and self._asleep and not self._hears and not self._direct:
            self._wake()
        return True

    def _put_run(
        self,
        session: NativeSession,
        shape: Shape,
        submission: Submission,
        run: BodyRun,
        slot: int,
    ) -> int:
        """Write the records of a run into the ring; bytes of one beside its body, -1: no room."""
        queue, is_batch = submission.queue, submission.is_batch
        key = (queue, run.tags, is_batch)
        target = self._targets.get(key)
        if target is None:
            if len(self._targets) >= TARGETS_MAX:
                self._targets.clear()
            target = target_of(shape, queue, slot, tags=run.tags, is_batch=is_batch)
            self._targets[key] = target
        count = len(run)
        if run.size + count * (target.overhead + _CODE_SIZE) > shape.data_size_max:
            return -1
        session.say_core()
        done = session.writer.put(
            target,
            run.buffer,
            run.starts,
            run.sizes,
            0,
            count,
            born_ms=time.time_ns() // 1_000_000,
            stamp=run.ids.stamp.encode(),
            counter=run.ids.counter,
            group=count,
        )
        return target.overhead if done else -1

    def mend(self, session: NativeSession) -> None:
        """Count what was put into the ring by a call that a signal's handler ended right then.

        With the lock held, before anything else is put. Nobody waits for it.
        """
        writer = session.writer
        while len(self.flying) < writer.submitted - writer.reaped:
            self.flying.append(_Flying(_NOBODY, ()))
            session.publish()

    # Readers

    def listen(self, listener: Listener) -> None:
        """Wake it when queues have grown; opens the session."""
        with self.lock:
            self._listeners.add(listener)
            if not self._closed:
                self._begin()

    def unlisten(self, listener: Listener) -> None:
        """Wake it no more."""
        with self.lock:
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
        self.answer()
        if (self._waiting or self._listeners) and self.session is None:
            self._open()
        while self._waiting and self._advance():
            pass
        self._expire()

    def answer(self) -> int:
        """Give out what the writer has completed; how many entries that is. From any thread."""
        finished: list[tuple[Done[Stored], Stored | Exception]] = []
        tickets: list[LaneTicket] = []
        failures: list[tuple[LaneTicket, ClientError]] = []
        with self.lock:
            session = self.session
            if session is None:
                return 0
            writer, ring = session.writer, session.ring
            self.mend(session)
            completed = ring.completed.load()
            first = writer.reaped
            if not 0 < completed - first <= len(self.flying):
                return 0
            mask = ring.entry_count - 1
            completions, popleft = ring.completions, self.flying.popleft
            for number in range(first, completed):
                flying = popleft()
                status, _zero, physical, queue_offset, _ms = _COMPLETION.unpack_from(
                    completions, (number & mask) * ring_layout.COMPLETION_SIZE
                )
                if not isinstance(flying, LaneTicket):
                    if flying.done is not None:
                        outcome = self._outcome(flying, status, physical, queue_offset)
                        finished.append((flying.done, outcome))
                elif flying.outcome is None:
                    if status == ring_layout.STATUS_OK:
                        flying.queue_offset = queue_offset
                        flying.physical_offset = physical  # Last: done() looks at it.
                        tickets.append(flying)
                    else:
                        flying.keep()
                        failures.append((flying, self._refusal(flying.queue, status)))
            writer.reap(completed)
        for done, outcome in finished:
            call_safely(done, outcome)
        finish_all(tickets)
        retry_all(failures)
        return completed - first

    def _outcome(
        self, flying: _Flying, status: int, physical: int, queue_offset: int
    ) -> Stored | Exception:
        queue = flying.submission.queue
        if status != ring_layout.STATUS_OK:
            return self._refusal(queue, status)
        assert self.shape is not None
        offsets = Offsets(physical, flying.sizes)
        ids = OffsetIds(self.shape.place, offsets)
        return Stored(SendStatus.OK, queue.queue_id, queue_offset, ids, offsets)

    def _refusal(self, queue: Queue, status: int) -> ClientError:
        code, why = ResponseCode.MESSAGE_ILLEGAL, "the broker found a record unsound"
        if status == ring_layout.STATUS_BAD_SLOT:
            self._topics.pop(queue.topic, None)
            self._forget_targets()
            code, why = ResponseCode.TOPIC_NOT_EXIST, "leave to append to the queue has ended"
        elif status == ring_layout.STATUS_CLOSED:
            code = ResponseCode.SERVICE_NOT_AVAILABLE
            why = "the disk failed or has no room for the commitlog"
        return Refused("send refused", code=code, remark=why, topic=queue.topic, address=self._path)

    def _forget_targets(self) -> None:
        self._targets.clear()
        for lane in list(self._lanes):
            lane.forget()

    def _open(self) -> None:
        """A new session, unless one was refused or failed just now."""
        if time.monotonic() < self._try_after:
            return
        from shmq.client.nativesession import NativeSession  # noqa: PLC0415  with first use

        try:
            session = NativeSession(self._path, spin_s=self._spin)
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
        with self.lock:
            self.only_reads = session.facts.sync_flush
            self._topics.clear()
            self._forget_targets()
            self.shape = Shape(session.facts, session.ring.data_size, self._id_head)
            self.session = session
        self._tell()

    def _advance(self) -> bool:
        """See to what has waited longest; False when it must wait on."""
        head = self._waiting[0]
        topic = head.submission.queue.topic
        native = self.session is not None and not is_special(head.submission)
        if native and time.monotonic() >= self._topics.get(topic, ((), 0.0))[1]:
            self._ask_topic(topic)
        with self.lock:
            if native and self._fits(head):
                if self._copying or not self._put(head):
                    return False  # There is no room now, or it would overtake a copy.
                self._waiting.popleft()
                self._room.notify_all()
                return True
            if self.flying:
                return False  # It must not overtake them.
            self._waiting.popleft()
            self._room.notify_all()
            self._copying += 1
        left = max(head.deadline - time.monotonic(), 0.001)
        self._copies.submit(head.submission._replace(timeout=left), self._copied(head.done))
        return True

    def _copied(self, done: Done[Stored]) -> Done[Stored]:
        def then(outcome: Stored | Exception) -> None:
            with self.lock:
                self._copying -= 1
            self._wake()
            done(outcome)

        return then

    def _fits(self, waiting: _Waiting) -> bool:
        """Whether the ring will take it when it has room."""
        shape, submission = self.shape, waiting.submission
        if shape is None or shape.refuses(submission):
            return False
        slots, _until = self._topics.get(submission.queue.topic, ((), 0.0))
        if submission.queue.queue_id >= len(slots):
            return False
        if isinstance(submission.messages, BodyRun):
            run = submission.messages
            target = target_of(
                shape, submission.queue, 0, tags=run.tags, is_batch=submission.is_batch
            )
            return run.size + len(run) * (target.overhead + _CODE_SIZE) <= shape.data_size_max
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
            self._forget_targets()

    def _expire(self) -> None:
        """End what has waited too long; looked at now and then, however much is under way."""
        now = time.monotonic()
        if now < self._expire_due:
            return
        self._expire_due = now + LOOK_S / 2
        late: list[Done[Stored]] = []
        tickets: list[LaneTicket] = []
        with self.lock:
            for flying in self.flying:
                if flying.deadline > now:
                    continue
                if isinstance(flying, LaneTicket):
                    if flying.outcome is None:
                        flying.outcome = Timeout("no answer in time", address=self._path)
                        tickets.append(flying)
                elif flying.done is not None:
                    late.append(flying.done)
                    flying.done = None
            if any(waiting.deadline <= now for waiting in self._waiting):
                late += [one.done for one in self._waiting if one.deadline <= now]
                self._waiting = deque(one for one in self._waiting if one.deadline > now)
        for done in late:
            call_safely(done, Timeout("no answer in time", address=self._path))
        finish_all(tickets)

    def _sleep(self) -> None:
        session, ends = self.session, self._ends
        assert ends is not None
        busy = bool(self.flying or self._waiting or (self._listeners and session is None))
        poller = select.poll()
        poller.register(ends[1], select.POLLIN)
        if session is None:
            poller.poll(RETRY_S * 1000 if busy else None)
            hush_bell(ends[1])
            return
        with self.lock:
            self._hears = not self._direct and self._is_awaited()
            self.hears_news = any(not one.looks_itself for one in self._listeners)
            self._asleep = True
        try:
            rung = session.sleep(
                poller,
                over=self._work_waits,
                done=self._hears,
                news=self.hears_news,
                timeout_s=LOOK_S if busy else IDLE_LOOK_S,
            )
        finally:
            self._asleep = self._hears = self.hears_news = False
        if rung:
            hush_bell(ends[1])
        with self.lock:
            grown = [one for one in self._listeners if one.has_grown()]
        for listener in grown:
            listener.wake()

    def _work_waits(self) -> bool:
        session = self.session
        if session is None or self._closed:
            return True
        if self._hears and session.ring.completed.load() > session.writer.reaped:
            return True
        with self.lock:
            return any(not one.looks_itself and one.has_grown() for one in self._listeners)

    def _tell(self) -> None:
        with self.lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()

    def _lose(self, error: Exception) -> None:
        """The session is gone: answers that came count, of the rest nothing is known."""
        self.answer()
        with self.lock:
            session, self.session = self.session, None
            self.lent = False
            flying, self.flying = self.flying, deque()
            self._topics.clear()
        if session is not None:
            session.close()
        lost = NotConnected("connection lost", address=self._path, cause=str(error))
        for one in flying:
            if isinstance(one, LaneTicket):
                if one.outcome is None:
                    one.keep()
                    one.retry(lost)
            elif one.done is not None:
                call_safely(one.done, lost)
        self._tell()

    # End

    def close(self) -> None:
        """End the thread and the session; what is under way ends with Closed."""
        with self.lock:
            self._closed = True
            thread = self._thread
            self._room.notify_all()
            self._wake()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
        with self.lock:
            session, self.session = self.session, None
            left = [one.done for one in self._waiting]
            tickets: list[LaneTicket] = []
            for one in self.flying:
                if isinstance(one, LaneTicket):
                    one.outcome = one.outcome or Closed("client closed", address=self._path)
                    tickets.append(one)
                elif one.done is not None:
                    left.append(one.done)
            self.flying.clear()
            self._waiting.clear()
        self._shut(session)
        for done in left:
            call_safely(done, Closed("client closed", address=self._path))
        finish_all(tickets)

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
