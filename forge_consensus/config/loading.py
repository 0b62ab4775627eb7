"""Load the configuration of a node: from files, environment variables and arguments, of which the later win."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from forge_consensus.config.address import takes_free_port
from forge_consensus.config.given import Given, Layer
from forge_consensus.config.layers import from_arguments, from_environment
from forge_consensus.config.node import NodeSettings, no_peer
from forge_consensus.config.program import ProgramSettings
from forge_consensus.config.resolving import NAMES, ROWS, Resolved, resolve
from forge_consensus.config.rows import from_row
from forge_consensus.config.setting import describe
from forge_consensus.config.yaml_file import read_file
from forge_consensus.errors import InvalidConfigError

PROGRAM_NAMES: Final = frozenset(row.name for row in describe(ProgramSettings))
OF_COMMAND: Final = ("advertise", "join", "join_as", "rejoin")
"""Settings of a node that only the command follows."""
NO_ADDRESS: Final = (
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

    def http_names(self) -> tuple[str, ...]:
        """Return the names by which the admin API may be addressed, as far as the configuration says."""
        url, advertised = self.node.http_url, self.node.advertise
        places = [urlsplit(url).hostname or ""] if url else []
        reached = (advertised, self.node.peers.get(self.node.node_id))
        places += [address.rpartition(":")[0].strip("[]") for address in reached if address]
        return (*self.program.admin_api.names, *filter(None, places))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments with which `ConsensusService` makes this node, as ``ConsensusService(**arguments)``.

        How the program logs is the application's affair. Raises `InvalidConfigError` for a setting that only
        ``forge-consensus node`` can follow.
        """
        given = [name for name in OF_COMMAND if getattr(self.node, name)]
        if given:
            raise InvalidConfigError(
                f"{given[0]} is given, and a ConsensusService cannot follow it: run the node by forge-consensus node, "
                "or take it out"
            )
        names = [slot.name for slot in fields(NodeSettings) if slot.name not in OF_COMMAND]
        return {name: getattr(self.node, name) for name in names} | {"state_machine": self.program.machine or None}


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
    if not isinstance(variables, Mapping):
        raise InvalidConfigError(f"environment is {variables!r}: it must be a map of names to texts")
    return settings_of(resolve([*layers_of(paths, variables), from_arguments(arguments)]))


def layers_of(paths: Iterable[str | Path], environment: Mapping[str, str]) -> list[Layer]:
    """Return what the files and the environment say. Raises `InvalidConfigError` for a file that cannot be read."""
    paths = list(paths)
    for path in paths:
        if not isinstance(path, str | Path):
            raise InvalidConfigError(f"{path!r} is no file: give the path of a YAML file")
    return [*(read_file(Path(path), environment) for path in paths), from_environment(environment, NAMES)]


def settings_of(resolved: Resolved, stored: Callable[[Path], str] = lambda folder: "") -> LoadedConfig:
    """Return the settings that are resolved.

    Args:
        resolved: what the layers say.
        stored: returns the cluster id of a node's folder, "" if it has none, for a configuration that names none.

    Raises `InvalidConfigError`; its text names every fault.

    """
    resolved.check()
    values, origins = dict(resolved.values), dict(resolved.origins)
    try:
        program = from_row(ProgramSettings, nested({name: values.pop(name) for name in PROGRAM_NAMES & values.keys()}))
        if "node_id" not in values:
            raise InvalidConfigError("node_id is missing: give it in a file, by FORGE_CONSENSUS_NODE_ID, or as --id")
        if "bind" not in values:
            values["bind"] = address_among_peers(values["node_id"], values.get("peers", {}))
            origins["bind"] = replace(origins["peers"], name="bind", value=values["bind"])
        check_free_port(values["bind"], values.get("peers", {}))
        folder = Path(values.get("storage_path", ROWS["storage_path"].default))
        if "cluster_id" not in values and (found := stored(folder)):
            values["cluster_id"] = found
        node = from_row(NodeSettings, nested(values))
    except InvalidConfigError as error:
        raise InvalidConfigError(placed(error, origins)) from error
    return LoadedConfig(node, program, (*resolved.notes, *unserved(program, origins)), origins)


def unserved(program: ProgramSettings, origins: Mapping[str, Given]) -> list[str]:
    """Return what to say of an admin API that is switched on, as in files of the original, and served nowhere."""
    given = origins.get("admin_api.enabled")
    if given is None or not program.admin_api.enabled or program.admin_api.bind is not None:
        return []
    return [
        f"{given.origin} admin_api.enabled: true serves nothing by itself: say where with admin_api.bind, such as "
        "127.0.0.1:8001, or mount ConsensusExtension.admin_api() in the application"
    ]


def placed(error: InvalidConfigError, origins: Mapping[str, Given]) -> str:
    """Return the text of an error about settings that do not fit together, with the place of one that it names."""
    text = str(error)
    for given in origins.values():
        if given.secret and any(part and part in text for part in given.texts()):
            return f"{given.origin} {given.name}: the secret value does not fit to the others, and is not told"
    words = re.findall(r"[a-z_.]*[a-z_]", re.sub(r"'[^']*'", "", text))  # what is quoted is a value
    named = next((origins[word] for word in words if word in origins), None)
    return f"{named.origin} {text}" if named else text


def address_among_peers(node_id: str, peers: Mapping[str, str]) -> str:
    """Return where a node listens that was not told: where its peers reach it. Raises `InvalidConfigError`."""
    if not peers:
        raise InvalidConfigError(NO_ADDRESS)
    if node_id not in peers:
        raise no_peer(node_id, peers)
    return peers[node_id]


def check_free_port(bind: str, peers: Mapping[str, str]) -> None:
    """Raise `InvalidConfigError` if a node whose address others know takes any free port."""
    if takes_free_port(bind) and len(peers) > 1:
        raise InvalidConfigError(
            "port 0 takes whatever port is free, and the other members could not find this node: listen at the "
            "address that peers has for it"
        )


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return whole names and values as a row with a dictionary for each section."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        section, dot, last = name.rpartition(".")
        (row.setdefault(section, {}) if dot else row)[last] = value
    return row
