"""The errors of clocks: how wrong an age may be that a stale read tells, because simulated clocks run apart too fast.

An age rests on clocks of hosts that run apart by `DRIFT_MAX` at most (`Freshness`). Simulated ones are ten times worse,
so that leases are tested, and faults make them worse still.
"""

from __future__ import annotations

from forge_consensus.actors.runtime.freshness import DRIFT_MAX
from forge_consensus.testing.world.base import SimulatedBase


class ClockErrors:
    """Observes what nodes believe of each other's clocks, and how wrong that is because of the rates of these clocks.

    What the rates do not explain is a fault of the node, and does not count.
    """

    def __init__(self) -> None:
        self.running: dict[str, SimulatedBase] = {}
        self.since: dict[str, float] = {}
        """When the process of each node began."""
        self.seconds = 0.0
        """The largest error so far. It does not fall, because marks that were translated with it stay."""

    def began(self, node: SimulatedBase) -> None:
        """Note a new process, which has clocks of its own."""
        self.running[node.name], self.since[node.name] = node, node.timeline.now

    def turned(self, node: SimulatedBase) -> None:
        """Compare what the node believes with what its clock and those of its peers read."""
        now, clock = node.timeline.now, node.clock
        for name, offset in node.engine.shared.freshness.offsets.items():
            peer = self.running.get(name)
            if peer is None:
                continue
            mine = clock.reading_at(now)
            error = offset.ahead(mine) - (mine - peer.clock.reading_at(now))
            if error > self.seconds:
                began = min(self.since[name], self.since[node.name])
                explained = (clock.apart(peer.clock) - DRIFT_MAX) * (now - began)
                self.seconds = max(self.seconds, min(error, explained))

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Nothing follows: what others believe of its clock may be used until they hear of its next process."""

    def durable(self, node: SimulatedBase, batch: object) -> None:
        """Nothing follows."""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """Nothing follows."""

    def answers(self, node: SimulatedBase, connection: object, frame: object) -> None:
        """Nothing follows."""
