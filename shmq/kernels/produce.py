# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Produce: a native client's messages become whole records in its submission ring, compiled.

A target (topic, queue, properties that all its messages share) is opened once: its record without
body and unique key is kept as a template. Then many bodies are put in one call; each costs two
copies and seven numbers. The CRC stays 0: the writer computes that of its own copy anyway, and sets
it. The owner of the ring publishes SUBMITTED from `submitted`.

A record as it is written: head with its numbers, body, `tail_before` (topic, properties with
their size up to the variable part of the unique key), UNIQUE_SIZE characters, `tail_after`.
Twin: produce_plain.py. Source: layout/record.py, layout/ring.py.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_GET_SIZE
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t
from cython.cimports.libc.string import memcpy
from cython.cimports.shmq.kernels.ringparts import Entry
from cython.cimports.shmq.kernels.scan import shmq_put32, shmq_put64

from shmq.errors import LayoutError

ALIGNMENT = cython.declare(int64_t, 8)
ENTRY_SIZE = cython.declare(int64_t, 64)
UNIQUE_SIZE = cython.declare(int64_t, 12)  # 8 hex digits of a time, 4 of a counter
HEAD_SIZE_MIN = cython.declare(int64_t, 88)
GROUP_MAX = cython.declare(int64_t, 4096)


@cython.cclass
class Target:
    """Where messages go and what all of them share."""

    head: bytes
    tail_before: bytes
    tail_after: bytes
    slot: int32_t
    queue_id: int32_t
    tags_code: int64_t
    overhead = cython.declare(int64_t, visibility="readonly")
    """Bytes of a record without its body."""

    def __init__(
        self,
        *,
        head: bytes,
        tail_before: bytes,
        tail_after: bytes,
        slot: int32_t,
        queue_id: int32_t,
        tags_code: int64_t,
    ):
        if len(head) < HEAD_SIZE_MIN or not tail_before or slot < 0:
            raise LayoutError("target", head_size=len(head), tail_size=len(tail_before), slot=slot)
        self.head = head
        self.tail_before = tail_before
        self.tail_after = tail_after
        self.slot = slot
        self.queue_id = queue_id
        self.tags_code = tags_code
        self.overhead = len(head) + len(tail_before) + UNIQUE_SIZE + len(tail_after)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def put_hex16(at: cython.pointer(uint8_t), value: uint32_t) -> cython.void:
    """Four upper case hex digits."""
    digit: cython.int
    place: cython.int
    for place in range(4):
        digit = (value >> (12 - 4 * place)) & 0xF
        at[place] = cython.cast(uint8_t, 48 + digit if digit < 10 else 55 + digit)


