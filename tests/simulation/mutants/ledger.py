"""Mutants of the ledger: late, partial and missing writes, and incomplete rollbacks."""

from __future__ import annotations

from typing import Any, cast

import msgpack

from forge_consensus.errors import StorageError
from forge_consensus.storage.backends.tables import Batch, DeleteRange
from forge_consensus.storage.ledger.applying import Applier
from forge_consensus.storage.ledger.ledger import HARD, Ledger
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.numbers import EventNumbers
from forge_consensus.storage.ledger.transaction import Transaction
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.sessions import Sessions
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant


def rewrite_hard_state(patch: Patch, change: Any) -> None:
    """Have term, vote, commit index and last index written to disk otherwise than they are."""
    put_meta = Transaction.put_meta

    def put(self: Transaction, key: bytes, value: bytes) -> None:
        if key == HARD:
            value = cast("bytes", msgpack.packb(change(*msgpack.unpackb(value))))
        put_meta(self, key, value)

    patch.setattr(Transaction, "put_meta", put)


@mutant()
def the_vote_is_not_stored(patch: Patch) -> None:
    """A restart forgets the vote (PySyncObj up to 0.3.14; its probe P1)."""
    rewrite_hard_state(patch, lambda term, vote, commit, last: (term, "", commit, last))


@mutant()
def the_term_is_not_stored(patch: Patch) -> None:
    """A restart goes back to an earlier term (PySyncObj up to 0.3.14; its probe P2)."""
    rewrite_hard_state(patch, lambda term, vote, commit, last: (max(0, term - 1), vote, commit, last))


@mutant()
def a_turn_is_two_transactions(patch: Patch) -> None:
    """Entries are flushed first and term, vote and the rest after them, so a crash comes between."""
    commit = Ledger.commit

    def twice(self: Ledger) -> bool:
        tables: Any = self.tables
        whole = tables.commit

        def halves(batch: Batch) -> None:
            entries, rest = Batch(), Batch()
            for operation in batch.operations:
                (entries if operation.table == "log" else rest).operations.append(operation)
            for half in (entries, rest):
                if half.operations:
                    whole(half)

        tables.commit = halves
        try:
            return commit(self)
        finally:
            del tables.commit

    patch.setattr(Ledger, "commit", twice)


@mutant()
def a_failed_commit_is_overlooked(patch: Patch) -> None:
    """A node whose flush failed goes on as if it had not (I16; a second fsync that succeeds says nothing)."""
    commit = Ledger.commit

    def careless(self: Ledger) -> bool:
        try:
            return commit(self)
        except StorageError:
            self.hard_on_disk = (self.term, self.vote, self.commit_index, self.log.last)
            self.log.committed()
            return True

    patch.setattr(Ledger, "commit", careless)


@mutant(nodes=3, clients=8, pace=1.0, kinds=("isolate_leader", "fail_turn", "mend", "kill"))
def state_moves_before_its_entries_are_durable(patch: Patch) -> None:
    """What is committed is applied in the turn that appends it, and stays when that turn is taken back (I8)."""
    apply = Ledger.apply

    def hasty(self: Ledger, count_max: int) -> Any:
        self.appliable = self.log.last
        return apply(self, count_max)

    patch.setattr(Ledger, "apply", hasty)
    patch.setattr(Ledger, "more_to_apply", property(lambda self: self.applier.index < self.commit_index))


@mutant()
def a_restart_takes_the_whole_log_for_committed(patch: Patch) -> None:
    """A node that starts, or takes a turn back, believes all entries that it has to be committed."""
    reload = Ledger.reload

    def believe(self: Ledger) -> None:
        reload(self)
        self.commit_index = self.log.last

    patch.setattr(Ledger, "reload", believe)


@mutant()
def a_rollback_keeps_the_tail_in_memory(patch: Patch) -> None:
    """Entries of a turn that was taken back are still in the log's cache."""

    def reload(self: Log, base_index: int, base_term: int, last: int) -> None:
        tail, tail_base, tail_bytes = self.tail, self.tail_base, self.tail_bytes
        plain(self, base_index, base_term, last)
        if tail:
            self.tail, self.tail_base, self.tail_bytes = tail, tail_base, tail_bytes

    plain = Log.reload
    patch.setattr(Log, "reload", reload)


