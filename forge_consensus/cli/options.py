"""The options that commands share: endpoints, timeout, output, and those of reads."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from forge_consensus.actors.messages import CONSISTENCIES
from forge_consensus.client.endpoints import parse_endpoints
from forge_consensus.client.routes import ANY, Route
from forge_consensus.errors import InvalidConfigError
from forge_consensus.finite_range import FiniteRange

TIMEOUT_SECONDS = 5.0

Function = TypeVar("Function", bound=Callable[..., Any])


class Endpoints(click.ParamType[list[str]]):
    """The type of an option that takes addresses, HOST:PORT or ipc://PATH, separated by commas."""

    name = "endpoints"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the addresses; wrong ones, and none at all, are a wrong configuration (78)."""
        if isinstance(value, list):  # a default
            return value
        if not value:
            raise InvalidConfigError(
                "no endpoints: say where the nodes listen with --endpoints 127.0.0.1:7001,... or "
                "FORGE_CONSENSUS_ENDPOINTS"
            )
        return parse_endpoints(value)


def endpoints_option(function: Function) -> Function:
    """Give a command the option ``--endpoints``."""
    return click.option(
        "--endpoints",
        type=Endpoints(),
        default="",
        metavar="HOST:PORT,...",
        envvar="FORGE_CONSENSUS_ENDPOINTS",
        show_envvar=True,
        help="Where the nodes listen; one node that answers is enough.",
    )(function)


def timeout_option(function: Function) -> Function:
    """Give a command the option ``--timeout``."""
    return click.option(
        "--timeout",
        type=FiniteRange(min=0, min_open=True),
        default=TIMEOUT_SECONDS,
        show_default=True,
        envvar="FORGE_CONSENSUS_TIMEOUT",
        help="Seconds after which the command gives up.",
    )(function)


def output_option(function: Function) -> Function:
    """Give a command the option ``-o``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(("table", "json")),
        default="table",
        show_default=True,
        envvar="FORGE_CONSENSUS_OUTPUT",
        help="table for people, json for programs.",
    )(function)


def data_option(function: Function) -> Function:
    """Give a command the option ``--data``, the folder of a stopped node."""
    return click.option(
        "--data", required=True, type=click.Path(path_type=Path, file_okay=False), help="The node's folder."
    )(function)


READ_OPTIONS = (
    click.option(
        "--consistency",
        type=click.Choice(CONSISTENCIES),
        default=CONSISTENCIES[0],
        show_default=True,
        help="linearizable sees every acknowledged write; stale asks any node and works without a leader.",
    ),
    click.option("--any", "any_node", is_flag=True, help="Any node may answer, not only the leader."),
    click.option(
        "--node",
        type=Endpoints(),
        default=[],
        metavar="HOST:PORT",
        help="The node at this address answers, and no other.",
    ),
    click.option(
        "--max-staleness",
        type=FiniteRange(min=0, min_open=True),
        metavar="SECONDS",
        help="A stale answer may be so old and no older; nodes with an older state are passed over.",
    ),
    click.option(
        "--after-index",
        type=click.IntRange(min=0),
        default=0,
        metavar="INDEX",
        help="The answer must reflect this log entry, such as the applied_index of an earlier answer.",
    ),
)
"""The options of reads, in the order in which the help lists them."""


def read_options(function: Function) -> Function:
    """Give a command the options of reads; it gets what they say as `reading`, the arguments for `Client.read`."""

    @functools.wraps(function)
    def command(
        *args: Any,
        consistency: str,
        any_node: bool,
        node: list[str],
        max_staleness: float | None,
        after_index: int,
        **others: Any,
    ) -> Any:
        if any_node and node:
            raise click.UsageError("say --any or --node, and not both")
        if len(node) > 1:
            raise click.UsageError("--node takes one address")
        read_from = ANY if any_node else node[0] if node else None
        try:
            Route.of(consistency, read_from, max_staleness, after_index)
        except InvalidConfigError as error:
            raise click.UsageError(str(error)) from None
        reading: dict[str, Any] = {
            "consistency": consistency,
            "read_from": read_from,
            "max_staleness": max_staleness,
            "after_index": after_index,
        }
        return function(*args, reading=reading, **others)

    for option in reversed(READ_OPTIONS):
        command = option(command)
    return cast("Function", command)


def client_options(function: Function) -> Function:
    """Give a command the three options of every command that talks to nodes."""
    return endpoints_option(timeout_option(output_option(function)))
