"""A plot of a benchmark as SVG: rates as bars, times as lines from the median to the 99th percentile.

It has no background of its own; its colours can be read on light and dark ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from tests.benchmarks.peers.figures import Summary

WIDTH: Final = 1040
LABELS: Final = 190
"""The width of the names on the left."""
CHART: Final = 330
"""The width of each of the two charts beside them."""
GAP: Final = 90
"""Between the charts: room for the figure behind the longest bar."""
ROW: Final = 26
BAR: Final = 14
HEAD: Final = 54
FOOT: Final = 42
TICKS: Final = 4
"""About so many steps an axis of rates has."""
SHORTEST_MS: Final = 0.001
"""An axis of times does not begin before it, because a logarithm of 0 is none."""
OWN: Final = "#3b82f6"
OTHER: Final = "#8b949e"
STYLE: Final = """\
text{font:12px system-ui,sans-serif;fill:#24292f}
.title{font-size:14px;font-weight:600}.small{font-size:11px}
.grid{stroke:#8b949e;stroke-opacity:.35}.spread{stroke:#24292f;stroke-width:1.5}
@media (prefers-color-scheme:dark){text{fill:#e6edf3}.spread{stroke:#e6edf3}}
"""


def svg(groups: Sequence[Sequence[Summary]], titles: Mapping[str, str], own: str, caption: str) -> str:
    """Return the plot.

    Args:
        groups: the summaries, those of the same work together; none is empty.
        titles: what each system is called.
        own: the name of the system whose bars have a colour.
        caption: what was measured, in one line below.

    """
    parts: list[str] = []
    top = 0
    for group in groups:
        parts += group_parts(group, titles, own, top)
        top += HEAD + ROW * len(group) + FOOT
    height = top + ROW
    parts.append(text(0, top + 14, caption, "small"))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img">\n<title>{escape(caption)}</title>\n<style>\n{STYLE}</style>\n{body}\n</svg>\n'
    )


def group_parts(group: Sequence[Summary], titles: Mapping[str, str], own: str, top: int) -> Iterator[str]:
    """The two charts of one work."""
    rates, times = LABELS, LABELS + CHART + GAP
    first, bottom = top + HEAD, top + HEAD + ROW * len(group)
    yield text(0, top + 20, f"{group[0].kind}s, {group[0].outstanding:,} under way at once", "title")
    yield text(rates, top + 40, "a second: median, lowest and highest round", "small")
    yield text(times, top + 40, "milliseconds: from p50 to p99", "small")
    step, highest = rate_axis(max(each.per_second.high for each in group))
    for number in range(round(highest / step) + 1):
        yield from tick(rates + CHART * number * step / highest, first, bottom, short_number(number * step))
    low, high = time_axis(group)
    for power in range(low, high + 1):
        yield from tick(times + CHART * (power - low) / (high - low), first, bottom, f"{10.0**power:g}")
    for number, each in enumerate(group):
        middle = first + ROW * number + ROW / 2
        color = OWN if each.system == own else OTHER
        yield text(0, middle + 4, titles[each.system])
        yield from bar(each, rates, middle, CHART / highest, color)
        yield from time_line(each, times, middle, (low, high), color)


def bar(each: Summary, left: float, middle: float, scale: float, color: str) -> Iterator[str]:
    """The bar of a rate, with a line from the lowest round to the highest and the median behind it."""
    rate = each.per_second
    place = f'x="{left:.1f}" y="{middle - BAR / 2:.1f}" width="{rate.median * scale:.1f}" height="{BAR}"'
    yield f'<rect {place} fill="{color}"/>'
    yield line(left + rate.low * scale, middle, left + rate.high * scale, middle, "spread")
    yield text(left + rate.high * scale + 6, middle + 4, f"{rate.median:,.0f}", "small")


def time_line(each: Summary, left: float, middle: float, powers: tuple[int, int], color: str) -> Iterator[str]:
    """The line from the median time to the 99th percentile, with both behind it."""
    low, high = powers
    start, end = (
        left + CHART * (math.log10(max(value, 10.0**low)) - low) / (high - low)
        for value in (each.p50_ms.median, each.p99_ms.median)
    )
    yield (
        f'<line x1="{start:.1f}" y1="{middle:.1f}" x2="{end:.1f}" y2="{middle:.1f}" stroke="{color}" stroke-width="6"/>'
    )
    yield f'<circle cx="{start:.1f}" cy="{middle:.1f}" r="6" fill="{color}"/>'
    yield text(end + 8, middle + 4, f"{each.p50_ms.median:.3g} / {each.p99_ms.median:.3g}", "small")


def tick(x: float, top: float, bottom: float, label: str) -> Iterator[str]:
    """A line of the grid with its label below."""
    yield line(x, top, x, bottom, "grid")
    yield f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle" class="small">{escape(label)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line of a class of the style."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def text(x: float, y: float, words: str, kind: str = "") -> str:
    """A text that begins there."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}>{escape(words)}</text>'


def rate_axis(highest: float) -> tuple[float, float]:
    """Return the step of an axis that begins with 0, and its end: a step is 1, 2 or 5 times a power of ten."""
    rough = max(highest, 1.0) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return step, step * math.ceil(max(highest, 1.0) / step)


def time_axis(group: Sequence[Summary]) -> tuple[int, int]:
    """Return the powers of ten that an axis of milliseconds begins and ends with."""
    fastest = min(each.p50_ms.median for each in group)
    low = math.floor(math.log10(max(fastest, SHORTEST_MS)))
    high = math.ceil(math.log10(max(SHORTEST_MS, *(each.p99_ms.median for each in group))))
    return low, max(high, low + 1)


def short_number(value: float) -> str:
    """Return a rate for an axis: 500, 2k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
