# cython: language_level=3, boundscheck=False, wraparound=False
"""Boundaries of the whole frames in a piece of a stream.

Twin: frames_plain.py. Source: remoting protocol, frame.
"""

import cython
import numpy as np
from cython.cimports.cpython.buffer import (
    Py_buffer,
    PyBUF_SIMPLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cython.cimports.shmq.kernels.scan import shmq_get32

from shmq.errors import ProtocolError


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def frame_size_at(
    base: cython.p_uchar, at: cython.longlong, end: cython.longlong, frame_size_max: cython.longlong
) -> cython.longlong:
    """Size of the whole frame at `at`, 0 when more bytes are needed, -1 when it cannot be one."""
    total: cython.longlong
    if end - at < 4:
        return 0
    total = shmq_get32(base + at)
    if total < 4 or total > frame_size_max - 4:
        return -1
    if end - at < 8:
        return 0
    if (shmq_get32(base + at + 4) & 0xFFFFFF) > total - 4:
        return -1
    return total + 4 if total + 4 <= end - at else 0


def split(
    buffer: object, start: cython.longlong, end: cython.longlong, frame_size_max: cython.longlong
) -> object:
    """Start and size of every whole frame in buffer[start:end], bytes, length word included.

    Returns:
        int64 array, shape (n, 2). The next frame begins where the last of them ends.

    Raises:
        ProtocolError: lengths that cannot be; carries position, total and header_size.
    """
    view = cython.declare(Py_buffer)
    found: cython.p_longlong
    at: cython.longlong = start
    size: cython.longlong = 0
    count: cython.longlong = 0
    index: cython.longlong
    address: cython.size_t
    PyObject_GetBuffer(buffer, cython.address(view), PyBUF_SIMPLE)
    base: cython.p_uchar = cython.cast(cython.p_uchar, view.buf)
    try:
        if not 0 <= start <= end <= view.len:
            raise ProtocolError("range outside of the buffer", start=start, end=end, size=view.len)
        while True:
            size = frame_size_at(base, at, end, frame_size_max)
            if size <= 0:
                break
            count += 1
            at += size
        if size < 0:
            raise ProtocolError(
                "frame length",
                position=at,
                total=shmq_get32(base + at),
                header_size=shmq_get32(base + at + 4) & 0xFFFFFF if end - at >= 8 else None,
                frame_size_max=frame_size_max,
            )
        result = np.empty((count, 2), np.int64)
        address = result.ctypes.data
        found = cython.cast(cython.p_longlong, address)
        at = start
        for index in range(count):
            size = frame_size_at(base, at, end, frame_size_max)
            found[2 * index] = at
            found[2 * index + 1] = size
            at += size
    finally:
        PyBuffer_Release(cython.address(view))
    return result
