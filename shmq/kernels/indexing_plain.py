"""Plain twin of indexing.py. Layouts: layout/record.py, layout/indexfile.py."""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

from shmq.layout import indexfile, record
from shmq.layout.indexfile import (
    ENTRY,
    ENTRY_SIZE,
    HEADER_SIZE,
    SECONDS_MAX,
    SLOT_SIZE,
    IndexHeader,
    decode_header,
    encode_header,
)

STOP_END: Final = 0  # the next record ends after the limit, or nothing is left
STOP_FULL: Final = 1  # the rows are full
STOP_BAD: Final = 2  # not a record

ROWS_MIN: Final = 16_500  # one record's keys find room: its properties have at most 32767 bytes

ROLLED_BACK: Final = 0xC
SECOND_MS: Final = 1000
_LONG: Final = struct.Struct(">q")


def keys_of(
    data: Buffer,
    base: int,
    start: int,
    limit: int,
    file_size: int,
    out: NDArray[np.int64],
) -> tuple[int, int, int, int]:
    """Hashes of the keys of the records in [start, limit); see the kernel."""
    view = memoryview(data).cast("B")
    if out.shape[1] != 3 or len(out) < ROWS_MIN:
        raise ValueError(f"rows must be ({ROWS_MIN} or more, 3), not {out.shape}")
    if not 0 <= base <= start or file_size <= 0 or limit - start > len(view):
        raise ValueError(f"no such bytes: {base} {start} {limit} of {len(view)}")
    offset, count = start, 0
    while limit - offset >= record.BLANK_HEAD_SIZE:
        at = (offset - base) % len(view)
        size, magic = record.head(_copied(view, at, record.BLANK_HEAD_SIZE))
        if magic == record.BLANK_MAGIC:
            following = offset - offset % file_size + file_size
            if following > limit:
                return count, offset, STOP_END, following - offset
            offset = following
            continue
        if magic not in {record.MAGIC_V1, record.MAGIC_V2} or size < record.RECORD_SIZE_MIN:
            return count, offset, STOP_BAD, 0
        if size > limit - offset:
            return count, offset, STOP_END, size
        found = _copied(view, at, size)
        if _LONG.unpack_from(found, record.PHYSICAL_OFFSET_AT)[0] != offset:
            return count, offset, STOP_BAD, 0
        keys = _keys_of_one(found, magic)
        if keys is None:
            return count, offset, STOP_BAD, 0
        hashes, stamp, room = keys
        if len(out) - count < room:
            return count, offset, STOP_FULL, size
        for hashed in hashes:
            out[count] = (hashed, offset, stamp)
            count += 1
        offset += size
    return count, offset, STOP_END, 0


def _copied(ring: memoryview, at: int, size: int) -> bytes:
    """Bytes of a ring from `at` on."""
    first = bytes(ring[at : at + size])
    return first + bytes(ring[: size - len(first)])


def _keys_of_one(found: bytes, magic: int) -> tuple[list[int], int, int] | None:
    """Hashes of a record's keys, its store timestamp, rows that must be free; None: no record."""
    flags = int.from_bytes(found[record.SYS_FLAG_AT : record.SYS_FLAG_AT + 4], "big")
    body_size_at = record.BODY_SIZE_AT
    for flag in (record.BORN_HOST_V6, record.STORE_HOST_V6):
        body_size_at += record.IPV6_EXTRA if flags & flag else 0
    body_size = int.from_bytes(found[body_size_at : body_size_at + 4].ljust(4, b"\0"), "big")
    tail_size = len(found) - body_size_at - 4 - body_size
    if not 4 <= tail_size <= 2 * (2 + record.PROPERTIES_SIZE_MAX):
        return None
    if flags & ROLLED_BACK == ROLLED_BACK:
        return [], 0, 0
    tail = found[-tail_size:]
    topic_at = 2 if magic == record.MAGIC_V2 else 1
    properties_at = topic_at + int.from_bytes(tail[:topic_at], "big") + 2
    if properties_at > tail_size:
        return None
    properties_size = int.from_bytes(tail[properties_at - 2 : properties_at], "big")
    if properties_size > record.PROPERTIES_SIZE_MAX or properties_at + properties_size != tail_size:
        return None
    stamp_at = record.STORE_TIMESTAMP_AT
    stamp_at += record.IPV6_EXTRA if flags & record.BORN_HOST_V6 else 0
    (stamp,) = _LONG.unpack_from(found, stamp_at)
    topic = tail[topic_at : properties_at - 2].decode(errors="replace")
    hashes = [indexfile.key_hash(key) for key in _index_keys(topic, tail[properties_at:])]
    return hashes, stamp, properties_size // 2 + 3


def _index_keys(topic: str, properties: bytes) -> list[str]:
    """All keys of a record, in the order of the index."""
    pairs: dict[bytes, str] = {}
    for pair in properties.split(b"\x02"):
        name, _, value = pair.partition(b"\x01")
        if value:
            pairs[name] = value.decode(errors="replace")
    keys = [f"{topic}#{pairs[b'UNIQ_KEY']}"] if b"UNIQ_KEY" in pairs else []
    keys += [f"{topic}#{word}" for word in pairs.get(b"KEYS", "").split(" ") if word]
    return keys + ([f"{topic}#T#{pairs[b'TAGS']}"] if b"TAGS" in pairs else [])


