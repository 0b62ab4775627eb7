"""Load the configuration of a node: from files, environment variables and arguments, of which the later win."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from forge_consensus.config.given import ConfigProblemsError, Given, Layer
from forge_consensus.config.layers import from_arguments, from_environment
from forge_consensus.config.node import NodeSettings, no_peer
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.resolving import NAMES, Resolved, placed, resolve
from forge_consensus.config.rows import from_row
from forge_consensus.config.yaml_file import read_file
from forge_consensus.errors import InvalidConfigError

PROGRAM_NAMES = frozenset(slot.name for slot in fields(ProgramSettings))
NO_ADDRESS = (
    "there is no address to listen at: give bind (--listen HOST:PORT, or bind_addr and bind_port in a file), or name "
    "this node among the peers"
)


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """The settings of one node, and how they came about."""

    node: NodeSettings
    program: ProgramSettings
    """What ``forge-consensus node`` takes besides; an application that embeds the node decides it by itself."""
    notes: tuple[str, ...]
    """What of the configuration means something else here than in the Go original, or nothing; one line each."""
    origins: Mapping[str, Given]
    """Setting -> who had the last word; what is not in it has its default."""


def load_config(*paths: str | Path, environment: Mapping[str, str] | None = None, **arguments: Any) -> LoadedConfig:
    """Load the configuration of a node from YAML files; needs the extra ``config`` if there is one.

    What comes later wins, setting by setting: defaults, the files in their order, environment variables, arguments.

    Args:
        paths: YAML files as the Go original's: the settings are under ``extensions: consensus:``, under ``consensus:``,
            or at the top. ``${NAME}``, ``${NAME:-default}`` and ``${file:/path}`` stand for a variable or a file.
        environment: the variables, such as ``FORGE_CONSENSUS_RAFT__HEARTBEAT_INTERVAL=250ms``; default: those of the
            process.
        arguments: settings by name, such as ``node_id="n1"``; a section is a map or its settings class, as in
            ``raft={"heartbeat_interval": "250ms"}``.

    Raises `InvalidConfigError`; its text names every fault with file, line and column.

    """
    variables = os.environ if environment is None else environment
    layers = [*layers_of(paths, variables), from_arguments(arguments)]
    resolved = resolve(layers)
    return settings_of(resolved)


def layers_of(paths: Iterable[str | Path], environment: Mapping[str, str]) -> list[Layer]:
    """Return what the files and the environment say. Raises `InvalidConfigError` for a file that cannot be read."""
    return [*(read_file(Path(path), environment) for path in paths), from_environment(environment, NAMES)]


def settings_of(resolved: Resolved, cluster_id: str | None = None) -> LoadedConfig:
    """Return the settings that are resolved.

    Args:
        resolved: what the layers say.
        cluster_id: that of the node's folder, if it has one, for a configuration that names none.

    Raises `InvalidConfigError`; its text names every fault.

    """
    resolved.check()
    values = dict(resolved.values)
    try:
        if cluster_id is not None:
            values.setdefault("cluster_id", cluster_id)
        program = ProgramSettings(**{name: values.pop(name) for name in PROGRAM_NAMES & values.keys()})
        if "node_id" not in values:
            raise InvalidConfigError("node_id is missing: give it in a file, by FORGE_CONSENSUS_NODE_ID, or as --id")
        if "bind" not in values:
            values["bind"] = address_among_peers(values["node_id"], values.get("peers", {}))
        node = from_row(NodeSettings, nested(values))
    except ConfigProblemsError:
        raise
    except InvalidConfigError as error:
        raise InvalidConfigError(placed(error, resolved.origins)) from error
    return LoadedConfig(node, program, tuple(resolved.notes), resolved.origins)


def address_among_peers(node_id: str, peers: Mapping[str, str]) -> str:
    """Return where a node listens that was not told: where its peers reach it. Raises `InvalidConfigError`."""
    if not peers:
        raise InvalidConfigError(NO_ADDRESS)
    if node_id not in peers:
        raise no_peer(node_id, peers)
    return peers[node_id]


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return whole names and values as a row with a dictionary for each section."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, last = name.rpartition(".")
        (row.setdefault(section, {}) if dot else row)[last] = value
    return row
