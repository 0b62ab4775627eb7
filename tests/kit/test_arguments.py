"""The arguments of a simulation: impossible values are refused with advice before anything runs."""

from __future__ import annotations

import random
from typing import Any

import pytest

from forge_consensus.errors import InvalidConfigError
from forge_consensus.testing import Call, Plan, Simulation, Workload
from forge_consensus.testing.rules.agreement import CountingMachine
from forge_consensus.testing.simulator.workload import CountingWorkload


class Half:
    """A machine that cannot save its state."""

    def apply(self, entry: Any) -> None:
        """Do nothing."""

    def query(self, query: Any) -> None:
        """Tell nothing."""


class Needy(CountingMachine):
    """A machine that needs to be told something."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class Silent(Workload):
    """A workload that does not say what to read."""

    def command(self, chance: random.Random, client: str) -> Call:
        return Call("increment")


REFUSED: list[tuple[dict[str, Any], str]] = [
    *[({"nodes": nodes}, "a simulation has 1 to 9 nodes") for nodes in (0, 10, "3", 2.5, True)],
    *[({"seed": seed}, "a seed is a whole number from 0, because") for seed in (-1, "x", None, 1.5, True)],
    *[({"seconds": seconds}, "seconds=.*: virtual seconds are") for seconds in (-1, float("nan"), "5", True)],
    ({"faults": "kill"}, r"give a list of kinds, faults=\['kill'\]"),
    ({"faults": ["rain"]}, "there is no kind of fault 'rain'; the kinds are .*kill"),
    *[({"faults": faults}, "give True, False, or a list of kinds") for faults in (3, [1, "kill"], {"kill"})],
    ({"state": 3}, "state=3 cannot be called"),
    ({"plan": 3}, "3 is not a Plan: .* by name, such as nodes=3"),
    ({"state_machine": CountingMachine()}, "an instance of CountingMachine: give the class itself"),
    ({"state_machine": "machines:Fine"}, "an instance of str: give the class itself"),
    ({"state_machine": Half}, "Half is no state machine: it has no snapshot, restore. A state machine has apply"),
    ({"state_machine": Needy}, "Needy\\(\\) failed, TypeError: .*'size'.*its parameters defaults"),
    ({"state_machine": lambda: None}, "returned None, which is not a machine"),
    ({"state_machine": lambda: CountingMachine}, "returned <class .*CountingMachine'>, which is not a machine"),
    ({"workload": CountingWorkload}, r"is a class: give an instance, CountingWorkload\(\)"),
    ({"workload": object()}, "it has no command, query, at_the_end, model, may_fail: inherit from"),
    ({"workload": Silent()}, "Silent does not define query"),  # type: ignore[abstract]
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED, ids=["-".join(arguments) for arguments, _ in REFUSED])
def test_impossible_arguments_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidConfigError, match=said):
        Simulation(**arguments)


@pytest.mark.parametrize("faults", [[], (), False])
def test_an_empty_choice_of_faults_orders_none(faults: Any) -> None:
    with Simulation(nodes=1, seed=2, seconds=2.0, faults=faults) as simulation:
        simulation.run()
        assert not simulation.faults.ordered


def test_arguments_replace_values_of_the_plan() -> None:
    with Simulation(Plan(3, nodes=5, faults=False), nodes=2, seconds=7, faults=["kill", "mend"]) as simulation:
        plan = simulation.plan
        assert (plan.seed, plan.nodes, plan.seconds, plan.faults, plan.kinds) == (3, 2, 7, True, ("kill", "mend"))
