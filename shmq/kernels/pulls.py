# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Pulls at both ends: the header of a plain request, and the frame of an answer with messages.

A request is taken here only when nothing about it is special, see `PullReader.read`; all else is
for the general path (broker/pull.py), which gives the same answers.
Twin: pulls_plain.py. Source: request and response headers of PULL_MESSAGE.
"""

import cython
from cython.cimports.cpython.buffer import (
    Py_buffer,
    PyBUF_SIMPLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t
from cython.cimports.libc.stdio import snprintf
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.shmq.kernels.requestheader import (
    PULL_COMMIT_OFFSET,
    PULL_COUNT_MAX,
    PULL_EXPRESSION_TYPE,
    PULL_GROUP,
    PULL_OFFSET,
    PULL_QUEUE_ID,
    PULL_SIZE_MAX,
    PULL_SOURCE,
    PULL_SUBSCRIPTION,
    PULL_SUSPEND_MS,
    PULL_SYS_FLAG,
    PULL_TOPIC,
    PULL_VERSION,
    RequestHeader,
    Span,
    decimal,
    parse_binary,
    parse_json,
)
from cython.cimports.shmq.kernels.scan import shmq_get32, shmq_put16, shmq_put32

from shmq.errors import LayoutError

PULL_MESSAGE = cython.declare(cython.int, 11)
PULL_SUBSCRIPTION_BIT = cython.declare(cython.int, 4)
HEADER_SIZE_MAX = cython.declare(cython.int, 65536)
INT32_MAX = cython.declare(cython.longlong, 0x7FFFFFFF)
INT64_MAX = cython.declare(cython.longlong, 0x7FFFFFFFFFFFFFFF)
LONG_DIGITS_MAX = cython.declare(cython.int, 18)
ENTRY_SIZE = cython.declare(cython.int, 20)
FILLER_SIZE = cython.declare(cython.int, 0x7FFFFFFF)
TYPE_BINARY = cython.declare(cython.uint, 1 << 24)
BINARY_FIXED_SIZE = cython.declare(cython.int, 21)
LANGUAGE_PYTHON = cython.declare(cython.int, 3)
VERSION = cython.declare(cython.int, 513)
FRAME_HEAD_SIZE_MAX = cython.declare(cython.int, 512)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def number_of(
    field: cython.pointer(Span), is_long: cython.bint, value: cython.pointer(cython.longlong)
) -> cython.bint:
    """Read a number of 32 or 64 bits; False when it is none, or has more than 18 digits."""
    read: int64_t = 0
    if is_long:
        if not decimal(field, LONG_DIGITS_MAX, True, INT64_MAX, cython.address(read)):
            return False
    elif not decimal(field, 10, True, INT32_MAX, cython.address(read)):
        return False
    value[0] = read
    return True


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def put_span(target: cython.p_uchar, field: cython.pointer(Span)) -> cython.p_uchar:
    """Write size and bytes of a field, size 0 when it is absent; gives the end."""
    size: cython.Py_ssize_t = field.size if field.start != cython.NULL else 0
    shmq_put32(target, cython.cast(uint32_t, size))
    if size > 0:
        memcpy(target + 4, field.start, size)
    return target + 4 + size


@cython.cclass
class PullReader:
    """Reads the headers of plain pulls.

    After read(), when it was true: the fields of the request, numbers as they came; `size_max` is
    -1 when the request has none. `key` is made of all that decides whether and what the client may
    read but the queue id: group, topic, subscription, expression type, its version, and whether
    the subscription counts. Equal keys are equal questions.
    """

    opaque = cython.declare(cython.longlong, visibility="readonly")
    queue_id = cython.declare(cython.longlong, visibility="readonly")
    queue_offset = cython.declare(cython.longlong, visibility="readonly")
    count_max = cython.declare(cython.longlong, visibility="readonly")
    sys_flag = cython.declare(cython.longlong, visibility="readonly")
    commit_offset = cython.declare(cython.longlong, visibility="readonly")
    suspend_timeout_ms = cython.declare(cython.longlong, visibility="readonly")
    size_max = cython.declare(cython.longlong, visibility="readonly")
    binary = cython.declare(cython.bint, visibility="readonly")
    key = cython.declare(bytes, visibility="readonly")

    _version: cython.longlong

    def __cinit__(self):
        self.key = b""

    def read(self, frame: object) -> bool:
        """Whether `frame`, a whole one, is a plain pull; its fields are then in the attributes.

        Plain: PULL_MESSAGE, a two-way request, not signed; header of a plain form
        (requestheader.py); all required fields; texts without JSON escapes, group and topic not
        empty; numbers of up to 18 digits that fit their types.
        """
        view = cython.declare(Py_buffer)
        PyObject_GetBuffer(frame, cython.address(view), PyBUF_SIMPLE)
        try:
            return self._read(cython.cast(cython.p_uchar, view.buf), view.len)
        finally:
            PyBuffer_Release(cython.address(view))

    @cython.cfunc
    def _read(self, frame: cython.p_uchar, size: cython.longlong) -> cython.bint:
        header = cython.declare(RequestHeader)
        header_size: cython.longlong
        at: cython.p_uchar = frame + 8
        if size < 8 or frame[4] > 1:
            return False
        header_size = shmq_get32(frame + 4) & 0xFFFFFF
        if header_size > size - 8 or header_size > HEADER_SIZE_MAX:
            return False
        if frame[4] == 1:
            # Most of what is not plain here is another request: tell that by one look.
            if header_size < 2 or at[0] != 0 or at[1] != PULL_MESSAGE:
                return False
            if not parse_binary(at, at + header_size, cython.address(header), True):
                return False
        elif not parse_json(at, at + header_size, cython.address(header), True):
            return False
        if header.code != PULL_MESSAGE or header.flag != 0:
            return False
        if header.opaque < -INT32_MAX - 1 or header.opaque > INT32_MAX:
            return False
        self.binary = frame[4] == 1
        self.opaque = header.opaque
        return self._take(header.names)

    @cython.cfunc
    def _take(self, fields: cython.pointer(Span)) -> cython.bint:
        """Read the fields of a pull; False when one is missing or not plain."""
        ignored: cython.longlong = 0
        if fields[PULL_GROUP].size < 1 or fields[PULL_TOPIC].size < 1:
            return False
        if (
            fields[PULL_GROUP].escaped
            or fields[PULL_TOPIC].escaped
            or fields[PULL_SUBSCRIPTION].escaped
            or fields[PULL_EXPRESSION_TYPE].escaped
        ):
            return False
        if not (
            number_of(fields + PULL_QUEUE_ID, False, cython.address(self.queue_id))
            and number_of(fields + PULL_OFFSET, True, cython.address(self.queue_offset))
            and number_of(fields + PULL_COUNT_MAX, False, cython.address(self.count_max))
            and number_of(fields + PULL_SYS_FLAG, False, cython.address(self.sys_flag))
            and number_of(fields + PULL_COMMIT_OFFSET, True, cython.address(self.commit_offset))
            and number_of(fields + PULL_SUSPEND_MS, True, cython.address(self.suspend_timeout_ms))
            and number_of(fields + PULL_VERSION, True, cython.address(self._version))
        ):
            return False
        self.size_max = -1
        if fields[PULL_SIZE_MAX].size > 0:
            if not number_of(fields + PULL_SIZE_MAX, False, cython.address(self.size_max)):
                return False
            if self.size_max < 0:
                return False
        if fields[PULL_SOURCE].size > 0:
            if not number_of(fields + PULL_SOURCE, False, cython.address(ignored)):
                return False
        self._make_key(fields)
        return True

    @cython.cfunc
    def _make_key(self, fields: cython.pointer(Span)) -> cython.void:
        size: cython.Py_ssize_t = (
            9
            + 16
            + fields[PULL_GROUP].size
            + fields[PULL_TOPIC].size
            + fields[PULL_SUBSCRIPTION].size
            + fields[PULL_EXPRESSION_TYPE].size
        )
        key: bytes = PyBytes_FromStringAndSize(cython.NULL, size)
        at: cython.p_uchar = cython.cast(cython.p_uchar, PyBytes_AS_STRING(key))
        at[0] = 1 if self.sys_flag & PULL_SUBSCRIPTION_BIT else 0
        shmq_put32(at + 1, cython.cast(uint32_t, self._version >> 32))
        shmq_put32(at + 5, cython.cast(uint32_t, self._version))
        at = put_span(at + 9, fields + PULL_GROUP)
        at = put_span(at, fields + PULL_TOPIC)
        at = put_span(at, fields + PULL_SUBSCRIPTION)
        put_span(at, fields + PULL_EXPRESSION_TYPE)
        self.key = key


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_field(at: cython.p_uchar, name: cython.p_char, value: cython.longlong) -> cython.p_uchar:
    """Write a field of a binary header whose value is a number; gives the end."""
    name_size: cython.int = snprintf(cython.cast(cython.p_char, at + 2), 32, b"%s", name)
    shmq_put16(at, cython.cast(cython.ushort, name_size))
    at += 2 + name_size
    value_size: cython.int = snprintf(cython.cast(cython.p_char, at + 4), 24, b"%lld", value)
    shmq_put32(at, cython.cast(uint32_t, value_size))
    return at + 4 + value_size


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_binary(
    at: cython.p_uchar,
    opaque: cython.longlong,
    next_offset: cython.longlong,
    min_offset: cython.longlong,
    max_offset: cython.longlong,
    broker_id: cython.longlong,
) -> cython.p_uchar:
    """Write the binary header of an answer; gives its end."""
    start: cython.p_uchar = at
    shmq_put16(at, 0)  # code
    at[2] = LANGUAGE_PYTHON
    shmq_put16(at + 3, VERSION)
    shmq_put32(at + 5, cython.cast(uint32_t, cython.cast(int32_t, opaque)))
    shmq_put32(at + 9, 1)  # flag: a response
    shmq_put32(at + 13, 5)
    memcpy(at + 17, cython.cast(cython.p_char, b"FOUND"), 5)
    at = put_field(at + 26, b"suggestWhichBrokerId", broker_id)
    at = put_field(at, b"groupSysFlag", 0)
    at = put_field(at, b"nextBeginOffset", next_offset)
    at = put_field(at, b"maxOffset", max_offset)
    at = put_field(at, b"minOffset", min_offset)
    at = put_field(at, b"topicSysFlag", 0)
    shmq_put32(start + 22, cython.cast(uint32_t, at - (start + 26)))
    return at


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_json(
    at: cython.p_uchar,
    opaque: cython.longlong,
    next_offset: cython.longlong,
    min_offset: cython.longlong,
    max_offset: cython.longlong,
    broker_id: cython.longlong,
) -> cython.p_uchar:
    """Write the JSON header of an answer, keys in Java's order; gives its end."""
    return at + snprintf(
        cython.cast(cython.p_char, at),
        FRAME_HEAD_SIZE_MAX - 8,
        b'{"code":0,"extFields":{"suggestWhichBrokerId":"%lld","groupSysFlag":"0",'
        b'"nextBeginOffset":"%lld","maxOffset":"%lld","minOffset":"%lld","topicSysFlag":"0"},'
        b'"flag":1,"language":"PYTHON","opaque":%lld,"remark":"FOUND",'
        b'"serializeTypeCurrentRPC":"JSON","version":%d}',
        broker_id,
        next_offset,
        max_offset,
        min_offset,
        opaque,
        VERSION,
    )


