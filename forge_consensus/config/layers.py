"""The places besides files where settings are given: environment variables, and arguments of a Python call."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from forge_consensus.config.given import Given, Layer
from forge_consensus.config.rows import text_of, to_row
from forge_consensus.config.setting import is_section

PREFIX: Final = "FORGE_CONSENSUS_"
LEVEL: Final = "__"
NEAR: Final = 0.85
"""A variable whose name is at least so much like that of a setting is taken for a slip."""
OF_COMMANDS: Final = frozenset({"endpoints", "timeout", "output"})
"""Variables of other commands."""


def from_environment(environment: Mapping[str, str], known: frozenset[str]) -> Layer:
    """Read variables such as ``FORGE_CONSENSUS_RAFT__HEARTBEAT_INTERVAL=250ms``.

    Args:
        environment: the variables.
        known: the names of all settings. A variable of a section (with ``__``) is a setting even if it is not known,
            and so refused later. Others belong to somebody else, as those that Kubernetes makes for a service called
            forge-consensus, unless their names are nearly right.

    """
    layer = Layer()
    for variable in sorted(environment):
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower().replace(LEVEL, ".")
        if name in known or "." in name:
            layer.givens.append(Given(name, environment[variable], variable))
        elif name not in OF_COMMANDS and (near := difflib.get_close_matches(name, known, 1, NEAR)):
            meant = f"{PREFIX}{near[0].replace('.', LEVEL).upper()}"
            layer.problems.append(f"{variable}: there is no such setting, did you mean {meant}?")
    return layer


def from_arguments(arguments: Mapping[str, Any]) -> Layer:
    """Read the arguments of a Python call: values, or maps and settings classes for whole sections."""
    return Layer([Given(name, text_of(value), f"argument {name}") for name, value in leaves(arguments, "")])


def leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the whole name and the value of everything in a map and the maps inside it; None is no value."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if is_section(type(value)):
            yield from leaves(to_row(value), f"{name}.")
        elif isinstance(value, Mapping) and name != "peers":
            yield from leaves(value, f"{name}.")
        elif value is not None:
            yield name, value
