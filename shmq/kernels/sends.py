# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""From the bytes of a connection straight into the submission ring: single sends, whole records.

The parser is the producer's side of one ring (layout/ring.py) but for SUBMITTED, which its owner
publishes after feed() from `submitted`. Data is allocated in one piece, at multiples of ALIGNMENT:
behind the newest entry, or from 0 when the end is too short; from 0 too when nothing is in flight,
so that a quiet ring stays in the cache.

A request is taken here only when nothing about it is special, see `feed`; all else is for the
general path, which submits what it made through `submit` or `reserve`.
Twin: sends_plain.py. Source: protocol of SEND_MESSAGE and SEND_MESSAGE_V2; record version 1.
"""

import cython
from cython.cimports.cpython.buffer import (
    Py_buffer,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_GET_SIZE
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memcpy
from cython.cimports.shmq.kernels.crc32 import shmq_crc32, shmq_crc32_setup
from cython.cimports.shmq.kernels.requestheader import (
    BATCH,
    BORN_TIMESTAMP,
    DEFAULT_QUEUE_COUNT,
    DEFAULT_TOPIC,
    FLAG,
    GROUP,
    MAX_RECONSUME_TIMES,
    PROPERTIES,
    QUEUE_ID,
    RECONSUME_TIMES,
    SYS_FLAG,
    TOPIC,
    RequestHeader,
    Span,
    decimal,
    parse_binary,
    parse_json,
    unescape,
)
from cython.cimports.shmq.kernels.ringparts import Entry
from cython.cimports.shmq.kernels.scan import (
    shmq_either,
    shmq_equal,
    shmq_get32,
    shmq_hash,
    shmq_put16,
    shmq_put32,
    shmq_put64,
)

from shmq.errors import LayoutError

ALIGNMENT = cython.declare(cython.longlong, 8)
ENTRY_SIZE = cython.declare(cython.longlong, 64)
ANSWER_ONEWAY = cython.declare(cython.int, 1)
ANSWER_BINARY = cython.declare(cython.int, 2)

MAGIC_V1 = cython.declare(cython.uint, 0xDAA320A7)
RECORD_FIXED_SIZE = cython.declare(cython.int, 75)  # without hosts, body, topic and properties
SYS_FLAG_PLAIN = cython.declare(cython.int, 0x1 | 0x2 | 0x700)
SYS_FLAG_BORN_V6 = cython.declare(cython.int, 0x10)
SYS_FLAG_STORE_V6 = cython.declare(cython.int, 0x20)
TOPIC_SIZE_MAX = cython.declare(cython.int, 127)
PROPERTIES_SIZE_MAX = cython.declare(cython.int, 32767)
INT32_MAX = cython.declare(cython.longlong, 0x7FFFFFFF)

# Bits of the property names that may come once only.
HAS_TAGS = cython.declare(cython.int, 1)
HAS_UNIQ_KEY = cython.declare(cython.int, 2)
HAS_WAIT = cython.declare(cython.int, 4)
REFUSED = cython.declare(cython.int, -1)

Topic = cython.struct(
    hash=uint64_t,
    name=cython.p_uchar,  # of a key of SendParser._topics, which keeps it alive
    size=cython.int,
    queue_count=cython.int,
    slots=cython.pointer(int32_t),  # of a value there
)

Message = cython.struct(
    body=cython.p_uchar,
    body_size=cython.longlong,
    topic=cython.p_uchar,
    topic_size=cython.int,
    queue_id=int32_t,
    slot=int32_t,
    sys_flag=int32_t,
    flag=int32_t,
    reconsume_times=int32_t,
    born_timestamp=int64_t,
    properties=Span,
    opaque=int32_t,
    answer_flags=int32_t,
)

# What the walk over a message's properties finds.
Found = cython.struct(
    names=cython.int,  # HAS_*
    tags_code=int64_t,
    unique=cython.p_uchar,
    unique_size=cython.longlong,
)

Room = cython.struct(position=cython.longlong, size=cython.longlong)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def java_hash(at: cython.p_uchar, size: cython.Py_ssize_t) -> int32_t:
    """Java's String.hashCode of well-formed UTF-8: over UTF-16 units."""
    end: cython.p_uchar = at + size
    result: uint32_t = 0
    point: uint32_t
    while at < end:
        point = at[0]
        if point < 0x80:
            at += 1
        elif point < 0xE0:
            point = (point & 0x1F) << 6 | (at[1] & 0x3F)
            at += 2
        elif point < 0xF0:
            point = (point & 0x0F) << 12 | (at[1] & 0x3F) << 6 | (at[2] & 0x3F)
            at += 3
        else:
            point = (
                (point & 0x07) << 18 | (at[1] & 0x3F) << 12 | (at[2] & 0x3F) << 6 | (at[3] & 0x3F)
            )
            at += 4
            point -= 0x10000
            result = result * 31 + (0xD800 + (point >> 10))
            point = 0xDC00 + (point & 0x3FF)
        result = result * 31 + point
    return cython.cast(int32_t, result)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def property_bit(name: cython.p_uchar, size: cython.Py_ssize_t) -> cython.int:
    """HAS_* of a property name; 0: of no interest, REFUSED: asks for more, or is ours to set."""
    if name[0] == 73 and size >= 6 and shmq_equal(name, b"INNER_", 6):
        return REFUSED
    if size == 4 and shmq_equal(name, b"TAGS", 4):
        return HAS_TAGS
    if size == 4 and shmq_equal(name, b"WAIT", 4):
        return HAS_WAIT
    if size == 5 and shmq_equal(name, b"DELAY", 5):
        return REFUSED
    if size == 6 and shmq_equal(name, b"POP_CK", 6):
        return REFUSED
    if size == 7 and shmq_equal(name, b"CLUSTER", 7):
        return REFUSED
    if size == 8:
        if shmq_equal(name, b"UNIQ_KEY", 8):
            return HAS_UNIQ_KEY
        if shmq_equal(name, b"TRACE_ON", 8):
            return REFUSED
        if shmq_equal(name, b"TRAN_MSG", 8) or shmq_equal(name, b"__CRC32#", 8):
            return REFUSED
    if size == 10 and shmq_equal(name, b"MSG_REGION", 10):
        return REFUSED
    if size == 14 and shmq_equal(name, b"TIMER_DELAY_MS", 14):
        return REFUSED
    if size == 15 and shmq_equal(name, b"TIMER_DELAY_SEC", 15):
        return REFUSED
    if size == 16 and shmq_equal(name, b"TIMER_DELIVER_MS", 16):
        return REFUSED
    return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def walk_properties(
    at: cython.p_uchar, end: cython.p_uchar, found: cython.pointer(Found)
) -> cython.bint:
    """Look at every pair; False when one is malformed, asks for more work or comes twice.

    Pairs are name 0x01 value 0x02, neither part empty; the last 0x02 may be missing.
    """
    name: cython.p_uchar
    value: cython.p_uchar
    bit: cython.int
    found.names = 0
    found.tags_code = 0
    while at < end:
        name = at
        at = shmq_either(at, end, 1, 2)
        if at == end or at[0] != 1 or at == name:
            return False
        value = at + 1
        at = shmq_either(value, end, 1, 2)
        if (at < end and at[0] == 1) or at == value:
            return False
        bit = property_bit(name, value - 1 - name)
        if bit != 0:
            if bit == REFUSED or found.names & bit:
                return False
            found.names |= bit
            if bit == HAS_TAGS:
                found.tags_code = java_hash(value, at - value)
            elif bit == HAS_UNIQ_KEY:
                found.unique = value
                found.unique_size = at - value
            elif at - value != 4 or not shmq_equal(value, b"true", 4):
                return False  # WAIT=false: the general way sees to it.
        at += 1
    return True


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def put_bytes(
    target: cython.p_uchar, source: cython.p_uchar, size: cython.Py_ssize_t
) -> cython.p_uchar:
    """Copy to `target`; gives the end of the copy."""
    memcpy(target, source, size)
    return target + size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def read_message(
    header: cython.pointer(RequestHeader), message: cython.pointer(Message)
) -> cython.bint:
    """Fill `message` from a header; False when a field is missing or not plain."""
    fields: cython.pointer(Span)
    number: int64_t = 0
    index: cython.int
    if header.code == 310:
        fields = header.letters
    elif header.code == 10:
        fields = header.names
    else:
        return False
    if header.flag != 0 and header.flag != 2:
        return False
    if header.opaque < -INT32_MAX - 1 or header.opaque > INT32_MAX:
        return False
    message.opaque = cython.cast(int32_t, header.opaque)
    message.answer_flags = ANSWER_ONEWAY if header.flag == 2 else 0
    if fields[TOPIC].start == cython.NULL or fields[PROPERTIES].start == cython.NULL:
        return False
    # A topic written with escapes is not in the table, nor do such digits pass.
    message.topic = fields[TOPIC].start
    message.topic_size = cython.cast(cython.int, fields[TOPIC].size)
    message.properties = fields[PROPERTIES]
    if not decimal(fields + QUEUE_ID, 10, False, INT32_MAX, cython.address(number)):
        return False
    message.queue_id = cython.cast(int32_t, number)
    if not decimal(fields + SYS_FLAG, 10, False, INT32_MAX, cython.address(number)):
        return False
    if number & ~SYS_FLAG_PLAIN:
        return False
    message.sys_flag = cython.cast(int32_t, number)
    if not decimal(fields + FLAG, 10, True, INT32_MAX, cython.address(number)):
        return False
    message.flag = cython.cast(int32_t, number)
    if not decimal(fields + BORN_TIMESTAMP, 18, False, 10**18, cython.address(number)):
        return False
    message.born_timestamp = number
    number = 0
    if fields[RECONSUME_TIMES].start != cython.NULL:
        if not decimal(fields + RECONSUME_TIMES, 10, False, INT32_MAX, cython.address(number)):
            return False
    message.reconsume_times = cython.cast(int32_t, number)
    # Not used here, but the general path refuses a request without them.
    if fields[GROUP].size < 1 or fields[DEFAULT_TOPIC].size < 1:
        return False
    if not decimal(fields + DEFAULT_QUEUE_COUNT, 10, True, INT32_MAX, cython.address(number)):
        return False
    if fields[MAX_RECONSUME_TIMES].start != cython.NULL:
        if not decimal(fields + MAX_RECONSUME_TIMES, 10, True, INT32_MAX, cython.address(number)):
            return False
    if fields[BATCH].start != cython.NULL:
        return fields[BATCH].size == 5 and shmq_equal(fields[BATCH].start, b"false", 5)
    return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def is_special_topic(name: cython.p_uchar, size: cython.int) -> cython.bint:
    """Whether the name is one of a retry topic or a dead letter queue."""
    if size > 0 and name[0] != 37:
        return False
    return (size >= 7 and shmq_equal(name, b"%RETRY%", 7)) or (
        size >= 5 and shmq_equal(name, b"%DLQ%", 5)
    )


