"""The sequential model that the linearizability checker needs, and the optional insight that makes it faster."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from enum import Enum
from typing import Protocol, runtime_checkable

from forge_consensus.testing.histories.history import Operation


class Unknown(Enum):
    """A marker that is used beside the states of a model."""

    ANY = "any"
    """No single state."""


ANY = Unknown.ANY


class Model(Protocol):
    """A sequential specification: it executes one call after the other."""

    def initial(self) -> Hashable:
        """Return the state before the first call."""

    def step(self, state: Hashable, operation: Operation) -> tuple[bool, Hashable]:
        """Return whether the call may have had its result in that state, and the state after it.

        For a call whose outcome is open every result is possible. The same state and call must always give the same
        result.
        """


class Insight(Protocol):
    """Facts about the calls of one history beyond the model's steps. They only make the search faster."""

    def simplified(self, operation: Operation) -> Operation:
        """Return the call without differences that no answer of this history shows."""

    def reads(self, operation: Operation) -> bool:
        """Return whether an answered call, given its answer, changed no state."""

    def alike(self, operation: Operation) -> Hashable:
        """Return a name that two calls share only if `step` treats them alike in every state."""

    def needs(self, operation: Operation) -> Hashable:
        """Return the only state in which an answered call can have got its answer, or ANY."""

    def compares(self, operation: Operation) -> Hashable:
        """Return the only state besides the initial one that the call can tell from others, or ANY if there is none."""

    def makes(self, operation: Operation) -> Hashable:
        """Return the only state that the call can leave behind where it changes one, or ANY if there are several."""

    def before(self, operation: Operation, state: Hashable) -> Iterable[Hashable] | Unknown:
        """For an unanswered call, return the states that it turns into this one; ANY if it does so with every state."""

    def adds(self, operation: Operation) -> int | None:
        """Return the amount that an unanswered call adds to a number (the initial state counts as 0), or None."""


@runtime_checkable
class Insightful(Model, Protocol):
    """A model that offers insight into a history."""

    def insight(self, operations: list[Operation]) -> Insight:
        """Return the model's facts about these calls."""
