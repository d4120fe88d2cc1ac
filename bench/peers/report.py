"""The results as one HTML page with SVG charts, which needs nothing from anywhere else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any, Final

from bench.peers.charts import WIDTH, Item, chart
from bench.peers.load import Cell, size_text
from bench.peers.text import duration, figure, number

Row = dict[str, Any]

KINDS: Final = {"disk": "disk", "page cache": "cache", "memory": "memory"}
TITLES: Final = {
    "produce": "Produce, messages/s",
    "consume": "Consume from backlog, messages/s",
    "both": "Produce and consume at once, messages/s",
}
LATENCIES: Final = ("p50_us", "p99_us", "p999_us", "max_us")
COLUMNS: Final = (
    ("messages_per_s", "messages/s"),
    ("mib_per_s", "MiB/s"),
    ("p50_us", "p50"),
    ("p99_us", "p99"),
    ("p999_us", "p99.9"),
    ("max_us", "max"),
    ("cpu_us", "CPU a message"),
    ("cores", "cores"),
    ("pss_mib", "PSS MiB"),
    ("spread", "spread"),
)
STYLE: Final = """
:root { --ink: #1c2330; --soft: #667085; --line: #e4e7ec; --paper: #ffffff;
        --disk: #0f7b4f; --cache: #2563c9; --memory: #c2620c; }
body { margin: 0 auto; max-width: 1320px; padding: 32px 24px 64px; background: var(--paper);
       color: var(--ink); font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 4px; font-size: 26px; } h2 { margin: 40px 0 8px; font-size: 20px; }
h3 { margin: 28px 0 8px; font-size: 16px; }
p, li { max-width: 90ch; } .soft { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(560px, 1fr)); gap: 24px; }
.charts svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px;
              padding: 12px; box-sizing: border-box; }
