"""The settings of a node: who it is, where it listens and keeps its data, with its Raft and its storage as sections."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from forge_consensus.config.address import IPC, bind_address, is_loopback, is_wildcard, parse_endpoint, share_a_place
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.security import SecuritySettings
from forge_consensus.config.setting import Described, check, described_as, setting
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import InvalidConfigError

NAME_CHARS_MAX: Final = 128
ENTRY_OVERHEAD_BYTES: Final = 1024
"""More than an entry of the log takes beside its command."""
FORBIDDEN: Final = "/,=\"'"
NODE_ID: Final = (
    f"it must be a printable text of 1 to {NAME_CHARS_MAX} characters, without spaces, quotation marks, commas, "
    "slashes and equals signs, such as n1"
)
BIND: Final = "127.0.0.1:7000"
JOIN_AS: Final = ("voter", "learner")
HTTP_URL_CHARS_MAX: Final = 256
METRICS_EXAMPLE: Final = "127.0.0.1:9100"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """Everything that makes one node.

    Addresses are brought into one spelling, because all members must be founded with the same bytes. Raises
    `InvalidConfigError` for a value that cannot be.
    """

    node_id: str = field(
        metadata=described_as(
            Described(
                reload="founding",
                original="node_id",
                what="The node's id, unique in its cluster: printable text of at most 128 characters without spaces, "
                "quotation marks, commas, slashes and equals signs.",
                why="There is no default, because two nodes of one id would take each other's place.",
            )
        )
    )
    cluster_id: str = setting(
        "default",
        reload="founding",
        original="cluster_id",
        what="The cluster's id, the same on all members.",
        why="One cluster needs no name; with several, nodes refuse those of another.",
    )
    bind: str = setting(
        BIND,
        original="bind_addr and bind_port",
        what="Where the node listens for peers and clients: HOST:PORT, or ipc://PATH; port 0 takes a free one.",
        why="Only this machine reaches the loopback address, so an unsecured node is not open to others by default.",
    )
    peers: Mapping[str, str] = field(
        default_factory=dict,
        metadata=described_as(
            Described(
                reload="founding",
                original="peers",
                what="Node id -> HOST:PORT or ipc://PATH of all members, this node among them.",
                why="Without peers a new node is a cluster of its own.",
            )
        ),
    )
    storage_path: str | Path = setting(
        "data/consensus",
        original="storage.path",
        what="The folder of the node's data; no other node may use it.",
        why="The default of the Go original.",
    )
    lease_reads: bool = setting(
        False,
        reload="founding",
        original="advanced.enable_leased_reads",
        what="Whether a leader may answer reads by its lease, without asking a majority; the same on all members.",
        why="A lease relies on clocks that keep their pace, and nothing else here does.",
    )
    metrics: str | None = setting(
        None,
        original="observability.metrics.enabled",
        what="HOST:PORT where the node serves metrics for Prometheus, under /metrics; port 0 takes a free one.",
        why="A port that nobody asked for should not be open.",
    )
    events_bind: str | None = setting(
        None,
        what="Where the node publishes its events: HOST:PORT, or ipc://PATH; port 0 takes a free one. Without it, a "
        "free port of the host where it listens, or a path beside its own.",
        why="Who follows events asks the node where it publishes them; only a firewall needs a port that stays.",
    )
    advertise: str | None = setting(
        None,
        what="Where members and clients reach the node, HOST:PORT, if that is not where it listens.",
        why="Only the operator knows what a container or a NAT makes of the address where the node listens.",
    )
    http_url: str | None = setting(
        None,
        what="Where the application of this node answers HTTP, such as http://10.0.0.1:8000; members tell each other.",
        why="Only the application knows where it listens; the middleware sends requests there while this node leads.",
    )
    join: str | None = setting(
        None,
        what="HOST:PORT of members of the cluster that a new node joins, with commas; it waits to be added.",
        why="Without it, and without peers, a new node is a cluster of its own.",
    )
    join_as: str | None = setting(
        None,
        what="voter or learner: a node that joins asks the cluster to add it as that, instead of waiting to be added.",
        why="Who may belong to a cluster is its operator's choice, so a node that nobody asked for waits.",
    )
    rejoin: bool = setting(
        False,
        what="With join_as, for a member whose folder is lost: a node on an empty folder has the cluster remove the "
        "member of its id first, unless that one still answers.",
        why="It has forgotten what the member promised, and only its operator knows that the folder is lost for good.",
    )
    security: SecuritySettings = field(default_factory=SecuritySettings)
    raft: RaftSettings = field(default_factory=RaftSettings)
    storage: StorageSettings = field(default_factory=StorageSettings)

    def __post_init__(self) -> None:
        bind = bind_address(self.bind)
        check(self)
        if not is_name(self.cluster_id):
            raise InvalidConfigError(
                f"cluster_id is {self.cluster_id!r}: it must be a printable text of 1 to {NAME_CHARS_MAX} characters"
            )
        if not is_node_id(self.node_id):
            raise InvalidConfigError(f"node_id is {self.node_id!r}: {NODE_ID}")
        if self.peers and self.node_id not in self.peers:
            raise no_peer(self.node_id, self.peers)
        object.__setattr__(self, "peers", checked_peers(self.peers))
        self.check_room()
        object.__setattr__(self, "bind", bind)
        if self.events_bind is not None:
            object.__setattr__(self, "events_bind", checked_events_bind(self.events_bind))
        check_apart(bind, self.metrics, self.events_bind)
        if self.http_url is not None:
            object.__setattr__(self, "http_url", checked_http_url(self.http_url))
        self.check_join()

    @property
    def is_plain_beside_tls(self) -> bool:
        """Whether TLS is asked for, and connections between nodes on other machines would be plain all the same."""
        security, host = self.security, self.bind.rpartition(":")[0].strip("[]")
        local = self.bind.startswith(IPC) or is_loopback(host)
        return security.enable_tls and not security.has_keys and not security.insecure and not local

    def check_join(self) -> None:
        """Bring the addresses into one spelling. Raises `InvalidConfigError` for what a node that joins cannot have."""
        if self.advertise is not None:
            object.__setattr__(self, "advertise", checked_peers({self.node_id: self.advertise})[self.node_id])
        if self.join is not None:
            if self.peers:
                raise InvalidConfigError(
                    "peers and join are both given: name the peers to found a cluster, or the members to join one"
                )
            if self.join_as is not None and self.advertise is None and is_wildcard(self.bind):
                raise InvalidConfigError(
                    f"join_as is given and the node listens at {self.bind}: say with advertise where members reach it"
                )
            object.__setattr__(self, "join", ",".join(parse_endpoint(part) for part in self.join.split(",")))
        if self.rejoin and self.join_as is None:
            raise InvalidConfigError("rejoin is given without join_as: say as what the node is to be added again")
        if self.join_as is not None and (self.join is None or self.join_as not in JOIN_AS):
            raise InvalidConfigError(
                f"join_as is {self.join_as!r}: it is {' or '.join(JOIN_AS)}, and needs join with a member's address"
            )

    def check_room(self) -> None:
        """Raise `InvalidConfigError` for a folder that cannot be, and for sizes of two sections that do not fit."""
        if "\0" in str(self.storage_path):
            raise InvalidConfigError(
                f"storage_path is {str(self.storage_path)!r}: a path holds no NUL character, name another folder"
            )
        command, waiting = self.raft.command_bytes_max, self.storage.uncommitted_bytes_max
        if waiting < command + ENTRY_OVERHEAD_BYTES:
            raise InvalidConfigError(
                f"storage.uncommitted_bytes_max is {waiting} and raft.command_bytes_max is {command}: the largest "
                "command would be answered with busy for ever, so raise the first or lower the second"
            )


def checked_events_bind(text: str) -> str:
    """Return where events are published, in its one spelling. Raises `InvalidConfigError` for what is no address."""
    try:
        return bind_address(text)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"events_bind: {error}") from error


def checked_http_url(text: str) -> str:
    """Return a URL that paths are added to, without a slash at its end. Raises `InvalidConfigError` for another."""
    plain = text.isascii() and text.isprintable() and " " not in text and len(text) <= HTTP_URL_CHARS_MAX
    fits = False
    with suppress(ValueError):  # raised for brackets that hold no address, and for ports that are none
        parts = urlsplit(text)
        fits = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        fits = fits and not (set("@?#") & set(text))
    if not (plain and fits):
        raise InvalidConfigError(
            f"http_url is {text[:HTTP_URL_CHARS_MAX]!r}: it must be a URL such as http://10.0.0.1:8000, perhaps with a "
            f"path, without a user, a query or a fragment, of at most {HTTP_URL_CHARS_MAX} characters"
        )
    return text.rstrip("/")


def check_apart(bind: str, metrics: str | None, events_bind: str | None) -> None:
    """Raise `InvalidConfigError` if two of a node's addresses are one place, where only one of them can listen."""
    places = {"bind": bind, "metrics": metrics, "events_bind": events_bind}
    given = [(name, address.strip()) for name, address in places.items() if address]
    for (name, address), (other, second) in combinations(given, 2):
        if share_a_place(address, second):
            what = "metrics" if other == "metrics" else "events"
            one = "path" if address.startswith(IPC) else "port"
            both = (
                f"are both {address}"
                if address == second
                else f"are {address} and {second}, and one stands for all addresses of its host"
            )
            raise InvalidConfigError(f"{name} and {other} {both}: give the {what} a {one} of their own")


