"""The faults that the ten probes look for: the behaviour of PySyncObj there, put into our code on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forge_consensus.actors.election import ElectionActor
from forge_consensus.actors.messages import AppendReply, InstallSnapshot, VoteReply
from forge_consensus.actors.notices import ApplyCommitted
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.actors.runtime.gate import Gate
from forge_consensus.actors.snapshot import SnapshotActor
from forge_consensus.storage.backends import lmdb as lmdb_tables
from forge_consensus.storage.backends import lmdb_environment
from forge_consensus.storage.ledger import applying, log
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.machines.machine import Entry, Machine, Outcome, outcome_of

Patch = pytest.MonkeyPatch


def the_vote_is_not_on_disk(patch: Patch) -> None:
    reload = Ledger.reload

    def forget(self: Ledger) -> None:
        reload(self)
        self.vote = ""

    patch.setattr(Ledger, "reload", forget)


def the_term_is_not_on_disk(patch: Patch) -> None:
    reload = Ledger.reload

    def forget(self: Ledger) -> None:
        reload(self)
        self.term, self.vote = self.log.last_term, ""

    patch.setattr(Ledger, "reload", forget)


def every_vote_reply_counts(patch: Patch) -> None:
    def count(self: ElectionActor, message: VoteReply, sender: Any) -> None:
        if str(self.role) == "candidate" and sender.node in self.ledger.configuration.voters:
            self.votes.add(f"{sender.node} {len(self.votes)}")
            if 2 * len(self.votes) > len(self.ledger.configuration.voters):
                self.win()

    patch.setitem(ElectionActor.handlers, VoteReply, count)


def whoever_votes_counts(patch: Patch) -> None:
    def count(self: ElectionActor, message: VoteReply, sender: Any) -> None:
        if str(self.role) == "candidate":
            self.votes.add(sender.node)
            if 2 * len(self.votes) > len(self.ledger.configuration.voters):
                self.win()

    patch.setitem(ElectionActor.handlers, VoteReply, count)


def what_follows_an_append_is_cut_off(patch: Patch) -> None:
    accept = Ledger.accept

    def cut(self: Ledger, term: int, prev_index: int, prev_term: int, records: Any) -> Any:
        if self.log.last > prev_index:
            self.log.truncate(prev_index + 1)
        return accept(self, term, prev_index, prev_term, records)

    patch.setattr(Ledger, "accept", cut)


def a_chunk_commits_up_to_its_snapshot(patch: Patch) -> None:
    receive = SnapshotActor.handlers[InstallSnapshot]

    def trust(self: SnapshotActor, message: InstallSnapshot, sender: Any) -> None:
        receive(self, message, sender)
        if self.ledger.commit_following(message.term, message.index):
            self.context.next_turn(self.context.actor("replication"), ApplyCommitted())

    patch.setitem(SnapshotActor.handlers, InstallSnapshot, trust)


def an_acknowledgement_counts_whatever_its_term(patch: Patch) -> None:
    check = Gate.is_of_our_term

    def lenient(self: Gate, message: Any, sender: Any) -> bool:
        return isinstance(message, AppendReply) or check(self, message, sender)

    def trust(self: ReplicationActor, message: AppendReply, sender: Any) -> None:
        leading = self.current()
        if leading is not None:
            self.carry_out(leading, leading.answered(sender.node, message, sender.sent, self.clock.before()))

    patch.setattr(Gate, "is_of_our_term", lenient)
    patch.setitem(ReplicationActor.handlers, AppendReply, trust)


def what_a_command_raises_is_the_nodes_own_fault(patch: Patch) -> None:
    def apply_one(machine: Machine, entry: Entry) -> Outcome:
        return outcome_of(machine.apply(entry), entry.index)

    patch.setattr(applying, "apply_one", apply_one)


def the_file_does_not_grow(patch: Patch) -> None:
    open_environment = lmdb_environment.open_environment

    def small(path: Any, map_bytes: int, *, readonly: bool) -> Any:
        return open_environment(path, 1 << 19, readonly=readonly)

    patch.setattr(lmdb_tables, "open_environment", small)
    patch.setattr(Ledger, "check_space", lambda self, extra_bytes: None)


def no_checksum_is_compared(patch: Patch) -> None:
    patch.setattr(log, "intact", lambda index, record: True)


FAULTS: dict[str, Callable[[Patch], None]] = {
    "P1": the_vote_is_not_on_disk,
    "P2": the_term_is_not_on_disk,
    "P3": every_vote_reply_counts,
    "P3b": whoever_votes_counts,
    "P4": what_follows_an_append_is_cut_off,
    "P5": a_chunk_commits_up_to_its_snapshot,
    "P6": an_acknowledgement_counts_whatever_its_term,
    "P7": what_a_command_raises_is_the_nodes_own_fault,
    "P8": the_file_does_not_grow,
    "P9": no_checksum_is_compared,
}
