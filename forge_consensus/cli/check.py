"""``forge-consensus check``: single questions to a cluster or a disk, with the answer as exit code."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click

from forge_consensus.checks.latencies import Latencies
from forge_consensus.cli.main import Commands
from forge_consensus.cli.options import client_options, output_option
from forge_consensus.config.raft import RaftSettings
from forge_consensus.events.text import seconds_text
from forge_consensus.finite_range import FiniteRange
from forge_consensus.output import json_text, table

HEAD: Final = ("OPERATION", "COUNT", "MEDIAN", "99%", "SLOWEST")
SECONDS_MAX: Final = 3600
OUTSTANDING_MAX: Final = 4096
"""What a node allows one client at once."""


@click.group(cls=Commands)
def check() -> None:
    """Check whether nodes can be stopped, whether a disk is fast enough, and how much a cluster does.

    Exit code 0 if the answer is good, 1 if it is not. For everything else that may be wrong: forge-consensus doctor.
    """


def tell(ctx: click.Context, report: Any, lines: list[str], output: str) -> None:
    """Print what a check found, and end with its exit code."""
    click.echo(json_text(asdict(report)) if output == "json" else "\n".join([*lines, report.text]))
    if not report.is_ok:
        ctx.exit(1)


def cells_of(operation: str, times: Latencies) -> tuple[str, ...]:
    """Return the line of the table for operations of one kind."""
    seconds = (times.p50_seconds, times.p99_seconds, times.max_seconds)
    return (operation, f"{times.count:,}", *(seconds_text(each) for each in seconds))


@check.command(name="quorum-critical")
@client_options
@click.option("--node", default="", metavar="ID", help="Ask about this node only, as before it is stopped.")
@click.pass_context
def quorum_critical(ctx: click.Context, endpoints: list[str], timeout: float, output: str, node: str) -> None:
    """Check whether voters can be stopped, one at a time, without losing the quorum.

    Exit code 1 names those that cannot. With --node it answers for that node alone, as a script asks before it stops
    one. A voter that does not answer, that the leader does not hear or that takes no entries helps nobody.
    """
    from forge_consensus.checks.quorum import critical_voters
    from forge_consensus.cli.connecting import client_of
    from forge_consensus.service.cluster_report import cluster_report

    with client_of(endpoints, timeout) as client:
        report = cluster_report(client, endpoints, timeout)
    tell(ctx, critical_voters(report, node), [], output)


@check.command()
@click.option(
    "--data", required=True, type=click.Path(path_type=Path), help="A folder on the disk, such as that of the node."
)
@click.option(
    "--seconds",
    type=FiniteRange(0.1, SECONDS_MAX),
    default=2.0,
    show_default=True,
    help="How long it is written to.",
)
@click.option(
    "--election-timeout-min",
    type=FiniteRange(min=0, min_open=True),
    default=RaftSettings().election_timeout_min,
    show_default=True,
    metavar="SECONDS",
    help="The setting raft.election_timeout_min of the cluster, by which the disk is judged.",
)
@output_option
@click.pass_context
def disk(ctx: click.Context, data: Path, seconds: float, election_timeout_min: float, output: str) -> None:
    """Check whether a disk makes commits durable fast enough for elections.

    Writes small records to a file and commits them to a store, half of the time each, and removes both. A node may run
    in the folder; then it and the check slow each other down.
    """
    from forge_consensus.checks.disk import measure_disk

    report = measure_disk(data, seconds, election_timeout_min)
    rows = [cells_of("flushed record", report.flushes), cells_of("durable commit", report.commits)]
    if report.note:
        click.echo(f"! {report.note}", err=True)
    tell(ctx, report, [f"{report.folder} ({report.file_system})", *table(HEAD, rows)], output)


@check.command()
@client_options
@click.option(
    "--seconds", type=FiniteRange(0.1, SECONDS_MAX), default=5.0, show_default=True, help="How long it writes."
)
@click.option(
    "--outstanding",
    type=click.IntRange(1, OUTSTANDING_MAX),
    default=100,
    show_default=True,
    help="How many writes are under way at once.",
)
@click.pass_context
def perf(
    ctx: click.Context, endpoints: list[str], timeout: float, output: str, seconds: float, outstanding: int
) -> None:
    """Check how many writes a cluster takes in a second, and how long each takes.

    It writes small values to keys of its own, which begin with forge-consensus/check-perf/, and removes them at the
    end. Exit code 1 if a write failed, or if more than one of a hundred took longer than 500 ms. It is a load: do not
    run it where that does harm.
    """
    from forge_consensus.checks.load import measure_load
    from forge_consensus.cli.connecting import client_of

    with client_of(endpoints, timeout) as client:
        report = measure_load(client, seconds, outstanding)
    if report.left:
        click.echo(f"! keys that begin with {report.prefix} may be left: {report.left}", err=True)
    lines = [
        f"{report.writes_per_second:,.0f} writes/s: {report.writes:,} in {report.seconds:.1f}s, {report.failed:,} "
        f"failed, {report.outstanding:,} at once",
        *table(HEAD, [cells_of("write", report.latency)]),
    ]
    tell(ctx, report, lines, output)
