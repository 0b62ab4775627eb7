"""The test kit: clusters in one process under one seed, real clusters with faults, and judges of what clients saw."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from forge_consensus.testing.history import History, Operation, Outcome
    from forge_consensus.testing.linearizability import Verdict, check
    from forge_consensus.testing.local_cluster import LocalCluster
    from forge_consensus.testing.network_paths import PathFaults
    from forge_consensus.testing.plan import Plan
    from forge_consensus.testing.proxy import Proxy
    from forge_consensus.testing.simulation import Simulation
    from forge_consensus.testing.violations import ViolationError
    from forge_consensus.testing.workload import Call, Workload

HOMES = {
    "Call": "workload",
    "History": "history",
    "LocalCluster": "local_cluster",
    "Operation": "history",
    "Outcome": "history",
    "PathFaults": "network_paths",
    "Plan": "plan",
    "Proxy": "proxy",
    "Simulation": "simulation",
    "Verdict": "linearizability",
    "ViolationError": "violations",
    "Workload": "workload",
    "check": "linearizability",
}
"""The module of this folder where a public name lives."""

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
    """Import a public name at its first use (PEP 562): who simulates needs no sockets, and the other way round."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
