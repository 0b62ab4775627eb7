"""What this node has reported of itself by events: it survives a rebuild of the actors and is rolled back with a turn.

Actors report transitions ("became leader", "the quorum is lost"). So the fact that was reported last must survive a
rebuild of the actors, and must be rolled back with a turn, because the turn's events are never published.
"""

from __future__ import annotations

from typing import NamedTuple

from forge_consensus.actors.runtime.shared import HealthState, PeerStatus, Role, SharedState
from forge_consensus.storage.ledger.configuration import Configuration


class Mark(NamedTuple):
    """The reported facts at the end of a turn."""

    role: Role
    leader: str | None
    has_quorum: bool
    health: HealthState
    details: tuple[str, ...]
    saving: int
    committed: int
    peers: dict[str, PeerStatus]
    configuration: Configuration
    removed: str


class Reported:
    """Reported facts that are not in `SharedState`, and a copy of all reported facts as of the last published turn.

    `has_quorum`, `health` and `details` are written by the health actor; `saving` by the snapshot actor: the index that
    SnapshotStarted named, 0 while no snapshot is being taken; `committed` by the replication and snapshot actors: the
    highest index that LogCommitted or SnapshotRestored named; `configuration` by the membership actor: the committed
    one of which ClusterUpdated told last, and `removed`: why this node is no member any more, as a sentence; empty if
    it may be one.
    """

    def __init__(self, shared: SharedState, configuration: Configuration) -> None:
        self.shared = shared
        self.has_quorum = False
        self.health = HealthState.RECOVERING
        self.details: tuple[str, ...] = ()
        self.saving = 0
        self.committed = 0
        self.configuration = configuration
        self.removed = ""
        self.mark()

    def mark(self) -> None:
        """Note the present facts, for `take_back`, because the turn's events were published."""
        shared = self.shared
        peers = {node: view.status for node, view in shared.peers.items()}
        self.last_mark = Mark(
            shared.role,
            shared.leader,
            self.has_quorum,
            self.health,
            self.details,
            self.saving,
            self.committed,
            peers,
            self.configuration,
            self.removed,
        )

    def take_back(self) -> None:
        """Return to the last mark, because the turn was rolled back and its events were never published."""
        shared, mark = self.shared, self.last_mark
        shared.role, shared.leader = mark.role, mark.leader
        self.has_quorum, self.health, self.details = mark.has_quorum, mark.health, mark.details
        self.saving, self.committed = mark.saving, mark.committed
        self.configuration, self.removed = mark.configuration, mark.removed
        for node, view in shared.peers.items():
            view.status = mark.peers.get(node, PeerStatus.INACTIVE)
