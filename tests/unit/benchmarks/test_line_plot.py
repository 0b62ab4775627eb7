"""Charts of lines: valid XML, with each value where its axes say."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.benchmarks.line_plot import Chart, Row, scale, shares, svg

SPACE = "{http://www.w3.org/2000/svg}"


def test_a_plot_has_a_line_for_each_figure_and_nothing_outside_of_it() -> None:
    rows = [
        Row("outstanding", [1, 64, 1000], [Chart("a second", {"": [500, 20_000, 40_000]})]),
        Row("nodes", [1, 3], [Chart("ms", {"p50": [1.0, 2.0], "p99": [2.0, 5.0]}), Chart("us", {"leader": [9, 9]})]),
    ]
    plot = ET.fromstring(svg(rows, "medians <of> & 3"))
    assert plot.findtext(f"{SPACE}title") == "medians <of> & 3"
    assert len(plot.findall(f"{SPACE}polyline")) == 4
    width, height = (float(plot.attrib[name]) for name in ("width", "height"))
    for dot in plot.iter(f"{SPACE}circle"):
        assert 0 < float(dot.attrib["cx"]) < width
        assert 0 < float(dot.attrib["cy"]) < height
    words = [each.text for each in plot.iter(f"{SPACE}text")]
    assert {"p50", "p99", "leader", "1k", "nodes"} <= set(words)
    assert "" not in words, "a chart of one line needs no name"


def test_equal_factors_are_equal_steps_and_zero_stands_before_all() -> None:
    assert shares([1, 10, 100]) == pytest.approx([0, 0.5, 1])
    with_zero = shares([0, 100, 1000])
    assert with_zero[0] == 0
    assert 0 < with_zero[1] < 0.5
    assert shares([7]) == [0.5]


def test_values_that_differ_much_get_an_axis_of_factors() -> None:
    height, grid = scale([2.0, 2000.0])
    assert grid == [1.0, 10.0, 100.0, 1000.0, 10_000.0]
    assert height(100.0) == pytest.approx(0.5)
    height, grid = scale([1.0, 20.0])
    assert (grid[0], height(0.0)) == (0.0, 0.0)
    assert height(grid[-1]) == 1.0
    height, grid = scale([0.0, 2000.0])
    assert grid[0] == 0.0, "a logarithm of 0 is none"
    assert scale([])[1][0] == 0.0
