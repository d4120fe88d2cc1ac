"""The heartbeat table: every role writes its own slot, the supervisor reads them all.

The layout is described in layout/heartbeat.py. The table lies in an anonymous shared mapping made
before the fork. A slot is a native, aligned u64 a field, stored whole or not at all.
"""

from __future__ import annotations

import mmap

from shmq.errors import LayoutError
from shmq.layout.heartbeat import WORDS_PER_SLOT, Field, State, table_size


class HeartbeatReader:
    """Read side of one slot."""

    def __init__(self, words: memoryview, index: int) -> None:
        self._words = words
        self._base = index * WORDS_PER_SLOT

    @property
    def pid(self) -> int:
        """Process that holds the slot, 0 before the first."""
        return self._load(Field.PID)

    @property
    def beat_ms(self) -> int:
        """Time of the holder's last beat, ms of the monotonic clock."""
        return self._load(Field.BEAT)

    @property
    def state(self) -> State:
        """What the holder last said of itself."""
        return State(self._load(Field.STATE))

    @property
    def restart_count(self) -> int:
        """Times that the supervisor started the role again."""
        return self._load(Field.RESTART_COUNT)

    def _load(self, field: Field) -> int:
        value: int = self._words[self._base + field]
        return value


class HeartbeatSlot(HeartbeatReader):
    """Write side of one slot for the role that holds it."""

    def take(self, *, pid: int, now_ms: int) -> None:
        """Make the slot that of process `pid`, in state STARTING."""
        self._words[self._base + Field.STATE] = State.STARTING
        self._words[self._base + Field.BEAT] = now_ms
        self._words[self._base + Field.PID] = pid

    def beat(self, now_ms: int) -> None:
        """Say that the role lives. SYNC POINT: pairs with beat_ms in the supervisor's watch."""
        self._words[self._base + Field.BEAT] = now_ms

    def enter(self, state: State) -> None:
        """Say what the role does now."""
        self._words[self._base + Field.STATE] = state


class HeartbeatTable:
    """All slots of one broker. Made by the supervisor before it forks."""

    def __init__(self, slot_count: int) -> None:
        if slot_count < 1:
            raise LayoutError(
                "a heartbeat table needs a slot", slot_count=slot_count, allowed="1 or more"
            )
        self.slot_count = slot_count
        self._memory = mmap.mmap(-1, table_size(slot_count), flags=mmap.MAP_SHARED)
        self._words = memoryview(self._memory).cast("Q")

    def slot(self, index: int) -> HeartbeatSlot:
        """Write side of slot `index`, for its role."""
        self._check(index)
        return HeartbeatSlot(self._words, index)

    def reader(self, index: int) -> HeartbeatReader:
        """Read side of slot `index`."""
        self._check(index)
        return HeartbeatReader(self._words, index)

    def count_restart(self, index: int) -> None:
        """Count one more start of slot `index`'s role. The supervisor's word, nobody else's."""
        self._check(index)
        self._words[index * WORDS_PER_SLOT + Field.RESTART_COUNT] += 1

    def vacate(self, index: int) -> None:
        """Clear the slot of a process that the supervisor has seen dead."""
        self._check(index)
        base = index * WORDS_PER_SLOT
        self._words[base + Field.PID] = 0
        self._words[base + Field.STATE] = State.STARTING

    def close(self) -> None:
        """Unmap the table. Slots must not be used afterwards."""
        self._words.release()
        self._memory.close()

    def _check(self, index: int) -> None:
        if not 0 <= index < self.slot_count:
            raise LayoutError(
                "no such heartbeat slot", index=index, allowed=f"0 to {self.slot_count - 1}"
            )
