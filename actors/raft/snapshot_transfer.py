"""SnapshotTransfer: one snapshot on its way to one follower."""

from __future__ import annotations

from dataclasses import dataclass

from forge_consensus.actors.messages import InstallSnapshot
from forge_consensus.actors.notices import SnapshotSent
from forge_consensus.errors import SnapshotFailedError
from forge_consensus.storage.snapshots.file import SnapshotInfo, read_at


@dataclass(slots=True)
class SnapshotTransfer:
    """Which file goes to the follower `node`, how far it has come, and in which term of this leader.

    `info` is None while a snapshot has to be taken first. `offset` is the first byte that the follower lacks.
    """

    node: str
    term: int
    info: SnapshotInfo | None = None
    offset: int = 0
    sent_at: float = 0.0
    asked_ns: int = 0
    """CLOCK_BOOTTIME when the newest chunk left: an answer that echoes an earlier time answers an earlier chunk."""

    def begin(self, newest: SnapshotInfo | None, base_index: int, now: float) -> None:
        """Begin with the newest snapshot, if the log still continues it."""
        self.info = newest if newest is not None and newest.index >= base_index else None
        self.offset = 0
        self.sent_at = now

    def chunk(self, size_max: int) -> InstallSnapshot:
        """The next chunk, of at most `size_max` bytes.

        It never goes beyond the size that was announced: the follower would refuse the last chunk of a file that has
        grown, and begin anew for ever. Raises `SnapshotFailedError` if the file is gone or shorter than announced.
        """
        info = self.info
        assert info is not None, "there is a snapshot to send"
        data = read_at(info.path, self.offset, max(0, min(size_max, info.size_bytes - self.offset)))
        if not data and self.offset < info.size_bytes:  # the follower would ask for the same chunk for ever
            raise SnapshotFailedError(f"{info.path} has {self.offset} bytes instead of {info.size_bytes}")
        return InstallSnapshot(self.term, info.index, info.term, self.offset, info.size_bytes, data)

    def wanted(self, offset: int, sent_ns: int) -> bool:
        """The follower wants the chunk at `offset`; returns whether there is one to send now.

        `sent_ns` is the send time that the answer echoes. An answer to an earlier chunk counts only if it asks for a
        later offset: otherwise every repeated chunk would begin another chain of chunks and answers.
        """
        assert self.info is not None, "there is a snapshot to send"
        if offset <= self.offset and sent_ns < self.asked_ns:
            return False
        self.offset = offset
        return offset < self.info.size_bytes

    def in_vain(self, offset: int) -> bool:
        """Whether the follower got the whole file and refused it, because it wants it again from `offset` on."""
        return self.info is not None and offset < self.info.size_bytes <= self.offset

    def done(self) -> SnapshotSent:
        """The notice for the replication actor that the follower has the snapshot."""
        assert self.info is not None, "a snapshot was sent"
        return SnapshotSent(self.node, self.info.index)
