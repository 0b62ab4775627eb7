"""The sending of snapshots: a leader sends its newest one in chunks to followers that need compacted entries."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from forge_consensus.actors.messages import DAMAGED, InstallSnapshot, SnapshotReply
from forge_consensus.actors.notices import (
    LeadershipEnded,
    MembersChanged,
    PeerNeedsSnapshot,
    PeerUp,
    SendChunks,
    SettingsChanged,
    SnapshotChecked,
)
from forge_consensus.actors.raft.bandwidth import Bandwidth
from forge_consensus.actors.raft.snapshot_transfer import SnapshotTransfer
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.errors import ConsensusError, SnapshotFailedError
from forge_consensus.storage.snapshots.file import SnapshotInfo, verify

HELD_TIMEOUTS, HELD_TIMEOUTS_APART = 50, 2
"""For how many election timeouts after its last answer a follower counts as alive, so that the log is not cut under it:
with a connection, and without one. That is a minute by default; `Snapshots.may_hold` bounds the room that it may take.
"""


class SnapshotSending(ConsensusActor):
    """The part of the snapshot actor that sends. It takes no snapshot itself: `take` asks the other part for one."""

    def __init__(self) -> None:
        super().__init__()
        self.transfers: dict[str, SnapshotTransfer] = {}
        """The snapshots that are being sent, by the follower's id."""
        self.paced: Timer | None = None
        """The timer that sends on when the bandwidth allows it."""
        self.served = ""
        """The follower that got the last chunk."""

    def bind(self, context: Context) -> None:
        """Take the context, and with it the bound of the bandwidth."""
        super().bind(context)
        self.bandwidth = Bandwidth(self.settings.snapshot_bytes_per_second)

    def receiveMsg_SettingsChanged(self, message: SettingsChanged, sender: Any) -> None:
        """Send by the new bound of the bandwidth, at once if it is wider."""
        super().receiveMsg_SettingsChanged(message, sender)
        bound = self.settings.snapshot_bytes_per_second
        if bound != self.bandwidth.bytes_per_second:
            self.bandwidth = Bandwidth(bound)
            if self.paced is not None:
                self.paced.cancel()
                self.paced = None
            self.send_chunks()

    def take(self, *, for_follower: bool = False) -> None:
        """Take a snapshot; `for_follower` says that one waits for it, so that a failure is not repeated at once."""
        raise NotImplementedError

    def receiveMsg_PeerNeedsSnapshot(self, message: PeerNeedsSnapshot, sender: Any) -> None:
        """Send the newest snapshot to a follower that needs compacted entries; take one first if there is none."""
        if message.node not in self.transfers and self.ledger.leading_term is not None:
            transfer = SnapshotTransfer(message.node, self.ledger.leading_term)
            self.transfers[message.node] = transfer
            self.begin_sending(transfer)

    def refused_by(self) -> dict[str, str]:
        """The followers that did not take this leader's last snapshot, and why."""
        term, transfers = self.ledger.leading_term, self.transfers.items()
        return {node: transfer.refusal for node, transfer in transfers if transfer.refusal and transfer.term == term}

    def begin_sending(self, transfer: SnapshotTransfer) -> None:
        """Send the newest snapshot from its first byte on, or take one if there is none."""
        transfer.begin(self.snapshots.newest, self.ledger.log.base_index, self.clock.now())
        transfer.run_ns = self.clock.boottime_ns()
        if transfer.info is None:
            self.take(for_follower=True)
        else:
            self.send_chunks()

    def send_again(self, now: float) -> None:
        """Try refused snapshots again when their pause is over, and ask where a chunk was not answered in time."""
        for transfer in list(self.transfers.values()):
            if transfer.resume_at is not None:
                if now >= transfer.resume_at:
                    self.begin_sending(transfer)
            elif transfer.waits and now - transfer.sent_at > self.settings.chunk_timeout:
                self.ask(transfer)
        self.send_chunks()

    def ask(self, transfer: SnapshotTransfer) -> None:
        """Ask what the follower wants next, because it did not answer in time."""
        if self.is_over(transfer):
            return
        transfer.sent_at = self.clock.now()
        if transfer.info is None:
            self.take(for_follower=True)
        else:
            self.tell_chunk(transfer, transfer.question)

    def send_chunks(self) -> None:
        """Send each follower what its window allows, one chunk to each in turn, as far as the bandwidth allows.

        The chunks are read one by one, so neither this node nor its connections ever hold a snapshot. With a bound the
        next chunk is for the follower behind the one that was served last, so that all get their share.
        """
        size, now = self.settings.chunk_bytes, self.clock.now()
        while ready := [node for node, transfer in self.transfers.items() if transfer.may_send(size)]:
            wait = self.bandwidth.wait(now)
            if wait > 0.0:
                if self.paced is None:
                    self.paced = self.after(wait, SendChunks())
                return
            node = min((node for node in ready if node > self.served), default=min(ready))
            self.served, transfer = node, self.transfers[node]
            if self.is_over(transfer):
                continue
            transfer.sent_at, before = now, transfer.sent_bytes
            self.tell_chunk(transfer, partial(transfer.chunk, size))
            self.bandwidth.spend(transfer.sent_bytes - before, now)

    def receiveMsg_SendChunks(self, message: SendChunks, sender: Any) -> None:
        """Send on, because the bandwidth allows it again."""
        self.paced = None
        self.send_chunks()

    def is_over(self, transfer: SnapshotTransfer) -> bool:
        """Whether the term of this leader in which the transfer began has ended; then it ends too."""
        if self.ledger.leading_term == transfer.term:
            return False
        del self.transfers[transfer.node]
        return True

    def tell_chunk(self, transfer: SnapshotTransfer, make: Callable[[], InstallSnapshot]) -> None:
        """Send a follower the chunk that is made, or begin again if the file is gone or unreadable."""
        try:
            chunk = make()
        except ConsensusError as error:
            self.context.refuse(error.code, str(error))
            if transfer.info is not self.snapshots.newest:  # pruned meanwhile: begin again with the newest
                self.begin_sending(transfer)
                return
            transfer.info = self.snapshots.newest = None  # later a new one is taken
            return
        self.tell_peer(transfer.node, "snapshot", chunk)

    def receiveMsg_SnapshotReply(self, message: SnapshotReply, sender: Any) -> None:
        """Send the next chunks, or end the transfer because the follower has the snapshot durably."""
        transfer = self.transfers.get(sender.node)
        if transfer is None or transfer.info is None or transfer.info.index != message.index:
            return
        if message.done:
            del self.transfers[sender.node]
            self.tell("replication", transfer.done())
            return
        if message.refusal:
            if transfer.resume_at is None:
                transfer.refused(message.refusal, self.clock.now(), self.settings.chunk_timeout)
                if message.refusal == DAMAGED:
                    self.check(transfer.info)
            return
        if transfer.resume_at is not None:
            return
        if transfer.in_vain(message.offset):
            self.check(transfer.info)
        settings, now_ns = self.settings, self.clock.boottime_ns()
        transfer.took(now_ns - sender.sent, settings.chunk_window, settings.heartbeat_interval / 2)
        transfer.answered(message, sender.sent, now_ns)
        self.send_chunks()

    def check(self, info: SnapshotInfo) -> None:
        """Let a helper verify a file that a follower refused, because this node's disk may have damaged it."""

        def read_again() -> None:
            if verify(info.path) != info:
                raise SnapshotFailedError(f"{info.path} is another file than the one that was being sent")

        self.offload(read_again, lambda _, error: SnapshotChecked(info, error))

    def receiveMsg_SnapshotChecked(self, message: SnapshotChecked, sender: Any) -> None:
        """Stop sending a damaged file, and take a new snapshot if it was the newest; this node's state is whole.

        A transfer keeps its file while newer ones are taken, so the damaged file need not be the newest.
        """
        damaged = message.info
        stuck = [transfer for transfer in self.transfers.values() if transfer.info is damaged]
        newest = self.snapshots.newest is damaged
        if not message.error or not (stuck or newest):
            return
        self.context.refuse("a damaged snapshot", message.error)
        if newest:
            self.snapshots.newest = None
            self.take()
        for transfer in stuck:
            self.begin_sending(transfer)

    def receiveMsg_MembersChanged(self, message: MembersChanged, sender: Any) -> None:
        """Send no snapshot to those that were removed."""
        members = self.ledger.configuration.nodes
        self.transfers = {node: transfer for node, transfer in self.transfers.items() if node in members}

    def receiveMsg_PeerUp(self, message: PeerUp, sender: Any) -> None:
        """Go on at once with a follower whose connection was broken.

        What was on its way is lost, so it is asked what it wants. A refused snapshot is tried again: the follower was
        started again, perhaps with more room.
        """
        transfer = self.transfers.get(message.node)
        if transfer is None:
            return
        if transfer.resume_at is not None:
            transfer.pause = 0.0
            self.begin_sending(transfer)
        elif transfer.waits:
            self.ask(transfer)

    def receiveMsg_LeadershipEnded(self, message: LeadershipEnded, sender: Any) -> None:
        """Stop sending snapshots, because only a leader sends them."""
        self.transfers.clear()

    def being_sent(self) -> dict[str, SnapshotInfo]:
        """The snapshots that are being sent to live followers, by the follower's id."""
        sent = {node: transfer.info for node, transfer in self.transfers.items()}
        return {node: info for node, info in sent.items() if info is not None and self.lives(node)}

    def lives(self, node: str) -> bool:
        """Whether a peer answered a health check not long ago.

        A follower that is busy, for example because it restores a snapshot, or restarts, is silent for a while. If the
        log were cut under it at once, it would need another snapshot each time.
        """
        view = self.shared.peers.get(node)
        if view is None or view.heard_at is None:
            return False
        timeouts = HELD_TIMEOUTS if node in self.context.linked() else HELD_TIMEOUTS_APART
        return self.clock.now() - view.heard_at < timeouts * self.settings.election_timeout_max
