"""What to do about the end of a role process, and which process is stuck. Pure: no fork, no clock.

how it ended                                          verdict
----------------------------------------------------  ---------------------------------------
before the broker was ready                           HALT, boot failed
with EXIT_HALT: the role itself says that it is no    HALT
  use (wrong setting, foreign layout)
more than restarts_max times in restarts_window       HALT, keeps dying
any other way, also with exit code 0 unasked          RESTART, at once the first times, then
                                                      after a pause that doubles
"""

from __future__ import annotations

import enum
import signal
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.errors import ConfigError
from shmq.units import SECOND_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

EXIT_CLEAN: Final = 0
EXIT_FAILED: Final = 1
"""An exception that nobody expected; a new process may do better."""
EXIT_DRAIN_LATE: Final = 3
"""Stopped as asked, but work was left when the time for it was over."""
EXIT_HALT: Final = 4
"""A new process would fail the same way."""

IMMEDIATE_RESTARTS: Final = 3
RESTART_PAUSE_FIRST_MS: Final = 100
RESTART_PAUSE_MAX_MS: Final = 800
RESTARTS_MAX_DEFAULT: Final = 5
RESTARTS_WINDOW_DEFAULT_MS: Final = 60 * SECOND_MS


class Exit(NamedTuple):
    """The end of one role process."""

    role: str
    pid: int
    at_ms: int
    """Monotonic clock."""
    code: int | None
    """Exit code, None when a signal ended it."""
    signal_number: int | None
    broker_ready: bool
    """Whether the broker as a whole was ready before."""
    why: str = ""
    """What the supervisor knows of the cause, for instance that it killed a stuck process."""

    def how(self) -> str:
        """How the process ended, for a person."""
        if self.signal_number is not None:
            try:
                name = signal.Signals(self.signal_number).name
            except ValueError:
                name = str(self.signal_number)
            how = f"killed by {name}"
        else:
            how = f"exit code {self.code}"
        return f"{how} ({self.why})" if self.why else how


class Action(enum.Enum):
    """The two answers to a death."""

    RESTART = "restart"
    HALT = "halt"


class Verdict(NamedTuple):
    """What the supervisor shall do, and why."""

    action: Action
    reason: str
    pause_ms: int = 0
    """Time to wait before the restart."""


class Policy(NamedTuple):
    """How many deaths of one role are borne in which time."""

    restarts_max: int = RESTARTS_MAX_DEFAULT
    restarts_window_ms: int = RESTARTS_WINDOW_DEFAULT_MS


def judge(exits: Sequence[Exit], policy: Policy) -> Verdict:
    """Verdict on the last of `exits`, which holds the exits of all roles, oldest first."""
    assert exits, "a verdict needs a death"
    last = exits[-1]
    if not last.broker_ready:
        return Verdict(Action.HALT, f"boot failed: {last.role} ended before ready: {last.how()}")
    if last.code == EXIT_HALT:
        return Verdict(
            Action.HALT, f"{last.role} cannot go on: {last.how()}; its last error is in the log"
        )
    recent = [
        exit_
        for exit_ in exits
        if exit_.role == last.role and last.at_ms - exit_.at_ms < policy.restarts_window_ms
    ]
    if len(recent) > policy.restarts_max:
        return Verdict(
            Action.HALT,
            f"{last.role} keeps dying: {len(recent)} times in {policy.restarts_window_ms} ms, "
            f"allowed {policy.restarts_max}; the last time: {last.how()}",
        )
    return Verdict(Action.RESTART, f"{last.role} ended: {last.how()}", pause_ms(len(recent)))


def pause_ms(death_count: int) -> int:
    """Pause before the restart that follows the `death_count`-th death in the window."""
    if death_count <= IMMEDIATE_RESTARTS:
        return 0
    doublings = min(death_count - IMMEDIATE_RESTARTS - 1, 10)
    return min(RESTART_PAUSE_FIRST_MS << doublings, RESTART_PAUSE_MAX_MS)


def hint(ended: Exit) -> str:
    """What an operator may look for after such an end; empty when there is nothing to say."""
    if ended.why:
        return ""
    if ended.signal_number == signal.SIGKILL:
        return "killed from outside; look for the OOM killer in the kernel log"
    if ended.signal_number in {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT}:
        return "a fault in compiled code, or /dev/shm or the disk is full; please report it"
    if ended.code == EXIT_CLEAN:
        return "ended without being asked by the supervisor; signals go to the supervisor's pid"
    return ""


class BeatWatch:
    """How long one role has been silent, counted only while the supervisor itself was awake.

    When the whole family was stopped (Ctrl-Z, a suspended machine), the first look afterwards
    finds old beats everywhere. So silence is added up look by look, each look counting for
    LOOK_MAX_MS at most: nobody is killed for a pause that the supervisor shared.
    """

    LOOK_MAX_MS: Final = 1000

    def __init__(self, *, silence_max_ms: int) -> None:
        if silence_max_ms < 1:
            raise ConfigError(
                "a role needs time between two beats",
                silence_max_ms=silence_max_ms,
                allowed="1 or more",
            )
        self._silence_max_ms = silence_max_ms
        self._beat_ms = -1
        self._looked_ms = -1
        self.silent_ms = 0

    def look(self, *, beat_ms: int, now_ms: int) -> bool:
        """Whether the role has been silent for too long, given the beat that it shows now."""
        if beat_ms != self._beat_ms or self._looked_ms < 0:
            self._beat_ms = beat_ms
            self.silent_ms = 0
        else:
            self.silent_ms += min(now_ms - self._looked_ms, self.LOOK_MAX_MS)
        self._looked_ms = now_ms
        return self.silent_ms >= self._silence_max_ms
