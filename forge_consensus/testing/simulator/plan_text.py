"""The plan as Python text: one line that runs it again and names only what differs from the defaults."""

from __future__ import annotations

import sys
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from forge_consensus.testing.simulator.plan import Plan

SET_ITEMS_MAX = 12
"""A larger set of numbers is written as a range without the numbers that it lacks."""
IMPORTS = (
    "from forge_consensus.config.raft import RaftSettings",
    "from forge_consensus.config.storage import StorageSettings",
    "from forge_consensus.testing import Plan",
    "from forge_consensus.testing.simulator.conditions import Conditions",
    "from forge_consensus.testing.world.cluster import Bounds",
)
SIMULATION = "from forge_consensus.testing import Simulation"


def call_of(value: Any) -> str:
    """Return the Python expression that makes a value.

    For a dataclass it names only the fields that differ from their defaults.
    """
    if is_dataclass(value):
        said = []
        for slot in fields(value):
            given, usual = getattr(value, slot.name), default_of(slot)
            if usual is MISSING:
                said.append(call_of(given))
            elif given != usual:
                said.append(f"{slot.name}={call_of(given)}")
        return f"{type(value).__name__}({', '.join(said)})"
    if isinstance(value, frozenset):
        return set_text(sorted(value))
    return repr(value)


def default_of(slot: Field[Any]) -> Any:
    """Return the default of a field, `MISSING` if it has none."""
    return slot.default if slot.default_factory is MISSING else slot.default_factory()


def set_text(items: list[Any]) -> str:
    """Return a frozen set in a fixed order; a large one of numbers as a range without those that it lacks."""
    if len(items) <= SET_ITEMS_MAX or not all(isinstance(item, int) for item in items):
        return f"frozenset({{{', '.join(map(repr, items))}}})" if items else "frozenset()"
    first, last = items[0], items[-1]
    lacking = sorted(set(range(first, last + 1)).difference(items))
    text = f"frozenset(range({first}, {last + 1}))"
    return f"{text} - {{{', '.join(map(str, lacking))}}}" if lacking else text


def module_of(made: Any) -> str:
    """Return the name under which another program imports what a class or function was defined in.

    The main program is imported by the name of its file, because ``__main__`` is then another module.
    """
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).stem if made.__module__ == "__main__" and file else str(made.__module__)


def reproduction(plan: Plan, state_machine: Any = None, workload: Any = None, state: Any = None) -> str:
    """Return the Python code that runs the plan again with the given machine, workload and `state`."""
    arguments, imports = [call_of(plan)], [line for line in IMPORTS if f"{line.rpartition(' ')[2]}(" in call_of(plan)]
    for name, given, call in (("state_machine", state_machine, ""), ("workload", workload, "()"), ("state", state, "")):
        if given is not None:
            made = given if hasattr(given, "__qualname__") else type(given)
            arguments.append(f"{name}={made.__qualname__}{call}")
            imports.append(f"from {module_of(made)} import {made.__qualname__.partition('.')[0]}")
    line = f"with Simulation({', '.join(arguments)}) as simulation: simulation.run()"
    return "\n".join((*imports, SIMULATION, line))
