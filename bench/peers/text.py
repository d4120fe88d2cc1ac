"""The results as text for a terminal."""

from __future__ import annotations

from typing import Any

from bench.peers.load import Cell, size_text

Row = dict[str, Any]


def number(value: float) -> str:
    """Three digits that matter: 1.23 M, 45.6 k, 789, 0.52."""
    for limit, unit in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= limit * 0.9995:
            return f"{_digits(value / limit)}{unit}"
    return _digits(value)


def _digits(value: float) -> str:
    if abs(value) >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def duration(value_us: float) -> str:
    """Microseconds in the unit that fits: 850 ns, 12.3 us, 4.56 ms, 1.20 s."""
    for limit, unit, scale in ((1.0, "ns", 1e3), (1e3, "us", 1.0), (1e6, "ms", 1e-3)):
        if value_us < limit * 0.9995:
            return f"{_digits(value_us * scale)} {unit}"
    return f"{_digits(value_us / 1e6)} s"


def line(row: Row) -> str:
    """One row while the rounds run."""
    if "load" not in row:
        return f"{row['peer']:>16}  {row['note']}"
    cell = Cell(row["load"], row["size"], row.get("rate", 0), row.get("spin", False))
    what = f"{row['peer']:>16}  {cell.label():34}"
    if "error" in row:
        return f"{what} FAILED: {row['error']}"
    if "messages_per_s" in row:
        what += f" {number(row['messages_per_s']):>8}/s {row['mib_per_s']:8.0f} MiB/s"
    elif "p50_us" in row:
        names = ("p50_us", "p99_us", "p999_us", "max_us")
        what += " " + " ".join(f"{duration(row[name]):>8}" for name in names)
    if "cpu_us" in row:
        what += f"  CPU {duration(row['cpu_us'])} a message, {row['pss_mib']:.0f} MiB"
    note = row.get("note", "")
    return f"{what} {note}" if note or row.get("sustained", True) else f"{what} rate not sustained"


def _columns(load: str) -> tuple[tuple[str, str], ...]:
    if load == "latency":
        return (
            ("p50_us", "p50"),
            ("p99_us", "p99"),
            ("p999_us", "p99.9"),
            ("max_us", "max"),
            ("cpu_us", "CPU/msg"),
            ("pss_mib", "PSS MiB"),
        )
    return (
        ("messages_per_s", "messages/s"),
        ("mib_per_s", "MiB/s"),
        ("cpu_us", "CPU/msg"),
        ("cores", "cores"),
        ("pss_mib", "PSS MiB"),
        ("spread", "spread"),
    )


def figure(key: str, value: float) -> str:
    """A figure in the unit of its column."""
    return duration(value) if key.endswith("_us") else number(value)


def tables(content: Row) -> str:
    """A table for each cell, every peer in it, those that cannot be run too."""
    parts = []
    seen = dict.fromkeys(
        (row["load"], row["size"], row["rate"], row["spin"]) for row in content["table"]
    )
    for key in seen:
        rows = {
            row["peer"]: row
            for row in content["table"]
            if (row["load"], row["size"], row["rate"], row["spin"]) == key
        }
        parts.append(_table(Cell(*key), rows, content))
    parts.append(_limits(content["limits"]))
    return "\n".join(parts)


def _table(cell: Cell, rows: dict[str, Row], content: Row) -> str:
    columns = _columns(cell.load)
    lines = [f"\n{cell.label()}"]
    lines.append(f"{'':16}" + "".join(f"{head:>12}" for _key, head in columns) + "  durable")
    for name, facts in content["peers"].items():
        row = rows.get(name, {})
        if name in content["unavailable"]:
            cells = f"  cannot be run: {content['unavailable'][name]}"
        elif "cpu_us" not in row:
            cells = f"  {row.get('note') or row.get('error', 'not run')}"
        else:
            values = [figure(key, row[key]) if key in row else "" for key, _head in columns]
            cells = "".join(f"{value:>12}" for value in values)
            cells += f"  {facts['durable']}"
            cells += f" ({row['note']})" if "note" in row else ""
            cells += f" ({row['failed']} rounds failed)" if "failed" in row else ""
        lines.append(f"{name:16}{cells}")
    return "\n".join(lines)


def _limits(limits: list[Row]) -> str:
    lines = ["\nthis machine, each round"]
    for row in limits:
        if row:
            copies = ", ".join(
                f"{size_text(int(size))} {number(rate)}/s" for size, rate in row["memcpy"].items()
            )
            lines.append(
                f"  memcpy {copies}; write+fdatasync {row['write_mib_per_s']:.0f} MiB/s; "
                f"fdatasync of 4 KiB p50 {duration(row['fdatasync_p50_us'])}"
            )
    return "\n".join(lines)
