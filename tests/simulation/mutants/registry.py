"""The registry: every mutant by its name, with a sentence about its fault and the plan that it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.mutants.patch import Patch

Change = Callable[[Patch], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault. `plan` is what of a seed's own plan must be different so that the fault shows soon."""

    name: str
    change: Change
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """What is wrong."""
        return " ".join((self.change.__doc__ or "").split())


MUTANTS: dict[str, Mutant] = {}


def mutant(**plan: Any) -> Callable[[Change], Change]:
    """Note a mutant under its function's name."""

    def note(change: Change) -> Change:
        MUTANTS[change.__name__] = Mutant(change.__name__, change, plan)
        return change

    return note
