"""Keeps the writer off the core of the client that streams into its ring.

A kernel that wakes a process looks for an idle core near by, but where few cores share the last
cache it stops looking once these are half busy, and takes the core of whoever woke it. Then client
and writer take turns on one core while another has nothing to do, and stay there, since each wakes
the other. Stepping off once is enough for some time.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Final

from shmq.kernels.cores import core

if TYPE_CHECKING:
    from collections.abc import Callable

INTERVAL_NS: Final = 2_000_000
"""A step moves the process and its caches: not more often than this."""


class StepAside:
    """Moves the calling process when it shares a core."""

    def __init__(
        self,
        *,
        core: Callable[[], int] = core,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._core = core
        self._clock_ns = clock_ns
        self._last_ns = -INTERVAL_NS

    def avoid(self, taken: int) -> bool:
        """Run on another core than `taken`, from now until the kernel moves it again; if it did."""
        if self._core() != taken:
            return False
        now_ns = self._clock_ns()
        if now_ns - self._last_ns < INTERVAL_NS:
            return False
        self._last_ns = now_ns
        allowed = os.sched_getaffinity(0)
        others = allowed - {taken}
        if not others:
            return False
        with contextlib.suppress(OSError):  # The administrator may have changed what is allowed.
            os.sched_setaffinity(0, others)
            os.sched_setaffinity(0, allowed)
        return True
