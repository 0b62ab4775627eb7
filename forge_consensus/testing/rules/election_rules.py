"""The rules of elections that no log shows: pre-votes before votes, and votes that must be refused."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.messages import PreVoteReply, RequestPreVote, RequestVote, TimeoutNow, VoteReply
from forge_consensus.actors.runtime.shared import Role
from forge_consensus.testing.rules.disk_model import Disk, decides
from forge_consensus.testing.rules.violations import ViolationError, demand
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.network import Connection

Tip = tuple[int, int]
"""(term, index) of a log's last entry, which is compared before a vote (paper 5.4.1)."""


@dataclass(slots=True)
class ElectionRecord:
    """The observations of the elections of one process."""

    began: float
    """When it started, by its running clock."""
    heard: float | None = None
    """When it last received a leader's request, by the same clock."""
    leading: int = 0
    """The term that it led when its last turn ended, 0 for none."""
    tip: Tip = (0, 0)
    """The tip of its log when its last turn ended."""
    asked: dict[int, tuple[int, Tip]] = field(default_factory=dict)
    """For each round of pre-votes: its term, and the tip of the log in the request."""
    granted: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """For each round of pre-votes: the nodes that granted it."""


class ElectionRules:
    """Checks pre-votes (dissertation 9.6) and the votes that a leader's followers must refuse (4.2.3, 6.4.1).

    An answer is decided within a turn. So it is compared with the state before the turn and with the state after it,
    and is wrong only if it fits neither.
    """

    def __init__(self) -> None:
        self.processes: dict[str, ElectionRecord] = {}
        self.handed_over: set[tuple[int, str]] = set()
        """(term, node) of those that were told to stand by the leader of the term."""
        self.transfers: set[tuple[str, int]] = set()
        """(candidate, term) of those that stand because a leader told them to."""

    def began(self, node: SimulatedBase) -> None:
        """Note a new process, which knows no leader yet."""
        self.processes[node.name] = ElectionRecord(node.engine.clock.running())

    def turned(self, node: SimulatedBase, disk: Disk) -> None:
        """Note the state after a turn; check that the election actor's role agrees with the ledger."""
        record, actor = self.processes[node.name], node.engine.cells.actor("election")
        leading = node.engine.ledger.leading_term
        if isinstance(actor, ElectionActor):
            if (actor.role is Role.LEADER) != (leading is not None):
                raise ViolationError(f"roles: {node.name} is {actor.role}, its ledger leads {leading}")
            heard = actor.stickiness.heard_at
            if heard is not None and (record.heard is None or heard > record.heard):
                record.heard = heard
        record.leading, record.tip = leading or 0, tip_of(disk)

    def asks(self, node: SimulatedBase, message: RequestPreVote | RequestVote) -> None:
        """Demand that a node requests votes only after a majority has granted it pre-votes, or a leader told it to."""
        record = self.processes[node.name]
        if isinstance(message, RequestPreVote):
            record.asked[message.round] = message.term, (message.last_term, message.last_index)
            return
        if message.transfer:
            demand(
                (message.term - 1, node.name) in self.handed_over,
                "pre-vote",
                f"{node.name} stands untold in {message.term}",
            )
            self.transfers.add((node.name, message.term))
            return
        configuration = node.engine.ledger.configuration
        rounds = [number for number, (term, _) in record.asked.items() if term == message.term]
        yes = [record.granted[number] | {node.name} for number in rounds]
        asked = any(decides(configuration, who) for who in yes)
        demand(asked, "pre-vote", f"{node.name} stands in {message.term}, but was granted {list(map(sorted, yes))}")

    def hands_over(self, message: TimeoutNow, to: str) -> None:
        """Note that the leader of a term told a node to stand."""
        self.handed_over.add((message.term, to))

    def answers(self, node: SimulatedBase, to: Connection, message: PreVoteReply | VoteReply, disk: Disk) -> None:
        """Demand that a granted vote or pre-vote is not from a leader, not within a lease, not for an older log."""
        if not message.granted:
            return
        record, ledger, asker = self.processes[node.name], node.engine.ledger, to.owner.name
        led = record.leading and ledger.leading_term == record.leading
        demand(not led, "pre-vote", f"{node.name} leads {record.leading} and says yes to {asker}")
        asked_to = isinstance(message, VoteReply) and (asker, message.term) in self.transfers
        if ledger.configuration.lease_reads and not asked_to:
            silent_seconds = node.engine.clock.running() - max(record.began, record.heard or 0.0)
            least_seconds = ledger.configuration.vote_kept(node.engine.settings.election_timeout_min)
            demand(
                silent_seconds >= least_seconds,
                "I13",
                f"{node.name} grants {asker} a vote {silent_seconds:.3f} s after it heard a leader or started: with "
                f"lease reads it must wait {least_seconds} s",
            )
        other = self.processes.get(asker)
        if isinstance(message, PreVoteReply) and other is not None and to.owner.alive:
            shown = other.asked.get(message.round, (0, tip_of(disk)))[1]
            ours = min(record.tip, tip_of(disk))
            demand(shown >= ours, "pre-vote", f"{node.name}, with {ours}, says yes to {asker}, with {shown}")
            other.granted[message.round].add(node.name)


def tip_of(disk: Disk) -> Tip:
    """Return the tip of the log on a disk."""
    last = disk.last
    return disk.base_term if last == disk.base else disk.terms.get(last, 0), last
