"""SnapshotTransfer: one snapshot that a leader sends to one follower."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from math import inf

from forge_consensus.actors.messages import InstallSnapshot, SnapshotReply
from forge_consensus.actors.notices import SnapshotSent
from forge_consensus.errors import SnapshotFailedError
from forge_consensus.storage.snapshots.file import DIGEST_BYTES, SnapshotInfo, read_at

PAUSES_MAX = 64
"""The longest pause before a refused snapshot is sent again, in multiples of the shortest."""


@dataclass(slots=True)
class SnapshotTransfer:
    """Which file is sent to the follower `node`, how far it has come, and in which term of this leader.

    `info` is None while a snapshot has to be taken first. `acked` is the first byte that the follower lacks, `next` the
    first that was not sent; between them lie at most `window` chunks. Times of frames are CLOCK_BOOTTIME in
    nanoseconds, because replies echo them; `sent_at` and `resume_at` are seconds of the running clock.
    """

    node: str
    term: int
    info: SnapshotInfo | None = None
    digest: bytes = b""
    """The checksum of the whole file; empty until it is read."""
    acked: int = 0
    next: int = 0
    window: int = 1
    quickest_ns: float = inf
    """The shortest round trip of a chunk."""
    run_ns: int = 0
    """When sending last began at `acked`: a reply to a chunk that left before tells of no chunk that is missing now."""
    sent_at: float = 0.0
    sent_bytes: int = 0
    """The bytes of chunks that were sent in all, those that were sent twice included."""
    refusal: str = ""
    """Why the follower refused the snapshot last; empty if it did not."""
    pause: float = 0.0
    """How many seconds pass between a refusal and the next try; each time twice as many."""
    resume_at: float | None = None
    """When to try again after a refusal; None if the follower has refused nothing."""

    def refused(self, refusal: str, now: float, pause_min: float) -> None:
        """Note that the follower does not take the snapshot, so that it is not sent to it at full speed for ever."""
        self.refusal = refusal
        self.pause = min(max(2 * self.pause, pause_min), PAUSES_MAX * pause_min)
        self.resume_at = now + self.pause

    def begin(self, newest: SnapshotInfo | None, base_index: int, now: float) -> None:
        """Start with the newest snapshot if the log continues it, otherwise wait for a new one.

        The first chunk is sent alone. If the follower has a part of this file already, its reply says how much.
        """
        self.info = newest if newest is not None and newest.index >= base_index else None
        self.digest = b""
        self.acked = self.next = 0
        self.window, self.quickest_ns = 1, inf
        self.resume_at = None
        self.sent_at = now

    def may_send(self, chunk_bytes: int) -> bool:
        """Whether another chunk may leave now."""
        info = self.info
        if info is None or self.resume_at is not None:
            return False
        return self.next < info.size_bytes and self.next - self.acked < self.window * chunk_bytes

    @property
    def waits(self) -> bool:
        """Whether there is something to be answered: a chunk, or the whole file, which the follower installs."""
        return self.info is None or self.acked < self.next or self.next >= self.info.size_bytes

    def chunk(self, size_max: int) -> InstallSnapshot:
        """The next chunk, of at most `size_max` bytes.

        It never exceeds the announced size: the follower would refuse the last chunk of a file that has grown, and
        start over forever. Raises `SnapshotFailedError` if the file is gone or shorter than announced.
        """
        info = self.info
        assert info is not None, "there is a snapshot to send"
        size = max(0, min(size_max, info.size_bytes - self.next))
        data = read_at(info.path, self.next, size, info.keys)
        if len(data) < size:  # otherwise the follower would request the same chunk forever
            held = self.next + len(data)
            raise SnapshotFailedError(f"{info.path} has {held} bytes instead of {info.size_bytes}")
        chunk = self.install_snapshot(data)
        self.next += size
        self.sent_bytes += size
        return chunk

    def question(self) -> InstallSnapshot:
        """A chunk without bytes: the reply says what the follower wants next, and whether it lives.

        A chunk that was not answered is not sent again as it is, because the frames that a stopped process does not
        read pile up in this node's memory. Raises `SnapshotFailedError` if the file is gone.
        """
        return self.install_snapshot(b"")

    def install_snapshot(self, data: bytes) -> InstallSnapshot:
        """The request with these bytes from `next` on."""
        info = self.info
        assert info is not None, "there is a snapshot to send"
        if not self.digest:
            digest = read_at(info.path, info.size_bytes - DIGEST_BYTES, DIGEST_BYTES, info.keys)
            if len(digest) < DIGEST_BYTES:
                raise SnapshotFailedError(f"{info.path} has less than the {info.size_bytes} bytes that it had")
            self.digest = digest
        crc = zlib.crc32(data)
        return InstallSnapshot(self.term, info.index, info.term, self.next, info.size_bytes, data, self.digest, crc)

    def answered(self, reply: SnapshotReply, sent_ns: int, now_ns: int) -> None:
        """Note what the follower wants next; `sent_ns` is the send time that the reply echoes.

        If it lacks something of the chunk that it answers, that was lost, or arrived damaged or in another order, or
        the follower has dropped its file. Then everything is sent again from there on, once in a round trip.
        """
        offset, size = reply.offset, self.info.size_bytes if self.info else 0
        if not 0 <= offset <= size:
            return
        if offset > self.acked:
            self.acked, self.next = offset, max(self.next, offset)
        if offset < reply.chunk_end and sent_ns >= self.run_ns:
            self.acked = self.next = offset
            self.run_ns = now_ns
            self.window = max(1, self.window // 2)

    def took(self, round_trip_ns: int, window_max: int, queue_seconds_max: float) -> None:
        """Let the window grow while it does not fill queues, so that the heartbeats behind the chunks are not late.

        A round trip that is longer than the quickest one by `queue_seconds_max` is one that has waited in a queue.
        """
        self.quickest_ns = min(self.quickest_ns, round_trip_ns)
        queued = round_trip_ns - self.quickest_ns
        if queued > queue_seconds_max * 1e9:
            self.window = max(1, self.window // 2)
        else:
            self.window = min(self.window + 1, window_max)

    @property
    def text(self) -> str:
        """How far it has come, for people; empty if nothing is sent now."""
        if self.info is None or self.resume_at is not None:
            return ""
        part = self.acked / max(1, self.info.size_bytes)
        return f"sends the snapshot up to entry {self.info.index} to {self.node}: {part:.0%}"

    def in_vain(self, offset: int) -> bool:
        """Whether the follower received the whole file and refused it: its reply asks again for `offset`."""
        return self.info is not None and offset < self.info.size_bytes <= self.acked

    def done(self) -> SnapshotSent:
        """The notice for the replication actor that the follower has the snapshot."""
        assert self.info is not None, "a snapshot was sent"
        return SnapshotSent(self.node, self.info.index)