svg text { font-family: system-ui, "DejaVu Sans", sans-serif; fill: var(--ink); }
.title { font-size: 14px; font-weight: 600; } .label { font-size: 12px; text-anchor: end; }
.ours { font-weight: 700; } .value { font-size: 11.5px; } .tick { font-size: 10.5px;
text-anchor: middle; fill: var(--soft) !important; } .reason { font-size: 11.5px;
font-style: italic; fill: var(--soft) !important; }
.grid { stroke: var(--line); } .stem { stroke-width: 2; opacity: .45; } .mark { stroke-width: 2; }
circle.disk { fill: var(--disk); } circle.cache { fill: var(--cache); }
circle.memory { fill: var(--memory); }
line.disk { stroke: var(--disk); } line.cache { stroke: var(--cache); }
line.memory { stroke: var(--memory); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 6px; }
.word { white-space: nowrap; margin-right: 20px; }
table { border-collapse: collapse; font-size: 13px; } .wide { overflow-x: auto; }
th, td { padding: 4px 12px 4px 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid var(--line); }
td.figure { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
tr.group td { padding-top: 18px; font-weight: 600; }
code { font-size: 12.5px; }
"""


def picture(content: Row, size: int = 1024, rate: int = 10_000) -> str:
    """One SVG by itself: throughput and latency of one size, for a README."""
    charts = [
        chart(
            f"{TITLES[load]}, {size_text(size)}, messages/s",
            _items(content, cell, ("messages_per_s",)),
            number,
            rising=True,
        )
        for load in TITLES
        for cell in _cells(content, load)
        if cell.size == size
    ] + [
        chart(
            f"One-way latency, {size_text(size)}, {rate:,}/s, nobody spinning",
            _items(content, cell, LATENCIES),
            duration,
            rising=False,
        )
        for cell in _cells(content, "latency")
        if (cell.size, cell.rate, cell.spin) == (size, rate, False)
    ]
    colours = dict(re.findall(r"--(\w+): (#\w+)", STYLE))
    style = re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]], STYLE)
    parts, top = [], 0
    for svg in charts:
        height = int(re.findall(r'viewBox="0 0 \d+ (\d+)"', svg)[0])
        parts.append(svg.replace("<svg ", f'<svg y="{top}" width="{WIDTH}" height="{height}" ', 1))
        top += height + 24
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -12 {WIDTH + 24} {top + 12}">'
    back = f'<rect x="-12" y="-12" width="{WIDTH + 24}" height="{top + 24}" fill="#ffffff"/>'
    return "\n".join([head, f"<style>{style}</style>", back, *parts, "</svg>"]) + "\n"


def html(content: Row) -> str:
    """The page."""
    commit = content["commit"]["commit"]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>shmq beside its peers, {commit}</title><style>{STYLE}</style></head><body>",
        _head(content),
        *_throughput(content),
        *_latency(content),
        *_memory(content),
        _table(content),
        _settings(content),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _head(content: Row) -> str:
    machine = content["machine"]
    commit = content["commit"]
    changed = " and changes to it" if commit["working_tree_differs"] else ""
    facts = (
        f"Commit {commit['commit']}{changed}, {content['at']}. {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory_mib'] // 1024} GiB, kernel "
        f"{machine['kernel']}, files on {machine['store_file_system']}. "
        f"{content['rounds']} interleaved rounds, {content['took_s']:.0f} s in all, "
        f"load average before: {machine['load_average_1min_before']}."
    )
    keys = "".join(
        f'<span class="word"><span class="key" style="background: var(--{kind})"></span>'
        f"{text}</span> "
        for kind, text in (
            ("disk", "on the disk when accepted"),
            ("cache", "in the page cache: survives the processes, not a power cut"),
            ("memory", "in memory only"),
        )
    )
    return (
        f"<h1>shmq beside its peers</h1><p>{escape(facts)}</p>"
        f'<p class="soft"><code>{escape(content["command"])}</code></p>'
        "<p>One producing and one consuming process, the peer's servers beside them, all on this "
        "machine. Medians over the rounds; every run checked its counts and a checksum of all "
        f"bodies. All axes are logarithmic.</p><p>{keys}</p>{_limits(content['limits'])}"
    )


def _limits(limits: Sequence[Row]) -> str:
    rounds = [row for row in limits if row]
    if not rounds:
        return "<p>The machine's own limits were not measured.</p>"
    best = max(rounds, key=lambda row: float(row["write_mib_per_s"]))
    copies = ", ".join(
        f"{number(rate)}/s of {size_text(int(size))}" for size, rate in best["memcpy"].items()
    )
    writes = ", ".join(f"{row['write_mib_per_s']:.0f}" for row in rounds)
    syncs = ", ".join(duration(row["fdatasync_p50_us"]) for row in rounds)
    return (
        f"<p>The machine's limits in the same run: memcpy into warm pages {copies}; sequential "
        f"write with fdatasync {writes} MiB/s; fdatasync after 4 KiB, median {syncs}.</p>"
    )


def _items(content: Row, cell: Cell, keys: Sequence[str]) -> list[Item]:
    """One item for each peer of the run."""
    wanted = (cell.load, cell.size, cell.rate, cell.spin)
    rows = {
        row["peer"]: row
        for row in content["table"]
        if (row["load"], row["size"], row["rate"], row["spin"]) == wanted
    }
    items = []
    for name, facts in content["peers"].items():
        row = rows.get(name, {})
        values = tuple(row[key] for key in keys if key in row)
        reason = row.get("note") or row.get("error") or "not run"
        if name in content["unavailable"]:
            reason = f"cannot be run: {content['unavailable'][name]}"
        label = name
        if values and row.get("note"):
            label += " *"
        ours = name.startswith("shmq")
        items.append(Item(label, KINDS[facts["durable"]], values, reason, ours))
    return items


def _cells(content: Row, load: str) -> list[Cell]:
    keys = dict.fromkeys(
        (row["size"], row["rate"], row["spin"]) for row in content["table"] if row["load"] == load
    )
    return [Cell(load, *key) for key in keys]


def _charts(parts: Sequence[str]) -> str:
    return f'<div class="charts">{"".join(parts)}</div>' if parts else ""


def _throughput(content: Row) -> list[str]:
    by_size: dict[int, list[str]] = {}
    for load, title in TITLES.items():
        for cell in _cells(content, load):
            items = _items(content, cell, ("messages_per_s",))
            full = f"{title}, {size_text(cell.size)}"
            svg = chart(full, items, number, rising=True)
            by_size.setdefault(cell.size, []).append(svg)
    for cell in _cells(content, "both"):
        items = _items(content, cell, ("cpu_us",))
        full = f"CPU of all processes a message, both at once, {size_text(cell.size)}"
        by_size[cell.size].append(chart(full, items, duration, rising=False))
    parts = [] if not by_size else ["<h2>Throughput</h2>", _throughput_words()]
    for size, charts in by_size.items():
        parts += [f"<h3>Bodies of {size_text(size)}</h3>", _charts(charts)]
    return parts


def _throughput_words() -> str:
    return (
        "<p>As fast as the peer accepts, in its own best batches. A peer without a backlog "
        "produces for a consumer that takes the messages and does not read them. Consumers read "
        "every byte of every body.</p>"
    )


def _latency(content: Row) -> list[str]:
    charts = []
    for cell in _cells(content, "latency"):
        how = "spinning" if cell.spin else "nobody spinning"
        title = f"One-way latency, {size_text(cell.size)}, {cell.rate:,}/s, {how}"
        charts.append(chart(title, _items(content, cell, LATENCIES), duration, rising=False))
    if not charts:
        return []
    words = (
        "<p>From the intended send time to the consumer's hands: dot p50, marks p99, p99.9 and "
        "max; the figures are p50 and p99. A star: the peer did not keep up with the rate.</p>"
    )
    return ["<h2>Latency</h2>", words, _charts(charts)]


def _memory(content: Row) -> list[str]:
    charts = []
    for cell in _cells(content, "both"):
        title = f"PSS of all processes in MiB, both at once, {size_text(cell.size)}"
        pss = _items(content, cell, ("pss_mib",))
        charts.append(chart(title, pss, number, rising=False))
    return ["<h2>Memory</h2>", _charts(charts)] if charts else []


def _table(content: Row) -> str:
    heads = "".join(f"<th>{head}</th>" for _key, head in COLUMNS)
    rows = []
    for load in ("produce", "consume", "both", "latency"):
        for cell in _cells(content, load):
            rows.append(f'<tr class="group"><td colspan="12">{escape(cell.label())}</td></tr>')
            rows += _table_rows(content, cell)
    return (
        '<h2>All figures</h2><div class="wide"><table>'
        f"<tr><th>peer</th>{heads}<th></th></tr>{''.join(rows)}</table></div>"
    )


def _table_rows(content: Row, cell: Cell) -> list[str]:
    result = []
    for row in content["table"]:
        if (row["load"], row["size"], row["rate"], row["spin"]) != (
            cell.load,
            cell.size,
            cell.rate,
            cell.spin,
        ):
            continue
        cells = "".join(f'<td class="figure">{_cell_text(key, row)}</td>' for key, _head in COLUMNS)
        words = [row[key] for key in ("note", "error") if key in row]
        result.append(
            f"<tr><td>{escape(row['peer'])}</td>{cells}<td>{escape('; '.join(words))}</td></tr>"
        )
    for name, reason in content["unavailable"].items():
        text = escape(f"cannot be run: {reason}")
        result.append(f'<tr><td>{escape(name)}</td><td colspan="11">{text}</td></tr>')
    return result


def _cell_text(key: str, row: Row) -> str:
    if key not in row:
        return ""
    return f"{100 * row[key]:.0f} %" if key == "spread" else figure(key, row[key])


def _settings(content: Row) -> str:
    rows = []
    for name, facts in content["peers"].items():
        settings = "<br>".join(
            f"{escape(key)}: {escape(value)}" for key, value in facts["settings"].items()
        )
        title = f"{facts['title']} {facts['version']}"
        rows.append(
            f"<tr><td>{escape(name)}</td><td>{escape(title)}<br>{escape(facts['client'])}</td>"
            f"<td>{escape(facts['durability'])}</td><td>{settings}</td></tr>"
        )
    return (
        "<h2>Peers and settings</h2><table><tr><th>name</th><th>what, and its clients</th>"
        f"<th>what was durable</th><th>settings</th></tr>{''.join(rows)}</table>"
    )