@mutant()
def a_rollback_keeps_the_end_of_the_log(patch: Patch) -> None:
    """Entries of a turn that was taken back are still there, and count as durable."""

    def rollback(self: Ledger) -> None:
        log = self.log
        kept = (log.tail, log.tail_base, log.tail_bytes, log.last)
        plain(self)
        log.tail, log.tail_base, log.tail_bytes, log.last = kept
        log.durable = log.disk_last = log.last

    plain = Ledger.rollback
    patch.setattr(Ledger, "rollback", rollback)


@mutant()
def a_rollback_keeps_the_vote(patch: Patch) -> None:
    """Term and vote of a turn that was taken back are still in memory, and are never written."""

    def rollback(self: Ledger) -> None:
        kept = (self.term, self.vote)
        plain(self)
        self.term, self.vote = kept
        self.hard_on_disk = (*kept, *self.hard_on_disk[2:])

    plain = Ledger.rollback
    patch.setattr(Ledger, "rollback", rollback)


@mutant()
def truncated_entries_stay_on_disk(patch: Patch) -> None:
    """A conflict is taken out of memory and not out of the table."""
    stage = Log.stage

    def keep(self: Log, batch: Batch) -> bool:
        wrote = stage(self, batch)
        cut = [row for row in batch.operations if isinstance(row, DeleteRange) and row.table == "log"]
        for row in cut:
            if row.stop is None:
                batch.operations.remove(row)
        return wrote

    patch.setattr(Log, "stage", keep)


# --- applied index and state ------------------------------------------------------------------------------------------


@mutant(own_machine=False)
def a_checkpoint_moves_the_state_and_not_its_index(patch: Patch) -> None:
    """Applied index and state are not one transaction, so a restart applies again (etcd #13766)."""
    checkpoint = Applier.checkpoint

    def apart(self: Applier, batch: Batch, configuration: bytes) -> None:
        index, term = self.index, self.term
        checkpoint_only_state(self, batch, configuration)
        self.index, self.term = index, term

    def checkpoint_only_state(self: Applier, batch: Batch, configuration: bytes) -> None:
        whole = Batch()
        checkpoint(self, whole, configuration)
        batch.operations += [row for row in whole.operations if row.table != "meta"]

    patch.setattr(Applier, "checkpoint", apart)


@mutant(own_machine=False)
def a_checkpoint_moves_the_index_and_not_the_state(patch: Patch) -> None:
    """The applied index is written before the state that it stands for, so a restart skips commands."""
    patch.setattr(KeyValueMachine, "checkpoint", lambda self, batch: None)


@mutant(own_machine=False)
def sessions_are_no_part_of_a_checkpoint(patch: Patch) -> None:
    """State and applied index are written without the sessions, so a restart knows none."""
    patch.setattr(Sessions, "checkpoint", lambda self, batch, generation: None)


@mutant()
def a_checkpoint_is_due_in_the_turn_that_switches_to_a_snapshot(patch: Patch) -> None:
    """It wrote the old generation's applied index over the installed one (found by reading, fixed by another hand)."""

    def due(self: Ledger) -> bool:
        applier = self.applier
        replacing, applier.replacing = applier.replacing, False
        try:
            return bool(checkpoint_due(self)) or (replacing and applier.ledger_machine is not None)
        finally:
            applier.replacing = replacing

    checkpoint_due = vars(Ledger)["checkpoint_due"].fget
    patch.setattr(Ledger, "checkpoint_due", property(due))


# --- events -----------------------------------------------------------------------------------------------------------


@mutant()
def event_numbers_are_used_again_after_a_crash(patch: Patch) -> None:
    """A start goes on behind the last event on disk, though later ones were told already."""

    def load(self: EventNumbers) -> None:
        plain(self)
        newest = self.tables.last("events")
        self.sequence = int.from_bytes(newest[0]) if newest else 0

    plain = EventNumbers.load
    patch.setattr(EventNumbers, "load", load)
