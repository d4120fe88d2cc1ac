"""What is measured around a run: CPU and memory of processes, facts of the machine, results."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from bench.host.wire import PeerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RESULTS_DIR = Path(__file__).resolve().parents[1] / "results"
PROJECT_DIR = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024


# ---- CPU ----


def cpu_seconds(tree: Iterable[psutil.Process]) -> dict[int, float]:
    """User and system seconds of each process so far, by pid."""
    seconds = {}
    for process in tree:
        times = process.cpu_times()
        seconds[process.pid] = times.user + times.system
    return seconds


def cpu_between(before: dict[int, float], after: dict[int, float]) -> float:
    """Seconds used between two readings; an error when a process ended, for its use is lost."""
    gone = before.keys() - after.keys()
    if gone:
        msg = f"processes {sorted(gone)} ended in the middle of a measurement"
        raise PeerError(msg)
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


# ---- memory ----


def _kind(name: str, store: str) -> str:
    if ".pool" in name and name.startswith("/dev/shm/"):  # noqa: S108 - the kernel's name for it
        return "hot_pool"
    if name.startswith("/dev/shm/"):  # noqa: S108
        return "segments"
    if name.startswith(store):
        return "store_files"
    return "private"


def pss_mib(tree: Iterable[psutil.Process], store: Path) -> dict[str, float]:
    """Proportional set size of all processes together, by kind of mapping, in MiB.

    hot_pool: shmq's commitlog pages; segments: its other shared memory; store_files: mapped files
    of the store; private: all else (code, heaps, stacks, libraries). `total` is without hot_pool.
    """
    sums = dict.fromkeys(("hot_pool", "segments", "store_files", "private"), 0.0)
    for process in tree:
        kind = "private"
        for line in Path(f"/proc/{process.pid}/smaps").read_text().splitlines():
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                words = line.split(None, 5)
                kind = _kind(words[5] if len(words) > 5 else "", str(store))
            elif line.startswith("Pss:"):
                sums[kind] += int(line.split()[1]) / 1024
    total = sum(sums.values()) - sums["hot_pool"]
    return {key: round(value, 1) for key, value in (sums | {"total": total}).items()}


# ---- facts ----


def _output(*command: str) -> str:
    done = subprocess.run(
        command, cwd=PROJECT_DIR, capture_output=True, text=True, timeout=30, check=False
    )
    return (done.stdout or done.stderr).strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(place: Path) -> str:
    mounts = [
        part for part in psutil.disk_partitions(all=True) if _is_below(place, part.mountpoint)
    ]
    best = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return best.fstype if best else "unknown"


def _is_below(place: Path, mount: str) -> bool:
    return place.resolve().is_relative_to(mount)


def machine(store_root: Path) -> dict[str, Any]:
    """The facts without which a figure means nothing."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": psutil.virtual_memory().total // MIB,
        "store_file_system": _file_system(store_root),
        "store_free_mib": shutil.disk_usage(store_root).free // MIB,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "java": _output("java", "-version").splitlines()[0],
        "gcc": _output("gcc", "--version").splitlines()[0],
        "load_average_1min_before": round(os.getloadavg()[0], 2),
    }


def commit() -> dict[str, Any]:
    """The commit under measurement, and whether the working tree differs from it."""
    changed = _output("git", "status", "--porcelain", "--", "shmq", "workers", "bench/host")
    return {
        "commit": _output("git", "rev-parse", "--short=10", "HEAD"),
        "working_tree_differs": bool(changed),
    }


# ---- results ----


def median(values: Iterable[float]) -> float:
    """The median, rounded to what the measurement can tell."""
    return round(statistics.median(values), 3)


def medians(rows: Sequence[dict[str, Any]], keys: Iterable[str]) -> dict[str, float]:
    """The median of each figure over the rounds of one cell."""
    return {key: median(row[key] for row in rows) for key in keys}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of the same keys as aligned text."""
    if not rows:
        return "(nothing)"
    heads = list(dict.fromkeys(key for row in rows for key in row))
    cells = [heads] + [[_text(row.get(key, "")) for key in heads] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        for row in cells
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write_result(scenario: str, facts: dict[str, Any], outcome: dict[str, Any]) -> Path:
    """Write one scenario's figures beside the facts; returns the file."""
    RESULTS_DIR.mkdir(parents=True, exist_ok=True)
    now = dt.datetime.now(dt.UTC)
    place = RESULTS_DIR / f"{now:%Y-%m-%d}-{facts['commit']['commit']}-{scenario}.json"
    content = {"scenario": scenario, "at": f"{now:%Y-%m-%dT%H:%M:%SZ}"} | facts | outcome
    place.write_text(json.dumps(content, indent=1) + "\n")
    return place
