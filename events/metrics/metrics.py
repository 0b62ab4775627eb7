"""The Prometheus metrics of one node: from its events, its turns and, at each scrape, its status."""

from __future__ import annotations

import platform
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from forge_consensus.events.bus import EventBus
from forge_consensus.events.metrics.distribution import COUNTS, LONG_SECONDS, SECONDS, Distribution
from forge_consensus.events.metrics.page import MetricPage
from forge_consensus.events.metrics.status import add_cluster, add_log, add_peers, add_work, per_second
from forge_consensus.events.metrics.turn_report import TurnReport
from forge_consensus.events.subscription import Listener
from forge_consensus.events.types import (
    BecameCandidate,
    BecameFollower,
    ConfigRejected,
    ConfigReloaded,
    ConsensusEvent,
    LeaderElected,
    LeaderLost,
    LogTruncated,
    NodeFailed,
    QuorumLost,
    SnapshotCompleted,
    SnapshotFailed,
    SnapshotRestored,
)

Sample = Callable[[], Mapping[str, Any]]
"""Returns the node's status promptly, or raises; it is called on the scraper's thread."""

NAMES_MAX: Final = 64
"""Subscriptions beyond this number of names are counted as "other", because a label must not grow without bound."""


class NodeMetrics(Collector):
    """All metrics of a node, as a collector with a registry of its own; it can be registered in another one too.

    It subscribes inline to twelve rare kinds of events and never to those of the log. The engine calls `observe_turn`
    at the end of each turn, on the node's thread (3 us). All else happens during a scrape, on the scraper's thread.
    All samples carry the labels `node` and `cluster`. Counters begin at 0 when the node starts.
    """

    def __init__(self, bus: EventBus, sample: Sample, *, node: str, cluster: str, version: str = "") -> None:
        """Subscribe to the bus of a node.

        Args:
            bus: the bus of the node.
            sample: returns the node's status at a scrape.
            node: the node's id, a label of every sample.
            cluster: the cluster's id, a label of every sample.
            version: the version of the package, shown by `build_info`.

        """
        self.bus = bus
        self.sample = sample
        self.node, self.cluster, self.version = node, cluster, version
        self.campaigning = False
        self.leader: str | None = None
        self.elections = Counter({"won": 0, "lost": 0})
        self.counts = Counter({"leader_changes": 0, "leader_losses": 0, "quorum_losses": 0, "truncated": 0})
        self.peer_failures: Counter[str] = Counter()
        self.snapshots = Counter({"completed": 0, "failed": 0, "restored": 0})
        self.snapshot_bytes: int | None = None
        self.reloads = Counter({"reloaded": 0, "rejected": 0})
        self.reloaded_well: bool | None = None
        self.election_seconds = Distribution(SECONDS)
        self.snapshot_seconds = Distribution(LONG_SECONDS)
        self.operation_seconds = Distribution(SECONDS)
        self.turn_seconds = Distribution(SECONDS)
        self.flush_seconds = Distribution(SECONDS)
        self.turn_frames = Distribution(COUNTS)
        self.turn_messages = Distribution(COUNTS)
        self.turn_applied = Distribution(COUNTS)
        self.losses = Losses(bus)
        self.more: list[Callable[[MetricPage], None]] = []
        """What else is counted for this node, by those who serve it; each adds its part to every scrape."""
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)
        self.handlers: dict[type[ConsensusEvent], Callable[[Any], None]] = {
            BecameCandidate: self.became_candidate,
            BecameFollower: self.became_follower,
            LeaderElected: self.leader_elected,
            LeaderLost: self.leader_lost,
            QuorumLost: self.quorum_lost,
            LogTruncated: self.log_truncated,
            NodeFailed: self.peer_failed,
            SnapshotCompleted: self.snapshot_made,
            SnapshotRestored: self.snapshot_made,
            SnapshotFailed: self.snapshot_failed,
            ConfigReloaded: self.config_read,
            ConfigRejected: self.config_read,
        }
        self.subscriptions = [bus.subscribe(kind, self.count, inline=True) for kind in self.handlers]

    # --- counting events and turns -----------------------------------------------------------------------------------

    def count(self, event: ConsensusEvent) -> None:
        """Count an event. It is called inline, because it takes a microsecond and none of these kinds is frequent."""
        self.handlers[type(event)](event)

    def log_truncated(self, event: LogTruncated) -> None:
        """Count the entries that were removed from the log."""
        self.counts["truncated"] += event.removed

    def peer_failed(self, event: NodeFailed) -> None:
        """Count a peer that shows no sign of life any more."""
        self.peer_failures[event.peer] += 1

    def leader_lost(self, event: LeaderLost) -> None:
        """Count a leader that this node does not hear from any more."""
        self.counts["leader_losses"] += 1

    def quorum_lost(self, event: QuorumLost) -> None:
        """Count a loss of the quorum."""
        self.counts["quorum_losses"] += 1

    def became_candidate(self, event: BecameCandidate) -> None:
        """Note a campaign; if the node was a candidate already, its previous election had no winner here."""
        if self.campaigning:
            self.elections["lost"] += 1
        self.campaigning = True

    def became_follower(self, event: BecameFollower) -> None:
        """Count a lost election, if the node was a candidate."""
        if self.campaigning:
            self.elections["lost"] += 1
        self.campaigning = False

    def leader_elected(self, event: LeaderElected) -> None:
        """Count an election that this node won, with its duration, and a change of the leader."""
        if event.leader == self.node:
            self.elections["won"] += 1
            self.election_seconds.add(event.duration)
            self.campaigning = False
        if event.leader != self.leader:
            self.leader = event.leader
            self.counts["leader_changes"] += 1

    def snapshot_failed(self, event: SnapshotFailed) -> None:
        """Count a snapshot that could not be taken or installed."""
        self.snapshots["failed"] += 1

    def snapshot_made(self, event: SnapshotCompleted | SnapshotRestored) -> None:
        """Count a snapshot that was taken or installed."""
        self.snapshots["completed" if isinstance(event, SnapshotCompleted) else "restored"] += 1
        self.snapshot_bytes = event.size
        self.snapshot_seconds.add(event.duration)

    def config_read(self, event: ConfigReloaded | ConfigRejected) -> None:
        """Count a configuration that was read again."""
        self.reloaded_well = isinstance(event, ConfigReloaded)
        self.reloads["reloaded" if self.reloaded_well else "rejected"] += 1

    def observe_turn(self, report: TurnReport) -> None:
        """Count what a turn has cost; pass this method to the engine's `observe`."""
        self.turn_seconds.add(report.seconds)
        if report.commit_seconds is not None:
            self.flush_seconds.add(report.commit_seconds)
        self.turn_frames.add(report.frames)
        self.turn_messages.add(report.messages)
        if report.applied:
            self.turn_applied.add(report.applied)
        ended = report.began + report.seconds
        for began, commands in report.operations:
            self.operation_seconds.add(ended - began, commands)

    # --- answering a scrape ------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Return all metric families, as a Prometheus registry asks for them."""
        page = MetricPage(self.node, self.cluster)
        status = self.take_sample()
        page.gauge(
            "responding",
            "1 if the node answered this scrape; if it did not, its gauges are missing.",
            status is not None,
        )
        if status is not None:
            for add in (add_cluster, add_log, add_work, add_peers):
                add(page, status)
        self.add_events(page)
        self.add_turns(page)
        page.counter(
            "events_dropped",
            "Events that were dropped because a listener was too slow, by subscription.",
            self.losses.of("dropped"),
            "subscription",
        )
        page.counter(
            "event_handler_failures",
            "Events for which a handler raised an error, by subscription.",
            self.losses.of("failed"),
            "subscription",
        )
        for add_more in self.more:
            add_more(page)
        versions = ((self.version, platform.python_version()), 1)
        page.gauge(
            "build_info", "Always 1; the labels name the versions that run.", (versions,), "version", "python_version"
        )
        return iter(page.families)

    def take_sample(self) -> Mapping[str, Any] | None:
        """Return the node's status; None if the node does not answer, which `responding` reports."""
        try:
            return self.sample()
        except Exception:
            return None

    def add_events(self, page: MetricPage) -> None:
        """Add the metrics that come from events."""
        page.counter(
            "leader_elections", "Elections in which this node was a candidate, by result.", self.elections, "result"
        )
        page.histogram(
            "leader_election_duration_seconds",
            "Time from the start of this node's campaign to its election as leader.",
            self.election_seconds,
        )
        page.counter("leader_changes", "How often this node saw a new leader.", self.counts["leader_changes"])
        page.counter(
            "leader_losses", "How often this node stopped hearing from its leader.", self.counts["leader_losses"]
        )
        page.counter("quorum_losses", "How often too few voters were healthy to decide.", self.counts["quorum_losses"])
        page.counter(
            "peer_failures", "How often the peer stopped showing signs of life.", self.peer_failures.copy(), "peer"
        )
        page.counter(
            "log_truncated_entries",
            "Uncommitted entries that were removed in favour of a newer leader's.",
            self.counts["truncated"],
        )
        page.counter(
            "snapshots", "Snapshots taken, failed, or installed from the leader, by result.", self.snapshots, "result"
        )
        page.histogram(
            "snapshot_duration_seconds", "Time to take a snapshot, or to install one.", self.snapshot_seconds
        )
        page.gauge("snapshot_size_bytes", "Bytes of the newest snapshot since the node started.", self.snapshot_bytes)
        page.counter("config_reloads", "How often the configuration was read again, by result.", self.reloads, "result")
        page.gauge(
            "config_reload_success", "1 if the configuration that was read last has no faults.", self.reloaded_well
        )

    def add_turns(self, page: MetricPage) -> None:
        """Add the metrics that come from turns."""
        page.histogram(
            "operation_duration_seconds",
            "Time from the arrival of a command to its answer.",
            self.operation_seconds,
        )
        page.histogram("turn_duration_seconds", "Time that a turn took, its flush included.", self.turn_seconds)
        page.histogram(
            "flush_duration_seconds", "Time that the flush of a turn took, for turns that wrote.", self.flush_seconds
        )
        page.histogram("turn_frames", "Frames that a turn received.", self.turn_frames)
        page.histogram("turn_messages", "Messages that actors handled in a turn.", self.turn_messages)
        page.histogram(
            "turn_applied_entries", "Entries that a turn applied, for turns that applied any.", self.turn_applied
        )

    def close(self) -> None:
        """Cancel the subscriptions; the counts stay."""
        for subscription in self.subscriptions:
            subscription.cancel()


