"""Counters in shared memory: each process adds to its own row, anybody may read all of them."""

from __future__ import annotations

import numpy as np

from shmq.layout.counters import CELL_SIZE, GAUGES, ROW_SIZE, Counter


class CounterRow:
    """Write side of one process's row. A successor's counters go on, its gauges begin at 0."""

    def __init__(self, segment: memoryview, row: int) -> None:
        cells = segment[row * ROW_SIZE : (row + 1) * ROW_SIZE]
        self._cells = cells[: len(Counter) * CELL_SIZE].cast("q")
        for gauge in GAUGES:
            self._cells[gauge] = 0

    def add(self, counter: Counter, count: int = 1) -> None:
        """Count so many more (a gauge: or fewer)."""
        self._cells[counter] += count

    def set(self, gauge: Counter, value: int) -> None:
        """Set a gauge."""
        self._cells[gauge] = value


def totals(segment: memoryview) -> dict[Counter, int]:
    """All rows added up."""
    rows = np.frombuffer(segment, dtype=np.int64).reshape(-1, ROW_SIZE // CELL_SIZE)
    sums = rows[:, : len(Counter)].sum(axis=0)
    return {counter: int(sums[counter]) for counter in Counter}
