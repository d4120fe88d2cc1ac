"""Messages as they were read: batches of one queue, views of records, decoded when looked at."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from shmq.client.compression import decompressed
from shmq.client.model import Queue
from shmq.errors import ProtocolError
from shmq.kernels.walk import STOP_END, walk
from shmq.layout import record
from shmq.wire.codes import SysFlag
from shmq.wire.messageid import offset_message_id
from shmq.wire.properties import (
    KEYS,
    KEYS_SEPARATOR,
    RETRY_TOPIC,
    TAGS,
    UNIQ_KEY,
    decode_properties,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shmq.client.arrays import Bodies

    Column: TypeAlias = NDArray[np.int64]

Buffer: TypeAlias = bytes | bytearray | memoryview

ROW_WIDTH: Final = 10
POSITION, SIZE, QUEUE_OFFSET, PHYSICAL_OFFSET, SYS_FLAG, STORE_TIMESTAMP, TAGS_CODE = range(7)
"""Columns of the rows that the walk kernel fills, as far as they are used here."""
RETRY_PREFIX: Final = "%RETRY%"
COMPRESSED: Final = int(SysFlag.COMPRESSED)  # Arithmetic with enum flags costs a microsecond each.
EITHER_HOST_V6: Final = record.BORN_HOST_V6 | record.STORE_HOST_V6

_INT32: Final = struct.Struct(">i").unpack_from
_INT64: Final = struct.Struct(">q").unpack_from
_INT16: Final = struct.Struct(">h").unpack_from
_UINT32: Final = struct.Struct(">I").unpack_from


class Batch:
    """Messages of one queue, in its order. Here: records that came one after the other."""

    __slots__ = ("_columns", "_data", "_rows", "acknowledge", "next_offset", "queue")

    def __init__(self, queue: Queue, data: Buffer, rows: memoryview, next_offset: int) -> None:
        """`rows` are those of the walk kernel one after the other, numbers of 64 bits."""
        self.queue = queue
        self.next_offset = next_offset
        """Offset in the queue after the last message, and after what was left out behind it."""
        self.acknowledge: Callable[[int], None] | None = None
        """Set by the consumer that gave the batch out."""
        self._data = data
        self._rows = rows
        self._columns: Any = None

    def __len__(self) -> int:
        return len(self._rows) // ROW_WIDTH

    def __iter__(self) -> Iterator[ReceivedMessage]:
        queue = self.queue
        for index in range(len(self)):
            buffer, position = self.record(index)
            yield ReceivedMessage(queue, buffer, position)

    def __getitem__(self, index: int) -> ReceivedMessage:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return ReceivedMessage(self.queue, *self.record(index))

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} messages of {self.queue}, next offset {self.next_offset}>"

    def record(self, index: int) -> tuple[Buffer, int]:
        """A buffer and the position in it where the record of this message begins."""
        return self._data, self._rows[index * ROW_WIDTH + POSITION]

    def tail(self, first: int) -> Batch:
        """The messages from this number on."""
        return Batch(self.queue, self._data, self._rows[first * ROW_WIDTH :], self.next_offset)

    def column(self, number: int) -> Column:
        """One column of the rows."""
        if self._columns is None:
            import numpy as np  # noqa: PLC0415  a consumer that wants no arrays does without it

            self._columns = np.frombuffer(self._rows, np.int64).reshape(-1, ROW_WIDTH)
        column: Column = self._columns[:, number]
        return column

    @property
    def data(self) -> Buffer:
        """The records, as they came; positions of the messages in it are those of record()."""
        return self._data

    @property
    def offsets(self) -> Column:
        """Offsets in the queue."""
        return self.column(QUEUE_OFFSET)

    @property
    def sizes(self) -> Column:
        """Sizes of the whole records, in bytes."""
        return self.column(SIZE)

    @property
    def tags_codes(self) -> Column:
        """Hash codes of the tags, 0 where there is none."""
        return self.column(TAGS_CODE)

    @property
    def store_timestamps(self) -> Column:
        """When the broker stored them, ms since the epoch."""
        return self.column(STORE_TIMESTAMP)

    @property
    def physical_offsets(self) -> Column:
        """Places in the broker's commitlog, in bytes."""
        return self.column(PHYSICAL_OFFSET)

    def bodies(self) -> list[memoryview]:
        """The bodies, not copied but for those that came compressed."""
        return [message.body_view for message in self]

    def arrays(self) -> Bodies:
        """The bodies as arrays, not copied: (data, starts, sizes); compressed ones stay so."""
        from shmq.client.arrays import bodies_of  # noqa: PLC0415  numpy, for who wants arrays

        return bodies_of(self)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame, a row for each message; see shmq.client.arrays.to_pandas."""
        from shmq.client.arrays import to_pandas  # noqa: PLC0415

        return to_pandas(self)

    def to_arrow(self) -> Any:
        """A pyarrow.RecordBatch, a row for each message; see shmq.client.arrays.to_arrow."""
        from shmq.client.arrays import to_arrow  # noqa: PLC0415

        return to_arrow(self)

    def ack(self) -> None:
        """All up to the end of this batch is done with: commit past it.

        That takes in earlier batches of the same queue. It is told to the broker from time to time,
        and by Consumer.commit() and close().
        """
        if self.acknowledge is not None:
            self.acknowledge(self.next_offset)


class ReceivedMessage:
    """One message; its parts are decoded when they are asked for."""

    __slots__ = ("_buffer", "_position", "_properties", "queue")

    def __init__(self, queue: Queue, buffer: Buffer, position: int) -> None:
        self.queue = queue
        """Where it was read from; of a message that is tried again that is a retry topic."""
        self._buffer = buffer
        self._position = position
        self._properties: dict[str, str] | None = None

    def __repr__(self) -> str:
        return f"<message {self.queue_offset} of {self.queue}, {len(self.body_view)} bytes>"

    @property
    def topic(self) -> str:
        """The topic that it was sent to."""
        topic = self.queue.topic
        if topic.startswith(RETRY_PREFIX):
            return self.properties.get(RETRY_TOPIC, topic)
        return topic

    @property
    def queue_id(self) -> int:
        """Number of the queue."""
        return self.queue.queue_id

    @property
    def queue_offset(self) -> int:
        """Place in the queue."""
        offset: int = _INT64(self._buffer, self._position + record.QUEUE_OFFSET_AT)[0]
        return offset

    @property
    def physical_offset(self) -> int:
        """Place in the broker's commitlog, in bytes."""
        offset: int = _INT64(self._buffer, self._position + record.PHYSICAL_OFFSET_AT)[0]
        return offset

    @property
    def sys_flag(self) -> int:
        """What the system knows of it; see wire.codes.SysFlag."""
        flag: int = _INT32(self._buffer, self._position + record.SYS_FLAG_AT)[0]
        return flag

    @property
    def flag(self) -> int:
        """The sender's own number."""
        flag: int = _INT32(self._buffer, self._position + record.FLAG_AT)[0]
        return flag

    @property
    def born_timestamp(self) -> int:
        """When it was sent, by the sender's clock; ms since the epoch."""
        value: int = _INT64(self._buffer, self._position + record.BORN_TIMESTAMP_AT)[0]
        return value

    @property
    def store_timestamp(self) -> int:
        """When it was stored; ms since the epoch."""
        at = self._position + record.STORE_TIMESTAMP_AT + self._born_extra()
        value: int = _INT64(self._buffer, at)[0]
        return value

    @property
    def reconsume_times(self) -> int:
        """How often it was sent back by a consumer."""
        at = self._position + record.RECONSUME_TIMES_AT + self._hosts_extra()
        value: int = _INT32(self._buffer, at)[0]
        return value

    @property
    def body(self) -> bytes:
        """The body, as it was sent.

        Raises:
            InvalidMessage: it is compressed in a form for which a package is missing, or broken.
        """
        buffer, position = self._buffer, self._position
        flags: int = _INT32(buffer, position + record.SYS_FLAG_AT)[0]
        begin = position + record.BODY_AT
        if flags & EITHER_HOST_V6:
            begin += self._hosts_extra()
        data = bytes(buffer[begin : begin + _INT32(buffer, begin - 4)[0]])
        return decompressed(data, flags) if flags & COMPRESSED else data

    @property
    def body_view(self) -> memoryview:
        """The body, not copied unless it came compressed."""
        begin, end = self._body_place()
        view = memoryview(self._buffer)[begin:end]
        if self.sys_flag & COMPRESSED:
            return memoryview(decompressed(view, self.sys_flag))
        return view

    @property
    def properties(self) -> dict[str, str]:
        """All names and values, those of the system too."""
        if self._properties is None:
            self._properties = decode_properties(self._properties_data())
        return self._properties

    @property
    def tags(self) -> str | None:
        """What consumers select by."""
        return self.properties.get(TAGS)

    @property
    def keys(self) -> list[str]:
        """What the broker's index finds it by."""
        keys = self.properties.get(KEYS)
        return keys.split(KEYS_SEPARATOR) if keys else []

    @property
    def message_id(self) -> str:
        """The id that its sender gave it, else offset_message_id."""
        return self.properties.get(UNIQ_KEY) or self.offset_message_id

    @property
    def offset_message_id(self) -> str:
        """The id that names its place in the commitlog."""
        flags = self.sys_flag
        at = self._position + record.STORE_HOST_AT + self._born_extra()
        size = record.IPV6_SIZE if flags & record.STORE_HOST_V6 else record.IPV4_SIZE
        host = bytes(self._buffer[at : at + size])
        return offset_message_id(host, _INT32(self._buffer, at + size)[0], self.physical_offset)

    def _born_extra(self) -> int:
        return record.IPV6_EXTRA if self.sys_flag & record.BORN_HOST_V6 else 0

    def _hosts_extra(self) -> int:
        flags = self.sys_flag
        both = bool(flags & record.BORN_HOST_V6) + bool(flags & record.STORE_HOST_V6)
        return record.IPV6_EXTRA * both

    def _body_place(self) -> tuple[int, int]:
        extra = 0
        if self.sys_flag & EITHER_HOST_V6:
            extra = self._hosts_extra()
        begin = self._position + record.BODY_AT + extra
        return begin, begin + _INT32(self._buffer, begin - 4)[0]

    def _properties_data(self) -> Buffer:
        buffer = self._buffer
        at = self._body_place()[1]
        if _UINT32(buffer, self._position + record.MAGIC_AT)[0] == record.MAGIC_V2:
            at += 2 + _INT16(buffer, at)[0]
        else:
            at += 1 + buffer[at]
        return buffer[at + 2 : at + 2 + _INT16(buffer, at)[0]]


def split(
    queue: Queue,
    data: Buffer,
    *,
    next_offset: int,
    count_max: int,
    tags: frozenset[str] | None,
) -> Batch | None:
    """Batch of the records in a pull's answer; None when none of them is wanted.

    `tags`: only messages with one of these; the broker compares hash codes, which may collide.

    Raises:
        ProtocolError: the data are not whole records.
    """
    cells = bytearray(8 * ROW_WIDTH * count_max)
    rows = memoryview(cells).cast("q", (count_max, ROW_WIDTH))
    count, end, why = walk(data, 0, cast("Any", rows), checked=False)
    if why != STOP_END or end != len(data):
        raise ProtocolError(
            "pulled data are not whole records",
            queue=queue,
            size=len(data),
            good_size=end,
            good_count=count,
            count_max=count_max,
        )
    used = memoryview(cells).cast("q")[: ROW_WIDTH * count]
    if tags is not None:
        kept: list[int] = []
        for at in range(0, len(used), ROW_WIDTH):
            if ReceivedMessage(queue, data, used[at + POSITION]).tags in tags:
                kept += used[at : at + ROW_WIDTH]
        used = memoryview(array("q", kept))
    return Batch(queue, data, used, next_offset) if used else None
