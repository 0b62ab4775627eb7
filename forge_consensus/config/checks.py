"""What a single value must be besides its type, so that its fault is told with its place before all is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from forge_consensus.config.address import IPC, bind_address, parse_endpoint
from forge_consensus.config.node import JOIN_AS, NODE_ID, checked_events_bind, checked_peers, is_name, is_node_id
from forge_consensus.config.program import LOG_FORMATS, LOG_LEVELS
from forge_consensus.errors import InvalidConfigError

NOT_EMPTY: Final = ("node_id", "cluster_id", "bind", "peers", "join", "advertise", "machine")
"""Settings that a variable which is not set must not make into nothing: the node would be another one, for good."""


def peers(value: Mapping[Any, Any]) -> None:
    """Check the members, and tell of all that cannot be."""
    faults = []
    for node, address in value.items():
        try:
            checked_peers({node: address})
        except InvalidConfigError as error:
            faults.append(f"{node}: {error}")
    if faults:
        raise InvalidConfigError("; ".join(faults))
    checked_peers(value)


def join(value: str) -> None:
    """Check the addresses of members to join."""
    for part in value.split(","):
        parse_endpoint(part)


def metrics(value: str) -> None:
    """Check where metrics are served."""
    if value.startswith(IPC):
        raise InvalidConfigError(f"metrics is {value!r}: Prometheus asks at HOST:PORT")
    bind_address(value)


def advertise(value: str) -> None:
    """Check where members and clients reach the node."""
    checked_peers({"n1": value})


def cluster_id(value: str) -> None:
    """Check the name of a cluster."""
    if not is_name(value):
        raise InvalidConfigError(f"cluster_id is {value!r}: it must be a printable text of at most 128 characters")


def node_id(value: str) -> None:
    """Check the id of a node."""
    if not is_node_id(value):
        raise InvalidConfigError(f"node_id is {value!r}: {NODE_ID}")


def one_of(name: str, allowed: tuple[str, ...]) -> Callable[[str], None]:
    """Return the check of a text that is one of a few."""

    def check(value: str) -> None:
        if value.lower() not in allowed:
            raise InvalidConfigError(f"{name} is {value!r}: it is one of {', '.join(allowed)}")

    return check


CHECKS: Final[Mapping[str, Callable[[Any], object]]] = {
    "node_id": node_id,
    "cluster_id": cluster_id,
    "bind": bind_address,
    "peers": peers,
    "events_bind": checked_events_bind,
    "metrics": metrics,
    "advertise": advertise,
    "join": join,
    "join_as": one_of("join_as", JOIN_AS),
    "log_level": one_of("log_level", LOG_LEVELS),
    "log_format": one_of("log_format", LOG_FORMATS),
}
"""Setting -> its check, which raises `InvalidConfigError`."""
