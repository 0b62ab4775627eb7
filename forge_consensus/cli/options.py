"""The options that commands share: endpoints, timeout, output, and those of reads."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import click
from click.core import ParameterSource

from forge_consensus.actors.messages import CONSISTENCIES
from forge_consensus.cli.connecting import config_option, given_file
from forge_consensus.cli.contexts import contexts_file, current_endpoints, endpoints_of, known_text
from forge_consensus.cli.main import CONTEXT_VARIABLE, ENDPOINTS_VARIABLE, PRECEDENCE, PROGRAM
from forge_consensus.client.endpoints import parse_endpoints
from forge_consensus.client.routes import ANY, Route
from forge_consensus.config.loading import load_config
from forge_consensus.config.rows import parse
from forge_consensus.config.security import SecuritySettings
from forge_consensus.config.setting import Described, Setting
from forge_consensus.errors import InvalidConfigError
from forge_consensus.finite_range import FiniteRange
from forge_consensus.security.encryption import EncryptionKey
from forge_consensus.security.encryption_key import key_of_settings, read_encryption_key

TIMEOUT_SECONDS = 5.0
KEY_VARIABLE = "FORGE_CONSENSUS_SECURITY__ENCRYPTION_KEY"
KEY_KINDS = ("", "_file", "_command")
"""What follows in the names of the variables, and of the settings, that give an encryption key."""
SECONDS = Setting("seconds", "float", 0.0, Described(what="A time.", why="It is waited for.", unit="s"))

Function = TypeVar("Function", bound=Callable[..., Any])


class Duration(click.ParamType[float]):
    """A time within bounds, in seconds or as 500ms, 10s, 1m30s; the bounds are allowed."""

    name = "duration"

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds."""
        try:
            seconds = float(parse(SECONDS, str(value)))
        except InvalidConfigError:
            self.fail(f"{value!r} is no time: give one such as 10s, 500ms or 1m30s", param, ctx)
        if not self.low <= seconds <= self.high:
            self.fail(f"{value!r} must be from {self.low:g} s to {self.high:.0f} s", param, ctx)
        return seconds


class Endpoints(click.ParamType[list[str]]):
    """The type of an option that takes addresses, HOST:PORT or ipc://PATH, separated by commas."""

    name = "endpoints"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the addresses. Wrong ones, and none at all, are a wrong configuration (`InvalidConfigError`)."""
        if isinstance(value, list):  # a default
            return value
        if not value:
            option = param.opts[0] if param else "the option"
            raise InvalidConfigError(f"{option} is empty: give addresses of nodes, such as 127.0.0.1:7001,...")
        return parse_endpoints(value)


class Named(NamedTuple):
    """A context that was named for this call of the program."""

    name: str
    place: str
    """Where: ``--context`` or the variable."""


def named_context(ctx: click.Context) -> Named | None:
    """Return the context that the option ``--context`` or its variable names, None without both."""
    root = ctx.find_root()
    name = root.params.get("context")
    if name is None:
        return None
    is_option = root.get_parameter_source("context") is ParameterSource.COMMANDLINE
    return Named(name, "--context" if is_option else CONTEXT_VARIABLE)


def endpoints_if_any(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    """Return the endpoints of the first place that gives some, as `PRECEDENCE` orders them; None if none does.

    Raises `InvalidConfigError` if they are malformed, if the context is not known, or if the file of contexts is
    needed and cannot be used. A place that does not win is not looked at.
    """
    if ctx.resilient_parsing:  # a shell asks for completions
        return None
    named = named_context(ctx)
    is_option = param.name is not None and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    by_option = named is not None and named.place != CONTEXT_VARIABLE
    file = given_file()
    if file is not None and not is_option and not by_option:
        return list(file.endpoints)
    if value is not None and (is_option or not by_option):
        return Endpoints().convert(value, param, ctx)
    if named is not None:
        return list(endpoints_of(contexts_file(os.environ), *named))
    return current_endpoints(os.environ)


def endpoints_or_error(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    """Return what `endpoints_if_any` does; to have none is an `InvalidConfigError` too, which says how to give them."""
    found = endpoints_if_any(ctx, param, value)
    if found is None and not ctx.resilient_parsing:
        raise InvalidConfigError(
            "no endpoints: say where the nodes listen with --endpoints 127.0.0.1:7001,... or "
            f"{ENDPOINTS_VARIABLE}, or in a file with --config, or name a context with --context, {CONTEXT_VARIABLE} "
            f"or {PROGRAM} context use; "
            f"{PRECEDENCE}. {known_text(os.environ)}"
        )
    return found


def endpoints_option(function: Function) -> Function:
    """Give a command the options ``--endpoints``, which it needs, and ``--config``, which may give them."""
    with_endpoints = click.option(
        "--endpoints",
        callback=endpoints_or_error,
        metavar="HOST:PORT,...",
        envvar=ENDPOINTS_VARIABLE,
        show_envvar=True,
        help=f"Where the nodes listen; one node that answers is enough; {PRECEDENCE}.",
    )(function)
    return config_option(with_endpoints)


def optional_endpoints_option(function: Function) -> Function:
    """Give a command the option ``--endpoints``; it gets None where no place gives any."""
    return click.option(
        "--endpoints",
        callback=endpoints_if_any,
        metavar="HOST:PORT,...",
        envvar=ENDPOINTS_VARIABLE,
        show_envvar=True,
        help=f"Where the nodes of a cluster listen; {PRECEDENCE}. Without any no cluster is asked.",
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


def key_option(function: Function) -> Function:
    """Give a command the encryption key of what it reads: by ``--key-file``, or as a node's configuration says it."""

    @functools.wraps(function)
    def with_key(*arguments: Any, key_file: Path | None, node_config: tuple[str, ...], **options: Any) -> Any:
        return function(*arguments, key=key_given(key_file, node_config), **options)

    options = (
        click.option(
            "--key-file",
            type=click.Path(path_type=Path),
            help="The file with the encryption key of the data, if it is encrypted. [default: the key that the "
            "variables of a node give]",
        ),
        click.option(
            "-c",
            "--config",
            "node_config",
            multiple=True,
            metavar="FILE",
            help="Instead of --key-file: the configuration of the node, which says where its key is.",
        ),
    )
    decorated: Any = with_key
    for option in reversed(options):
        decorated = option(decorated)
    return cast("Function", decorated)


def key_given(key_file: Path | None, files: tuple[str, ...]) -> EncryptionKey | None:
    """Return the key that a file holds, or that a configuration or the variables of a node give.

    Raises `InvalidConfigError`.
    """
    if key_file is not None:
        return read_encryption_key(key_file)
    if files:
        return key_of_settings(load_config(*files).node.security)
    known: dict[str, Any] = {
        f"encryption_key{kind}": os.environ.get(f"{KEY_VARIABLE}{kind.upper()}") for kind in KEY_KINDS
    }
    given = {name: text for name, text in known.items() if text}
    return key_of_settings(SecuritySettings(enable_encryption=True, **given)) if given else None


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
