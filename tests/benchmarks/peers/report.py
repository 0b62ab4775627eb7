"""What a benchmark found, as one table for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from forge_consensus.output import table
from tests.benchmarks.peers.figures import Spread, Summary, Work, summaries
from tests.benchmarks.peers.rounds import Results
from tests.benchmarks.peers.system import System

HEAD: Final = (
    "CALLS", "AT ONCE", "SYSTEM", "PER SECOND", "LOWEST-HIGHEST", "P50 MS", "P99 MS", "LEADER US", "FOLLOWER US",
    "CLIENT US", "FLUSHES", "OTHERS",
)  # fmt: skip
FORMAT: Final = 2
"""Raised when the meaning of a field of the JSON changes."""


@dataclass(frozen=True, slots=True)
class Report:
    """All that a benchmark has to say."""

    systems: Sequence[type[System]]
    missing: Mapping[str, str]
    """Name of a system that is not installed -> the line that says how to get it."""
    works: Sequence[Work]
    rounds: int
    results: Results
    machine: Mapping[str, Any]
    folder: str
    file_system: str

    @property
    def summaries(self) -> list[Summary]:
        """The summaries, those of the same work together."""
        order = [(work.kind, work.outstanding) for work in self.works]
        return sorted(summaries(self.results.runs), key=lambda each: order.index((each.kind, each.outstanding)))


def missing_line(system: type[System]) -> str:
    """Return the line for a system that is not installed; empty for one that is."""
    lacking = system.missing()
    return f"{system.title}: not measured, there is no {lacking}; install with: {system.install}" if lacking else ""


def row(each: Summary, titles: Mapping[str, str]) -> tuple[str, ...]:
    """Return the row of a table."""
    rate = each.per_second
    return (
        f"{each.kind}s",
        f"{each.outstanding:,}",
        titles[each.system],
        f"{rate.median:,.0f}",
        f"{rate.low:,.0f}-{rate.high:,.0f}",
        f"{each.p50_ms.median:.2f}",
        f"{each.p99_ms.median:.2f}",
        f"{each.leader_us.median:.1f}",
        f"{each.follower_us.median:.1f}",
        median_text(each.client_us, ".1f"),
        median_text(each.flushes_per_write, ".3f"),
        f"{each.others_percent.median:.0f} %",
    )


def median_text(spread: Spread | None, form: str) -> str:
    """Return the median of a figure; "-" where it is not known."""
    return "-" if spread is None else format(spread.median, form)


def text_of(report: Report) -> list[str]:
    """Return the lines for people: the table, what it leaves out, what the machine can do, what it is."""
    titles = {system.name: system.title for system in report.systems}
    first = report.works[0]
    lines = table(HEAD, [row(each, titles) for each in report.summaries])
    lines += [
        "",
        f"Three nodes on this machine, {first.value_bytes}-byte values, {report.rounds} rounds of {first.seconds:g} s "
        "in turns; medians. LEADER, FOLLOWER, CLIENT: processor time for each call. FLUSHES: of the leader's disk for "
        "each call, - where it does not tell. OTHERS: how much of the machine went to something else.",
        "",
        *(f"{system.title} {system.version()}: {system.durability}; {system.client}" for system in report.systems),
        *report.missing.values(),
        *(f"{titles[each.system]} failed in round {each.round}: {each.text}" for each in report.results.failures),
        *doubtful_lines(report, titles),
        "",
        *idle_lines(report, titles),
        *floor_lines(report),
        f"{report.machine['processors']} x {report.machine['processor']}, Linux {report.machine['kernel']}, "
        f"{report.machine['python']}; data on {report.folder} ({report.file_system})",
    ]
    return lines


def doubtful_lines(report: Report, titles: Mapping[str, str]) -> list[str]:
    """Return a line for everything that makes figures doubtful: what a run notes, and writes that failed."""
    lines = []
    for each in report.summaries:
        failed = [f"{each.failed:,} {each.kind}s failed"] if each.failed else []
        what = f"{titles[each.system]}, {each.kind}s, {each.outstanding:,} at once"
        lines += [f"{what}: {text}" for text in [*each.notes, *failed]]
    return lines


def idle_lines(report: Report, titles: Mapping[str, str]) -> list[str]:
    """Return a line for what the nodes of each system use while they have nothing to do: medians of the rounds."""
    lines = []
    for name, title in titles.items():
        idles = [each for each in report.results.idles if each.system == name]
        leader = median_text(Spread.of(each.leader_percent for each in idles), ".1f")
        follower = median_text(Spread.of(each.follower_percent for each in idles), ".1f")
        if idles:
            lines.append(f"idle: {title}: leader {leader} %, each follower {follower} % of a processor")
    return lines


def floor_lines(report: Report) -> list[str]:
    """Return a line for each operation that no system can beat: medians of the rounds."""
    lines = []
    for name in report.results.floors[0] if report.results.floors else ():
        p50 = Spread.of(each[name].p50_seconds * 1e6 for each in report.results.floors)
        p99 = Spread.of(each[name].p99_seconds * 1e6 for each in report.results.floors)
        lines.append(f"floor: {name}: p50 {median_text(p50, '.0f')} us, p99 {median_text(p99, '.0f')} us")
    return lines


def data_of(report: Report) -> dict[str, Any]:
    """Return everything as JSON can hold it."""
    return {
        "format": FORMAT,
        "machine": dict(report.machine),
        "folder": report.folder,
        "file_system": report.file_system,
        "rounds": report.rounds,
        "works": [asdict(work) for work in report.works],
        "systems": [
            {
                "name": system.name,
                "title": system.title,
                "version": system.version(),
                "durability": system.durability,
                "client": system.client,
            }
            for system in report.systems
        ],
        "not_measured": dict(report.missing),
        "summaries": [asdict(each) for each in report.summaries],
        "runs": [asdict(each) for each in report.results.runs],
        "idles": [asdict(each) for each in report.results.idles],
        "failures": [asdict(each) for each in report.results.failures],
        "floors": [{name: asdict(each) for name, each in floors.items()} for floors in report.results.floors],
    }
