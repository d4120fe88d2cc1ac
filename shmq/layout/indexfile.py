"""Layout of an index file: which records have a key, as hash chains.

Header, slots, entries; big-endian, packed. With the default counts 420_000_040 bytes.

    offset        size  type  field            meaning
         0           8  i64   begin_timestamp  store time of the first record in here, ms
         8           8  i64   end_timestamp    store time of the last one
        16           8  i64   begin_offset     physical offset of the first record in here
        24           8  i64   end_offset       physical offset of the last one
        32           4  i32   used_slot_count  slots that are not empty
        36           4  i32   entry_count      1 more than the entries; entry 0 is never used
        40         4*s  i32   slots            newest entry of the chain, 0 = none
    40+4*s        20*n        entries:
                     4  i32   key_hash         see key_hash()
                     8  i64   physical_offset  of the record
                     4  i32   seconds          store time - begin_timestamp, in whole seconds
                     4  i32   previous         next older entry of the chain, 0 = none

Keys are, in this order, `topic#word` for the message's unique key and each word of its KEYS, and,
since RocketMQ 5.5, `topic#T#tag` for its tag; a word that stands twice in KEYS is here twice. A
hash is not the key: who finds a record must compare. The file's name is the local time of its
creation, 17 digits.

Written by: index. Read by: serve, retention.
Source: Apache RocketMQ store/index/IndexFile, IndexHeader.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from shmq.errors import LayoutError
from shmq.layout.javahash import hash_once

if TYPE_CHECKING:
    from collections.abc import Iterator

Buffer: TypeAlias = bytes | bytearray | memoryview

SLOT_COUNT: Final = 5_000_000
ENTRY_COUNT: Final = 20_000_000
HEADER_SIZE: Final = 40
SLOT_SIZE: Final = 4
ENTRY_SIZE: Final = 20
FIRST_ENTRY_COUNT: Final = 1  # entry_count of an empty file
SECONDS_MAX: Final = 0x7FFFFFFF

ENTRY: Final = np.dtype(
    [("key_hash", ">i4"), ("physical_offset", ">i8"), ("seconds", ">i4"), ("previous", ">i4")]
)
_HEADER: Final = struct.Struct(">qqqqii")
_SLOT: Final = struct.Struct(">i")
_ENTRY: Final = struct.Struct(">iqii")
assert _HEADER.size == HEADER_SIZE
assert _SLOT.size == SLOT_SIZE
assert ENTRY.itemsize == ENTRY_SIZE == _ENTRY.size


class IndexHeader(NamedTuple):
    """The first 40 bytes of an index file."""

    begin_timestamp: int = 0
    end_timestamp: int = 0
    begin_offset: int = 0
    end_offset: int = 0
    used_slot_count: int = 0
    entry_count: int = FIRST_ENTRY_COUNT


class IndexEntry(NamedTuple):
    """One entry of a chain."""

    key_hash: int
    physical_offset: int
    seconds: int
    previous: int


def file_size(*, slot_count: int = SLOT_COUNT, entry_count: int = ENTRY_COUNT) -> int:
    """Bytes of an index file."""
    return HEADER_SIZE + slot_count * SLOT_SIZE + entry_count * ENTRY_SIZE


assert file_size() == 420_000_040


def index_key(topic: str, word: str) -> str:
    """What is hashed for a word of KEYS, or for a unique key."""
    return f"{topic}#{word}"


def tag_index_key(topic: str, tag: str) -> str:
    """What is hashed for a message's tag."""
    return f"{topic}#T#{tag}"


def key_hash(key: str) -> int:
    """Hash of a key without its sign; that of Java's smallest int is 0."""
    value = abs(hash_once(key))
    return 0 if value == SECONDS_MAX + 1 else value


def slot_position(slot: int) -> int:
    """Byte where slot number `slot` stands; a key's slot is key_hash % slot_count."""
    return HEADER_SIZE + slot * SLOT_SIZE


def entry_position(index: int, *, slot_count: int) -> int:
    """Byte where entry number `index` stands."""
    return HEADER_SIZE + slot_count * SLOT_SIZE + index * ENTRY_SIZE


def seconds_between(begin_timestamp: int, store_timestamp: int) -> int:
    """What an entry's `seconds` holds for two times in ms."""
    if begin_timestamp <= 0:
        return 0
    # Java divides towards zero, but below zero the result is 0 in any case.
    return min(max(0, (store_timestamp - begin_timestamp) // 1000), SECONDS_MAX)


def encode_header(header: IndexHeader) -> bytes:
    """Bytes of the header."""
    return _HEADER.pack(*header)


def decode_header(buffer: Buffer) -> IndexHeader:
    """Header of an index file.

    Raises:
        LayoutError: the file is shorter than its header.
    """
    if len(buffer) < HEADER_SIZE:
        raise LayoutError("index file too short", size=len(buffer), size_min=HEADER_SIZE)
    return IndexHeader(*_HEADER.unpack_from(buffer))


def encode_slot(index: int) -> bytes:
    """Bytes of a slot whose chain begins at entry `index`."""
    return _SLOT.pack(index)


def encode_entry(entry: IndexEntry) -> bytes:
    """Bytes of one entry."""
    return _ENTRY.pack(*entry)


def chain_start(buffer: Buffer, slot: int, *, entry_count: int) -> int:
    """Newest entry of a slot's chain; 0 for none, also when the slot holds nonsense."""
    (index,) = _SLOT.unpack_from(buffer, slot_position(slot))
    return index if 0 < index < entry_count else 0


def chain(buffer: Buffer, hashed: int, *, slot_count: int) -> Iterator[IndexEntry]:
    """Entries with this key hash, newest first. Ends also where the chain is damaged.

    Raises:
        LayoutError: the file is shorter than its counts say.
    """
    entry_count = decode_header(buffer).entry_count
    if len(buffer) < file_size(slot_count=slot_count, entry_count=max(0, entry_count)):
        raise LayoutError("index file too short", size=len(buffer), entry_count=entry_count)
    index = chain_start(buffer, hashed % slot_count, entry_count=entry_count)
    while index:
        entry = IndexEntry._make(
            _ENTRY.unpack_from(buffer, entry_position(index, slot_count=slot_count))
        )
        if entry.key_hash == hashed:
            yield entry
        # A chain leads to ever older entries, so what does not is damage, and would not end.
        index = entry.previous if 0 < entry.previous < index else 0
