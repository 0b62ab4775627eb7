"""The judge of what clients saw: nothing acknowledged is lost, nothing happens twice, reads are not stale."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from forge_consensus.testing.simulated_client import Operation
from forge_consensus.testing.violations import ViolationError, demand


@dataclass(slots=True)
class Counter:
    """What clients saw of one key."""

    invoked: int = 0
    values: dict[int, Operation] = field(default_factory=dict)
    seen: int = 0
    """The highest value in any answer so far: whoever begins now must not see less."""


class Judge:
    """The judge of clients: increments happen once and in the order of time, reads see all that was acknowledged."""

    def __init__(self) -> None:
        self.counters: defaultdict[str, Counter] = defaultdict(Counter)
        self.answers = 0

    def invoked(self, operation: Operation) -> None:
        """A call begins."""
        counter = self.counters[operation.key]
        operation.floor = counter.seen
        if operation.kind == "increment":
            counter.invoked += 1

    def answered(self, operation: Operation) -> None:
        """It has its answer."""
        self.answers += 1
        counter = self.counters[operation.key]
        value = operation.value or 0
        who = f"{operation.client}'s {operation.kind} {operation.number} of {operation.key!r}"
        demand(value <= counter.invoked, "I14", f"{who} got {value}, only {counter.invoked} were asked for")
        if operation.kind == "read":
            demand(value >= operation.floor, "I13", f"{who} saw {value}, {operation.floor} was known before")
        else:
            demand(value > operation.floor, "I15", f"{who} made {value}, {operation.floor} was known before")
            other = counter.values.setdefault(value, operation)
            demand(other is operation, "I14", f"{who} and {other.client}'s {other.number} both made {value}")
        counter.seen = max(counter.seen, value)

    def failed(self, operation: Operation, code: str) -> None:
        """It was answered with an error that nothing in the workload explains."""
        raise ViolationError(f"{operation.client}'s {operation.kind} {operation.number} failed with {code}")

    def final(self, values: dict[str, int | None]) -> None:
        """The state at the end holds everything that was acknowledged, and nothing twice."""
        for key, counter in self.counters.items():
            value = values.get(key) or 0
            demand(value >= counter.seen, "I15", f"{key!r} ends at {value}, {counter.seen} was acknowledged")
            demand(value <= counter.invoked, "I14", f"{key!r} ends at {value}, {counter.invoked} were asked for")
