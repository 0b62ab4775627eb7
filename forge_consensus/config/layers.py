"""The places besides files where settings are given: environment variables, and arguments of a Python call."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from forge_consensus.config.address import joined_address
from forge_consensus.config.given import PEER_KEYS, Given, Layer
from forge_consensus.config.rows import plain
from forge_consensus.config.setting import describe, is_section, section_of
from forge_consensus.errors import InvalidConfigError

PREFIX: Final = "FORGE_CONSENSUS_"
LEVEL: Final = "__"
NEAR: Final = 0.85
"""A variable whose name is at least so much like that of a setting is taken for a slip."""
OF_COMMANDS: Final = frozenset({"context", "contexts", "endpoints", "timeout", "output"})
"""Variables of other commands."""
OPTIONS: Final = {"id": "node_id", "cluster": "cluster_id", "listen": "bind", "data": "storage_path"}
"""What somebody who knows the options of the command may call settings."""
NUMBER_BITS_MAX: Final = 200


def from_environment(environment: Mapping[str, str], known: frozenset[str]) -> Layer:
    """Read variables such as ``FORGE_CONSENSUS_RAFT__HEARTBEAT_INTERVAL=250ms``; an empty one counts as not set.

    Args:
        environment: the variables.
        known: the names of all settings. A variable of a section (with ``__``) is a setting even if it is not known,
            and so refused later. Others belong to somebody else, as those that Kubernetes makes for a service called
            forge-consensus, unless their names are nearly right.

    Raises `InvalidConfigError` for variables that are no texts.

    """
    layer = Layer()
    sections = {name.partition(".")[0] for name in known if "." in name}
    for variable in sorted(name for name in environment if str(name).startswith(PREFIX)):
        text = environment[variable]
        if not isinstance(text, str):
            raise InvalidConfigError(f"the variable {variable} is {text!r}: the environment holds texts")
        name = variable.removeprefix(PREFIX).lower().replace(LEVEL, ".")
        if not text.strip() or name in OF_COMMANDS:
            continue
        near = [OPTIONS[name]] if name in OPTIONS else difflib.get_close_matches(name, known, 1, NEAR)
        if name in known or "." in name:
            layer.givens.append(Given(name, text, variable))
        elif name in sections:
            layer.problems.append(f"{variable}: it is a section, give the settings in it: {variable}{LEVEL}NAME")
        elif near:
            meant = f"{PREFIX}{near[0].replace('.', LEVEL).upper()}"
            layer.problems.append(f"{variable}: there is no such setting, did you mean {meant}?")
    return layer


def from_arguments(arguments: Mapping[str, Any]) -> Layer:
    """Read the arguments of a Python call: values, or maps and settings classes for whole sections.

    Of a settings class counts what differs from its defaults, because the rest may have been given elsewhere.
    """
    layer = Layer()
    for name, value in leaves(arguments, ""):
        if name == "peers" and isinstance(value, list | tuple):
            peers, problems = peers_of(value)
            layer.problems += [f"argument {problem}" for problem in problems]
            if peers or not problems:
                layer.givens.append(Given(name, peers, f"argument {name}"))
        elif isinstance(value, int) and value.bit_length() > NUMBER_BITS_MAX:
            layer.problems.append(f"argument {name}: the number is too large")
        else:
            layer.givens.append(Given(name, value, f"argument {name}"))
    return layer


def peers_of(members: Sequence[Any]) -> tuple[dict[str, str], list[str]]:
    """Return the members of a list by id, and what is wrong with it; each is a map with id, address, and perhaps port.

    That is how the Go original lists them; a text ID=HOST:PORT is a member too. A member with a fault is among them if
    it has an address, whose faults are told by the check of the whole.
    """
    found: dict[str, str] = {}
    problems: list[str] = []
    for number, member in enumerate(members):
        name = f"peers[{number}]"
        row = member
        if isinstance(member, str) and "=" in member:
            node, _, address = member.partition("=")
            row = {"id": node.strip(), "address": address.strip()}
        if not isinstance(row, Mapping):
            problems.append(f"{name} is {member!r:.100}: a member is a map with id, address and port, or ID=HOST:PORT")
            continue
        wrong = [
            f"{name}.{key}: unknown key, a member has {', '.join(PEER_KEYS)}" for key in row if key not in PEER_KEYS
        ]
        wrong += [f"{name}.{key}: it is missing" for key in ("id", "address") if not row.get(key)]
        if row.get("id") and str(row["id"]) in found:
            wrong.append(f"{name}: node {str(row['id'])!r} is twice among the peers: give each member an id of its own")
        if row.get("id") and row.get("address") and str(row["id"]) not in found:  # so that its address is checked too
            try:
                address, port = str(row["address"]), row.get("port")
                found[str(row["id"])] = address if port is None else joined_address(address, port)
            except InvalidConfigError as error:
                wrong.append(f"{name}.address: {error}")
        problems += wrong
    return found, problems


def leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the whole name and the value of everything in a map and the maps inside it; None is no value."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if is_section(type(value)):
            yield from changed(value, name)
        elif isinstance(value, Mapping) and name != "peers":
            yield from leaves(value, f"{name}.")
        elif value is not None:
            yield name, plain(value)


def changed(section: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the whole name and the value of every setting of a section that differs from its default."""
    prefix = section_of(type(section))
    for row in describe(type(section)):
        last = row.name.removeprefix(prefix)
        value = getattr(section, last)
        if value != row.default:
            yield f"{name}.{last}", value
