# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Walk: raw commitlog bytes become an array of record descriptions, sorted by queue; compiled.

walk() is for recovery and for everything that reads a store which somebody else wrote; any bytes
are a legal input to it. assort() sorts its rows by queue. survey.py looks closer, and takes from
here where the parts of a record lie, through walk.pxd. walk_plain.py is the twin.
"""

import cython
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memcpy
from cython.cimports.shmq.kernels.crc32 import shmq_crc32, shmq_crc32_setup
from cython.cimports.shmq.kernels.scan import shmq_get64, shmq_getu32

STOP_END = 0  # every byte was walked, or the next record is longer than the bytes given
STOP_BLANK = 1  # the blank record at the end of a file
STOP_BAD = 2  # not a record
STOP_FULL = 3  # the array is full

MAGIC_V1 = cython.declare(uint32_t, 0xDAA320A7)
MAGIC_V2 = cython.declare(uint32_t, 0xDAA320AB)
BLANK_MAGIC = cython.declare(uint32_t, 0xCBD43194)
HASH_PRIME = cython.declare(uint64_t, 0x100000001B3)
NOT_ASCII = cython.declare(uint32_t, 0x80808080)  # bits of four bytes
BORN_HOST_V6 = cython.declare(uint32_t, 0x10)
STORE_HOST_V6 = cython.declare(uint32_t, 0x20)


@cython.cfunc
@cython.exceptval(check=False)
def value_of(
    text: cython.pointer(cython.const[uint8_t]),
    size: int64_t,
    name: cython.pointer(cython.const[uint8_t]),
    name_size: int64_t,
    value: cython.pointer(int64_t),
) -> int64_t:
    """Length of the last value of a property (value[0]: its start), 0 if none; name with 0x01."""
    at: int64_t = 0
    found: int64_t = 0
    while at < size:
        end: int64_t = at
        while end < size and text[end] != 2:
            end += 1
        if end - at > name_size and memcmp(text + at, name, name_size) == 0:
            value[0] = at + name_size
            found = end - at - name_size
        at = end + 1
    return found


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def point_at(
    text: cython.pointer(cython.const[uint8_t]),
    size: int64_t,
    point: cython.pointer(uint32_t),
) -> int64_t:
    """Code point at the start of UTF-8 bytes; gives how many bytes it took, at least one.

    Bytes that cannot go on to a code point count as one U+FFFD, the longest such piece at once.
    """
    lead: uint8_t = text[0]
    low: uint8_t = 0x80
    high: uint8_t = 0xBF
    more: int64_t
    at: int64_t
    if lead < 0x80:
        point[0] = lead
        return 1
    if 0xC2 <= lead <= 0xDF:
        more = 1
        point[0] = lead & 0x1F
    elif 0xE0 <= lead <= 0xEF:
        more = 2
        point[0] = lead & 0x0F
        if lead == 0xE0:
            low = 0xA0
        elif lead == 0xED:
            high = 0x9F
    elif 0xF0 <= lead <= 0xF4:
        more = 3
        point[0] = lead & 0x07
        if lead == 0xF0:
            low = 0x90
        elif lead == 0xF4:
            high = 0x8F
    else:
        point[0] = 0xFFFD
        return 1
    for at in range(1, more + 1):
        if at >= size or text[at] < low or text[at] > high:
            point[0] = 0xFFFD
            return at
        point[0] = (point[0] << 6) | (text[at] & 0x3F)
        low = 0x80
        high = 0xBF
    return more + 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def java_hash(
    value: uint32_t, text: cython.pointer(cython.const[uint8_t]), size: int64_t
) -> uint32_t:
    """String.hashCode over the UTF-16 units of UTF-8 bytes that follow a text with hash `value`."""
    at: int64_t = 0
    point: uint32_t = 0
    four: uint32_t
    while at < size:
        if size - at >= 4:
            memcpy(cython.address(four), text + at, 4)
            if four & NOT_ASCII == 0:  # Four at once: one multiplication waits for another.
                point = text[at] * 29791 + text[at + 1] * 961 + text[at + 2] * 31 + text[at + 3]
                value = value * 923521 + point
                at += 4
                continue
        at += point_at(text + at, size - at, cython.address(point))
        if point >= 0x10000:
            point -= 0x10000
            value = value * 31 + (0xD800 + (point >> 10))
            value = value * 31 + (0xDC00 + (point & 0x3FF))
        else:
            value = value * 31 + point
    return value


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def find_parts(
    at: cython.pointer(cython.const[uint8_t]),
    total: int64_t,
    magic: uint32_t,
    parts: cython.pointer(Parts),
) -> cython.bint:
    """Find the parts of a record of `total` bytes; whether their sizes add up to it."""
    flags: uint32_t = shmq_getu32(at + 36)
    extra: int64_t = 12 if flags & BORN_HOST_V6 else 0
    body_at: int64_t = 84 + extra + (12 if flags & STORE_HOST_V6 else 0)
    if body_at + 4 > total:
        return False
    body_size: int64_t = shmq_getu32(at + body_at)
    topic_at: int64_t = body_at + 4 + body_size
    if topic_at + 2 > total:
        return False
    topic_size: int64_t = at[topic_at]
    topic_at += 1
    if magic == MAGIC_V2:
        topic_size = (topic_size << 8) | at[topic_at]
        topic_at += 1
    # Java reads topic and properties size with their signs.
    if topic_size > (32767 if magic == MAGIC_V2 else 127):
        return False
    properties_at: int64_t = topic_at + topic_size
    if topic_size == 0 or properties_at + 2 > total:
        return False
    properties_size: int64_t = (cython.cast(int64_t, at[properties_at]) << 8) | at[
        properties_at + 1
    ]
    if properties_size > 32767 or properties_at + 2 + properties_size != total:
        return False
    parts.flags = flags
    parts.extra = extra
    parts.body_at = body_at + 4
    parts.body_size = body_size
    parts.topic_at = topic_at
    parts.topic_size = topic_size
    parts.properties_at = properties_at + 2
    parts.properties_size = properties_size
    return True


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def describe(
    row: cython.pointer(int64_t),
    at: cython.pointer(cython.const[uint8_t]),
    position: int64_t,
    total: int64_t,
    parts: cython.pointer(Parts),
) -> cython.void:
    """Fill the ten columns of walk()."""
    properties: cython.pointer(cython.const[uint8_t]) = at + parts.properties_at
    tag_at: int64_t = 0
    tag_size: int64_t = value_of(
        properties, parts.properties_size, b"TAGS\x01", 5, cython.address(tag_at)
    )
    row[0] = position
    row[1] = total
    row[2] = shmq_get64(at + 20)
    row[3] = shmq_get64(at + 28)
    row[4] = parts.flags
    row[5] = shmq_get64(at + 56 + parts.extra)
    row[6] = cython.cast(int32_t, java_hash(0, properties + tag_at, tag_size))
    row[7] = cython.cast(int32_t, shmq_getu32(at + 12))
    row[8] = position + parts.topic_at
    row[9] = parts.topic_size


def walk(data, start: int64_t, out, *, checked: cython.bint) -> tuple:
    """Describe whole records in `data` from `start` on.

    `out` is a C-contiguous int64 array of shape (n, 10), filled with: position in data, size,
    queue offset, physical offset, sys flag, store timestamp, tags code, queue id, topic position,
    topic size. With `checked` each body must have its CRC.

    Returns:
        (number of rows filled, position after the last of them, why it stopped: STOP_*).
    """
    view: cython.const[uint8_t][::1] = data
    rows: int64_t[:, ::1] = out
    size: int64_t = view.shape[0]
    rows_max: int64_t = rows.shape[0]
    if rows.shape[1] != 10:
        raise ValueError(f"rows must have 10 columns, not {rows.shape[1]}")
    position: int64_t = start
    count: int64_t = 0
    if size == 0 or start < 0:
        return 0, start, STOP_END
    base: cython.pointer(cython.const[uint8_t]) = cython.address(view[0])
    while True:
        if size - position < 8:
            return count, position, STOP_END
        at: cython.pointer(cython.const[uint8_t]) = base + position
        total: int64_t = shmq_getu32(at)
        magic: uint32_t = shmq_getu32(at + 4)
        if magic == BLANK_MAGIC:
            return count, position, STOP_BLANK
        if magic not in (MAGIC_V1, MAGIC_V2) or total < 91 or total > 0x7FFFFFFF:
            return count, position, STOP_BAD
        if total > size - position:
            return count, position, STOP_END
        if count == rows_max:
            return count, position, STOP_FULL
        parts = cython.declare(Parts)
        if not find_parts(at, total, magic, cython.address(parts)):
            return count, position, STOP_BAD
        if checked and parts.body_size > 0:
            crc: uint32_t = shmq_crc32(at + parts.body_at, parts.body_size)
            if crc & 0x7FFFFFFF != shmq_getu32(at + 8):
                return count, position, STOP_BAD
        describe(cython.address(rows[count, 0]), at, position, total, cython.address(parts))
        count += 1
        position += total


@cython.cfunc
@cython.inline
@cython.exceptval(check=False)
def queue_hash(
    topic: cython.pointer(cython.const[uint8_t]), size: int64_t, queue_id: int64_t
) -> uint64_t:
    """A number that differs for most pairs of queues (as FNV-1a)."""
    value: uint64_t = cython.cast(uint64_t, queue_id)
    at: int64_t
    for at in range(size):
        value = (value ^ topic[at]) * HASH_PRIME
    return value ^ (value >> 29)


def assort(data, rows, order, bounds) -> int:
    """Sort rows of walk() by queue, the queues by their first row; the number of queues.

    `rows` is as walk() fills it from `data`, shape (n, 10). Written are `order`, int64 of shape
    (n,): numbers of rows, queue after queue, those of a queue in the order of the rows; and
    `bounds`, int64 of shape (n + 1,): queue q has order[bounds[q] : bounds[q + 1]].
    """
    view: cython.const[uint8_t][::1] = data
    row: int64_t[:, ::1] = rows
    out: int64_t[::1] = order
    bound: int64_t[::1] = bounds
    count: int64_t = row.shape[0]
    if row.shape[1] != 10 or out.shape[0] < count or bound.shape[0] < count + 1:
        raise ValueError("rows must have 10 columns, order a place for each, bounds one more")
    mask: int64_t = 1
    while mask < 2 * count:
        mask *= 2
    # Open addressing: a place holds 1 + the number of a queue. queues[q] is its first row,
    # members[i] the queue of row i.
    places: cython.pointer(int64_t) = cython.cast(
        cython.pointer(int64_t), calloc(mask + 2 * count, cython.sizeof(int64_t))
    )
    if places == cython.NULL:
        raise MemoryError
    queues: cython.pointer(int64_t) = places + mask
    members: cython.pointer(int64_t) = queues + count
    mask -= 1
    found: int64_t = 0
    number: int64_t
    for number in range(count):
        at: int64_t = row[number, 8]
        size: int64_t = row[number, 9]
        if at < 0 or size < 0 or at > view.shape[0] - size:
            free(places)
            raise ValueError(f"the topic of row {number} lies outside of the data")
        topic: cython.pointer(cython.const[uint8_t]) = cython.address(view[0]) + at
        place: int64_t = cython.cast(int64_t, queue_hash(topic, size, row[number, 7])) & mask
        queue: int64_t = 0
        while places[place]:
            queue = places[place] - 1
            first: int64_t = queues[queue]
            if (
                row[first, 7] == row[number, 7]
                and row[first, 9] == size
                and memcmp(cython.address(view[0]) + row[first, 8], topic, size) == 0
            ):
                break
            place = (place + 1) & mask
        if not places[place]:
            queue = found
            queues[queue] = number
            bound[queue] = 0
            found += 1
            places[place] = found
        members[number] = queue
        bound[queue] += 1
    total: int64_t = 0
    for queue in range(found):  # From counts to first places.
        total += bound[queue]
        bound[queue] = total - bound[queue]
        queues[queue] = bound[queue]
    bound[found] = total
    for number in range(count):
        queue = members[number]
        out[queues[queue]] = number
        queues[queue] += 1
    free(places)
    return found


shmq_crc32_setup()
