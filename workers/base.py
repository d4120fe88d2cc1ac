"""What every role process is: a Role that steps, one loop for all of them, and its signals.

    signal   supervisor                      role process
    SIGTERM  drain all roles in order, end   ignored, as SIGINT: service managers and Ctrl-C
    SIGINT   the same; a second one hastens  signal the whole group, but the supervisor decides
                                             the order
    SIGUSR1  -                               drain this role, end: the supervisor asks so
    SIGHUP   read the settings again         the role's reload(), if it has one
    SIGKILL  its end kills all roles         (the kernel does it, PR_SET_PDEATHSIG)

`run` is the only loop without an end in the project.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, runtime_checkable

import setproctitle

from shmq import log as shmq_log
from shmq.errors import ConfigError, LayoutError, ShmqError
from shmq.layout.heartbeat import State
from shmq.workers.judgement import EXIT_CLEAN, EXIT_DRAIN_LATE, EXIT_FAILED, EXIT_HALT

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from shmq.config import Settings
    from shmq.shm.heartbeat import HeartbeatSlot

IDLE_WAIT_MS: Final = 100
"""Longest sleep of an idle role: a signal or a ring that was lost costs this at most."""
DRAIN_WAIT_MS: Final = 2
PR_SET_PDEATHSIG: Final = 1
DRAIN_SIGNAL: Final = signal.SIGUSR1
CHILD_SIGNALS: Final = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, DRAIN_SIGNAL}
)


class Role(Protocol):
    """One role: its state and its work, but no loop. `now_ms` is ms since the epoch."""

    def step(self, now_ms: int) -> int:
        """Do one bounded piece of work; never wait for others. Return the number of things done."""
        ...

    def wait(self, timeout_ms: int) -> None:
        """Sleep on the role's own doorbell or epoll until there is work, `timeout_ms` at most."""
        ...

    def drain(self, now_ms: int) -> bool:
        """After stop was asked: do one bounded piece of what is left; True when nothing is.

        Raises:
            WorkLeft: something is left that no process can do now.
        """
        ...

    def close(self) -> None:
        """Give back what the role opened."""
        ...


class WorkLeft(ShmqError):
    """A role drains, but a part of its work cannot be done: what depends on it must know."""


@runtime_checkable
class Wakeable(Protocol):
    """A role that can end its own wait(); called from a signal handler, so it only rings."""

    def wake(self) -> None:
        """Make the present or next wait() return at once."""
        ...


@runtime_checkable
class Poller(Protocol):
    """A role whose wait() returns at once when there is work, so that it may follow each step."""

    polls_in_wait: bool


@runtime_checkable
class Reloadable(Protocol):
    """A role that takes new settings while it runs."""

    def reload(self, settings: Settings) -> None:
        """Apply what may change; called between two steps."""
        ...


def epoch_ms() -> int:
    """Time of day, ms since the epoch: for records and offsets of time, not for durations."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Time that never goes back, ms: for durations and beats. The same in all processes."""
    return time.monotonic_ns() // 1_000_000


def spin(found: Callable[[], bool], micros: int) -> bool:
    """Look for work again and again, for so many µs at most; whether there was some."""
    if not micros:
        return False
    end_ns = time.perf_counter_ns() + micros * 1000
    while not found():
        if time.perf_counter_ns() >= end_ns:
            return False
        os.sched_yield()  # Who brings the work may need this very core.
    return True