class GoOriginalMetrics(Collector):
    """The one metric name of the Go original that `promtool check metrics` rejects.

    `operations_per_sec` is a rate and abbreviates its unit, so it is served apart from the others, at `/metrics/go`.
    """

    def __init__(self, metrics: NodeMetrics) -> None:
        """Make a collector, with a registry of its own, that samples the same node as `metrics`."""
        self.metrics = metrics
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Return the family, as a Prometheus registry asks for it."""
        metrics = self.metrics
        page = MetricPage(metrics.node, metrics.cluster)
        status = metrics.take_sample()
        if status is not None:
            text = "Commands per second since the node started; rate() of operations_total is more useful."
            page.gauge("operations_per_sec", text, per_second(status))
        return iter(page.families)


class Losses:
    """The events that listeners missed, summed by name; a listener that is gone keeps its last known number."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.lock = threading.Lock()
        self.totals: dict[str, Counter[str]] = {}
        self.seen: dict[str, WeakKeyDictionary[Listener[Any], int]] = {}

    def of(self, what: str) -> dict[str, int]:
        """Return the sums of a counter of listeners ("dropped" or "failed") by subscription name, zeros included."""
        with self.lock:  # two threads may scrape at once
            totals = self.totals.setdefault(what, Counter())
            seen = self.seen.setdefault(what, WeakKeyDictionary())
            for listener in self.bus.listeners:
                name = listener.name
                if name not in totals and len(totals) >= NAMES_MAX:
                    name = "other"
                missed = getattr(listener, what, 0)
                totals[name] += missed - seen.get(listener, 0)
                seen[listener] = missed
            return dict(totals)
