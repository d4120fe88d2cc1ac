"""Layout of the checkpoint file: up to where the store is known to be on disk.

One file of FILE_SIZE bytes, big-endian; what follows the last field is zero. The first five fields
are Apache's, the last two ours: Apache's broker leaves them as they are.

    offset  size  type  field                  meaning
         0     8  i64   physical_timestamp     store time of the last record flushed, ms
         8     8  i64   queues_timestamp       of the last record whose entry is in its consumequeue
        16     8  i64   index_timestamp        of the last record in a full and flushed index file
        24     8  i64   master_flushed_offset  slave: bytes of the log that its master has flushed
        32     8  i64   confirm_offset         end of what consumers may see, in bytes of the log
        40    24  -     -                      zero
        64     8  i64   vouched_offset         a record's end: all before it is on disk, and its
                                               entries are in the consumequeues on disk
        72     8  u64   guard                  CRC-32 of bytes [0, 40) and [64, 72): wrong when
                                               another broker has written the other fields since,
                                               and then vouched_offset means nothing

Written by: flush. Read by: recovery.
Source: Apache RocketMQ store/StoreCheckpoint.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from shmq.errors import LayoutError

FILE_SIZE: Final = 4096
SAFETY_MS: Final = 3000  # recovery begins that much before the oldest of the times

_FIELDS: Final = struct.Struct(">qqqqq")
_VOUCHED: Final = struct.Struct(">q")
_GUARD: Final = struct.Struct(">Q")
_VOUCHED_AT: Final = 64
_GUARD_AT: Final = 72
_SIZE_MIN: Final = _FIELDS.size
FIELDS_END: Final = _FIELDS.size
OURS_AT: Final = _VOUCHED_AT
OURS_END: Final = _GUARD_AT + _GUARD.size


class Checkpoint(NamedTuple):
    """All fields; 0 is what a store without the file knows."""

    physical_timestamp: int = 0
    queues_timestamp: int = 0
    index_timestamp: int = 0
    master_flushed_offset: int = 0
    confirm_offset: int = 0
    vouched_offset: int = 0

    @property
    def recovery_timestamp(self) -> int:
        """Records stored before this, in ms, are in commitlog and consumequeues."""
        return max(0, min(self.physical_timestamp, self.queues_timestamp) - SAFETY_MS)

    @property
    def index_recovery_timestamp(self) -> int:
        """Records stored before this, in ms, are in the index files too."""
        return min(self.recovery_timestamp, self.index_timestamp)


def encode(checkpoint: Checkpoint) -> bytes:
    """The whole file."""
    fields = _FIELDS.pack(*checkpoint[:-1])
    if not checkpoint.vouched_offset:
        return fields.ljust(FILE_SIZE, b"\0")
    vouched = _VOUCHED.pack(checkpoint.vouched_offset)
    guard = _GUARD.pack(zlib.crc32(fields + vouched))
    return (fields.ljust(_VOUCHED_AT, b"\0") + vouched + guard).ljust(FILE_SIZE, b"\0")


def decode(data: bytes | bytearray | memoryview) -> Checkpoint:
    """The checkpoint in a file's bytes.

    Raises:
        LayoutError: the file is too short to hold one, or a field is negative.
    """
    if len(data) < _SIZE_MIN:
        raise LayoutError("checkpoint too short", size=len(data), size_min=_SIZE_MIN)
    fields = Checkpoint(*_FIELDS.unpack_from(data))
    if min(fields) < 0:
        raise LayoutError("checkpoint with a negative field", **fields._asdict())
    if len(data) < _GUARD_AT + _GUARD.size:
        return fields
    guarded = bytes(data[: _FIELDS.size]) + bytes(data[_VOUCHED_AT:_GUARD_AT])
    (vouched,) = _VOUCHED.unpack_from(data, _VOUCHED_AT)
    if _GUARD.unpack_from(data, _GUARD_AT)[0] != zlib.crc32(guarded) or vouched < 0:
        return fields
    return fields._replace(vouched_offset=vouched)