def choose(
    entries: object,
    count_max: cython.longlong,
    size_max: cython.longlong,
    offsets: object,
    sizes: object,
):
    """How many of the first entries go into one answer, and the bytes of their records.

    Consumequeue entries back to back; at least one is chosen, further ones while there are at most
    count_max and they have at most size_max bytes together. Their physical offsets and sizes go
    into `offsets` and `sizes`, int64 arrays with room for count_max.

    Returns (count, bytes), (0, 0) when an entry among them is none of a record.
    """
    offset_view: int64_t[::1] = offsets
    size_view: int64_t[::1] = sizes
    view = cython.declare(Py_buffer)
    at: cython.p_uchar
    number: cython.longlong = 0
    size: cython.longlong
    total: cython.longlong = 0
    if count_max > offset_view.shape[0] or count_max > size_view.shape[0] or count_max < 1:
        raise LayoutError("room for chosen entries", count_max=count_max, room=len(offsets))
    PyObject_GetBuffer(entries, cython.address(view), PyBUF_SIMPLE)
    try:
        at = cython.cast(cython.p_uchar, view.buf)
        while number < count_max and (number + 1) * ENTRY_SIZE <= view.len:
            size = shmq_get32(at + 8)
            if size <= 0 or size == FILLER_SIZE:
                return 0, 0
            if number > 0 and total + size > size_max:
                break
            offset_view[number] = (
                cython.cast(int64_t, shmq_get32(at)) << 32
                | cython.cast(uint32_t, shmq_get32(at + 4))
            )  # fmt: skip
            size_view[number] = size
            total += size
            number += 1
            at += ENTRY_SIZE
        return number, total
    finally:
        PyBuffer_Release(cython.address(view))


