"""Layout of the heartbeat table: one slot a role process, by which the supervisor sees it live.

A dense array of slots, each SLOT_SIZE bytes (two cache lines), native byte order, aligned. The
memory is anonymous and shared by fork: it has no name, so nothing of it can be left behind.

    offset  size  type  field          writer      meaning
         0     8  u64   PID            role        process that holds the slot, 0 = nobody yet
         8     8  u64   BEAT           role        time of the last beat, ms of the monotonic clock
        16     8  u64   STATE          role        a State
        24    40        (unused)
        64     8  u64   RESTART_COUNT  supervisor  times that the role was started again
        72    56        (unused)

The role's words and the supervisor's word lie on different cache lines. PID is written last of the
role's words when a process takes the slot over, so that the beat and the state seen with it are
the new holder's. BEAT and STATE may go back when the holder changes: a slot shows a moment, it is
no offset.

Written by: each role its own slot, the supervisor RESTART_COUNT. Read by: supervisor.
"""

from __future__ import annotations

import enum
from typing import Final

SLOT_SIZE: Final = 128
WORD_SIZE: Final = 8
WORDS_PER_SLOT: Final = SLOT_SIZE // WORD_SIZE


class Field(enum.IntEnum):
    """Words of a slot, by index in the slot."""

    PID = 0
    BEAT = 1
    STATE = 2
    RESTART_COUNT = 8


class State(enum.IntEnum):
    """What a role says of itself."""

    STARTING = 0
    READY = 1
    DRAINING = 2


OWNERS: Final = {
    Field.PID: "role",
    Field.BEAT: "role",
    Field.STATE: "role",
    Field.RESTART_COUNT: "supervisor",
}

assert SLOT_SIZE % 64 == 0
assert set(OWNERS) == set(Field)
assert Field.RESTART_COUNT * WORD_SIZE == 64, "the supervisor's word is on a line of its own"


def table_size(slot_count: int) -> int:
    """Size of a table of `slot_count` slots, in bytes."""
    return slot_count * SLOT_SIZE
