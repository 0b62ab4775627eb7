"""Reserved ports of this machine: no other program gets one while it is held, whether or not a node listens there."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from typing import Final

from forge_consensus.errors import TransportUnavailableError

HOST: Final = "127.0.0.1"
PORT_MIN: Final = 10_000
EPHEMERAL_MIN: Final = 32_768
TRIES_MAX: Final = 1_000


class HeldPorts:
    """Ports below the range from which the system takes those of outgoing connections.

    Each is bound by a socket that never listens: other programs cannot bind it, and a restarted node still can (on
    Linux, where two sockets with SO_REUSEADDR may share a port until one listens).
    """

    def __init__(self, count: int) -> None:
        self.sockets: list[socket.socket] = []
        low = EPHEMERAL_MIN
        with contextlib.suppress(OSError, ValueError):
            low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
        for _ in range(TRIES_MAX * count):
            if len(self.sockets) == count:
                return
            port = PORT_MIN + int.from_bytes(os.urandom(4)) % (low - PORT_MIN) if low > 2 * PORT_MIN else 0
            self.hold(port)
        self.release()
        raise TransportUnavailableError(f"{count} free ports were not found on {HOST}: stop other programs")

    def hold(self, port: int) -> None:
        """Reserve a port if no other socket is bound to it, listening or not."""
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))  # without SO_REUSEADDR, which would share it with another reserved port
            port = probe.getsockname()[1]
            probe.close()
            held = socket.socket()
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind((HOST, port))
            except OSError:
                held.close()
                raise
            self.sockets.append(held)

    @property
    def addresses(self) -> list[str]:
        """The reserved ports as HOST:PORT."""
        return [f"{HOST}:{held.getsockname()[1]}" for held in self.sockets]

    def release(self) -> None:
        """Give the reserved ports back to other programs. Whoever listens at one by now keeps it."""
        for held in self.sockets:
            held.close()
        self.sockets.clear()


def free_ports(count: int) -> list[int]:
    """Return ports that are free now. None is reserved, so another program may take one before it is used.

    Raises `TransportUnavailableError` if there are not enough.
    """
    held = HeldPorts(count)
    ports: list[int] = [each.getsockname()[1] for each in held.sockets]
    held.release()
    return ports
