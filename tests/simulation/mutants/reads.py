"""Mutants of reads: confirming the leader, waiting for the read index, and the length of a lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from forge_consensus.actors.gateway import GatewayActor
from forge_consensus.actors.messages import AppendReply, Read, ReadIndexReply
from forge_consensus.actors.notices import ReadIndex, ReadReady
from forge_consensus.actors.raft.forwarded_reads import ForwardedReads
from forge_consensus.actors.raft.leadership import Effect, Leadership
from forge_consensus.actors.raft.reads import ReadConfirmed, WaitingRead
from forge_consensus.actors.raft.waiting import PendingRead, WaitingRequests
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.config.raft import RaftSettings
from forge_consensus.testing.simulator.conditions import Conditions
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant

CUT_OFF = ("isolate_leader", "mend", "stun_leader")
FOLLOWERS = {"nodes": 3, "conditions": Conditions(reads=0.9), "kinds": (*CUT_OFF, "change_weather")}
LEASES = {"nodes": 3, "lease_reads": True, "kinds": ("stun_leader", "mend")}


@mutant(nodes=3, kinds=CUT_OFF)
def reads_wait_for_nobody(patch: Patch) -> None:
    """A leader answers reads without asking whether it still leads (etcd and Consul in 2014)."""

    def read(
        self: Leadership, asked: ReadIndex, boottime_ns: int, asker: SenderAddress | None = None
    ) -> Sequence[Effect]:
        return [WaitingRead(asked.ticket, 0, max(self.ledger.commit_index, self.noop), asker).ready]

    patch.setattr(Leadership, "read", read)


@mutant(nodes=3, kinds=CUT_OFF)
def a_read_is_confirmed_by_a_round_before_it(patch: Patch) -> None:
    """A round of heartbeats that began before the read confirms it (dissertation 6.4)."""
    plain = Leadership.read

    def read(
        self: Leadership, asked: ReadIndex, boottime_ns: int, asker: SenderAddress | None = None
    ) -> Sequence[Effect]:
        effects = [*plain(self, asked, boottime_ns, asker)]
        queue = self.reads.queue
        if queue and queue[-1].ticket == asked.ticket:
            queue[-1].round -= 1
            effects += self.answer_reads()
        return effects

    patch.setattr(Leadership, "read", read)


@mutant()
def a_new_leader_reads_before_its_no_op(patch: Patch) -> None:
    """A new leader answers from the commit index that it knew as a follower (atomix/copycat)."""
    read, answer_reads = Leadership.read, Leadership.answer_reads

    def early_read(
        self: Leadership, asked: ReadIndex, boottime_ns: int, asker: SenderAddress | None = None
    ) -> Sequence[Effect]:
        noop, self.noop = self.noop, 0
        effects = read(self, asked, boottime_ns, asker)
        self.noop = noop
        return effects

    def early_answer(self: Leadership) -> list[ReadReady | ReadConfirmed]:
        noop, self.noop = self.noop, 0
        ready = answer_reads(self)
        self.noop = noop
        return ready

    patch.setattr(Leadership, "read", early_read)
    patch.setattr(Leadership, "answer_reads", early_answer)


@mutant(nodes=1, clients=8, pace=1.0, raft=RaftSettings(apply_entries_max=1))
def a_read_does_not_wait_until_its_index_is_applied(patch: Patch) -> None:
    """A read is answered as soon as the leader is confirmed, from a state that lags (dissertation 6.4)."""
    take_readable = WaitingRequests.take_readable

    def hasty(self: WaitingRequests, applied: int) -> list[PendingRead]:
        for read in self.confirmed:
            read.index = 0
        return take_readable(self, applied)

    patch.setattr(WaitingRequests, "take_readable", hasty)


@mutant(**LEASES)
def a_lease_has_no_end(patch: Patch) -> None:
    """A leader that was ever confirmed answers under its lease for good."""
    patch.setattr(Leadership, "lease_holds", lambda self, boottime_ns: self.ledger.configuration.lease_reads)


@mutant(**LEASES)
def a_lease_stands_still_with_its_process(patch: Patch) -> None:
    """A lease is measured by a clock that does not run while the process is stopped."""

    def make(receive: Callable[..., None]) -> Callable[..., None]:
        def stopped(self: ReplicationActor, message: ReadIndex, sender: Any) -> None:
            clock: Any = self.clock
            boottime_ns = clock.boottime_ns
            clock.boottime_ns = lambda: int(clock.running() * 1e9)
            try:
                receive(self, message, sender)
            finally:
                clock.boottime_ns = boottime_ns

        return stopped

    patch.handler(ReplicationActor, ReadIndex, make)


@mutant(nodes=3, lease_reads=True, pace=1.0, kinds=("stun_leader", "mend", "change_weather"))
def a_lease_counts_from_the_answer(patch: Patch) -> None:
    """A lease begins when a follower's answer arrives, not when it was asked (the consul note on leases)."""

    def make(receive: Callable[..., None]) -> Callable[..., None]:
        def late(self: ReplicationActor, message: AppendReply, sender: Any) -> None:
            sender.sent = self.clock.boottime_ns()
            receive(self, message, sender)

        return late

    patch.handler(ReplicationActor, AppendReply, make)


