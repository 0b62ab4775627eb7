"""The snapshot actor: takes snapshots, compacts the log behind them, installs what a leader sends (paper 7)."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.messages import InstallSnapshot, SnapshotReply
from forge_consensus.actors.notices import (
    CaptureSnapshot,
    CheckSnapshots,
    CompactLog,
    HoldApplying,
    InstallStep,
    LeaderChanged,
    LeaderContact,
    LeadershipEnded,
    MachineRestored,
    PeerNeedsSnapshot,
    SnapshotChecked,
    SnapshotInstalled,
    SnapshotReceived,
    SnapshotSaved,
    Start,
    SweepLog,
    TakeSnapshot,
)
from forge_consensus.actors.raft.snapshot_transfer import SnapshotTransfer
from forge_consensus.actors.runtime.actor import ConsensusActor
from forge_consensus.actors.runtime.shared import PeerStatus
from forge_consensus.errors import ConsensusError, CorruptionError, SnapshotFailedError, StorageFullError
from forge_consensus.events.types import (
    LogCompacted,
    LogTruncated,
    SnapshotCompleted,
    SnapshotFailed,
    SnapshotRestored,
    SnapshotStarted,
)
from forge_consensus.storage.machines.machine import ApplyFaultError
from forge_consensus.storage.snapshots.file import SnapshotInfo, verify
from forge_consensus.storage.snapshots.receiver import SnapshotReceiver
from forge_consensus.storage.snapshots.store import Installation

CHECKS_A_HEALTH_CHECK = 2
"""How often it is looked whether a snapshot is due or a chunk must be sent again, in each `check_interval`."""
UNREADABLE = (CorruptionError, SnapshotFailedError)
"""How a snapshot file fails that is damaged, gone, or not given by the disk."""


class SnapshotActor(ConsensusActor):
    """Owns the running save, the sendings and the running installation."""

    def __init__(self) -> None:
        super().__init__()
        self.saving = False
        self.saved_at = 0.0
        self.sweeping = False
        self.sendings: dict[str, SnapshotTransfer] = {}
        self.receiver: SnapshotReceiver | None = None
        self.receiving_from: tuple[str, int] = ("", 0)
        self.finishing = False
        self.installation: Installation | None = None
        self.install_began = 0.0
        self.asker: Any = None

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Begin to look whether a snapshot is due, and go on with a compaction that a crash cut off."""
        self.saved_at = self.clock.now()
        self.snapshots.drop_incoming()  # of an actor that failed meanwhile
        self.snapshots.drop_installation()
        if self.reported.saving:  # the report of its end was for the actor that failed
            self.saving_failed("an actor of this node failed meanwhile")
        self.sweep_soon()
        self.after(self.options.check_interval / CHECKS_A_HEALTH_CHECK, CheckSnapshots())

    def receiveMsg_CheckSnapshots(self, message: CheckSnapshots, sender: Any) -> None:
        """Take a snapshot by threshold; repeat chunks that were not answered."""
        limits, now = self.ledger.limits, self.clock.now()
        self.after(self.options.check_interval / CHECKS_A_HEALTH_CHECK, CheckSnapshots())
        if self.snapshots.lag >= limits.snapshot_entries and now - self.saved_at >= limits.snapshot_seconds_min:
            self.receiveMsg_TakeSnapshot(TakeSnapshot(), sender)
        for sending in list(self.sendings.values()):
            if now - sending.sent_at > self.options.chunk_timeout:
                self.send_chunk(sending)

    # --- taking ------------------------------------------------------------------------------------------------------

    def receiveMsg_TakeSnapshot(self, message: TakeSnapshot, sender: Any) -> None:
        """Have what was applied written to disk first; the state is taken in the next turn."""
        if self.saving or self.installation is not None or not self.ledger.applied:
            return
        self.saving = True
        self.reported.saving = self.ledger.applied
        self.snapshots.prepare()
        self.publish(SnapshotStarted(index=self.reported.saving))
        self.next_turn(CaptureSnapshot())

    def receiveMsg_CaptureSnapshot(self, message: CaptureSnapshot, sender: Any) -> None:
        """Have the snapshot written elsewhere; nothing here waits for it."""
        began = self.clock.now()
        try:
            job = self.snapshots.capture()
        except Exception as error:  # the user's own code; it harms only this snapshot
            failed = SnapshotSaved(None, f"{type(error).__name__}: {error}", began)
            self.receiveMsg_SnapshotSaved(failed, sender)
            return
        self.offload(job, lambda info, error: SnapshotSaved(info, error, began))

    def receiveMsg_SnapshotSaved(self, message: SnapshotSaved, sender: Any) -> None:
        """The file is durable: the log may be cut behind it."""
        self.saving = False
        self.saved_at = now = self.clock.now()
        info = message.info
        if info is None:
            self.saving_failed(message.error)
            return
        self.reported.saving = 0
        self.snapshots.in_use = [each.path for each in self.being_sent().values()]
        self.snapshots.taken(info)
        self.totals.snapshots += 1
        duration = now - message.began
        completed = SnapshotCompleted(
            index=info.index, snapshot_term=info.term, size=info.size_bytes, duration=duration
        )
        self.publish(completed)
        self.next_turn(CompactLog())
        for sending in list(self.sendings.values()):
            # A file of the same index has the same name: what follows of it does not fit what was sent of the other.
            if sending.info is None or sending.info.path == info.path:
                self.begin_sending(sending)

    def saving_failed(self, error: str) -> None:
        """Tell that the snapshot which was begun does not come."""
        self.publish(SnapshotFailed(index=self.reported.saving, error=error))
        self.reported.saving = 0

    def receiveMsg_CompactLog(self, message: CompactLog, sender: Any) -> None:
        """Move the start of the log; what lies before it goes slice by slice."""
        before, base = self.snapshots.compact(self.lacked())
        if base > before:
            self.publish(LogCompacted(first_index=base + 1, removed=base - before))
            self.sweep_soon()

    def being_sent(self) -> dict[str, SnapshotInfo]:
        """Who is being sent which snapshot, of the followers that live."""
        sent = {node: sending.info for node, sending in self.sendings.items()}
        return {node: info for node, info in sent.items() if info is not None and self.is_active(node)}

    def is_active(self, node: str) -> bool:
        """Whether a peer answers."""
        view = self.shared.peers.get(node)
        return view is not None and view.status is PeerStatus.ACTIVE

    def lacked(self) -> int | None:
        """The index behind which a follower that lives still lacks entries; None where that is not known of any.

        If the log were cut there, whoever takes a snapshot by a slow link would need the next one as soon as it has
        this one, and so on for ever.
        """
        known = {node: index for node, index in self.shared.match.items() if index and self.is_active(node)}
        known |= {node: info.index for node, info in self.being_sent().items()}
        return min(known.values(), default=None)

    def sweep_soon(self) -> None:
        """Delete in the next turns."""
        if not self.sweeping:
            self.sweeping = True
            self.next_turn(SweepLog())

    def receiveMsg_SweepLog(self, message: SweepLog, sender: Any) -> None:
        """Delete one slice."""
        self.sweeping = False
        if self.snapshots.sweep():
            self.sweep_soon()

    # --- sending -----------------------------------------------------------------------------------------------------

    def receiveMsg_PeerNeedsSnapshot(self, message: PeerNeedsSnapshot, sender: Any) -> None:
        """A follower is behind the log: send it the newest snapshot, or take one first."""
        if message.node not in self.sendings and self.ledger.leading is not None:
            sending = SnapshotTransfer(message.node, self.ledger.leading)
            self.sendings[message.node] = sending
            self.begin_sending(sending)

    def begin_sending(self, sending: SnapshotTransfer) -> None:
        """Send the newest snapshot from its first byte on."""
        sending.begin(self.snapshots.newest, self.ledger.log.base_index, self.clock.now())
        if sending.info is None:
            self.receiveMsg_TakeSnapshot(TakeSnapshot(), None)
        else:
            self.send_chunk(sending)

    def send_chunk(self, sending: SnapshotTransfer) -> None:
        """Send the chunk that the follower wants, one at a time."""
        if self.ledger.leading != sending.term:
            del self.sendings[sending.node]
            return
        sending.sent_at, sending.asked_ns = self.clock.now(), self.clock.boottime_ns()
        if sending.info is None:
            self.receiveMsg_TakeSnapshot(TakeSnapshot(), None)
            return
        try:
            chunk = sending.chunk(self.options.chunk_bytes)
        except ConsensusError as error:
            self.context.refuse(error.code, str(error))
            if sending.info is not self.snapshots.newest:  # pruned meanwhile: begin again with the newest
                self.begin_sending(sending)
                return
            sending.info = self.snapshots.newest = None  # gone or unreadable: after a while a new one is taken
            return
        self.tell_peer(sending.node, "snapshot", chunk)

    def receiveMsg_SnapshotReply(self, message: SnapshotReply, sender: Any) -> None:
        """The follower has a chunk, or all of it."""
        sending = self.sendings.get(sender.node)
        if sending is None or sending.info is None or sending.info.index != message.index:
            return
        if message.done:
            del self.sendings[sender.node]
            self.tell("replication", sending.done())
            return
        if sending.in_vain(message.offset):
            self.check(sending.info)
        if sending.wanted(message.offset, sender.sent):
            self.send_chunk(sending)

    def check(self, info: SnapshotInfo) -> None:
        """Read a file that a follower had and did not take: perhaps it is our disk that damaged it."""

        def read_again() -> None:
            if verify(info.path) != info:
                raise SnapshotFailedError(f"{info.path} is another file than the one that was being sent")

        self.offload(read_again, lambda _, error: SnapshotChecked(info, error))

    def receiveMsg_SnapshotChecked(self, message: SnapshotChecked, sender: Any) -> None:
        """A damaged file is sent no more, whether or not a newer one was taken since; our state is whole.

        A sending keeps its file while newer ones are taken, so it may well be in vain with one that is not the newest.
        """
        damaged = message.info
        stuck = [sending for sending in self.sendings.values() if sending.info is damaged]
        newest = self.snapshots.newest is damaged
        if not message.error or not (stuck or newest):
            return
        self.context.refuse("a damaged snapshot", message.error)
        if newest:
            self.snapshots.newest = None
            self.receiveMsg_TakeSnapshot(TakeSnapshot(), sender)
        for sending in stuck:
            self.begin_sending(sending)

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """What another leader was sending is worthless: its file may differ in bytes."""
        if self.receiver is not None and message.leader != self.receiving_from[0]:
            self.abort_receiving()

    def receiveMsg_LeadershipEnded(self, message: LeadershipEnded, sender: Any) -> None:
        """Stop sending."""
        self.sendings.clear()

    # --- installing --------------------------------------------------------------------------------------------------

    def abort_receiving(self) -> None:
        """Forget a half-received file."""
        if self.receiver is not None and not self.finishing:
            self.snapshots.drop_incoming()
            self.receiver = None

    def receiveMsg_InstallSnapshot(self, message: InstallSnapshot, sender: Any) -> None:
        """Take a chunk. An accepted one is a sign of life of the leader like any other."""
        self.tell("election", LeaderContact(sender.node, message.term))
        if message.index <= self.ledger.applied:
            self.send(sender, SnapshotReply(message.term, message.index, message.size, True))
            return
        if self.finishing or self.installation is not None:
            self.send(sender, SnapshotReply(message.term, message.index, message.size, False))
            return
        if self.receiver is None or (
            (self.receiver.index, self.receiver.total_bytes) != (message.index, message.size)
            or self.receiving_from != (sender.node, message.term)
        ):
            self.abort_receiving()
            self.receiving_from = (sender.node, message.term)
        try:
            receiver = self.receiver = self.receiver or SnapshotReceiver(
                self.snapshots.folder, message.index, message.entry_term, message.size
            )
            self.snapshots.incoming = receiver
            offset = receiver.write(message.offset, message.data)
        except ConsensusError as error:
            self.context.refuse(error.code, str(error))
            self.abort_receiving()
            return
        self.send(sender, SnapshotReply(message.term, message.index, offset, False))
        if offset == message.size:
            self.finishing = True
            self.snapshots.incoming = None  # it is the job's from here on
            self.asker = sender
            self.offload(receiver.finish, SnapshotReceived, receiver.abort)

    def receiveMsg_SnapshotReceived(self, message: SnapshotReceived, sender: Any) -> None:
        """The file is whole and durable: move it into the ledger, a chunk a turn."""
        self.finishing = False
        receiver, self.receiver = self.receiver, None
        info = message.info
        if info is None:
            self.publish(SnapshotFailed(index=receiver.index if receiver is not None else 0, error=message.error))
            return
        if info.index <= self.ledger.applied:
            return
        self.install_began = self.clock.now()
        try:
            installation = self.snapshots.begin_install(info)
        except (StorageFullError, *UNREADABLE) as error:
            self.give_up(info, error)
            return
        self.installation = installation
        if self.ledger.applier.kept is not None:
            self.next_turn(InstallStep())
            return
        self.tell("replication", HoldApplying(True))
        self.offload(
            lambda: self.snapshots.install_whole(installation),
            lambda _, error: MachineRestored(error),
        )

    def receiveMsg_InstallStep(self, message: InstallStep, sender: Any) -> None:
        """One chunk, or the end."""
        installation = self.installation
        assert installation is not None, "an installation is under way"
        try:
            more = self.snapshots.install_step(installation)
        except UNREADABLE as error:
            self.give_up(installation.info, error)
            return
        if more:
            self.next_turn(InstallStep())
        else:
            self.finish_install(installation)

    def give_up(self, info: SnapshotInfo, error: ConsensusError) -> None:
        """A received file cannot be installed: it is dropped, and the leader, who was not told of it, sends it again.

        Our own state is whole, so damage there is no reason for the node to stop.
        """
        self.installation = None
        self.snapshots.drop_installation(info)
        self.publish(SnapshotFailed(index=info.index, error=str(error)))
        self.sweep_soon()

    def receiveMsg_MachineRestored(self, message: MachineRestored, sender: Any) -> None:
        """A user's machine holds the new state, or nobody knows what: then the node stops."""
        installation = self.installation
        assert installation is not None, "an installation is under way"
        if message.error:
            raise ApplyFaultError(installation.info.index, f"restore() failed: {message.error}")
        self.finish_install(installation)
        self.tell("replication", HoldApplying(False))

    def finish_install(self, installation: Installation) -> None:
        """Switch to the new state; the leader hears of it at once."""
        self.installation = None
        last = self.ledger.log.last
        if not self.snapshots.finish_install(installation):
            return
        if removed := last - self.ledger.log.last:
            self.publish(LogTruncated(from_index=self.ledger.log.last + 1, removed=removed))
        duration = self.clock.now() - self.install_began
        info = installation.info
        restored = SnapshotRestored(index=info.index, snapshot_term=info.term, size=info.size_bytes, duration=duration)
        self.publish(restored)
        self.reported.committed = max(self.reported.committed, info.index)
        # Leaves when the switch is on disk.
        self.send(self.asker, SnapshotReply(self.ledger.term, info.index, info.size_bytes, True))
        self.next_turn(SweepLog())
        self.context.next_turn(self.context.actor("replication"), SnapshotInstalled(info.index))
