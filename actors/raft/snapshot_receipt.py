"""SnapshotReceipt: one snapshot on its way from a leader into this node's state.

It holds everything that is in progress on the receiving side; the snapshot actor has at most one.
"""

from __future__ import annotations

import zlib
from enum import Enum
from typing import Any

from forge_consensus.actors.messages import InstallSnapshot
from forge_consensus.storage.ledger.room import size_text
from forge_consensus.storage.snapshots.receiver import SnapshotReceiver
from forge_consensus.storage.snapshots.store import Installation


class Stage(Enum):
    """The stages of a receipt, in order."""

    RECEIVING = "receiving"
    """Chunks arrive from the leader, one after another."""
    VERIFYING = "verifying"
    """Every chunk has arrived; a helper checks the file and makes it durable."""
    INSTALLING = "installing"
    """The state is copied into new tables, or handed to a user's machine; the old state is still in force."""
    SWITCHING = "switching"
    """The switch to the new state is part of a turn that is not on disk yet."""


class SnapshotReceipt:
    """One snapshot, from whoever leads and has it.

    Two leaders' files of one index may differ in their bytes, so it is the checksum of the whole that says whether it
    is the same one. `leader` and `term` say who sent the last chunk.
    """

    def __init__(self, receiver: SnapshotReceiver, leader: str, term: int) -> None:
        self.receiver = receiver
        self.leader = leader
        self.term = term
        self.stage = Stage.RECEIVING
        self.asker: Any = None
        """The sender of the last chunk; its request is answered when the state is durable here."""
        self.installation: Installation | None = None
        self.install_began = 0.0
        """The running clock, in seconds, when the installation began."""

    @property
    def index(self) -> int:
        """The last index that the snapshot holds."""
        return self.receiver.index

    @property
    def takes_chunks(self) -> bool:
        """Whether chunks are still missing; until then the leader may start over with another file."""
        return self.stage is Stage.RECEIVING

    @property
    def replaces_state(self) -> bool:
        """Whether this node's state is being replaced, so that no snapshot of it may be taken."""
        return self.stage in (Stage.INSTALLING, Stage.SWITCHING)

    def text(self, *, restoring: bool) -> str:
        """What becomes of it now, for people. `restoring` says whether a user's machine has been handed it."""
        what, held = f"the snapshot up to entry {self.index}", self.receiver
        if self.stage is Stage.RECEIVING:
            part = held.next_offset / max(1, held.total_bytes)
            return f"receives {what}: {part:.0%} of {size_text(held.total_bytes)}"
        if self.stage is Stage.VERIFYING:
            return f"checks {what}"
        return f"restores its state machine from {what}" if restoring else f"installs {what}"

    def is_of(self, chunk: InstallSnapshot, leader: str) -> bool:
        """Whether the chunk belongs to the file that is being received."""
        held = self.receiver
        if (held.index, held.term, held.total_bytes) != (chunk.index, chunk.entry_term, chunk.size):
            return False
        return held.digest == chunk.digest if chunk.digest else (self.leader, self.term) == (leader, chunk.term)

    def take(self, chunk: InstallSnapshot, leader: str) -> int:
        """Write a chunk and return the offset wanted next; a damaged chunk is as good as lost.

        Raises `SnapshotFailedError` if the disk refuses it.
        """
        self.leader, self.term = leader, chunk.term
        if chunk.digest and zlib.crc32(chunk.data) != chunk.crc:
            return self.receiver.next_offset
        return self.receiver.write(chunk.offset, chunk.data)

    @property
    def may_go_on(self) -> bool:
        """Whether another leader may send the rest."""
        return bool(self.receiver.digest)

    def verify(self, asker: Any) -> None:
        """Enter the stage of verifying: `asker` sent the last chunk, and the file now belongs to the helper's job."""
        self.stage = Stage.VERIFYING
        self.asker = asker

    def install(self, installation: Installation, now: float) -> None:
        """Enter the stage of installing: the file is whole and durable. `now` is the running clock in seconds."""
        self.stage = Stage.INSTALLING
        self.installation = installation
        self.install_began = now