def found_frame(
    body_size: cython.longlong,
    *,
    binary: bool,
    opaque: cython.longlong,
    next_offset: cython.longlong,
    min_offset: cython.longlong,
    max_offset: cython.longlong,
    broker_id: cython.longlong,
):
    """Frame of the answer SUCCESS to a pull, but for its body, whose bytes the caller fills in.

    Returns (bytearray of the whole frame, where the body begins).
    """
    head = cython.declare(cython.uchar[512])
    start: cython.p_uchar = head
    end: cython.p_uchar
    serialization: uint32_t = 0
    if not 0 <= body_size <= INT32_MAX - FRAME_HEAD_SIZE_MAX:
        raise LayoutError("size of a body", size=body_size)
    memset(start, 0, 8)
    if binary:
        serialization = TYPE_BINARY
        end = put_binary(start + 8, opaque, next_offset, min_offset, max_offset, broker_id)
    else:
        end = put_json(start + 8, opaque, next_offset, min_offset, max_offset, broker_id)
    head_size: cython.longlong = end - start
    shmq_put32(start, cython.cast(uint32_t, head_size - 4 + body_size))
    shmq_put32(start + 4, serialization | cython.cast(uint32_t, head_size - 8))
    frame: bytearray = PyByteArray_FromStringAndSize(cython.NULL, head_size + body_size)
    memcpy(PyByteArray_AS_STRING(frame), start, head_size)
    return frame, head_size
