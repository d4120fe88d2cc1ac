"""Descriptors of this process, to find what a test left open."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path

Fds = frozenset[tuple[int, str]]


def open_fds() -> Fds:
    """Every descriptor with what it is of."""
    gc.collect()
    found: list[tuple[int, str]] = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # The one that lists the folder.
            found.append((int(path.name), str(path.readlink())))
    return frozenset(found)
