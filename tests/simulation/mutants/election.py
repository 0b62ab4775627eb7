"""Mutants of the election: granting votes, when to grant them, and counting them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.messages import AppendEntries, InstallSnapshot, RequestVote, VoteReply
from forge_consensus.actors.notices import PeerDown, TermRaised
from forge_consensus.actors.runtime.gate import Gate
from forge_consensus.actors.runtime.outbox import Outbox
from forge_consensus.actors.runtime.shared import Role
from forge_consensus.actors.runtime.stickiness import Stickiness
from forge_consensus.config.raft import RaftSettings
from forge_consensus.storage.ledger.identity import DRAWN, Identity
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.quorum import majority
from forge_consensus.testing.simulator.conditions import Conditions
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant

DUELS = RaftSettings(election_timeout_max=0.805)
"""Two followers often stand at the same moment."""
HASTY: dict[str, Any] = {
    "nodes": 5,
    "clients": 1,
    "pace": 1.0,
    "raft": RaftSettings(heartbeat_interval=0.03, election_timeout_min=0.1, election_timeout_max=0.12),
}
"""The next election has often begun before all has arrived that was said in the one before."""


@mutant(nodes=5, raft=DUELS, kinds=("isolate_leader", "mend", "change_weather", "kill"))
def a_vote_is_given_twice_in_a_term(patch: Patch) -> None:
    """A node that voted for another votes again in the same term (paper 5.2; every store that loses votes)."""
    grant_vote = Ledger.grant_vote

    def grant(self: Ledger, term: int, candidate: str, last_index: int, last_term: int) -> bool:
        if self.term == term and self.vote != self.identity.node_id:
            self.vote = ""
        return grant_vote(self, term, candidate, last_index, last_term)

    patch.setattr(Ledger, "grant_vote", grant)


@mutant()
def a_candidate_keeps_no_vote_for_itself(patch: Patch) -> None:
    """A candidate counts itself and does not write it down, so it may vote for another in the term that it wins."""
    stand = Ledger.stand

    def forget(self: Ledger, term: int) -> int:
        entered = stand(self, term)
        self.vote = ""
        return entered

    def lead(self: Ledger, term: int, wall_ms: int) -> None:
        self.require(term)
        self.led = self.leading_term = term

    patch.setattr(Ledger, "stand", forget)
    patch.setattr(Ledger, "lead", lead)


@mutant()
def a_vote_is_given_to_an_older_log(patch: Patch) -> None:
    """Logs are not compared before a vote (paper 5.4.1)."""
    patch.setattr(Ledger, "up_to_date", lambda self, last_index, last_term: True)


@mutant(nodes=3, clients=8, pace=1.0, kinds=("isolate_leader", "mend", "kill"))
def the_longer_log_wins_whatever_its_term(patch: Patch) -> None:
    """Logs are compared by length alone, not by the term of their last entry first (paper 5.4.1)."""
    patch.setattr(Ledger, "up_to_date", lambda self, last_index, last_term: last_index >= self.log.last)


@mutant()
def one_vote_is_enough(patch: Patch) -> None:
    """A candidate leads after its first answer, whatever that says."""

    def count(self: ElectionActor, message: VoteReply, sender: Any) -> None:
        if self.role is Role.CANDIDATE:
            self.win()

    patch.handler(ElectionActor, VoteReply, lambda _: count)


@mutant(nodes=5, raft=DUELS, kinds=("isolate_leader", "mend", "change_weather", "kill"))
def a_repeated_vote_is_counted_twice(patch: Patch) -> None:
    """Answers are counted instead of voters (PySyncObj to this day; its probe P3)."""

    def count(self: ElectionActor, message: VoteReply, sender: Any) -> None:
        if self.role is not Role.CANDIDATE or message.term != self.ledger.term or not message.granted:
            return
        self.votes.add(f"{sender.node}, answer {len(self.votes)}")
        if len(self.votes) >= majority(len(self.ledger.configuration.voters)):
            self.win()

    patch.handler(ElectionActor, VoteReply, lambda _: count)


@mutant(**HASTY)
def who_won_goes_on_asking(patch: Patch) -> None:
    """Pre-votes for which a candidate asked again, before its votes came, have it stand out of its own leadership."""
    win, stand = ElectionActor.win, Ledger.stand

    def go_on(self: ElectionActor) -> None:
        asking = self.asking
        win(self)
        self.asking = asking

    def leave(self: Ledger, term: int) -> int:
        self.leading_term = None
        return stand(self, term)

    patch.setattr(ElectionActor, "win", go_on)
    patch.setattr(Ledger, "stand", leave)


@mutant()
def a_pre_vote_counts_as_a_vote(patch: Patch) -> None:
    """Who granted a pre-vote is taken to have voted (canonical/raft #196)."""

    def is_majority(self: ElectionActor, votes: set[str]) -> bool:
        return plain(self, self.votes | self.pre_votes if votes is self.votes else votes)

    plain = ElectionActor.is_majority
    patch.setattr(ElectionActor, "is_majority", is_majority)


@mutant(**HASTY, kinds=("change_weather", "kill", "isolate_leader", "mend"))
def a_vote_of_an_earlier_term_is_counted(patch: Patch) -> None:
    """Neither the gate nor the candidate looks at the term of a vote that arrives late (PySyncObj)."""
    let_in_earlier(patch, VoteReply)

    def count(self: ElectionActor, message: VoteReply, sender: Any) -> None:
        trusted = VoteReply(self.ledger.term, message.granted)
        receive(self, trusted, sender)

    receive = ElectionActor.handlers[VoteReply]
    patch.handler(ElectionActor, VoteReply, lambda _: count)


def let_in_earlier(patch: Patch, kind: Any) -> None:
    """Have the gate hand over messages of earlier terms."""
    is_of_our_term = Gate.is_of_our_term

    def is_ours(self: Gate, message: Any, sender: Any) -> bool:
        if type(message) is kind and message.term < self.ledger.term:
            return True
        return is_of_our_term(self, message, sender)

    patch.setattr(Gate, "is_of_our_term", is_ours)


@mutant()
def a_candidate_asks_before_its_own_vote_is_durable(patch: Patch) -> None:
    """Requests for votes leave before the commit, as entries may (dissertation 10.2.1 allows it for those only)."""

    def send_early(self: Outbox) -> None:
        asking = [row for row in self.requests if type(row[1]) is RequestVote]
        self.requests = [row for row in self.requests if type(row[1]) is not RequestVote]
        for to, message in asking:
            self.send_request(to, message)
        plain(self)

    plain = Outbox.send_early
    patch.setattr(Outbox, "send_early", send_early)


@mutant()
def a_vote_outlives_its_term(patch: Patch) -> None:
    """A node that enters a higher term keeps the vote that it gave in the lower one."""

    def advance(self: Ledger, term: int) -> bool:
        vote = self.vote
        moved = plain(self, term)
        self.vote = vote
        return moved

    plain = Ledger.advance
    patch.setattr(Ledger, "advance", advance)


def who_speaks_of_an_earlier_term_gets_no_answer(patch: Patch) -> None:
    """A leader of an earlier term is not told of the later one, so both sides are stuck (PySyncObj)."""
    is_of_our_term = Gate.is_of_our_term

    def is_ours(self: Gate, message: Any, sender: Any) -> bool:
        if type(message) in (AppendEntries, InstallSnapshot) and message.term < self.ledger.term:
            return False
        return is_of_our_term(self, message, sender)

    patch.setattr(Gate, "is_of_our_term", is_ours)


@mutant()
def a_raised_term_does_not_end_the_role(patch: Patch) -> None:
    """The ledger enters a higher term and the election actor still believes that it leads (hashicorp/raft #695)."""

    def stay(self: ElectionActor, message: TermRaised, sender: Any) -> None:
        self.asking = False

    patch.handler(ElectionActor, TermRaised, lambda _: stay)


@mutant(nodes=3, lease_reads=True, kinds=("one_way", "bridge", "mend"))
def nobody_refuses_a_vote_for_the_sake_of_a_leader(patch: Patch) -> None:
    """A node that hears a leader, or leads, votes for whoever asks (dissertation 4.2.3 and 6.4.1)."""
    patch.setattr(Stickiness, "holds", lambda self, now, *, timeout, lease_reads: False)


@mutant()
def a_node_stands_without_asking(patch: Patch) -> None:
    """There is no pre-vote: a node that comes back disturbs a leader that all others hear (dissertation 9.6)."""

    def stand(self: ElectionActor) -> None:
        self.lose_leader("silent for an election timeout")
        self.wait_long()
        self.campaign()

    patch.setattr(ElectionActor, "ask_for_pre_votes", stand)


@mutant(nodes=3, kinds=("wipe_folder", "isolate_leader", "mend"))
def a_wiped_folder_is_taken_for_the_member(patch: Patch) -> None:
    """A node whose folder was emptied is greeted like the one that gave its votes (dragonboat #354, raft-rs #571)."""
    admit = Identity.admit

    def trust(self: Identity, turn: Any, node: str, token: str, boot: int, earlier: str) -> str:
        if (known := self.boots.get(node)) is not None and folder_of(known[0]) != folder_of(token):
            del self.boots[node]
        return admit(self, turn, node, token, boot, earlier)

    patch.setattr(Identity, "admit", trust)


@mutant(nodes=3, kinds=("put_copy_back", "isolate_leader", "mend"))
def a_stale_boot_is_accepted(patch: Patch) -> None:
    """A folder that was put back from an older copy is taken for the one that acknowledged since."""
    admit = Identity.admit

    def trust(self: Identity, turn: Any, node: str, token: str, boot: int, earlier: str) -> str:
        if (known := self.boots.get(node)) is not None and folder_of(known[0]) == folder_of(token):
            del self.boots[node]
        return admit(self, turn, node, token, boot, earlier)

    patch.setattr(Identity, "admit", trust)


@mutant(nodes=3, kinds=("put_running_copy_back", "isolate_leader", "mend"))
def a_copy_of_a_running_folder_is_admitted(patch: Patch) -> None:
    """Nobody looks at what a member had on its disk, so a copy of it that was put back is taken for the member."""
    patch.setattr(Identity, "is_later_boot", lambda *_: False)


def a_boot_is_not_asked_which_it_descends_from(patch: Patch) -> None:
    """Boots are only counted, so a copy that was started more often than its original is taken for it."""
    admit = Identity.admit

    def count(self: Identity, turn: Any, node: str, token: str, boot: int, earlier: str) -> str:
        draw = self.boots.get(node, ("", 0))[0].partition(DRAWN)[2]
        return admit(self, turn, node, token, boot, draw)

    patch.setattr(Identity, "admit", count)


def folder_of(token: str) -> str:
    """The part of a boot token that stays with the folder."""
    return token.partition(DRAWN)[0]


@mutant(nodes=3, lease_reads=True, kinds=("bridge", "kill", "mend"))
def a_restarted_node_votes_at_once_under_leases(patch: Patch) -> None:
    """A voter forgets at its restart that it confirmed a leader whose lease still runs (dissertation 6.4.1)."""
    holds = Stickiness.holds

    def forget(self: Stickiness, now: float, *, timeout: float, lease_reads: bool) -> bool:
        self.no_vote_before = 0.0
        return holds(self, now, timeout=timeout, lease_reads=lease_reads)

    patch.setattr(Stickiness, "holds", forget)


@mutant(
    nodes=3,
    lease_reads=True,
    kinds=("bridge", "break_link", "isolate_leader", "mend"),
    conditions=Conditions(hostile=0.01, spares=2),
)
def a_broken_connection_frees_the_vote_under_leases(patch: Patch) -> None:
    """A lost connection is taken for a lost leader, though its lease still runs (dissertation 6.4.1)."""
    holds = Stickiness.holds

    def free(self: Stickiness, now: float, *, timeout: float, lease_reads: bool) -> bool:
        return holds(self, now, timeout=timeout, lease_reads=False)

    def make(receive: Callable[..., None]) -> Callable[..., None]:
        def lost(self: ElectionActor, message: PeerDown, sender: Any) -> None:
            receive(self, message, sender)
            if message.node == self.leader:
                self.disconnected, self.stickiness.follows = True, False

        return lost

    patch.setattr(Stickiness, "holds", free)
    patch.handler(ElectionActor, PeerDown, make)
