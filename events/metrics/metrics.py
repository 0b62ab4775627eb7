"""The metrics of one node for Prometheus: from its events, its turns and, at scrape time, its status."""

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
"""Returns the node's status, soon, or raises; called on the thread of whoever scrapes."""

NAMES_MAX: Final = 64
"""Subscriptions beyond so many names are counted as "other", for a label must not grow without end."""


class NodeMetrics(Collector):
    """Everything that a node has to say to Prometheus, in a registry of its own or in one that you choose.

    It subscribes inline to ten rare kinds of events and never to those of the log. The engine calls `observe_turn` at
    the end of each turn, on the node's thread (3 us). Everything else happens during a scrape, on the scraper's thread.
    All samples carry the labels `node` and `cluster`. Counters begin at 0 when the node starts.
    """

    def __init__(self, bus: EventBus, sample: Sample, *, node: str, cluster: str, version: str = "") -> None:
        """Begin to listen. `version` is that of the package, for `build_info`."""
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
        self.election_seconds = Distribution(SECONDS)
        self.snapshot_seconds = Distribution(LONG_SECONDS)
        self.operation_seconds = Distribution(SECONDS)
        self.turn_seconds = Distribution(SECONDS)
        self.flush_seconds = Distribution(SECONDS)
        self.turn_frames = Distribution(COUNTS)
        self.turn_messages = Distribution(COUNTS)
        self.turn_applied = Distribution(COUNTS)
        self.losses = Losses(bus)
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
        }
        self.subscriptions = [bus.subscribe(kind, self.count, inline=True) for kind in self.handlers]

    # --- what is told ------------------------------------------------------------------------------------------------

    def count(self, event: ConsensusEvent) -> None:
        """Count an event; inline, for it takes a microsecond and none of these kinds is frequent."""
        self.handlers[type(event)](event)

    def log_truncated(self, event: LogTruncated) -> None:
        """Entries went."""
        self.counts["truncated"] += event.removed

    def peer_failed(self, event: NodeFailed) -> None:
        """A peer gives no sign of life."""
        self.peer_failures[event.peer] += 1

    def leader_lost(self, event: LeaderLost) -> None:
        """This node hears of its leader no more."""
        self.counts["leader_losses"] += 1

    def quorum_lost(self, event: QuorumLost) -> None:
        """Too few voters are healthy."""
        self.counts["quorum_losses"] += 1

    def became_candidate(self, event: BecameCandidate) -> None:
        """The node asks for votes; if it did so before, that election is over without a winner here."""
        if self.campaigning:
            self.elections["lost"] += 1
        self.campaigning = True

    def became_follower(self, event: BecameFollower) -> None:
        """Who asked for votes and follows has lost."""
        if self.campaigning:
            self.elections["lost"] += 1
        self.campaigning = False

    def leader_elected(self, event: LeaderElected) -> None:
        """Somebody leads; only the winner itself knows how long it took."""
        if event.leader == self.node:
            self.elections["won"] += 1
            self.election_seconds.add(event.duration)
            self.campaigning = False
        if event.leader != self.leader:
            self.leader = event.leader
            self.counts["leader_changes"] += 1

    def snapshot_failed(self, event: SnapshotFailed) -> None:
        """A snapshot could not be written or taken over."""
        self.snapshots["failed"] += 1

    def snapshot_made(self, event: SnapshotCompleted | SnapshotRestored) -> None:
        """A snapshot was written or taken over."""
        self.snapshots["completed" if isinstance(event, SnapshotCompleted) else "restored"] += 1
        self.snapshot_bytes = event.size
        self.snapshot_seconds.add(event.duration)

    def observe_turn(self, report: TurnReport) -> None:
        """A turn is over; for the engine's `observe`."""
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

    # --- what is scraped ---------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Every family, for a registry."""
        page = MetricPage(self.node, self.cluster)
        status = self.take_sample()
        page.gauge(
            "responding",
            "1 if the node answered this scrape; without an answer its gauges are missing.",
            status is not None,
        )
        if status is not None:
            for add in (add_cluster, add_log, add_work, add_peers):
                add(page, status)
        self.add_events(page)
        self.add_turns(page)
        page.counter(
            "events_dropped",
            "Events that a listener was too slow for, by subscription.",
            self.losses.of("dropped"),
            "subscription",
        )
        page.counter(
            "event_handler_failures",
            "Events at which a handler raised, by subscription.",
            self.losses.of("failed"),
            "subscription",
        )
        versions = ((self.version, platform.python_version()), 1)
        page.gauge("build_info", "1; the labels say what runs.", (versions,), "version", "python_version")
        return iter(page.families)

    def take_sample(self) -> Mapping[str, Any] | None:
        """The node's status; None from a node that does not answer, which is a finding and no error."""
        try:
            return self.sample()
        except Exception:
            return None

    def add_events(self, page: MetricPage) -> None:
        """What events told."""
        page.counter("leader_elections", "Elections in which this node stood, by result.", self.elections, "result")
        page.histogram(
            "leader_election_duration_seconds", "From this node's campaign to its victory.", self.election_seconds
        )
        page.counter(
            "leader_changes", "Times that this node saw another node lead than before.", self.counts["leader_changes"]
        )
        page.counter("leader_losses", "Times that this node lost sight of its leader.", self.counts["leader_losses"])
        page.counter("quorum_losses", "Times that too few voters were healthy.", self.counts["quorum_losses"])
        page.counter(
            "peer_failures", "Times that the peer gave no sign of life any more.", self.peer_failures.copy(), "peer"
        )
        page.counter(
            "log_truncated_entries", "Uncommitted entries that gave way to a newer leader's.", self.counts["truncated"]
        )
        page.counter("snapshots", "Snapshots written, failed, or taken over from the leader.", self.snapshots, "result")
        page.histogram("snapshot_duration_seconds", "Writing a snapshot, or taking one over.", self.snapshot_seconds)
        page.gauge("snapshot_size_bytes", "Bytes of the newest snapshot since the start.", self.snapshot_bytes)

    def add_turns(self, page: MetricPage) -> None:
        """What turns cost."""
        page.histogram(
            "operation_duration_seconds",
            "A command, from the turn that took it in to its answer.",
            self.operation_seconds,
        )
        page.histogram("turn_duration_seconds", "A turn, its flush included.", self.turn_seconds)
        page.histogram("flush_duration_seconds", "The flush of a turn that wrote.", self.flush_seconds)
        page.histogram("turn_frames", "Frames that a turn took from the wire.", self.turn_frames)
        page.histogram("turn_messages", "Messages that actors handled in a turn.", self.turn_messages)
        page.histogram("turn_applied_entries", "Entries that a turn applied, of turns that did.", self.turn_applied)

    def close(self) -> None:
        """Listen no more; what was counted stays."""
        for subscription in self.subscriptions:
            subscription.cancel()


class GoOriginalMetrics(Collector):
    """The one name of the seed that `promtool check metrics` objects to: a rate, with an abbreviated unit."""

    def __init__(self, metrics: NodeMetrics) -> None:
        """Of the node that these are the metrics of."""
        self.metrics = metrics
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """The family, for a registry."""
        metrics = self.metrics
        page = MetricPage(metrics.node, metrics.cluster)
        status = metrics.take_sample()
        if status is not None:
            text = "Commands a second since the node started; better: rate() of operations_total."
            page.gauge("operations_per_sec", text, per_second(status))
        return iter(page.families)


class Losses:
    """What listeners missed, summed by their names; a listener that is gone keeps what it had missed when last seen."""

    def __init__(self, bus: EventBus) -> None:
        self.bus = bus
        self.lock = threading.Lock()
        self.totals: dict[str, Counter[str]] = {}
        self.seen: dict[str, WeakKeyDictionary[Listener[Any], int]] = {}

    def of(self, what: str) -> dict[str, int]:
        """How many of `what` ("dropped", "failed") by the name of the subscription, zeros included."""
        with self.lock:  # two may scrape at once
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
