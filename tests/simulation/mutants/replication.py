"""Mutants of replication: accepting and acknowledging entries, counting acknowledgements, and committing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.gateway import GatewayActor
from forge_consensus.actors.membership import MembershipActor
from forge_consensus.actors.messages import AppendEntries, AppendReply, HelloReply, InstallSnapshot
from forge_consensus.actors.notices import LeadershipBegan, LeadershipEnded
from forge_consensus.actors.raft.leadership import Effect, Leadership
from forge_consensus.actors.raft.progress import Progress
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.actors.runtime.refusals import STRANGER
from forge_consensus.actors.snapshot import SnapshotActor
from forge_consensus.errors import StaleTermError
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.testing.simulator.conditions import UNEQUAL, Conditions
from tests.simulation.mutants.election import let_in_earlier
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant

Handler = Callable[..., None]


@mutant()
def the_previous_entry_is_not_checked(patch: Patch) -> None:
    """A follower takes entries behind whatever it has (paper 5.3)."""
    accept = Ledger.accept

    def blind(self: Ledger, term: int, prev_index: int, prev_term: int, records: Any) -> Any:
        own = self.log.term_at(prev_index)
        return accept(self, term, prev_index, prev_term if own is None else own, records)

    patch.setattr(Ledger, "accept", blind)


@mutant()
def entries_of_any_term_are_counted_for_commit(patch: Patch) -> None:
    """An entry of an earlier term commits by being on a majority (paper 5.4.2; logcabin #44, canonical/raft #220)."""

    def commit_leading(self: Ledger, term: int, index: int) -> bool:
        self.require_leading(term)
        moved = index > self.commit_index
        self.commit_index = max(index, self.commit_index)
        return moved

    patch.setattr(Ledger, "commit_leading", commit_leading)


@mutant()
def a_leader_begins_without_a_no_op(patch: Patch) -> None:
    """A new leader waits for a client before it can commit what its predecessor left (paper 8)."""
    win = ElectionActor.win

    def silent(self: ElectionActor) -> None:
        ledger: Any = self.ledger
        ledger.propose = lambda term, proposals: (0, 0)
        try:
            win(self)
        finally:
            del ledger.propose

    def make(receive: Handler) -> Handler:
        def began(self: ReplicationActor, message: LeadershipBegan, sender: Any) -> None:
            actor: Any = self
            actor.appended = lambda first, last: None
            try:
                receive(self, message, sender)
            finally:
                del actor.appended
            for progress in self.leadership.progress.values() if self.leadership is not None else ():
                progress.next = self.ledger.log.last + 1

        return began

    patch.setattr(ElectionActor, "win", silent)
    patch.handler(ReplicationActor, LeadershipBegan, make)


@mutant()
def a_match_is_truncated_like_a_conflict(patch: Patch) -> None:
    """A late copy of an older message takes away what was acknowledged since (PySyncObj to this day; its probe P4)."""
    accept = Ledger.accept

    def cut(self: Ledger, term: int, prev_index: int, prev_term: int, records: Any) -> Any:
        follows = self.leading_term is None and term == self.term and prev_index >= self.log.base_index
        if follows and records and self.log.term_at(prev_index) == prev_term and self.log.last > prev_index:
            self.configurations.truncate(prev_index + 1)
            self.log.truncate(prev_index + 1)
        return accept(self, term, prev_index, prev_term, records)

    patch.setattr(Ledger, "accept", cut)


@mutant()
def a_follower_commits_more_than_was_verified(patch: Patch) -> None:
    """A follower commits up to its last entry, not up to the last that this message verified (etcd-io/raft #139)."""

    def make(receive: Handler) -> Handler:
        def trust(self: ReplicationActor, message: AppendEntries, sender: Any) -> None:
            receive(self, message, sender)
            if self.ledger.commit_following(message.term, message.commit):
                self.apply_soon()

        return trust

    patch.handler(ReplicationActor, AppendEntries, make)


@mutant()
def a_chunk_of_a_snapshot_commits_the_log(patch: Patch) -> None:
    """Hearing of a snapshot, a follower commits its own entries up to there (openraft #1802; PySyncObj's probe P5)."""

    def make(receive: Handler) -> Handler:
        def trust(self: SnapshotActor, message: InstallSnapshot, sender: Any) -> None:
            receive(self, message, sender)
            self.ledger.commit_following(message.term, min(message.index, self.ledger.log.last))

        return trust

    patch.handler(SnapshotActor, InstallSnapshot, make)


@mutant(nodes=3, clients=8, pace=1.0, kinds=("isolate_leader", "mend"))
def an_acknowledgement_names_the_whole_log(patch: Patch) -> None:
    """A follower confirms its last entry instead of the last one that the message verified (paper 5.3)."""
    send = ReplicationActor.send

    def boast(self: ReplicationActor, to: Any, message: Any) -> None:
        if isinstance(message, AppendReply) and message.success:
            message = replace(message, index=self.ledger.log.last)
        send(self, to, message)

    patch.setattr(ReplicationActor, "send", boast)


@mutant(nodes=3, clients=2, kinds=("isolate_leader", "mend", "change_weather"))
def an_acknowledgement_of_an_earlier_term_counts(patch: Patch) -> None:
    """Neither the gate nor the leader looks at the term of an acknowledgement (PySyncObj; its probe P6)."""
    let_in_earlier(patch, AppendReply)

    def make(receive: Handler) -> Handler:
        def trust(self: ReplicationActor, message: AppendReply, sender: Any) -> None:
            leading = self.current()
            if leading is not None:
                receive(self, replace(message, term=leading.term), sender)

        return trust

    patch.handler(ReplicationActor, AppendReply, make)


@mutant()
def a_refusal_is_counted_as_an_acknowledgement(patch: Patch) -> None:
    """A leader takes any answer of a follower for its consent."""

    def make(receive: Handler) -> Handler:
        def trust(self: ReplicationActor, message: AppendReply, sender: Any) -> None:
            receive(self, replace(message, success=True, index=self.ledger.log.last), sender)

        return trust

    patch.handler(ReplicationActor, AppendReply, make)


@mutant()
def entries_of_an_earlier_term_are_taken(patch: Patch) -> None:
    """Neither the gate nor the ledger refuses what a leader of an earlier term sent (hashicorp/raft #695)."""
    let_in_earlier(patch, AppendEntries)

    def require(self: Ledger, term: int) -> None:
        if term > self.term:
            raise StaleTermError(self.term, term)

    patch.setattr(Ledger, "require", require)


@mutant()
def two_nodes_make_a_majority_of_five(patch: Patch) -> None:
    """An entry is committed that one node less than a majority has (an off-by-one in the quorum)."""

    def on_majority(self: Leadership) -> int:
        ordered = sorted((self.match.get(node, 0) for node in self.quorum.voters), reverse=True)
        return ordered[max(0, len(ordered) // 2 - 1)]

    patch.setattr(Leadership, "on_majority", on_majority)


@mutant()
def a_refusal_does_not_lead_to_an_earlier_probe(patch: Patch) -> None:
    """A leader probes a follower at one and the same place for ever."""
    patch.setattr(Progress, "refused", lambda self, agreed: False)


@mutant(nodes=3, clients=8, kinds=("isolate_leader", "mend"))
def a_deposed_leader_answers_for_its_successor(patch: Patch) -> None:
    """Who waited for an entry of a deposed leader is answered with another entry at its index."""

    def stay(self: GatewayActor, message: LeadershipEnded, sender: Any) -> None:
        """Refuse nobody."""

    patch.handler(GatewayActor, LeadershipEnded, lambda _: stay)


# --- bugs that simulations found, put back in -------------------------------------------------------------------------


def a_node_that_is_a_stranger_does_not_greet_again(patch: Patch) -> None:
    """The gate answered to the actor that the frame was for, which takes no greetings."""

    def make(receive: Handler) -> Handler:
        def deaf(self: MembershipActor, message: HelloReply, sender: Any) -> None:
            if message.reason != STRANGER:
                receive(self, message, sender)

        return deaf

    patch.handler(MembershipActor, HelloReply, make)


@mutant(
    nodes=3, kinds=("fail_actor", "break_link", "change_weather"), conditions=Conditions(unequal=frozenset(UNEQUAL))
)
def a_lost_greeting_is_not_repeated(patch: Patch) -> None:
    """A lost Hello, or one whose turn was taken back, left two nodes silent for good."""
    patch.setattr(MembershipActor, "wait", lambda self, node, seconds: None)


def terms_before_the_start_of_the_log_are_not_compared(patch: Patch) -> None:
    """A follower with older terms where the leader's log begins was probed there for ever: no hint leads lower."""

    def answered(self: Leadership, node: str, reply: AppendReply, sent_ns: int, now: float) -> Sequence[Effect]:
        log = self.ledger.log
        if reply.success or max(reply.index, self.progress[node].match) < log.base_index:
            return answer(self, node, reply, sent_ns, now)
        # The old code knew no comparison: as if the follower's entry were as new as ours.
        term = max(reply.entry_term, log.base_term)
        return answer(self, node, replace(reply, entry_term=term), sent_ns, now)

    answer = Leadership.answered
    patch.setattr(Leadership, "answered", answered)
