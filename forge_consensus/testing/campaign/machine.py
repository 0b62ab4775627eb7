"""The machine and the workload of a user in a campaign, given by name, so that every worker can make them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from forge_consensus.errors import InvalidConfigError
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.simulator.trial import Trial, attempt


@dataclass(frozen=True, slots=True)
class NamedRun:
    """Runs plans with a machine, and perhaps a workload, that are called ``package.module:Class``."""

    machine: str
    workload: str = ""

    def __call__(self, plan: Plan) -> Trial:
        """Run a plan."""
        return attempt(plan, self.build)

    def build(self, plan: Plan) -> Simulation:
        """The simulation of a plan. Raises `InvalidConfigError`."""
        workload = named(self.workload)() if self.workload else None
        return Simulation(plan, state_machine=named(self.machine), workload=workload)

    def version(self) -> str:
        """A hash of the files that the two are written in. Raises `InvalidConfigError`."""
        digest = blake2b(digest_size=8)
        for name in filter(None, (self.machine, self.workload)):
            module = importlib.import_module(named(name).__module__)
            digest.update(Path(str(module.__file__)).read_bytes())
        return digest.hexdigest()


def named(name: str) -> Callable[[], Any]:
    """What ``package.module:Class`` names. Raises `InvalidConfigError` when it names nothing that can be made."""
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise InvalidConfigError(f"{name!r} names no class: write package.module:Class")
    try:
        found: Any = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InvalidConfigError(f"{name!r} cannot be loaded: {error}") from error
    if not callable(found):
        raise InvalidConfigError(f"{name!r} is no class and no function that makes something")
    return found  # type: ignore[no-any-return]
