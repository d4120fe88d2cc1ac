# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Takes: a few records straight out of the hot pages, and where bodies lie, compiled.

For readers that get one message at a time, who would spend more on arrays than on bytes.
takes_plain.py is the twin.
"""

import cython
from cython.cimports.cpython.bytearray import PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.shmq.kernels.native import shmq_snapshot, shmq_swap32, shmq_swap64

ENTRY_SIZE = cython.declare(int64_t, 20)
BODY_AT = cython.declare(int64_t, 88)
RECORD_SIZE_MIN = cython.declare(int64_t, 91)
FLAGS_BYTE_AT = cython.declare(int64_t, 39)
IPV6_EXTRA = cython.declare(int64_t, 12)
BORN_HOST_V6 = cython.declare(uint8_t, 16)
STORE_HOST_V6 = cython.declare(uint8_t, 32)


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def be32(at: cython.pointer(cython.const[uint8_t])) -> int32_t:
    """Big-endian number at any place, with sign."""
    value: uint32_t
    shmq_snapshot(cython.address(value), at, 4)
    return cython.cast(int32_t, shmq_swap32(value))


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def be64(at: cython.pointer(cython.const[uint8_t])) -> int64_t:
    """Big-endian number at any place, with sign."""
    value: uint64_t
    shmq_snapshot(cython.address(value), at, 8)
    return cython.cast(int64_t, shmq_swap64(value))


def take(hot, first: int64_t, count: int64_t, pool, size_max: int64_t):
    """Copy the records of `count` entries from queue offset `first` on; fewer beyond `size_max`.

    `hot` is one queue's ring of consumequeue entries, `pool` the ring of hot pages. Both may be
    written to meanwhile: what comes out counts only if neither was recycled, for the caller to see.

    Returns:
        (the records back to back, how many, physical offset of the first); no record: an entry
        made no sense, or the first is larger than `size_max`.
    """
    hot_view: cython.const[uint8_t][::1] = hot
    pool_view: cython.const[uint8_t][::1] = pool
    entry_count: int64_t = hot_view.shape[0] // ENTRY_SIZE
    room: int64_t = pool_view.shape[0]
    physical: int64_t[64]
    sizes: int64_t[64]
    number: int64_t = 0
    total: int64_t = 0
    count = min(count, entry_count, 64)
    if first < 0 or count <= 0:
        return b"", 0, -1
    entries: cython.pointer(cython.const[uint8_t]) = cython.address(hot_view[0])
    while number < count:
        at: int64_t = (first + number) % entry_count * ENTRY_SIZE
        physical[number] = be64(entries + at)
        sizes[number] = be32(entries + at + 8)
        if physical[number] < 0 or sizes[number] <= 0 or sizes[number] > room:
            break
        if total + sizes[number] > size_max:
            break
        total += sizes[number]
        number += 1
    if number == 0:
        return b"", 0, -1
    out = PyByteArray_FromStringAndSize(cython.NULL, total)
    to: cython.p_char = PyByteArray_AS_STRING(out)
    pages: cython.pointer(cython.const[uint8_t]) = cython.address(pool_view[0])
    count = number
    for number in range(count):
        place: int64_t = physical[number] % room
        before: int64_t = min(sizes[number], room - place)
        memcpy(to, pages + place, before)
        if before < sizes[number]:
            memcpy(to + before, pages, sizes[number] - before)
        to += sizes[number]
    return out, count, physical[0]


def body_places(data, positions, starts, sizes):
    """Where the bodies of the records at `positions` in `data` begin, and their sizes, bytes.

    `positions`, `starts` and `sizes` are int64 arrays of one length; the last two are filled.

    Raises:
        ValueError: a record does not lie in `data`, or the lengths differ.
    """
    view: cython.const[uint8_t][::1] = data
    position_view: cython.const[int64_t][:] = positions
    start_view: int64_t[::1] = starts
    size_view: int64_t[::1] = sizes
    room: int64_t = view.shape[0]
    number: cython.Py_ssize_t
    count: cython.Py_ssize_t = position_view.shape[0]
    if start_view.shape[0] != count or size_view.shape[0] != count:
        raise ValueError("positions, starts and sizes differ in length")
    for number in range(count):
        at: int64_t = position_view[number]
        if at < 0 or at > room - RECORD_SIZE_MIN:
            raise ValueError(f"record {number} does not lie in the data: position={at}")
        flags: uint8_t = view[at + FLAGS_BYTE_AT]
        begin: int64_t = at + BODY_AT
        if flags & BORN_HOST_V6:
            begin += IPV6_EXTRA
        if flags & STORE_HOST_V6:
            begin += IPV6_EXTRA
        size: int64_t = -1 if begin > room else be32(cython.address(view[begin - 4]))
        if size < 0 or size > room - begin:
            raise ValueError(f"body {number} does not lie in the data: position={at} size={size}")
        start_view[number] = begin
        size_view[number] = size
