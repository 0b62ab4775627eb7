"""Whether a node could listen at an address of this host, and which process listens there instead."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from forge_consensus.actors.transport.endpoint import check_free, is_number, path_of
from forge_consensus.config.address import takes_free_port
from forge_consensus.errors import InvalidConfigError, TransportUnavailableError

PROC: Final = Path("/proc")
LISTENS: Final = "0A"
"""The state of a TCP socket that listens, in the kernel's table."""
ACCEPTS: Final = 0x10000
"""The flag of a socket at a path that listens."""


class Holder(NamedTuple):
    """A process that has something open."""

    pid: int
    name: str

    @property
    def text(self) -> str:
        """Number and name of the process, for messages to people."""
        return f"process {self.pid} ({self.name})"


class Listening(NamedTuple):
    """Whether an address is free for a node."""

    is_free: bool | None
    """None if that is not known before a node tries, because the host is a name."""
    why: str = ""
    """Why it is not free; empty if it is."""
    in_use: bool = False
    """Whether somebody listens there."""
    holder: Holder | None = None
    """Who listens there; None if nobody does, or if this user may not see who."""


def look_at(address: str) -> Listening:
    """Return whether a node could listen at HOST:PORT or ipc://PATH now; nothing is left behind."""
    if takes_free_port(address):
        return Listening(True)
    if path_of(address) is not None:
        try:
            check_free(address)
        except TransportUnavailableError as error:
            used = "in use" in str(error)
            return Listening(False, str(error), used, holder_of(address) if used else None)
        except InvalidConfigError as error:
            return Listening(False, str(error))
        return Listening(True)
    host, _, port = address.rpartition(":")
    if not is_number(host):
        return Listening(None)
    try:
        with socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as ZeroMQ does
            probe.bind((host.strip("[]"), int(port)))
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        return Listening(False, os.strerror(error.errno or 0), used, holder_of(address) if used else None)
    return Listening(True)


def holder_of(address: str) -> Holder | None:
    """Return the process that listens at an address of this host; None if this user may not see it."""
    path = path_of(address)
    sockets = set(sockets_at_path(path) if path is not None else sockets_at_port(int(address.rpartition(":")[2])))
    return next((process(pid) for pid, target in open_files() if target in sockets), None) if sockets else None


def sockets_at_port(port: int) -> Iterator[str]:
    """Yield the names, as in /proc, of the sockets that listen at a port of any address."""
    for table in ("tcp", "tcp6"):
        for fields in rows(PROC / "net" / table):
            if len(fields) > 9 and fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{fields[9]}]"


def sockets_at_path(path: str) -> Iterator[str]:
    """Yield the names of the sockets that listen at a path."""
    for fields in rows(PROC / "net" / "unix"):
        if len(fields) > 7 and int(fields[3], 16) & ACCEPTS and fields[7] == path:
            yield f"socket:[{fields[6]}]"


def rows(table: Path) -> Iterator[list[str]]:
    """Yield the fields of every row of a table of the kernel, without its head."""
    try:
        lines = table.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return
    yield from (line.split() for line in lines[1:])


def open_files() -> Iterator[tuple[int, str]]:
    """Yield the processes that this user may see with everything that each has open."""
    for name in os.listdir(PROC):
        if not name.isdigit():
            continue
        folder = PROC / name / "fd"
        try:
            for descriptor in os.listdir(folder):
                yield int(name), os.readlink(folder / descriptor)
        except OSError:  # it is another user's, or has ended
            continue


def process(pid: int) -> Holder:
    """Return a process with its name."""
    try:
        name = (PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = "ended since"
    return Holder(pid, name)
