"""The peers: the addresses of their actors, and the established connections."""

from __future__ import annotations

from forge_consensus.actors.notices import LinkUp, PeerDown
from forge_consensus.actors.runtime.address import PeerAddress
from forge_consensus.actors.runtime.outbox import Outbox


class Peers:
    """The other nodes, as the turn knows them; `links` holds those with an established connection."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.addresses: dict[tuple[str, str], PeerAddress] = {}
        self.links: set[str] = set()
        self.problems: dict[str, str] = {}
        """By peer: why there is no connection to it, for people; "" or nothing while there is none to tell of."""

    def address(self, node: str, actor: str) -> PeerAddress:
        """Return the address of an actor of another node."""
        address = self.addresses.get((node, actor))
        if address is None:
            address = self.addresses[node, actor] = PeerAddress(node, actor, self.outbox)
        return address

    def introduce(self, node: str, boot: int) -> None:
        """Allow frames to a peer: it was greeted and is in that boot."""
        self.outbox.boots[node] = boot

    def link(self, node: str, stands: bool) -> LinkUp | PeerDown:
        """Note that the connection to a peer was established or broke; returns the notice for the next turn.

        Either way the peer must be greeted (again), because another process may be behind the address.
        """
        self.outbox.boots.pop(node, None)
        if stands:
            self.links.add(node)
            return LinkUp(node)
        self.links.discard(node)
        return PeerDown(node)
