"""How a command reaches a cluster: the client's file that ``--config`` or its variable names, and clients with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from forge_consensus.cli.main import CONFIG_VARIABLE
from forge_consensus.client.sync import Client
from forge_consensus.config.client_file import ClientFile, read_client_file
from forge_consensus.security.credentials import Credentials, credentials_of

META: Final = "forge_consensus.client_file"
"""Where click's context keeps what the file says."""

Function = TypeVar("Function", bound=Callable[..., Any])


def take_file(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Keep what the file says for the rest of the command. Raises `InvalidConfigError` for one that cannot be used."""
    if value and not ctx.resilient_parsing:  # else a shell asks for completions
        ctx.meta[META] = read_client_file(value)


def config_option(function: Function) -> Function:
    """Give a command the option ``--config``, which is read before the other options."""
    return click.option(
        "--config",
        type=click.Path(dir_okay=False),
        callback=take_file,
        expose_value=False,
        is_eager=True,
        metavar="FILE",
        envvar=CONFIG_VARIABLE,
        show_envvar=True,
        help="A client's file: endpoints, keys and token, as init --secure writes it.",
    )(function)


def given_file() -> ClientFile | None:
    """Return what the file of this command says, None if none was named."""
    ctx = click.get_current_context(silent=True)
    return None if ctx is None else ctx.meta.get(META)


def given_credentials() -> Credentials | None:
    """Return the keys of this command's file, None without any. Raises `InvalidConfigError` for those that are none."""
    file = given_file()
    return None if file is None else credentials_of(file)


def client_of(endpoints: list[str], timeout: float | None = None, **options: Any) -> Client:
    """Return a client for a command: it has the keys of the file, if one was named.

    Args:
        endpoints: where nodes answer.
        timeout: how many seconds a call tries; None for the client's default.
        options: what else `Client` takes.

    """
    if timeout is not None:
        options["timeout"] = timeout
    return Client(endpoints, credentials=given_credentials(), **options)
