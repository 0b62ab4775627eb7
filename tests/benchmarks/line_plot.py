"""Lines in charts as SVG: how figures change with one number, for example with how many commands are outstanding.

It has no background of its own; its colours can be read on light and dark ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from tests.benchmarks.peers.plot import STYLE, line, rate_axis, short_number, text

WIDTH: Final = 320
HEIGHT: Final = 150
LEFT: Final = 56
"""Room for the numbers beside a chart."""
TITLE: Final = 30
HEAD: Final = 44
"""Room for the title of a chart and the names of its lines."""
FOOT: Final = 46
NOTE: Final = 26
"""Room for the caption below all charts."""
NAME: Final = 100
"""Room for the name of a line."""
COLORS: Final = ("#3b82f6", "#d97706", "#8b949e")
WIDE: Final = 30.0
"""Values that differ by a larger factor get an axis whose equal steps are equal factors."""
ZERO_SHARE: Final = 0.5
"""Where 0 stands on an axis whose steps are factors: this share of the smallest other number."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart: lines over the same numbers.

    Args:
        title: what is measured, with its unit.
        lines: name of a line -> its values, one for each number of the row. A chart of one line needs no name: "".

    """

    title: str
    lines: Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Row:
    """Charts over one axis.

    Args:
        title: what grows, and what stays as it is.
        numbers: the numbers of the axis, growing; the first may be 0.
        charts: what is drawn over them; each line has as many values.

    """

    title: str
    numbers: Sequence[float]
    charts: Sequence[Chart]


def svg(rows: Sequence[Row], caption: str) -> str:
    """Return the plot: one row of charts below the other, and the caption below all."""
    parts: list[str] = []
    top = 0.0
    for row in rows:
        parts.append(text(0, top + 20, row.title, "title"))
        for place, chart in enumerate(row.charts):
            parts += chart_parts(row, chart, LEFT + place * (WIDTH + LEFT), top + TITLE)
        top += TITLE + HEAD + HEIGHT + FOOT
    width = max((len(row.charts) for row in rows), default=1) * (WIDTH + LEFT) + LEFT // 2
    parts.append(text(0, top + 14, caption, "small"))
    body = "\n".join(parts)
    height = round(top + NOTE)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img">\n<title>{escape(caption)}</title>\n<style>\n{STYLE}</style>\n{body}\n</svg>\n'
    )


def chart_parts(row: Row, chart: Chart, left: float, top: float) -> Iterator[str]:
    """One chart: its title, the names of its lines, both axes, the lines."""
    lower = top + HEAD + HEIGHT
    yield text(left, top + 12, chart.title, "small")
    values = [value for each in chart.lines.values() for value in each]
    height, ticks = scale(values)
    for tick in ticks:
        y = lower - HEIGHT * height(tick)
        yield line(left, y, left + WIDTH, y, "grid")
        yield anchored(left - 6, y + 4, short_number(tick), "end")
    places = [left + WIDTH * share for share in shares(row.numbers)]
    for x, number in zip(places, row.numbers, strict=True):
        yield anchored(x, lower + 16, short_number(number), "middle")
    for place, (name, line_values) in enumerate(chart.lines.items()):
        color = COLORS[place % len(COLORS)]
        if name:
            yield f'<circle cx="{left + 4 + place * NAME}" cy="{top + 26}" r="4" fill="{color}"/>'
            yield text(left + 12 + place * NAME, top + 30, name, "small")
        dots = [(x, lower - HEIGHT * height(value)) for x, value in zip(places, line_values, strict=True)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        yield f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
        for x, y in dots:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'


def scale(values: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    """Return how high a value stands, from 0 to 1, and the values of the grid.

    The axis begins with 0, unless the values differ much and none of them is 0.
    """
    least, most = min(values, default=0.0), max(values, default=1.0)
    if least > 0 and most / least > WIDE:
        low, high = math.floor(math.log10(least)), math.ceil(math.log10(most))
        return lambda value: (math.log10(value) - low) / (high - low), [10.0**power for power in range(low, high + 1)]
    step, highest = rate_axis(most)
    return lambda value: value / highest, [number * step for number in range(round(highest / step) + 1)]


def shares(numbers: Sequence[float]) -> list[float]:
    """Return where numbers stand on an axis from 0 to 1 whose equal steps are equal factors."""
    least = min((each for each in numbers if each > 0), default=1.0)
    logs = [math.log(each if each > 0 else least * ZERO_SHARE) for each in numbers]
    low, high = min(logs), max(logs)
    return [(each - low) / (high - low) if high > low else 0.5 for each in logs]


def anchored(x: float, y: float, words: str, anchor: str) -> str:
    """A small text whose middle or end is there."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="small">{escape(words)}</text>'