class _File:
    """An index file's parts as arrays on its bytes."""

    def __init__(self, file: Buffer, slot_count: int, entry_count_max: int) -> None:
        self.view = memoryview(file).cast("B")
        if (
            not 0 < slot_count <= SECONDS_MAX
            or not 1 < entry_count_max <= SECONDS_MAX
            or len(self.view)
            != indexfile.file_size(slot_count=slot_count, entry_count=entry_count_max)
        ):
            raise ValueError(
                f"no index file of {slot_count} slots, {entry_count_max} entries: {len(self.view)}"
            )
        entries_at = indexfile.entry_position(0, slot_count=slot_count)
        assert entries_at == HEADER_SIZE + slot_count * SLOT_SIZE
        assert len(self.view) == entries_at + entry_count_max * ENTRY_SIZE
        self.slots = np.frombuffer(self.view[HEADER_SIZE:entries_at], dtype=">i4")
        self.entries = np.frombuffer(self.view[entries_at:], dtype=ENTRY)

    def newest(self, key_hash: int, count: int) -> int:
        """Newest entry of a key's slot before `count`, 0 for none."""
        index = int(self.slots[key_hash % len(self.slots)])
        return index if 0 < index < count else 0


def put(
    file: Buffer,
    slot_count: int,
    entry_count_max: int,
    rows: NDArray[np.int64],
    first: int,
    end: int,
) -> int:
    """Enter rows `first` to `end` as keys_of gave them; the first one left over; see the kernel."""
    parts = _File(file, slot_count, entry_count_max)
    if rows.shape[1] != 3 or not 0 <= first <= end <= len(rows):
        raise ValueError(f"no such rows: {first} to {end} of {rows.shape}")
    header = decode_header(parts.view)
    count, used = max(header.entry_count, 1), header.used_slot_count
    row = first
    while row < end and count < entry_count_max:
        hashed, offset, stamp = rows[row].tolist()
        hashed &= SECONDS_MAX
        previous = parts.newest(hashed, count)
        seconds = indexfile.seconds_between(header.begin_timestamp, stamp)
        parts.entries[count] = (hashed, offset, seconds, previous)
        parts.slots[hashed % slot_count] = count
        if count == 1:
            header = header._replace(begin_timestamp=stamp, begin_offset=offset)
        header = header._replace(end_timestamp=stamp, end_offset=offset)
        used += previous == 0
        count += 1
        row += 1
    if row > first:
        parts.view[:HEADER_SIZE] = encode_header(
            header._replace(used_slot_count=used, entry_count=count)
        )
    return row


def relink(file: Buffer, slot_count: int, entry_count_max: int, end_offset: int) -> int:
    """Keep the entries before `end_offset`, build the chains anew; the count; see the kernel."""
    parts = _File(file, slot_count, entry_count_max)
    header: IndexHeader = decode_header(parts.view)
    parts.slots[:] = 0
    count, used = 1, 0
    while count < min(header.entry_count, entry_count_max):
        hashed, offset, seconds, _ = parts.entries[count].tolist()
        if hashed < 0 or not 0 <= offset < end_offset:
            break
        previous = parts.newest(hashed, count)
        parts.entries[count]["previous"] = previous
        parts.slots[hashed % slot_count] = count
        used += previous == 0
        count += 1
        header = header._replace(
            end_timestamp=_wrapped(header.begin_timestamp + max(seconds, 0) * SECOND_MS),
            end_offset=offset,
        )
    parts.view[:HEADER_SIZE] = encode_header(
        header._replace(used_slot_count=used, entry_count=count)
    )
    return count


def find(
    file: Buffer,
    slot_count: int,
    entry_count_max: int,
    key_hash: int,
    begin_timestamp: int,
    end_timestamp: int,
    start: int,
    steps_max: int,
    out: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Physical offsets of entries with this hash in [begin, end], newest first; see the kernel."""
    parts = _File(file, slot_count, entry_count_max)
    if not 0 <= key_hash <= SECONDS_MAX or not 0 <= start < entry_count_max:
        raise ValueError(f"no such key hash or entry: {key_hash} {start}")
    begin = decode_header(parts.view).begin_timestamp
    index = start or parts.newest(key_hash, entry_count_max)
    count = steps = 0
    while index and steps < steps_max and count < len(out):
        hashed, offset, seconds, previous = parts.entries[index].tolist()
        stamp = begin + seconds * SECOND_MS
        steps += 1
        if seconds < 0 or stamp + SECOND_MS <= begin_timestamp:
            return count, 0, steps
        if hashed == key_hash and stamp <= end_timestamp:
            out[count] = offset
            count += 1
        index = previous if 0 < previous < index else 0
    return count, index, steps


def _wrapped(value: int) -> int:
    """A number as 64 bits hold it."""
    return (value + 2**63) % 2**64 - 2**63
