"""Faults put into protocol and ledger on purpose: the checkers of the simulation must find every one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.gate import STRANGER
from forge_consensus.actors.leading import Leading
from forge_consensus.actors.membership import MembershipActor
from forge_consensus.actors.messages import AppendEntries, AppendReply, HelloReply, VoteReply
from forge_consensus.actors.notices import HeartbeatDue, LeadershipBegan
from forge_consensus.actors.options import Options
from forge_consensus.actors.outbox import Outbox
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.storage.ledger import Ledger
from forge_consensus.storage.sessions import Sessions

Patch = pytest.MonkeyPatch
MUTANTS: dict[str, Callable[[Patch], None]] = {}


DUELS = Options(election_timeout_max=0.805)
PLANS: dict[str, dict[str, Any]] = {
    "a_vote_is_given_twice_in_a_term": {
        "nodes": 5,
        "options": DUELS,
        "kinds": ("isolate_leader", "mend", "change_weather", "kill"),
    },
    "reads_wait_for_nobody": {"nodes": 3, "kinds": ("isolate_leader", "mend", "stun_leader")},
    "a_lease_has_no_end": {"nodes": 3, "lease_reads": True, "kinds": ("stun_leader", "mend")},
    "a_lost_greeting_is_not_repeated": {"nodes": 3, "kinds": ("fail_actor", "break_link", "change_weather")},
}
"""Which runs find a mutant soon that those of all kinds find late."""


def mutant(change: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Note a mutant under its function's name."""
    MUTANTS[change.__name__] = change
    return change


@mutant
def the_previous_entry_is_not_checked(patch: Patch) -> None:
    accept = Ledger.accept

    def blind(self: Ledger, term: int, prev_index: int, prev_term: int, records: Any) -> Any:
        own = self.log.term_at(prev_index)
        return accept(self, term, prev_index, prev_term if own is None else own, records)

    patch.setattr(Ledger, "accept", blind)


@mutant
def entries_of_any_term_are_counted_for_commit(patch: Patch) -> None:
    def commit_leading(self: Ledger, term: int, index: int) -> bool:
        self.require_leading(term)
        moved = index > self.commit_index
        self.commit_index = max(index, self.commit_index)
        return moved

    patch.setattr(Ledger, "commit_leading", commit_leading)


@mutant
def a_vote_is_given_twice_in_a_term(patch: Patch) -> None:
    grant_vote = Ledger.grant_vote

    def grant(self: Ledger, term: int, candidate: str, last_index: int, last_term: int) -> bool:
        if self.term == term and self.vote != self.identity.node_id:
            self.vote = ""
        return grant_vote(self, term, candidate, last_index, last_term)

    patch.setattr(Ledger, "grant_vote", grant)


@mutant
def a_vote_is_given_to_an_older_log(patch: Patch) -> None:
    patch.setattr(Ledger, "up_to_date", lambda self, last_index, last_term: True)


@mutant
def a_leader_begins_without_a_no_op(patch: Patch) -> None:
    def began(self: ReplicationActor, message: LeadershipBegan, sender: Any) -> None:
        self.leading = Leading(self, message.term, 0)
        for progress in self.leading.progress.values():
            progress.next = self.ledger.log.last + 1
        self.after(self.options.heartbeat_interval, HeartbeatDue(message.term))

    patch.setitem(ReplicationActor.handlers, LeadershipBegan, began)


@mutant
def answers_leave_before_the_commit(patch: Patch) -> None:
    patch.setattr(Outbox, "send_early", lambda self: self.send())


@mutant
def a_match_is_truncated_like_a_conflict(patch: Patch) -> None:
    accept = Ledger.accept

    def cut(self: Ledger, term: int, prev_index: int, prev_term: int, records: Any) -> Any:
        follows = self.leading is None and term == self.term and prev_index >= self.log.base_index
        if follows and records and self.log.term_at(prev_index) == prev_term and self.log.last > prev_index:
            self.configurations.truncate(prev_index + 1)
            self.log.truncate(prev_index + 1)
        return accept(self, term, prev_index, prev_term, records)

    patch.setattr(Ledger, "accept", cut)


