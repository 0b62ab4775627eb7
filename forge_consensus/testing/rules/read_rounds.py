"""The rounds of reads (I13): a read waits for a round that began after it, and for a majority that confirms it."""

from __future__ import annotations

from dataclasses import dataclass, field

from forge_consensus.actors.messages import AppendReply
from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.actors.raft.reads import WaitingRead
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.testing.rules.disk_model import decides
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.world.base import SimulatedBase


@dataclass(slots=True)
class Rounds:
    """The observations of a leadership after its last turn."""

    term: int = 0
    round: int = 0
    commit: int = 0
    reads: dict[tuple[str, int], WaitingRead] = field(default_factory=dict)
    """The reads that wait, by the node that asks for them ("" for the leader itself) and ticket."""


class ReadRounds:
    """Follows the reads that wait on leaders, and the rounds that followers echo.

    Reads that begin and end within one turn are not observed: lease reads, and reads of a cluster of one node.
    """

    def __init__(self) -> None:
        self.seen: dict[str, Rounds] = {}
        self.echoed: dict[tuple[int, str], int] = {}
        """(term, follower): the highest round that an answer of the follower echoes."""

    def began(self, node: SimulatedBase) -> None:
        """Note a new process, on which no read waits yet."""
        self.seen[node.name] = Rounds()

    def answers(self, node: SimulatedBase, message: AppendReply) -> None:
        """Note the round that an answer of a follower echoes."""
        key = message.term, node.name
        if message.round > self.echoed.get(key, 0):
            self.echoed[key] = message.round

    def waited(self, node: SimulatedBase, asker: str, number: int) -> bool:
        """Whether that question of another node waited on this leader after its last turn."""
        return (asker, number) in self.seen[node.name].reads

    def turned(self, node: SimulatedBase, leading: Leadership | None) -> None:
        """Check the reads that arrived and those that were answered in this turn."""
        seen = self.seen[node.name]
        if leading is None:
            if seen.term:
                self.seen[node.name] = Rounds()
            return
        if seen.term != leading.term:
            seen = self.seen[node.name] = Rounds(leading.term)
        if leading.reads.queue or seen.reads:
            waiting = {(read.asker.node if read.asker else "", read.ticket): read for read in leading.reads.queue}
            for key, read in waiting.items():
                if key not in seen.reads:
                    self.check_taken(node, seen, read)
            for key, read in seen.reads.items():
                if key not in waiting:
                    self.check_confirmed(node, leading, read)
            seen.reads = waiting
        seen.round, seen.commit = leading.reads.round, node.engine.ledger.commit_index

    def check_taken(self, node: SimulatedBase, seen: Rounds, read: WaitingRead) -> None:
        """Demand that a new read waits for a later round and for everything that was committed before it."""
        who = f"{node.name}, leading {seen.term}:"
        demand(read.round > seen.round, "I13", f"{who} a read waits for round {read.round}, {seen.round} began before")
        demand(read.index >= seen.commit, "I13", f"{who} a read at {read.index}, {seen.commit} was committed before")

    def check_confirmed(self, node: SimulatedBase, leading: Leadership, read: WaitingRead) -> None:
        """Demand that a majority confirmed an answered read, in a term whose no-op is committed."""
        ledger, term = node.engine.ledger, leading.term
        members = ledger.configuration.addresses
        echoes = [name for name in members if name == node.name or self.echoed.get((term, name), 0) >= read.round]
        who = f"{node.name}, leading {term}:"
        confirmed = decides(ledger.configuration, echoes)
        demand(confirmed, "I13", f"{who} round {read.round} was confirmed only by {sorted(echoes)}")
        demand(ledger.commit_index >= leading.noop, "I13", f"{who} reads before its no-op {leading.noop} is committed")


def leading_of(node: SimulatedBase) -> Leadership | None:
    """Return the leadership of a node, None if it does not lead."""
    if node.engine.ledger.leading_term is None:
        return None  # the ledger decides, even if the actor still considers itself the leader
    actor = node.engine.cells.actor("replication")
    return actor.current() if isinstance(actor, ReplicationActor) else None
