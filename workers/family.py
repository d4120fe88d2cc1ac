"""The family of role processes: forked in order, watched, replaced when they die, drained in order.

A member's life:

    forked --ready--> serving --asked to stop--> draining --> ended
       |                 |                          |
       +---- dies, or is silent too long, killed ---+--> judged: RESTART (after a pause) or HALT

The supervisor process does nothing but fork, wait and signal, and reads beats in memory that no
child can take away. Everything that decides is in judgement.py. It has one thread, one place where
it sleeps (`_sleep`), and every sleep ends by a signal, by news of a member, or by its timeout.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn

from shmq import log as shmq_log
from shmq.config import apply_reload
from shmq.errors import ShmqError
from shmq.layout.heartbeat import State
from shmq.shm.heartbeat import HeartbeatTable
from shmq.workers import base
from shmq.workers.base import Pulse, Reloadable, Role, epoch_ms, monotonic_ms
from shmq.workers.judgement import (
    EXIT_CLEAN,
    EXIT_DRAIN_LATE,
    EXIT_FAILED,
    EXIT_HALT,
    Action,
    BeatWatch,
    Exit,
    hint,
    judge,
)
from shmq.workers.listeners import close_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shmq.workers.context import Context
    from shmq.workers.judgement import Policy
    from shmq.workers.roles import RoleSpec
    from shmq.workers.signals import Inbox

LOOK_MS: Final = 500
"""Longest sleep of the supervisor between two looks at the beats."""
DRAIN_GRACE_MS: Final = 1000
"""A role knows its own time for draining; the supervisor gives it this much more."""
HASTENED_MS: Final = 1000
KILL_MAX_MS: Final = 10_000
KILL_LOOK_MS: Final = 50
EXITS_KEPT: Final = 256
DRAIN_TRIES: Final = 2


class Halted(ShmqError):
    """The broker cannot go on; str(error) is the reason."""


@dataclass(kw_only=True)
class Member:
    """One role process and what the supervisor knows of it."""

    spec: RoleSpec
    index: int
    name: str
    slot: int
    watch: BeatWatch
    pid: int = 0
    forked_ms: int = 0
    ready: bool = False
    restart_at_ms: int | None = None
    asked_to_stop: bool = False
    stop_asked_ms: int = 0
    killed_why: str = ""
    last_code: int | None = None
    """Exit code of the last process, None when a signal ended it or none has ended."""
    drain_tries: int = 0
    given_up: bool = False


class Family:
    """All role processes of one broker."""

    def __init__(
        self,
        *,
        specs: Sequence[RoleSpec],
        context: Context,
        policy: Policy,
        inbox: Inbox,
        on_change: Callable[[], None] = lambda: None,
        on_look: Callable[[], None] = lambda: None,
        look_ms: int = LOOK_MS,
    ) -> None:
        self.context = context
        self.policy = policy
        self._inbox = inbox
        self._on_change = on_change
        self._on_look = on_look
        self._log = shmq_log.get_logger()
        self._makes = {spec.name: spec.load() for spec in specs}
        self.members = [
            Member(
                spec=spec,
                index=index,
                name=name,
                slot=-1,
                watch=BeatWatch(silence_max_ms=spec.silence_max_ms),
            )
            for spec in specs
            for index, name in enumerate(spec.process_names())
        ]
        self._heartbeats = HeartbeatTable(len(self.members))
        for slot, member in enumerate(self.members):
            member.slot = slot
        self._look_ms = min([look_ms, *(spec.silence_max_ms // 4 for spec in specs)])
        self._news = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._selector = selectors.DefaultSelector()
        self._selector.register(inbox, selectors.EVENT_READ)
        self._selector.register(self._news, selectors.EVENT_READ)
        self._exits: deque[Exit] = deque(maxlen=EXITS_KEPT)
        self._broker_ready = False
        self._supervisor_pid = os.getpid()

    # Start

    def start(self) -> bool:
        """Fork all members, rank by rank; True when all are ready, False when asked to stop first.

        Raises:
            Halted: a member ended before it was ready, or was not ready in time.
        """
        gc.collect()
        gc.freeze()  # What lives now is shared by all members and never collected by one of them.
        for rank in sorted({member.spec.start_rank for member in self.members}):
            starting = [member for member in self.members if member.spec.start_rank == rank]
            for member in starting:
                self._fork(member)
            while not all(member.ready for member in starting):
                if self._inbox.stop_asked:
                    return False
                self._turn()
        self._broker_ready = True
        self._on_change()
        return True

    def watch(self) -> None:
        """Keep the members alive until the supervisor is asked to stop.

        Raises:
            Halted: the judgement on a death was to halt.
        """
        while not self._inbox.stop_asked:
            self._turn()

    # End

    def drain(self) -> bool:
        """Stop all members, rank by rank; True when each of them ended with nothing left to do."""
        for rank in sorted({member.spec.drain_rank for member in self.members}):
            leaving = [
                member
                for member in self.members
                if member.spec.drain_rank == rank and not member.given_up
            ]
            self._drain_rank(leaving)
        return all(
            member.last_code == EXIT_CLEAN and not member.given_up
            for member in self.members
            if member.forked_ms
        )

    def data_kept(self) -> bool:
        """Whether all that members were to bring to disk is there, so that hot pages may go."""
        keepers = [member for member in self.members if member.spec.keeps_data]
        never_forked = not any(member.forked_ms for member in self.members)
        return never_forked or all(
            member.last_code == EXIT_CLEAN and member.pid == 0 for member in keepers
        )

    def kill(self) -> None:
        """End every member at once and wait until each is gone. For ways out that are not clean."""
        for member in self.members:
            if member.pid:
                member.asked_to_stop = True
                member.drain_tries = DRAIN_TRIES
                self._kill(member, "the supervisor ends")
        deadline_ms = monotonic_ms() + KILL_MAX_MS
        while any(member.pid for member in self.members) and monotonic_ms() < deadline_ms:
            self._sleep(KILL_LOOK_MS)
            self._reap()

    def close(self) -> None:
        """Give back descriptors and memory, after drain() or kill()."""
        self._selector.close()
        os.close(self._news)
        self._heartbeats.close()
        gc.unfreeze()

    # Signals to the members

    def reload(self) -> None:
        """Have every member read the settings again."""
        for member in self.members:
            if member.pid and not member.asked_to_stop:
                os.kill(member.pid, signal.SIGHUP)

    def describe(self) -> list[dict[str, object]]:
        """Name, pid, state and restart count of each member, for `shmq status`."""
        described: list[dict[str, object]] = []
        for member in self.members:
            slot = self._heartbeats.reader(member.slot)
            state = slot.state.name.lower() if member.pid else "down"
            described.append(
                {
                    "role": member.name,
                    "pid": member.pid,
                    "state": state,
                    "restarts": slot.restart_count,
                }
            )
        return described

    # One turn of the supervisor

    def _turn(self) -> None:
        """Sleep until something happens, then see to every member once."""
        self._sleep(self._timeout_ms())
        self._reap()
        now_ms = monotonic_ms()
        for member in self.members:
            if member.pid:
                self._look(member, now_ms)
            elif member.restart_at_ms is not None and now_ms >= member.restart_at_ms:
                self._restart(member)
        self._on_look()

    def _timeout_ms(self) -> int:
        now_ms = monotonic_ms()
        due = [m.restart_at_ms for m in self.members if m.restart_at_ms is not None and not m.pid]
        return max(min([self._look_ms, *(at_ms - now_ms for at_ms in due)]), 0)

    def _sleep(self, timeout_ms: int) -> None:
        for key, _events in self._selector.select(timeout_ms / 1000):
            if key.fileobj is self._inbox:
                self._inbox.empty()
            else:
                os.eventfd_read(self._news)

    def _reap(self) -> None:
        for member in self.members:
            if member.pid <= 0:
                continue
            ended = os.waitid(os.P_PID, member.pid, os.WEXITED | os.WNOHANG)
            if ended is None:
                continue
            by_code = ended.si_code == os.CLD_EXITED
            self._ended(member, ended.si_status if by_code else None, ended.si_status)

    def _ended(self, member: Member, code: int | None, status: int) -> None:
        exited = Exit(
            role=member.name,
            pid=member.pid,
            at_ms=monotonic_ms(),
            code=code,
            signal_number=None if code is not None else status,
            broker_ready=self._broker_ready,
            why=member.killed_why,
        )
        member.pid = 0
        member.ready = False
        member.last_code = code
        member.killed_why = ""
        self._heartbeats.vacate(member.slot)
        if member.asked_to_stop:
            if code != EXIT_CLEAN:
                self._log.warning("role.drained_badly", **_about(exited))
            return
        self._log.error("role.exited", **_about(exited))
        self._exits.append(exited)
        verdict = judge(list(self._exits), self.policy)
        if verdict.action is Action.HALT:
            member.given_up = True
            raise Halted(verdict.reason)
        member.restart_at_ms = exited.at_ms + verdict.pause_ms
        self._on_change()

    def _look(self, member: Member, now_ms: int) -> None:
        slot = self._heartbeats.reader(member.slot)
        if not member.ready:
            if slot.pid == member.pid and slot.state is not State.STARTING:
                member.ready = True
                self._on_change()
            elif now_ms - member.forked_ms > member.spec.ready_max_ms and not member.killed_why:
                self._kill(member, f"not ready {member.spec.ready_max_ms} ms after the fork")
            return
        if member.watch.look(beat_ms=slot.beat_ms, now_ms=now_ms) and not member.killed_why:
            self._kill(member, f"no beat for {member.watch.silent_ms} ms")

    def _kill(self, member: Member, why: str) -> None:
        member.killed_why = why
        os.kill(member.pid, signal.SIGKILL)  # Not reaped yet, so the pid is still the member's.

    # Fork

    def _restart(self, member: Member) -> None:
        self._heartbeats.count_restart(member.slot)
        self._log.warning("role.restarted", restarted_role=member.name)
        self._fork(member)

    def _fork(self, member: Member) -> None:
        member.restart_at_ms = None
        member.ready = False
        member.forked_ms = monotonic_ms()
        member.watch = BeatWatch(silence_max_ms=member.spec.silence_max_ms)
        signal.pthread_sigmask(signal.SIG_BLOCK, base.CHILD_SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    self._be(member)
                finally:
                    os._exit(EXIT_FAILED)
        except OSError as error:
            member.killed_why = f"fork failed: {error.strerror}"
            member.pid = -1
            self._ended(member, EXIT_FAILED, EXIT_FAILED)
        else:
            member.pid = pid
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, base.CHILD_SIGNALS)

    def _be(self, member: Member) -> NoReturn:
        """Be the member: runs in the child only."""
        slot = self._heartbeats.slot(member.slot)
        pulse = Pulse(
            slot=slot,
            drain_max_ms=member.spec.drain_max_ms,
            clock_ms=lambda: epoch_ms() + self.context.settings.clock_offset_millis,
            on_state=lambda: os.eventfd_write(self._news, 1),
        )

        def make() -> Role:
            settings = self.context.settings
            shmq_log.configure(
                level=settings.log_level,
                fmt=settings.log_format,
                role=member.name,
                pid=os.getpid(),
            )
            slot.take(pid=os.getpid(), now_ms=monotonic_ms())
            self._leave_to_supervisor(member)
            if self.context.shared is not None:
                bell = self.context.shared.bells.get(member.name)
                pulse.wake = bell.force if bell is not None else pulse.wake
            return self._makes[member.spec.name](self.context, member.index)

        base.live(
            role_name=member.name,
            make=make,
            pulse=pulse,
            supervisor_pid=self._supervisor_pid,
            reload=self._reload_in_child,
        )

    def _leave_to_supervisor(self, member: Member) -> None:
        """Close in the child what is the supervisor's or another member's."""
        self._selector.close()
        self._inbox.close()
        for kind, sockets in self.context.listeners.items():
            if kind not in member.spec.listeners:
                close_all(sockets)
            elif len(sockets) > 1:
                close_all([sock for i, sock in enumerate(sockets) if i != member.index])

    def _reload_in_child(self, role: Role) -> None:
        if self.context.load_settings is None:
            return
        try:
            settings, _refused = apply_reload(self.context.settings, self.context.load_settings())
        except (ShmqError, OSError) as error:
            self._log.warning("settings.refused", error=str(error))
            return
        self.context.settings = settings
        shmq_log.set_level(settings.log_level)
        if isinstance(role, Reloadable):
            role.reload(settings)

    # Drain

    def _drain_rank(self, leaving: list[Member]) -> None:
        for member in leaving:
            if member.forked_ms:
                self._ask_to_stop(member)
        while left := [member for member in leaving if member.pid]:
            self._turn_while_draining()
            now_ms = monotonic_ms()
            for member in left:
                if member.pid:
                    self._kill_if_late(member, now_ms)
                elif self._died_draining(member):
                    self._ask_to_stop(member)  # A new process may finish the work.

    def _died_draining(self, member: Member) -> bool:
        ended_itself = member.last_code in {EXIT_CLEAN, EXIT_DRAIN_LATE, EXIT_HALT}
        return (
            not ended_itself
            and member.drain_tries < DRAIN_TRIES
            and not self._inbox.hasten_asked
            and not member.given_up
        )

    def _ask_to_stop(self, member: Member) -> None:
        """Ask a member to drain; one that is dead at this moment lives again for it."""
        if not member.pid:
            self._fork(member)
        member.asked_to_stop = True
        member.drain_tries += 1
        member.stop_asked_ms = monotonic_ms()
        if member.pid:
            os.kill(member.pid, base.DRAIN_SIGNAL)

    def _turn_while_draining(self) -> None:
        """A turn in which nothing can halt any more: whoever would is given up instead."""
        try:
            self._turn()
        except Halted as halted:
            self._log.error("role.given_up", reason=str(halted))

    def _kill_if_late(self, member: Member, now_ms: int) -> None:
        allowed_ms = member.spec.drain_max_ms + DRAIN_GRACE_MS
        given_up = {other.spec.name for other in self.members if other.given_up}
        if self._inbox.hasten_asked or given_up.intersection(member.spec.drains_through):
            allowed_ms = min(allowed_ms, HASTENED_MS)
        if now_ms - member.stop_asked_ms > allowed_ms and not member.killed_why:
            member.drain_tries = DRAIN_TRIES
            self._kill(member, f"not drained in {allowed_ms} ms")


def _about(exited: Exit) -> dict[str, object]:
    """An exit as log fields."""
    fields: dict[str, object] = {
        "exited_role": exited.role,
        "exited_pid": exited.pid,
        "how": exited.how(),
    }
    if found := hint(exited):
        fields["hint"] = found
    return fields