class Pulse:
    """A role process's tie to the supervisor: its beat, its clock, and what it is asked to do."""

    def __init__(
        self,
        *,
        slot: HeartbeatSlot,
        drain_max_ms: int,
        clock_ms: Callable[[], int] = epoch_ms,
        monotonic_clock_ms: Callable[[], int] = monotonic_ms,
        on_state: Callable[[], None] = lambda: None,
    ) -> None:
        self._slot = slot
        self._drain_max_ms = drain_max_ms
        self._clock_ms = clock_ms
        self._monotonic_clock_ms = monotonic_clock_ms
        self._on_state = on_state
        self._stopping = False
        self._reload_asked = False
        self._drain_end_ms = 0
        self.wake: Callable[[], None] = lambda: None

    def now_ms(self) -> int:
        """Time of day, ms since the epoch."""
        return self._clock_ms()

    def beat(self) -> None:
        """Say that the role lives."""
        self._slot.beat(self._monotonic_clock_ms())

    def ready(self) -> None:
        """Say that the role serves from now on."""
        self.beat()
        self._slot.enter(State.READY)
        self._on_state()

    def stopping(self) -> bool:
        """Whether the role was asked to stop."""
        return self._stopping

    def stop(self) -> None:
        """Ask the role to stop. Called from the signal handler."""
        self._stopping = True
        self.wake()

    def ask_reload(self) -> None:
        """Ask the role to take new settings. Called from the signal handler."""
        self._reload_asked = True
        self.wake()

    def take_reload(self) -> bool:
        """Whether new settings were asked for since the last call."""
        asked = self._reload_asked
        self._reload_asked = False
        return asked

    def begin_drain(self) -> None:
        """Say that the role drains, and start the clock for it."""
        self._drain_end_ms = self._monotonic_clock_ms() + self._drain_max_ms
        self._slot.enter(State.DRAINING)
        self._on_state()

    def drain_late(self) -> bool:
        """Whether the time for draining is over."""
        return self._monotonic_clock_ms() >= self._drain_end_ms


def run(role: Role, pulse: Pulse, *, reload: Callable[[], None] = lambda: None) -> bool:
    """Step `role` until asked to stop, then drain it. True when nothing was left to do."""
    always_waits = isinstance(role, Poller) and role.polls_in_wait
    try:
        pulse.ready()
        while not pulse.stopping():
            pulse.beat()
            if pulse.take_reload():
                reload()
            if role.step(pulse.now_ms()) == 0 or always_waits:
                role.wait(IDLE_WAIT_MS)
        pulse.begin_drain()
        while not role.drain(pulse.now_ms()):
            pulse.beat()
            if pulse.drain_late():
                return False
            role.wait(DRAIN_WAIT_MS)
        return True
    finally:
        role.close()


def end_with(supervisor_pid: int) -> None:
    """Have the kernel kill this process when the supervisor ends, however it ends.

    SIGKILL, not SIGTERM: roles that drain side by side and without order confirm nothing more
    anyway, a stopped or stuck role must go as well, and what was confirmed lies in the shared hot
    pages, where the next start finds it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != supervisor_pid:  # It ended between fork and prctl.
        os._exit(EXIT_FAILED)


def take_signals(pulse: Pulse) -> None:
    """Set the handlers of a role process, then let the signals through that the fork held back."""

    def on_stop(_number: int, _frame: FrameType | None) -> None:
        pulse.stop()

    def on_reload(_number: int, _frame: FrameType | None) -> None:
        pulse.ask_reload()

    signal.set_wakeup_fd(-1)
    signal.signal(DRAIN_SIGNAL, on_stop)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, on_reload)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, CHILD_SIGNALS)


def live(
    *,
    role_name: str,
    make: Callable[[], Role],
    pulse: Pulse,
    supervisor_pid: int,
    reload: Callable[[Role], None],
) -> NoReturn:
    """Be the process of one role from the fork to its exit code. Never returns."""
    code = EXIT_FAILED
    try:
        end_with(supervisor_pid)
        setproctitle.setproctitle(f"shmq: {role_name}")
        faulthandler.enable()
        take_signals(pulse)
        code = _live(role_name, make, pulse, reload)
    finally:
        # No atexit, no destructors: they belong to the supervisor, of which this is a copy.
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = code or EXIT_FAILED
        os._exit(code)


def _live(
    role_name: str, make: Callable[[], Role], pulse: Pulse, reload: Callable[[Role], None]
) -> int:
    log = shmq_log.get_logger()
    try:
        role = make()
        if isinstance(role, Wakeable):
            pulse.wake = role.wake
        if run(role, pulse, reload=lambda: reload(role)):
            return EXIT_CLEAN
        log.warning("role.drained_late", hint="work was left when the time for draining was over")
    except WorkLeft as error:
        log.error("role.left_work", error=error)  # noqa: TRY400  no fault of ours: no traceback
    except (ConfigError, LayoutError) as error:
        log.exception("role.refused", error=error)
        return EXIT_HALT
    except Exception as error:
        log.exception("role.failed", error=error, failed_role=role_name)
        return EXIT_FAILED
    return EXIT_DRAIN_LATE
