# cython: language_level=3, boundscheck=False, wraparound=False
"""CRC-32 as zlib computes it, many times as fast: see crc32.h.

Callers that compare with a record's body CRC mask the result with 0x7FFFFFFF, as RocketMQ does.
Twin: crc_plain.py.
"""

import cython
from cython.cimports.cpython.buffer import (
    Py_buffer,
    PyBUF_SIMPLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cython.cimports.shmq.kernels.crc32 import (
    shmq_crc32,
    shmq_crc32_by_table,
    shmq_crc32_folds,
    shmq_crc32_setup,
)


def crc32(data: object) -> int:
    """CRC-32 of all bytes, 0 <= crc < 2**32."""
    view = cython.declare(Py_buffer)
    PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
    crc: cython.uint = shmq_crc32(cython.cast(cython.p_uchar, view.buf), view.len)
    PyBuffer_Release(cython.address(view))
    return crc


def crc32_by_table(data: object) -> int:
    """The same on a CPU that cannot multiply without carry."""
    view = cython.declare(Py_buffer)
    PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
    crc: cython.uint = ~shmq_crc32_by_table(
        0xFFFFFFFF, cython.cast(cython.p_uchar, view.buf), view.len
    )
    PyBuffer_Release(cython.address(view))
    return crc


def uses_folding() -> bool:
    """Whether this CPU can multiply without carry, so that the fast way is taken."""
    return shmq_crc32_folds != 0


shmq_crc32_setup()
