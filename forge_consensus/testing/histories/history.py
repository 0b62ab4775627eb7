"""A history: the calls of a run in the order in which they began, kept to be checked or saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """The caller's knowledge of the outcome of a call."""

    OPEN = "open"
    """There was no answer, or one that says "outcome unknown": a write may take effect at any later time, or never."""
    OK = "ok"
    REFUSED = "refused"
    """It is certain that the call did not take effect and never will."""


@dataclass(eq=False, slots=True)
class Operation:
    """One call of a client; times are seconds of one clock, `ended` is None while the outcome is open.

    `kind` is "set" (argument: the value), "get", "delete", "increment" (argument: the amount) or "cas" (argument: the
    pair of expected and new value). `result` is the returned value.
    """

    client: str
    kind: str
    key: str
    argument: Any = None
    began: float = 0.0
    ended: float | None = None
    outcome: Outcome = Outcome.OPEN
    result: Any = None
    consistency: str = "linearizable"
    """For a read: "linearizable", "lease" or "stale"; a stale read is not checked with the others."""
    applied: int = 0
    """The index of the newest entry that was applied when the outcome was made; 0 if that is not known."""


@dataclass(slots=True)
class History:
    """All calls of a run."""

    operations: list[Operation] = field(default_factory=list)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    def begin(self, operation: Operation) -> Operation:
        """Record a call when it begins; return it."""
        self.operations.append(operation)
        return operation

    def lines(self) -> Iterator[str]:
        """Yield the history as JSON lines, one call each; values must be JSON values."""
        for operation in self.operations:
            yield json.dumps(asdict(operation))

    @classmethod
    def of_lines(cls, lines: Iterable[str]) -> History:
        """Read the lines that `lines` wrote. Raises `ValueError` for anything else."""
        calls = [Operation(**json.loads(line)) for line in lines if line.strip()]
        for call in calls:
            call.outcome = Outcome(call.outcome)
        return cls(calls)
