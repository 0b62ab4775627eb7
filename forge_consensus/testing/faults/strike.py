"""A strike: one fault that was ordered, with a source of chance of its own, so that without it the others stay."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forge_consensus.testing.world.base import SimulatedBase

if TYPE_CHECKING:
    from forge_consensus.testing.faults.drawn import Faults


@dataclass(frozen=True, slots=True)
class Ordered:
    """A fault that was ordered: when in virtual time, which kind, what exactly, and the number of its strike."""

    at: float
    kind: str
    text: str
    number: int = 0


class Strike:
    """One strike of the faults of a run, known by its number. Times that it plans are stretched by the plan's pace."""

    def __init__(self, faults: Faults, number: int) -> None:
        self.faults = faults
        self.number = number
        self.cluster = faults.cluster
        self.network = faults.cluster.network
        self.timeline = faults.timeline
        self.chance: random.Random = self.timeline.chance(f"strike {number}")

    # --- whom --------------------------------------------------------------------------------------------------------

    def shuffled(self) -> list[str]:
        """The names of the nodes in some order, whether they run or not: so a draw depends on nothing that happened."""
        return self.chance.sample(self.cluster.names, len(self.cluster.names))

    def anyone(self) -> SimulatedBase | None:
        """Some running node."""
        order = self.shuffled()
        running = [base for name in order if (base := self.cluster.nodes[name].running) is not None]
        return running[0] if running else None

    def leader(self) -> SimulatedBase | None:
        """The running node that leads the highest term."""
        return self.cluster.leader()

    def others(self, name: str) -> list[str]:
        """All nodes but one."""
        return [other for other in self.cluster.names if other != name]

    # --- later -------------------------------------------------------------------------------------------------------

    def seconds(self, least: float, most: float) -> float:
        """A time between two, at the plan's pace."""
        return self.chance.uniform(least, most) * self.faults.pace

    def after(self, seconds: float, act: Callable[[], Any]) -> None:
        """Do something later, unless all was healed meanwhile."""
        self.timeline.after(seconds, lambda: act() if self.faults.running else None)

    def back_later(self, name: str) -> None:
        """Have a node that ends restarted after a while, or soon once it has ended."""
        self.after(self.seconds(0.01, 3.0), lambda: self.bring_back(name))

    def bring_back(self, name: str) -> None:
        """Restart the node, or look again later while it still runs towards its ordered end."""
        node = self.cluster.nodes[name]
        base = node.running
        if base is None:
            self.cluster.restart(name)
        elif base.crash_at is not None or base.disk.ordered_failure or node.files.stop_in is not None:
            self.back_later(name)
