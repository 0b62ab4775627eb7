"""Addresses of nodes as text: HOST:PORT of the network, or ``ipc://`` and the path of a socket on this machine."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from forge_consensus.config.secret_text import NOT_TOLD, looks_like_secret
from forge_consensus.errors import InvalidConfigError

IPC: Final = "ipc://"
PORT_MAX: Final = 65535
ADDRESS: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(%\w+)?\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5})")
PATH_BYTES_MAX: Final = 107
"""The longest path that a socket may have (`sun_path` in unix(7), without its zero byte)."""
WILDCARDS: Final = ("0.0.0.0", "::", "0:0:0:0:0:0:0:0", "*")
EVENTS_SUFFIX: Final = ".events"
"""A node that listens at a path publishes its events at that path with this behind it."""
BOUND_PATH_BYTES_MAX: Final = PATH_BYTES_MAX - len(EVENTS_SUFFIX)


def parse_endpoint(text: object) -> str:
    """Return the address in a text, in its one spelling: `host:port`, or ``ipc:///path``.

    ``tcp://`` before it is allowed. Raises `InvalidConfigError`, which says what is wrong with the text.
    """
    if isinstance(text, str):
        address = text.strip().removeprefix("tcp://")
        if address.startswith(IPC):
            check_path(address)
            return address
        match = ADDRESS.fullmatch(address)
        if match and 0 < int(match["port"]) <= PORT_MAX:
            return address
    told = NOT_TOLD if isinstance(text, str) and looks_like_secret(text) else repr(text)
    raise InvalidConfigError(
        f"endpoint {told} is not an address of a node: expected host:port with a port of "
        f"1 to {PORT_MAX}, such as 127.0.0.1:7001, or ipc:///path; give the addresses that the nodes listen on"
    )


def check_path(address: str, bytes_max: int = PATH_BYTES_MAX) -> None:
    """Raise `InvalidConfigError` for an ``ipc://`` address that no socket can have."""
    path = address.removeprefix(IPC)
    if not path.startswith("/") or path.endswith("/") or not path.isprintable() or "," in path:
        raise InvalidConfigError(
            f"{address!r} is no address of a node: behind ipc:// stands the whole path of a socket, without commas, "
            "such as ipc:///run/forge/n1"
        )
    size = len(path.encode())
    if size > bytes_max:
        raise InvalidConfigError(
            f"{address!r} has a path of {size} bytes and a socket's may have {bytes_max}: choose a shorter folder"
        )


def bind_address(bind: object) -> str:
    """Return the address to listen at, in its one spelling; port 0 stands for any free port.

    Raises `InvalidConfigError`, also for a port above 65535, because ZeroMQ would listen at another one instead.
    """
    if takes_free_port(bind):
        return parse_endpoint(f"{bind}"[:-1] + "1")[:-1] + "0"
    address = parse_endpoint(bind)
    if address.startswith(IPC):
        check_path(address, BOUND_PATH_BYTES_MAX)
    return address


def is_wildcard(address: str) -> bool:
    """Whether the address stands for all addresses of a host: one can listen there, and nobody can connect to it."""
    host = address.rpartition(":")[0].strip("[]")
    return not address.startswith(IPC) and host in WILDCARDS


def takes_free_port(bind: object) -> bool:
    """Whether a node that listens there takes any free port."""
    return isinstance(bind, str) and bind.endswith(":0") and not bind.startswith(IPC)


def share_a_place(one: str, other: str) -> bool:
    """Whether nobody can listen at both addresses at once: they are the same, or one is all of a host's at that port.

    A free port is never another one's. Names are not looked up.
    """
    if takes_free_port(one) or takes_free_port(other):
        return False
    if one == other:
        return True
    same_port = one.rpartition(":")[2] == other.rpartition(":")[2] and not one.startswith(IPC)
    return same_port and (covers(one, other) or covers(other, one))


def covers(wildcard: str, other: str) -> bool:
    """Whether who listens at all addresses of a host listens at this one too; those of version 6 have version 4's."""
    return is_wildcard(wildcard) and (wildcard.startswith("[") or not other.startswith("["))


def joined_address(host: str, port: str | int) -> str:
    """Return the address of a host and a port that were given apart.

    Raises `InvalidConfigError` if the host holds a port already; whether the two make an address is checked later.
    """
    if host.startswith("[") or ":" not in host:
        return f"{host}:{port}"
    try:
        ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        raise InvalidConfigError(
            f"{host!r} is no host, and the port {port} is given besides: give the host alone, or leave the port out"
        ) from None
    return f"[{host}]:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host, without port and brackets, is reached from its own machine only."""
    host = host.removeprefix("::ffff:")
    return host in {"localhost", "::1"} or host.startswith("127.")
