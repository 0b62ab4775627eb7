"""The proof of the demo: the state of every node, compared with the acknowledged writes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.demo.writer import PREFIX
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.cluster_status import ClusterStatus

APPLIED_SECONDS_MAX = 15.0
NAMED_MAX = 3


class DemoFailed(Exception):  # noqa: N818 - a verdict rather than an error of the program
    """The demo did not show what it promises; the text says what was missing."""


@dataclass(slots=True)
class Proof:
    """What was compared, and everything that was wrong."""

    writes: int = 0
    nodes: int = 0
    index: int = 0
    faults: list[str] = field(default_factory=list)


def wait_applied(cluster: LocalCluster, name: str, index: int, seconds_max: float) -> float:
    """Wait until a node has applied that entry; return the seconds that took. Raises `ConsensusTimeoutError`."""
    began = time.monotonic()

    def applied(status: ClusterStatus) -> bool | None:
        return (name in status.said and status.said[name]["last_applied"] >= index) or None

    cluster.wait_for(applied, f"{name} to apply {index:,} entries", seconds_max, name)
    return time.monotonic() - began


def compare(
    name: str, state: Mapping[str, Any], acknowledged: Mapping[str, str], uncertain: Mapping[str, str]
) -> list[str]:
    """Return what is wrong with a node's state: writes lost or changed, and keys that were never written."""
    faults = []
    missing = [key for key, value in acknowledged.items() if state.get(key) != value]
    foreign = [key for key, value in state.items() if acknowledged.get(key, uncertain.get(key)) != value]
    foreign = [key for key in foreign if key not in acknowledged]
    for keys, what in ((missing, "acknowledged writes are missing or differ"), (foreign, "keys were never written")):
        if keys:
            faults.append(f"{name}: {len(keys)} {what}: {', '.join(sorted(keys)[:NAMED_MAX])}")
    return faults


def prove(cluster: LocalCluster, acknowledged: Mapping[str, str], uncertain: Mapping[str, str]) -> Proof:
    """Compare all nodes with the acknowledged writes, and with each other, once they have applied what is committed.

    Raises `ConsensusError` if a node does not get there or cannot be read.
    """
    # A linearizable read is answered as of an index at or above every write that was acknowledged before it.
    with cluster.client() as client:
        proof = Proof(len(acknowledged), len(cluster.names), client.read_detail(PREFIX).applied)
    states = {}
    for name in cluster.names:
        wait_applied(cluster, name, proof.index, APPLIED_SECONDS_MAX)
        states[name] = cluster.contents(name, PREFIX)
        proof.faults += compare(name, states[name], acknowledged, uncertain)
    first, *others = states
    proof.faults += [f"{first} and {other} differ" for other in others if states[other] != states[first]]
    return proof
