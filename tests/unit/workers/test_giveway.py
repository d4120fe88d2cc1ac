"""Whether a role that nobody waits for has what is left of the cores, or a share of them."""

from __future__ import annotations

import os

from shmq.workers import giveway
from shmq.workers.giveway import PATIENCE_MS, GiveWay


class Kernel:
    """What was asked of it; it may refuse to give a share."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.policies: list[int] = []
        self.asked = 0
        self._refuses = refuses

    def set_policy(self, policy: int) -> None:
        """As giveway.schedule()."""
        if policy != os.SCHED_IDLE:
            self.asked += 1
            if self._refuses:
                raise PermissionError("not let out")
        self.policies.append(policy)


def test_idle_from_the_first_look_until_it_is_long_behind() -> None:
    kernel = Kernel()
    way = GiveWay(set_policy=kernel.set_policy)
    assert kernel.policies == []  # Its start is waited for.
    for now_ms, behind in ((1, False), (1000, True), (1000 + PATIENCE_MS - 1, True)):
        way.note(now_ms, behind=behind)
        assert kernel.policies == [os.SCHED_IDLE]
    way.note(1000 + PATIENCE_MS, behind=True)
    assert kernel.policies == [os.SCHED_IDLE, os.SCHED_OTHER]
    way.note(2000 + PATIENCE_MS, behind=True)
    assert kernel.policies == [os.SCHED_IDLE, os.SCHED_OTHER]
    way.note(3000 + PATIENCE_MS, behind=False)
    assert kernel.policies == [os.SCHED_IDLE, os.SCHED_OTHER, os.SCHED_IDLE]


def test_time_behind_counts_from_when_it_was_last_even() -> None:
    kernel = Kernel()
    way = GiveWay(set_policy=kernel.set_policy)
    for now_ms in range(1000, 10 * PATIENCE_MS, PATIENCE_MS - 1000):
        way.note(now_ms, behind=True)
        way.note(now_ms + 500, behind=False)
    assert kernel.policies == [os.SCHED_IDLE]


def test_a_kernel_that_gives_no_share_is_asked_once() -> None:
    kernel = Kernel(refuses=True)
    way = GiveWay(set_policy=kernel.set_policy)
    for now_ms in (1, PATIENCE_MS + 1, 2 * PATIENCE_MS):
        way.note(now_ms, behind=True)
    way.note(3 * PATIENCE_MS, behind=False)
    way.end()
    assert kernel.policies == [os.SCHED_IDLE]
    assert kernel.asked == 1


def test_where_syncs_are_waited_for_it_has_its_share_from_the_start() -> None:
    kernel = Kernel()
    way = GiveWay(may_idle=False, set_policy=kernel.set_policy)
    for now_ms, behind in ((1, False), (2, True), (2 + 2 * PATIENCE_MS, True), (10**6, False)):
        way.note(now_ms, behind=behind)
    assert kernel.policies == [os.SCHED_OTHER]


def test_its_end_is_waited_for() -> None:
    kernel = Kernel()
    way = GiveWay(set_policy=kernel.set_policy)
    way.note(1, behind=True)
    way.end()
    assert kernel.policies == [os.SCHED_IDLE, os.SCHED_OTHER]


def test_the_real_kernel_takes_both() -> None:
    """In a process of its own, which has no way back."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            giveway.schedule(os.SCHED_IDLE)
            nice = os.getpriority(os.PRIO_PROCESS, 0)
            code = 0 if (os.sched_getscheduler(0), nice) == (os.SCHED_IDLE, giveway.NICE) else 2
        finally:
            os._exit(code)
    _pid, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
