# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Index: keys of stored records become entries of an index file, and are found there, compiled.

`keys_of` reads records where they lie, in the hot pages or in bytes of a file, without their
bodies; whatever it reads there is copied before it is looked at. `put`, `relink` and `find` work on
a mapped index file. Any bytes are a legal input to all four. indexing_plain.py is the twin.
"""

import cython
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memchr, memcmp, memset
from cython.cimports.shmq.kernels.native import (
    shmq_snapshot,
    shmq_store_release,
    shmq_store_release32,
    shmq_swap32,
    shmq_swap64,
)
from cython.cimports.shmq.kernels.scan import (
    shmq_get64,
    shmq_getu32,
    shmq_put32,
    shmq_put64,
)
from cython.cimports.shmq.kernels.walk import java_hash

STOP_END = 0  # the next record ends after the limit, or nothing is left
STOP_FULL = 1  # the rows are full
STOP_BAD = 2  # not a record

ROWS_MIN = 16_500  # one record's keys find room: its properties have at most 32767 bytes

MAGIC_V1 = cython.declare(uint32_t, 0xDAA320A7)
MAGIC_V2 = cython.declare(uint32_t, 0xDAA320AB)
BLANK_MAGIC = cython.declare(uint32_t, 0xCBD43194)
RECORD_SIZE_MIN = cython.declare(int64_t, 91)
HEAD_SIZE_MAX = cython.declare(int64_t, 112)  # up to the body's size, with IPv6 hosts
TAIL_SIZE_MAX = cython.declare(int64_t, 65_538)  # topic and properties with their sizes
HEADER_SIZE = cython.declare(int64_t, 40)
SLOT_SIZE = cython.declare(int64_t, 4)
ENTRY_SIZE = cython.declare(int64_t, 20)
SECONDS_MAX = cython.declare(int64_t, 0x7FFFFFFF)
SECOND_MS = cython.declare(int64_t, 1000)


@cython.cclass
class _Tail:
    """Topic and properties of one record, copied."""

    data: uint8_t[65_544]


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def copy_ring(
    target: cython.pointer(uint8_t),
    ring: cython.pointer(cython.const[uint8_t]),
    ring_size: int64_t,
    at: int64_t,
    size: int64_t,
) -> cython.void:
    """Copy bytes of a ring once; `at` is inside, and `size` at most the ring's."""
    first: int64_t = ring_size - at
    if first >= size:
        shmq_snapshot(target, ring + at, size)
    else:
        shmq_snapshot(target, ring + at, first)
        shmq_snapshot(target + first, ring, size - first)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def without_sign(value: uint32_t) -> int64_t:
    """Hash of a key: Java's Math.abs, and 0 for the number that has no positive one."""
    signed: int32_t = cython.cast(int32_t, value)
    wide: int64_t = signed
    if wide < 0:
        wide = -wide
    return wide if wide <= SECONDS_MAX else 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def hash_keys(
    tail: cython.pointer(cython.const[uint8_t]),
    topic_at: int64_t,
    topic_size: int64_t,
    properties_at: int64_t,
    end: int64_t,
    hashes: cython.pointer(int64_t),
) -> int64_t:
    """Hashes of a record's keys, at every third place of `hashes`; how many there are."""
    unique_at: int64_t = 0
    unique_size: int64_t = 0
    keys_at: int64_t = 0
    keys_size: int64_t = 0
    tag_at: int64_t = 0
    tag_size: int64_t = 0
    count: int64_t = 0
    at: int64_t = properties_at
    while at < end:
        found: cython.p_void = cython.cast(cython.p_void, memchr(tail + at, 2, end - at))
        pair_end: int64_t = end
        if found is not cython.NULL:
            pair_end = cython.cast(cython.pointer(cython.const[uint8_t]), found) - tail
        # The last of several pairs of one name counts; one without a value is none.
        if pair_end - at > 5 and tail[at + 4] == 1:
            if memcmp(tail + at, b"KEYS", 4) == 0:
                keys_at = at + 5
                keys_size = pair_end - keys_at
            elif memcmp(tail + at, b"TAGS", 4) == 0:
                tag_at = at + 5
                tag_size = pair_end - tag_at
        elif pair_end - at > 9 and tail[at] == 85 and memcmp(tail + at, b"UNIQ_KEY\x01", 9) == 0:
            unique_at = at + 9
            unique_size = pair_end - unique_at
        at = pair_end + 1
    if unique_size == 0 and keys_size == 0 and tag_size == 0:
        return 0
    prefix: uint32_t = java_hash(0, tail + topic_at, topic_size) * 31 + 35  # topic#
    if unique_size:
        hashes[0] = without_sign(java_hash(prefix, tail + unique_at, unique_size))
        count = 1
    end = keys_at + keys_size
    at = keys_at
    while at < end:
        found = cython.cast(cython.p_void, memchr(tail + at, 32, end - at))
        word_end: int64_t = end
        if found is not cython.NULL:
            word_end = cython.cast(cython.pointer(cython.const[uint8_t]), found) - tail
        if word_end > at:
            hashes[3 * count] = without_sign(java_hash(prefix, tail + at, word_end - at))
            count += 1
        at = word_end + 1
    if tag_size:
        prefix = (prefix * 31 + 84) * 31 + 35  # topic#T#
        hashes[3 * count] = without_sign(java_hash(prefix, tail + tag_at, tag_size))
        count += 1
    return count


