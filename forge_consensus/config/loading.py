"""Load the configuration of a node: from files, environment variables and arguments, of which the later win.

What was loaded knows where it came from, so that it can be loaded again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from forge_consensus.config.address import takes_free_port
from forge_consensus.config.file_reads import FileReads, here
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
    source: ConfigSource | None = field(default=None, repr=False, compare=False)
    """Where it came from; None for what can be loaded by nobody again."""

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
    if environment is not None and not isinstance(environment, Mapping):
        raise InvalidConfigError(f"environment is {environment!r}: it must be a map of names to texts")
    return ConfigSource(paths, environment, from_arguments(arguments)).load()


def unstored(folder: Path) -> str:
    """Return "", the cluster id of a folder that nobody looks into."""
    return ""


class ConfigSource:
    """The places where the configuration of one node is given, of which later ones win.

    Args:
        files: YAML files, in their order; `load_config` says what they hold.
        environment: the variables; None for those of the process, whenever they are read.
        last: what is given by arguments or options.
        optional: whether a file that does not exist says nothing, unless it existed before.

    Raises `InvalidConfigError` for what is no path.

    """

    def __init__(
        self,
        files: Iterable[str | Path],
        environment: Mapping[str, str] | None = None,
        last: Layer | None = None,
        *,
        optional: bool = False,
    ) -> None:
        self.files: list[Path] = []
        for path in files:
            if not isinstance(path, str | Path):
                raise InvalidConfigError(f"{path!r} is no file: give the path of a YAML file")
            self.files.append(Path(path))
        self.environment = environment
        self.last = last or Layer()
        self.optional = optional
        self.existed: set[Path] = set()
        self.base = here()
        """From here relative paths count, wherever the process is later."""
        self.seen: dict[Path, str] = {}
        """What every file held when it was read last, those that the files name included; see `FileReads`."""
        self.can_be_watched = False
        """Whether there are files, and each was a regular one: from a pipe nothing can be read again."""

    def resolve(self, *, again: bool = False) -> Resolved:
        """Return what all places say.

        Args:
            again: whether it was read before: then each file must be a regular one, and one that existed must exist.

        Raises `InvalidConfigError` for a file that cannot be read.

        """
        environment = os.environ if self.environment is None else self.environment
        reads = FileReads(self.base, regular=again)
        known, whole = self.seen, False
        try:
            layers = [read_file(path, environment, reads) for path in self.files if self.is_there(path)]
            resolved = resolve([*layers, from_environment(environment, NAMES), self.last])
            whole = not resolved.problems
        finally:  # with a fault not every file was read, and each may be the one that is put right
            self.seen = reads.seen if whole else {**known, **reads.seen}
        if not again:
            self.note_kinds()
        return resolved

    def is_there(self, path: Path) -> bool:
        """Whether a file is to be read."""
        if self.optional and path not in self.existed and not (self.base / path).exists():
            return False
        self.existed.add(path)
        return True

    def load(self, stored: Callable[[Path], str] = unstored) -> LoadedConfig:
        """Return the settings; arguments and errors are those of `settings_of`."""
        return settings_of(self.resolve(), stored, self)

    def note_kinds(self) -> None:
        """Note whether the files that were read can be read again."""
        self.can_be_watched = bool(self.files) and all((self.base / path).is_file() for path in self.seen)

    def load_again(self, running: LoadedConfig) -> LoadedConfig:
        """Return the settings as they are given now; `running` are those of the node. Raises as `settings_of`.

        A cluster id that is not given stays what it is, because it is that of the folder, which the node has open.
        """
        return settings_of(self.resolve(again=True), lambda folder: running.node.cluster_id, self)

    def look(self) -> dict[Path, str]:
        """Return what the files hold now, as `seen` has it."""
        paths = [path for path in self.seen if path not in self.files]
        return FileReads(self.base, regular=True).look([*filter(self.is_there, self.files), *paths])


def settings_of(
    resolved: Resolved, stored: Callable[[Path], str] = unstored, source: ConfigSource | None = None
) -> LoadedConfig:
    """Return the settings that are resolved.

    Args:
        resolved: what the layers say.
        stored: returns the cluster id of a node's folder, "" if it has none, for a configuration that names none.
        source: where it came from.

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
    notes = (*resolved.notes, *unserved(program, origins), *unprotected(node, origins))
    return LoadedConfig(node, program, notes, origins, source)


def unserved(program: ProgramSettings, origins: Mapping[str, Given]) -> list[str]:
    """Return what to say of an admin API that is switched on, as in files of the original, and served nowhere."""
    given = origins.get("admin_api.enabled")
    if given is None or not program.admin_api.enabled or program.admin_api.bind is not None:
        return []
    return [
        f"{given.origin} admin_api.enabled: true serves nothing by itself: say where with admin_api.bind, such as "
        "127.0.0.1:8001, or mount ConsensusExtension.admin_api() in the application"
    ]


def unprotected(node: NodeSettings, origins: Mapping[str, Given]) -> list[str]:
    """Return what to say of TLS that is on where nodes would speak plainly all the same, as by the original's file."""
    given = origins.get("security.enable_tls")
    if given is None or not node.is_plain_beside_tls:
        return []
    return [
        f"{given.origin} security.enable_tls: true is that of the admin API, and nodes speak ZeroMQ: without "
        "security.curve_key_file (forge-consensus keygen) or security.insecure this node will not start"
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
