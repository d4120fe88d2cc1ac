"""Plain twin of sends.py.

Layouts: layout/ring.py, layout/record.py, wire/frame.py, wire/header.py, wire/send.py.
"""

from __future__ import annotations

import json
import re
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from shmq.errors import LayoutError
from shmq.kernels.requestheader_plain import (
    INT32_MAX,
    Header,
    NotPlain,
    number,
    read_binary,
    read_json,
)
from shmq.layout import record
from shmq.layout.javahash import hash_code
from shmq.layout.record import Record
from shmq.layout.ring import ANSWER_BINARY, ANSWER_ONEWAY, ENTRY

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Buffer

NEED_MORE: Final = 1
OTHER: Final = 2
RING_FULL: Final = 3
BAD_FRAME: Final = 4

ALIGNMENT: Final = 8
PREFIX_SIZE: Final = 8
SERIALIZATION_BINARY: Final = 1
SEND_MESSAGE: Final = 10
SEND_MESSAGE_V2: Final = 310
FLAG_ONEWAY: Final = 2
SYS_FLAG_PLAIN: Final = 0x1 | 0x2 | 0x700
NAME_SIZE_MAX: Final = 1024
MESSAGE_SIZE_MAX: Final = 1 << 30

LETTERS: Final = {
    "producerGroup": "a",
    "topic": "b",
    "defaultTopic": "c",
    "defaultTopicQueueNums": "d",
    "queueId": "e",
    "sysFlag": "f",
    "bornTimestamp": "g",
    "flag": "h",
    "properties": "i",
    "reconsumeTimes": "j",
    "maxReconsumeTimes": "l",
    "batch": "m",
}
ONCE_ONLY: Final = frozenset(LETTERS) | frozenset(LETTERS.values())

PROPERTIES_ONCE_ONLY: Final = frozenset({b"TAGS", b"UNIQ_KEY", b"WAIT"})
PROPERTIES_REFUSED: Final = re.compile(
    rb"INNER_.*|DELAY|POP_CK|TRAN_MSG|__CRC32#|TIMER_DELAY_MS|TIMER_DELAY_SEC|TIMER_DELIVER_MS"
    rb"|MSG_REGION|TRACE_ON|CLUSTER",
    re.DOTALL,
)
NAME_END: Final = b"\x01"
PAIR_END: Final = b"\x02"
SPECIAL_TOPICS: Final = (b"%RETRY%", b"%DLQ%")

_INT32: Final = struct.Struct(">i")


class Message(NamedTuple):
    """What a plain send says; `fields` are named as those of a Record."""

    topic: bytes
    properties: bytes
    escaped: bool
    fields: dict[str, Any]


class Extent(NamedTuple):
    """Where the data of an entry lies, `end` at a multiple of ALIGNMENT."""

    start: int
    end: int