def keys_of(
    data,
    base: int64_t,
    start: int64_t,
    limit: int64_t,
    file_size: int64_t,
    out,
) -> tuple:
    """Hashes of the keys of the records in [start, limit), physical offsets.

    The byte at physical offset o is data[(o - base) % len(data)]. Rolled back transactions are
    passed over. `out` is a C-contiguous int64 array of shape (n, 3), n >= ROWS_MIN, filled with:
    key hash, physical offset, store timestamp; a record's keys follow each other, and those of one
    record are in it all or not at all.

    Returns:
        (number of rows filled, offset of the next record, why it stopped: STOP_*, bytes that the
        next record has, 0 when that is not known).
    """
    view: cython.const[uint8_t][::1] = data
    rows: int64_t[:, ::1] = out
    size: int64_t = view.shape[0]
    rows_max: int64_t = rows.shape[0]
    if rows.shape[1] != 3 or rows_max < ROWS_MIN:
        raise ValueError(f"rows must be ({ROWS_MIN} or more, 3), not {out.shape}")
    if not 0 <= base <= start or file_size <= 0 or limit - start > size:
        raise ValueError(f"no such bytes: {base} {start} {limit} of {size}")
    offset: int64_t = start
    count: int64_t = 0
    index: int64_t
    head: uint8_t[112]
    copied: _Tail = _Tail.__new__(_Tail)
    tail: cython.pointer(uint8_t) = copied.data
    ring: cython.pointer(cython.const[uint8_t]) = cython.NULL
    if size > 0:
        ring = cython.address(view[0])
    while limit - offset >= 8:
        at: int64_t = (offset - base) % size
        head_size: int64_t = min(HEAD_SIZE_MAX, limit - offset)
        memset(head, 0, HEAD_SIZE_MAX)
        copy_ring(head, ring, size, at, head_size)
        total: int64_t = shmq_getu32(head)
        magic: uint32_t = shmq_getu32(head + 4)
        if magic == BLANK_MAGIC:
            following: int64_t = offset - offset % file_size + file_size
            if following > limit:
                return count, offset, STOP_END, following - offset
            offset = following
            continue
        if magic not in (MAGIC_V1, MAGIC_V2) or total < RECORD_SIZE_MIN or total > 0x7FFFFFFF:
            return count, offset, STOP_BAD, 0
        if total > limit - offset:
            return count, offset, STOP_END, total
        if shmq_get64(head + 28) != offset:
            return count, offset, STOP_BAD, 0
        flags: uint32_t = shmq_getu32(head + 36)
        extra: int64_t = 12 if flags & 0x10 else 0
        body_at: int64_t = 84 + extra + (12 if flags & 0x20 else 0)
        tail_at: int64_t = body_at + 4 + shmq_getu32(head + body_at)
        tail_size: int64_t = total - tail_at
        if tail_size < 4 or tail_size > TAIL_SIZE_MAX:
            return count, offset, STOP_BAD, 0
        if flags & 0xC == 0xC:
            offset += total
            continue
        copy_ring(tail, ring, size, (offset - base + tail_at) % size, tail_size)
        topic_size: int64_t = tail[0]
        topic_at: int64_t = 1
        if magic == MAGIC_V2:
            topic_size = (topic_size << 8) | tail[1]
            topic_at = 2
        properties_at: int64_t = topic_at + topic_size + 2
        if properties_at > tail_size:
            return count, offset, STOP_BAD, 0
        properties_size: int64_t = (cython.cast(int64_t, tail[properties_at - 2]) << 8) | (
            tail[properties_at - 1]
        )
        if properties_size > 32767 or properties_at + properties_size != tail_size:
            return count, offset, STOP_BAD, 0
        if rows_max - count < properties_size // 2 + 3:
            return count, offset, STOP_FULL, total
        added: int64_t = hash_keys(
            tail, topic_at, topic_size, properties_at, tail_size, cython.address(rows[count, 0])
        )
        stamp: int64_t = shmq_get64(head + 56 + extra)
        for index in range(count, count + added):
            rows[index, 1] = offset
            rows[index, 2] = stamp
        count += added
        offset += total
    return count, offset, STOP_END, 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def link(
    base: cython.pointer(uint8_t), slot_count: int64_t, count: int64_t, key_hash: int64_t
) -> int64_t:
    """Newest entry of a key's slot before `count`, 0 for none."""
    newest: int64_t = cython.cast(
        int32_t, shmq_getu32(base + HEADER_SIZE + key_hash % slot_count * SLOT_SIZE)
    )
    return newest if 0 < newest < count else 0


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def set_slot(
    base: cython.pointer(uint8_t), slot_count: int64_t, key_hash: int64_t, entry: int64_t
) -> cython.void:
    """Let a key's slot begin at `entry`. SYNC POINT: its bytes are there before."""
    shmq_store_release32(
        cython.cast(
            cython.pointer(int32_t), base + HEADER_SIZE + key_hash % slot_count * SLOT_SIZE
        ),
        cython.cast(int32_t, shmq_swap32(cython.cast(uint32_t, entry))),
    )


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def show64(at: cython.pointer(uint8_t), number: int64_t) -> cython.void:
    """Write an aligned big-endian number in one store."""
    shmq_store_release(
        cython.cast(cython.pointer(int64_t), at),
        cython.cast(int64_t, shmq_swap64(cython.cast(uint64_t, number))),
    )


