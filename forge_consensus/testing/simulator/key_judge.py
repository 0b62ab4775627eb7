"""The judge of keys and leases: each answer is compared with the log, which is the order that explains them all.

A history is linearizable if there is an order of all calls in which each got its answer and which agrees with time. The
log is such an order, so nothing has to be searched: each command is found in it by its correlation id, and each answer
to a query tells the entry whose state it is from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forge_consensus.actors.messages import STALE
from forge_consensus.storage.machines.machine import COMMAND_FAILED
from forge_consensus.testing.histories.history import Operation, Outcome
from forge_consensus.testing.rules.key_log import KeyLog
from forge_consensus.testing.rules.violations import ViolationError, demand
from forge_consensus.testing.simulator.judge import Judge, call_text
from forge_consensus.testing.simulator.leased_keys import LeasedKeysWorkload
from forge_consensus.testing.simulator.workload import Workload


class KeyJudge(Judge):
    """Judges the calls of a `LeasedKeysWorkload`, most of them as soon as they end."""

    def __init__(self, workload: Workload, log: KeyLog) -> None:
        super().__init__(workload)
        self.log = log
        self.told: Callable[[Operation], None] = (
            workload.told if isinstance(workload, LeasedKeysWorkload) else lambda operation: None
        )
        self.seen = 0
        """The newest entry that any answer shows; a call that begins now comes after it."""

    def invoked(self, operation: Operation) -> None:
        """Record a call that begins."""
        self.history.begin(operation)
        self.floors[operation] = self.seen

    def answered(self, operation: Operation) -> None:
        """Compare an answer with the log. Raises `ViolationError`."""
        self.answers += 1
        who = call_text(operation)
        floor = self.floors.pop(operation, 0)
        if isinstance(operation.argument, str):
            index = self.entry_index(operation)
            demand(index > floor, "I15", f"{who} is entry {index}, and entry {floor} was known before")
            known = self.log.effects[index]
            demand(
                repr(operation.result) == known, "I14", f"{who} got {operation.result!r}, entry {index} made {known}"
            )
        else:
            index = operation.applied
            lacks = operation.consistency != STALE and index < floor
            demand(not lacks, "I13", f"{who} saw the state of entry {index}, and entry {floor} was known before")
            self.log.check_answer(who, operation.argument, index, operation.result)
        self.seen = max(self.seen, index)
        self.told(operation)

    def entry_index(self, operation: Operation) -> int:
        """Return the index of a command's entry. Raises `ViolationError` if there is none."""
        index = self.log.index_of.get(operation.argument)
        if index is None:
            raise ViolationError(f"I14: {call_text(operation)} was answered, and no machine has applied it")
        return index

    def failed(self, operation: Operation, code: str, reason: Any, label: tuple[int, int] = (0, 0)) -> None:
        """Compare an error with what the entry made. Raises `ViolationError`."""
        floor, who = self.floors.pop(operation, 0), call_text(operation)
        demand(code == COMMAND_FAILED, "I14", f"{who} failed with {code}: {reason}")
        demand(isinstance(operation.argument, str), "keys", f"{who} failed: {reason}")
        kind, text = reason
        index = self.entry_index(operation)
        demand(index > floor, "I15", f"{who} is entry {index}, and entry {floor} was known before")
        known = self.log.effects[index]
        demand(known == f"raised {kind}: {text}", "I14", f"{who} got {kind}: {text}, entry {index} made {known}")
        self.seen = max(self.seen, index)
        operation.outcome, operation.result = Outcome.REFUSED, reason

    def final(self, operation: Operation) -> None:
        """Compare an answer at the very end. Raises `ViolationError`."""
        self.log.check_answer(call_text(operation), operation.argument, operation.applied, operation.result)

    def settle(self, *, copies: bool) -> None:
        """Demand that no call was carried out that was refused for certain. Raises `ViolationError`."""
        for operation, _ in self.turned_away if not copies else ():
            index = self.log.index_of.get(operation.argument) if isinstance(operation.argument, str) else None
            demand(index is None, "I14", f"{call_text(operation)} was refused, and it is entry {index}")
        super().settle(copies=copies)
