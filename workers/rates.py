"""Rates of what the broker does, over the last ten seconds, minute and ten minutes."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from shmq.layout.control import Word
from shmq.layout.counters import Counter
from shmq.shm.counters import totals
from shmq.units import MINUTE_MS, SECOND_MS

if TYPE_CHECKING:
    from shmq.shm.arena import Arena

SAMPLE_INTERVAL_MS: Final = 1 * SECOND_MS
SPANS_MS: Final = (10 * SECOND_MS, MINUTE_MS, 10 * MINUTE_MS)


class Sample(NamedTuple):
    """Totals at one moment."""

    at_ms: int
    put: int
    """Messages appended."""
    transferred: int
    """Messages given to consumers."""
    found: int
    """Pulls answered with messages."""
    pulls: int
    """Pulls answered."""


class Rates:
    """Samples of the totals, a second apart."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._descriptor_count = arena.reader(Word.DESCRIPTOR_COUNT)
        self._samples: deque[Sample] = deque(maxlen=SPANS_MS[-1] // SAMPLE_INTERVAL_MS + 1)

    def sample(self, now_ms: int) -> None:
        """Look at the totals when a second has passed; with every turn of the caller."""
        if self._samples and now_ms - self._samples[-1].at_ms < SAMPLE_INTERVAL_MS:
            return
        self._samples.append(self._look(now_ms))

    def runtime_info(self, now_ms: int) -> dict[str, str]:
        """Totals and rates under the names of Apache's runtime info."""
        now = self._look(now_ms)
        return {
            "putTps": self._text(now, "put"),
            "getTransferredTps": self._text(now, "transferred"),
            "getFoundTps": self._text(now, "found"),
            "getTotalTps": self._text(now, "pulls"),
            "msgPutTotalTodayNow": str(now.put),
            "msgGetTotalTodayNow": str(now.transferred),
        }

    def _look(self, now_ms: int) -> Sample:
        found = totals(self._arena.counters)
        return Sample(
            now_ms,
            self._descriptor_count.load(),
            found[Counter.PULLED_MESSAGES],
            found[Counter.PULLS_FOUND],
            found[Counter.PULLS],
        )

    def _text(self, now: Sample, what: str) -> str:
        return " ".join(f"{self._rate(now, what, span_ms):.2f}" for span_ms in SPANS_MS)

    def _rate(self, now: Sample, what: str, span_ms: int) -> float:
        """A second's worth of `what`, since the newest sample that is as old as the span."""
        begin = next(
            (sample for sample in reversed(self._samples) if now.at_ms - sample.at_ms >= span_ms),
            self._samples[0] if self._samples else now,
        )
        passed_ms = now.at_ms - begin.at_ms
        if passed_ms <= 0:
            return 0.0
        count: int = getattr(now, what) - getattr(begin, what)
        return count * SECOND_MS / passed_ms
