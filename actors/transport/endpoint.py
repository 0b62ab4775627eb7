"""The place where a node listens, as ZeroMQ wants it: HOST:PORT of the network, or a path of this machine."""

from __future__ import annotations

import socket
import stat
from pathlib import Path
from typing import Final

from forge_consensus.config.address import EVENTS_SUFFIX, IPC
from forge_consensus.errors import InvalidConfigError, TransportUnavailableError

PROBE_SECONDS: Final = 1.0


def url_of(address: str) -> str:
    """What ZeroMQ binds and connects to."""
    return address if address.startswith(IPC) else f"tcp://{address}"


def path_of(address: str) -> str | None:
    """The path of an ``ipc://`` address, None for HOST:PORT."""
    return address.removeprefix(IPC) if address.startswith(IPC) else None


def events_place(bind: str) -> str:
    """Where a node that listens there publishes its events: a free port of the same host, or the path beside."""
    return bind + EVENTS_SUFFIX if bind.startswith(IPC) else f"{bind.rpartition(':')[0]}:0"


def claim_path(path: str) -> None:
    """See to it that binding a socket there takes nothing from anybody, for ZeroMQ removes whatever it finds.

    Raises `TransportUnavailableError` where somebody listens, `InvalidConfigError` where another file is.
    """
    try:
        kind = Path(path).lstat().st_mode
    except OSError:  # nothing is there, or binding will say what is wrong
        return
    if not stat.S_ISSOCK(kind):
        raise InvalidConfigError(f"{path} is a file and no socket: listen at a path where nothing is")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):  # what a killed process left behind
            return
        except OSError:  # full, or not ours to connect to: somebody listens
            pass
    raise TransportUnavailableError(f"{IPC}{path} is in use by another program: stop it or listen elsewhere")
