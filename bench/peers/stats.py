"""Figures from samples: percentiles, and medians over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]

PERCENTILES: Final = {"p50_us": 50.0, "p99_us": 99.0, "p999_us": 99.9}
CELL_KEYS: Final = ("peer", "load", "size", "rate", "spin")
FIGURES: Final = (
    "messages_per_s",
    "mib_per_s",
    "p50_us",
    "p99_us",
    "p999_us",
    "max_us",
    "cpu_us",
    "cores",
    "pss_mib",
)


def latency_figures(latencies_ns: NDArray[np.int64]) -> dict[str, float]:
    """p50, p99, p99.9 and max in microseconds: values that were measured, none between two."""
    if not len(latencies_ns):
        raise ValueError("no latencies")
    values = np.percentile(latencies_ns, list(PERCENTILES.values()), method="higher")
    names = [*PERCENTILES, "max_us"]
    return {
        name: round(float(value) / 1000, 1)
        for name, value in zip(names, [*values, latencies_ns.max()], strict=True)
    }


def cell_key(row: Row) -> tuple[Any, ...]:
    """What tells one cell from the others."""
    return tuple(row.get(key, 0) for key in CELL_KEYS)


def summarise(rows: Iterable[Row]) -> list[Row]:
    """One row for each cell, in order of appearance: medians over its rounds, the largest max.

    `spread` is (largest - smallest) / median of what the cell is about: rate, or p50. Rounds that
    failed are counted and the reason of the last is kept; a cell may have figures and failures.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(cell_key(row), []).append(row)
    return [_summary(key, group) for key, group in groups.items()]


def _summary(key: tuple[Any, ...], group: Sequence[Row]) -> Row:
    good = [row for row in group if "error" not in row]
    bad = [row for row in group if "error" in row]
    result: Row = dict(zip(CELL_KEYS, key, strict=True)) | {"rounds": len(good)}
    if bad:
        result |= {"failed": len(bad), "error": bad[-1]["error"]}
    notes = [row["note"] for row in group if "note" in row]
    if notes:
        result["note"] = notes[-1]
    for figure in FIGURES:
        values = [float(row[figure]) for row in good if figure in row]
        if values:
            middle = max(values) if figure == "max_us" else statistics.median(values)
            result[figure] = round(middle, 3)
    if any(not row.get("sustained", True) for row in good):
        result["note"] = "rate not sustained"
    chief = "p50_us" if key[1] == "latency" else "messages_per_s"
    values = [float(row[chief]) for row in good if chief in row]
    if len(values) > 1:
        result["spread"] = round((max(values) - min(values)) / statistics.median(values), 3)
    return result
