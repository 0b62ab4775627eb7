"""Mutants of the list of access that is in the log: what it loses, what it lets come back, and who else sees it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forge_consensus.security import access_changes
from forge_consensus.security.access import AccessList
from forge_consensus.storage.backends.tables import Batch, TablesView
from forge_consensus.storage.ledger import access, applying
from forge_consensus.storage.ledger.access import LoggedAccess
from forge_consensus.storage.ledger.applying import Applier, Point
from forge_consensus.storage.ledger.skips import Skips
from forge_consensus.storage.machines.machine import Command, Entry, Outcome, apply_one
from forge_consensus.storage.snapshots import export, store
from forge_consensus.testing.simulator.conditions import Conditions
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant
from tests.simulation.mutants.snapshots import OFTEN

LISTED = {"conditions": Conditions(access=True)}
RESTARTS = {**LISTED, "own_machine": False, "kinds": ("kill",)}
SNAPSHOTS = {**LISTED, "nodes": 3, "storage": OFTEN, "kinds": ("isolate", "mend", "snapshot")}


@mutant(**SNAPSHOTS)
def a_snapshot_has_no_list_of_access(patch: Patch) -> None:
    """The header of a snapshot leaves the list out, so a node that takes it over knows nobody."""
    header_of = applying.header_of

    def bare(point: Point, sessions: list[bytes], skips: Skips) -> dict[str, Any]:
        return header_of(replace(point, access=b""), sessions, skips)

    for module in (store, export):
        patch.setattr(module, "header_of", bare)


@mutant(**RESTARTS)
def a_checkpoint_leaves_the_list_of_access_out(patch: Patch) -> None:
    """The applied index moves to disk without the changes of the list, which no restart then makes again."""
    put_point = applying.put_point

    def bare(batch: Batch, generation: int, point: Point, *, access: bool = True) -> None:
        put_point(batch, generation, point, access=False)

    patch.setattr(applying, "put_point", bare)


@mutant(**RESTARTS)
def a_start_does_not_read_the_list_of_access(patch: Patch) -> None:
    """The list is on disk, and a process begins with an empty one."""

    def unread(tables: TablesView) -> bytes:
        return b""

    patch.setattr(applying, "stored_access", unread)


@mutant(**LISTED)
def the_machine_sees_changes_of_the_list_too(patch: Patch) -> None:
    """A change is applied to the list, and then handed to the state machine like any command."""
    apply = Applier.apply_command

    def both(self: Applier, index: int, term: int, data: bytes) -> Outcome:
        outcome = apply(self, index, term, data)
        command = Command.decode(data) if outcome.code == "" else None
        if command is not None and command.type == access_changes.RESERVED:
            apply_one(self.machine, Entry(index, term, self.time_ms, command, self.elapsed_ms))
        return outcome

    patch.setattr(Applier, "apply_command", both)
    patch.setattr(Applier, "apply_in_runs", Applier.apply_each)


@mutant(**LISTED)
def a_revoked_key_comes_back(patch: Patch) -> None:
    """A principal that is given a key is admitted by it, also if that was revoked."""

    def forgiving(before: AccessList, principal: Any, revoked: Any) -> AccessList:
        others = (one for one in before.by_name.values() if one.name != principal.name)
        return access_changes.in_order([*others, principal], set(revoked) - set(principal.keys))

    patch.setattr(access_changes, "with_principal", forgiving)


@mutant(**RESTARTS)
def a_restart_forgets_what_was_revoked(patch: Patch) -> None:
    """The list that is read from the disk has its principals, and not what was revoked."""
    take = LoggedAccess.take

    def forgetful(self: LoggedAccess, row: bytes) -> None:
        take(self, row)
        if self.current.revoked:
            self.current = AccessList(self.current.by_name.values())
            self.row = access.row_of(self.current, self.index)

    patch.setattr(LoggedAccess, "take", forgetful)
