"""A session driven by hand, for tests of what is beneath the client: tickets without a thread.

Messages that share topic, queue, tags, keys and properties have one Target; the kernel writes any
number of them in one call. A Ticket stands for what one call submitted; it learns its results from
the ring when somebody looks, so there is no thread here.

    OPEN ticket --(its entries are completed, seen by reap)--> DONE, with results or the reason
         +--------(the session is gone)-----------------------> LOST: not known to be stored
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.client.model import Queue
from shmq.errors import RequestRefused, Unavailable
from shmq.kernels.produce import Target
from shmq.layout import record
from shmq.layout import ring as ring_layout
from shmq.layout.javahash import hash_code
from shmq.wire.codes import ResponseCode
from shmq.wire.messageid import offset_message_id
from shmq.wire.properties import NAME_END, PAIR_END, encode_properties

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Buffer

    from shmq.client.nativeread import RawBatch
    from shmq.client.nativesession import NativeSession

GROUP: Final = 32
"""Messages of one call that the writer appends as one piece."""
TARGETS_MAX: Final = 4096
LOCAL_HOST: Final = bytes((127, 0, 0, 1))


def records_of(batch: RawBatch) -> list[bytes]:
    """The records of what was read."""
    count = len(batch.sizes)
    lazy = batch.lazy(Queue("T", "b", 0), count, None, batch.first + count)
    data = bytes(lazy.data)
    places = [lazy.record(number)[1] for number in range(count)]
    assert places == lazy.column(0).tolist(), "the walk says the same"
    return [data[at : at + size] for at, size in zip(places, lazy.sizes.tolist(), strict=True)]


class Stored(NamedTuple):
    """Where one message went."""

    queue_id: int
    queue_offset: int
    physical_offset: int
    message_id: str
    """UNIQ_KEY."""
    offset_message_id: str
    store_timestamp: int


class Spec(NamedTuple):
    """What messages of one target share."""

    topic: str
    queue_id: int
    properties: bytes
    """Encoded, without UNIQ_KEY and without what the broker adds."""
    tags: str


class Ticket:
    """What one call submitted: entries of the ring, and the messages in them."""

    __slots__ = (
        "_counter",
        "_done_entries",
        "_engine",
        "_results",
        "_sizes",
        "_stamp",
        "_target",
        "end",
        "error",
        "sealed",
        "taken",
    )

    def __init__(
        self,
        engine: NativeEngine,
        *,
        first: int,
        target: _OpenTarget,
        sizes: list[int],
        stamp: bytes,
        counter: int,
    ) -> None:
        self._engine = engine
        self._target = target
        self._sizes = sizes
        self._stamp = stamp
        self._counter = counter
        self._done_entries: list[tuple[int, int, int, int]] = []
        """Of each completed entry: messages, physical offset, queue offset, store timestamp."""
        self._results: list[Stored] | None = None
        self.taken = self.end = first
        """Entries up to `end` are its own; up to `taken` their completions were seen."""
        self.sealed = False
        """Whether all of its entries were submitted."""
        self.error: Exception | None = None

    def __len__(self) -> int:
        """Number of messages."""
        return len(self._sizes)

    def done(self) -> bool:
        """Whether the results are there; looks at the ring."""
        if not self._is_over():
            self._engine.reap()
        return self._is_over()

    def _is_over(self) -> bool:
        return self.error is not None or (self.sealed and self.taken == self.end)

    def result(self, timeout_s: float | None = None) -> list[Stored]:
        """One result for each message, in order.

        Raises:
            TimeoutError: not yet.
            RequestRefused: the writer did not append them.
            Unavailable: the broker is gone; it is not known whether they were appended.
        """
        if not self.done() and not self._engine.wait(self, timeout_s):
            raise TimeoutError(f"{len(self)} messages not stored within {timeout_s} s")
        if self.error is not None:
            raise self.error
        if self._results is None:
            self._results = self._decode()
        return self._results

    def take(self, upto: int) -> None:
        """See the completions of its entries with numbers below `upto`."""
        ring = self._engine.session.ring
        completions, counts = self._engine.completions, self._engine.entry_numbers
        mask = ring.entry_count - 1
        while self.taken < upto:
            place = self.taken & mask
            status = completions[4 * place] & 0xFFFFFFFF
            if status != ring_layout.STATUS_OK:
                self.error = self.error or _refusal(status)
            self._done_entries.append(
                (
                    counts[16 * place + 3],
                    completions[4 * place + 1],
                    completions[4 * place + 2],
                    completions[4 * place + 3],
                )
            )
            self.taken += 1

    def _decode(self) -> list[Stored]:
        results: list[Stored] = []
        overhead = self._target.target.overhead
        prefix = self._target.unique_prefix + self._stamp.decode()
        queue_id = self._target.queue_id
        sizes, counter = self._sizes, self._counter
        place = self._engine.place
        for count, first_physical, first_queue_offset, stamp in self._done_entries:
            physical, queue_offset = first_physical, first_queue_offset
            for _ in range(count):
                index = len(results)
                results.append(
                    Stored(
                        queue_id,
                        queue_offset,
                        physical,
                        f"{prefix}{(counter + index) & 0xFFFF:04X}",
                        offset_message_id(*place, physical),
                        stamp,
                    )
                )
                physical += overhead + sizes[index]
                queue_offset += 1
        return results


class _OpenTarget(NamedTuple):
    """A target and what its results need."""

    target: Target
    queue_id: int
    unique_prefix: str


class NativeEngine:
    """Puts messages into one session's ring and gives tickets; usable from any thread."""

    def __init__(self, session: NativeSession, *, reply_wait_s: float = 30.0) -> None:
        self.session = session
        self._lock = threading.RLock()
        self._reply_wait_s = reply_wait_s
        self._targets: OrderedDict[Spec, _OpenTarget] = OrderedDict()
        self._topics: dict[str, list[int]] = {}
        self._open: deque[Ticket] = deque()
        self._counter = int.from_bytes(os.urandom(2), "big")
        self._unique_prefix = (
            (LOCAL_HOST + (os.getpid() & 0xFFFF).to_bytes(2, "big") + os.urandom(4)).hex().upper()
        )
        self._month_begin_ms, self._month_end_ms = 0, 0
        facts = session.facts
        self._store_host = bytes.fromhex(facts.store_host)
        self._message_size_max = min(facts.message_size_max, session.ring.data_size // 4 - 4096)
        self.place = (self._store_host, facts.store_port)
        self.completions = session.ring.completions.cast("B").cast("q")
        self.entry_numbers = session.ring.entries.cast("B").cast("i")

    @property
    def message_size_max(self) -> int:
        """Largest body that goes through the ring; larger ones take the socket."""
        return self._message_size_max

    # Topics and targets

    def queue_count(self, topic: str) -> int:
        """Write queues of a topic; asks for leave to append to them the first time."""
        slots = self._topics.get(topic)
        if slots is None:
            found = self.session.topic(topic)
            slots = self._topics[topic] = found.slots[: found.write_queue_nums]
        return len(slots)

    def forget_topic(self, topic: str) -> None:
        """Ask for the topic's queues again with its next use."""
        with self._lock:
            self._topics.pop(topic, None)
            for spec in [spec for spec in self._targets if spec.topic == topic]:
                del self._targets[spec]

    def spec(
        self,
        topic: str,
        queue_id: int,
        *,
        tags: str = "",
        properties: Mapping[str, str] | None = None,
    ) -> Spec:
        """What messages with these share; `properties` may hold KEYS and the like."""
        text = dict(properties or {})
        if tags:
            text["TAGS"] = tags
        text.setdefault("WAIT", "true")
        return Spec(topic, queue_id, encode_properties(text), tags)

    def _target(self, spec: Spec) -> _OpenTarget:
        found = self._targets.get(spec)
        if found is None:
            found = self._targets[spec] = self._make_target(spec)
            if len(self._targets) > TARGETS_MAX:
                self._targets.popitem(last=False)
        return found

    def _make_target(self, spec: Spec) -> _OpenTarget:
        count = self.queue_count(spec.topic)
        if not 0 <= spec.queue_id < count:
            raise RequestRefused(
                ResponseCode.INVALID_PARAMETER,
                "queue id is out of range",
                topic=spec.topic,
                found=spec.queue_id,
                allowed=(0, count - 1),
            )
        facts = self.session.facts
        added = "".join(
            f"{name}{NAME_END}{value}{PAIR_END}"
            for name, value in (
                ("MSG_REGION", facts.region),
                ("TRACE_ON", "true" if facts.trace_on else "false"),
                ("CLUSTER", facts.cluster_name),
            )
        ).encode()
        before = spec.properties + f"UNIQ_KEY{NAME_END}{self._unique_prefix}".encode()
        after = PAIR_END.encode() + added
        properties_size = len(before) + 12 + len(after)
        if properties_size > record.PROPERTIES_SIZE_MAX:
            raise RequestRefused(
                ResponseCode.MESSAGE_ILLEGAL,
                "the properties are too long",
                size=properties_size,
                allowed_max=record.PROPERTIES_SIZE_MAX,
            )
        empty = record.encode(
            record.Record(
                topic=spec.topic,
                body=b"",
                queue_id=spec.queue_id,
                sys_flag=0 if len(self._store_host) == record.IPV4_SIZE else record.STORE_HOST_V6,
                born_host=LOCAL_HOST,
                store_host=self._store_host,
                store_port=facts.store_port,
                magic=record.magic_for(spec.topic),
            )
        )
        topic = spec.topic.encode()
        tail_size = (2 if record.magic_for(spec.topic) == record.MAGIC_V2 else 1) + len(topic)
        head_end = len(empty) - tail_size - 2
        tail = empty[head_end : head_end + tail_size]
        target = Target(
            head=empty[:head_end],
            tail_before=tail + properties_size.to_bytes(2, "big") + before,
            tail_after=after,
            slot=self._topics[spec.topic][spec.queue_id],
            queue_id=spec.queue_id,
            tags_code=hash_code(spec.tags) if spec.tags else 0,
        )
        return _OpenTarget(target, spec.queue_id, self._unique_prefix)

    # Putting

    def put(self, spec: Spec, body: Buffer, *, timeout_s: float | None = None) -> Ticket:
        """Submit one message."""
        with self._lock:
            opened = self._target(spec)
            stamp, counter = self._unique(1)
            writer = self.session.writer
            ticket = Ticket(
                self,
                first=writer.submitted,
                target=opened,
                sizes=[memoryview(body).nbytes],
                stamp=stamp,
                counter=counter,
            )
            deadline = None
            while True:
                number = writer.put_one(
                    opened.target, body, born_ms=_now_ms(), stamp=stamp, counter=counter
                )
                if number >= 0:
                    break
                deadline = self._make_room(deadline, timeout_s)
            ticket.taken, ticket.end = number, number + 1
            ticket.sealed = True
            self._open.append(ticket)
            self.session.publish()
            return ticket

    def put_many(
        self,
        spec: Spec,
        bodies: Buffer,
        starts: Buffer,
        sizes: list[int],
        sizes_array: Buffer,
        *,
        timeout_s: float | None = None,
    ) -> Ticket:
        """Submit bodies that lie in one buffer; see RecordWriter.put."""
        count = len(sizes)
        with self._lock:
            opened = self._target(spec)
            stamp, counter = self._unique(count)
            writer = self.session.writer
            ticket = Ticket(
                self,
                first=writer.submitted,
                target=opened,
                sizes=sizes,
                stamp=stamp,
                counter=counter,
            )
            done, deadline = 0, None
            self._open.append(ticket)
            try:
                while done < count:
                    following = writer.put(
                        opened.target,
                        bodies,
                        starts,
                        sizes_array,
                        done,
                        count,
                        born_ms=_now_ms(),
                        stamp=stamp,
                        counter=counter,
                        group=GROUP,
                    )
                    if following > done:
                        done = following
                        ticket.end = writer.submitted
                        self.session.publish()
                    else:
                        deadline = self._make_room(deadline, timeout_s)
            finally:
                ticket.sealed = True  # Also when not all of it was submitted: nobody has it then.
            return ticket

    def _make_room(self, deadline: float | None, timeout_s: float | None) -> float | None:
        """The ring is full: take answers, wait for more of them. Gives the deadline."""
        self.session.publish()
        if deadline is None and timeout_s is not None:
            deadline = time.monotonic() + timeout_s
        if self.reap():
            return deadline
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError(f"the ring to the broker was full for {timeout_s} s")
        writer = self.session.writer
        in_flight = writer.submitted - writer.reaped
        self._await(writer.reaped + max(1, in_flight // 2), left_s)
        return deadline

    def _unique(self, count: int) -> tuple[bytes, int]:
        """Variable parts of the unique keys of `count` messages: time as hex, first counter."""
        now_ms = _now_ms()
        if not self._month_begin_ms <= now_ms < self._month_end_ms:
            self._month_begin_ms, self._month_end_ms = _month_of(now_ms)
        counter = self._counter
        self._counter = (counter + count) & 0xFFFF
        return b"%08X" % (now_ms - self._month_begin_ms), counter

    # Results

    def reap(self) -> int:
        """Take what was completed; how many entries that is."""
        with self._lock:
            completed = self.session.ring.completed.load()
            writer = self.session.writer
            count = completed - writer.reaped
            if count <= 0:
                return 0
            while self._open:
                ticket = self._open[0]
                ticket.take(min(completed, ticket.end))
                if ticket.taken < ticket.end or not ticket.sealed:
                    break
                self._open.popleft()
            writer.reap(completed)
            return count

    def wait(self, ticket: Ticket, timeout_s: float | None) -> bool:
        """Sleep until a ticket is done; False when the time is over."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not ticket.done():
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            self._await(ticket.end, left_s)
        return True

    def flush(self, timeout_s: float | None = None) -> bool:
        """Sleep until all that was submitted is done; False when the time is over."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        writer = self.session.writer
        last = writer.submitted
        while writer.reaped < last:
            if self.reap():
                continue
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                return False
            self._await(last, left_s)
        return True

    def _await(self, count: int, timeout_s: float | None) -> None:
        try:
            self.session.wait_done(count, timeout_s)
        except Unavailable as error:
            self.lose(error)
            raise

    def lose(self, error: Exception) -> None:
        """The session is gone: what the writer completed before counts, the rest is lost."""
        with self._lock:
            self.reap()
            while self._open:
                ticket = self._open.popleft()
                ticket.error = ticket.error or error


def _refusal(status: int) -> RequestRefused:
    if status == ring_layout.STATUS_CLOSED:
        return RequestRefused(
            ResponseCode.SERVICE_NOT_AVAILABLE,
            "the store takes no more messages: writing the commitlog failed",
        )
    if status == ring_layout.STATUS_BAD_SLOT:
        return RequestRefused(
            ResponseCode.NO_PERMISSION, "the queue was not granted, or the topic was deleted"
        )
    return RequestRefused(ResponseCode.MESSAGE_ILLEGAL, "the writer found a record unsound")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _month_of(now_ms: int) -> tuple[int, int]:
    """Begin of the month, local time, and when to look again; ms since the epoch."""
    local = time.localtime(now_ms / 1000)
    begin_s = time.mktime((local.tm_year, local.tm_mon, 1, 0, 0, 0, 0, 0, -1))
    following = (local.tm_year + (local.tm_mon == 12), local.tm_mon % 12 + 1)
    end_s = time.mktime((*following, 1, 0, 0, 0, 0, 0, -1))
    return round(begin_s * 1000), round(end_s * 1000)
