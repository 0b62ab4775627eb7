"""What the judge of ages lets pass: the errors of simulated clocks that are worse than those of real hosts."""

from __future__ import annotations

from forge_consensus.actors.runtime.freshness import DRIFT_MAX, Offset
from forge_consensus.testing.simulator.simulation import Simulation


def test_only_what_the_rates_of_clocks_explain_is_let_pass() -> None:
    with Simulation(nodes=3, seed=5, faults=False) as simulation:
        simulation.wait_for_leader()
        errors = simulation.clock_errors
        simulation.advance(30.0)
        one, other = simulation.cluster.running()[:2]
        explained = (one.clock.apart(other.clock) - DRIFT_MAX) * simulation.cluster.timeline.now
        assert errors.seconds <= 0.02 * simulation.cluster.timeline.now, "each runs wrong by a hundredth at most"
        before = errors.seconds
        now = one.clock.reading_at(simulation.cluster.timeline.now)
        true = now - other.clock.reading_at(simulation.cluster.timeline.now)
        one.engine.shared.freshness.offsets[other.name] = Offset(true + 1000.0, now)  # a fault of the node
        errors.turned(one)
        assert errors.seconds <= max(before, explained)
        one.clock.drift(1.5)
        simulation.advance(10.0)
        assert errors.seconds > 1.0
