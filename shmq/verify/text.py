"""Findings as text for a person, and how far the work has come on a terminal."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from shmq.units import GiB, KiB, MiB
from shmq.verify.findings import Finding, Severity

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from shmq.verify import Result

ERASE: Final = "\r\x1b[K"
SHOWN_MAX: Final = 3
"""Of one kind in one file; as JSON there are more."""
REDRAW_S: Final = 0.2
INDENT: Final = " " * 9
MINUTE_S: Final = 60
HOUR_S: Final = 3600


def findings_text(findings: Sequence[Finding]) -> Iterator[str]:
    """Lines for findings; those of a kind in one file stand together, a few of them one by one."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.file, finding.what), []).append(finding)
    for same in kinds.values():
        yield from _kind_text(same)


def _kind_text(same: list[Finding]) -> Iterator[str]:
    """One kind in one file. Nothing in it can move the cursor of a terminal."""
    first = same[0]
    head = f"{first.severity.value:8} {plain(first.file)}"
    if len(same) == 1 and first.at is not None:
        head += f" at byte {first.at}"
    yield f"{head}: {plain(first.what)}"
    for one in same[:SHOWN_MAX]:
        place = f"at byte {one.at}: " if len(same) > 1 and one.at is not None else ""
        facts = (("found", one.found), ("allowed", one.allowed))
        told = "; ".join(f"{name} {plain(value)}" for name, value in facts if value)
        if place or told:
            yield INDENT + (place + told).removesuffix(": ")
    more = sum(one.more for one in same) + len(same[SHOWN_MAX:])
    if more:
        yield f"{INDENT}and {more:,} more of this kind in this file"
    if first.hint:
        yield f"{INDENT}> {plain(first.hint)}"


def summary_text(result: Result, seconds: float) -> str:
    """What was looked at, how fast, and the verdict."""
    rate = f", {size_text(result.size / seconds)}/s" if seconds > 0 else ""
    log_bytes = f"bytes {result.log_start} to {result.log_end}"
    looked = [
        f"verified {size_text(result.size)} in {seconds:.1f} s{rate}:",
        f"  commitlog     {result.log_files:,} files, {log_bytes}, {result.records:,} records",
        f"  consumequeue  {result.queues:,} queues, {result.entries:,} entries",
        f"  index         {result.index_files:,} files, {result.index_entries:,} entries",
        f"  config        {result.tables:,} files",
    ]
    verdict = "sound" if result.is_sound else "DAMAGED"
    told = ", ".join(
        f"{name} {result.count(severity):,}"
        for name, severity in (
            ("damage", Severity.DAMAGE),
            ("warnings", Severity.WARNING),
            ("notes", Severity.INFO),
        )
    )
    return "\n".join([*looked, f"{verdict}: {told}"])


def plain(text: str) -> str:
    """Text without anything that a terminal obeys."""
    return "".join(mark if mark.isprintable() else f"\\x{ord(mark):02x}" for mark in text)


def size_text(size: float) -> str:
    """Bytes for a person: 17 B, 1.5 MiB."""
    for unit, name in ((GiB, "GiB"), (MiB, "MiB"), (KiB, "KiB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"


class Progress:
    """One line on standard error that is written again and again; silent when that is a file."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0

    def __call__(self, done: int, whole: int) -> None:
        """Show that `done` of `whole` bytes are done."""
        now = time.monotonic()
        if not self._live or now - self._drawn < REDRAW_S:
            return
        self._drawn = now
        rate = done / max(now - self._started, 0.001)
        left = _span((whole - done) / rate) if rate > 0 else "?"
        percent = 100 * done / whole if whole else 100
        sys.stderr.write(
            f"{ERASE}{percent:3.0f} %  {size_text(done)} of {size_text(whole)}  "
            f"{size_text(rate)}/s  {left} left"
        )
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._live and self._drawn:
            sys.stderr.write(ERASE)
            sys.stderr.flush()


def _span(seconds: float) -> str:
    if seconds >= HOUR_S:
        return f"{seconds / HOUR_S:.1f} h"
    if seconds >= MINUTE_S:
        return f"{seconds / MINUTE_S:.0f} min"
    return f"{seconds:.0f} s"
