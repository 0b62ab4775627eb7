"""The rounds of reads on nodes that do not lead (I13): who is in one, and whose answer ends it."""

from __future__ import annotations

from dataclasses import dataclass, field

from forge_consensus.actors.messages import ReadIndexReply
from forge_consensus.actors.raft.forwarded_reads import ForwardedReads
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.network import Connection


@dataclass(slots=True)
class Asked:
    """The question of a node that was under way after its last turn."""

    forwarded: ForwardedReads
    number: int = 0
    since: dict[int, float] = field(default_factory=dict)
    """When each read in it came, by ticket."""


class ForwardedRounds:
    """Follows the questions that nodes ask their leader, and the leaders' answers."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.confirmed: set[tuple[str, int]] = set()
        """(node, number) of the questions that a leader has answered with an index."""
        self.alone: dict[str, bool] = {}
        """Whether a node was a majority by itself after its last turn."""

    def began(self, node: SimulatedBase) -> None:
        """Note a new process, which has asked nothing yet."""
        self.asked.pop(node.name, None)
        self.alone.pop(node.name, None)

    def answers(self, node: SimulatedBase, connection: Connection, message: ReadIndexReply, waited: bool) -> None:
        """Note an answer; demand that a question without a lease `waited` for a later turn, so for a round after it.

        A node that is a majority by itself confirms at once, and the same turn may let another one vote after that.
        """
        if not message.index:
            return
        ledger, who = node.engine.ledger, connection.owner.name
        alone = is_alone(node) or self.alone.get(node.name, False)
        demand(
            waited or alone or ledger.configuration.lease_reads or (who, message.number) in self.confirmed,
            "I13",
            f"{node.name} names read index {message.index} to {who} without a round after its question",
        )
        self.confirmed.add((who, message.number))

    def turned(self, node: SimulatedBase, *, leads: bool) -> None:
        """Check the question that was under way before this turn of a node, and note the one that is now."""
        self.alone[node.name] = is_alone(node)
        actor = node.engine.cells.actor("replication")
        if not isinstance(actor, ReplicationActor):
            return
        forwarded, before = actor.forwarded, self.asked.get(node.name)
        now = forwarded.round
        if before is not None and before.forwarded is forwarded and before.number:
            if now is not None and now.number == before.number:
                more = [read.asked.ticket for read in now.reads if read.asked.ticket not in before.since]
                demand(not more, "I13", f"{node.name}: reads {more} join question {now.number}, which is under way")
            elif not leads and (node.name, before.number) not in self.confirmed:
                self.check_unanswered(node, forwarded, before)
        if now is not None:
            since = {read.asked.ticket: read.since for read in now.reads}
            self.asked[node.name] = Asked(forwarded, now.number, since)
        elif before is not None:
            del self.asked[node.name]

    def check_unanswered(self, node: SimulatedBase, forwarded: ForwardedReads, before: Asked) -> None:
        """Demand that the reads of a question that nobody answered wait on, or were given up."""
        waiting = {read.asked.ticket for read in forwarded.waiting}
        if forwarded.round is not None:
            waiting |= {read.asked.ticket for read in forwarded.round.reads}
        patience, now = node.engine.settings.election_timeout_max, node.engine.clock.now()
        gone = [ticket for ticket, since in before.since.items() if ticket not in waiting and now - since < patience]
        given_up = node.engine.shared.leader is None
        demand(
            not gone or given_up,
            "I13",
            f"{node.name}: reads {gone} are over without an answer to question {before.number}",
        )


def is_alone(node: SimulatedBase) -> bool:
    """Whether a node is a majority by itself."""
    return node.engine.ledger.configuration.quorum.has((node.name,))
