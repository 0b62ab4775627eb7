"""The options that commands share: endpoints, timeout, consistency, output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from forge_consensus.actors.messages import CONSISTENCIES
from forge_consensus.client.endpoints import parse_endpoints
from forge_consensus.errors import InvalidConfigError

TIMEOUT_S = 5.0

Function = TypeVar("Function", bound=Callable[..., Any])


class Endpoints(click.ParamType[list[str]]):
    """Addresses with commas between them."""

    name = "endpoints"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """The addresses; wrong ones, and none at all, are a wrong configuration."""
        if not value:
            raise InvalidConfigError(
                "no endpoints: say where the nodes listen with --endpoints 127.0.0.1:7001,... or "
                "FORGE_CONSENSUS_ENDPOINTS"
            )
        return parse_endpoints(value)


def endpoints_option(function: Function) -> Function:
    """``--endpoints``."""
    return click.option(
        "--endpoints",
        type=Endpoints(),
        default="",
        metavar="HOST:PORT,...",
        envvar="FORGE_CONSENSUS_ENDPOINTS",
        show_envvar=True,
        help="Where the nodes listen; one that answers is enough.",
    )(function)


def timeout_option(function: Function) -> Function:
    """``--timeout``."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=TIMEOUT_S,
        show_default=True,
        envvar="FORGE_CONSENSUS_TIMEOUT",
        help="Seconds after which it is given up.",
    )(function)


def output_option(function: Function) -> Function:
    """``-o``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(("table", "json")),
        default="table",
        show_default=True,
        envvar="FORGE_CONSENSUS_OUTPUT",
        help="For people or for programs.",
    )(function)


def consistency_option(function: Function) -> Function:
    """``--consistency``."""
    return click.option(
        "--consistency",
        type=click.Choice(CONSISTENCIES),
        default=CONSISTENCIES[0],
        show_default=True,
        help="linearizable sees every acknowledged write; stale asks any node and works without a leader.",
    )(function)


def client_options(function: Function) -> Function:
    """What every command that talks to nodes takes."""
    return endpoints_option(timeout_option(output_option(function)))
