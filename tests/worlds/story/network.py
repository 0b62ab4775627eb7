"""The network of a story: every frame is held until the story decides its fate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forge_consensus.actors.codec import Frame, decode
from forge_consensus.actors.messages import Hello, HelloReply
from forge_consensus.testing.world.network import Connection, Network, Party
from forge_consensus.testing.world.timeline import Timeline

FRAME_BYTES_MAX = 1 << 30
ANYBODY = "*"


@dataclass(frozen=True, slots=True)
class Held:
    """A frame in flight; `forth` is True for a request, False for an answer."""

    sender: str
    receiver: str
    connection: Connection
    data: bytes
    forth: bool

    @property
    def frame(self) -> Frame:
        """The decoded frame."""
        return decode(self.data, FRAME_BYTES_MAX)

    @property
    def greets(self) -> bool:
        """Whether it is part of the greeting of two nodes."""
        return isinstance(self.frame.message, Hello | HelloReply)


class HeldNetwork(Network):
    """Connects at once and reports nothing by itself; frames of nodes wait in `held`, in the order of sending."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(timeline)
        self.held: list[Held] = []
        self.reaching: list[tuple[str, str]] = []
        """(node, other): the connections that nodes want since their configuration names others, not made yet."""
        self.greeting = False
        """Whether greetings are in progress that are no part of the story."""

    # --- processes and connections -----------------------------------------------------------------------------------

    def join(self, node: Party) -> None:
        """Add a new process; the story decides which connections it gets."""
        self.live[node.name] = node

    def leave(self, node: Party) -> None:
        """Remove a process. Nobody is notified before the story orders that."""
        del self.live[node.name]
        for ends in [ends for ends in self.links if ends[0] == node.name]:
            del self.links[ends]

    def reach(self, party: Party, name: str) -> None:
        """Note that a node wants a connection; the cluster makes it when the node has come to rest."""
        self.reaching.append((party.name, name))

    def disconnect(self, name: str, other: str) -> bool:
        """Notify a node that its connection to another broke; returns whether it had one."""
        if self.links.pop((name, other), None) is None:
            return False
        self.live[name].linked(other, stands=False)
        return True

    def reachable(self, name: str, other: str) -> bool:
        """Whether both nodes run and frames pass in both directions."""
        cut = self.is_cut(name, other) or self.is_cut(other, name)
        return name in self.live and other in self.live and not cut

    def connect_to(self, name: str, other: str) -> None:
        """Establish a node's connection to another."""
        party = self.live[name]
        self.links[name, other] = Connection(party, other)
        party.linked(other, stands=True)

    # --- frames ------------------------------------------------------------------------------------------------------

    def send(self, connection: Connection, data: bytes, *, forth: bool) -> None:
        """Hold a frame, unless it is lost; a receiver that is no node of the cluster gets the frame at once."""
        owner, target = connection.owner, connection.target
        sender, receiver = (owner.name, target) if forth else (target, owner.name)
        if not forth and self.live.get(owner.name) is not owner and not hasattr(owner, "engine"):
            owner.take(data, None, sender)
        elif not self.is_cut(sender, receiver):
            self.held.append(Held(sender, receiver, connection, data, forth))

    def between(self, sender: str, receiver: str) -> list[Held]:
        """The frames held from `sender` to `receiver`, oldest first."""
        return [held for held in self.held if sender in (ANYBODY, held.sender) and receiver in (ANYBODY, held.receiver)]

    def arrives(self, held: Held) -> bool:
        """Put a frame into the receiver's inbox; returns False if it is lost on the way."""
        party: Any = self.live.get(held.receiver) if held.forth else held.connection.owner
        if self.is_cut(held.sender, held.receiver) or party is None or not party.alive:
            return False
        party.take(held.data, held.connection if held.forth else None, held.sender)
        return True
