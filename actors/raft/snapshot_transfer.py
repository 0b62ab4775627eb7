"""SnapshotTransfer: one snapshot that a leader sends to one follower."""

from __future__ import annotations

from dataclasses import dataclass

from forge_consensus.actors.messages import InstallSnapshot
from forge_consensus.actors.notices import SnapshotSent
from forge_consensus.errors import SnapshotFailedError
from forge_consensus.storage.snapshots.file import SnapshotInfo, read_at

PAUSES_MAX = 64
"""The longest pause before a refused snapshot is sent again, in multiples of the shortest."""


@dataclass(slots=True)
class SnapshotTransfer:
    """Which file is sent to the follower `node`, how far it has come, and in which term of this leader.

    `info` is None while a snapshot has to be taken first. `offset` is the first byte that the follower lacks.
    """

    node: str
    term: int
    info: SnapshotInfo | None = None
    offset: int = 0
    sent_at: float = 0.0
    refusal: str = ""
    """Why the follower refused the snapshot last; empty if it did not."""
    pause: float = 0.0
    """How many seconds pass between a refusal and the next try; each time twice as many."""
    resume_at: float | None = None
    """When to try again after a refusal, by the running clock; None if the follower has refused nothing."""
    asked_ns: int = 0
    """CLOCK_BOOTTIME when the newest chunk left: an answer that echoes an earlier time answers an earlier chunk."""

    def refused(self, refusal: str, now: float, pause_min: float) -> None:
        """Note that the follower does not take the snapshot, so that it is not sent to it at full speed for ever."""
        self.refusal = refusal
        self.pause = min(max(2 * self.pause, pause_min), PAUSES_MAX * pause_min)
        self.resume_at = now + self.pause

    def begin(self, newest: SnapshotInfo | None, base_index: int, now: float) -> None:
        """Start with the newest snapshot if the log continues it, otherwise wait for a new one."""
        self.info = newest if newest is not None and newest.index >= base_index else None
        self.offset = 0
        self.resume_at = None
        self.sent_at = now

    def chunk(self, size_max: int) -> InstallSnapshot:
        """The next chunk, of at most `size_max` bytes.

        It never exceeds the announced size: the follower would refuse the last chunk of a file that has grown, and
        start over forever. Raises `SnapshotFailedError` if the file is gone or shorter than announced.
        """
        info = self.info
        assert info is not None, "there is a snapshot to send"
        data = read_at(info.path, self.offset, max(0, min(size_max, info.size_bytes - self.offset)))
        if not data and self.offset < info.size_bytes:  # otherwise the follower would request the same chunk forever
            raise SnapshotFailedError(f"{info.path} has {self.offset} bytes instead of {info.size_bytes}")
        return InstallSnapshot(self.term, info.index, info.term, self.offset, info.size_bytes, data)

    def question(self) -> InstallSnapshot:
        """A chunk without bytes: the reply says what the follower wants next, and whether it lives.

        A chunk that was not answered is not sent again as it is, because the frames that a stopped process does not
        read pile up in this node's memory.
        """
        info = self.info
        assert info is not None, "there is a snapshot to send"
        return InstallSnapshot(self.term, info.index, info.term, self.offset, info.size_bytes, b"")

    def wanted(self, offset: int, sent_ns: int) -> bool:
        """Note that the follower wants the chunk at `offset`; returns whether there is one to send now.

        `sent_ns` is the send time that the reply echoes. A reply to an earlier chunk counts only if it asks for a later
        offset: otherwise every repeated chunk would start another chain of chunks and replies.
        """
        assert self.info is not None, "there is a snapshot to send"
        if offset <= self.offset and sent_ns < self.asked_ns:
            return False
        self.offset = offset
        return offset < self.info.size_bytes

    def in_vain(self, offset: int) -> bool:
        """Whether the follower received the whole file and refused it: its reply asks again for `offset`."""
        return self.info is not None and offset < self.info.size_bytes <= self.offset

    def done(self) -> SnapshotSent:
        """The notice for the replication actor that the follower has the snapshot."""
        assert self.info is not None, "a snapshot was sent"
        return SnapshotSent(self.node, self.info.index)
