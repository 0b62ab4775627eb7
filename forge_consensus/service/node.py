"""The node: a folder, a ledger, a base and its actors, opened in order and closed in reverse."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loguru import logger
from thespian.actors import ActorSystem

from forge_consensus.actors.supervisor import start_system
from forge_consensus.actors.transport.endpoint import BOUND_PATH_BYTES_MAX, IPC, check_path
from forge_consensus.actors.transport.zeromq import LocalConnection, ZeroMqBase
from forge_consensus.client.endpoints import parse_endpoint
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.bus import EventBus
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.backends.lmdb import MAP_BYTES, QUOTA_BYTES, LmdbTables
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Machine
from forge_consensus.storage.opening import Founding, Opened, open_ledger
from forge_consensus.storage.snapshots.export import export_in_process

if TYPE_CHECKING:
    from forge_consensus.service.node_metrics import ServedMetrics

NAME_CHARS_MAX = 128
BYTES_MAX = (1 << 63) - 1
EXAMPLE = '{"n1": "127.0.0.1:7001"}'


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything that makes one node.

    `peers` (node id -> HOST:PORT or ipc://PATH, this node among them) is read at the first start only; without it a
    new node is a cluster of its own.
    """

    node_id: str
    cluster_id: str = "default"
    bind: str = "127.0.0.1:7000"
    peers: Mapping[str, str] = field(default_factory=dict)
    storage_path: str | Path = "data/consensus"
    lease_reads: bool = False
    options: RaftSettings = field(default_factory=RaftSettings)
    limits: StorageSettings = field(default_factory=StorageSettings)
    quota_bytes: int = QUOTA_BYTES
    map_bytes: int = MAP_BYTES
    metrics: str | None = None
    """HOST:PORT where metrics are served for Prometheus, under /metrics; port 0 takes a free one."""

    def __post_init__(self) -> None:
        """Raise `InvalidConfigError` for what cannot be a node (the seed's rules 1 to 3, 11)."""
        for name, value in (("node_id", self.node_id), ("cluster_id", self.cluster_id)):
            if not is_name(value):
                raise InvalidConfigError(
                    f"{name} is {value!r}: it must be a printable text of 1 to {NAME_CHARS_MAX} characters"
                )
        if not isinstance(self.peers, Mapping):
            raise InvalidConfigError(f"peers is {self.peers!r}: it must map node ids to HOST:PORT, such as {EXAMPLE}")
        if self.peers and self.node_id not in self.peers:
            listed = ", ".join(sorted(map(str, self.peers)))
            raise InvalidConfigError(
                f"node {self.node_id!r} is not among the peers {listed}: the list names every member, this node too"
            )
        for node in self.peers:
            if not is_name(node):
                raise InvalidConfigError(
                    f"{node!r} cannot be a node's id: it must be a printable text of 1 to {NAME_CHARS_MAX} characters"
                )
        # One spelling of each address, whatever was given: all nodes must be founded with the same bytes.
        object.__setattr__(self, "peers", {node: parse_endpoint(address) for node, address in self.peers.items()})
        object.__setattr__(self, "bind", bind_address(self.bind))
        self.check_places()

    def check_places(self) -> None:
        """Raise `InvalidConfigError` for a folder, a size or an address of metrics that cannot be."""
        if not isinstance(self.storage_path, str | Path) or not str(self.storage_path):
            raise InvalidConfigError(
                f"storage_path is {self.storage_path!r}: name the folder where the node keeps its data"
            )
        for name, size in (("quota_bytes", self.quota_bytes), ("map_bytes", self.map_bytes)):
            if not isinstance(size, int) or not 0 < size <= BYTES_MAX:
                raise InvalidConfigError(f"{name} is {size!r}: it must be a number of bytes from 1 to {BYTES_MAX}")
        if not isinstance(self.metrics, str | None):
            raise InvalidConfigError(f"metrics is {self.metrics!r}: it must be HOST:PORT, such as 127.0.0.1:9100")


def is_name(value: object) -> bool:
    """Whether that can be the id of a node or of a cluster."""
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX and value.isprintable()


def bind_address(bind: object) -> str:
    """The address to listen on, in its one spelling; port 0 takes a free one. Raises `InvalidConfigError`.

    ZeroMQ itself takes a port beyond 65535 and listens on another.
    """
    if takes_free_port(bind):
        return parse_endpoint(f"{bind}"[:-1] + "1")[:-1] + "0"
    address = parse_endpoint(bind)
    if address.startswith(IPC):
        check_path(address, BOUND_PATH_BYTES_MAX)
    return address