def checked_peers(peers: Mapping[str, str]) -> dict[str, str]:
    """Return the members with their addresses in one spelling.

    Raises `InvalidConfigError` for an id or an address that cannot be, and for two members of one address.
    """
    addresses: dict[str, str] = {}
    for node, text in peers.items():
        if not is_node_id(node):
            raise InvalidConfigError(f"{node!r} cannot be a node's id: {NODE_ID}")
        address = parse_endpoint(text)
        if is_wildcard(address):
            raise InvalidConfigError(
                f"the address of {node} among the peers is {address}: it stands for all addresses of a host, and "
                f"nobody can connect to it. Give the one at which the others reach {node}; to listen at all of them, "
                f"bind to {address} besides"
            )
        other = next((name for name, taken in addresses.items() if taken == address), None)
        if other is not None:
            raise InvalidConfigError(
                f"{other} and {node} share the address {address} among the peers: give each its own"
            )
        addresses[node] = address
    return addresses


def no_peer(node_id: str, peers: Mapping[str, str]) -> InvalidConfigError:
    """Return the error for a node that its own list of members does not name."""
    listed = ", ".join(sorted(map(str, peers)))
    return InvalidConfigError(
        f"node {node_id!r} is not among the peers {listed}: the list names every member, this node too. Add it, or "
        "correct the node's id"
    )


def is_node_id(value: object) -> bool:
    """Whether the value can be a node's id, so that lists, addresses of actors and commands can hold it."""
    return is_name(value) and not any(letter in FORBIDDEN or letter.isspace() for letter in str(value))


def is_name(value: object) -> bool:
    """Whether the value can be the id of a node or of a cluster."""
    return isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX and value.isprintable()
