"""A party of the simulated network that sends frames by hand and ignores the answers."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.codec import Frame, encode
from forge_consensus.actors.messages import OpenSession
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.world.network import Connection

TTL_MS = 60_000


class Bystander:
    """A sender without a receiver. Frame-level tests use it where a client would follow leaders and repeat requests."""

    name = "bystander"
    alive = True

    def take(self, data: bytes, connection: Any, sender: str) -> None:
        """Drop an answer."""

    def linked(self, node: str, stands: bool) -> None:
        """Ignore the state of a connection."""


def open_sessions(world: Simulation, node: str, count: int) -> None:
    """Send a node this many requests for sessions, each of which a leader appends to its log as one entry."""
    connection = Connection(Bystander(), node)
    for number in range(1, count + 1):
        frame = Frame("gateway", "", "", "", 0, 0, number, 0, OpenSession(TTL_MS))
        world.cluster.network.ask(connection, encode(frame))
