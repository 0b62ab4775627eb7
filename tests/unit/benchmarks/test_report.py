"""The table, the JSON and the plot of the benchmark beside other systems."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import product

import pytest

from forge_consensus.checks.latencies import Latencies
from tests.benchmarks.peers.__main__ import plot_of
from tests.benchmarks.peers.etcd import Etcd
from tests.benchmarks.peers.figures import Idle, Run, Work
from tests.benchmarks.peers.own import Own
from tests.benchmarks.peers.plot import CHART, LABELS, WIDTH, rate_axis, short_number, time_axis
from tests.benchmarks.peers.report import HEAD, Report, data_of, text_of
from tests.benchmarks.peers.rounds import Failure, Results

RUN = Run(
    system="own", round=1, kind="write", outstanding=64, count=1000, seconds=2.0, per_second=12_500.0, p50_ms=1.0,
    p99_ms=9.0, max_ms=20.0, failed=0, leader_us=10.0, follower_us=5.0, client_us=7.0,
    flushes_per_write=0.5, others_percent=1.0,
)  # fmt: skip
IDLES = [Idle("own", 1.0, 0.5), Idle("own", 2.0, 0.7), Idle("etcd", 3.0, 2.0)]
SVG = "{http://www.w3.org/2000/svg}"


def report(*runs: Run, failures: tuple[Failure, ...] = ()) -> Report:
    """A report of two systems."""
    floors = [{"a flush": Latencies(10, 0.0002, 0.001, 0.002)}, {"a flush": Latencies(10, 0.0004, 0.003, 0.004)}]
    return Report(
        systems=[Own, Etcd],
        missing={"zookeeper": "ZooKeeper: not measured, there is no java"},
        works=[Work(1, 2.0, 128), Work(64, 2.0, 128), Work(1, 2.0, 128, "read")],
        rounds=2,
        results=Results(list(runs), list(failures), IDLES, floors),
        machine={"processors": 2, "processor": "a <fast> one", "kernel": "6.1", "python": "CPython 3.11"},
        folder="/data",
        file_system="ext4",
    )


RUNS = [
    replace(RUN, system=system, round=number, outstanding=outstanding, per_second=rate * outstanding * number)
    for number, (system, rate), outstanding in product((1, 2), (("own", 100.0), ("etcd", 200.0)), (64, 1))
]


def test_the_table_has_the_median_and_the_spread_of_each_system_by_what_was_under_way() -> None:
    lines = text_of(report(*RUNS, replace(RUN, system="etcd", kind="read", outstanding=1, per_second=77.0)))
    assert re.split(r"\s{2,}", lines[0].strip()) == list(HEAD)
    cells = [re.split(r"\s{2,}", line.strip())[:5] for line in lines[1:6]]
    assert cells == [
        ["writes", "1", "forge-consensus", "150", "100-200"],
        ["writes", "1", "etcd", "300", "200-400"],
        ["writes", "64", "forge-consensus", "9,600", "6,400-12,800"],
        ["writes", "64", "etcd", "19,200", "12,800-25,600"],
        ["reads", "1", "etcd", "77", "77-77"],
    ]


def test_the_text_says_what_is_missing_what_failed_and_what_the_machine_can_do() -> None:
    odd = [
        replace(RUNS[0], failed=3, client_us=None, flushes_per_write=None, note="the leader changed"),
        *RUNS[1:],
    ]
    text = "\n".join(text_of(report(*odd, failures=(Failure("etcd", 2, "no leader"),))))
    for said in (
        "ZooKeeper: not measured, there is no java",
        "etcd failed in round 2: no leader",
        "forge-consensus, writes, 64 at once: the leader changed",
        "forge-consensus, writes, 64 at once: 3 writes failed",
        "idle: forge-consensus: leader 1.5 %, each follower 0.6 % of a processor",
        "idle: etcd: leader 3.0 %, each follower 2.0 % of a processor",
        "floor: a flush: p50 300 us, p99 2000 us",
        "CPython 3.11; data on /data (ext4)",
    ):
        assert said in text
    assert "  -  " in "\n".join(text_of(report(replace(RUN, client_us=None, flushes_per_write=None))))


def test_nothing_measured_is_a_report_too() -> None:
    nothing = replace(report(), results=Results())
    assert text_of(nothing)[0].split() == " ".join(HEAD).split()


def test_json_has_every_single_figure() -> None:
    found = json.loads(json.dumps(data_of(report(*RUNS, failures=(Failure("etcd", 2, "no leader"),)))))
    assert len(found["runs"]) == len(RUNS)
    assert found["runs"][0]["per_second"] == 6400.0
    assert {each["name"] for each in found["systems"]} == {"own", "etcd"}
    assert found["not_measured"].keys() == {"zookeeper"}
    assert found["failures"] == [{"system": "etcd", "round": 2, "text": "no leader"}]
    assert found["idles"][2] == {"system": "etcd", "leader_percent": 3.0, "follower_percent": 2.0}
    assert found["floors"][1]["a flush"]["p50_seconds"] == 0.0004
    assert [each["outstanding"] for each in found["summaries"]] == [1, 1, 64, 64]


def test_the_plot_is_xml_whose_bars_are_as_long_as_the_rates() -> None:
    root = ET.fromstring(plot_of(report(*RUNS)))
    bars = [float(each.attrib["width"]) for each in root.iter(f"{SVG}rect")]
    assert [round(bar / bars[3], 3) for bar in bars[2:]] == [0.5, 1.0], "64 under way: 9,600 and 19,200"
    assert bars[3] == pytest.approx(CHART * 19_200 / rate_axis(25_600)[1], abs=0.1)
    texts = ["".join(each.itertext()) for each in root.iter(f"{SVG}text")]
    assert {"writes, 1 under way at once", "writes, 64 under way at once", "etcd", "19,200"} <= set(texts)
    assert "prefers-color-scheme:dark" in "".join(root.itertext()), "it is read on a dark background too"


def test_nothing_of_the_plot_lies_outside_of_it() -> None:
    root = ET.fromstring(plot_of(report(*(replace(each, p50_ms=0.0004, p99_ms=99_000.0) for each in RUNS))))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert width == WIDTH
    for each in root.iter():
        for name, value in each.attrib.items():
            if name in {"x", "x1", "x2", "cx"}:
                assert 0 <= float(value) <= width
            if name in {"y", "y1", "y2", "cy"}:
                assert 0 <= float(value) <= height


@pytest.mark.parametrize(
    ("highest", "step", "end"),
    [(0.0, 0.5, 1.0), (9.0, 5.0, 10.0), (390.0, 100.0, 400.0), (41_000.0, 20_000.0, 60_000.0)],
)
def test_an_axis_of_rates_has_round_steps_and_holds_the_highest(highest: float, step: float, end: float) -> None:
    assert rate_axis(highest) == (step, end)


def test_an_axis_of_times_begins_and_ends_with_powers_of_ten() -> None:
    summaries = report(replace(RUN, p50_ms=0.8, p99_ms=120.0)).summaries
    assert time_axis(summaries) == (-1, 3)
    assert time_axis(report(replace(RUN, p50_ms=1.0, p99_ms=1.0)).summaries) == (0, 1)


def test_numbers_of_an_axis_are_short() -> None:
    assert [short_number(each) for each in (0, 500, 2_000, 12_500, 1_500_000)] == ["0", "500", "2k", "12.5k", "1.5M"]


def test_names_are_above_their_bars_only_if_they_fit() -> None:
    assert max(len(system.title) for system in (Own, Etcd)) * 7 < LABELS