@mutant(**LEASES)
def a_lease_counts_from_its_leader_alone(patch: Patch) -> None:
    """One follower's answer renews the lease, where a majority's is needed."""

    def holds(self: Leadership, boottime_ns: int) -> bool:
        if not self.ledger.configuration.lease_reads:
            return False
        newest = max(progress.acked_sent for progress in self.progress.values())
        return boottime_ns < newest + int(2e9 * self.settings.election_timeout_max)

    patch.setattr(Leadership, "lease_holds", holds)


# --- on nodes that do not lead ----------------------------------------------------------------------------------------


@mutant(nodes=5, conditions=Conditions(reads=0.9), kinds=("split", "mend"))
def a_question_is_answered_without_a_round(patch: Patch) -> None:
    """A leader names the read index to a follower without asking whether it still leads."""
    plain = Leadership.read

    def read(
        self: Leadership, asked: ReadIndex, boottime_ns: int, asker: SenderAddress | None = None
    ) -> Sequence[Effect]:
        if asker is None:
            return plain(self, asked, boottime_ns)
        return [ReadConfirmed(asker, asked.ticket, max(self.ledger.commit_index, self.noop))]

    patch.setattr(Leadership, "read", read)


@mutant(**FOLLOWERS)
def a_question_is_answered_before_the_no_op(patch: Patch) -> None:
    """A new leader names the commit index to a follower that it knew as a follower itself."""
    plain = Leadership.read

    def read(
        self: Leadership, asked: ReadIndex, boottime_ns: int, asker: SenderAddress | None = None
    ) -> Sequence[Effect]:
        if asker is None or self.ledger.commit_index >= self.noop:
            return plain(self, asked, boottime_ns, asker)
        return [ReadConfirmed(asker, asked.ticket, self.ledger.commit_index)]

    patch.setattr(Leadership, "read", read)


@mutant(**FOLLOWERS)
def a_follower_answers_before_it_has_applied_the_index(patch: Patch) -> None:
    """A follower answers as soon as the leader has named the index, from a state that lags."""

    def answered(self: ForwardedReads, node: str, reply: ReadIndexReply) -> list[ReadReady]:
        return [ReadReady(ready.ticket, 0) for ready in plain(self, node, reply)]

    plain = ForwardedReads.answered
    patch.setattr(ForwardedReads, "answered", answered)


@mutant(**FOLLOWERS)
def a_read_joins_the_question_that_is_under_way(patch: Patch) -> None:
    """A read that comes while the leader is asked is answered with the rest, so by an index from before it."""
    plain = ForwardedReads.add

    def add(self: ForwardedReads, asked: ReadIndex, now: float) -> None:
        plain(self, asked, now)
        if self.round is not None:
            self.round.reads += self.waiting
            self.waiting = []

    patch.setattr(ForwardedReads, "add", add)


@mutant(**FOLLOWERS)
def a_late_answer_confirms_a_later_question(patch: Patch) -> None:
    """An answer of the leader counts whichever question it answers, also one of an earlier round."""
    plain = ForwardedReads.answered

    def answered(self: ForwardedReads, node: str, reply: ReadIndexReply) -> list[ReadReady]:
        if self.round is not None and reply.index:
            reply = replace(reply, number=self.round.number)
        return plain(self, node, reply)

    patch.setattr(ForwardedReads, "answered", answered)


@mutant(**FOLLOWERS)
def a_token_is_not_waited_for(patch: Patch) -> None:
    """A node answers a read that names an entry although it has not applied that entry."""

    def make(receive: Callable[..., None]) -> Callable[..., None]:
        def hasty(self: GatewayActor, message: Read, sender: Any) -> None:
            receive(self, replace(message, after_index=0), sender)

        return hasty

    patch.handler(GatewayActor, Read, make)


@mutant(**FOLLOWERS)
def a_bound_is_kept_by_who_hears_a_leader(patch: Patch) -> None:
    """The age of a state is taken from the last contact with a leader, not from what the state covers."""

    def staleness_ms(self: GatewayActor) -> int:
        heard = self.shared.leader_heard_at
        return 0 if heard is None else int(self.clock.boottime_ns() / 1e6 - heard * 1000)

    patch.setattr(GatewayActor, "staleness_ms", staleness_ms)
