# cython: language_level=3, boundscheck=False, wraparound=False
# cython: cdivision=True, initializedcheck=False
"""Append: the writer's work on one batch of one submission ring, compiled.

For each entry: copy its record into the hot pages, check the copy, patch what the writer owns
(queue offset, physical offset, store timestamp), write the descriptor and the completion. Nothing
is published here: the caller publishes the words when the batch is done. append_plain.py is the
twin that the property tests compare with, byte for byte.

A producer's memory may change at any time and hold anything: entry and record are read once, and
only the copy is believed. A record goes into the log only if every reader takes it for one (sizes
that agree, CRC, ports, topic), since recovery ends the log at the first that is none.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_GET_SIZE
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcmp, memcpy, memset
from cython.cimports.shmq.kernels.crc32 import shmq_crc32, shmq_crc32_setup
from cython.cimports.shmq.kernels.native import shmq_snapshot, shmq_swap32
from cython.cimports.shmq.kernels.requestheader import is_utf8
from cython.cimports.shmq.kernels.scan import (
    shmq_getu32,
    shmq_is_ascii,
    shmq_put32,
    shmq_put64,
)

from shmq.errors import LayoutError

RINGS_MAX = cython.declare(cython.int, 192)

MAGIC_V1 = cython.declare(uint32_t, 0xDAA320A7)
MAGIC_V2 = cython.declare(uint32_t, 0xDAA320AB)
BLANK_MAGIC = cython.declare(uint32_t, 0xCBD43194)
BLANK_SIZE = cython.declare(int64_t, 8)
ROW_SIZE = cython.declare(int64_t, 264)  # queue id, size of the topic's name, the name
RECORD_SIZE_MIN = cython.declare(int64_t, 91)
BORN_HOST_V6 = cython.declare(uint32_t, 0x10)
STORE_HOST_V6 = cython.declare(uint32_t, 0x20)
TOPIC_SIZE_MAX_V1 = cython.declare(int64_t, 127)
TOPIC_SIZE_MAX_V2 = cython.declare(int64_t, 32767)
PROPERTIES_SIZE_MAX = cython.declare(int64_t, 32767)
PORT_MAX = cython.declare(uint32_t, 65535)
CRC_MASK = cython.declare(uint32_t, 0x7FFFFFFF)

FLAGS_NOT_PLAIN = cython.declare(uint32_t, 0xCC)  # transaction, unwrap, inner batch

STATUS_OK = cython.declare(int32_t, 0)
STATUS_BAD_RECORD = cython.declare(int32_t, 1)
STATUS_BAD_SLOT = cython.declare(int32_t, 2)


@cython.cfunc
@cython.exceptval(check=False)
def checked_store_stamp_at(
    record: cython.pointer(uint8_t), total: int64_t, queue_id: int32_t, sets_crc: cython.bint
) -> cython.int:
    """Where the store timestamp of a sound record of `total` bytes lies; -1: it is not sound.

    With `sets_crc` a CRC of 0 stands for one that is still to be set, and is.
    """
    magic: uint32_t = shmq_getu32(record + 4)
    if magic != MAGIC_V1 and magic != MAGIC_V2:
        return -1
    if cython.cast(int32_t, shmq_getu32(record + 12)) != queue_id:
        return -1
    flags: uint32_t = shmq_getu32(record + 36)
    stamp_at: cython.int = 56
    body_at: int64_t = 88
    if flags & BORN_HOST_V6:
        stamp_at += 12
        body_at += 12
    if flags & STORE_HOST_V6:
        body_at += 12
    if body_at > total or shmq_getu32(record + stamp_at - 4) > PORT_MAX:
        return -1
    if shmq_getu32(record + body_at - 20) > PORT_MAX:
        return -1
    body_size: int64_t = shmq_getu32(record + body_at - 4)
    topic_at: int64_t = body_at + body_size + (1 if magic == MAGIC_V1 else 2)
    if topic_at > total:
        return -1
    topic_size: int64_t = record[topic_at - 1]
    if magic == MAGIC_V1:
        if topic_size > TOPIC_SIZE_MAX_V1:
            return -1
    else:
        topic_size |= cython.cast(int64_t, record[topic_at - 2]) << 8
        if topic_size > TOPIC_SIZE_MAX_V2:
            return -1
    properties_at: int64_t = topic_at + topic_size + 2
    if topic_size < 1 or properties_at > total:
        return -1
    properties_size: int64_t = (cython.cast(int64_t, record[properties_at - 2]) << 8) | record[
        properties_at - 1
    ]
    if properties_size > PROPERTIES_SIZE_MAX or properties_at + properties_size != total:
        return -1
    topic: cython.pointer(uint8_t) = record + topic_at
    if not shmq_is_ascii(topic, topic + topic_size) and not is_utf8(topic, topic + topic_size):
        return -1
    crc: uint32_t = shmq_crc32(record + body_at, body_size) & CRC_MASK
    if crc != shmq_getu32(record + 8):
        if not sets_crc or shmq_getu32(record + 8) != 0:
            return -1
        shmq_put32(record + 8, crc)
    return stamp_at


@cython.cclass
class Appender:
    """The writer's state: where the log ends, what each queue's next offset is.

    All buffers are kept mapped by the caller for as long as this object lives.
    """

    pool: cython.pointer(uint8_t)
    pool_size: int64_t
    file_size: int64_t
    entry_size_max: int64_t  # records of one entry, bytes
    slots_max: int64_t
    next_offsets: cython.pointer(int64_t)
    rows: cython.pointer(uint8_t)  # of the queue table's directory
    descriptors: cython.pointer(uint8_t)
    descriptor_mask: int64_t
    scratch: cython.pointer(uint8_t)
    scratch_size: int64_t
    entries: cython.pointer(uint8_t)[192]
    completions: cython.pointer(uint8_t)[192]
    data: cython.pointer(uint8_t)[192]
    entry_counts: int64_t[192]
    data_sizes: int64_t[192]
    epochs: int64_t[192]
    grants: cython.pointer(uint8_t)[192]  # NULL: the producer is one of the broker's own
    store_place: bytes  # host and port as every record holds them
    kept: list
    kept_rings: dict

    append_offset = cython.declare(int64_t, visibility="public")
    descriptor_count = cython.declare(int64_t, visibility="public")
    blocked_on = cython.declare(cython.int, visibility="public")

    def __cinit__(self):
        self.scratch = cython.NULL

    def __init__(
        self,
        *,
        pool,
        descriptors,
        next_offsets,
        rows,
        file_size: int64_t,
        record_size_max: int64_t,
        append_offset: int64_t,
        descriptor_count: int64_t,
        store_place: bytes = b"",
    ):
        pool_view: uint8_t[::1] = pool
        descriptor_view: uint8_t[::1] = descriptors
        next_view: int64_t[::1] = next_offsets
        rows_view: cython.const[uint8_t][::1] = rows
        count: int64_t = descriptor_view.shape[0] // 64
        if count <= 0 or count & (count - 1):
            raise ValueError(f"descriptor count must be a power of two: {count}")
        if next_view.shape[0] * ROW_SIZE != rows_view.shape[0]:
            raise ValueError("columns of different length")
        if not RECORD_SIZE_MIN <= record_size_max <= pool_view.shape[0] or file_size < 1024:
            raise ValueError(
                f"sizes: record_size_max={record_size_max} pool={pool_view.shape[0]} "
                f"file_size={file_size}"
            )
        # Every record leaves room for a blank behind it; without, recovery would end the log here.
        if append_offset < 0 or file_size - append_offset % file_size < BLANK_SIZE:
            raise ValueError(f"no room for a blank behind the log: append_offset={append_offset}")
        self.kept = [pool, descriptors, next_offsets, rows]
        self.pool = cython.address(pool_view[0])
        self.pool_size = pool_view.shape[0]
        self.file_size = file_size
        # Behind a blank that is just too short for it, an entry still finds room in the half of the
        # pool that can always be recycled: no entry waits for ever.
        self.entry_size_max = min(
            file_size - BLANK_SIZE, (pool_view.shape[0] // 2 - BLANK_SIZE) // 2
        )
        self.slots_max = next_view.shape[0]
        self.next_offsets = cython.address(next_view[0])
        self.rows = cython.cast(cython.pointer(uint8_t), cython.address(rows_view[0]))
        self.descriptors = cython.address(descriptor_view[0])
        self.descriptor_mask = count - 1
        self.append_offset = append_offset
        self.descriptor_count = descriptor_count
        self.blocked_on = 0
        self.kept_rings = {}
        self.store_place = store_place
        memset(cython.address(self.entry_counts[0]), 0, cython.sizeof(int64_t) * RINGS_MAX)
        self.scratch_size = record_size_max
        self.scratch = cython.cast(cython.pointer(uint8_t), malloc(record_size_max))
        if self.scratch == cython.NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.scratch)

    def set_ring(self, index: cython.int, entries, completions, data, *, epoch=0, grants=None):
        """Attach a submission ring as number `index`.

        `epoch` goes into the descriptors of its records. With `grants`, a bit for each slot, the
        producer is a stranger: it may append to those slots only, and its records must name the
        slot's topic and this broker's place, and be no part of a transaction or inner batch.

        Raises:
            LayoutError: the parts do not fit each other.
        """
        if not 0 <= index < RINGS_MAX:
            raise LayoutError("ring index", index=index, allowed=(0, RINGS_MAX - 1))
        entry_view: uint8_t[::1] = entries
        completion_view: uint8_t[::1] = completions
        data_view: uint8_t[::1] = data
        count: int64_t = entry_view.shape[0] // 64
        if count <= 0 or count & (count - 1) or completion_view.shape[0] // 32 < count:
            raise LayoutError(
                "ring entries",
                entry_count=count,
                completion_count=completion_view.shape[0] // 32,
            )
        if cython.cast(cython.size_t, cython.address(completion_view[0])) % 8 != 0:
            raise LayoutError("ring part at an odd place", part="completions", needed_alignment=8)
        self.grants[index] = cython.NULL
        if grants is not None:
            grants_view: uint8_t[::1] = grants
            if grants_view.shape[0] * 8 < self.slots_max:
                raise LayoutError(
                    "grants too short", size=grants_view.shape[0], slots_max=self.slots_max
                )
            self.grants[index] = cython.address(grants_view[0])
        self.kept_rings[index] = (entries, completions, data, grants)
        self.entries[index] = cython.address(entry_view[0])
        self.completions[index] = cython.address(completion_view[0])
        self.data[index] = cython.address(data_view[0])
        self.data_sizes[index] = data_view.shape[0]
        self.epochs[index] = epoch
        self.entry_counts[index] = count

    def drop_ring(self, index: cython.int):
        """Let go of a ring's memory."""
        if not 0 <= index < RINGS_MAX:
            raise LayoutError("ring index", index=index, allowed=(0, RINGS_MAX - 1))
        self.entry_counts[index] = 0
        self.kept_rings.pop(index, None)

    @cython.cfunc
    @cython.exceptval(check=False)
    def pool_write(
        self, offset: int64_t, source: cython.pointer(cython.const[uint8_t]), size: int64_t
    ) -> cython.void:
        """Copy into the pool, from its end to its start."""
        at: int64_t = offset % self.pool_size
        first: int64_t = min(size, self.pool_size - at)
        memcpy(self.pool + at, source, first)
        if first < size:
            memcpy(self.pool, source + first, size - first)

    @cython.cfunc
    @cython.exceptval(check=False)
    def pool_zero(self, offset: int64_t, size: int64_t) -> cython.void:
        """Fill the pool with zeros, from its end to its start."""
        at: int64_t = offset % self.pool_size
        first: int64_t = min(size, self.pool_size - at)
        memset(self.pool + at, 0, first)
        if first < size:
            memset(self.pool, 0, size - first)

    @cython.cfunc
    @cython.exceptval(check=False)
    def put_blank(self, offset: int64_t, size: int64_t) -> cython.void:
        """Fill the rest of a commitlog file: a blank record head, then zeros."""
        head: uint8_t[8]
        shmq_put32(cython.address(head[0]), cython.cast(uint32_t, size))
        shmq_put32(cython.address(head[4]), BLANK_MAGIC)
        self.pool_write(offset, cython.address(head[0]), BLANK_SIZE)
        self.pool_zero(offset + BLANK_SIZE, size - BLANK_SIZE)

    @cython.cfunc
    @cython.exceptval(check=False)
    def put_record(
        self,
        source: cython.pointer(cython.const[uint8_t]),
        room: int64_t,
        offset: int64_t,
        row: cython.pointer(uint8_t),
        stranger: cython.bint,
        queue_offset: int64_t,
        stamp: int64_t,
    ) -> int64_t:
        """Copy one record to `offset`, check the copy and patch it; its size, or -1.

        The source may change under our hands: only the copy is believed.
        """
        head: uint32_t = 0
        if room < RECORD_SIZE_MIN:
            return -1
        shmq_snapshot(cython.address(head), source, 4)
        total: int64_t = shmq_swap32(head)
        if total < RECORD_SIZE_MIN or total > room or total > self.scratch_size:
            return -1
        at: int64_t = offset % self.pool_size
        wraps: cython.bint = at + total > self.pool_size
        record: cython.pointer(uint8_t) = self.scratch if wraps else self.pool + at
        shmq_snapshot(record, source, total)
        if shmq_getu32(record) != total:
            return -1
        stamp_at: cython.int = checked_store_stamp_at(
            record, total, cython.cast(cython.pointer(int32_t), row)[0], stranger
        )
        if stamp_at < 0 or (stranger and not self.is_allowed(record, stamp_at, row)):
            return -1
        shmq_put64(record + 20, queue_offset)
        shmq_put64(record + 28, offset)
        shmq_put64(record + stamp_at, stamp)
        if wraps:
            self.pool_write(offset, record, total)
        return total

    def append(
        self,
        ring: cython.int,
        first: int64_t,
        end: int64_t,
        limit_offset: int64_t,
        descriptor_limit: int64_t,
        slot_count: int64_t,
        store_timestamp: int64_t,
    ) -> int:
        """Append entries `first` to `end` (exclusive) of a ring; how many were completed.

        Stops early, with `blocked_on` set, when a record would pass `limit_offset` (1) or a
        descriptor would pass `descriptor_limit` (2). A record that is not sound is completed with
        STATUS_BAD_RECORD and never becomes part of the log, nor does one that might wait for ever.
        """
        sequence: int64_t = first
        self.blocked_on = 0
        if ring < 0 or ring >= RINGS_MAX or self.entry_counts[ring] == 0:
            raise IndexError(f"no such ring: {ring}")
        if slot_count > self.slots_max:
            raise ValueError(f"more slots than columns: {slot_count}")
        while sequence < end:
            if not self.append_entry(
                ring, sequence, limit_offset, descriptor_limit, slot_count, store_timestamp
            ):
                break
            sequence += 1
        return sequence - first

    @cython.cfunc
    @cython.exceptval(check=False)
    def append_entry(
        self,
        ring: cython.int,
        sequence: int64_t,
        limit_offset: int64_t,
        descriptor_limit: int64_t,
        slot_count: int64_t,
        stamp: int64_t,
    ) -> cython.bint:
        """Append one entry and complete it; False when it must wait, see `blocked_on`."""
        index: int64_t = sequence & (self.entry_counts[ring] - 1)
        cells: int64_t[4]
        shmq_snapshot(cython.address(cells[0]), self.entries[ring] + index * 64, 32)
        halves: cython.pointer(int32_t) = cython.cast(
            cython.pointer(int32_t), cython.address(cells[0])
        )
        done: cython.pointer(int64_t) = cython.cast(
            cython.pointer(int64_t), self.completions[ring] + index * 32
        )
        data_position: int64_t = cells[0]
        data_size: int64_t = halves[2]
        count: int64_t = halves[3]
        slot: int64_t = halves[4]
        tags_code: int64_t = cells[3]
        codes_size: int64_t = 8 * count if count > 1 else 0
        if (
            data_position < 0
            or data_size < 0
            or count < 1
            or data_position > self.data_sizes[ring] - data_size
            or data_size - codes_size < count * RECORD_SIZE_MIN
            or data_size - codes_size > self.entry_size_max
            or count > self.descriptor_mask + 1
        ):
            self.complete(done, STATUS_BAD_RECORD, 0, 0, stamp)
            return True
        if slot < 0 or slot >= slot_count or not self.is_granted(ring, slot):
            self.complete(done, STATUS_BAD_SLOT, 0, 0, stamp)
            return True
        if self.descriptor_count + count > descriptor_limit:
            self.blocked_on = 2
            return False
        size: int64_t = data_size - codes_size
        offset: int64_t = self.append_offset
        left: int64_t = self.file_size - offset % self.file_size
        if size + BLANK_SIZE > left:
            if offset + left + size > limit_offset:
                self.blocked_on = 1
                return False
            self.put_blank(offset, left)
            offset += left
        elif offset + size > limit_offset:
            self.blocked_on = 1
            return False
        source: cython.pointer(uint8_t) = self.data[ring] + data_position
        if not self.append_records(
            ring, sequence, source, codes_size, size, count, slot, tags_code, offset, stamp
        ):
            # A blank that was written stays unpublished with the record that it made room for.
            self.complete(done, STATUS_BAD_RECORD, 0, 0, stamp)
            return True
        self.complete(done, STATUS_OK, offset, self.next_offsets[slot], stamp)
        self.next_offsets[slot] += count
        self.descriptor_count += count
        self.append_offset = offset + size
        return True

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def is_granted(self, ring: cython.int, slot: int64_t) -> cython.bint:
        """Whether the producer of this ring may append to the slot."""
        grants: cython.pointer(uint8_t) = self.grants[ring]
        return grants == cython.NULL or (grants[slot >> 3] >> (slot & 7)) & 1

    @cython.cfunc
    @cython.exceptval(check=False)
    def is_allowed(
        self,
        record: cython.pointer(uint8_t),
        stamp_at: cython.int,
        row: cython.pointer(uint8_t),
    ) -> cython.bint:
        """Whether a sound record of a stranger is what its slot holds, and plain."""
        flags: uint32_t = shmq_getu32(record + 36)
        place_size: int64_t = PyBytes_GET_SIZE(self.store_place)
        if flags & FLAGS_NOT_PLAIN:
            return False
        if place_size != (20 if flags & STORE_HOST_V6 else 8):
            return False
        if memcmp(record + stamp_at + 8, PyBytes_AS_STRING(self.store_place), place_size) != 0:
            return False
        # Behind the store host: reconsume times, prepared offset, body size, body.
        topic_at: int64_t = stamp_at + 8 + place_size + 16
        topic_at += shmq_getu32(record + topic_at - 4)
        topic_size: int64_t = record[topic_at]
        topic_at += 1
        if shmq_getu32(record + 4) == MAGIC_V2:
            topic_size = (topic_size << 8) | record[topic_at]
            topic_at += 1
        if topic_size != cython.cast(cython.pointer(int32_t), row)[1]:
            return False
        return memcmp(record + topic_at, row + 8, topic_size) == 0

    @cython.cfunc
    @cython.exceptval(check=False)
    def append_records(
        self,
        ring: cython.int,
        sequence: int64_t,
        source: cython.pointer(uint8_t),
        codes_size: int64_t,
        size: int64_t,
        count: int64_t,
        slot: int64_t,
        tags_code: int64_t,
        offset: int64_t,
        stamp: int64_t,
    ) -> cython.bint:
        """Copy the records of one entry and write their descriptors; False if any is not sound."""
        row: cython.pointer(uint8_t) = self.rows + slot * ROW_SIZE
        stranger: cython.bint = self.grants[ring] != cython.NULL
        number: int64_t
        done: int64_t = 0
        copied: int64_t
        for number in range(count):
            copied = self.put_record(
                source + codes_size + done,
                size - done,
                offset + done,
                row,
                stranger,
                self.next_offsets[slot] + number,
                stamp,
            )
            if copied < 0:
                return False
            if codes_size:
                memcpy(cython.address(tags_code), source + 8 * number, 8)
            self.describe(
                self.descriptor_count + number,
                offset + done,
                copied,
                slot,
                self.next_offsets[slot] + number,
                tags_code,
                stamp,
                sequence,
                ring,
                count - 1 - number,
            )
            done += copied
        return done == size

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def describe(
        self,
        number: int64_t,
        offset: int64_t,
        size: int64_t,
        slot: int64_t,
        queue_offset: int64_t,
        tags_code: int64_t,
        stamp: int64_t,
        sequence: int64_t,
        ring: cython.int,
        remaining: int64_t,
    ) -> cython.void:
        """Write one descriptor."""
        cells: cython.pointer(int64_t) = cython.cast(
            cython.pointer(int64_t), self.descriptors + (number & self.descriptor_mask) * 64
        )
        halves: cython.pointer(int32_t) = cython.cast(cython.pointer(int32_t), cells)
        cells[0] = offset
        halves[2] = cython.cast(int32_t, size)
        halves[3] = cython.cast(int32_t, slot)
        cells[2] = queue_offset
        cells[3] = tags_code
        cells[4] = stamp
        cells[5] = sequence
        halves[12] = ring
        halves[13] = cython.cast(int32_t, remaining)
        cells[7] = self.epochs[ring]

    @cython.cfunc
    @cython.inline
    @cython.exceptval(check=False)
    def complete(
        self,
        done: cython.pointer(int64_t),
        status: int32_t,
        offset: int64_t,
        queue_offset: int64_t,
        stamp: int64_t,
    ) -> cython.void:
        """Write one completion."""
        done[0] = status
        done[1] = offset
        done[2] = queue_offset
        done[3] = stamp


shmq_crc32_setup()
