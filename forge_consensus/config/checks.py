"""What a single value must be besides its type, so that its fault is told with its place before all is put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from forge_consensus.config.address import IPC, bind_address, parse_endpoint
from forge_consensus.config.node import JOIN_AS, NodeSettings, checked_events_bind, checked_http_url, checked_peers
from forge_consensus.config.program import ProgramSettings, checked_admin_bind, checked_hosts, checked_prefix
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


def join_as(value: str) -> None:
    """Check as what a node joins."""
    if value not in JOIN_AS:
        raise InvalidConfigError(f"join_as is {value!r}: it is one of {', '.join(JOIN_AS)}")


CHECKS: Final[Mapping[str, Callable[[Any], object]]] = {
    "node_id": NodeSettings,
    "cluster_id": lambda value: NodeSettings("n1", cluster_id=value),
    "bind": bind_address,
    "peers": peers,
    "events_bind": checked_events_bind,
    "metrics": metrics,
    "http_url": checked_http_url,
    "advertise": lambda value: NodeSettings("n1", advertise=value),
    "join": join,
    "join_as": join_as,
    "admin_api.bind": checked_admin_bind,
    "admin_api.path_prefix": checked_prefix,
    "admin_api.hosts": checked_hosts,
    "log_level": lambda value: ProgramSettings(log_level=value),
    "log_format": lambda value: ProgramSettings(log_format=value),
}
"""Setting -> its check, which raises `InvalidConfigError`."""
