"""Plain twin of fence.py."""

from __future__ import annotations

import threading


def fence() -> None:
    """A full barrier: taking a lock that nobody else has is one."""
    lock = threading.Lock()
    lock.acquire()
    lock.release()