@cython.cfunc
def buffer_of(
    view: cython.pointer(Py_buffer), source: object, what: str, size: cython.longlong
) -> cython.p_uchar:
    """Hold a writable buffer of at least `size` bytes at a multiple of ALIGNMENT."""
    PyObject_GetBuffer(source, view, PyBUF_WRITABLE)
    address: cython.p_uchar = cython.cast(cython.p_uchar, view.buf)
    if view.len < size:
        raise LayoutError("ring part too short", part=what, size=view.len, needed=size)
    if cython.cast(cython.size_t, address) % ALIGNMENT != 0:
        raise LayoutError("ring part at an odd place", part=what, needed_alignment=ALIGNMENT)
    return address


@cython.no_gc  # Clearing a buffer's owner, as the collector does, never releases the buffer.
@cython.cclass
class SendParser:
    """Producer's side of a submission ring that reads send requests by itself.

    submitted: number of entries written so far, the next sequence number; publish it as SUBMITTED.
    reaped: entries with a smaller number, and their data, may be used again.
    position, frame_size: after feed(), where it stopped, and the size of the whole frame there in
        bytes, length word included; 0 when that is not known yet.
    """

    submitted = cython.declare(cython.longlong, visibility="readonly")
    reaped = cython.declare(cython.longlong, visibility="readonly")
    position = cython.declare(cython.longlong, visibility="readonly")
    frame_size = cython.declare(cython.longlong, visibility="readonly")

    _entries_view: Py_buffer
    _data_view: Py_buffer
    _entries: cython.pointer(Entry)
    _data: cython.p_uchar
    _entry_count: cython.longlong
    _data_size: cython.longlong
    _head: cython.longlong  # where the next data goes, if there is room
    _tail: cython.longlong  # start of the oldest data in flight
    _reserved: Room

    _message_size_max: cython.longlong
    _frame_size_max: cython.longlong
    _store_host: bytes
    _store_port: int32_t
    _region_pair: bytes
    _trace_pair: bytes
    _cluster_pair: bytes
    _pairs_size: cython.int

    _topics: dict
    _table: cython.pointer(Topic)
    _table_size: cython.longlong
    _table_stale: cython.bint

    _born_host: cython.p_uchar  # of the connection being fed
    _born_host_size: cython.int
    _born_port: int32_t
    _connection: int32_t
    _connection_id: int64_t

    def __cinit__(
        self,
        *,
        entries: object,
        data: object,
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
    ):
        if entry_count < 1 or entry_count & (entry_count - 1):
            raise LayoutError("entry count is no power of two", entry_count=entry_count)
        if len(store_host) != 4 and len(store_host) != 16:
            raise LayoutError("store host size", size=len(store_host), allowed=(4, 16))
        for what, text in (("cluster", cluster), ("region", region)):
            if not text or b"\x01" in text or b"\x02" in text or len(text) > 1024:
                raise LayoutError("name not fit for a property", name=what, value=text)
        if not 1 <= message_size_max <= 1 << 30 or not 8 <= frame_size_max <= 0x7FFFFFFF:
            raise LayoutError(
                "size limits", message_size_max=message_size_max, frame_size_max=frame_size_max
            )
        if not 0 <= data_size <= 0x7FFFFFFF:
            raise LayoutError("data size", data_size=data_size, allowed=(0, 0x7FFFFFFF))
        self._entry_count = entry_count
        self._data_size = data_size // ALIGNMENT * ALIGNMENT
        self._entries = cython.cast(
            cython.pointer(Entry),
            buffer_of(
                cython.address(self._entries_view), entries, "entries", entry_count * ENTRY_SIZE
            ),
        )
        self._data = buffer_of(cython.address(self._data_view), data, "data", data_size)
        self._message_size_max = message_size_max
        self._frame_size_max = frame_size_max
        self._store_host = store_host
        self._store_port = store_port
        self._region_pair = b"MSG_REGION\x01%b\x02" % region
        self._trace_pair = b"TRACE_ON\x01%b\x02" % (b"true" if trace_on else b"false")
        self._cluster_pair = b"CLUSTER\x01%b\x02" % cluster
        self._pairs_size = len(self._region_pair) + len(self._trace_pair) + len(self._cluster_pair)
        self._topics = {}
        self._table_stale = True
        self.submitted = submitted
        self.reaped = submitted

    def __dealloc__(self):
        free(self._table)
        PyBuffer_Release(cython.address(self._entries_view))  # nothing when there is none
        PyBuffer_Release(cython.address(self._data_view))

    def close(self):
        """Let go of the ring, so that its segment can be unmapped; nothing may be called after."""
        self._entry_count = 0
        self._data_size = 0
        self.reaped = self.submitted
        self._reserved.size = 0
        PyBuffer_Release(cython.address(self._entries_view))  # nothing when there is none
        PyBuffer_Release(cython.address(self._data_view))

    def put_topic(self, name: bytes, slots: list, write_queue_count: int):
        """Take sends to this topic from now on; slots[i] is the queue table slot of queue i."""
        if not 0 <= write_queue_count <= len(slots):
            raise LayoutError(
                "a write queue without a slot",
                topic=name,
                slots=len(slots),
                write_queue_count=write_queue_count,
            )
        packed: bytearray = bytearray(4 * write_queue_count)
        queues: cython.pointer(int32_t) = cython.cast(
            cython.pointer(int32_t), cython.cast(cython.p_char, packed)
        )
        index: cython.Py_ssize_t
        for index in range(write_queue_count):
            queues[index] = slots[index]
            if queues[index] < 0:
                raise LayoutError("a slot below 0", topic=name, queue_id=index, slot=slots[index])
        self._topics[name] = packed
        self._table_stale = True

    def drop_topic(self, name: bytes):
        """Leave sends to this topic to the general path again."""
        self._topics.pop(name, None)
        self._table_stale = True

    @cython.cfunc
    def _rebuild_table(self) -> cython.int:
        """Make the hash table anew from `_topics`, at most half full."""
        size: cython.longlong = 16
        while size < 2 * len(self._topics):
            size *= 2
        table: cython.pointer(Topic) = cython.cast(
            cython.pointer(Topic), calloc(size, cython.sizeof(Topic))
        )
        if table == cython.NULL:
            raise MemoryError
        name: bytes
        packed: bytearray
        place: uint64_t
        key: uint64_t
        for name, packed in self._topics.items():
            key = shmq_hash(
                cython.cast(cython.p_uchar, PyBytes_AS_STRING(name)), PyBytes_GET_SIZE(name)
            )
            place = key & (size - 1)
            while table[place].name != cython.NULL:
                place = (place + 1) & (size - 1)
            table[place].hash = key
            table[place].name = cython.cast(cython.p_uchar, PyBytes_AS_STRING(name))
            table[place].size = len(name)
            table[place].queue_count = len(packed) // 4
            table[place].slots = cython.cast(
                cython.pointer(int32_t), cython.cast(cython.p_char, packed)
            )
        free(self._table)
        self._table = table
        self._table_size = size
        self._table_stale = False
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _find_topic(self, name: cython.p_uchar, size: cython.int) -> cython.pointer(Topic):
        key: uint64_t = shmq_hash(name, size)
        place: uint64_t = key & (self._table_size - 1)
        topic: cython.pointer(Topic) = self._table + place
        while topic.name != cython.NULL:
            if topic.hash == key and topic.size == size and memcmp(topic.name, name, size) == 0:
                return topic
            place = (place + 1) & (self._table_size - 1)
            topic = self._table + place
        return cython.NULL

    def reap(self, sequence: cython.longlong):
        """Give back the entries with numbers below `sequence` and their data."""
        if not self.reaped <= sequence <= self.submitted:
            raise LayoutError(
                "reaped entries that are not in flight",
                sequence=sequence,
                allowed=(self.reaped, self.submitted),
            )
        self.reaped = sequence
        self._reserved.size = 0
        if sequence == self.submitted:
            self._head = 0
            self._tail = 0
        else:
            self._tail = self._entries[sequence & (self._entry_count - 1)].data_position

    @cython.cfunc
    @cython.exceptval(check=False)
    def _find_room(self, size: cython.longlong) -> cython.longlong:
        """Position of `size` free bytes for the next entry, -1 when there are none now."""
        in_flight: cython.longlong = self.submitted - self.reaped
        if in_flight == self._entry_count:
            return -1
        if in_flight == 0 or self._head > self._tail:
            if size <= self._data_size - self._head:
                return self._head
            return 0 if size <= self._tail else -1
        return self._head if size <= self._tail - self._head else -1

    def reserve(self, size: cython.longlong):
        """Room for the data of one more entry: (its sequence number, position), None if full.

        It stays reserved until commit_entry(), or until feed(), submit() or reap() is called.
        """
        if not 1 <= size <= self._data_size:
            raise LayoutError(
                "entry does not fit the ring", size=size, allowed=(1, self._data_size)
            )
        position: cython.longlong = self._find_room(size)
        if position < 0:
            return None
        self._reserved.position = position
        self._reserved.size = size
        return self.submitted, position

    def commit_entry(
        self,
        data_size: cython.longlong,
        *,
        record_count: int32_t,
        slot: int32_t,
        tags_code: int64_t,
        opaque: int32_t,
        connection: int32_t,
        connection_id: int64_t,
        answer_flags: int32_t,
        queue_id: int32_t,
        unique_at: int32_t,
        unique_size: int32_t,
    ):
        """Write the entry whose data lies at the reserved position; gives its sequence number."""
        if not 1 <= data_size <= self._reserved.size:
            raise LayoutError(
                "more than was reserved", size=data_size, reserved=self._reserved.size
            )
        entry: cython.pointer(Entry) = self._entries + (self.submitted & (self._entry_count - 1))
        entry.record_count = record_count
        entry.slot = slot
        entry.tags_code = tags_code
        entry.opaque = opaque
        entry.connection = connection
        entry.connection_id = connection_id
        entry.answer_flags = answer_flags
        entry.queue_id = queue_id
        entry.unique_at = unique_at
        entry.unique_size = unique_size
        self._commit(entry, self._reserved.position, data_size)
        self._reserved.size = 0
        return self.submitted - 1

    def submit(
        self,
        data: object,
        *,
        record_count: int,
        slot: int,
        tags_code: int,
        opaque: int,
        connection: int,
        connection_id: int,
        answer_flags: int,
        queue_id: int,
        unique_at: int,
        unique_size: int,
    ):
        """Copy a whole entry into the ring; gives its sequence number, or -1 when it is full."""
        view = cython.declare(Py_buffer)
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        try:
            if self.reserve(view.len) is None:
                return -1
            memcpy(self._data + self._reserved.position, view.buf, view.len)
            return self.commit_entry(
                view.len,
                record_count=record_count,
                slot=slot,
                tags_code=tags_code,
                opaque=opaque,
                connection=connection,
                connection_id=connection_id,
                answer_flags=answer_flags,
                queue_id=queue_id,
                unique_at=unique_at,
                unique_size=unique_size,
            )
        finally:
            PyBuffer_Release(cython.address(view))

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def _commit(
        self, entry: cython.pointer(Entry), position: cython.longlong, size: cython.longlong
    ) -> cython.void:
        entry.data_position = position
        entry.data_size = cython.cast(int32_t, size)
        entry.flags = 0
        if self.submitted == self.reaped:
            self._tail = position
        self._head = position + (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        self.submitted += 1

    def feed(
        self,
        buffer: object,
        start: cython.longlong,
        end: cython.longlong,
        *,
        connection: int32_t,
        connection_id: int64_t,
        born_host: bytes,
        born_port: int32_t,
    ):
        """Submit the plain sends among the frames in buffer[start:end]; gives why it stopped.

        Plain: SEND_MESSAGE_V2 or SEND_MESSAGE, a request, not signed, not a batch; header of a
        plain form (requestheader.py); topic known and no retry topic; queue id one of its write
        queues; body not empty and within message_size_max; sysFlag with bits of SYS_FLAG_PLAIN
        only; properties well formed, with a UNIQ_KEY, without any that asks for more than storing.
        """
        if len(born_host) != 4 and len(born_host) != 16:
            raise LayoutError("born host size", size=len(born_host), allowed=(4, 16))
        view = cython.declare(Py_buffer)
        PyObject_GetBuffer(buffer, cython.address(view), PyBUF_SIMPLE)
        try:
            if not 0 <= start <= end <= view.len:
                raise LayoutError(
                    "range outside of the buffer", start=start, end=end, size=view.len
                )
            if self._table_stale:
                self._rebuild_table()
            self._reserved.size = 0
            self._connection = connection
            self._connection_id = connection_id
            self._born_host = cython.cast(cython.p_uchar, PyBytes_AS_STRING(born_host))
            self._born_host_size = cython.cast(cython.int, PyBytes_GET_SIZE(born_host))
            self._born_port = born_port
            return self._walk(cython.cast(cython.p_uchar, view.buf), start, end)
        finally:
            PyBuffer_Release(cython.address(view))

    @cython.cfunc
    @cython.exceptval(check=False)
    def _walk(self, base: cython.p_uchar, at: cython.longlong, end: cython.longlong) -> cython.int:
        """Frame after frame until one stops it."""
        total: cython.longlong
        header_size: cython.longlong
        stop: cython.int
        while True:
            self.position = at
            self.frame_size = 0
            if end - at < 4:
                return NEED_MORE
            total = shmq_get32(base + at)
            if total < 4 or total > self._frame_size_max - 4:
                return BAD_FRAME
            self.frame_size = total + 4
            if end - at < 8:
                return NEED_MORE
            header_size = shmq_get32(base + at + 4) & 0xFFFFFF
            if header_size > total - 4:
                return BAD_FRAME
            if end - at < total + 4:
                return NEED_MORE
            stop = self._take(base + at, header_size, total - 4 - header_size)
            if stop != 0:
                return stop
            at += total + 4

    @cython.cfunc
    @cython.exceptval(check=False)
    def _take(
        self, frame: cython.p_uchar, header_size: cython.longlong, body_size: cython.longlong
    ) -> cython.int:
        """Submit one whole frame; 0 when that is done, else why not."""
        header = cython.declare(RequestHeader)
        message = cython.declare(Message)
        topic: cython.pointer(Topic)
        at: cython.p_uchar = frame + 8
        if body_size < 1 or body_size > self._message_size_max or frame[4] > 1:
            return OTHER
        if frame[4] == 0:
            if not parse_json(at, at + header_size, cython.address(header), False):
                return OTHER
        elif not parse_binary(at, at + header_size, cython.address(header), False):
            return OTHER
        if not read_message(cython.address(header), cython.address(message)):
            return OTHER
        if frame[4] == 1:
            message.answer_flags |= ANSWER_BINARY
        if message.topic_size < 1 or message.topic_size > TOPIC_SIZE_MAX:
            return OTHER
        topic = self._find_topic(message.topic, message.topic_size)
        if topic == cython.NULL or is_special_topic(message.topic, message.topic_size):
            return OTHER
        if message.queue_id >= topic.queue_count:
            return OTHER
        message.slot = topic.slots[message.queue_id]
        message.body = at + header_size
        message.body_size = body_size
        return self._encode(cython.address(message))

    @cython.cfunc
    @cython.exceptval(check=False)
    def _encode(self, message: cython.pointer(Message)) -> cython.int:
        """Write record and entry of a message; 0 when that is done, else why not."""
        found = cython.declare(Found)
        properties_max: cython.longlong = min(message.properties.size, PROPERTIES_SIZE_MAX)
        before: cython.longlong = (
            RECORD_FIXED_SIZE
            + self._born_host_size
            + PyBytes_GET_SIZE(self._store_host)
            + 8
            + message.body_size
            + message.topic_size
        )
        # Of the size nothing is sure but its limit: escapes shrink, pairs may be there already.
        size: cython.longlong = before + properties_max + 1 + self._pairs_size
        if size > self._data_size:
            return OTHER
        position: cython.longlong = self._find_room(size)
        if position < 0:
            return RING_FULL
        record: cython.p_uchar = self._data + position
        properties: cython.p_uchar = record + before
        end: cython.p_uchar = self._put_properties(
            message, properties, properties_max, cython.address(found)
        )
        if end == cython.NULL:
            return OTHER
        self._put_record(message, record, properties, end)
        entry: cython.pointer(Entry) = self._entries + (self.submitted & (self._entry_count - 1))
        entry.record_count = 1
        entry.slot = message.slot
        entry.tags_code = found.tags_code
        entry.opaque = message.opaque
        entry.connection = self._connection
        entry.connection_id = self._connection_id
        entry.answer_flags = message.answer_flags
        entry.queue_id = message.queue_id
        entry.unique_at = cython.cast(int32_t, found.unique - record)
        entry.unique_size = cython.cast(int32_t, found.unique_size)
        self._commit(entry, position, end - record)
        return 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def _put_properties(
        self,
        message: cython.pointer(Message),
        at: cython.p_uchar,
        size_max: cython.longlong,
        found: cython.pointer(Found),
    ) -> cython.p_uchar:
        """Write the client's pairs and ours at `at`; gives their end, NULL: they are not plain."""
        source: cython.p_uchar = message.properties.start
        size: cython.Py_ssize_t = message.properties.size
        end: cython.p_uchar
        if message.properties.escaped:
            size = unescape(source, source + size, at, size_max)
            if size < 0:
                return cython.NULL
        elif size <= size_max:
            memcpy(at, source, size)
        else:
            return cython.NULL
        end = at + size
        if not walk_properties(at, end, found) or not found.names & HAS_UNIQ_KEY:
            return cython.NULL
        if (end - 1)[0] != 2:
            end[0] = 2
            end += 1
        end = put_bytes(end, self._region_pair, PyBytes_GET_SIZE(self._region_pair))
        end = put_bytes(end, self._trace_pair, PyBytes_GET_SIZE(self._trace_pair))
        end = put_bytes(end, self._cluster_pair, PyBytes_GET_SIZE(self._cluster_pair))
        if end - at > PROPERTIES_SIZE_MAX:
            return cython.NULL
        return end

    @cython.cfunc
    @cython.exceptval(check=False)
    def _put_record(
        self,
        message: cython.pointer(Message),
        at: cython.p_uchar,
        properties: cython.p_uchar,
        end: cython.p_uchar,
    ) -> cython.void:
        """Write all of a record of version 1 but its properties, which are there already."""
        sys_flag: uint32_t = message.sys_flag
        if self._born_host_size == 16:
            sys_flag |= SYS_FLAG_BORN_V6
        if PyBytes_GET_SIZE(self._store_host) == 16:
            sys_flag |= SYS_FLAG_STORE_V6
        shmq_put32(at, cython.cast(uint32_t, end - at))
        shmq_put32(at + 4, MAGIC_V1)
        shmq_put32(at + 8, shmq_crc32(message.body, message.body_size) & 0x7FFFFFFF)
        shmq_put32(at + 12, message.queue_id)
        shmq_put32(at + 16, message.flag)
        shmq_put64(at + 20, 0)  # queue offset
        shmq_put64(at + 28, 0)  # physical offset
        shmq_put32(at + 36, sys_flag)
        shmq_put64(at + 40, message.born_timestamp)
        at = put_bytes(at + 48, self._born_host, self._born_host_size)
        shmq_put32(at, self._born_port)
        shmq_put64(at + 4, 0)  # store timestamp
        at = put_bytes(at + 12, self._store_host, PyBytes_GET_SIZE(self._store_host))
        shmq_put32(at, self._store_port)
        shmq_put32(at + 4, message.reconsume_times)
        shmq_put64(at + 8, 0)  # prepared transaction offset
        shmq_put32(at + 16, cython.cast(uint32_t, message.body_size))
        at = put_bytes(at + 20, message.body, message.body_size)
        at[0] = cython.cast(cython.uchar, message.topic_size)
        at = put_bytes(at + 1, message.topic, message.topic_size)
        shmq_put16(at, cython.cast(cython.ushort, end - properties))


shmq_crc32_setup()
