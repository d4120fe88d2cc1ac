# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Answers to sends from the completions of a submission ring, as whole frames ready for the socket.

An answer is built when its record is stored as far as the caller asks; a one-way send gets none;
what is not a plain success is left to the caller. Keys of the JSON form come in the order in which
Java writes them, the binary form has the same fields in the same order.
Twin: answers_plain.py. Source: response header of SEND_MESSAGE; offset message ids.
"""

import json

import cython
from cython.cimports.cpython.buffer import (
    Py_buffer,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_GET_SIZE
from cython.cimports.libc.stdint import int32_t, int64_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.shmq.kernels.ringparts import Completion, Entry
from cython.cimports.shmq.kernels.scan import shmq_put16, shmq_put32, shmq_string_special

from shmq.errors import LayoutError

ANSWER_ONEWAY = cython.declare(cython.int, 1)
ANSWER_BINARY = cython.declare(cython.int, 2)
ANSWER_BY_HAND = cython.declare(cython.int, 4)
ANSWER_AT_ONCE = cython.declare(cython.int, 8)
STATUS_OK = cython.declare(cython.int, 0)

TYPE_BINARY = cython.declare(cython.uint, 1 << 24)  # serialization, as the high byte of a length
BINARY_FIXED_SIZE = cython.declare(cython.int, 21)
LANGUAGE_PYTHON = cython.declare(cython.int, 3)
VERSION = cython.declare(cython.int, 513)
HEX_OFFSET_SIZE = cython.declare(cython.int, 16)

Number = cython.struct(digits=cython.uchar[20], start=cython.int)

# The parts of one answer that differ from another's.
Answer = cython.struct(
    queue_id=Number,
    queue_offset=Number,
    opaque=Number,
    physical_offset=uint64_t,
    unique=cython.p_uchar,
    unique_size=cython.longlong,
)

BUILD = cython.declare(cython.int, 0)
SKIP = cython.declare(cython.int, 1)
REPORT = cython.declare(cython.int, 2)
WAIT = cython.declare(cython.int, 3)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def set_number(number: cython.pointer(Number), value: int64_t) -> cython.void:
    """Decimal text of `value`, at the end of number.digits."""
    rest: uint64_t = cython.cast(uint64_t, value)
    if value < 0:
        rest = 0 - rest
    number.start = 20
    while True:
        number.start -= 1
        number.digits[number.start] = cython.cast(cython.uchar, 48 + rest % 10)
        rest //= 10
        if rest == 0:
            break
    if value < 0:
        number.start -= 1
        number.digits[number.start] = 45


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def put_number(at: cython.p_uchar, number: cython.pointer(Number)) -> cython.p_uchar:
    """Write a number; gives the end of it."""
    memcpy(at, cython.address(number.digits[number.start]), 20 - number.start)
    return at + (20 - number.start)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def hex_char(value: cython.int) -> cython.uchar:
    """Upper case digit of a value below 16."""
    return cython.cast(cython.uchar, 48 + value if value < 10 else 55 + value)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_hex(at: cython.p_uchar, value: uint64_t) -> cython.p_uchar:
    """Sixteen digits, upper case."""
    index: cython.int
    for index in range(16):
        at[15 - index] = hex_char(cython.cast(cython.int, value & 15))
        value >>= 4
    return at + 16


@cython.cfunc
@cython.inline
def put_text(at: cython.p_uchar, text: bytes) -> cython.p_uchar:
    """Write bytes; gives the end of them."""
    memcpy(at, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return at + PyBytes_GET_SIZE(text)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def escape_letter(char: cython.uchar) -> cython.uchar:
    """What stands behind the backslash for this character; u when only a number will do."""
    if char in (34, 92):
        return char
    if char == 8:
        return 98
    if char == 12:
        return 102
    if char == 10:
        return 110
    if char == 13:
        return 114
    if char == 9:
        return 116
    return 117


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def escaped_size(at: cython.p_uchar, end: cython.p_uchar) -> cython.longlong:
    """Size of the bytes as the inside of a JSON string."""
    size: cython.longlong = end - at
    while True:
        at = shmq_string_special(at, end)
        if at == end:
            return size
        size += 5 if escape_letter(at[0]) == 117 else 1
        at += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def put_escaped(target: cython.p_uchar, at: cython.p_uchar, end: cython.p_uchar) -> cython.p_uchar:
    """Write bytes as the inside of a JSON string; gives the end of it."""
    run: cython.p_uchar
    while True:
        run = at
        at = shmq_string_special(at, end)
        memcpy(target, run, at - run)
        target += at - run
        if at == end:
            return target
        target[0] = 92
        target[1] = escape_letter(at[0])
        target += 2
        if (target - 1)[0] == 117:
            target[0] = 48
            target[1] = 48
            target[2] = cython.cast(cython.uchar, 48 + (at[0] >> 4))
            target[3] = hex_char(at[0] & 15) | 0x20  # lower case; leaves digits as they are
            target += 4
        at += 1


@cython.cfunc
def hold(
    view: cython.pointer(Py_buffer), source: object, what: str, size: cython.longlong
) -> cython.p_uchar:
    """Hold a buffer of at least `size` bytes."""
    PyObject_GetBuffer(source, view, PyBUF_SIMPLE)
    address: cython.p_uchar = cython.cast(cython.p_uchar, view.buf)
    if view.len < size:
        raise LayoutError("ring part too short", part=what, size=view.len, needed=size)
    if cython.cast(cython.size_t, address) % 8 != 0:
        raise LayoutError("ring part at an odd place", part=what, needed_alignment=8)
    return address


def binary_field(name: bytes, value: bytes) -> bytes:
    """A field of the binary header."""
    return len(name).to_bytes(2, "big") + name + len(value).to_bytes(4, "big") + value


@cython.no_gc  # Clearing a buffer's owner, as the collector does, never releases the buffer.
@cython.cclass
class AnswerBuilder:
    """Builds the answers to the entries of one submission ring."""

    _entries_view: Py_buffer
    _completions_view: Py_buffer
    _data_view: Py_buffer
    _entries: cython.pointer(Entry)
    _completions: cython.pointer(Completion)
    _data: cython.p_uchar
    _entry_count: cython.longlong
    _data_size: cython.longlong

    _json: tuple  # the parts that never differ, between those that do
    _json_size: cython.longlong
    _binary_middle: bytes
    _binary_id: bytes
    _id_start: bytes  # hex of store host and port

    def __cinit__(
        self,
        *,
        entries: object,
        completions: object,
        data: object,
        entry_count: int,
        data_size: int,
        store_host: bytes,
        store_port: int,
        region: bytes = b"DefaultRegion",
        trace_on: bool,
    ):
        if entry_count < 1 or entry_count & (entry_count - 1):
            raise LayoutError("entry count is no power of two", entry_count=entry_count)
        if len(store_host) != 4 and len(store_host) != 16:
            raise LayoutError("store host size", size=len(store_host), allowed=(4, 16))
        self._entry_count = entry_count
        self._data_size = data_size
        self._entries = cython.cast(
            cython.pointer(Entry),
            hold(cython.address(self._entries_view), entries, "entries", entry_count * 64),
        )
        self._completions = cython.cast(
            cython.pointer(Completion),
            hold(
                cython.address(self._completions_view), completions, "completions", entry_count * 32
            ),
        )
        self._data = hold(cython.address(self._data_view), data, "data", data_size)
        trace: bytes = b"true" if trace_on else b"false"
        self._id_start = (store_host + store_port.to_bytes(4, "big")).hex().upper().encode()
        region_text = json.dumps(region.decode(), ensure_ascii=False).encode()
        self._json = (
            b'{"code":0,"extFields":{"queueId":"',
            b'","transactionId":"',
            b'","msgId":"' + self._id_start,
            b'","TRACE_ON":"%b","MSG_REGION":%b,"queueOffset":"' % (trace, region_text),
            b'"},"flag":1,"language":"PYTHON","opaque":',
            b',"serializeTypeCurrentRPC":"JSON","version":513}',
        )
        self._json_size = sum(len(part) for part in self._json) - len(self._json[1])
        self._binary_id = (
            b"\x00\x05msgId"
            + (len(self._id_start) + HEX_OFFSET_SIZE).to_bytes(4, "big")
            + self._id_start
        )
        self._binary_middle = (
            binary_field(b"TRACE_ON", trace)
            + binary_field(b"MSG_REGION", region)
            + b"\x00\x0bqueueOffset"
        )

    def __dealloc__(self):
        PyBuffer_Release(cython.address(self._entries_view))  # nothing when there is none
        PyBuffer_Release(cython.address(self._completions_view))
        PyBuffer_Release(cython.address(self._data_view))

    def close(self):
        """Let go of the ring, so that its segment can be unmapped; nothing may be called after."""
        self._entry_count = 0
        PyBuffer_Release(cython.address(self._entries_view))
        PyBuffer_Release(cython.address(self._completions_view))
        PyBuffer_Release(cython.address(self._data_view))

    def build(
        self,
        first: cython.longlong,
        end: cython.longlong,
        flushed_limit: cython.longlong,
        out: object,
    ):
        """Answer the completed entries first..end-1, in order, from the start of `out` on.

        Returns (next sequence number, runs). A run (connection, connection_id, start, stop) says
        that out[start:stop] is for this connection; (-1, sequence, 0, 0) that the caller must
        answer that entry itself: it is flagged ANSWER_BY_HAND, or its status is not STATUS_OK.
        Stops before the first entry that ends behind the physical offset flushed_limit, or whose
        answer finds no room in `out`.

        Raises LayoutError when not even the first answer fits.
        """
        if not 0 <= end - first <= self._entry_count:
            raise LayoutError(
                "range of entries", first=first, end=end, entry_count=self._entry_count
            )
        view = cython.declare(Py_buffer)
        PyObject_GetBuffer(out, cython.address(view), PyBUF_WRITABLE)
        try:
            return self._build(
                first, end, flushed_limit, cython.cast(cython.p_uchar, view.buf), view.len
            )
        finally:
            PyBuffer_Release(cython.address(view))

    @cython.cfunc
    def _build(
        self,
        first: cython.longlong,
        end: cython.longlong,
        flushed_limit: cython.longlong,
        out: cython.p_uchar,
        out_size: cython.longlong,
    ) -> tuple:
        runs: list = []
        sequence: cython.longlong = first
        at: cython.longlong = 0
        start: cython.longlong = 0  # of the run
        size: cython.longlong
        connection: int32_t = -1
        connection_id: int64_t = -1
        entry: cython.pointer(Entry)
        completion: cython.pointer(Completion)
        what: cython.int
        while sequence < end:
            entry = self._entries + (sequence & (self._entry_count - 1))
            completion = self._completions + (sequence & (self._entry_count - 1))
            what = self._judge(entry, completion, flushed_limit)
            if what == WAIT:
                break
            if what == REPORT or (
                what == BUILD
                and (entry.connection != connection or entry.connection_id != connection_id)
            ):
                if at > start:
                    runs.append((connection, connection_id, start, at))
                    start = at
                connection = entry.connection
                connection_id = entry.connection_id
            if what == REPORT:
                runs.append((-1, sequence, 0, 0))
            elif what == BUILD:
                size = self._put_answer(entry, completion, out + at, out_size - at)
                if size == 0:
                    if sequence == first:
                        raise LayoutError("no room for one answer", size=out_size)
                    break
                at += size
            sequence += 1
        if at > start:
            runs.append((connection, connection_id, start, at))
        return sequence, runs

    @cython.cfunc
    @cython.exceptval(check=False)
    def _judge(
        self,
        entry: cython.pointer(Entry),
        completion: cython.pointer(Completion),
        flushed_limit: cython.longlong,
    ) -> cython.int:
        """What to do about an entry: BUILD its answer, SKIP it, REPORT it or WAIT for its flush."""
        size: cython.longlong
        if entry.answer_flags & ANSWER_ONEWAY:
            return REPORT if entry.answer_flags & ANSWER_BY_HAND else SKIP
        if completion.status != STATUS_OK:
            return REPORT
        size = entry.data_size
        if entry.record_count > 1:
            size -= 8 * cython.cast(cython.longlong, entry.record_count)  # tags codes
        if (
            completion.physical_offset + size > flushed_limit
            and not entry.answer_flags & ANSWER_AT_ONCE
        ):
            return WAIT
        return REPORT if entry.answer_flags & ANSWER_BY_HAND else BUILD

    @cython.cfunc
    @cython.exceptval(-1)
    def _put_answer(
        self,
        entry: cython.pointer(Entry),
        completion: cython.pointer(Completion),
        out: cython.p_uchar,
        room: cython.longlong,
    ) -> cython.longlong:
        """Write one answer; gives its size, 0 when there is not enough room."""
        answer = cython.declare(Answer)
        if (
            entry.data_position < 0
            or entry.unique_at < 0
            or entry.unique_size < 0
            or entry.data_position
            > self._data_size - cython.cast(cython.longlong, entry.unique_at) - entry.unique_size
        ):
            raise LayoutError(
                "entry outside of the data",
                data_position=entry.data_position,
                unique_at=entry.unique_at,
                unique_size=entry.unique_size,
                data_size=self._data_size,
            )
        set_number(cython.address(answer.queue_id), entry.queue_id)
        set_number(cython.address(answer.queue_offset), completion.queue_offset)
        set_number(cython.address(answer.opaque), entry.opaque)
        answer.physical_offset = cython.cast(uint64_t, completion.physical_offset)
        answer.unique = self._data + entry.data_position + entry.unique_at
        answer.unique_size = entry.unique_size if entry.unique_at > 0 else 0
        if entry.answer_flags & ANSWER_BINARY:
            return self._put_binary(cython.address(answer), entry.opaque, out, room)
        return self._put_json(cython.address(answer), out, room)

    @cython.cfunc
    @cython.exceptval(-1)
    def _put_json(
        self, answer: cython.pointer(Answer), out: cython.p_uchar, room: cython.longlong
    ) -> cython.longlong:
        size: cython.longlong = (
            self._json_size
            + HEX_OFFSET_SIZE
            + 60
            - (answer.queue_id.start + answer.queue_offset.start + answer.opaque.start)
        )
        unique_end: cython.p_uchar = answer.unique + answer.unique_size
        if answer.unique_size > 0:
            size += PyBytes_GET_SIZE(self._json[1]) + escaped_size(answer.unique, unique_end)
        if size + 8 > room:
            return 0
        shmq_put32(out, cython.cast(cython.uint, size + 4))
        shmq_put32(out + 4, cython.cast(cython.uint, size))
        at: cython.p_uchar = put_text(out + 8, self._json[0])
        at = put_number(at, cython.address(answer.queue_id))
        if answer.unique_size > 0:
            at = put_text(at, self._json[1])
            at = put_escaped(at, answer.unique, unique_end)
        at = put_text(at, self._json[2])
        at = put_hex(at, answer.physical_offset)
        at = put_text(at, self._json[3])
        at = put_number(at, cython.address(answer.queue_offset))
        at = put_text(at, self._json[4])
        at = put_number(at, cython.address(answer.opaque))
        at = put_text(at, self._json[5])
        return at - out

    @cython.cfunc
    @cython.exceptval(-1)
    def _put_binary(
        self,
        answer: cython.pointer(Answer),
        opaque: int32_t,
        out: cython.p_uchar,
        room: cython.longlong,
    ) -> cython.longlong:
        queue_id_size: cython.longlong = 20 - answer.queue_id.start
        queue_offset_size: cython.longlong = 20 - answer.queue_offset.start
        ext_size: cython.longlong = (
            13
            + queue_id_size
            + PyBytes_GET_SIZE(self._binary_id)
            + HEX_OFFSET_SIZE
            + PyBytes_GET_SIZE(self._binary_middle)
            + 4
            + queue_offset_size
        )
        if answer.unique_size > 0:
            ext_size += 19 + answer.unique_size
        size: cython.longlong = BINARY_FIXED_SIZE + ext_size
        if size + 8 > room:
            return 0
        shmq_put32(out, cython.cast(cython.uint, size + 4))
        shmq_put32(out + 4, TYPE_BINARY | cython.cast(cython.uint, size))
        shmq_put16(out + 8, 0)  # code
        out[10] = LANGUAGE_PYTHON
        shmq_put16(out + 11, VERSION)
        shmq_put32(out + 13, opaque)
        shmq_put32(out + 17, 1)  # flag: a response
        shmq_put32(out + 21, 0)  # no remark
        shmq_put32(out + 25, cython.cast(cython.uint, ext_size))
        at: cython.p_uchar = put_text(out + 29, b"\x00\x07queueId")
        shmq_put32(at, cython.cast(cython.uint, queue_id_size))
        at = put_number(at + 4, cython.address(answer.queue_id))
        if answer.unique_size > 0:
            at = put_text(at, b"\x00\x0dtransactionId")
            shmq_put32(at, cython.cast(cython.uint, answer.unique_size))
            memcpy(at + 4, answer.unique, answer.unique_size)
            at += 4 + answer.unique_size
        at = put_text(at, self._binary_id)
        at = put_hex(at, answer.physical_offset)
        at = put_text(at, self._binary_middle)
        shmq_put32(at, cython.cast(cython.uint, queue_offset_size))
        at = put_number(at + 4, cython.address(answer.queue_offset))
        return at - out
