"""Layout of the offsets journal: what was committed since consumerOffset.json was last written.

The file is an 8-byte MAGIC and then entries, append only, packed, big-endian. It is emptied after
consumerOffset.json holds all of it; replaying it twice gives the same table as replaying it once.

    offset  size  type  field         meaning
         0     4  u32   crc           CRC32 of all following bytes of this entry
         4     2  u16   group_size    bytes of the group's name, 1..NAME_SIZE_MAX
         6     2  u16   topic_size    bytes of the topic's name, 1..NAME_SIZE_MAX
         8     4  i32   queue_id      queue, or ALL_QUEUES: the offsets of group and topic are gone
        12     8  i64   queue_offset  next message to consume; 0 with ALL_QUEUES
        20     n  utf8  group
      20+n     m  utf8  topic

Written by: coordinator. Read by: coordinator at its start. A file that ends inside an entry, or
with an entry whose CRC differs, ends before that entry: a crash may leave it so.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

MAGIC: Final = b"SHMQOFJ1"
NAME_SIZE_MAX: Final = 255
ALL_QUEUES: Final = -1
_CRC: Final = struct.Struct(">I")
_REST: Final = struct.Struct(">HHiq")
HEAD_SIZE: Final = _CRC.size + _REST.size
assert HEAD_SIZE == 20


class JournalEntry(NamedTuple):
    """One commit, or with queue_id ALL_QUEUES the removal of a group's offsets of a topic."""

    group: str
    topic: str
    queue_id: int
    queue_offset: int


def encode(entry: JournalEntry) -> bytes:
    """The bytes of one entry."""
    group, topic = entry.group.encode(), entry.topic.encode()
    assert 0 < len(group) <= NAME_SIZE_MAX, "group name length"
    assert 0 < len(topic) <= NAME_SIZE_MAX, "topic name length"
    rest = _REST.pack(len(group), len(topic), entry.queue_id, entry.queue_offset) + group + topic
    return _CRC.pack(zlib.crc32(rest)) + rest


def decode(data: bytes) -> tuple[list[JournalEntry], int]:
    """All whole entries of a journal, and the size in bytes of what is whole.

    The size is 0 when the file does not begin with MAGIC: then nothing of it can be used.
    """
    if not data.startswith(MAGIC):
        return [], 0
    entries: list[JournalEntry] = []
    start = len(MAGIC)
    while start + HEAD_SIZE <= len(data):
        (crc,) = _CRC.unpack_from(data, start)
        group_size, topic_size, queue_id, queue_offset = _REST.unpack_from(data, start + _CRC.size)
        names_start = start + HEAD_SIZE
        end = names_start + group_size + topic_size
        if not 0 < group_size <= NAME_SIZE_MAX or not 0 < topic_size <= NAME_SIZE_MAX:
            break
        if end > len(data) or zlib.crc32(data[start + _CRC.size : end]) != crc:
            break
        group = data[names_start : names_start + group_size].decode()
        topic = data[names_start + group_size : end].decode()
        entries.append(JournalEntry(group, topic, queue_id, queue_offset))
        start = end
    return entries, start
