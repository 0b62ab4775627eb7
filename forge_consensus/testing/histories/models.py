"""What the linearizability checker asks of the thing that a history is of: a sequential model, and what it may tell."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import Enum
from typing import Protocol, runtime_checkable

from forge_consensus.testing.histories.history import Operation


class Unknown(Enum):
    """Markers beside the states of a model."""

    ANY = "any"
    """No single state."""


ANY = Unknown.ANY


class Model(Protocol):
    """A thing that carries out one call after the other."""

    def initial(self) -> Hashable:
        """The state before the first call."""

    def step(self, state: Hashable, operation: Operation) -> tuple[bool, Hashable]:
        """Whether the call may have had its result in that state, and the state after it.

        Of a call whose outcome is open every result is possible. The same state and call give the same answer always.
        """


class Insight(Protocol):
    """What is known of the calls of one history beyond the model's steps; it makes the search faster, nothing else."""

    def simplified(self, operation: Operation) -> Operation:
        """The call without differences that no answer of this history shows."""

    def reads(self, operation: Operation) -> bool:
        """Whether a call with an answer, having had it, changed no state at all."""

    def alike(self, operation: Operation) -> Hashable:
        """A name shared only by calls that `step` treats alike in every state."""

    def needs(self, operation: Operation) -> Hashable:
        """The only state in which a call with an answer can have had it, or ANY."""

    def compares(self, operation: Operation) -> Hashable:
        """The only state that the call can tell from others beside the initial one, or ANY if there is none."""

    def makes(self, operation: Operation) -> Hashable:
        """The only state that the call can leave behind where it changes one, or ANY if there are several."""

    def before(self, operation: Operation, state: Hashable) -> Iterable[Hashable] | Unknown:
        """Of a call without an answer: the states that it turns into this one; ANY if it does so with every state."""

    def adds(self, operation: Operation) -> int | None:
        """What a call without an answer adds to a number, and to the initial state as to 0; None if it does not."""


@runtime_checkable
class Insightful(Model, Protocol):
    """A model that has insight into a history."""

    def insight(self, operations: list[Operation]) -> Insight:
        """What it knows of these calls."""
