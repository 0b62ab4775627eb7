"""The proof of the demo: the state of every node, compared with the acknowledged writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.client.sync import Client
from forge_consensus.demo.cluster import DemoCluster
from forge_consensus.demo.writer import PREFIX

PAGE_ROWS = 5_000
READ_SECONDS_MAX = 10.0
APPLIED_SECONDS_MAX = 15.0
NAMED_MAX = 3


@dataclass(slots=True)
class Proof:
    """What was compared, and everything that was wrong."""

    writes: int = 0
    nodes: int = 0
    index: int = 0
    faults: list[str] = field(default_factory=list)


def state_of(address: str) -> dict[str, Any]:
    """Return everything that the demo wrote, as this node holds it (stale reads)."""
    state: dict[str, Any] = {}
    with Client([address], READ_SECONDS_MAX, follow=False) as client:
        query: dict[str, Any] = {"scan": PREFIX, "limit": PAGE_ROWS}
        while True:
            page = client.read(query, "stale")
            state.update((key, value) for key, value in page)
            if len(page) < PAGE_ROWS:
                return state
            query["after"] = page[-1][0]


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


def prove(cluster: DemoCluster, acknowledged: Mapping[str, str], uncertain: Mapping[str, str]) -> Proof:
    """Compare all nodes with the acknowledged writes, and with each other, once they have applied what is committed.

    Raises `DemoFailed` if a node does not get there, `ConsensusError` if it cannot be read.
    """
    assert cluster.client is not None, "the cluster was started"
    # A linearizable read is answered as of an index at or above every write that was acknowledged before it.
    proof = Proof(len(acknowledged), len(cluster.nodes), cluster.client.read_detail(PREFIX).applied)
    states = {}
    for name, node in cluster.nodes.items():
        cluster.wait_applied(name, proof.index, APPLIED_SECONDS_MAX)
        states[name] = state_of(node.address)
        proof.faults += compare(name, states[name], acknowledged, uncertain)
    first, *others = states
    proof.faults += [f"{first} and {other} differ" for other in others if states[other] != states[first]]
    return proof
