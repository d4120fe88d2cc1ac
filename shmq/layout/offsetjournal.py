"""Layout of the offsets journal: what was committed since consumerOffset.json was last written.

The file is a HEADER and then entries, append only, packed, big-endian. It is emptied after
consumerOffset.json holds all of it; replaying it twice gives the same table as replaying it once.

    header
    offset  size  type  field         meaning
         0     8        magic         MAGIC
         8     8  u64   generation    counter of the version of the table that the entries follow

    entry
    offset  size  type  field         meaning
         0     4  u32   crc           CRC32 of the generation's 8 bytes and of all bytes after this
                                      field up to the entry's end
         4     2  u16   group_size    bytes of the group's name, 1..NAME_SIZE_MAX
         6     2  u16   topic_size    bytes of the topic's name, 1..NAME_SIZE_MAX
         8     4  i32   queue_id      queue, or ALL_QUEUES: the offsets of group and topic are gone
        12     8  i64   queue_offset  next message to consume; 0 with ALL_QUEUES
        20     n  utf8  group
      20+n     m  utf8  topic

Nothing orders the emptying of the journal against other files, and a power cut may leave old and
new bytes side by side. So a journal with a lower generation than the table is in the table already,
and an entry of another generation has another CRC: old commits are never replayed over newer ones.
A file that begins with OLD_MAGIC has no generation, neither in a header nor in its CRCs.

Written by: coordinator. Read by: coordinator at its start. A file that ends inside an entry, or
with an entry whose CRC differs, ends before that entry: a crash may leave it so.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

MAGIC: Final = b"SHMQOFJ2"
OLD_MAGIC: Final = b"SHMQOFJ1"
NAME_SIZE_MAX: Final = 255
ALL_QUEUES: Final = -1
_HEADER: Final = struct.Struct(">8sQ")
HEADER_SIZE: Final = _HEADER.size
assert HEADER_SIZE == 16
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


class Journal(NamedTuple):
    """What is whole of a journal."""

    generation: int | None
    """None when it is an old journal, or none at all."""
    entries: list[JournalEntry]
    size: int
    """Bytes up to the end of the last whole entry; 0 when the file does not begin as a journal."""


def header(generation: int) -> bytes:
    """The bytes before the first entry."""
    return _HEADER.pack(MAGIC, generation)


def encode(entry: JournalEntry, generation: int | None) -> bytes:
    """The bytes of one entry; an old journal has no generation."""
    group, topic = entry.group.encode(), entry.topic.encode()
    assert 0 < len(group) <= NAME_SIZE_MAX, "group name length"
    assert 0 < len(topic) <= NAME_SIZE_MAX, "topic name length"
    rest = _REST.pack(len(group), len(topic), entry.queue_id, entry.queue_offset) + group + topic
    return _CRC.pack(_sum(rest, generation)) + rest


def decode(data: bytes) -> Journal:
    """All whole entries of a journal."""
    if data.startswith(OLD_MAGIC):
        return Journal(None, *_entries(data, len(OLD_MAGIC), None))
    if not data.startswith(MAGIC) or len(data) < HEADER_SIZE:
        return Journal(None, [], 0)
    _magic, generation = _HEADER.unpack_from(data)
    return Journal(generation, *_entries(data, HEADER_SIZE, generation))


def _sum(rest: bytes, generation: int | None) -> int:
    first = 0 if generation is None else zlib.crc32(generation.to_bytes(8, "big"))
    return zlib.crc32(rest, first)


def _entries(data: bytes, start: int, generation: int | None) -> tuple[list[JournalEntry], int]:
    entries: list[JournalEntry] = []
    while start + HEAD_SIZE <= len(data):
        (crc,) = _CRC.unpack_from(data, start)
        group_size, topic_size, queue_id, queue_offset = _REST.unpack_from(data, start + _CRC.size)
        names_start = start + HEAD_SIZE
        end = names_start + group_size + topic_size
        if not 0 < group_size <= NAME_SIZE_MAX or not 0 < topic_size <= NAME_SIZE_MAX:
            break
        if end > len(data) or _sum(data[start + _CRC.size : end], generation) != crc:
            break
        group = data[names_start : names_start + group_size].decode()
        topic = data[names_start + group_size : end].decode()
        entries.append(JournalEntry(group, topic, queue_id, queue_offset))
        start = end
    return entries, start
