"""Where the next record begins after bytes that are none."""

from __future__ import annotations

import os
import re
import struct
from typing import Final

from shmq.layout import record
from shmq.store.sparse import data_pieces

HEAD_MAX: Final = record.BODY_AT + 2 * record.IPV6_EXTRA
"""Bytes of a record before its body, whatever its hosts are."""
HEADS: Final = re.compile(rb"\xda\xa3\x20[\xa7\xab]|\xcb\xd4\x31\x94")
CARRIED: Final = 3
"""Bytes of a magic that may stand at the end of a piece, less than all."""
_PLACE: Final = struct.Struct(">q")
_FLAGS: Final = struct.Struct(">i")


def next_head(fd: int, at: int, size: int, *, start: int, stamp_min: int = 0) -> int | None:
    """Byte after `at` of a commitlog file where a record of that place begins, or its blank.

    Args:
        fd: of the file.
        at: byte of the file.
        size: of the file.
        start: physical offset of the file's first byte.
        stamp_min: records stored before, ms, do not count.
    """
    carried, base = b"", -1
    for position, piece in data_pieces(fd, at + 1, size):
        if position != base + len(carried):
            carried = b""
        base = position - len(carried)
        carried += piece
        for match in HEADS.finditer(carried):
            candidate = base + match.start() - record.MAGIC_AT
            if candidate > at and _begins(fd, candidate, size, start, stamp_min):
                return candidate
        base += len(carried) - CARRIED
        carried = carried[-CARRIED:]
    return None


def _begins(fd: int, at: int, size: int, start: int, stamp_min: int) -> bool:
    """Whether at `at` is the head of a record that says to lie there, or a blank to the end."""
    head = os.pread(fd, HEAD_MAX, at)
    found_size, magic = record.head(head)
    if magic == record.BLANK_MAGIC:
        return found_size == size - at
    if not record.RECORD_SIZE_MIN <= found_size <= size - at or len(head) < record.BODY_AT:
        return False
    (place,) = _PLACE.unpack_from(head, record.PHYSICAL_OFFSET_AT)
    if place != start + at:
        return False
    (flags,) = _FLAGS.unpack_from(head, record.SYS_FLAG_AT)
    extra = record.IPV6_EXTRA if flags & record.BORN_HOST_V6 else 0
    (stamp,) = _PLACE.unpack_from(head, record.STORE_TIMESTAMP_AT + extra)
    return bool(stamp >= stamp_min)
