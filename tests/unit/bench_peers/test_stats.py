"""Percentiles and medians over rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.peers.stats import latency_figures, summarise


def test_latency_figures_are_values_that_were_measured() -> None:
    latencies = np.arange(1, 1001, dtype=np.int64) * 1000
    np.random.default_rng(1).shuffle(latencies)
    assert latency_figures(latencies) == {
        "p50_us": 501.0,
        "p99_us": 991.0,
        "p999_us": 1000.0,
        "max_us": 1000.0,
    }


def test_latency_figures_of_one_message() -> None:
    assert set(latency_figures(np.array([2500])).values()) == {2.5}


def test_latency_figures_need_a_message() -> None:
    with pytest.raises(ValueError, match="no latencies"):
        latency_figures(np.array([], dtype=np.int64))


def produced(rate: float, **more: Any) -> dict[str, Any]:
    row = {"peer": "a", "load": "produce", "size": 128, "messages_per_s": rate, "cpu_us": 1.0}
    return row | more


def test_summary_is_the_median_and_the_spread() -> None:
    (row,) = summarise([produced(100.0), produced(300.0), produced(200.0)])
    assert row["messages_per_s"] == 200.0
    assert row["spread"] == 1.0
    assert row["rounds"] == 3
    assert (row["rate"], row["spin"]) == (0, 0)
    assert "error" not in row


def test_summary_keeps_the_largest_max_and_the_median_of_the_rest() -> None:
    latency = {"peer": "a", "load": "latency", "size": 128, "rate": 1000, "spin": False}
    rows = [latency | {"p50_us": p50, "max_us": most} for p50, most in ((1, 9), (3, 70), (2, 8))]
    (row,) = summarise(rows)
    assert (row["p50_us"], row["max_us"], row["spread"]) == (2.0, 70.0, 1.0)


def test_summary_counts_rounds_that_failed_and_keeps_the_figures_of_the_others() -> None:
    failed = {"peer": "a", "load": "produce", "size": 128, "error": "it ended"}
    (row,) = summarise([produced(5.0), failed])
    assert (row["messages_per_s"], row["rounds"], row["failed"]) == (5.0, 1, 1)
    assert row["error"] == "it ended"


def test_summary_has_cells_without_any_figure() -> None:
    (row,) = summarise([{"peer": "a", "load": "consume", "size": 128, "note": "has no backlog"}])
    assert row["note"] == "has no backlog"
    assert "messages_per_s" not in row


def test_summary_says_when_a_rate_was_not_sustained() -> None:
    rows = [produced(5.0, sustained=True), produced(5.0, sustained=False)]
    assert summarise(rows)[0]["note"] == "rate not sustained"


def test_cells_of_other_peers_sizes_and_spinning_are_apart() -> None:
    rows = [
        produced(1.0),
        produced(1.0, size=1024),
        produced(1.0, peer="b"),
        produced(1.0, spin=True),
    ]
    assert len(summarise(rows)) == 4
