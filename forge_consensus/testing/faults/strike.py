"""A strike: one fault that is injected. Strikes draw from separate random sources: leaving one out changes no other."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.operator import Operator

NOBODY: Final = "nobody"
"""The text of a fault for which no node was suitable, so that nothing was injected."""


@dataclass(frozen=True, slots=True)
class Ordered:
    """A fault that was injected."""

    at: float
    """Virtual seconds since the start of the run."""
    kind: str
    """The name of the function that injected it, a key of `drawn.KINDS`."""
    text: str
    """The node that it hit, and its values; `NOBODY` if no node was suitable."""
    number: int = 0
    """The number of its strike, with which a plan can leave it out."""


class Strike:
    """One strike, identified by its number; a fault is a function of it.

    Args:
        cluster: the cluster that is struck.
        number: counts strikes from 1; together with the seed it decides every draw of this strike.
        pace: the factor by which the plan stretches all times; `seconds` applies it.
        active: returns whether faults are still injected. What a strike has planned for later is dropped once they
            are not, because then everything was healed.
        operator: changes the members of the cluster.

    """

    def __init__(
        self, cluster: SimulatedCluster, number: int, pace: float, active: Callable[[], bool], operator: Operator
    ) -> None:
        self.operator = operator
        self.number = number
        self.pace = pace
        self.active = active
        self.cluster = cluster
        self.network = cluster.network
        self.timeline = cluster.timeline
        self.chance: random.Random = self.timeline.chance(f"strike {number}")

    # --- choosing nodes ----------------------------------------------------------------------------------------------

    def shuffled(self) -> list[str]:
        """Return the names of all nodes, running or not, in an order that depends on no earlier event.

        The nodes of the core come last, because a fault takes its victims from the front.
        """
        names = self.chance.sample(self.cluster.names, len(self.cluster.names))
        core = self.cluster.core
        return sorted(names, key=core.__contains__) if core else names

    def victims(self) -> list[str]:
        """Return the names of the nodes that a fault may strike, running or not, in such an order."""
        return [name for name in self.shuffled() if name not in self.cluster.core]

    def anyone(self) -> SimulatedBase | None:
        """Return a random running process, None if no node runs."""
        order = self.victims()
        running = [base for name in order if (base := self.cluster.nodes[name].running) is not None]
        return running[0] if running else None

    def leader(self) -> SimulatedBase | None:
        """Return the running process that leads the highest term; None if no node leads, or one of the core."""
        leader = self.cluster.leader()
        return None if leader is None or leader.name in self.cluster.core else leader

    def others(self, name: str) -> list[str]:
        """Return the names of all nodes except this one."""
        return [other for other in self.cluster.names if other != name]

    def members_besides(self, name: str) -> list[str]:
        """Return the names of all nodes except this one that are members or may turn out to be."""
        members = self.cluster.members()
        return [other for other in self.others(name) if other in members]

    # --- acting later ------------------------------------------------------------------------------------------------

    def seconds(self, least: float, most: float) -> float:
        """Draw a duration in virtual seconds between two bounds, which the pace stretches."""
        return self.chance.uniform(least, most) * self.pace

    def after(self, seconds: float, act: Callable[[], Any]) -> None:
        """Call `act` after this many virtual seconds, unless the faults have ended by then."""
        self.timeline.after(seconds, lambda: act() if self.active() else None)

    def back_later(self, name: str) -> None:
        """Restart a node after a random delay; a node that has not ended by then is checked again later."""
        self.after(self.seconds(0.01, 3.0), lambda: self.bring_back(name))

    def bring_back(self, name: str) -> None:
        """Restart the node now, or check again later while a crash that was ordered for it has not come yet."""
        node = self.cluster.nodes[name]
        base = node.running
        if base is None:
            self.cluster.restart(name)
        elif base.crash_at is not None or base.disk.ordered_failure or node.files.stop_in is not None:
            self.back_later(name)