@mutant
def a_session_forgets_what_it_did(patch: Patch) -> None:
    begin = Sessions.begin

    def forget(self: Sessions, session: int, seq: int, done_below: int, time_ms: int) -> Any:
        state = self.live.get(session)
        if state is not None:
            state.kept.pop(seq, None)
        return begin(self, session, seq, done_below, time_ms)

    patch.setattr(Sessions, "begin", forget)


@mutant
def sessions_are_lost_in_a_snapshot(patch: Patch) -> None:
    patch.setattr(Sessions, "import_", lambda self, chunks: None)


@mutant
def a_follower_commits_more_than_was_verified(patch: Patch) -> None:
    receive = ReplicationActor.handlers[AppendEntries]

    def trust(self: ReplicationActor, message: AppendEntries, sender: Any) -> None:
        receive(self, message, sender)
        if self.ledger.commit_following(message.term, message.commit):
            self.apply_soon()

    patch.setitem(ReplicationActor.handlers, AppendEntries, trust)


@mutant
def an_acknowledgement_counts_whatever_its_term(patch: Patch) -> None:
    def trust(self: ReplicationActor, message: AppendReply, sender: Any) -> None:
        leading = self.current()
        if leading is not None:
            if leading.answered(sender, AppendReply(leading.term, *(True, self.ledger.log.last, 0, message.round))):
                self.try_commit(leading)
            leading.answer_reads()

    patch.setitem(ReplicationActor.handlers, AppendReply, trust)


@mutant
def one_vote_is_enough(patch: Patch) -> None:
    def count(self: ElectionActor, message: VoteReply, sender: Any) -> None:
        if str(self.role) == "candidate":
            self.win()

    patch.setitem(ElectionActor.handlers, VoteReply, count)


@mutant
def reads_wait_for_nobody(patch: Patch) -> None:
    patch.setattr(Leading, "lease_holds", lambda self: True)
    read = Leading.read

    def hasty(self: Leading, asked: Any, asker: Any) -> None:
        read(self, type(asked)(asked.ticket, True), asker)

    patch.setattr(Leading, "read", hasty)


@mutant
def a_lease_has_no_end(patch: Patch) -> None:
    patch.setattr(Leading, "lease_holds", lambda self: self.actor.ledger.configuration.lease_reads)


# --- bugs that simulations found, put back in -------------------------------------------------------------------------


def a_node_that_is_a_stranger_does_not_greet_again(patch: Patch) -> None:
    """The gate answered to the actor that the frame was for, which takes no greetings."""
    receive = MembershipActor.handlers[HelloReply]

    def deaf(self: MembershipActor, message: HelloReply, sender: Any) -> None:
        if message.reason != STRANGER:
            receive(self, message, sender)

    patch.setitem(MembershipActor.handlers, HelloReply, deaf)


@mutant
def a_lost_greeting_is_not_repeated(patch: Patch) -> None:
    """A lost Hello, or one whose turn was taken back, left two nodes silent for good."""
    patch.setattr(MembershipActor, "wait", lambda self, node, seconds: None)


def terms_before_the_start_of_the_log_are_not_compared(patch: Patch) -> None:
    """A follower with older terms where the leader's log begins was probed there for ever: no hint leads lower."""

    def answered(self: Leading, sender: Any, reply: AppendReply) -> bool:
        if reply.success or max(reply.index, self.progress[sender.node].match) < self.actor.ledger.log.base_index:
            return answer(self, sender, reply)
        # The old code knew no comparison: as if the follower's entry were as new as ours.
        term = max(reply.entry_term, self.actor.ledger.log.base_term)
        return answer(self, sender, replace(reply, entry_term=term))

    answer = Leading.answered
    patch.setattr(Leading, "answered", answered)


@mutant
def a_checkpoint_is_due_in_the_turn_that_switches_to_a_snapshot(patch: Patch) -> None:
    """It wrote the old generation's applied index over the installed one (found by reading, fixed by another hand)."""

    def due(self: Ledger) -> bool:
        switching, self.turn.switching = self.turn.switching, False
        try:
            return bool(checkpoint_due(self)) or (switching and self.applier.kept is not None)
        finally:
            self.turn.switching = switching

    checkpoint_due = vars(Ledger)["checkpoint_due"].fget
    patch.setattr(Ledger, "checkpoint_due", property(due))
