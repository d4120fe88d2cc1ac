"""Layout of the checkpoint file: up to where the store is known to be on disk.

One file of FILE_SIZE bytes, big-endian; what follows the last field is zero.

    offset  size  type  field                  meaning
         0     8  i64   physical_timestamp     store time of the last record flushed, ms
         8     8  i64   queues_timestamp       of the last record whose entry is in its consumequeue
        16     8  i64   index_timestamp        of the last record in a full and flushed index file
        24     8  i64   master_flushed_offset  slave: bytes of the log that its master has flushed
        32     8  i64   confirm_offset         end of what consumers may see, in bytes of the log

Written by: flush. Read by: recovery.
Source: Apache RocketMQ store/StoreCheckpoint.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from shmq.errors import LayoutError

FILE_SIZE: Final = 4096
SAFETY_MS: Final = 3000  # recovery begins that much before the oldest of the times

_FIELDS: Final = struct.Struct(">qqqqq")


class Checkpoint(NamedTuple):
    """All fields; 0 is what a store without the file knows."""

    physical_timestamp: int = 0
    queues_timestamp: int = 0
    index_timestamp: int = 0
    master_flushed_offset: int = 0
    confirm_offset: int = 0

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
    return _FIELDS.pack(*checkpoint).ljust(FILE_SIZE, b"\0")


def decode(data: bytes | bytearray | memoryview) -> Checkpoint:
    """The checkpoint in a file's bytes.

    Raises:
        LayoutError: the file is too short to hold one, or a field is negative.
    """
    if len(data) < _FIELDS.size:
        raise LayoutError("checkpoint too short", size=len(data), size_min=_FIELDS.size)
    found = Checkpoint(*_FIELDS.unpack_from(data))
    if min(found) < 0:
        raise LayoutError("checkpoint with a negative field", **found._asdict())
    return found
