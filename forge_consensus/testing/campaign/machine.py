"""A user's machine and workload in a campaign, given by name, so that every worker process can make them."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from forge_consensus.errors import InvalidConfigError
from forge_consensus.service.machines import MachineChoice
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.simulator.trial import Trial, attempt

WORKLOAD_NEEDED = ("command", "query", "at_the_end")
WORKLOAD_FACTS = ("model", "may_fail")
"""The attributes of a workload; the base class has all names but `command` and `query`."""


@dataclass(frozen=True, slots=True)
class NamedRun:
    """Runs plans with a machine, and perhaps a workload, that are named as ``package.module:Class``."""

    machine: str
    workload: str = ""

    def __call__(self, plan: Plan) -> Trial:
        """Run a plan."""
        return attempt(plan, self.build)

    def build(self, plan: Plan) -> Simulation:
        """Make the simulation of a plan. Raises `InvalidConfigError`."""
        workload = named(self.workload)() if self.workload else None
        return Simulation(plan, state_machine=named(self.machine), workload=workload)

    def check(self) -> None:
        """Make both once and check them. Raises `InvalidConfigError`, because otherwise every seed would fail alike."""
        MachineChoice(made(self.machine))
        if not self.workload:
            return
        workload = made(self.workload)
        missing = [name for name in WORKLOAD_NEEDED if not callable(getattr(workload, name, None))]
        missing += [name for name in WORKLOAD_FACTS if not hasattr(workload, name)]
        if missing:
            raise InvalidConfigError(
                f"{self.workload!r} is not a workload, it has no {', '.join(missing)}: inherit from "
                "forge_consensus.testing.Workload and define command and query"
            )

    def version(self) -> str:
        """Return a hash of the files that define the two. Raises `InvalidConfigError`."""
        digest = blake2b(digest_size=8)
        for name in filter(None, (self.machine, self.workload)):
            module = importlib.import_module(named(name).__module__)
            source = getattr(module, "__file__", None)
            if source is None:
                raise InvalidConfigError(
                    f"{name!r} is defined in no file, but a campaign needs the file to notice changes"
                )
            digest.update(Path(source).read_bytes())
        return digest.hexdigest()


def named(name: str) -> Callable[[], Any]:
    """Return the object with the name ``package.module:Class``. Raises `InvalidConfigError` if it cannot be called."""
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise InvalidConfigError(f"{name!r} does not name a class: write package.module:Class")
    try:
        found: Any = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise InvalidConfigError(f"{name!r} cannot be loaded: {error}") from error
    except Exception as error:  # an error of the user's module
        raise InvalidConfigError(f"{name!r} cannot be loaded, {type(error).__name__}: {error}") from error
    if not callable(found):
        raise InvalidConfigError(f"{name!r} is neither a class nor a function")
    return found  # type: ignore[no-any-return]


def made(name: str) -> Any:
    """Return an instance of the named class. Raises `InvalidConfigError`."""
    make = named(name)
    try:
        return make()
    except Exception as error:  # the user's code
        raise InvalidConfigError(
            f"{name!r} cannot be made, {type(error).__name__}: {error}. It is called without arguments: give its "
            "parameters defaults"
        ) from error
