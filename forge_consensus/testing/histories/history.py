"""What clients did and heard: the calls of a run in the order in which they began, kept to be judged or saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """What its caller knows of a call."""

    OPEN = "open"
    """No answer, or one that says that nobody knows: a write may happen at any later time, or never."""
    OK = "ok"
    REFUSED = "refused"
    """It is proven that it did not happen and never will."""


@dataclass(eq=False, slots=True)
class Operation:
    """One call of a client; times are seconds by one clock, `ended` is None while the outcome is open.

    `kind` is "set" (argument: the value), "get", "delete", "increment" (argument: by how much) or "cas" (argument: the
    pair of expected and new value). `result` is what the call returned.
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
    """Of a read: "linearizable", "lease" or "stale"; what may be stale is not judged with the others."""


@dataclass(slots=True)
class History:
    """All calls of a run."""

    operations: list[Operation] = field(default_factory=list)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    def begin(self, operation: Operation) -> Operation:
        """Note a call at its beginning; returns it."""
        self.operations.append(operation)
        return operation

    def lines(self) -> Iterator[str]:
        """The history as JSON lines, one call each; values must be what JSON knows."""
        for operation in self.operations:
            yield json.dumps(asdict(operation))

    @classmethod
    def of_lines(cls, lines: Iterable[str]) -> History:
        """Read what `lines` wrote. Raises `ValueError` for what is no history."""
        calls = [Operation(**json.loads(line)) for line in lines if line.strip()]
        for call in calls:
            call.outcome = Outcome(call.outcome)
        return cls(calls)
