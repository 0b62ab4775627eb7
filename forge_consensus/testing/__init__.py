"""The test kit: simulated clusters from random seeds, real clusters with faults, and checkers of histories."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forge_consensus.testing.histories.history import History, Operation, Outcome
    from forge_consensus.testing.histories.linearizability import Verdict, check
    from forge_consensus.testing.local.cluster import LocalCluster
    from forge_consensus.testing.local.network_paths import PathFaults
    from forge_consensus.testing.local.proxy import Proxy
    from forge_consensus.testing.rules.violations import ViolationError
    from forge_consensus.testing.simulator.plan import Plan
    from forge_consensus.testing.simulator.simulation import Simulation
    from forge_consensus.testing.simulator.workload import Call, Workload

HOMES = {
    "Call": "simulator.workload",
    "History": "histories.history",
    "LocalCluster": "local.cluster",
    "Operation": "histories.history",
    "Outcome": "histories.history",
    "PathFaults": "local.network_paths",
    "Plan": "simulator.plan",
    "Proxy": "local.proxy",
    "Simulation": "simulator.simulation",
    "Verdict": "histories.linearizability",
    "ViolationError": "rules.violations",
    "Workload": "simulator.workload",
    "check": "histories.linearizability",
}
"""The module of this folder that defines a public name."""

__all__ = [
    "Call",
    "History",
    "LocalCluster",
    "Operation",
    "Outcome",
    "PathFaults",
    "Plan",
    "Proxy",
    "Simulation",
    "Verdict",
    "ViolationError",
    "Workload",
    "check",
]


def __getattr__(name: str) -> object:
    """Import a public name at its first use (PEP 562).

    So a simulation imports no sockets, and a local cluster imports no simulator.
    """
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
