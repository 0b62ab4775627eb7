"""Mutants of reads: confirming the leader, waiting for the read index, and the length of a lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from forge_consensus.actors.messages import AppendReply
from forge_consensus.actors.notices import ReadIndex, ReadReady
from forge_consensus.actors.raft.leadership import Effect, Leadership
from forge_consensus.actors.raft.reads import ReadConfirmed
from forge_consensus.actors.raft.waiting import PendingRead, WaitingRequests
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.config.raft import RaftSettings
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant

CUT_OFF = ("isolate_leader", "mend", "stun_leader")
LEASES = {"nodes": 3, "lease_reads": True, "kinds": ("stun_leader", "mend")}


@mutant(nodes=3, kinds=CUT_OFF)
def reads_wait_for_nobody(patch: Patch) -> None:
    """A leader answers reads without asking whether it still leads (etcd and Consul in 2014)."""

    def read(self: Leadership, asked: ReadIndex, boottime_ns: int) -> Sequence[Effect]:
        return [ReadReady(asked.ticket, max(self.ledger.commit_index, self.noop))]

    patch.setattr(Leadership, "read", read)


@mutant(nodes=3, kinds=CUT_OFF)
def a_read_is_confirmed_by_a_round_before_it(patch: Patch) -> None:
    """A round of heartbeats that began before the read confirms it (dissertation 6.4)."""
    plain = Leadership.read

    def read(self: Leadership, asked: ReadIndex, boottime_ns: int) -> Sequence[Effect]:
        effects = [*plain(self, asked, boottime_ns)]
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

    def early_read(self: Leadership, asked: ReadIndex, boottime_ns: int) -> Sequence[Effect]:
        noop, self.noop = self.noop, 0
        effects = read(self, asked, boottime_ns)
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
