"""Death between any two visible acts of a role.

Everything that another process or a later one can see of a role is a word that it publishes or
bytes that it writes into a file. With seams armed, the role dies (an exception that nothing of ours
catches) before or after the n-th of these, or in the middle of a write; its object is then thrown
away, as the kernel throws away a killed process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shmq.shm.words import OwnedCell

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    import pytest

    T = TypeVar("T")


class Died(BaseException):
    """The role was killed here."""


class Seams:
    """Counts what a role does, and lets it die at the chosen place."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left: int | None = None
        self.passed = 0
        publish, pwrite, fdatasync = OwnedCell.publish, os.pwrite, os.fdatasync
        seams = self

        def dying_publish(cell: OwnedCell, value: int) -> None:
            seams._pass()
            publish(cell, value)
            seams._pass()

        def dying_pwrite(fd: int, data: bytes, at: int) -> int:
            seams._pass()
            if seams._left == 0:
                pwrite(fd, data[: len(data) // 2], at)
            seams._pass()
            return pwrite(fd, data, at)

        def dying_fdatasync(fd: int) -> None:
            seams._pass()
            fdatasync(fd)
            seams._pass()

        monkeypatch.setattr(OwnedCell, "publish", dying_publish)
        monkeypatch.setattr(os, "pwrite", dying_pwrite)
        monkeypatch.setattr(os, "fdatasync", dying_fdatasync)

    def run(self, act: Callable[[], T], *, death_at: int | None) -> T | None:
        """Do `act`; None when it died at seam number `death_at`, counted from 0."""
        self._left, self.passed = death_at, 0
        try:
            return act()
        except Died:
            return None
        finally:
            self._left = None

    def _pass(self) -> None:
        self.passed += 1
        if self._left is None:
            return
        if self._left == 0:
            raise Died
        self._left -= 1
