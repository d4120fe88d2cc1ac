"""SVG charts: one dot, or four on a line, for each peer, on a logarithmic axis.

Pure functions from figures to text. Dots and not bars: a bar on a logarithmic axis has no length
that means anything. Peers without a figure stand below the others with the reason.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 620
LABEL_END: Final = 178
PLOT_END: Final = 476
ROW: Final = 22
TOP: Final = 50
BOTTOM: Final = 12
REASON_MAX: Final = 62

Format = Callable[[float], str]


@dataclass(frozen=True)
class Item:
    """One row: the values to show (one, or p50, p99, p99.9 and max), or why there are none."""

    label: str
    kind: str  # a class of the style sheet: what an accepted message survives
    values: tuple[float, ...] = ()
    reason: str = ""
    ours: bool = False


def decades(low: float, high: float) -> list[float]:
    """Powers of ten around two positive values: at least one decade apart."""
    if not 0 < low <= high:
        raise ValueError(f"a logarithmic axis needs 0 < low <= high: {low}, {high}")
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


class _Axis:
    def __init__(self, values: Sequence[float]) -> None:
        self.ticks = decades(min(values), max(values))
        self._first = math.log10(self.ticks[0])
        self._span = math.log10(self.ticks[-1]) - self._first

    def x(self, value: float) -> float:
        part = (math.log10(value) - self._first) / self._span
        return round(LABEL_END + part * (PLOT_END - LABEL_END), 1)


def chart(title: str, items: Sequence[Item], show: Format, *, rising: bool) -> str:
    """A chart, best first: the largest (`rising`) or the smallest first value is the best."""
    good = [item for item in items if item.values and min(item.values) > 0]
    good.sort(key=lambda item: item.values[0], reverse=rising)
    rest = [item for item in items if item not in good]
    height = TOP + ROW * len(items) + BOTTOM
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">',
        f'<text class="title" x="0" y="16">{escape(title)}</text>',
    ]
    if good:
        axis = _Axis([value for item in good for value in item.values])
        parts += _grid(axis, height, show)
        for number, item in enumerate(good):
            parts += _row(item, axis, TOP + ROW * number, show)
    for number, item in enumerate(rest, start=len(good)):
        parts += _reason(item, TOP + ROW * number)
    return "\n".join([*parts, "</svg>"])


def _grid(axis: _Axis, height: int, show: Format) -> list[str]:
    parts = []
    # Labels of neighbouring ticks must not meet: over many decades only every second or third.
    step = math.ceil(len(axis.ticks) / 7)
    for number, tick in enumerate(axis.ticks):
        x = axis.x(tick)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{height - 6}"/>')
        if number % step == 0:
            parts.append(f'<text class="tick" x="{x}" y="{TOP - 14}">{_round(show(tick))}</text>')
    return parts


def _round(text: str) -> str:
    """A power of ten without the digits that it does not need: 10.0 k becomes 10 k."""
    return re.sub(r"\.0+(?=\D|$)", "", text)


def _label(item: Item, top: int) -> str:
    style = "label ours" if item.ours else "label"
    return f'<text class="{style}" x="{LABEL_END - 12}" y="{top + 15}">{escape(item.label)}</text>'


def _row(item: Item, axis: _Axis, top: int, show: Format) -> list[str]:
    middle = top + 11
    places = [axis.x(value) for value in item.values]
    parts = [_label(item, top)]
    start = LABEL_END if len(places) == 1 else places[0]
    ends = f'x1="{start}" x2="{places[-1]}" y1="{middle}" y2="{middle}"'
    parts.append(f'<line class="stem {item.kind}" {ends}/>')
    for number, x in enumerate(places[1:], start=1):
        tall = 3 + number
        ends = f'x1="{x}" x2="{x}" y1="{middle - tall}" y2="{middle + tall}"'
        parts.append(f'<line class="mark {item.kind}" {ends}/>')
    size = 6.5 if item.ours else 5
    parts.append(f'<circle class="{item.kind}" cx="{places[0]}" cy="{middle}" r="{size}"/>')
    text = " / ".join(show(value) for value in item.values[:2])
    parts.append(f'<text class="value" x="{PLOT_END + 10}" y="{top + 15}">{text}</text>')
    return parts


def _reason(item: Item, top: int) -> list[str]:
    text = item.reason if len(item.reason) <= REASON_MAX else f"{item.reason[:REASON_MAX]}…"
    parts = [_label(item, top)]
    parts.append(f'<text class="reason" x="{LABEL_END}" y="{top + 15}">{escape(text)}</text>')
    return parts