@cython.cclass
class RecordWriter:
    """Producer's side of one ring.

    submitted: number of entries written so far; publish it as SUBMITTED.
    reaped: entries with a smaller number, and their data, may be used again.
    """

    submitted = cython.declare(int64_t, visibility="readonly")
    reaped = cython.declare(int64_t, visibility="readonly")
    _entries: cython.pointer(Entry)
    _data: cython.pointer(uint8_t)
    _entry_count: int64_t
    _data_size: int64_t
    _head: int64_t  # where the next data goes, if there is room
    _tail: int64_t  # start of the oldest data in flight
    _loan_at: int64_t
    _loan_size: int64_t  # of the body; -1: nothing is lent
    _loan_target: Target
    _kept: tuple

    def __init__(self, *, entries, data, entry_count: int64_t, data_size: int64_t):
        entry_view: uint8_t[::1] = entries
        data_view: uint8_t[::1] = data
        if entry_count < 1 or entry_count & (entry_count - 1):
            raise LayoutError("entry count is no power of two", entry_count=entry_count)
        if entry_view.shape[0] < entry_count * ENTRY_SIZE or data_view.shape[0] < data_size:
            raise LayoutError(
                "ring part too short", entries=entry_view.shape[0], data=data_view.shape[0]
            )
        self._kept = (entries, data)
        self._entries = cython.cast(cython.pointer(Entry), cython.address(entry_view[0]))
        self._data = cython.address(data_view[0])
        self._entry_count = entry_count
        self._data_size = data_size // ALIGNMENT * ALIGNMENT
        self._loan_size = -1

    def reap(self, sequence: int64_t):
        """Give back the entries with numbers below `sequence` and their data."""
        if not self.reaped <= sequence <= self.submitted:
            raise LayoutError(
                "reaped entries that are not in flight",
                sequence=sequence,
                allowed=(self.reaped, self.submitted),
            )
        self.reaped = sequence
        if sequence == self.submitted:
            if self._loan_size < 0:
                self._head = 0
            self._tail = 0 if self._loan_size < 0 else self._loan_at
        else:
            self._tail = self._entries[sequence & (self._entry_count - 1)].data_position

    @cython.cfunc
    @cython.exceptval(check=False)
    def _find_room(self, size: int64_t) -> int64_t:
        """Position of `size` free bytes for the next entry, -1 when there are none now."""
        in_flight: int64_t = self.submitted - self.reaped
        if in_flight == self._entry_count:
            return -1
        if in_flight == 0 or self._head > self._tail:
            if size <= self._data_size - self._head:
                return self._head
            return 0 if size < self._tail or (in_flight == 0 and size <= self._tail) else -1
        return self._head if size < self._tail - self._head else -1

    @cython.cfunc
    @cython.exceptval(check=False)
    def _commit(
        self, target: Target, position: int64_t, size: int64_t, count: int64_t
    ) -> cython.void:
        """Write the entry whose data lies at `position`."""
        entry: cython.pointer(Entry) = self._entries + (self.submitted & (self._entry_count - 1))
        entry.data_position = position
        entry.data_size = cython.cast(int32_t, size)
        entry.record_count = cython.cast(int32_t, count)
        entry.slot = target.slot
        entry.flags = 0
        entry.tags_code = target.tags_code
        entry.queue_id = target.queue_id
        if self.submitted == self.reaped:
            self._tail = position
        self._head = position + (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self.submitted += 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def _put_frame(
        self,
        target: Target,
        at: cython.pointer(uint8_t),
        body_size: int64_t,
        born_ms: int64_t,
        stamp: cython.pointer(uint8_t),
        counter: uint32_t,
    ) -> cython.void:
        """Write a record but for its body."""
        head_size: int64_t = PyBytes_GET_SIZE(target.head)
        memcpy(at, PyBytes_AS_STRING(target.head), head_size)
        shmq_put32(at, cython.cast(uint32_t, target.overhead + body_size))
        shmq_put64(at + 40, born_ms)
        shmq_put32(at + head_size - 4, cython.cast(uint32_t, body_size))
        at += head_size + body_size
        memcpy(at, PyBytes_AS_STRING(target.tail_before), PyBytes_GET_SIZE(target.tail_before))
        at += PyBytes_GET_SIZE(target.tail_before)
        memcpy(at, stamp, 8)
        put_hex16(at + 8, counter & 0xFFFF)
        memcpy(
            at + UNIQUE_SIZE,
            PyBytes_AS_STRING(target.tail_after),
            PyBytes_GET_SIZE(target.tail_after),
        )

    def put(
        self,
        target: Target,
        bodies,
        starts,
        sizes,
        first: int64_t,
        end: int64_t,
        *,
        born_ms: int64_t,
        stamp: bytes,
        counter: int64_t,
        group: int64_t,
    ) -> int:
        """Put messages `first` to `end` (exclusive); the number of the first that found no room.

        Body i is bodies[starts[i] : starts[i] + sizes[i]]; starts and sizes are int64 arrays.
        `stamp` are 8 hex digits; message i has the unique key stamp + hex of counter + i. Up to
        `group` messages become one entry, which the writer appends as a whole.

        Raises:
            LayoutError: a body lies outside of `bodies`, or a message is too large for the ring.
        """
        body_view: cython.const[uint8_t][::1] = bodies
        start_view: cython.const[int64_t][::1] = starts
        size_view: cython.const[int64_t][::1] = sizes
        number: int64_t = first
        count: int64_t
        total: int64_t
        if len(stamp) != 8 or not 1 <= group <= GROUP_MAX:
            raise LayoutError("unique key or group", stamp=stamp, group=group)
        if not 0 <= first <= end <= min(start_view.shape[0], size_view.shape[0]):
            raise LayoutError("range of messages", first=first, end=end)
        if self._loan_size >= 0:
            raise LayoutError("a body is lent out: commit it, or take it back, first")
        for number in range(first, end):
            if (
                start_view[number] < 0
                or size_view[number] < 0
                or start_view[number] > body_view.shape[0] - size_view[number]
            ):
                raise LayoutError("body outside of the buffer", message=number)
            if size_view[number] + target.overhead > self._data_size // 4:
                raise LayoutError(
                    "message too large for the ring",
                    size=size_view[number],
                    allowed_max=self._data_size // 4 - target.overhead,
                )
        number = first
        while number < end:
            # As many as fit into a quarter of the ring, so that others are under way meanwhile.
            count = 0
            total = 0
            while count < group and number + count < end:
                total += target.overhead + size_view[number + count]
                if count > 0 and total + 8 * (count + 1) > self._data_size // 4:
                    total -= target.overhead + size_view[number + count]
                    break
                count += 1
            if not self._put_entry(
                target,
                body_view,
                start_view,
                size_view,
                number,
                count,
                total,
                born_ms,
                cython.cast(cython.pointer(uint8_t), PyBytes_AS_STRING(stamp)),
                counter,
            ):
                break
            number += count
        return number

    @cython.cfunc
    @cython.exceptval(check=False)
    def _put_entry(
        self,
        target: Target,
        bodies: cython.const[uint8_t][::1],
        starts: cython.const[int64_t][::1],
        sizes: cython.const[int64_t][::1],
        first: int64_t,
        count: int64_t,
        total: int64_t,
        born_ms: int64_t,
        stamp: cython.pointer(uint8_t),
        counter: int64_t,
    ) -> cython.bint:
        """Put `count` messages as one entry; False when there is no room."""
        codes_size: int64_t = 8 * count if count > 1 else 0
        position: int64_t = self._find_room(total + codes_size)
        if position < 0:
            return False
        at: cython.pointer(uint8_t) = self._data + position
        number: int64_t
        body_size: int64_t
        body: cython.pointer(uint8_t)
        if codes_size:
            for number in range(count):
                memcpy(at + 8 * number, cython.address(target.tags_code), 8)
            at += codes_size
        for number in range(first, first + count):
            body_size = sizes[number]
            self._put_frame(
                target, at, body_size, born_ms, stamp, cython.cast(uint32_t, counter + number)
            )
            body = at + PyBytes_GET_SIZE(target.head)
            if body_size:
                memcpy(body, cython.address(bodies[starts[number]]), body_size)
            at += target.overhead + body_size
        self._commit(target, position, total + codes_size, count)
        return True

    def put_one(
        self, target: Target, body, *, born_ms: int64_t, stamp: bytes, counter: int64_t
    ) -> int:
        """Put one message; the number of its entry, -1 when there is no room."""
        view: cython.const[uint8_t][::1] = body
        size: int64_t = view.shape[0]
        if len(stamp) != 8 or self._loan_size >= 0:
            raise LayoutError("unique key, or a body is lent out", stamp=stamp)
        if size + target.overhead > self._data_size // 4:
            raise LayoutError(
                "message too large for the ring",
                size=size,
                allowed_max=self._data_size // 4 - target.overhead,
            )
        position: int64_t = self._find_room(target.overhead + size)
        if position < 0:
            return -1
        at: cython.pointer(uint8_t) = self._data + position
        self._put_frame(
            target,
            at,
            size,
            born_ms,
            cython.cast(cython.pointer(uint8_t), PyBytes_AS_STRING(stamp)),
            cython.cast(uint32_t, counter),
        )
        if size:
            memcpy(at + PyBytes_GET_SIZE(target.head), cython.address(view[0]), size)
        self._commit(target, position, target.overhead + size, 1)
        return self.submitted - 1

    def loan(self, target: Target, body_size: int64_t):
        """Room for one body, to be filled by the caller: its place in the data part.

        None when the ring has no room now. commit() or take_back() must follow before anything
        else is put.
        """
        if self._loan_size >= 0:
            raise LayoutError("a body is lent out already")
        if body_size < 0 or body_size + target.overhead > self._data_size // 4:
            raise LayoutError(
                "message too large for the ring",
                size=body_size,
                allowed_max=self._data_size // 4 - target.overhead,
            )
        position: int64_t = self._find_room(target.overhead + body_size)
        if position < 0:
            return None
        self._loan_at = position
        self._loan_size = body_size
        self._loan_target = target
        return position + PyBytes_GET_SIZE(target.head)

    def take_back(self):
        """Forget what was lent."""
        self._loan_size = -1
        self._loan_target = None
        if self.submitted == self.reaped:
            self._head = self._tail = 0

    def commit(self, *, born_ms: int64_t, stamp: bytes, counter: int64_t) -> int:
        """Submit the message whose body was lent; the number of its entry."""
        if self._loan_size < 0:
            raise LayoutError("nothing is lent out")
        if len(stamp) != 8:
            raise LayoutError("unique key", stamp=stamp)
        target: Target = self._loan_target
        at: cython.pointer(uint8_t) = self._data + self._loan_at
        self._put_frame(
            target,
            at,
            self._loan_size,
            born_ms,
            cython.cast(cython.pointer(uint8_t), PyBytes_AS_STRING(stamp)),
            cython.cast(uint32_t, counter),
        )
        size: int64_t = target.overhead + self._loan_size
        self._loan_size = -1
        self._loan_target = None
        self._commit(target, self._loan_at, size, 1)
        return self.submitted - 1

    def put_made(
        self, data: bytes, *, count: int64_t, slot: int32_t, queue_id: int32_t, tags_code: int64_t
    ) -> int:
        """Put an entry whose data were made elsewhere; its number, -1 when there is no room.

        `data` are `count` records; of more than one with their tags codes before them.
        """
        size: int64_t = PyBytes_GET_SIZE(data)
        if self._loan_size >= 0 or size < 1 or size > self._data_size // 4:
            raise LayoutError("records for the ring", size=size, allowed_max=self._data_size // 4)
        position: int64_t = self._find_room(size)
        if position < 0:
            return -1
        memcpy(self._data + position, PyBytes_AS_STRING(data), size)
        entry: cython.pointer(Entry) = self._entries + (self.submitted & (self._entry_count - 1))
        entry.data_position = position
        entry.data_size = cython.cast(int32_t, size)
        entry.record_count = cython.cast(int32_t, count)
        entry.slot = slot
        entry.flags = 0
        entry.tags_code = tags_code
        entry.queue_id = queue_id
        if self.submitted == self.reaped:
            self._tail = position
        self._head = position + (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self.submitted += 1
        return self.submitted - 1
