"""How much of the cores a role may have that nobody waits for: what is left over, or a small share.

A process of SCHED_IDLE runs where a core has nothing else to do, and a process that wakes up takes
the core from it at once. Where there is no such core for long, the role asks for a nice value
instead, which gives it a small share of a busy machine; the kernel allows that to a process with
CAP_SYS_NICE or a RLIMIT_NICE, and without it the role goes on with what is left over.

Not where somebody waits for a journal of the file system that the role holds up: what is preempted
within a transaction holds up its commit, and with it everybody's sync, until it runs again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from shmq.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

NICE: Final = 10
"""A tenth of what a process of normal priority gets beside it."""
PATIENCE_MS: Final = 30_000
"""Longest time behind before a share is asked for."""


def schedule(policy: int) -> None:
    """Set the policy of the calling process.

    Raises:
        PermissionError: it is not let out of SCHED_IDLE.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), NICE))
    os.sched_setscheduler(0, policy, os.sched_param(0))


class GiveWay:
    """Decides by which policy a role is scheduled."""

    def __init__(
        self, *, may_idle: bool = True, set_policy: Callable[[int], None] = schedule
    ) -> None:
        """`may_idle`: else it always has its share; `set_policy` as schedule()."""
        self._may_idle = may_idle
        self._set_policy = set_policy
        self._log = get_logger()
        self._behind_since_ms = 0
        """0 when it is not behind."""
        self._policy = -1
        """What was asked for last; -1 before the first time."""

    def note(self, now_ms: int, *, behind: bool) -> None:
        """Whether the role is behind at `now_ms`, monotonic: for long enough, it gets a share."""
        if not behind:
            self._behind_since_ms = 0
        elif not self._behind_since_ms:
            self._behind_since_ms = now_ms
        since_ms = self._behind_since_ms
        late = since_ms and now_ms - since_ms >= PATIENCE_MS
        self._ask(os.SCHED_IDLE if self._may_idle and not late else os.SCHED_OTHER)

    def end(self) -> None:
        """Somebody waits for the role now."""
        self._ask(os.SCHED_OTHER)

    def _ask(self, policy: int) -> None:
        if policy == self._policy:
            return
        self._policy = policy
        try:
            self._set_policy(policy)
        except PermissionError:  # Of some sandboxes for any policy.
            if policy == os.SCHED_OTHER:
                self._may_idle = False  # So it is not asked again; what it has now, it keeps.
                self._log.warning(
                    "role.waits_for_idle_cores",
                    hint="every core is busy and the kernel gives this role nothing but what is "
                    f"left; a RLIMIT_NICE of {20 - NICE} or CAP_SYS_NICE would let it have a share",
                )
