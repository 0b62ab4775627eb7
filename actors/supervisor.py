"""The supervisor actor: creates the other actors, and creates them again after a fault."""

from __future__ import annotations

from typing import Any

from thespian.actors import ActorSystem

from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.gateway import GatewayActor
from forge_consensus.actors.health import HealthActor
from forge_consensus.actors.membership import MembershipActor
from forge_consensus.actors.notices import LinkUp, Rebuild, Start
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.actors.runtime.actor import ConsensusActor
from forge_consensus.actors.runtime.engine import SUPERVISOR
from forge_consensus.actors.snapshot import SnapshotActor
from forge_consensus.actors.transport.base import SystemBase
from forge_consensus.events.types import NodeStarted

ACTORS: dict[str, type[ConsensusActor]] = {
    "election": ElectionActor,
    "replication": ReplicationActor,
    "membership": MembershipActor,
    "snapshot": SnapshotActor,
    "health": HealthActor,
    "gateway": GatewayActor,
}
"""The actors of a node, in the order in which they start. Election comes first, because health and gateway receive its
notices."""


class SupervisorActor(ConsensusActor):
    """Owns the other actors. After a fault all of them are rebuilt together from the ledger, as those of a follower."""

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Create the actors, and publish that the node has started."""
        self.make(Start())
        self.publish(NodeStarted())

    def receiveMsg_Rebuild(self, message: Rebuild, sender: Any) -> None:
        """Create all actors again, and greet the peers at once, because their connections still exist."""
        self.make(Start(again=True))
        for node in self.context.linked():
            self.tell("membership", LinkUp(node))

    def make(self, start: Start) -> None:
        """Create every actor, then start them with the message `start`."""
        for name, kind in ACTORS.items():
            self.createActor(kind, globalName=name)
        for name in ACTORS:
            self.tell(name, start)


def start_system(base: SystemBase) -> ActorSystem:
    """Make the Thespian actor system of a node; the base's first turn creates the other actors."""
    system = ActorSystem(systemBase=base, transientUnique=True)
    supervisor = system.createActor(SupervisorActor, globalName=SUPERVISOR)
    base.engine.next_turn(supervisor, Start())
    return system
