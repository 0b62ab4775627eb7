"""``forge-consensus bench``: how much a cluster of one's own does in a second, and how long each call takes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import click

from forge_consensus.cli.check import OUTSTANDING_MAX, SECONDS_MAX
from forge_consensus.cli.options import client_options
from forge_consensus.events.text import seconds_text
from forge_consensus.finite_range import FiniteRange
from forge_consensus.output import bytes_text, json_text, table

if TYPE_CHECKING:
    from forge_consensus.checks.benchmark import BenchmarkReport

HEAD: Final = ("WORK", "AT ONCE", "PER SECOND", "MEDIAN", "99%", "SLOWEST", "FAILED", "LEADER'S FLUSHES")
VALUE_BYTES_MAX: Final = 256 << 10
MANY_MAX: Final = 1000
USED: Final = "the cluster holds keys already, or does not let this client look whether it does"
"""Why a benchmark asks before it begins."""


class Numbers(click.ParamType[list[int]]):
    """Some numbers of calls that are under way at once, separated by commas."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """Return the numbers."""
        if isinstance(value, list):
            return value
        try:
            found = [int(each) for each in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} are no numbers: give some such as 1,64,1000", param, ctx)
        if not all(1 <= each <= OUTSTANDING_MAX for each in found):
            self.fail(f"{value!r}: each must be from 1 to {OUTSTANDING_MAX:,}", param, ctx)
        return found


@click.command()
@client_options
@click.option(
    "--outstanding",
    type=Numbers(),
    default="1,64,1000",
    show_default=True,
    metavar="N,...",
    help="How many calls are under way at once; one measurement each.",
)
@click.option(
    "--seconds", type=FiniteRange(0.1, SECONDS_MAX), default=5.0, show_default=True, help="How long each takes."
)
@click.option(
    "--value-size",
    type=click.IntRange(1, VALUE_BYTES_MAX),
    default=128,
    show_default=True,
    metavar="BYTES",
    help="How large each value is.",
)
@click.option(
    "--many",
    type=click.IntRange(1, MANY_MAX),
    default=1,
    show_default=True,
    metavar="N",
    help="How many writes each call hands over, as a list.",
)
@click.option("--reads", is_flag=True, help="Measure linearizable reads too, after the writes.")
@click.option("--yes", is_flag=True, help="Do not ask, although the cluster holds keys.")
@click.pass_context
def bench(
    ctx: click.Context,
    endpoints: list[str],
    timeout: float,
    output: str,
    outstanding: list[int],
    seconds: float,
    value_size: int,
    many: int,
    reads: bool,
    yes: bool,
) -> None:
    """Measure how much a cluster does in a second, and how long each call takes.

    It loads the cluster as far as one client can, and others wait meanwhile. It writes to keys of its own, which begin
    with forge-consensus/bench/, and removes them at the end. If the cluster holds keys already it asks first, or
    without a terminal wants --yes. Exit code 1 if a call failed. To know whether a cluster is fast enough:
    forge-consensus check perf.
    """
    from forge_consensus.checks.benchmark import is_used, measure_benchmark
    from forge_consensus.cli.connecting import client_of

    with client_of(endpoints, timeout) as client:
        say(load_text(outstanding, seconds, value_size, reads=reads))
        if not yes and is_used(client):
            demand_consent()
        report = measure_benchmark(client, outstanding, seconds, value_size, reads=reads, many=many, tell=say)
    if report.left:
        say(f"! keys that begin with {report.prefix} may be left: {report.left}")
    click.echo(json_text(asdict(report)) if output == "json" else "\n".join([*rows_of(report), report.text]))
    if not report.is_ok:
        ctx.exit(1)


def say(text: str) -> None:
    """Write to stderr what goes on."""
    click.echo(text, err=True)


def demand_consent() -> None:
    """Ask whether to load a cluster that is in use. Without a terminal that is wrong usage, with a no it is the end."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{USED}: say --yes if it may be loaded, because others wait meanwhile")
    click.confirm(f"{USED}. Load it all the same?", abort=True, err=True)


def load_text(outstanding: Sequence[int], seconds: float, value_bytes: int, *, reads: bool) -> str:
    """Return a sentence that says how much load a benchmark makes."""
    from forge_consensus.checks.benchmark import keys_for

    keys, numbers = keys_for(value_bytes), ", ".join(f"{each:,}" for each in outstanding)
    works = "writes, then linearizable reads," if reads else "writes"
    return (
        f"{works} of {bytes_text(value_bytes)} with {numbers} at once, for {seconds:g} s each, as fast as the cluster "
        f"answers; to {keys:,} keys, which take up to {bytes_text(keys * value_bytes)} of each node and go at the end"
    )


def rows_of(report: BenchmarkReport) -> list[str]:
    """Return the lines of the table."""
    rows = [
        (
            each.work if each.many == 1 else f"{each.work} x {each.many}",
            f"{each.outstanding:,}",
            f"{each.per_second:,.0f}",
            *(
                seconds_text(time)
                for time in (each.latency.p50_seconds, each.latency.p99_seconds, each.latency.max_seconds)
            ),
            f"{each.failed:,}",
            "-" if each.leader_flushes is None else f"{each.leader_flushes:,}",
        )
        for each in report.measured
    ]
    return table(HEAD, rows)