@cython.cfunc
def check_size(size: int64_t, slot_count: int64_t, entry_count_max: int64_t) -> cython.void:
    """Refuse a file of another size than the counts say."""
    if (
        not 0 < slot_count <= 0x7FFFFFFF
        or not 1 < entry_count_max <= 0x7FFFFFFF
        or size != HEADER_SIZE + slot_count * SLOT_SIZE + entry_count_max * ENTRY_SIZE
    ):
        raise ValueError(f"no index file of {slot_count} slots, {entry_count_max} entries: {size}")


def put(
    file, slot_count: int64_t, entry_count_max: int64_t, rows, first: int64_t, end: int64_t
) -> int:
    """Enter rows `first` to `end` (exclusive) as keys_of gave them; the first one left over.

    `file` is a whole mapped index file, so it is aligned. A row is left over when the file is full.
    A reader of the mapping never sees a slot without its entry.
    """
    view: uint8_t[::1] = file
    given: int64_t[:, ::1] = rows
    check_size(view.shape[0], slot_count, entry_count_max)
    if given.shape[1] != 3 or not 0 <= first <= end <= given.shape[0]:
        raise ValueError(f"no such rows: {first} to {end} of {rows.shape}")
    base: cython.pointer(uint8_t) = cython.address(view[0])
    entries: cython.pointer(uint8_t) = base + HEADER_SIZE + slot_count * SLOT_SIZE
    begin: int64_t = shmq_get64(base)
    used: int64_t = shmq_getu32(base + 32)
    count: int64_t = max(cython.cast(int32_t, shmq_getu32(base + 36)), 1)
    row: int64_t = first
    while row < end and count < entry_count_max:
        key_hash: int64_t = given[row, 0] & 0x7FFFFFFF
        stamp: int64_t = given[row, 2]
        seconds: int64_t = 0
        # A difference that does not fit 64 bits is not looked at: such times are nobody's.
        if 0 < begin < stamp:
            seconds = min((stamp - begin) // SECOND_MS, SECONDS_MAX)
        previous: int64_t = link(base, slot_count, count, key_hash)
        entry: cython.pointer(uint8_t) = entries + count * ENTRY_SIZE
        shmq_put32(entry, key_hash)
        shmq_put64(entry + 4, given[row, 1])
        shmq_put32(entry + 12, seconds)
        shmq_put32(entry + 16, previous)
        if count == 1:
            begin = stamp
            show64(base + 16, given[row, 1])
            show64(base, begin)
        set_slot(base, slot_count, key_hash, count)
        used += previous == 0
        count += 1
        row += 1
    if row > first:
        show64(base + 8, given[row - 1, 2])
        show64(base + 24, given[row - 1, 1])
        show64(base + 32, (used << 32) | count)
    return row


def relink(file, slot_count: int64_t, entry_count_max: int64_t, end_offset: int64_t) -> int:
    """Keep the entries of records before `end_offset` and build all chains anew; the entry count.

    For a file that its writer left in the middle of its work. The header's end becomes that of the
    last entry kept, its time in whole seconds after the begin.
    """
    view: uint8_t[::1] = file
    check_size(view.shape[0], slot_count, entry_count_max)
    base: cython.pointer(uint8_t) = cython.address(view[0])
    entries: cython.pointer(uint8_t) = base + HEADER_SIZE + slot_count * SLOT_SIZE
    claimed: int64_t = min(cython.cast(int32_t, shmq_getu32(base + 36)), entry_count_max)
    used: int64_t = 0
    count: int64_t = 1
    last: cython.pointer(uint8_t) = cython.NULL
    memset(base + HEADER_SIZE, 0, slot_count * SLOT_SIZE)
    while count < claimed:
        entry: cython.pointer(uint8_t) = entries + count * ENTRY_SIZE
        key_hash: int64_t = cython.cast(int32_t, shmq_getu32(entry))
        offset: int64_t = shmq_get64(entry + 4)
        if key_hash < 0 or offset < 0 or offset >= end_offset:
            break
        previous: int64_t = link(base, slot_count, count, key_hash)
        shmq_put32(entry + 16, previous)
        set_slot(base, slot_count, key_hash, count)
        used += previous == 0
        last = entry
        count += 1
    if last is not cython.NULL:
        seconds: int64_t = max(cython.cast(int32_t, shmq_getu32(last + 12)), 0)
        show64(base + 8, shmq_get64(base) + seconds * SECOND_MS)
        show64(base + 24, shmq_get64(last + 4))
    show64(base + 32, (used << 32) | count)
    return count


def find(
    file,
    slot_count: int64_t,
    entry_count_max: int64_t,
    key_hash: int64_t,
    begin_timestamp: int64_t,
    end_timestamp: int64_t,
    start: int64_t,
    steps_max: int64_t,
    out,
) -> tuple:
    """Physical offsets of entries with this key hash that may lie in [begin, end], newest first.

    An entry's time is a whole second in which its record was stored, so the record decides. The
    walk goes from entry `start` on (0: the newest of the key's slot), over `steps_max` entries at
    most, and until the int64 array `out` is full.

    Returns:
        (number of offsets, entry to go on from or 0 at the end of the chain, entries looked at).
    """
    view: cython.const[uint8_t][::1] = file
    offsets: int64_t[::1] = out
    check_size(view.shape[0], slot_count, entry_count_max)
    if not 0 <= key_hash <= 0x7FFFFFFF or not 0 <= start < entry_count_max:
        raise ValueError(f"no such key hash or entry: {key_hash} {start}")
    base: cython.pointer(cython.const[uint8_t]) = cython.address(view[0])
    entries: cython.pointer(cython.const[uint8_t]) = base + HEADER_SIZE + slot_count * SLOT_SIZE
    begin: int64_t = shmq_get64(base)
    count: int64_t = 0
    steps: int64_t = 0
    index: int64_t = start
    if start == 0:
        index = cython.cast(
            int32_t, shmq_getu32(base + HEADER_SIZE + key_hash % slot_count * SLOT_SIZE)
        )
        if index < 0 or index >= entry_count_max:
            index = 0
    while index > 0 and steps < steps_max and count < offsets.shape[0]:
        entry: cython.pointer(cython.const[uint8_t]) = entries + index * ENTRY_SIZE
        seconds: int64_t = cython.cast(int32_t, shmq_getu32(entry + 12))
        stamp: int64_t = begin + seconds * SECOND_MS
        steps += 1
        if seconds < 0 or stamp + SECOND_MS <= begin_timestamp:
            return count, 0, steps  # Older ones follow.
        if cython.cast(int32_t, shmq_getu32(entry)) == key_hash and stamp <= end_timestamp:
            offsets[count] = shmq_get64(entry + 4)
            count += 1
        previous: int64_t = cython.cast(int32_t, shmq_getu32(entry + 16))
        # A chain leads to ever older entries, so what does not is damage, and would not end.
        index = previous if 0 < previous < index else 0
    return count, index, steps
