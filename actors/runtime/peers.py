"""The peers: the addresses of their actors, which of them to connect to, and the established connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from forge_consensus.actors.notices import LinkUp, PeerDown
from forge_consensus.actors.runtime.address import PeerAddress
from forge_consensus.actors.runtime.outbox import Outbox

PARTING_TIMEOUTS: Final = 3
"""For how many election timeouts the connection to a removed member is kept, so that its leader can tell it."""


class Peers:
    """The other nodes, as the turn knows them; `links` holds those with an established connection."""

    def __init__(self, outbox: Outbox, node_id: str, parting_seconds: float) -> None:
        self.outbox = outbox
        self.node_id = node_id
        self.parting_seconds = parting_seconds
        self.wanted: dict[str, str] = {}
        """By node: the address to be connected to. The base follows it after each turn."""
        self.parting: dict[str, float] = {}
        """The removed members to which the connection is kept until then, in seconds of real time."""
        self.addresses: dict[tuple[str, str], PeerAddress] = {}
        self.links: set[str] = set()
        self.moved: set[str] = set()
        """The peers that are given up at one address, to be connected to at another."""
        self.problems: dict[str, str] = {}
        """By peer: why there is no connection to it, for people; "" or nothing while there is none to tell of."""

    def follow(self, members: Mapping[str, str], now: float) -> None:
        """Take the members of the configuration in force, as node id -> address; the others are parted from later."""
        others = {node: address for node, address in members.items() if node != self.node_id}
        for node in sorted(self.wanted.keys() - others.keys() - self.parting.keys()):
            self.parting[node] = now + self.parting_seconds
        for node, until in list(self.parting.items()):
            if node in others or now >= until:
                del self.parting[node]
                self.problems.pop(node, None)
        self.moved |= {node for node, address in others.items() if self.wanted.get(node, address) != address}
        self.wanted = {**{node: self.wanted[node] for node in self.parting}, **others}

    def address(self, node: str, actor: str) -> PeerAddress:
        """Return the address of an actor of another node."""
        address = self.addresses.get((node, actor))
        if address is None:
            address = self.addresses[node, actor] = PeerAddress(node, actor, self.outbox)
        return address

    def introduce(self, node: str, boot: int) -> None:
        """Allow frames to a peer: it was greeted and is in that boot."""
        self.outbox.boots[node] = boot

    def is_greeted(self, node: str) -> bool:
        """Whether a node was greeted on its present connection."""
        return node in self.outbox.boots

    def leave(self, node: str) -> None:
        """Send a node nothing more before it is greeted again."""
        self.outbox.boots.pop(node, None)

    def link(self, node: str, stands: bool) -> LinkUp | PeerDown:
        """Note that the connection to a peer was established or broke; returns the notice for the next turn.

        Either way the peer must be greeted (again), because another process may be behind the address.
        """
        self.outbox.boots.pop(node, None)
        if self.outbox.certificates is not None:
            self.outbox.certificates.forget(node)
        moved = node in self.moved
        self.moved.discard(node)
        if stands:
            self.links.add(node)
            return LinkUp(node)
        self.links.discard(node)
        return PeerDown(node, moved)
