"""The rates between two refreshes of a screen: what nodes and their cluster did in a second.

Nothing here asks a node or a clock. Whatever is not known is None and never 0: a rate before the second refresh, one of
a counter that went back, because the node was started again, and what the version of a node does not tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

Status = Mapping[str, Any]
"""A node's status as `Client.status` returns it."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What a node has counted since its start, as its status tells it."""

    boot: int
    """How often the node was started on its data folder; 0 if it does not tell."""
    uptime: float
    """Seconds from its start to its answer: the clock by which its own rates are measured."""
    operations: int | None
    """Commands that it answered."""
    reads: int | None
    """Queries that it answered."""
    commits: int | None
    """How often its disk made something durable."""
    slowest_commit: float | None
    """How many seconds the slowest of these of the last ten took; None if there was none."""

    @classmethod
    def of(cls, status: Status) -> Self:
        """Return the counters in a status. Raises KeyError if it lacks `uptime`, which every version tells."""
        return cls(
            boot=status.get("boot") or 0,
            uptime=status["uptime"],
            operations=status.get("operations_total"),
            reads=status.get("reads_total"),
            commits=status.get("flushes_total"),
            slowest_commit=status.get("commit_seconds") or None,
        )

    def goes_on_from(self, before: Self) -> bool:
        """Whether the node has run since `before` without a start in between."""
        return self.boot == before.boot and self.uptime > before.uptime


@dataclass(frozen=True, slots=True)
class Sample:
    """What the nodes of one cluster had counted when they were asked."""

    at: float
    """When they were asked, in seconds of a monotonic clock here."""
    cluster_id: str
    commit_index: int
    """The highest that a node of the cluster tells."""
    latest: str
    """The node that tells it."""
    nodes: Mapping[str, Counters]
    """Node id -> what it has counted; only of nodes that answered."""

    @classmethod
    def of(cls, answers: Mapping[str, Status], cluster_id: str, at: float) -> Self:
        """Return the sample of these answers, by node id.

        Raises ValueError if none is of that cluster, KeyError for one that is no status.
        """
        own = {node: answer for node, answer in answers.items() if answer["cluster_id"] == cluster_id}
        latest = max(own, key=lambda node: own[node]["commit_index"])
        counters = {node: Counters.of(answer) for node, answer in answers.items()}
        return cls(at, cluster_id, own[latest]["commit_index"], latest, counters)


@dataclass(frozen=True, slots=True)
class NodeRates:
    """What a node does in a second, and its slowest commit."""

    operations_per_second: float | None = None
    reads_per_second: float | None = None
    commits_per_second: float | None = None
    slowest_commit_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ClusterRates:
    """What a cluster does in a second, and the slowest commit of any node."""

    committed_per_second: float | None = None
    """Log entries that were committed, those of sessions and of leaders' starts included."""
    slowest_commit_seconds: float | None = None
    nodes: Mapping[str, NodeRates] = field(default_factory=dict)
    """Node id -> its rates; only of nodes that answered."""


def rates(before: Sample | None, now: Sample | None) -> ClusterRates:
    """Return the rates between two samples; None stands for a refresh in which no node answered, or for none yet."""
    if now is None:
        return ClusterRates()
    earlier = before.nodes if before is not None else {}
    nodes = {node: node_rates(earlier.get(node), counters) for node, counters in now.nodes.items()}
    return ClusterRates(
        committed_per_second=committed_rate(before, now),
        slowest_commit_seconds=max((each.slowest_commit_seconds or 0.0 for each in nodes.values()), default=0.0)
        or None,
        nodes=nodes,
    )


def node_rates(before: Counters | None, now: Counters) -> NodeRates:
    """Return the rates of one node, in seconds of its own clock, because answers may be under way for long."""
    if before is None or not now.goes_on_from(before):
        return NodeRates(slowest_commit_seconds=now.slowest_commit)
    seconds = now.uptime - before.uptime
    return NodeRates(
        operations_per_second=per_second(before.operations, now.operations, seconds),
        reads_per_second=per_second(before.reads, now.reads, seconds),
        commits_per_second=per_second(before.commits, now.commits, seconds),
        slowest_commit_seconds=now.slowest_commit,
    )


def committed_rate(before: Sample | None, now: Sample) -> float | None:
    """Return how many entries a cluster committed in a second.

    A new leader may know less at first than the one before: then nothing can be said until the next refresh.
    """
    if before is None or before.cluster_id != now.cluster_id:
        return None
    return per_second(before.commit_index, now.commit_index, seconds_between(before, now))


def seconds_between(before: Sample, now: Sample) -> float:
    """Return the time between two samples by the clock of a node that has run all the while, else by the one here.

    The node that tells the commit index goes before others.
    """
    for node, counters in sorted(now.nodes.items(), key=lambda item: item[0] != now.latest):
        earlier = before.nodes.get(node)
        if earlier is not None and counters.goes_on_from(earlier):
            return counters.uptime - earlier.uptime
    return now.at - before.at


def per_second(before: int | None, now: int | None, seconds: float) -> float | None:
    """Return by how much a counter rose in a second; None if it went back, is not known, or no time went by."""
    if before is None or now is None or now < before or seconds <= 0:
        return None
    return (now - before) / seconds
