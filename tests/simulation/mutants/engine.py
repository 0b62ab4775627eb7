"""Mutants of the turn and the disk: frames sent too early, incomplete rollbacks, writes lost in a crash."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forge_consensus.actors.runtime.address import Address
from forge_consensus.actors.runtime.engine import Engine
from forge_consensus.actors.runtime.outbox import Outbox
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.testing.world.base import SimulatedBase, WatchedEngine
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant
from tests.simulation.mutants.snapshots import OFTEN


@mutant()
def answers_leave_before_the_commit(patch: Patch) -> None:
    """Votes, acknowledgements and results are sent before they are flushed (PySyncObj #84)."""
    patch.setattr(Outbox, "send_early", lambda self: self.send())


@mutant()
def a_crash_takes_the_last_commit_with_it(patch: Patch) -> None:
    """The flush is skipped: what the last transaction wrote is gone when the process ends (PySyncObj #84)."""
    execute, end = MemoryTables.execute, SimulatedBase.end

    def remember(self: MemoryTables, batch: Batch) -> None:
        vars(self)["before"] = {name: table.copy() for name, table in self.tables.items()}
        execute(self, batch)

    def lose(self: SimulatedBase, error: BaseException) -> None:
        if self.alive:
            self.disk.tables.update(vars(self.disk).get("before", {}))
        end(self, error)

    patch.setattr(MemoryTables, "execute", remember)
    patch.setattr(SimulatedBase, "end", lose)


@mutant()
def a_turn_that_is_taken_back_is_told_all_the_same(patch: Patch) -> None:
    """What a failed turn wanted to say is said by the next one."""
    patch.setattr(Outbox, "drop", lambda self: None)


@mutant(
    nodes=5,
    clients=8,
    pace=1.0,
    own_machine=False,
    storage=OFTEN,
    kinds=("fail_actor", "isolate", "kill", "mend"),
)
def a_job_reports_to_actors_that_did_not_order_it(patch: Patch) -> None:
    """The report of a job reaches actors that were rebuilt meanwhile and know nothing of it."""

    def offload(
        self: Engine, job: Callable[[], Any], to: Address, done: Callable[[Any, str], Any], drop: Callable[[], None]
    ) -> None:
        self.outbox.job(job, lambda result, error: self.next_turn(to, done(result, error)), drop)

    patch.setattr(Engine, "offload", offload)


@mutant()
def actors_that_failed_are_not_rebuilt(patch: Patch) -> None:
    """After a turn was taken back the actors go on with what they remember of it."""

    def undo(self: Any, fault: Exception) -> None:
        self.base.actor_failed(fault)
        self.ledger.rollback()
        self.outbox.drop()
        self.mailbox.queue.clear()
        self.events.drop()
        self.reported.take_back()

    patch.setattr(WatchedEngine, "undo", undo)
