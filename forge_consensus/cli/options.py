"""The options that commands share: endpoints, timeout, consistency, output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from forge_consensus.actors.messages import CONSISTENCIES
from forge_consensus.client.endpoints import parse_endpoints
from forge_consensus.errors import InvalidConfigError
from forge_consensus.finite_range import FiniteRange

TIMEOUT_SECONDS = 5.0

Function = TypeVar("Function", bound=Callable[..., Any])


class Endpoints(click.ParamType[list[str]]):
    """The type of an option that takes addresses, HOST:PORT or ipc://PATH, separated by commas."""

    name = "endpoints"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the addresses; wrong ones, and none at all, are a wrong configuration (78)."""
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


def consistency_option(function: Function) -> Function:
    """Give a command the option ``--consistency``."""
    return click.option(
        "--consistency",
        type=click.Choice(CONSISTENCIES),
        default=CONSISTENCIES[0],
        show_default=True,
        help="linearizable sees every acknowledged write; stale asks any node and works without a leader.",
    )(function)


def client_options(function: Function) -> Function:
    """Give a command the three options of every command that talks to nodes."""
    return endpoints_option(timeout_option(output_option(function)))
