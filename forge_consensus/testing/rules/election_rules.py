"""The rules of elections that no log shows: who asks first, who is to be elected, and who keeps its vote back."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.messages import PreVoteReply, RequestPreVote, RequestVote, VoteReply
from forge_consensus.actors.runtime.shared import Role
from forge_consensus.testing.rules.disk_model import Disk
from forge_consensus.testing.rules.violations import ViolationError, demand
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.network import Connection

Tip = tuple[int, int]
"""(term, index) of a log's last entry: what is compared before a vote (paper 5.4.1)."""


@dataclass(slots=True)
class Manners:
    """What was seen of one process."""

    began: float
    """When, by its running clock."""
    heard: float | None = None
    """When it last heard a leader, by the same clock."""
    leading: int = 0
    """The term that it led when its last turn ended, 0 for none."""
    tip: Tip = (0, 0)
    """Its log's when its last turn ended."""
    asked: dict[int, tuple[int, Tip]] = field(default_factory=dict)
    """Of each round of pre-votes: the term that it is for, and the tip that it shows."""
    granted: defaultdict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Of each round: who said yes."""


class ElectionRules:
    """Follows pre-votes (dissertation 9.6) and the votes that a leader's nodes keep back (4.2.3, 6.4.1).

    What a turn says is decided within it. So it is compared with what held before the turn and after it, and only what
    fits to neither is wrong.
    """

    def __init__(self) -> None:
        self.processes: dict[str, Manners] = {}

    def began(self, node: SimulatedBase) -> None:
        """A process knows of no leader yet."""
        self.processes[node.name] = Manners(node.engine.clock.now())

    def turned(self, node: SimulatedBase, disk: Disk) -> None:
        """Note what holds after the turn; the role that a node believes in is the one that its ledger knows."""
        manners, actor = self.processes[node.name], node.engine.cells.actor("election")
        leading = node.engine.ledger.leading
        if isinstance(actor, ElectionActor):
            if (actor.role is Role.LEADER) != (leading is not None):
                raise ViolationError(f"roles: {node.name} is {actor.role}, its ledger leads {leading}")
            heard = actor.stickiness.heard_at
            if heard is not None and (manners.heard is None or heard > manners.heard):
                manners.heard = heard
        manners.leading, manners.tip = leading or 0, tip_of(disk)

    def asks(self, node: SimulatedBase, message: RequestPreVote | RequestVote) -> None:
        """Who asks for votes was told before, by a majority, that it would get them."""
        manners = self.processes[node.name]
        if isinstance(message, RequestPreVote):
            manners.asked[message.round] = message.term, (message.last_term, message.last_index)
            return
        voters = node.engine.ledger.configuration.voters
        rounds = [number for number, (term, _) in manners.asked.items() if term == message.term]
        yes = [voters.intersection(manners.granted[number] | {node.name}) for number in rounds]
        asked = any(2 * len(who) > len(voters) for who in yes)
        demand(asked, "pre-vote", f"{node.name} stands in {message.term}, but was granted {list(map(sorted, yes))}")

    def answers(self, node: SimulatedBase, to: Connection, message: PreVoteReply | VoteReply, disk: Disk) -> None:
        """A vote and the promise of one: not by a leader, not while a lease may run, not for an older log."""
        if not message.granted:
            return
        manners, ledger, asker = self.processes[node.name], node.engine.ledger, to.owner.name
        led = manners.leading and ledger.leading == manners.leading
        demand(not led, "pre-vote", f"{node.name} leads {manners.leading} and says yes to {asker}")
        if ledger.configuration.lease_reads:
            silent_s = node.engine.clock.now() - max(manners.began, manners.heard or 0.0)
            least_s = node.engine.options.election_timeout_min
            demand(
                silent_s >= least_s,
                "I13",
                f"{node.name} says yes to {asker} {silent_s:.3f} s after it heard a leader or began: under leases it "
                f"must wait {least_s} s",
            )
        other = self.processes.get(asker)
        if isinstance(message, PreVoteReply) and other is not None and to.owner.alive:
            shown = other.asked.get(message.round, (0, tip_of(disk)))[1]
            ours = min(manners.tip, tip_of(disk))
            demand(shown >= ours, "pre-vote", f"{node.name}, with {ours}, says yes to {asker}, with {shown}")
            other.granted[message.round].add(node.name)


def tip_of(disk: Disk) -> Tip:
    """The tip of the log on a disk."""
    last = disk.last
    return disk.base_term if last == disk.base else disk.terms.get(last, 0), last