def takes_free_port(bind: object) -> bool:
    """Whether a node that shall listen there takes a port that is free."""
    return isinstance(bind, str) and bind.endswith(":0") and not bind.startswith(IPC)


class Node:
    """One node, to be run by one thread of its own: `open`, `run` until `stop`, `close`.

    `machine` None means the built-in key-value machine. Errors of opening are typed: `FolderLockedError`,
    `IdentityError`, `InvalidConfigError`, `CorruptionError`, `StorageError`, `TransportUnavailableError`.
    """

    def __init__(self, settings: NodeSettings, bus: EventBus, machine: Machine | None = None) -> None:
        self.settings = settings
        self.bus = bus
        self.machine: Machine = machine if machine is not None else KeyValueMachine()
        self.folder: Folder | None = None
        self.tables: LmdbTables | None = None
        self.base: ZeroMqBase | None = None
        self.system: ActorSystem | None = None
        self.metrics: ServedMetrics | None = None

    def open(self) -> None:
        """Lock the folder, open the ledger, listen."""
        settings = self.settings
        try:
            bind = settings.bind
            if takes_free_port(bind):
                bind = free_address(bind)
            self.folder = Folder(Path(settings.storage_path))
            self.tables = LmdbTables(
                self.folder.tables_path,
                quota_bytes=settings.quota_bytes,
                map_bytes=settings.map_bytes,
            )
            opened = self.open_ledger(bind)
            self.tell_findings(opened)
            self.base = ZeroMqBase(opened, settings.options, self.bus, bind)
            self.system = start_system(self.base)
            if settings.metrics is not None:
                from forge_consensus.service.node_metrics import ServedMetrics  # late: 30 ms for those who want it

                self.metrics = ServedMetrics(self.base, settings.metrics)
        except BaseException:
            self.close()
            raise

    def tell_findings(self, opened: Opened) -> None:
        """Say what opening found that harms nothing but somebody should know."""
        for damage in opened.snapshots.damaged:
            logger.warning("passed over a damaged snapshot: {}", damage)
        peers = dict(self.settings.peers)
        members = opened.ledger.configuration
        if peers and not opened.is_new and peers != members.addresses:
            logger.warning(
                "the peers given are not those of this folder, {}: the list is read at the first start only",
                members.text,
            )

    def open_ledger(self, bind: str) -> Opened:
        """Open the ledger in the folder."""
        settings, folder, tables = self.settings, self.folder, self.tables
        assert folder is not None, "the folder was opened"
        assert tables is not None, "the tables were opened"
        peers = settings.peers or {settings.node_id: bind}
        configuration = Configuration.of(peers, lease_reads=settings.lease_reads)
        founding = Founding(settings.node_id, settings.cluster_id, configuration, lambda: secrets.token_hex(8))
        machine: Any = self.machine
        export = export_in_process(
            folder.tables_path,
            folder.snapshots_path,
            type(machine),
            settings.limits.snapshot_seconds_max,
        )
        return open_ledger(tables, folder.snapshots_path, founding, machine, settings.limits, export)

    @property
    def address(self) -> str:
        """Where the node listens."""
        assert self.base is not None, "the node is open"
        return self.base.sockets.bind_address

    def port(self) -> LocalConnection:
        """A connection for a client in this process."""
        assert self.base is not None, "the node is open"
        return LocalConnection(self.base)

    def run(self) -> None:
        """Run until `stop`. Raises what ended the node otherwise; nothing left it after that (I16)."""
        assert self.base is not None, "the node is open"
        settings = self.settings
        with logger.contextualize(node=settings.node_id, cluster=settings.cluster_id):  # on all lines of this thread
            self.base.run()

    def stop(self, reason: str = "asked to") -> None:
        """Ask the node to stop; from any thread."""
        if self.base is not None:
            self.base.stop(reason)

    def close(self) -> None:
        """Give everything back, whatever state it is in."""
        if self.metrics is not None:
            self.metrics.close()
        if self.base is not None:
            self.base.close()
        if self.tables is not None:
            self.tables.close()
        if self.folder is not None:
            self.folder.release()


def free_address(bind: str) -> str:
    """The same host with a port that is free now. Raises `InvalidConfigError` for a host that is not this one."""
    host = bind.rpartition(":")[0]
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.bind((host.strip("[]"), 0))
            return f"{host}:{probe.getsockname()[1]}"
    except OSError as error:
        raise InvalidConfigError(
            f"{bind!r} is no address to listen on: it is HOST:PORT with a host of this machine ({error})"
        ) from error
