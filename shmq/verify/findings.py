"""What verification finds, one by one, and no more of a kind than a person would read."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

SHOWN_MAX: Final = 20
"""Findings of one kind in one file that are given one by one; of the others only the number."""


class Severity(StrEnum):
    """How bad it is."""

    DAMAGE = "damage"  # bytes are not what the broker wrote
    WARNING = "warning"  # readable, but somebody should look
    INFO = "info"  # as it may well be; good to know


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was found."""

    severity: Severity
    file: str
    """Path below the store folder; absolute when it lies elsewhere."""
    what: str
    at: int | None = None
    """Byte of the file."""
    found: str = ""
    allowed: str = ""
    hint: str = ""
    """What to do."""
    more: int = 0
    """This many of the same kind in the same file are not given one by one."""


class Findings:
    """Collects findings; memory is bounded by the number of files and of kinds."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str], list[Finding]] = {}
        self._more: dict[tuple[str, str], int] = {}

    def add(
        self,
        severity: Severity,
        file: str,
        what: str,
        *,
        at: int | None = None,
        found: object = "",
        allowed: object = "",
        hint: str = "",
    ) -> None:
        """Note one finding; `what` is its kind."""
        shown = self._shown.setdefault((file, what), [])
        if len(shown) >= SHOWN_MAX:
            self.count(file, what, 1)
            return
        shown.append(
            Finding(
                severity=severity,
                file=_text(file),
                what=what,
                at=at,
                found=_text(found),
                allowed=_text(allowed),
                hint=hint,
            )
        )

    def damage(
        self,
        file: str,
        what: str,
        *,
        at: int | None = None,
        found: object = "",
        allowed: object = "",
        hint: str = "",
    ) -> None:
        """Note bytes that are not what the broker wrote."""
        self.add(Severity.DAMAGE, file, what, at=at, found=found, allowed=allowed, hint=hint)

    def count(self, file: str, what: str, number: int) -> None:
        """Note `number` more findings of a kind of which some were added."""
        if number > 0:
            self._more[file, what] = self._more.get((file, what), 0) + number

    def first(self, file: str, what: str, indexes: NDArray[np.intp]) -> list[int]:
        """Those of many findings of a kind that are to be added; the others are counted."""
        self.count(file, what, len(indexes) - SHOWN_MAX)
        return [int(index) for index in indexes[:SHOWN_MAX]]

    def extend(self, findings: list[Finding]) -> None:
        """Take what all() of another gave."""
        for finding in findings:
            self._shown.setdefault((finding.file, finding.what), []).append(finding)

    def all(self) -> list[Finding]:
        """Everything, in the order in which kinds were met."""
        given: list[Finding] = []
        for key, shown in self._shown.items():
            more = self._more.get(key, 0)
            last = msgspec.structs.replace(shown[-1], more=shown[-1].more + more)
            given += [*shown[:-1], last]
        return given


def _text(value: object) -> str:
    """A value as text that can be encoded: names of files may hold any bytes."""
    return str(value).encode(errors="replace").decode()
