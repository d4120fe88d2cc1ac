"""The table, the charts and the page: every peer is in them, and nothing overlaps or leaves."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench.peers.charts import LABEL_END, PLOT_END, ROW, WIDTH, Item, chart, decades
from bench.peers.report import html, picture
from bench.peers.text import duration, line, number, tables

SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)


def content() -> dict[str, Any]:
    """A run of three peers: one with all figures, one without backlog, one that cannot be run."""
    figures: dict[str, Any] = {
        "cpu_us": 2.5,
        "cores": 1.2,
        "pss_mib": 80.0,
        "rate": 0,
        "spin": False,
    }
    rates: dict[str, Any] = {"messages_per_s": 1_234_567.0, "mib_per_s": 1205.6, "spread": 0.1}
    times: dict[str, Any] = {"p50_us": 85.0, "p99_us": 1200.0, "p999_us": 9000.0, "max_us": 2.5e6}
    base: dict[str, Any] = {"size": 1024, "rounds": 2}
    table = [
        base | figures | rates | {"peer": "shmq", "load": load}
        for load in ("produce", "consume", "both")
    ]
    table += [
        base | figures | rates | {"peer": "fast<er", "load": "produce", "messages_per_s": 2e6},
        base | {"peer": "fast<er", "load": "consume", "rate": 0, "spin": False}
        | {"note": "has no backlog"},
        base | {"peer": "fast<er", "load": "both", "rate": 0, "spin": False, "error": "it & ended"},
    ]  # fmt: skip
    latency = {"load": "latency", "rate": 1000, "spin": True, "note": "rate not sustained"}
    table.append(base | figures | times | {"peer": "shmq"} | latency)
    facts = {
        "title": "T",
        "version": "1",
        "client": "C",
        "durable": "page cache",
        "durability": "page cache; no fsync",
        "settings": {"key": "value"},
    }
    return {
        "at": "2026-01-02T03:04:05Z",
        "command": "python -m bench.peers --quick",
        "commit": {"commit": "abc", "working_tree_differs": True},
        "machine": {
            "cpu": "CPU",
            "cores": 2,
            "memory_mib": 2048,
            "kernel": "6",
            "store_file_system": "ext4",
            "load_average_1min_before": 0.1,
        },
        "rounds": 2,
        "took_s": 12.3,
        "peers": {
            "shmq": facts,
            "fast<er": facts | {"durable": "memory"},
            "gone": facts | {"durable": "disk"},
        },
        "unavailable": {"gone": "not installed: gone.jar"},
        "limits": [
            {
                "memcpy": {"1024": 9e6},
                "write_mib_per_s": 250.0,
                "fdatasync_p50_us": 900.0,
                "fdatasync_max_us": 7000.0,
            },
            {},
        ],
        "table": table,
    }


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.50"),
        (9.99, "9.99"),
        (9.996, "10.0"),
        (99.94, "99.9"),
        (99.96, "100"),
        (999.4, "999"),
        (999.6, "1.00 k"),
        (12_345.0, "12.3 k"),
        (999_600.0, "1.00 M"),
        (2.5e6, "2.50 M"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("us", "text"),
    [(0.25, "250 ns"), (0.9996, "1.00 us"), (85.0, "85.0 us"), (1200.0, "1.20 ms"),
     (999_400.0, "999 ms"), (999_700.0, "1.00 s"), (2.5e6, "2.50 s")],
)  # fmt: skip
def test_durations_have_the_unit_that_fits(us: float, text: str) -> None:
    assert duration(us) == text


def test_decades_hold_the_values_and_one_decade_at_least() -> None:
    assert decades(3.0, 40.0) == [1.0, 10.0, 100.0]
    assert decades(10.0, 10.0) == [10.0, 100.0]
    assert decades(0.02, 0.5) == [0.01, 0.1, 1.0]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0)])
def test_decades_refuse_what_has_no_logarithm(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="0 < low"):
        decades(low, high)


def items() -> list[Item]:
    return [
        Item("slow", "disk", (2.0,)),
        Item("fast", "cache", (3e7,)),
        Item("none", "memory", (), "x" * 200),
        Item("shmq", "cache", (500.0,), ours=True),
        Item("zero", "cache", (0.0,), "nothing measured"),
    ]


def texts(svg: str, style: str) -> list[ET.Element]:
    root = ET.fromstring(svg)  # noqa: S314 - made here
    return [node for node in root.iter("text") if style in (node.get("class") or "").split()]


@pytest.mark.parametrize(
    ("rising", "order"),
    [(True, ["fast", "shmq", "slow", "none", "zero"]),
     (False, ["slow", "shmq", "fast", "none", "zero"])],
)  # fmt: skip
def test_chart_has_a_row_for_each_item_best_first(rising: bool, order: list[str]) -> None:  # noqa: FBT001
    svg = chart("Title & more", items(), number, rising=rising)
    labels = texts(svg, "label")
    assert [label.text for label in labels] == order
    tops = [float(label.get("y") or 0) for label in labels]
    assert all(later - sooner == ROW for sooner, later in pairwise(tops))


def test_chart_keeps_its_parts_inside_and_apart() -> None:
    svg = chart("T", items(), number, rising=True)
    root = ET.fromstring(svg)  # noqa: S314 - made here
    height = float((root.get("viewBox") or "").split()[3])
    circles = [float(node.get("cx") or 0) for node in root.iter("circle")]
    assert len(circles) == 3
    assert all(LABEL_END <= x <= PLOT_END for x in circles)
    assert circles == sorted(circles, reverse=True)
    assert all(float(node.get("y") or 0) < height for node in root.iter("text"))
    ticks = [float(node.get("x") or 0) for node in texts(svg, "tick")]
    widest = 40  # "100 ms" in the smallest font
    assert all(later - sooner > widest for sooner, later in pairwise(ticks))
    (value,) = [node for node in texts(svg, "value") if node.text == "30.0 M"]
    assert float(value.get("x") or 0) + 120 < WIDTH


def test_chart_shortens_a_long_reason() -> None:
    reasons = texts(chart("T", items(), number, rising=True), "reason")
    assert max(len(node.text or "") for node in reasons) < 70


def test_chart_of_ranges_marks_every_percentile() -> None:
    svg = chart("T", [Item("a", "disk", (10.0, 20.0, 30.0, 900.0))], duration, rising=False)
    assert svg.count('class="mark disk"') == 3
    assert "10.0 us / 20.0 us" in svg


def test_chart_without_any_figure_still_names_the_peers() -> None:
    svg = chart("T", [Item("a", "disk", (), "cannot be run")], number, rising=True)
    assert "cannot be run" in svg
    assert "circle" not in svg


def test_page_is_whole_and_needs_nothing_from_elsewhere() -> None:
    page = html(content())
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    for outside in ("http://", "https://", "<script", "<link", "@import", "url("):
        assert outside not in page
    assert "fast<er" not in page
    assert "fast&lt;er" in page


def test_page_has_every_peer_in_every_chart() -> None:
    charts = SVG.findall(html(content()))
    assert len(charts) == 6  # three loads, CPU, latency, memory
    for svg in charts:
        labels = {(node.text or "").removesuffix(" *") for node in texts(svg, "label")}
        assert labels == {"shmq", "fast<er", "gone"}
        assert "not installed: gone.jar" in svg


def test_page_tells_why_there_is_no_figure() -> None:
    page = html(content())
    assert "has no backlog" in page
    assert "it &amp; ended" in page
    assert "rate not sustained" in page


def test_terminal_has_every_peer_in_every_table() -> None:
    text = tables(content())
    blocks = [block for block in text.split("\n\n") if "durable" in block]
    assert len(blocks) == 4
    for block in blocks:
        assert [row.split()[0] for row in block.strip().splitlines()[2:]] == [
            "shmq",
            "fast<er",
            "gone",
        ]
    assert "cannot be run: not installed: gone.jar" in text
    assert "write+fdatasync 250 MiB/s" in text


def test_lines_tell_figures_failures_and_missing_peers() -> None:
    cell = {"peer": "a", "load": "produce", "size": 128}
    done = cell | {"messages_per_s": 5e5, "mib_per_s": 61.0, "cpu_us": 2.0, "pss_mib": 9.0}
    assert "500 k/s" in line(done)
    assert line(cell | {"error": "it ended"}).endswith("FAILED: it ended")
    assert line({"peer": "a", "note": "cannot be run: x"}).endswith("cannot be run: x")
    slow = {"p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0, "max_us": 4.0, "sustained": False}
    assert line(cell | {"load": "latency", "rate": 10} | slow).endswith("rate not sustained")


def test_picture_stands_by_itself() -> None:
    whole = ET.fromstring(picture(content()).encode())  # noqa: S314 - made here
    inner = whole.findall("{http://www.w3.org/2000/svg}svg")
    assert len(inner) >= 3
    tops = [int(one.attrib["y"]) for one in inner]
    assert tops == sorted(set(tops))
    assert "var(" not in picture(content())
