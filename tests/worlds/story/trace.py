"""The trace of a story: a watcher that writes down the frames, durable data, roles and applied entries of nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack

from forge_consensus.actors.codec import Frame, decode
from forge_consensus.actors.messages import CheckPeer, CheckPeerReply, Hello, HelloReply, ReadResults, Results
from forge_consensus.events.types import (
    AddressDiffers,
    ConsensusEvent,
    LeaderElected,
    LeaderLost,
    LogAppended,
    LogCommitted,
    LogCompacted,
    LogTruncated,
    NodeRemoved,
    RoleChanged,
    SnapshotCompleted,
    SnapshotFailed,
    SnapshotRestored,
)
from forge_consensus.storage.backends.tables import Batch, DeleteRange, PutRun
from forge_consensus.storage.ledger.ledger import HARD
from forge_consensus.storage.ledger.record import index_of
from forge_consensus.storage.ledger.transaction import unsealed
from forge_consensus.testing.world.base import SimulatedBase, SimulatedCrashError
from forge_consensus.testing.world.network import Connection
from tests.worlds.story.network import FRAME_BYTES_MAX, HeldNetwork
from tests.worlds.story.words import told, told_configuration, told_outcomes, told_range

UNSAID = (CheckPeer, CheckPeerReply)
GREETINGS = (Hello, HelloReply)
OUTCOMES = (Results, ReadResults)
TOLD_EVENTS: dict[type[ConsensusEvent], Callable[[Any], str]] = {
    RoleChanged: lambda e: f"is {e.new}: {e.reason}",
    LeaderElected: lambda e: "" if e.leader == e.node_id else f"follows {e.leader}",
    LeaderLost: lambda e: f"loses {e.leader}: {e.reason}",
    LogAppended: lambda e: f"appends {told_range(e.first_index, e.last_index)}",
    LogCommitted: lambda e: f"commits {told_range(e.first_index, e.last_index)}",
    LogTruncated: lambda e: f"truncates {told_range(e.from_index, e.from_index + e.removed - 1)}",
    LogCompacted: lambda e: f"compacts, log begins at {e.first_index}",
    SnapshotCompleted: lambda e: f"has snapshot {e.index}/{e.snapshot_term}",
    SnapshotFailed: lambda e: f"snapshot {e.index} failed: {e.error}",
    SnapshotRestored: lambda e: f"restores snapshot {e.index}/{e.snapshot_term}",
    AddressDiffers: lambda e: f"finds {e.peer} at {e.listens}, while its configuration says {e.expected}",
    NodeRemoved: lambda e: f"knows that it was removed, {e.by} told it" if e.by else "knows that it was removed",
}
"""The events that a story prints, with their texts."""


class Trace:
    """Writes lines in the order of events, those of a node's turn indented below the frame that caused the turn."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.network: HeldNetwork | None = None
        self.hard: dict[str, tuple[int, str]] = {}
        self.applied: dict[str, int] = {}
        self.configurations: dict[str, str] = {}
        """By node: its configuration in force, as it was told last."""
        self.words: dict[int, str] = {}
        """The client's commands and queries, by number."""

    def write(self, line: str) -> None:
        """Write a line."""
        self.lines.append(line)

    def taken(self) -> list[str]:
        """Return the lines since the last call."""
        lines, self.lines = self.lines, []
        return lines

    def happens(self, name: str, text: str) -> None:
        """Write an event of a node."""
        self.lines.append(f"  {name} {text}")

    # --- the watcher -------------------------------------------------------------------------------------------------

    def began(self, node: SimulatedBase) -> None:
        """Note the term, the vote, the applied index and the configuration with which a process starts."""
        ledger = node.engine.ledger
        self.configurations[node.name] = told_configuration(ledger.configuration)
        self.hard[node.name] = (ledger.term, ledger.vote)
        self.applied[node.name] = ledger.applied

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Write the end of a process."""
        why = "" if isinstance(error, SimulatedCrashError) else f": {type(error).__name__}"
        self.happens(node.name, f"ends{why}")

    def durable(self, node: SimulatedBase, batch: Batch) -> None:
        """Write the changes of term, vote and log that are on disk now."""
        parts: list[str] = []
        for operation in batch.operations:
            if isinstance(operation, PutRun) and operation.table == "meta":
                parts = self.hard_state(node.name, dict(operation.items)) + parts
            elif isinstance(operation, PutRun) and operation.table == "log":
                first, last = index_of(operation.items[0][0]), index_of(operation.items[-1][0])
                parts.append(f"entries {told_range(first, last)}")
            elif isinstance(operation, DeleteRange) and operation.table == "log" and operation.stop is None:
                parts.append(f"cut from {index_of(operation.start)}")
        if parts:
            self.happens(node.name, "disk: " + ", ".join(parts))

    def hard_state(self, name: str, written: dict[bytes, bytes]) -> list[str]:
        """Return the changes of term and vote in words."""
        if HARD not in written:
            return []
        term, vote, _, _ = msgpack.unpackb(unsealed(HARD, written[HARD]))
        if self.hard[name] == (term, vote):
            return []
        self.hard[name] = (term, vote)
        return [f"term {term}", f"vote {vote or 'none'}"]

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """Write a request that leaves."""
        message = decode(data, FRAME_BYTES_MAX).message
        assert self.network is not None
        if (node.name, to) not in self.network.links:
            self.sends(node.name, to, message, " (no connection)")
        else:
            self.sends(node.name, to, message, " (lost)" if self.network.is_cut(node.name, to) else "")

    def answers(self, node: SimulatedBase, connection: Connection, frame: Frame) -> None:
        """Write an answer that leaves."""
        assert self.network is not None
        lost = self.network.is_cut(node.name, connection.owner.name)
        self.sends(node.name, connection.owner.name, frame.message, " (lost)" if lost else "")

    def sends(self, name: str, to: str, message: Any, fate: str) -> None:
        """Write a frame that leaves."""
        assert self.network is not None
        if isinstance(message, UNSAID) or (self.network.greeting and isinstance(message, GREETINGS)):
            return
        said = told_outcomes(message, self.words) if isinstance(message, OUTCOMES) else told(message)
        self.happens(name, f"sends {to} {said}{fate}")

    def turned(self, node: SimulatedBase) -> None:
        """Write the configuration that a turn has put in force, if it is another one, and the entries applied."""
        applied = node.engine.ledger.applied
        configuration = told_configuration(node.engine.ledger.configuration)
        if configuration != self.configurations[node.name]:
            self.configurations[node.name] = configuration
            self.happens(node.name, f"configuration: {configuration}")
        before, self.applied[node.name] = self.applied[node.name], applied
        if applied > before:
            self.happens(node.name, f"applies {told_range(before + 1, applied)}")

    # --- events ------------------------------------------------------------------------------------------------------

    def heard(self, event: ConsensusEvent) -> None:
        """Write a published event."""
        tell = TOLD_EVENTS.get(type(event))
        text = tell(event) if tell is not None else ""
        if text:
            self.happens(event.node_id, text)
