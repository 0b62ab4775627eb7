"""``forge-consensus doctor``: everything that may be wrong with a host, a configuration, a folder and a cluster."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple

import click

from forge_consensus.checks.doctor import Patient, examine, not_examined
from forge_consensus.checks.finding import Finding, is_fit, ok, problem
from forge_consensus.checks.secret_files import KEY_DAYS
from forge_consensus.cli.config import load
from forge_consensus.cli.connecting import META
from forge_consensus.cli.main import CONFIG_VARIABLE
from forge_consensus.cli.options import optional_endpoints_option, output_option, timeout_option
from forge_consensus.config.client_file import ClientFile, read_client_file
from forge_consensus.config.loading import LoadedConfig
from forge_consensus.errors import ConsensusError, InvalidConfigError
from forge_consensus.finite_range import FiniteRange
from forge_consensus.output import json_text, printable

COLORS: Final = {"ok": "green", "warning": "yellow", "problem": "red"}
WIDTH_CHARS_MIN: Final = 60


class Given(NamedTuple):
    """A client's file that was named."""

    path: Path
    file: ClientFile | None
    """What it says; None if it cannot be used."""
    fault: str = ""
    """Why it cannot be used."""


def take_client(ctx: click.Context, param: click.Parameter, value: str | None) -> Given | None:
    """Return what a client's file says, and keep it for the options that follow; a fault of it is a finding."""
    if not value or ctx.resilient_parsing:
        return None
    try:
        file = read_client_file(value)
    except InvalidConfigError as error:
        return Given(Path(value), None, str(error))
    ctx.meta[META] = file
    return Given(Path(value), file)


@click.command()
@optional_endpoints_option
@click.option(
    "--config",
    "client",
    type=click.Path(dir_okay=False),
    callback=take_client,
    is_eager=True,
    metavar="FILE",
    envvar=CONFIG_VARIABLE,
    show_envvar=True,
    help="A client's file, as init --secure writes it: it is looked at, and the cluster is asked with its keys.",
)
@click.option("--data", type=click.Path(path_type=Path), help="The folder of a node. [default: as the file of -c says]")
@click.option(
    "-c",
    "files",
    type=click.Path(dir_okay=False),
    multiple=True,
    metavar="FILE",
    help="A configuration file of a node; may be given several times.",
)
@click.option(
    "--key-days",
    type=FiniteRange(min=0, min_open=True),
    default=KEY_DAYS,
    show_default=True,
    help="From how many days on a key or a token is old, by the time of its file.",
)
@timeout_option
@output_option
@click.pass_context
def doctor(
    ctx: click.Context,
    endpoints: list[str] | None,
    client: Given | None,
    data: Path | None,
    files: tuple[str, ...],
    key_days: float,
    timeout: float,
    output: str,
) -> None:
    """Look for everything that may be wrong, and say what to do about it.

    The host is always looked at: interpreter and open files. -c adds the configuration and the addresses of a node, and
    what protects it; --data its folder, its disk and who uses it; --endpoints or a context a cluster: quorum, members,
    clocks, versions, and what nodes refuse; --config a client's file, with whose keys the cluster is asked. In the
    folder something is written for half a second and removed again. Nothing else is changed, and nothing has to run.
    Exit code 0 if nothing is a problem, 1 otherwise; warnings are none.
    """
    found: list[Finding] = []
    config: LoadedConfig | None = None
    if files:
        found, config = configuration(files)
    if config is not None and data is None:
        data = Path(config.node.storage_path)
    if client is not None:
        found += client_file(client)
    file, place = (client.file, client.path) if client is not None else (None, Path())
    patient = Patient(config, data, tuple(endpoints or ()), timeout, file, place, key_days)
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


def client_file(given: Given) -> list[Finding]:
    """Return what is to be said of a client's file as a whole."""
    check = "client"
    if given.file is None:
        return [
            problem(check, given.fault, "a client's file is as init --secure writes it; that of a node is given by -c")
        ]
    return [ok(check, f"{given.path} names {', '.join(given.file.endpoints)}")]


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
