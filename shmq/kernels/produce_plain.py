"""Plain twin of produce.py. Layouts: layout/ring.py, layout/record.py."""

from __future__ import annotations

import struct
from mmap import mmap
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from shmq.errors import LayoutError
from shmq.layout.ring import ENTRY

if TYPE_CHECKING:
    from typing_extensions import Buffer

Memory: TypeAlias = bytearray | memoryview | mmap | NDArray[Any]

ALIGNMENT: Final = 8
UNIQUE_SIZE: Final = 12
STAMP_SIZE: Final = 8
HEAD_SIZE_MIN: Final = 88
GROUP_MAX: Final = 4096
BORN_TIMESTAMP_AT: Final = 40
TAGS_CODE: Final = struct.Struct("=q")
_INT32: Final = struct.Struct(">I")
_INT64: Final = struct.Struct(">q")


class Target:
    """Where messages go and what all of them share."""

    def __init__(
        self,
        *,
        head: bytes,
        tail_before: bytes,
        tail_after: bytes,
        slot: int,
        queue_id: int,
        tags_code: int,
    ) -> None:
        if len(head) < HEAD_SIZE_MIN or not tail_before or slot < 0:
            raise LayoutError("target", head_size=len(head), tail_size=len(tail_before), slot=slot)
        self.head = head
        self.tail_before = tail_before
        self.tail_after = tail_after
        self.slot = slot
        self.queue_id = queue_id
        self.tags_code = tags_code
        self.overhead = len(head) + len(tail_before) + UNIQUE_SIZE + len(tail_after)

    def record(self, body: bytes, *, born_ms: int, stamp: bytes, counter: int) -> bytes:
        """The whole record of one message."""
        head = bytearray(self.head)
        _INT32.pack_into(head, 0, self.overhead + len(body))
        _INT64.pack_into(head, BORN_TIMESTAMP_AT, born_ms)
        _INT32.pack_into(head, len(head) - 4, len(body))
        unique = stamp + b"%04X" % (counter & 0xFFFF)
        return b"".join((head, body, self.tail_before, unique, self.tail_after))


class RecordWriter:
    """Producer's side of one ring."""

    def __init__(self, *, entries: Memory, data: Memory, entry_count: int, data_size: int) -> None:
        if entry_count < 1 or entry_count & (entry_count - 1):
            raise LayoutError("entry count is no power of two", entry_count=entry_count)
        entry_bytes = np.frombuffer(entries, dtype=np.uint8)
        data_bytes = np.frombuffer(data, dtype=np.uint8)
        if len(entry_bytes) < entry_count * ENTRY.itemsize or len(data_bytes) < data_size:
            raise LayoutError("ring part too short", entries=len(entry_bytes), data=len(data_bytes))
        self._entries = entry_bytes[: entry_count * ENTRY.itemsize].view(ENTRY)
        self._data = data_bytes
        self._data_size = data_size // ALIGNMENT * ALIGNMENT
        self.submitted = 0
        self.reaped = 0
        self._head = 0
        self._tail = 0
        self._loan: tuple[Target, int, int] | None = None
        """Target, position, size of the body."""

    def reap(self, sequence: int) -> None:
        """Give back the entries with numbers below `sequence` and their data."""
        if not self.reaped <= sequence <= self.submitted:
            raise LayoutError(
                "reaped entries that are not in flight",
                sequence=sequence,
                allowed=(self.reaped, self.submitted),
            )
        self.reaped = sequence
        if sequence < self.submitted:
            self._tail = int(self._entries[sequence % len(self._entries)]["data_position"])
        elif self._loan is None:
            self._head = self._tail = 0
        else:
            self._tail = self._loan[1]

    def put(
        self,
        target: Target,
        bodies: Buffer,
        starts: Buffer,
        sizes: Buffer,
        first: int,
        end: int,
        *,
        born_ms: int,
        stamp: bytes,
        counter: int,
        group: int,
    ) -> int:
        """Put messages `first` to `end` (exclusive); the number of the first that found no room."""
        begins, lengths = (
            np.frombuffer(memoryview(part), dtype=np.int64).tolist() for part in (starts, sizes)
        )
        data = memoryview(bodies).cast("B")
        if len(stamp) != STAMP_SIZE or not 1 <= group <= GROUP_MAX:
            raise LayoutError("unique key or group", stamp=stamp, group=group)
        if not 0 <= first <= end <= min(len(begins), len(lengths)):
            raise LayoutError("range of messages", first=first, end=end)
        if self._loan is not None:
            raise LayoutError("a body is lent out: commit it, or take it back, first")
        for number in range(first, end):
            begin, size = begins[number], lengths[number]
            if begin < 0 or size < 0 or begin > len(data) - size:
                raise LayoutError("body outside of the buffer", message=number)
            self._check_size(target, size)
        number = first
        while number < end:
            made: list[bytes] = []
            total = 0
            while len(made) < group and number + len(made) < end:
                index = number + len(made)
                body = bytes(data[begins[index] :][: lengths[index]])
                total += target.overhead + len(body)
                if made and total + 8 * (len(made) + 1) > self._data_size // 4:
                    break
                made.append(
                    target.record(body, born_ms=born_ms, stamp=stamp, counter=counter + index)
                )
            codes = TAGS_CODE.pack(target.tags_code) * len(made) if len(made) > 1 else b""
            if self._submit(target, codes + b"".join(made), len(made)) < 0:
                break
            number += len(made)
        return number

    def put_one(
        self, target: Target, body: Buffer, *, born_ms: int, stamp: bytes, counter: int
    ) -> int:
        """Put one message; the number of its entry, -1 when there is no room."""
        if len(stamp) != STAMP_SIZE or self._loan is not None:
            raise LayoutError("unique key, or a body is lent out", stamp=stamp)
        data = bytes(body)
        self._check_size(target, len(data))
        return self._submit(
            target, target.record(data, born_ms=born_ms, stamp=stamp, counter=counter), 1
        )

    def loan(self, target: Target, body_size: int) -> int | None:
        """Room for one body: its place in the data part; None when the ring has no room now."""
        if self._loan is not None:
            raise LayoutError("a body is lent out already")
        if body_size < 0:
            raise LayoutError("message too large for the ring", size=body_size)
        self._check_size(target, body_size)
        position = self._find_room(target.overhead + body_size)
        if position < 0:
            return None
        self._loan = (target, position, body_size)
        return position + len(target.head)

    def take_back(self) -> None:
        """Forget what was lent."""
        self._loan = None
        if self.submitted == self.reaped:
            self._head = self._tail = 0

    def commit(self, *, born_ms: int, stamp: bytes, counter: int) -> int:
        """Submit the message whose body was lent; the number of its entry."""
        if self._loan is None:
            raise LayoutError("nothing is lent out")
        if len(stamp) != STAMP_SIZE:
            raise LayoutError("unique key", stamp=stamp)
        target, position, size = self._loan
        body = self._data[position + len(target.head) :][:size].tobytes()
        self._loan = None
        data = target.record(body, born_ms=born_ms, stamp=stamp, counter=counter)
        return self._write(
            position, data, 1, slot=target.slot, queue_id=target.queue_id, code=target.tags_code
        )

    def put_made(self, data: bytes, *, count: int, slot: int, queue_id: int, tags_code: int) -> int:
        """Put an entry whose data were made elsewhere; its number, -1 when there is no room."""
        size = len(data)
        if self._loan is not None or size < 1 or size > self._data_size // 4:
            raise LayoutError("records for the ring", size=size, allowed_max=self._data_size // 4)
        position = self._find_room(size)
        if position < 0:
            return -1
        return self._write(position, data, count, slot=slot, queue_id=queue_id, code=tags_code)

    def _check_size(self, target: Target, size: int) -> None:
        if size + target.overhead > self._data_size // 4:
            raise LayoutError(
                "message too large for the ring",
                size=size,
                allowed_max=self._data_size // 4 - target.overhead,
            )

    def _find_room(self, size: int) -> int:
        """Position of `size` free bytes for the next entry, -1 when there are none now."""
        in_flight = self.submitted - self.reaped
        if in_flight == len(self._entries):
            return -1
        if in_flight and self._head <= self._tail:
            return self._head if size < self._tail - self._head else -1
        if size <= self._data_size - self._head:
            return self._head
        # From the start again; it must not reach the tail, where full would look like empty.
        return 0 if size < self._tail or (not in_flight and size <= self._tail) else -1

    def _submit(self, target: Target, data: bytes, count: int) -> int:
        position = self._find_room(len(data))
        if position < 0:
            return -1
        return self._write(
            position, data, count, slot=target.slot, queue_id=target.queue_id, code=target.tags_code
        )

    def _write(
        self, position: int, data: bytes, count: int, *, slot: int, queue_id: int, code: int
    ) -> int:
        """Write data and the entry that says where they lie; its number."""
        self._data[position : position + len(data)] = np.frombuffer(data, dtype=np.uint8)
        entry = self._entries[self.submitted % len(self._entries)]
        entry["data_position"], entry["data_size"] = position, len(data)
        entry["record_count"], entry["slot"], entry["flags"] = count, slot, 0
        entry["tags_code"], entry["queue_id"] = code, queue_id
        if self.submitted == self.reaped:
            self._tail = position
        self._head = position + -(-len(data) // ALIGNMENT) * ALIGNMENT
        self.submitted += 1
        return self.submitted - 1
