"""Layout of the control segment: the offsets and states that the processes show each other.

One 8-byte word a cache line (64 bytes), native byte order, so that no two writers share a line.
Exactly one role writes each word. All offsets are physical offsets in the commitlog, bytes,
exclusive ends. Progress words only grow; state words may take any value.

    line  word               kind      writer        all bytes before it ... / meaning
       0  MAGIC              -         supervisor    set last, when the rest is valid
       1  APPEND_OFFSET      progress  writer        are whole records in the hot pages or the files
       2  DESCRIPTOR_COUNT   progress  writer        descriptors with a smaller number are whole
       3  HOT_START          progress  writer        are no longer in the hot pages
       4  BLOCKED_SINCE      state     writer        ms since the epoch; 0: writer is not held up
       5  BLOCKED_ON         state     writer        BLOCKED_* below
       6  WRITTEN_OFFSET     progress  flush         are in the commitlog files (page cache)
       7  FLUSHED_OFFSET     progress  flush         are on this host's disk
       8  FLUSH_ERROR        state     flush         errno of the failed write or sync; 0: none
       9  REPUT_OFFSET       progress  dispatch      are in the consumequeues
      10  REPUT_COUNT        progress  dispatch      descriptors with a smaller one are dispatched
      11  LOG_START          progress  housekeeping  are deleted
      12  MEMORY_TOTAL       state     housekeeping  bytes of memory of this host
      13  MEMORY_AVAILABLE   state     housekeeping  bytes available on this host
      14  DISK_USED          state     housekeeping  used part of the commitlog's disk, in 0.01 %
      15  ACKED_OFFSET       progress  ha_sync       are on the slave
      16  CONFIRM_OFFSET     progress  ha_sync       may be dispatched (no slave: not used)
      17  STORE_STATE        state     boot          0 closed, 1 open
      18  FLUSHED_TIMESTAMP  progress  flush         store time of a record on this host's disk, ms
      19  FILED_TIMESTAMP    progress  dispatch      store time of one whose entry is on disk, ms
      20  STORE_ID           state     boot          inode of the commitlog folder
      21  WRITER_STARTS      state     writer        number of writers there have been
      22  DISPATCH_STARTS    state     dispatch      number of dispatch processes there have been
      23  AT_RISK_SINCE      state     writer        monotonic ms: nothing not flushed is older
      24  FILED_OFFSET       progress  dispatch      have their entries on this host's disk
      25  NO_ROOM_SINCE      state     flush         ms since the epoch: no room for it; 0: room
      26  DELETE_ASKED       progress  coordinator   times that one asked to delete old files
      27  CLEAN_ASKED        progress  coordinator   times that one asked to clean consumequeues
      28  INDEX_OFFSET       progress  index         are in the index files, if they have keys
      29  INDEX_TIMESTAMP    progress  index         end of the last full index file on disk, ms
      30  INDEX_STARTS       state     index         number of index processes there have been
      31  SYNC_COUNT         progress  flush         syncs of the commitlog there have been
    32..  SLEEPING[i]        state     role i        1: ring its doorbell, it is going to sleep
   160..  HOLDING[i]         state     serve i       number of pulls that wait for a message
   256..  LINKED[i]          state     serve i       messages sent about rings of native clients

Invariants: REPUT, FLUSHED <= WRITTEN or APPEND; FLUSHED <= WRITTEN <= APPEND; HOT_START <= WRITTEN;
FILED <= REPUT; LOG_START <= FILED, FLUSHED.

Files: flush makes and writes those of the commitlog, dispatch those of the consumequeues; only
housekeeping deletes any. It raises the queues' min offsets first, then publishes LOG_START, and
only then deletes files that end at or before it, the oldest first: who finds a file gone finds the
words past it too.

A reader may be behind the truth, never ahead of it.

DESCRIPTOR, one for each appended record, 64 bytes, number n at n % descriptor_max:

    offset  size  type  field
         0     8  i64   physical_offset
         8     4  i32   size               of the record, bytes
        12     4  i32   slot               queue table slot
        16     8  i64   queue_offset
        24     8  i64   tags_code
        32     8  i64   store_timestamp    ms
        40     8  i64   ring_sequence      number of its entry in the submission ring
        48     4  i32   ring               index of that ring
        52     4  i32   remaining          records of the same entry that follow
        56     8  i64   epoch              of that ring; 0 for a ring of a serve process

They are written before APPEND_OFFSET is published, so after a crash of the writer the descriptors
up to APPEND_OFFSET are whole even where DESCRIPTOR_COUNT does not say so yet.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

    DESCRIPTOR: np.dtype[np.void]

MAGIC_VALUE: Final = 0x31_6C74_6371_6D68  # "hmqctl1", little-endian; the digit is the version
LINE_SIZE: Final = 64
ROLES_MAX: Final = 128
SERVES_MAX: Final = 64
NATIVE_MAX: Final = 128  # rings of native clients; they follow those of the serve processes
SLEEPING_LINE: Final = 32
HOLDING_LINE: Final = SLEEPING_LINE + ROLES_MAX
LINKED_LINE: Final = 256
SEGMENT_SIZE: Final = 24576
assert HOLDING_LINE + SERVES_MAX <= LINKED_LINE
assert (LINKED_LINE + SERVES_MAX) * LINE_SIZE <= SEGMENT_SIZE


class Word(IntEnum):
    """Line of each word."""

    MAGIC = 0
    APPEND_OFFSET = 1
    DESCRIPTOR_COUNT = 2
    HOT_START = 3
    BLOCKED_SINCE = 4
    BLOCKED_ON = 5
    WRITTEN_OFFSET = 6
    FLUSHED_OFFSET = 7
    FLUSH_ERROR = 8
    REPUT_OFFSET = 9
    REPUT_COUNT = 10
    LOG_START = 11
    MEMORY_TOTAL = 12
    MEMORY_AVAILABLE = 13
    DISK_USED = 14
    ACKED_OFFSET = 15
    CONFIRM_OFFSET = 16
    STORE_STATE = 17
    FLUSHED_TIMESTAMP = 18
    FILED_TIMESTAMP = 19
    STORE_ID = 20
    WRITER_STARTS = 21
    DISPATCH_STARTS = 22
    AT_RISK_SINCE = 23
    FILED_OFFSET = 24
    NO_ROOM_SINCE = 25
    DELETE_ASKED = 26
    CLEAN_ASKED = 27
    INDEX_OFFSET = 28
    INDEX_TIMESTAMP = 29
    INDEX_STARTS = 30
    SYNC_COUNT = 31


OWNERS: Final = {
    Word.MAGIC: "supervisor",
    Word.APPEND_OFFSET: "writer",
    Word.DESCRIPTOR_COUNT: "writer",
    Word.HOT_START: "writer",
    Word.BLOCKED_SINCE: "writer",
    Word.BLOCKED_ON: "writer",
    Word.WRITTEN_OFFSET: "flush",
    Word.FLUSHED_OFFSET: "flush",
    Word.FLUSH_ERROR: "flush",
    Word.REPUT_OFFSET: "dispatch",
    Word.REPUT_COUNT: "dispatch",
    Word.LOG_START: "housekeeping",
    Word.MEMORY_TOTAL: "housekeeping",
    Word.MEMORY_AVAILABLE: "housekeeping",
    Word.DISK_USED: "housekeeping",
    Word.ACKED_OFFSET: "ha_sync",
    Word.CONFIRM_OFFSET: "ha_sync",
    Word.STORE_STATE: "boot",
    Word.STORE_ID: "boot",
    Word.WRITER_STARTS: "writer",
    Word.DISPATCH_STARTS: "dispatch",
    Word.AT_RISK_SINCE: "writer",
    Word.INDEX_OFFSET: "index",
    Word.INDEX_TIMESTAMP: "index",
    Word.INDEX_STARTS: "index",
    Word.FLUSHED_TIMESTAMP: "flush",
    Word.FILED_TIMESTAMP: "dispatch",
    Word.FILED_OFFSET: "dispatch",
    Word.NO_ROOM_SINCE: "flush",
    Word.SYNC_COUNT: "flush",
    Word.DELETE_ASKED: "coordinator",
    Word.CLEAN_ASKED: "coordinator",
}
STATE_WORDS: Final = frozenset(
    {
        Word.MAGIC,
        Word.BLOCKED_SINCE,
        Word.BLOCKED_ON,
        Word.FLUSH_ERROR,
        Word.MEMORY_TOTAL,
        Word.MEMORY_AVAILABLE,
        Word.DISK_USED,
        Word.STORE_STATE,
        Word.STORE_ID,
        Word.WRITER_STARTS,
        Word.DISPATCH_STARTS,
        Word.AT_RISK_SINCE,
        Word.NO_ROOM_SINCE,
        Word.INDEX_STARTS,
    }
)
assert set(OWNERS) == set(Word)

BLOCKED_NOT: Final = 0
BLOCKED_BY_FLUSH: Final = 1  # the pool is full of bytes that flush has not written yet
BLOCKED_BY_DISPATCH: Final = 2  # descriptors or pages that dispatch has not read yet
BLOCKED_BY_RISK: Final = 3  # as much as may be lost by a power cut is not on the disk yet
BLOCKED_TEXT: Final = {
    BLOCKED_NOT: "nothing",
    BLOCKED_BY_FLUSH: "the disk: hot pages wait to be written to the commitlog",
    BLOCKED_BY_DISPATCH: "dispatch: records wait to be entered into the consumequeues",
    BLOCKED_BY_RISK: "the disk: no more may be at risk (asyncFlushBytesMax, asyncFlushMillisMax)",
}

DESCRIPTOR_SIZE: Final = 64
DESCRIPTORS_MAX: Final = 131_072
_DESCRIPTOR_FIELDS: Final = [
    ("physical_offset", "i8"),
    ("size", "i4"),
    ("slot", "i4"),
    ("queue_offset", "i8"),
    ("tags_code", "i8"),
    ("store_timestamp", "i8"),
    ("ring_sequence", "i8"),
    ("ring", "i4"),
    ("remaining", "i4"),
    ("epoch", "i8"),
]


def __getattr__(name: str) -> Any:
    """DESCRIPTOR, made when it is asked for: a producer does without numpy."""
    if name != "DESCRIPTOR":
        raise AttributeError(name)
    import numpy as np  # noqa: PLC0415

    made = np.dtype(_DESCRIPTOR_FIELDS)
    assert made.itemsize == DESCRIPTOR_SIZE
    globals()[name] = made
    return made
