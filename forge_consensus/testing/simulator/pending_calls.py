"""What a simulated client keeps of its calls until they are answered, and to whom it tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from forge_consensus.testing.histories.history import Operation


class CallJudge(Protocol):
    """Who hears of every call and answer."""

    def invoked(self, operation: Operation) -> None:
        """A call begins."""

    def answered(self, operation: Operation) -> None:
        """It has its answer."""

    def failed(self, operation: Operation, code: str, reason: Any, label: tuple[int, int] = (0, 0)) -> None:
        """The machine, or the session, refused it with an error; a command is known by its session and number."""

    def refused(self, operation: Operation, moment: float) -> None:
        """Whoever it was sent to has said that nothing was done; from that moment on the client asks no more."""


@dataclass(eq=False, slots=True)
class Pending:
    """A command or a query on its way."""

    operation: Operation
    data: bytes
    sends: int = 0
    refusals: int = 0
    """How many of the sends were answered by saying that nothing was done."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A frame that left, and the numbers that wait for its answer; none if that is a session."""

    numbers: tuple[int, ...]
    double: bool = False
    """It is a copy of another one, which is looked after."""
    seeks: bool = False
    """It asks who leads."""
