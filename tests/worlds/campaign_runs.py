"""The runs of test campaigns' workers: small plans, and runs that fail, hang, die or differ on purpose."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import Any

from forge_consensus.storage.machines.machine import Entry
from forge_consensus.testing.rules.agreement import CountingMachine
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.trial import Trial, attempt
from forge_consensus.testing.simulator.workload import CountingWorkload
from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.mutants.patch import Patch

ODD = 3
"""The seed whose run misbehaves."""
MUTANT = "a_match_is_truncated_like_a_conflict"


def small(plan: Plan) -> Trial:
    """A run that takes a few milliseconds."""
    return attempt(replace(plan, nodes=1, clients=1, seconds=0.2, pace=1.0, faults=False))


def slow(plan: Plan) -> Trial:
    """A run that takes long enough for a campaign to be interrupted during it."""
    time.sleep(0.1)
    return small(plan)


def hanging(plan: Plan) -> Trial:
    """A run that never ends for one seed."""
    if plan.seed == ODD:
        for_ever()
    return small(plan)


def crowded_out(plan: Plan) -> Trial:
    """A run that gets a tenth of a processor for one seed, as on a machine that is busy with other things."""
    until = time.monotonic() + 5.0
    while plan.seed == ODD and time.monotonic() < until:
        turn = time.process_time() + 0.02  # it computes so much, however long it waits for a processor
        while time.process_time() < turn:
            pass
        time.sleep(0.08)
    return small(plan)


def for_ever() -> None:
    """The function in the stack of the run that hangs."""
    while True:
        time.sleep(0.01)


class NeverReady:
    """A run that no worker receives: the process hangs when it unpacks it."""

    def __call__(self, plan: Plan) -> Trial:
        """Never called."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return (for_ever, ())


def dying(plan: Plan) -> Trial:
    """A run that ends its process for one seed."""
    if plan.seed == ODD:
        os.kill(os.getpid(), signal.SIGKILL)
    return small(plan)


def differing(plan: Plan) -> Trial:
    """A run whose digest differs each time."""
    return replace(small(plan), digest=f"{time.perf_counter_ns():032x}")


def with_mutant(plan: Plan) -> Trial:
    """A run of nodes that drop acknowledged entries when an older message arrives late."""
    with Patch() as patch:
        MUTANTS[MUTANT].change(patch)
        return attempt(plan)


class ClockMachine(CountingMachine):
    """A user's machine with a bug: it depends on the clock of its host."""

    def apply(self, entry: Entry) -> Any:
        """Count, or not, depending on the time."""
        if time.monotonic_ns() % 3 == 0:
            raise ValueError("not now")
        return super().apply(entry)


class ShyMachine(CountingMachine):
    """A machine that cannot be made without arguments."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class PatientWorkload(CountingWorkload):
    """A workload that allows the machine to refuse commands."""

    may_fail = True
