"""The catalogue: all mutants, by name."""

from __future__ import annotations

from tests.simulation.mutants import (
    access,
    bounds,
    client,
    election,
    engine,
    handovers,
    keys,
    ledger,
    machine,
    members,
    reads,
    replication,
    sessions,
    snapshots,
    world,
)
from tests.simulation.mutants.registry import MUTANTS

ROOMS = (
    election,
    replication,
    reads,
    ledger,
    machine,
    sessions,
    snapshots,
    engine,
    client,
    world,
    bounds,
    members,
    handovers,
    keys,
    access,
)
__all__ = ["MUTANTS", "ROOMS"]
