"""The housekeeping role: slow work that nobody waits for.

Publishes what this host has left, for those who decide by it:
- MEMORY_TOTAL, MEMORY_AVAILABLE (bytes, psutil): the 40 % rule sends readers to a slave when the
  unread part of the log is more than accessMessageInMemoryMaxRatio of memory.
- DISK_USED (0.01 %): sends are refused above diskSpaceWarningLevelRatio.

A Chore is one such piece of work with an interval of its own; retention (retention.py), which
publishes LOG_START and the queues' min offsets, is one as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import psutil

from shmq import log as shmq_log
from shmq.layout.control import Word
from shmq.units import SECOND_MS
from shmq.workers import retention

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from shmq.config import Settings
    from shmq.shm.doorbell import Doorbell
    from shmq.shm.words import WordWriter
    from shmq.workers.context import Context

TICK_MS: Final = SECOND_MS
PARTS_PER_PERCENT: Final = 100
"""DISK_USED counts in 0.01 %."""


class Chore(Protocol):
    """One piece of slow work."""

    interval_ms: int

    def do(self, now_ms: int) -> int:
        """Do it; the number of things done. Bounded: the role must beat in between."""
        ...

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change."""
        ...

    def close(self) -> None:
        """Give back what it opened."""
        ...


class MemoryCheck:
    """Publishes the memory that this host has and has left."""

    interval_ms = TICK_MS

    def __init__(
        self,
        *,
        total: WordWriter,
        available: WordWriter,
        look: Callable[[], tuple[int, int]] = lambda: psutil.virtual_memory()[0:2],
    ) -> None:
        self._total = total
        self._available = available
        self._look = look

    def do(self, now_ms: int) -> int:  # noqa: ARG002  as every Chore
        """Look and publish."""
        total, available = self._look()
        self._total.publish(total)
        self._available.publish(available)
        return 1

    def reload(self, settings: Settings) -> None:
        """Nothing here can be set."""

    def close(self) -> None:
        """Nothing was opened."""


class DiskCheck:
    """Publishes how full the commitlog's file system is, and logs when it crosses the limit."""

    interval_ms = TICK_MS

    def __init__(
        self,
        *,
        folder: Path,
        used: WordWriter,
        warning_percent: int,
        look: Callable[[str], float] = lambda path: psutil.disk_usage(path).percent,
    ) -> None:
        self._folder = folder
        self._used = used
        self._warning_percent = warning_percent
        self._look = look
        self._log = shmq_log.get_logger()
        self._full = False

    def do(self, now_ms: int) -> int:  # noqa: ARG002  as every Chore
        """Look and publish."""
        percent = self._look(str(self._folder))
        self._used.publish(round(percent * PARTS_PER_PERCENT))
        full = percent >= self._warning_percent
        if full and not self._full:
            self._log.error(
                "disk.filled",
                folder=str(self._folder),
                used_percent=percent,
                allowed_percent=self._warning_percent,
                hint="sends are refused until there is room; consumers go on",
            )
        elif self._full and not full:
            self._log.info("disk.emptied", folder=str(self._folder), used_percent=percent)
        self._full = full
        return 1

    def reload(self, settings: Settings) -> None:
        """Take the limit anew."""
        self._warning_percent = settings.disk_space_warning_level_ratio

    def close(self) -> None:
        """Nothing was opened."""


class HousekeepingRole:
    """Does each chore when its interval is over."""

    def __init__(self, *, chores: Sequence[Chore], bell: Doorbell) -> None:
        self._chores = chores
        self._bell = bell
        self._due_ms = [0] * len(chores)

    def step(self, now_ms: int) -> int:
        """Do what is due. A chore that was missed is done once, not once for each time missed."""
        done = 0
        for number, chore in enumerate(self._chores):
            # A clock that was set back must not stop the chores for as long.
            late = now_ms >= self._due_ms[number]
            early = now_ms < self._due_ms[number] - chore.interval_ms
            if late or early:
                self._due_ms[number] = now_ms + chore.interval_ms
                done += chore.do(now_ms)
        return done

    def wait(self, timeout_ms: int) -> None:
        """Sleep until rung."""
        self._bell.arm()
        self._bell.wait(timeout_ms)
        self._bell.disarm()

    def drain(self, now_ms: int) -> bool:  # noqa: ARG002  as every role
        """Nothing here must be finished."""
        return True

    def reload(self, settings: Settings) -> None:
        """Take the settings that may change."""
        for chore in self._chores:
            chore.reload(settings)

    def close(self) -> None:
        """Close the chores."""
        for chore in self._chores:
            chore.close()


def make(context: Context, index: int = 0) -> HousekeepingRole:
    """The housekeeping of this broker; there is one."""
    assert index == 0, "one housekeeping"
    arena = context.arena
    chores: list[Chore] = [
        MemoryCheck(
            total=arena.writer(Word.MEMORY_TOTAL, role="housekeeping"),
            available=arena.writer(Word.MEMORY_AVAILABLE, role="housekeeping"),
        ),
        DiskCheck(
            folder=context.commitlog_dir,
            used=arena.writer(Word.DISK_USED, role="housekeeping"),
            warning_percent=context.settings.disk_space_warning_level_ratio,
        ),
        retention.make(context),
    ]
    return HousekeepingRole(chores=chores, bell=arena.bells["housekeeping"])
