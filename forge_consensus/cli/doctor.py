"""``forge-consensus doctor``: everything that may be wrong with a host, a configuration, a folder and a cluster."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from forge_consensus.checks.doctor import Patient, examine, not_examined
from forge_consensus.checks.finding import Finding, is_fit, ok, problem
from forge_consensus.cli.config import load
from forge_consensus.cli.options import optional_endpoints_option, output_option, timeout_option
from forge_consensus.config.loading import LoadedConfig
from forge_consensus.errors import ConsensusError
from forge_consensus.output import json_text, printable

COLORS: Final = {"ok": "green", "warning": "yellow", "problem": "red"}
WIDTH_CHARS_MIN: Final = 60


@click.command()
@optional_endpoints_option
@click.option("--data", type=click.Path(path_type=Path), help="The folder of a node. [default: as the file of -c says]")
@click.option(
    "-c",
    "--config",
    "files",
    type=click.Path(dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="A configuration file of a node; may be given several times.",
)
@timeout_option
@output_option
@click.pass_context
def doctor(
    ctx: click.Context,
    endpoints: list[str] | None,
    data: Path | None,
    files: tuple[str, ...],
    timeout: float,
    output: str,
) -> None:
    """Look for everything that may be wrong, and say what to do about it.

    The host is always looked at: interpreter and open files. -c adds the configuration and the addresses of a node,
    --data its folder, its disk and who uses it, --endpoints or a context a cluster: quorum, members, clocks, versions,
    and what nodes refuse. In the folder something is written for half a second and removed again. Nothing else is
    changed, and nothing has to run. Exit code 0 if nothing is a problem, 1 otherwise; warnings are none.
    """
    found: list[Finding] = []
    config: LoadedConfig | None = None
    if files:
        found, config = configuration(files)
    if config is not None and data is None:
        data = Path(config.node.storage_path)
    patient = Patient(config.node if config else None, data, tuple(endpoints or ()), timeout)
    found += examine(patient)
    left = not_examined(patient)
    if output == "json":
        rows = [asdict(finding) for finding in found]
        click.echo(json_text({"is_fit": is_fit(found), "findings": rows, "not_checked": left}))
    else:
        show(found)
        if left:
            click.echo(f"not checked: {'; '.join(left)}", err=True)
    if not is_fit(found):
        ctx.exit(1)


def configuration(files: tuple[str, ...]) -> tuple[list[Finding], LoadedConfig | None]:
    """Load configuration files; return what is to be said of them, and the settings if they can be used."""
    check = "configuration"
    try:
        config = load(files)
    except ConsensusError as error:
        return [problem(check, str(error), "see forge-consensus config validate, and docs/configuration.md")], None
    node = config.node
    told = [ok(check, note) for note in config.notes]
    return [*told, ok(check, f"node {node.node_id} of cluster {node.cluster_id} at {node.bind}")], config


def show(found: Sequence[Finding]) -> None:
    """Print the findings for people: level and check in columns, the text behind them, what to do in a line below."""
    width = max(WIDTH_CHARS_MIN, shutil.get_terminal_size().columns)
    checks = max(len(finding.check) for finding in found)
    margin = " " * (len("problem") + checks + 4)
    for finding in found:
        level = click.style(f"{finding.level:7}", COLORS[finding.level])
        text = printable(finding.text, keep="\n")
        lines = "\n".join(wrapped(part, width, margin, margin) for part in text.splitlines())
        click.echo(f"{level}  {finding.check:{checks}}  {lines[len(margin) :]}")
        if finding.advice:
            click.echo(wrapped(f"> {printable(finding.advice)}", width, margin, f"{margin}  "))


def wrapped(text: str, width: int, first: str, later: str) -> str:
    """Return a text in lines with a margin; paths and commands stay in one piece, because they are copied."""
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )
