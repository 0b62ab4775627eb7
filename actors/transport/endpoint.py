"""The endpoint at which a node listens: HOST:PORT of the network, or ipc://PATH of this machine."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import Final

from forge_consensus.config.address import EVENTS_SUFFIX, IPC
from forge_consensus.errors import InvalidConfigError, TransportUnavailableError

PROBE_SECONDS: Final = 1.0


def url_of(address: str) -> str:
    """Return the URL that ZeroMQ binds or connects to."""
    return address if address.startswith(IPC) else f"tcp://{address}"


def path_of(address: str) -> str | None:
    """Return the path of an ``ipc://`` address, None for HOST:PORT."""
    return address.removeprefix(IPC) if address.startswith(IPC) else None


def events_endpoint(bind: str) -> str:
    """Return where a node that listens at `bind` publishes events: a free port of that host, or a path beside it."""
    return bind + EVENTS_SUFFIX if bind.startswith(IPC) else f"{bind.rpartition(':')[0]}:0"


def is_number(host: str) -> bool:
    """Whether a host is an address in numbers, which needs no question."""
    if host.startswith("["):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_free(address: str, use: str = "") -> None:
    """Check that nobody listens at an address, before anything is done that is for good.

    `use` is put before the error's text. Raises `TransportUnavailableError`, or `InvalidConfigError` where a path is a
    file. A name, and what else may be wrong with HOST:PORT, is left to the real attempt.
    """
    path = path_of(address)
    if path is not None:
        try:
            claim_path(path)
        except (InvalidConfigError, TransportUnavailableError) as error:
            raise type(error)(f"{use}{error}") from error
        return
    host, _, port = address.rpartition(":")
    if not is_number(host):
        return
    try:
        with socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does
            probe.bind((host.strip("[]"), int(port)))
    except (OSError, OverflowError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise in_use(f"{use}{address}") from error


def in_use(address: str) -> TransportUnavailableError:
    """Return the error for an address at which another program listens."""
    return TransportUnavailableError(f"{address} is in use by another program: stop it or listen elsewhere")


def cannot_listen(address: str, reason: str) -> TransportUnavailableError:
    """Return the error for an address at which this process may not listen, or where there is no such place."""
    return TransportUnavailableError(
        f"cannot listen on {address}: {reason}: choose an address of this machine that this user may take, or a path "
        "in a folder that exists and where this user may write"
    )


def claim_path(path: str) -> None:
    """Check that a socket can be bound at a path without harm, because ZeroMQ removes any file that is there.

    Raises `TransportUnavailableError` if a process listens there, or if this user can make no socket in its folder, and
    `InvalidConfigError` if the path is a file of another kind.
    """
    try:
        kind = Path(path).lstat().st_mode
    except FileNotFoundError:
        kind = None
    except OSError as error:
        raise cannot_listen(f"{IPC}{path}", os.strerror(error.errno or 0)) from error
    if kind is not None:
        if not stat.S_ISSOCK(kind):
            raise InvalidConfigError(f"{path} is a file and no socket: listen at a path where nothing is")
        require_unused(path)
    folder = Path(path).parent
    reason = errno.ENOENT if not folder.exists() else 0 if os.access(folder, os.W_OK | os.X_OK) else errno.EACCES
    if reason:
        raise cannot_listen(f"{IPC}{path}", os.strerror(reason))


def require_unused(path: str) -> None:
    """Raise `TransportUnavailableError` if a process listens at a socket's path."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):  # left behind by a killed process
            return
        except OSError:  # its queue is full, or this user may not connect: somebody listens
            pass
    raise in_use(f"{IPC}{path}")
