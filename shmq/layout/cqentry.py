"""Layout of a consumequeue entry: where the n-th message of one queue lies.

A consumequeue file is a dense array of ENTRIES_PER_FILE entries and nothing else. Big-endian,
packed.

    offset  size  type  field            meaning
         0     8  i64   physical_offset  start of the record in the commitlog, in bytes
         8     4  i32   size             length of the whole record, in bytes
        12     8  i64   tags_code        Java String.hashCode() of the tag, 0 without one; for a
                                         delayed message its delivery time, in ms since the epoch

The first file of a queue that does not begin at a file's start is filled up to its first entry with
fillers: physical_offset 0, size FILLER_SIZE, tags_code 0. What follows the last entry is zero.

Written by: dispatch, append only. Read by: serve, retention, recovery.
Source: Apache RocketMQ store/ConsumeQueue, CQ_STORE_UNIT_SIZE.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import numpy as np

from shmq.layout.javahash import hash_code

ENTRY: Final = np.dtype([("physical_offset", ">i8"), ("size", ">i4"), ("tags_code", ">i8")])
ENTRY_SIZE: Final = 20
ENTRIES_PER_FILE: Final = 300_000
FILE_SIZE: Final = ENTRIES_PER_FILE * ENTRY_SIZE
FILLER_SIZE: Final = 0x7FFFFFFF

_ENTRY: Final = struct.Struct(">qiq")
FILLER: Final = _ENTRY.pack(0, FILLER_SIZE, 0)
assert ENTRY.itemsize == ENTRY_SIZE == _ENTRY.size
assert FILE_SIZE == 6_000_000


class Entry(NamedTuple):
    """One entry, for code that handles them one by one."""

    physical_offset: int
    size: int
    tags_code: int

    @property
    def is_valid(self) -> bool:
        """Whether this names a record; the zeros after the last entry do not."""
        return self.physical_offset >= 0 and self.size > 0

    @property
    def is_filler(self) -> bool:
        """Whether this only stands before the first entry of a queue."""
        return self.size == FILLER_SIZE and self.physical_offset == 0


def encode(physical_offset: int, size: int, tags_code: int) -> bytes:
    """Bytes of one entry."""
    return _ENTRY.pack(physical_offset, size, tags_code)


def decode(buffer: bytes | bytearray | memoryview, index: int) -> Entry:
    """The entry with this index in the buffer; it must lie in it."""
    return Entry(*_ENTRY.unpack_from(buffer, index * ENTRY_SIZE))


def tags_code(tag: str | None) -> int:
    """What an entry holds for a tag: its hash with sign, 0 for none."""
    return hash_code(tag) if tag else 0


def file_size(configured_size: int) -> int:
    """Size of consumequeue files for a configured size: rounded up to whole entries."""
    return -(-configured_size // ENTRY_SIZE) * ENTRY_SIZE
