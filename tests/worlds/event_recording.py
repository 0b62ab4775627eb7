"""A recording of all events that the nodes of a simulated cluster publish, each checked against the node's disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack

from forge_consensus.actors.codec import Frame
from forge_consensus.events.types import (
    BecameCandidate,
    BecameLeader,
    ConsensusEvent,
    LogAppended,
    LogCommitted,
    LogCompacted,
    LogTruncated,
    SnapshotCompleted,
    SnapshotRestored,
)
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.ledger import BASE, HARD
from forge_consensus.storage.ledger.record import key_of
from forge_consensus.storage.ledger.transaction import get_meta
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.network import Connection
from tests.worlds.event_rules import BrokenRuleError, Rules


@dataclass(slots=True)
class Recording:
    """Attach it to a cluster before the start. `SimulatedCluster.run` raises a broken rule."""

    cluster: SimulatedCluster
    events: dict[str, list[ConsensusEvent]] = field(default_factory=dict)
    boots: dict[str, list[int]] = field(default_factory=dict)
    """The position in `events` at which each of the node's processes began."""
    rules: dict[str, Rules] = field(default_factory=dict)
    committed: dict[str, int] = field(default_factory=dict)
    """The number of the last turn that each node committed."""
    turn: list[ConsensusEvent] = field(default_factory=list)
    broken: BaseException | None = None

    def __post_init__(self) -> None:
        elected: dict[int, str] = {}
        for name, node in self.cluster.nodes.items():
            self.events[name], self.boots[name] = [], []
            self.rules[name] = Rules(name, elected)
            node.bus.subscribe(ConsensusEvent, lambda event, name=name: self.observe(name, event), inline=True)  # type: ignore[misc]
        self.cluster.watchers.append(self)

    def observe(self, name: str, event: ConsensusEvent) -> None:
        """Record an event that a node has published."""
        self.events[name].append(event)
        self.turn.append(event)
        base = self.cluster.nodes[name].base
        try:
            assert base is not None, "a node that runs tells it"
            if self.committed.get(name) != base.engine.totals.turns:
                raise BrokenRuleError(f"told before the commit of its turn: {event}")
            self.learn(base)
            self.rules[name].see(event)
        except BaseException as error:
            self.broken = self.broken or error

    def learn(self, node: SimulatedBase) -> None:
        """Note how many nodes vote by the configurations in a node's log, and how many of them are required."""
        for _, configuration in node.engine.ledger.configurations.rows:
            (voters, *outgoing), total = [set(each) for each, _ in configuration.quorum.sets], len(configuration.voters)
            required = len(voters) // 2 + 1 if not outgoing else configuration.quorum.required
            self.rules[node.name].quorums.add((total, required, not outgoing))

    # --- as a watcher of the cluster ---------------------------------------------------------------------------------

    def began(self, node: SimulatedBase) -> None:
        """Note a new process, and count its committed turns."""
        if node.name not in self.boots:  # it joined later
            return
        self.boots[node.name].append(len(self.events[node.name]))
        self.rules[node.name].start()
        self.committed.pop(node.name, None)
        commit = node.engine.ledger.commit

        def noted() -> bool:
            wrote = commit()
            self.committed[node.name] = node.engine.totals.turns
            return wrote

        node.engine.ledger.commit = noted  # type: ignore[method-assign]

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Drop the events of the turn that the end of the process interrupted."""
        self.turn.clear()

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """A batch is on the node's disk."""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """A request leaves."""

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """An answer leaves."""

    def turned(self, node: SimulatedBase) -> None:
        """Check after a turn that its events are on disk. Raises the first broken rule."""
        events, self.turn = self.turn, []
        if self.broken is not None:
            raise self.broken
        rewritten = any(isinstance(event, LogTruncated | SnapshotRestored) for event in events)
        for event in events:
            if not (rewritten and isinstance(event, LogAppended)) and not on_disk(node, event):
                raise BrokenRuleError(f"not on disk: {event}")


def on_disk(node: SimulatedBase, event: ConsensusEvent) -> bool:
    """Whether a node's disk holds the state that an event of the turn that just ended reports."""
    disk = node.disk
    term, vote, *_ = msgpack.unpackb(get_meta(disk, HARD) or b"\x92\x00\xa0")
    stored = get_meta(disk, BASE)
    base: int = msgpack.unpackb(stored)[0] if stored else 0
    found: Any = term >= event.term
    if isinstance(event, BecameCandidate | BecameLeader) and term == event.term:
        found = vote == node.name
    elif isinstance(event, LogAppended | LogCommitted):
        found = event.last_index <= base or disk.get("log", key_of(event.last_index))
    elif isinstance(event, LogCompacted):
        found = base >= event.first_index - 1
    elif isinstance(event, SnapshotRestored):
        found = base >= event.index
    elif isinstance(event, SnapshotCompleted):
        newest = node.engine.opened.snapshots.newest
        found = newest is not None and newest.index >= event.index and newest.path.exists()
    return bool(found) and term >= event.term


def stop(cluster: SimulatedCluster, name: str) -> None:
    """Stop a node in order, as the ZeroMQ base does: the last event, a sealed journal, the end."""
    base = cluster.nodes[name].running
    assert base is not None, f"{name} runs"
    cluster.run(1.0, lambda: base.free_at <= cluster.timeline.now)  # a turn in progress is finished first
    base.engine.finish()
    cluster.crash(name)