class SendParser:
    """Producer's side of a submission ring that reads send requests by itself; see the kernel."""

    def __init__(
        self,
        *,
        entries: Buffer,
        data: Buffer,
        entry_count: int,
        data_size: int,
        store_host: bytes,
        store_port: int,
        cluster: bytes,
        region: bytes = b"DefaultRegion",
        trace_on: bool,
        message_size_max: int,
        frame_size_max: int,
        submitted: int = 0,
    ) -> None:
        if entry_count < 1 or entry_count & (entry_count - 1):
            raise LayoutError("entry count is no power of two", entry_count=entry_count)
        if len(store_host) not in {record.IPV4_SIZE, record.IPV6_SIZE}:
            raise LayoutError("store host size", size=len(store_host), allowed=(4, 16))
        for what, text in (("cluster", cluster), ("region", region)):
            if not 1 <= len(text) <= NAME_SIZE_MAX or b"\x01" in text or b"\x02" in text:
                raise LayoutError("name not fit for a property", name=what, value=text)
        if (
            not 1 <= message_size_max <= MESSAGE_SIZE_MAX
            or not PREFIX_SIZE <= frame_size_max <= INT32_MAX
        ):
            raise LayoutError(
                "size limits", message_size_max=message_size_max, frame_size_max=frame_size_max
            )
        if not 0 <= data_size <= INT32_MAX:
            raise LayoutError("data size", data_size=data_size, allowed=(0, INT32_MAX))
        self._entries = _array(entries, "entries", entry_count * ENTRY.itemsize).view(ENTRY)
        self._data = _array(data, "data", data_size)
        self._data_size = data_size // ALIGNMENT * ALIGNMENT
        self._message_size_max = message_size_max
        self._frame_size_max = frame_size_max
        self._store_host = store_host
        self._store_port = store_port
        own_values = (
            (b"MSG_REGION", region),
            (b"TRACE_ON", b"true" if trace_on else b"false"),
            (b"CLUSTER", cluster),
        )
        self._own_pairs = b"".join(name + NAME_END + value + PAIR_END for name, value in own_values)
        self._topics: dict[bytes, list[int]] = {}
        self._in_flight: deque[Extent] = deque()
        self._reserved = Extent(0, 0)
        self.submitted = submitted
        self.position = 0
        self.frame_size = 0

    @property
    def reaped(self) -> int:
        """Entries with a smaller number, and their data, may be used again."""
        return self.submitted - len(self._in_flight)

    def close(self) -> None:
        """Let go of the ring; nothing may be called after."""
        self._data_size = 0
        self._reserved = Extent(0, 0)
        self._in_flight.clear()
        del self._entries, self._data

    def put_topic(self, name: bytes, slots: list[int], write_queue_count: int) -> None:
        """Take sends to this topic from now on; slots[i] is the queue table slot of queue i."""
        if not 0 <= write_queue_count <= len(slots):
            raise LayoutError(
                "a write queue without a slot",
                topic=name,
                slots=len(slots),
                write_queue_count=write_queue_count,
            )
        for queue_id, slot in enumerate(slots[:write_queue_count]):
            if slot < 0:
                raise LayoutError("a slot below 0", topic=name, queue_id=queue_id, slot=slot)
        self._topics[name] = slots[:write_queue_count]

    def drop_topic(self, name: bytes) -> None:
        """Leave sends to this topic to the general path again."""
        self._topics.pop(name, None)

    def reap(self, sequence: int) -> None:
        """Give back the entries with numbers below `sequence` and their data."""
        if not self.reaped <= sequence <= self.submitted:
            raise LayoutError(
                "reaped entries that are not in flight",
                sequence=sequence,
                allowed=(self.reaped, self.submitted),
            )
        self._reserved = Extent(0, 0)
        while self.reaped < sequence:
            self._in_flight.popleft()

    def reserve(self, size: int) -> tuple[int, int] | None:
        """Room for the data of one more entry: (its sequence number, position), None if full."""
        if not 1 <= size <= self._data_size:
            raise LayoutError(
                "entry does not fit the ring", size=size, allowed=(1, self._data_size)
            )
        position = self._find_room(size)
        if position is None:
            return None
        self._reserved = Extent(position, position + size)
        return self.submitted, position

    def commit_entry(self, data_size: int, **fields: int) -> int:
        """Write the entry whose data lies at the reserved position; gives its sequence number."""
        start, end = self._reserved
        if not 1 <= data_size <= end - start:
            raise LayoutError("more than was reserved", size=data_size, reserved=end - start)
        self._commit(start, data_size, fields)
        self._reserved = Extent(0, 0)
        return self.submitted - 1

    def submit(self, data: Buffer, **fields: int) -> int:
        """Copy a whole entry into the ring; gives its sequence number, or -1 when it is full."""
        copied = bytes(data)
        reserved = self.reserve(len(copied))
        if reserved is None:
            return -1
        self._write(reserved[1], copied)
        return self.commit_entry(len(copied), **fields)

    def feed(
        self,
        buffer: Buffer,
        start: int,
        end: int,
        *,
        connection: int,
        connection_id: int,
        born_host: bytes,
        born_port: int,
    ) -> int:
        """Submit the plain sends among the frames in buffer[start:end]; gives why it stopped."""
        if len(born_host) not in {record.IPV4_SIZE, record.IPV6_SIZE}:
            raise LayoutError("born host size", size=len(born_host), allowed=(4, 16))
        data = memoryview(buffer).cast("B")
        if not 0 <= start <= end <= len(data):
            raise LayoutError("range outside of the buffer", start=start, end=end, size=len(data))
        self._reserved = Extent(0, 0)
        born = {"born_host": born_host, "born_port": born_port}
        source = {"connection": connection, "connection_id": connection_id}
        self.position = start
        while True:
            rest = data[self.position : end]
            stop = self._look_at(rest)
            if stop == 0:
                stop = self._take(bytes(rest[: self.frame_size]), born, source)
            if stop != 0:
                return stop
            self.position += self.frame_size

    def _look_at(self, rest: memoryview) -> int:
        """Set frame_size; 0 when the whole frame is there, else why not."""
        self.frame_size = 0
        if len(rest) < 4:
            return NEED_MORE
        (total,) = _INT32.unpack_from(rest)
        if not 4 <= total <= self._frame_size_max - 4:
            return BAD_FRAME
        self.frame_size = total + 4
        if len(rest) < PREFIX_SIZE:
            return NEED_MORE
        if int.from_bytes(rest[5:8], "big") > total - 4:
            return BAD_FRAME
        return 0 if len(rest) >= self.frame_size else NEED_MORE

    def _take(self, frame: bytes, born: dict[str, Any], source: dict[str, int]) -> int:
        """Submit one whole frame; 0 when that is done, else why not."""
        serialization = frame[4]
        body_at = PREFIX_SIZE + int.from_bytes(frame[5:8], "big")
        body = frame[body_at:]
        if not 1 <= len(body) <= self._message_size_max or serialization > SERIALIZATION_BINARY:
            return OTHER
        read = read_binary if serialization == SERIALIZATION_BINARY else read_json
        try:
            header = read(frame[PREFIX_SIZE:body_at], ONCE_ONLY)
            message = read_message(header)
            slot = self._slot(message.topic, message.fields["queue_id"])
            return self._store(
                self._record(message, body, born),
                message,
                slot=slot,
                opaque=header.opaque,
                answer_flags=(ANSWER_ONEWAY if header.flag == FLAG_ONEWAY else 0)
                | (ANSWER_BINARY if serialization == SERIALIZATION_BINARY else 0),
                **source,
            )
        except NotPlain:
            return OTHER

    def _slot(self, topic: bytes, queue_id: int) -> int:
        """Queue table slot of a queue of a known topic that is written to."""
        slots = self._topics.get(topic, [])
        if (
            queue_id >= len(slots)
            or not 1 <= len(topic) <= record.TOPIC_SIZE_MAX_V1
            or topic.startswith(SPECIAL_TOPICS)
        ):
            raise NotPlain
        return slots[queue_id]

    def _record(self, message: Message, body: bytes, born: dict[str, Any]) -> Record:
        """The record of a message, without properties."""
        one = Record(
            topic=message.topic.decode(),
            body=body,
            store_host=self._store_host,
            store_port=self._store_port,
            **born,
            **message.fields,
        )
        if len(one.born_host) == record.IPV6_SIZE:
            one.sys_flag |= record.BORN_HOST_V6
        if len(one.store_host) == record.IPV6_SIZE:
            one.sys_flag |= record.STORE_HOST_V6
        return one

    def _store(self, one: Record, message: Message, **fields: int) -> int:
        """Complete the record and submit it; 0 when that is done, else why not."""
        # The room is found before the properties are read, so it is the most that they may need.
        text_size = min(len(message.properties), record.PROPERTIES_SIZE_MAX)
        room = one.size + text_size + len(PAIR_END) + len(self._own_pairs)
        if room > self._data_size:
            return OTHER
        position = self._find_room(room)
        if position is None:
            return RING_FULL
        text = unescaped(message.properties) if message.escaped else message.properties
        pairs = read_pairs(text)
        values = dict(pairs)
        if b"UNIQ_KEY" not in values or values.get(b"WAIT", b"true") != b"true":
            raise NotPlain
        text = text.removesuffix(PAIR_END) + PAIR_END
        one.properties = text + self._own_pairs
        if max(len(text), len(one.properties)) > record.PROPERTIES_SIZE_MAX:
            raise NotPlain
        data = record.encode(one)
        self._write(position, data)
        fields |= {
            "record_count": 1,
            "queue_id": one.queue_id,
            "tags_code": hash_code(values[b"TAGS"].decode()) if b"TAGS" in values else 0,
            "unique_at": len(data) - len(one.properties) + value_at(pairs, b"UNIQ_KEY"),
            "unique_size": len(values[b"UNIQ_KEY"]),
        }
        self._commit(position, len(data), fields)
        return 0

    def _find_room(self, size: int) -> int | None:
        """Position of `size` free bytes for the next entry, None when there are none now."""
        if len(self._in_flight) == len(self._entries):
            return None
        if not self._in_flight:
            return 0 if size <= self._data_size else None
        oldest, newest = self._in_flight[0], self._in_flight[-1]
        gaps = [(newest.end, oldest.start)]
        if newest.end > oldest.start:
            gaps = [(newest.end, self._data_size), (0, oldest.start)]
        return next((start for start, end in gaps if size <= end - start), None)

    def _write(self, position: int, data: bytes) -> None:
        self._data[position : position + len(data)] = np.frombuffer(data, dtype=np.uint8)

    def _commit(self, position: int, size: int, fields: dict[str, int]) -> None:
        entry = np.zeros((), dtype=ENTRY)
        entry["data_position"] = position
        entry["data_size"] = size
        for name, value in fields.items():
            entry[name] = value
        self._entries[self.submitted % len(self._entries)] = entry
        end = position + -(-size // ALIGNMENT) * ALIGNMENT
        self._in_flight.append(Extent(position, end))
        self.submitted += 1


def read_message(header: Header) -> Message:
    """What a send says; its fields are named as those of a Record."""
    names = {name: name for name in LETTERS}
    if header.code == SEND_MESSAGE_V2:
        names = LETTERS
    elif header.code != SEND_MESSAGE:
        raise NotPlain
    if header.flag not in {0, FLAG_ONEWAY} or not -INT32_MAX - 1 <= header.opaque <= INT32_MAX:
        raise NotPlain
    fields = {name: header.ext[key] for name, key in names.items() if key in header.ext}
    needed = ("topic", "properties", "producerGroup", "defaultTopic")
    if any(name not in fields for name in needed) or not (
        fields["producerGroup"] and fields["defaultTopic"]
    ):
        raise NotPlain
    # Not used here, but the general path refuses a request that has them wrong.
    number(fields, "defaultTopicQueueNums", signed=True)
    number(fields, "maxReconsumeTimes", signed=True, default=0)
    sys_flag = number(fields, "sysFlag")
    if sys_flag & ~SYS_FLAG_PLAIN or fields.get("batch", b"false") != b"false":
        raise NotPlain
    return Message(
        topic=fields["topic"],
        properties=fields["properties"],
        escaped=header.json and b"\\" in fields["properties"],
        fields={
            "queue_id": number(fields, "queueId"),
            "sys_flag": sys_flag,
            "flag": number(fields, "flag", signed=True),
            "born_timestamp": number(fields, "bornTimestamp", digits_max=18, limit=10**18),
            "reconsume_times": number(fields, "reconsumeTimes", default=0),
        },
    )


def unescaped(inside: bytes) -> bytes:
    """UTF-8 of the inside of a JSON string; half a surrogate pair has none."""
    text: str = json.loads(b'"' + inside + b'"')
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise NotPlain from None


def read_pairs(text: bytes) -> list[tuple[bytes, bytes]]:
    """Name and value of every property, when all are well formed and ask for no more work."""
    pairs: list[tuple[bytes, bytes]] = []
    for pair in text.removesuffix(PAIR_END).split(PAIR_END):
        name, _, value = pair.partition(NAME_END)
        if not name or not value or NAME_END in value or PROPERTIES_REFUSED.fullmatch(name):
            raise NotPlain
        if name in PROPERTIES_ONCE_ONLY and name in dict(pairs):
            raise NotPlain
        pairs.append((name, value))
    return pairs


def value_at(pairs: list[tuple[bytes, bytes]], wanted: bytes) -> int:
    """Where the value of a property lies in the text of all pairs."""
    at = 0
    for name, value in pairs:
        if name == wanted:
            return at + len(name) + len(NAME_END)
        at += len(name) + len(NAME_END) + len(value) + len(PAIR_END)
    raise NotPlain


def _array(source: Buffer, what: str, needed: int) -> NDArray[np.uint8]:
    """The first `needed` bytes of a ring part."""
    part = np.frombuffer(memoryview(source), dtype=np.uint8)
    if len(part) < needed:
        raise LayoutError("ring part too short", part=what, size=len(part), needed=needed)
    if part.ctypes.data % ALIGNMENT:
        raise LayoutError("ring part at an odd place", part=what, needed_alignment=ALIGNMENT)
    return part[:needed]
