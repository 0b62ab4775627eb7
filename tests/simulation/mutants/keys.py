"""Mutants of keys on leases, revisions, transactions, and of the history that watches are told from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from forge_consensus.actors.raft.expiry import Expiry
from forge_consensus.client.change_cursor import ChangeCursor
from forge_consensus.storage.backends.tables import Batch, Tables
from forge_consensus.storage.ledger.log_time import LogTime
from forge_consensus.storage.machines import kv, kv_batches, kv_draft, kv_history, kv_rows, kv_state, kv_tables
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_batches import COMMANDS
from forge_consensus.storage.machines.kv_commands import OPERATIONS, Operation
from forge_consensus.storage.machines.kv_draft import Draft
from forge_consensus.storage.machines.kv_history import Change, ChangesQuery, History
from forge_consensus.storage.machines.kv_state import KeyValueState
from forge_consensus.storage.machines.kv_watches import Watch
from forge_consensus.storage.machines.leases import LEASES, LeaseRow, Leases
from forge_consensus.storage.machines.machine import Entry
from forge_consensus.testing.simulator.conditions import Conditions
from forge_consensus.testing.world.timeline import WALL_MS
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant

LEASED = {"own_machine": False, "conditions": Conditions(leases=True)}
RESTARTS = {**LEASED, "kinds": ("kill", "snapshot")}
SNAPSHOTS = {**LEASED, "nodes": 3, "kinds": ("kill", "snapshot", "isolate", "mend")}


@mutant(**RESTARTS)
def a_checkpoint_forgets_that_a_lease_was_kept_alive(patch: Patch) -> None:
    """Only a lease that was granted since is written, so after a restart it ends as if nobody had kept it alive."""
    keep_alive = Leases.keep_alive

    def unwritten(self: Leases, lease: Any) -> int:
        before = set(self.changed)
        ttl_ms = keep_alive(self, lease)
        self.changed &= before
        return ttl_ms

    patch.setattr(Leases, "keep_alive", unwritten)


@mutant(**LEASED)
def a_lease_ends_a_little_before_its_time(patch: Patch) -> None:
    """An entry removes what is due up to 20 ms after its own time."""
    expire = KeyValueMachine.expire
    patch.setattr(KeyValueMachine, "expire", lambda self, index, now_ms: expire(self, index, now_ms + 20))


@mutant(**LEASED)
def leases_end_by_the_wall_time(patch: Patch) -> None:
    """What is due is decided by the wall time of entries, which jumps with the clocks of the members."""
    apply = KeyValueMachine.apply

    def by_wall(self: KeyValueMachine, entry: Entry) -> Any:
        return apply(self, replace(entry, elapsed_ms=max(self.leases.now_ms, entry.time_ms - WALL_MS)))

    patch.setattr(KeyValueMachine, "apply", by_wall)


@mutant(**LEASED, kinds=("crash_leader_in_turn", "isolate_leader", "mend"))
def the_elapsed_time_jumps_when_another_node_leads(patch: Patch) -> None:
    """A new leader begins half a second ahead, so that leases end early on all nodes alike."""
    begin = LogTime.begin
    patch.setattr(LogTime, "begin", lambda self, now, elapsed_ms, wall_ms: begin(self, now, elapsed_ms + 500, wall_ms))


@mutant(**LEASED)
def nobody_is_told_of_keys_that_expire(patch: Patch) -> None:
    """A key that goes with its lease is no change in the history."""

    def silent(self: KeyValueMachine, index: int, now_ms: int) -> None:
        for _, keys in self.leases.take_due(now_ms):
            for key in keys:
                self.replace(key, None)

    patch.setattr(KeyValueMachine, "expire", silent)


@mutant(**LEASED)
def a_key_that_is_written_again_counts_as_created_anew(patch: Patch) -> None:
    """Each write makes the key, whether or not it existed."""
    row_after = kv_rows.row_after

    def anew(below: bytes | None, index: int, lease: int, value: bytes) -> bytes:
        return row_after(None, index, lease, value)

    for module in (kv, kv_draft):
        patch.setattr(module, "row_after", anew)


@mutant(**RESTARTS)
def a_checkpoint_takes_every_open_row_for_a_new_key(patch: Patch) -> None:
    """The row that a plain set leaves open is closed without a look at what is on disk."""
    patch.setattr(KeyValueState, "stored_births", lambda self, keys: [None] * len(keys))


@mutant(**RESTARTS)
def a_start_forgets_which_keys_hang_on_a_lease(patch: Patch) -> None:
    """The rows of the keys on leases are not read, so a lease that ends after a restart takes none with it."""
    load = Leases.load

    def bare(self: Leases, rows: Iterable[LeaseRow], *, stored: bool) -> None:
        load(self, [row for row in rows if row[1]], stored=stored)

    patch.setattr(Leases, "load", bare)


@mutant(**SNAPSHOTS)
def a_snapshot_has_no_leases(patch: Patch) -> None:
    """A node that gets its state from a snapshot knows no lease."""
    stored_rows = kv_tables.stored_rows
    patch.setattr(kv_state, "stored_rows", lambda chunk: [row for row in stored_rows(chunk) if row[0][:1] != LEASES])


@mutant(**LEASED)
def a_transaction_compares_after_it_has_written(patch: Patch) -> None:
    """The comparisons see what `then` has written; if they do not hold that is taken back."""
    operation = COMMANDS["transaction"]

    def late(draft: Draft, payload: dict[str, Any]) -> dict[str, Any]:
        draft.whole, draft.left = "transaction", 1 << 20
        results = kv_batches.results_of(draft, payload["then"])
        holds = all(kv_batches.holds(draft, compare) for compare in payload["if"])
        if not holds:
            draft.leases.roll_back()
            draft.writes.clear()
            draft.gone.clear()
            results = kv_batches.results_of(draft, payload.get("else", []))
        return {"succeeded": holds, "results": results}

    patch.setitem(COMMANDS, "transaction", Operation(late, operation.fields, operation.optional))


@mutant(**LEASED)
def an_increment_takes_the_key_off_its_lease(patch: Patch) -> None:
    """A counter on a lease is without one as soon as it counts."""
    for table in (COMMANDS, OPERATIONS):
        operation = table["increment"]

        def off(draft: Draft, payload: dict[str, Any], run: Any = operation.run) -> Any:
            total = run(draft, payload)
            draft.put(payload["key"], draft.pack(total), 0)
            return total

        patch.setitem(table, "increment", Operation(off, operation.fields, operation.optional))


@mutant(**LEASED)
def a_lease_that_is_revoked_leaves_keys_of_earlier_checkpoints(patch: Patch) -> None:
    """Only the keys that were written since the last checkpoint go with it."""
    forget = Draft.forget

    def fresh_only(self: Draft, key: str, lease: int) -> None:
        if self.state.fresh_row(key) or key in self.writes:
            forget(self, key, lease)

    patch.setattr(Draft, "forget", fresh_only)


@mutant(**LEASED)
def a_command_that_fails_keeps_its_leases(patch: Patch) -> None:
    """What a batch did to leases before one of its ops failed stays."""
    patch.setattr(Leases, "roll_back", Leases.settle)


@mutant(**LEASED)
def a_key_whose_time_to_live_is_replaced_dies_with_the_first_one(patch: Patch) -> None:
    """A key that is written again stays on the lease that was made for it."""
    move = Leases.move

    def stays(self: Leases, key: str, lease: int) -> None:
        old = self.live.get(self.of_key.get(key, 0))
        if old is None or old.own is None:
            move(self, key, lease)

    patch.setattr(Leases, "move", stays)


@mutant(**LEASED)
def a_node_tells_changes_that_it_has_not_applied(patch: Patch) -> None:
    """An answer counts as complete for two entries more than the node has applied, as if a node that lags did not."""
    found_changes = kv_history.found_changes

    def ahead(history: History, query: ChangesQuery) -> tuple[list[Change], int]:
        found, following = found_changes(history, query)
        return found, following + 2 * (following > history.last)

    patch.setattr(kv_history, "found_changes", ahead)


@mutant(**SNAPSHOTS)
def a_snapshot_leaves_a_hole_in_the_history(patch: Patch) -> None:
    """A node that gets another state keeps the history before it, without what lies between the two."""
    bind = KeyValueState.bind

    def keeps(self: KeyValueState, tables: Tables, generation: int, index: int = 0, elapsed_ms: int = 0) -> None:
        history, first = self.history, self.tables is None
        bind(self, tables, generation, index, elapsed_ms)
        if not first:
            self.history = history

    patch.setattr(KeyValueState, "bind", keeps)


@mutant(**RESTARTS)
def each_checkpoint_begins_the_history_anew(patch: Patch) -> None:
    """The changes before a checkpoint are forgotten, so whoever watches has to begin anew again and again."""
    checkpoint = KeyValueState.checkpoint

    def forget(self: KeyValueState, batch: Batch) -> None:
        checkpoint(self, batch)
        self.history.forget_until(self.history.last)

    patch.setattr(KeyValueMachine, "checkpoint", forget)


@mutant(**RESTARTS)
def the_history_forgets_when_a_key_was_created(patch: Patch) -> None:
    """What a checkpoint finds out about open rows is not noted, so earlier changes have a wrong `created`."""
    patch.setattr(History, "birth", lambda self, index, key: (True, None))


@mutant(**LEASED)
def a_watch_passes_over_an_entry(patch: Patch) -> None:
    """The client asks next for what comes behind the first entry that it was not told of."""
    take = ChangeCursor.take

    def over(self: ChangeCursor, answer: dict[str, Any], seconds: float) -> float:
        return take(self, {**answer, "next": answer["next"] + bool(answer["changes"])}, seconds)

    patch.setattr(ChangeCursor, "take", over)


@mutant(**LEASED)
def no_lease_ends_while_nobody_writes(patch: Patch) -> None:
    """A leader lets nothing into the log for the leases that are due."""
    patch.setattr(Expiry, "wait_seconds", lambda self, term: None)


@mutant(**LEASED, pace=1.0, nodes=3)
def a_leader_looks_late_for_leases_that_are_due(patch: Patch) -> None:
    """A leader waits for half a second more than it has to before it lets their end into the log."""
    due_ms = Expiry.due_ms

    def late(self: Expiry) -> int | None:
        found = due_ms(self)
        return None if found is None else found + 500

    patch.setattr(Expiry, "due_ms", late)


@mutant(**LEASED)
def a_question_that_waits_is_answered_without_what_it_waited_for(patch: Patch) -> None:
    """A question that has waited begins behind the last change, and so does not tell it."""
    answer = Watch.answer

    def behind(self: Watch, *, over: bool) -> Any:
        history, _ = self.state()
        if vars(self).setdefault("asked", False):
            self.query.since = max(self.query.since, history.last + 1)
        vars(self)["asked"] = True
        return answer(self, over=over)

    patch.setattr(Watch, "answer", behind)
