"""Mutants of handing the leadership over: who may be told to stand, who stands, and leases after it."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.messages import TimeoutNow
from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.actors.replication import ReplicationActor
from tests.simulation.mutants.members import CHANGING
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant


@mutant(**CHANGING, kinds=("hand_over", "hand_over_cut_off", "isolate", "mend"))
def a_leader_hands_over_to_a_node_that_lacks_entries(patch: Patch) -> None:
    """The target of a handover is told to stand at once, whatever it has of the log (dissertation 3.10)."""

    def hand_over(self: ReplicationActor, leading: Leadership) -> None:
        handover = self.shared.handover
        if handover is not None and not handover.told and handover.term == leading.term:
            handover.told = leading.handed_over = True
            self.tell_peer(handover.target, "election", TimeoutNow(leading.term))

    patch.setattr(ReplicationActor, "hand_over", hand_over)


LEASES: dict[str, Any] = {**CHANGING, "nodes": 3, "clients": 8, "lease_reads": True}


@mutant(**LEASES, kinds=("hand_over_cut_off", "hand_over", "mend"))
def a_lease_holds_after_another_node_was_told_to_stand(patch: Patch) -> None:
    """A leader answers reads by its lease although its followers do not keep their votes back any more."""
    plain = Leadership.lease_holds

    def holds(self: Leadership, boottime_ns: int) -> bool:
        handed_over, self.handed_over = self.handed_over, False
        try:
            return plain(self, boottime_ns)
        finally:
            self.handed_over = handed_over

    patch.setattr(Leadership, "lease_holds", holds)


@mutant(**CHANGING, kinds=("hand_over", "isolate_leader", "kill", "mend"))
def whoever_stands_says_that_the_leader_wanted_it(patch: Patch) -> None:
    """Every candidate claims to be the target of a handover, so nobody keeps its vote back for a leader that lives."""
    plain = ElectionActor.campaign

    def campaign(self: ElectionActor, *, transfer: bool = False) -> None:
        plain(self, transfer=True)

    patch.setattr(ElectionActor, "campaign", campaign)
