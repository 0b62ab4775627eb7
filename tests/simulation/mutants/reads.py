"""Mutants of reads: what confirms a leader, from which index on it may answer, and how long a lease holds."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.gateway import GatewayActor
from forge_consensus.actors.messages import AppendReply
from forge_consensus.actors.notices import ReadIndex, ReadReady
from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.config.raft import RaftSettings
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant

CUT_OFF = ("isolate_leader", "mend", "stun_leader")
LEASES = {"nodes": 3, "lease_reads": True, "kinds": ("stun_leader", "mend")}


@mutant(nodes=3, kinds=CUT_OFF)
def reads_wait_for_nobody(patch: Patch) -> None:
    """A leader answers reads without asking whether it still leads (etcd and Consul in 2014)."""

    def read(self: Leadership, asked: ReadIndex, asker: Any) -> None:
        index = max(self.actor.ledger.commit_index, self.noop)
        self.actor.send(asker, ReadReady(asked.ticket, index))

    patch.setattr(Leadership, "read", read)


@mutant(nodes=3, kinds=CUT_OFF)
def a_read_is_confirmed_by_a_round_before_it(patch: Patch) -> None:
    """A round of heartbeats that began before the read confirms it (dissertation 6.4)."""
    plain = Leadership.read

    def read(self: Leadership, asked: ReadIndex, asker: Any) -> None:
        plain(self, asked, asker)
        if self.reads and self.reads[-1].ticket == asked.ticket:
            self.reads[-1].round -= 1
            self.answer_reads()

    patch.setattr(Leadership, "read", read)


@mutant()
def a_new_leader_reads_before_its_no_op(patch: Patch) -> None:
    """A new leader answers from the commit index that it knew as a follower (atomix/copycat)."""
    read, answer_reads = Leadership.read, Leadership.answer_reads

    def early_read(self: Leadership, asked: ReadIndex, asker: Any) -> None:
        noop, self.noop = self.noop, 0
        read(self, asked, asker)
        self.noop = noop

    def early_answer(self: Leadership) -> None:
        noop, self.noop = self.noop, 0
        answer_reads(self)
        self.noop = noop

    patch.setattr(Leadership, "read", early_read)
    patch.setattr(Leadership, "answer_reads", early_answer)


@mutant(nodes=1, clients=8, pace=1.0, raft=RaftSettings(apply_entries_max=1))
def a_read_does_not_wait_until_its_index_is_applied(patch: Patch) -> None:
    """A read is answered as soon as the leader is confirmed, from a state that lags (dissertation 6.4)."""
    answer_questions = GatewayActor.answer_questions

    def hasty(self: GatewayActor) -> None:
        for question in self.answerable:
            question.index = 0
        answer_questions(self)

    patch.setattr(GatewayActor, "answer_questions", hasty)


@mutant(**LEASES)
def a_lease_has_no_end(patch: Patch) -> None:
    """A leader that was ever confirmed answers under its lease for good."""
    patch.setattr(Leadership, "lease_holds", lambda self: self.actor.ledger.configuration.lease_reads)


@mutant(**LEASES)
def a_lease_stands_still_with_its_process(patch: Patch) -> None:
    """A lease is measured by a clock that does not run while the process is stopped."""
    lease_holds = Leadership.lease_holds

    def holds(self: Leadership) -> bool:
        clock: Any = self.actor.clock
        boottime_ns = clock.boottime_ns
        clock.boottime_ns = lambda: int(clock.now() * 1e9)
        try:
            return lease_holds(self)
        finally:
            clock.boottime_ns = boottime_ns

    patch.setattr(Leadership, "lease_holds", holds)


@mutant(nodes=3, lease_reads=True, pace=1.0, kinds=("stun_leader", "mend", "change_weather"))
def a_lease_counts_from_the_answer(patch: Patch) -> None:
    """A lease begins when a follower's answer arrives, not when it was asked (the consul note on leases)."""
    answered = Leadership.answered

    def late(self: Leadership, sender: Any, reply: AppendReply) -> bool:
        sender.sent = self.actor.clock.boottime_ns()
        return answered(self, sender, reply)

    patch.setattr(Leadership, "answered", late)


@mutant(**LEASES)
def a_lease_counts_from_its_leader_alone(patch: Patch) -> None:
    """One follower's answer renews the lease, where a majority's is needed."""

    def holds(self: Leadership) -> bool:
        if not self.actor.ledger.configuration.lease_reads:
            return False
        newest = max(progress.acked_sent for progress in self.progress.values())
        return self.actor.clock.boottime_ns() < newest + int(2e9 * self.actor.options.election_timeout_max)

    patch.setattr(Leadership, "lease_holds", holds)
