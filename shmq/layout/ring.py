"""Layout of a submission ring: what one producer asks the writer to append, and what came of it.

One segment a producer (a serve process or a native client), one writer. Native byte order. A
sequence number counts entries for ever; entry and completion of number n lie at n % entry_count.

    part         at                size                  written by  content
    head         0                 4096                  producer    MAGIC, sizes, SUBMITTED
    answers head 4096              4096                  writer      COMPLETED
    entries      8192              entry_count * 64      producer    ENTRY
    completions  page aligned      entry_count * 32      writer      COMPLETION
    data         page aligned      data_size             producer    encoded records

head, offsets in bytes:

       0  u64  MAGIC                 set last, when the rest is valid
       8  u32  VERSION
      12  u32  entry_count           a power of two
      16  u64  data_size
      64  u64  SUBMITTED             entries with a smaller number are whole (word, producer)
      72  u64  PRODUCER_CORE         1 + the core that the producer last ran on; 0: not said
     128  u64  DONE_SLEEPING         1: ring `done` when something is completed (native clients)
     192  u64  NEWS_SLEEPING         1: ring `news` when a queue has grown (native clients)

answers head: 0 u64 COMPLETED        completions with a smaller number are whole (word, writer)

ENTRY, 64 bytes; the writer reads the first 32, the rest is the producer's own note:

    offset  size  type  field          meaning
         0     8  i64   data_position  start in the data part; the bytes never wrap
         8     4  i32   data_size      all bytes of this entry
        12     4  i32   record_count   1, or more for a batch that must stay in one file
        16     4  i32   slot           queue table slot of the target queue
        20     4  i32   flags          reserved, 0
        24     8  i64   tags_code      of the only record; a batch has record_count i64 tags codes
                                       before its records, at data_position
        32     4  i32   opaque         of the request to answer
        36     4  i32   connection     index of the connection in its serve process
        40     8  i64   connection_id  never used twice in one process: guards the index
        48     4  i32   answer_flags   ANSWER_* below
        52     4  i32   queue_id       for the answer
        56     4  i32   unique_at      start of the UNIQ_KEY value, from data_position; 0: none
        60     4  i32   unique_size    its length in bytes

COMPLETION, 32 bytes:

         0     4  i32   status         STATUS_* below
         4     4  i32   (zero)
         8     8  i64   physical_offset  of the first record
        16     8  i64   queue_offset     of the first record
        24     8  i64   store_timestamp  ms

Invariants: COMPLETED <= SUBMITTED <= COMPLETED + entry_count, and the producer reuses an entry and
its data only after it has read the completion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

    ENTRY: np.dtype[np.void]
    COMPLETION: np.dtype[np.void]

MAGIC: Final = 0x676E_6972_716D_6873  # "shmqring", little-endian
VERSION: Final = 1

HEAD_SIZE: Final = 4096
MAGIC_AT: Final = 0
VERSION_AT: Final = 8
ENTRY_COUNT_AT: Final = 12
DATA_SIZE_AT: Final = 16
SUBMITTED_AT: Final = 64
PRODUCER_CORE_AT: Final = 72
DONE_SLEEPING_AT: Final = 128
NEWS_SLEEPING_AT: Final = 192
COMPLETED_AT: Final = HEAD_SIZE
ENTRIES_AT: Final = 2 * HEAD_SIZE

ENTRY_SIZE: Final = 64
COMPLETION_SIZE: Final = 32
_FIELDS: Final = {
    "ENTRY": [
        ("data_position", "i8"),
        ("data_size", "i4"),
        ("record_count", "i4"),
        ("slot", "i4"),
        ("flags", "i4"),
        ("tags_code", "i8"),
        ("opaque", "i4"),
        ("connection", "i4"),
        ("connection_id", "i8"),
        ("answer_flags", "i4"),
        ("queue_id", "i4"),
        ("unique_at", "i4"),
        ("unique_size", "i4"),
    ],
    "COMPLETION": [
        ("status", "i4"),
        ("zero", "i4"),
        ("physical_offset", "i8"),
        ("queue_offset", "i8"),
        ("store_timestamp", "i8"),
    ],
}


def __getattr__(name: str) -> Any:
    """ENTRY and COMPLETION, made when they are asked for: a producer does without numpy."""
    if name not in _FIELDS:
        raise AttributeError(name)
    import numpy as np  # noqa: PLC0415

    made = np.dtype(_FIELDS[name])
    assert made.itemsize == (ENTRY_SIZE if name == "ENTRY" else COMPLETION_SIZE)
    globals()[name] = made
    return made


ANSWER_ONEWAY: Final = 1  # never answered
ANSWER_BINARY: Final = 2  # header in the ROCKETMQ serialization, else JSON
ANSWER_BY_HAND: Final = 4  # the general path answers, not the kernel
ANSWER_AT_ONCE: Final = 8  # as soon as it is appended, also where others wait for the disk

STATUS_OK: Final = 0
STATUS_BAD_RECORD: Final = 1  # the record disagrees with itself or with its entry; not appended
STATUS_BAD_SLOT: Final = 2  # no such queue
STATUS_CLOSED: Final = 3  # the store takes no messages now


def _page_aligned(size: int) -> int:
    return (size + 4095) // 4096 * 4096


def completions_at(entry_count: int) -> int:
    """Start of the completions in a ring of `entry_count` entries, bytes."""
    return ENTRIES_AT + _page_aligned(entry_count * ENTRY_SIZE)


def data_at(entry_count: int) -> int:
    """Start of the data part, bytes."""
    return completions_at(entry_count) + _page_aligned(entry_count * COMPLETION_SIZE)


def segment_size(entry_count: int, data_size: int) -> int:
    """Size of the whole segment, bytes."""
    return data_at(entry_count) + _page_aligned(data_size)
