# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Gather: records that lie apart, in the hot pages or in a file, become one answer body, compiled.

gather_plain.py is the twin.
"""

import os

import cython
from cython.cimports.libc.errno import EINTR, errno
from cython.cimports.libc.stdint import int64_t, uint8_t
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.unistd import pread


def gather(source, base: int64_t, positions, sizes, out, out_at: int64_t) -> int:
    """Copy pieces of `source` back to back into `out` from `out_at` on; the end in `out`.

    `source` is a ring: byte `p` of the log lies at p % len(source) when base < 0, else it is plain
    and byte p lies at p - base. `positions` and `sizes` are int64 arrays, bytes.

    Raises:
        ValueError: a piece lies outside `source`, or `out` is too small.
    """
    source_view: cython.const[uint8_t][::1] = source
    position_view: cython.const[int64_t][::1] = positions
    size_view: cython.const[int64_t][::1] = sizes
    out_view: uint8_t[::1] = out
    room: int64_t = source_view.shape[0]
    out_size: int64_t = out_view.shape[0]
    number: cython.Py_ssize_t
    if position_view.shape[0] != size_view.shape[0]:
        raise ValueError("positions and sizes differ in length")
    from_: cython.pointer(cython.const[uint8_t]) = cython.address(source_view[0])
    to: cython.pointer(uint8_t) = cython.address(out_view[0])
    for number in range(position_view.shape[0]):
        size: int64_t = size_view[number]
        position: int64_t = position_view[number]
        if size < 0 or out_at < 0 or size > out_size - out_at or size > room or position < 0:
            raise ValueError(f"piece {number} does not fit: size={size}")
        if size == 0 and base < 0:
            continue
        at: int64_t = position % room if base < 0 else position - base
        if base < 0:
            first: int64_t = min(size, room - at)
            memcpy(to + out_at, from_ + at, first)
            if first < size:
                memcpy(to + out_at + first, from_, size - first)
        else:
            if at < 0 or at > room - size:
                raise ValueError(f"piece {number} lies outside: position={position} size={size}")
            memcpy(to + out_at, from_ + at, size)
        out_at += size
    return out_at


def read_pieces(fd: cython.int, base: int64_t, positions, sizes, out, out_at: int64_t) -> int:
    """Read pieces of a file back to back into `out` from `out_at` on; the end in `out`.

    Byte p of the log lies at p - base in the file. Pieces that follow each other are read at once.

    Raises:
        ValueError: a piece begins before the file, or `out` is too small.
        EOFError: the file ends before a piece does.
        OSError: the file system refused.
    """
    position_view: cython.const[int64_t][::1] = positions
    size_view: cython.const[int64_t][::1] = sizes
    out_view: uint8_t[::1] = out
    out_size: int64_t = out_view.shape[0]
    count: cython.Py_ssize_t = position_view.shape[0]
    number: cython.Py_ssize_t
    run: int64_t = 0  # bytes of the run before piece `number`
    at: int64_t = 0  # where the run begins in the file
    done: int64_t
    total: int64_t = 0
    if count != size_view.shape[0]:
        raise ValueError("positions and sizes differ in length")
    for number in range(count):
        size: int64_t = size_view[number]
        position: int64_t = position_view[number]
        if size < 0 or out_at < 0 or size > out_size - out_at - total or position < base:
            raise ValueError(f"piece {number} does not fit: position={position} size={size}")
        total += size
    for number in range(count + 1):
        if number < count and run > 0 and position_view[number] - base == at + run:
            run += size_view[number]
            continue
        while run > 0:
            done = pread(fd, cython.address(out_view[out_at]), run, at)
            if done < 0:
                if errno == EINTR:
                    continue
                raise OSError(errno, os.strerror(errno))
            if done == 0:
                raise EOFError(f"file ends at {at}, {run} bytes before the end of a piece")
            out_at += done
            at += done
            run -= done
        if number < count:
            at = position_view[number] - base
            run = size_view[number]
    return out_at
