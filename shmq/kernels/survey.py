# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Survey: every field of commitlog records is examined, queues told apart, keys hashed; compiled.

survey() is for `shmq verify` and for exports that cannot go by consumequeues; any bytes are a legal
input to it. key_hashes() gives what an index file holds of the records whose rows survey() or
walk() filled. survey_plain.py is the twin.
"""

import cython
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t
from cython.cimports.libc.string import memchr, memcmp, memset
from cython.cimports.shmq.kernels.crc32 import shmq_crc32, shmq_crc32_setup
from cython.cimports.shmq.kernels.requestheader import is_utf8
from cython.cimports.shmq.kernels.scan import (
    shmq_get64,
    shmq_getu32,
    shmq_hash,
    shmq_is_ascii,
)
from cython.cimports.shmq.kernels.walk import Parts, describe, find_parts, java_hash, value_of

from shmq.kernels.walk import STOP_BAD, STOP_BLANK, STOP_END, STOP_FULL

FAULT_BODY_CRC = 1
FAULT_PHYSICAL_OFFSET = 2  # another one than the record's place
FAULT_QUEUE = 4  # queue id or queue offset below zero
FAULT_PORT = 8
FAULT_STORE_TIMESTAMP = 16  # not above zero
FAULT_PROPERTY_CRC = 32
FAULT_SYS_FLAG = 64  # bits without a meaning
FAULT_COMPRESSION = 128  # the body does not begin as what the sys flag says
FAULT_PROPERTIES = 256  # no list of pairs, or not UTF-8
FAULT_SENDER = 512  # born timestamp, reconsume times or transaction offset impossible

MAGIC_V1 = cython.declare(uint32_t, 0xDAA320A7)
MAGIC_V2 = cython.declare(uint32_t, 0xDAA320AB)
BLANK_MAGIC = cython.declare(uint32_t, 0xCBD43194)
STORE_HOST_V6 = cython.declare(uint32_t, 0x20)
COMPRESSED = cython.declare(uint32_t, 1)
PORT_MAX = cython.declare(uint32_t, 0xFFFF)
SURVEY_COLUMNS = cython.declare(int64_t, 13)
DAY_MS = cython.declare(int64_t, 86_400_000)
RECONSUME_TIMES_MAX = cython.declare(uint32_t, 0xFFFF)
CRC_PROPERTY_SIZE = cython.declare(int64_t, 20)


@cython.cfunc
@cython.exceptval(check=False)
def is_compressed_as(
    flags: uint32_t, body: cython.pointer(cython.const[uint8_t]), size: int64_t
) -> cython.bint:
    """Whether a body begins as the compression begins that the sys flag names."""
    kind: uint32_t = (flags >> 8) & 7
    if not flags & COMPRESSED:
        return kind == 0
    if kind == 0 or kind == 3:
        return (
            size >= 2
            and (body[0] & 0x0F) == 8
            and ((cython.cast(int64_t, body[0]) << 8) | body[1]) % 31 == 0
        )
    if kind == 1:
        return size >= 4 and memcmp(body, b"\x04\x22\x4d\x18", 4) == 0
    return kind == 2 and size >= 4 and memcmp(body, b"\x28\xb5\x2f\xfd", 4) == 0


@cython.cfunc
@cython.exceptval(check=False)
def are_pairs(text: cython.p_uchar, size: int64_t) -> cython.bint:
    """Whether every non-empty piece between separators has a name, and all is UTF-8."""
    at: cython.p_uchar = text
    end: cython.p_uchar = text + size
    while at < end:
        stop: cython.p_uchar = cython.cast(cython.p_uchar, memchr(at, 2, end - at))
        if stop == cython.NULL:
            stop = end
        if stop > at and (at[0] == 1 or memchr(at, 1, stop - at) == cython.NULL):
            return False
        at = stop + 1
    return shmq_is_ascii(text, end) or is_utf8(text, end)


@cython.cfunc
@cython.exceptval(check=False)
def property_crc_differs(
    at: cython.pointer(cython.const[uint8_t]), total: int64_t, properties_size: int64_t
) -> cython.bint:
    """Whether the record ends with a CRC of itself that is wrong: ten digits, the lowest first."""
    if properties_size < CRC_PROPERTY_SIZE:
        return False
    tail: cython.pointer(cython.const[uint8_t]) = at + total - CRC_PROPERTY_SIZE
    if memcmp(tail, b"__CRC32#\x01", 9) != 0:
        return False
    stored: int64_t = 0
    weight: int64_t = 1
    index: int64_t
    for index in range(9, 19):
        if tail[index] < 48 or tail[index] > 57:
            return True
        stored += weight * (tail[index] - 48)
        weight *= 10
    crc: uint32_t = shmq_crc32(at, total - CRC_PROPERTY_SIZE) & 0x7FFFFFFF
    return stored != crc


@cython.cfunc
@cython.exceptval(check=False)
def faults_of(
    at: cython.pointer(cython.const[uint8_t]),
    total: int64_t,
    place: int64_t,
    parts: cython.pointer(Parts),
) -> int64_t:
    """What is wrong with a record whose sizes add up: FAULT_* bits."""
    flags: uint32_t = parts.flags
    extra: int64_t = parts.extra
    store_extra: int64_t = extra + (12 if flags & STORE_HOST_V6 else 0)
    found: int64_t = 0
    if (shmq_crc32(at + parts.body_at, parts.body_size) & 0x7FFFFFFF) != shmq_getu32(at + 8):
        found |= FAULT_BODY_CRC
    if shmq_get64(at + 28) != place:
        found |= FAULT_PHYSICAL_OFFSET
    if cython.cast(int32_t, shmq_getu32(at + 12)) < 0 or shmq_get64(at + 20) < 0:
        found |= FAULT_QUEUE
    if shmq_getu32(at + 52 + extra) > PORT_MAX or shmq_getu32(at + 68 + store_extra) > PORT_MAX:
        found |= FAULT_PORT
    if shmq_get64(at + 56 + extra) <= 0:
        found |= FAULT_STORE_TIMESTAMP
    if property_crc_differs(at, total, parts.properties_size):
        found |= FAULT_PROPERTY_CRC
    if flags > 0x7FF:
        found |= FAULT_SYS_FLAG
    if not is_compressed_as(flags, at + parts.body_at, parts.body_size):
        found |= FAULT_COMPRESSION
    if not are_pairs(cython.cast(cython.p_uchar, at) + parts.properties_at, parts.properties_size):
        found |= FAULT_PROPERTIES
    prepared: int64_t = shmq_get64(at + 76 + store_extra)
    if (
        shmq_get64(at + 40) < 0
        or shmq_get64(at + 40) - DAY_MS > shmq_get64(at + 56 + extra)
        or shmq_getu32(at + 72 + store_extra) > RECONSUME_TIMES_MAX
        or prepared < 0
        or prepared > place
    ):
        found |= FAULT_SENDER
    return found


@cython.cfunc
@cython.exceptval(check=False)
def group_of(
    base: cython.pointer(cython.const[uint8_t]),
    rows: cython.pointer(int64_t),
    count: int64_t,
    groups: int64_t,
    table: cython.pointer(int32_t),
    mask: int64_t,
) -> int64_t:
    """Number of the queue of row `count`; `groups` when no row before it has the same queue."""
    row: cython.pointer(int64_t) = rows + count * SURVEY_COLUMNS
    size: int64_t = row[9]
    place: int64_t = (shmq_hash(base + row[8], size) + row[7] * 0x9E3779B1) & mask
    while table[place]:
        other: cython.pointer(int64_t) = rows + (table[place] - 1) * SURVEY_COLUMNS
        if other[7] == row[7] and other[9] == size:
            if memcmp(base + other[8], base + row[8], size) == 0:
                return other[10]
        place = (place + 1) & mask
    table[place] = cython.cast(int32_t, count + 1)
    return groups


def survey(data, start: int64_t, offset: int64_t, out, table) -> tuple:
    """Describe and examine whole records in `data` from `start` on; data[0] lies at `offset`.

    `out` is a C-contiguous int64 array of shape (n, 13): the columns of walk(), the number of the
    record's queue (counted from 0 as queues are met), FAULT_* bits, and the CRC-32 of store host
    and port. A record with faults has a row too. `table` is an int32 array for this call's own
    use, a power of two above n long.

    Returns:
        (number of rows filled, number of queues, position after the last row, STOP_*).
    """
    view: cython.const[uint8_t][::1] = data
    rows: int64_t[:, ::1] = out
    slots: int32_t[::1] = table
    size: int64_t = view.shape[0]
    rows_max: int64_t = rows.shape[0]
    mask: int64_t = slots.shape[0] - 1
    if rows.shape[1] != SURVEY_COLUMNS:
        raise ValueError(f"rows must have 13 columns, not {rows.shape[1]}")
    if slots.shape[0] <= rows_max or slots.shape[0] & mask:
        raise ValueError(f"table of {slots.shape[0]}: a power of two above {rows_max} is needed")
    position: int64_t = start
    count: int64_t = 0
    groups: int64_t = 0
    if size == 0 or start < 0:
        return 0, 0, start, STOP_END
    memset(cython.address(slots[0]), 0, slots.shape[0] * 4)
    base: cython.pointer(cython.const[uint8_t]) = cython.address(view[0])
    while True:
        if size - position < 8:
            return count, groups, position, STOP_END
        at: cython.pointer(cython.const[uint8_t]) = base + position
        total: int64_t = shmq_getu32(at)
        magic: uint32_t = shmq_getu32(at + 4)
        if magic == BLANK_MAGIC:
            return count, groups, position, STOP_BLANK
        if magic not in (MAGIC_V1, MAGIC_V2) or total < 91 or total > 0x7FFFFFFF:
            return count, groups, position, STOP_BAD
        if total > size - position:
            return count, groups, position, STOP_END
        if count == rows_max:
            return count, groups, position, STOP_FULL
        parts = cython.declare(Parts)
        if not find_parts(at, total, magic, cython.address(parts)):
            return count, groups, position, STOP_BAD
        row: cython.pointer(int64_t) = cython.address(rows[count, 0])
        describe(row, at, position, total, cython.address(parts))
        group: int64_t = group_of(
            base, cython.address(rows[0, 0]), count, groups, cython.address(slots[0]), mask
        )
        row[10] = group
        groups += group == groups
        row[11] = faults_of(at, total, offset + position, cython.address(parts))
        host_size: int64_t = 20 if parts.flags & STORE_HOST_V6 else 8
        row[12] = shmq_crc32(at + 64 + parts.extra, host_size)
        count += 1
        position += total


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def unsigned_hash(value: uint32_t) -> int64_t:
    """A key's hash as index files hold it: without its sign, 0 for Java's smallest int."""
    number: int64_t = cython.cast(int32_t, value)
    if number < 0:
        number = -number
    return 0 if number == 0x80000000 else number


def key_hashes(data, rows, out) -> tuple:
    """Hashes of the index keys of records: unique key, words of KEYS, tag.

    `rows` are of walk() or survey() on `data`. `out` is a C-contiguous int64 array of shape (m, 2)
    for (index of the row, hash); each record is done whole or not at all.

    Returns:
        (number of rows done, number of hashes).
    """
    view: cython.const[uint8_t][::1] = data
    records: int64_t[:, ::1] = rows
    hashes: int64_t[:, ::1] = out
    count: int64_t = 0
    index: int64_t
    if view.shape[0] == 0:
        return 0, 0
    base: cython.pointer(cython.const[uint8_t]) = cython.address(view[0])
    for index in range(records.shape[0]):
        topic: cython.pointer(cython.const[uint8_t]) = base + records[index, 8]
        topic_size: int64_t = records[index, 9]
        text: cython.pointer(cython.const[uint8_t]) = topic + topic_size + 2
        size: int64_t = base + records[index, 0] + records[index, 1] - text
        if hashes.shape[0] - count < size // 2 + 3:
            return index, count
        prefix: uint32_t = java_hash(0, topic, topic_size) * 31 + 35  # '#'
        at: int64_t = 0
        found: int64_t = value_of(text, size, b"UNIQ_KEY\x01", 9, cython.address(at))
        if found:
            hashes[count, 0] = index
            hashes[count, 1] = unsigned_hash(java_hash(prefix, text + at, found))
            count += 1
        found = value_of(text, size, b"KEYS\x01", 5, cython.address(at))
        end: int64_t = at + found
        while found and at < end:
            word: int64_t = at
            while at < end and text[at] != 32:
                at += 1
            if at > word:
                hashes[count, 0] = index
                hashes[count, 1] = unsigned_hash(java_hash(prefix, text + word, at - word))
                count += 1
            at += 1
        found = value_of(text, size, b"TAGS\x01", 5, cython.address(at))
        if found:
            prefix = (prefix * 31 + 84) * 31 + 35  # "T#"
            hashes[count, 0] = index
            hashes[count, 1] = unsigned_hash(java_hash(prefix, text + at, found))
            count += 1
    return records.shape[0], count


shmq_crc32_setup()
