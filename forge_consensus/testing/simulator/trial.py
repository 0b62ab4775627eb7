"""The trial: one plan run once, with its measures and, if something was found, the failure and its story."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from forge_consensus.testing.faults.strike import Ordered
from forge_consensus.testing.simulator.failure_story import kind_of, story
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation

Build = Callable[[Plan], Simulation]
"""Makes the simulation of a plan."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of a run. Two failures of one kind count as the same."""

    kind: str
    text: str
    at: float
    """Virtual seconds since the start."""
    strikes: int
    """The number of strikes that were drawn until then, including those that were left out."""
    story: str


@dataclass(frozen=True, slots=True)
class Trial:
    """The result of a run and its measures."""

    plan: Plan
    digest: str
    turns: int
    virtual_seconds: float
    operations: int
    faults: int
    frames: int
    terms: int
    seconds: float
    """Processor time."""
    failure: Failure | None
    ordered: tuple[Ordered, ...] = ()
    """The faults that were injected."""


def attempt(plan: Plan, build: Build = Simulation) -> Trial:
    """Run a plan. Any error that ends the run is its failure; only an interrupt of the whole process is raised."""
    began = time.process_time()
    with build(plan) as simulation:
        cluster, faults = simulation.cluster, simulation.faults
        failure = None
        try:
            simulation.run()
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            text = story(simulation.plan, error, faults.ordered, simulation.messages, simulation.again)
            failure = Failure(kind_of(error), str(error), cluster.timeline.now, faults.number, text)
        return Trial(
            simulation.plan,
            cluster.timeline.digest,
            simulation.invariants.checks,
            cluster.timeline.now,
            simulation.judge.answers,
            len(faults.ordered),
            cluster.network.frames,
            len(simulation.invariants.leaders),
            time.process_time() - began,
            failure,
            tuple(faults.ordered),
        )
