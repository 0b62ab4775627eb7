"""The snapshot actor: takes, sends, receives and installs snapshots, and compacts the log (paper 7)."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.messages import DAMAGED, FAILED, FULL, InstallSnapshot, SnapshotReply
from forge_consensus.actors.notices import (
    CaptureSnapshot,
    CheckSnapshots,
    CompactLog,
    InstallStep,
    LeaderChanged,
    MachineRestored,
    SettingsChanged,
    SnapshotInstalled,
    SnapshotReceived,
    SnapshotSaved,
    Start,
    SweepLog,
    TakeSnapshot,
)
from forge_consensus.actors.raft.snapshot_receipt import SnapshotReceipt, Stage
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.actors.snapshot_sending import SnapshotSending
from forge_consensus.errors import ConsensusError, CorruptionError, SnapshotFailedError, StorageFullError
from forge_consensus.events.types import (
    LogCompacted,
    LogTruncated,
    SnapshotCompleted,
    SnapshotFailed,
    SnapshotRestored,
    SnapshotsOnThread,
    SnapshotStarted,
)
from forge_consensus.storage.ledger.time_slice import TimeSlice
from forge_consensus.storage.machines.machine import ApplyFaultError
from forge_consensus.storage.snapshots.file import SnapshotInfo
from forge_consensus.storage.snapshots.store import Installation

CHECKS_A_HEALTH_CHECK = 2
"""How many times in each `check_interval` the actor checks whether a snapshot is due or a chunk must be sent again."""
LENT_SECONDS = 0.01
"""How soon a step is tried again that needs the machine while a helper thread uses it."""
HURRY = 20
"""How many times sooner the next snapshot is taken when room is short."""
UNREADABLE = (CorruptionError, SnapshotFailedError)
"""The errors of a snapshot file that is damaged, missing or cannot be read."""


class SnapshotActor(SnapshotSending):
    """Owns the snapshot that is being taken, those that are being sent, and the one that is being received."""

    def __init__(self) -> None:
        super().__init__()
        self.saving = False
        self.saved_at = 0.0
        self.failed_at: float | None = None
        self.sweeping = False
        self.receipt: SnapshotReceipt | None = None
        """The snapshot that is being received or installed."""
        self.refused_index = 0
        """The index of the snapshot that this node last refused."""
        self.next_check: Timer | None = None

    def receiveMsg_Start(self, message: Start, sender: Any) -> None:
        """Start checking whether a snapshot is due, and remove the unfinished data of a crash or an actor's fault."""
        self.saved_at = self.clock.now()
        self.shared.snapshots_on_thread = self.snapshots.on_thread
        if self.snapshots.on_thread and not message.again:
            self.publish(SnapshotsOnThread(reason=self.snapshots.on_thread))
        self.snapshots.leave_incoming()  # by an actor that failed
        self.snapshots.drop_installation()
        if self.reported.saving:  # the report would have gone to the actor that failed
            self.saving_failed("an actor of this node failed meanwhile")
        self.sweep_soon()
        self.check_later()

    def check_later(self) -> None:
        """Check in a while whether a snapshot is due."""
        self.next_check = self.after(self.settings.check_interval / CHECKS_A_HEALTH_CHECK, CheckSnapshots())

    def receiveMsg_SettingsChanged(self, message: SettingsChanged, sender: Any) -> None:
        """Check at the new interval, from now on; and sweep, because the node may have another key."""
        self.sweep_soon()
        before = self.settings.check_interval
        super().receiveMsg_SettingsChanged(message, sender)
        if self.next_check is not None and self.settings.check_interval != before:
            self.next_check.cancel()
            self.check_later()

    def receiveMsg_CheckSnapshots(self, message: CheckSnapshots, sender: Any) -> None:
        """Take a snapshot if enough entries were applied since the last one; send unanswered chunks again."""
        now = self.clock.now()
        self.check_later()
        self.snapshots.in_use = [each.path for each in self.being_sent().values()]
        if self.saving:
            self.snapshots.free_room(saving=True)
        elif self.snapshots.is_due or self.interval_is_over():
            self.take_due(sender)
        else:
            self.snapshots.free_room(saving=False)
        self.snapshots.drop_useless()
        if self.receipt is not None and self.receipt.index <= self.ledger.applied:
            self.drop_receiving()
        self.snapshots.drop_overtaken_parts()
        if self.snapshots.compactable > self.ledger.log.base_index:  # entries were held for a follower
            self.receiveMsg_CompactLog(CompactLog(), sender)
        if 0 < self.refused_index <= self.ledger.applied:
            self.refused_index, self.shared.snapshot_trouble = 0, ""
        self.shared.snapshot_refusals = self.refused_by()
        self.send_again(now)
        self.shared.snapshot_doing = self.doing()

    def interval_is_over(self) -> bool:
        """Whether the last snapshot, or the start, is so long ago that another one is to be taken."""
        interval = self.ledger.settings.snapshot_interval
        return 0 < interval <= self.clock.now() - self.saved_at and self.snapshots.lag > 0

    def doing(self) -> str:
        """What this node does with snapshots now, for people."""
        texts = [transfer.text for transfer in self.transfers.values()]
        if self.saving:
            texts.append(f"takes a snapshot up to entry {self.reported.saving}")
        if self.receipt is not None:
            texts.append(self.receipt.text(restoring=self.ledger.applier.replacing))
        return "; ".join(filter(None, texts))

    def take_due(self, sender: Any) -> None:
        """Take a snapshot that is due, or only cut the log if there is no room for a file and the machine needs none.

        When room is short that happens sooner, except after a failure of a machine that needs the file.
        """
        ledger, snapshots, now = self.ledger, self.snapshots, self.clock.now()
        short = snapshots.compaction.room_is_short()
        failed, needs_file = self.failed_at == self.saved_at, ledger.applier.ledger_machine is None
        pause = ledger.settings.snapshot_seconds_min
        if self.saving or now - self.saved_at < (pause / HURRY if short and not (failed and needs_file) else pause):
            return
        if needs_file or (snapshots.make_room_for_file() and not (failed and short)):
            self.receiveMsg_TakeSnapshot(TakeSnapshot(), sender)
        else:
            self.saved_at = now
            snapshots.prepare()
            self.next_turn(CompactLog(without_file=True))

    # --- taking ------------------------------------------------------------------------------------------------------

    def receiveMsg_TakeSnapshot(self, message: TakeSnapshot, sender: Any) -> None:
        """Request a checkpoint of the applied state; the next turn captures that state, which is on disk by then."""
        replacing = self.receipt is not None and self.receipt.replaces_state
        if self.saving or replacing or not self.ledger.applied:
            return
        self.saving = True
        self.reported.saving = self.ledger.applied
        self.snapshots.prepare()
        self.publish(SnapshotStarted(index=self.reported.saving))
        self.next_turn(CaptureSnapshot())

    def take(self, *, for_follower: bool = False) -> None:
        """Take a snapshot; one that a follower waits for is not begun soon after one that failed."""
        pause = self.ledger.settings.snapshot_seconds_min if for_follower else 0.0
        if self.failed_at is None or self.clock.now() - self.failed_at >= pause:
            self.receiveMsg_TakeSnapshot(TakeSnapshot(), None)

    def receiveMsg_CaptureSnapshot(self, message: CaptureSnapshot, sender: Any) -> None:
        """Let a helper write the snapshot, so that nothing on this thread waits for the disk."""
        if self.waits_for_machine(message):
            return
        began = self.clock.now()
        try:
            job = self.snapshots.capture()
        except Exception as error:  # raised by the user's machine; it harms only this snapshot
            failed = SnapshotSaved(None, f"{type(error).__name__}: {error}", began)
            self.receiveMsg_SnapshotSaved(failed, sender)
            return
        self.offload(job, lambda info, error: SnapshotSaved(info, error, began))

    def waits_for_machine(self, message: CaptureSnapshot | InstallStep) -> bool:
        """Whether a helper thread is using the machine to answer queries; then the message comes again soon."""
        applier = self.ledger.applier
        applier.wanted_back = applier.lent
        if applier.lent:
            self.after(LENT_SECONDS, message)
        return applier.lent

    def receiveMsg_SnapshotSaved(self, message: SnapshotSaved, sender: Any) -> None:
        """Compact the log, because the snapshot's file is durable; or publish that the snapshot failed."""
        self.saving = False
        self.saved_at = now = self.clock.now()
        info = message.info
        if info is None:
            self.saving_failed(message.error)
            return
        self.reported.saving = 0
        self.shared.snapshot_trouble = ""
        self.snapshots.in_use = [each.path for each in self.being_sent().values()]
        self.snapshots.taken(info)
        self.totals.snapshots += 1
        duration = now - message.began
        completed = SnapshotCompleted(
            index=info.index, snapshot_term=info.term, size=info.size_bytes, duration=duration
        )
        self.publish(completed)
        self.next_turn(CompactLog())
        for transfer in list(self.transfers.values()):
            # A file of the same index has the same name but may differ, so its rest would not fit the part that was
            # sent.
            if transfer.info is None or transfer.info.path == info.path:
                self.begin_sending(transfer)

    def saving_failed(self, error: str) -> None:
        """Publish that the snapshot in progress has failed."""
        self.failed_at = self.clock.now()
        self.shared.snapshot_trouble = self.shared.snapshot_trouble or f"the last snapshot failed: {error}"
        self.publish(SnapshotFailed(index=self.reported.saving, error=error))
        self.reported.saving = 0

    def receiveMsg_CompactLog(self, message: CompactLog, sender: Any) -> None:
        """Move the start of the log; the entries before it are deleted slice by slice."""
        if message.without_file:
            before, base = self.snapshots.compact_without_file()
        else:
            before, base = self.snapshots.compact(self.lacked())
        if base > before:
            self.publish(LogCompacted(first_index=base + 1, removed=base - before))
            self.sweep_soon()

    def lacked(self) -> int | None:
        """The lowest index behind which a live follower still lacks entries; None if no such follower is known.

        The log must not be cut beyond it: otherwise a follower that receives a snapshot over a slow link would need the
        next one as soon as it has this one, and so on forever.
        """
        known = {node: index for node, index in self.shared.match.items() if index and self.lives(node)}
        known |= {node: info.index for node, info in self.being_sent().items()}
        return min(known.values(), default=None)

    def sweep_soon(self) -> None:
        """Start deleting in the next turn, one slice a turn."""
        if not self.sweeping:
            self.sweeping = True
            self.next_turn(SweepLog())

    def receiveMsg_SweepLog(self, message: SweepLog, sender: Any) -> None:
        """Delete one slice, and continue in the next turn if there is more."""
        self.sweeping = False
        if self.snapshots.sweep():
            self.sweep_soon()

    # --- receiving and installing ------------------------------------------------------------------------------------

    def drop_receiving(self) -> None:
        """Drop a half-received file, and its part; a snapshot that is complete is installed all the same."""
        if self.receipt is not None and self.receipt.takes_chunks:
            self.snapshots.drop_incoming()
            self.receipt = None

    def receiveMsg_LeaderChanged(self, message: LeaderChanged, sender: Any) -> None:
        """Drop the file of another leader if nothing says whether the new leader's has the same bytes.

        Otherwise the part stays: the leader may come back, or the next one may have the same file.
        """
        receipt = self.receipt
        if receipt is not None and message.leader != receipt.leader and not receipt.may_go_on:
            self.drop_receiving()

    def receiveMsg_InstallSnapshot(self, message: InstallSnapshot, sender: Any) -> None:
        """Write a chunk, and answer with the offset that is wanted next.

        The election actor has already followed this leader: the gate delivers `LeaderContact` before the request.
        """
        if message.index <= self.ledger.applied:
            self.answer_chunk(message, sender, message.size, done=True)
            return
        receipt = self.receipt
        if receipt is not None and not receipt.takes_chunks:
            self.answer_chunk(message, sender, message.size, done=False)
            return
        if receipt is None or not receipt.is_of(message, sender.node):
            self.drop_receiving()
            receipt = None
        try:
            receipt = self.receipt = receipt or self.begin_receiving(message, sender.node)
            offset = receipt.take(message, sender.node)
        except ConsensusError as error:
            self.context.refuse(error.code, str(error))
            self.drop_receiving()
            self.snapshots.drop_incoming()
            self.refuse(message.index, sender, error)
            return
        self.answer_chunk(message, sender, offset, done=False)
        if offset == message.size:
            receipt.verify(sender)
            self.snapshots.incoming = None  # the job owns the file from here on
            self.offload(self.snapshots.pruning(receipt.receiver.finish), SnapshotReceived, receipt.receiver.abort)

    def begin_receiving(self, message: InstallSnapshot, leader: str) -> SnapshotReceipt:
        """Open the file of a snapshot, with the part of it that is there already.

        Raises `SnapshotFailedError` if the disk refuses it, `StorageFullError` if there is no room for file and state.
        """
        receiver = self.snapshots.receive(message.index, message.entry_term, message.size, message.digest)
        return SnapshotReceipt(receiver, leader, message.term)

    def answer_chunk(self, message: InstallSnapshot, sender: Any, offset: int, *, done: bool) -> None:
        """Answer a chunk: `offset` is wanted next; `done` says that the snapshot's state is durable here."""
        end = message.offset + len(message.data)
        self.send(sender, SnapshotReply(message.term, message.index, offset, done, chunk_end=end))

    def refuse(self, index: int, asker: Any, error: ConsensusError) -> None:
        """Tell the leader why the snapshot up to `index` is not taken, so that it waits before it tries again."""
        if isinstance(error, StorageFullError):
            refusal = FULL
        elif isinstance(error, CorruptionError):
            refusal = DAMAGED
        else:
            refusal = str(error.context.get("refusal", FAILED))
        self.refused_index = index
        self.shared.snapshot_trouble = self.shared.snapshot_trouble or f"the leader's snapshot is not taken: {error}"
        self.send(asker, SnapshotReply(term=self.ledger.term, index=index, offset=0, done=False, refusal=refusal))

    def receiveMsg_SnapshotReceived(self, message: SnapshotReceived, sender: Any) -> None:
        """Move the state of the durable file into the ledger in steps, or into the user's machine.

        The steps are one a turn, so that neither many sessions nor a large state hold up what arrives meanwhile.
        """
        receipt, info = self.receipt, message.info
        assert receipt is not None, "a snapshot is being received"
        if info is None:
            self.receipt = None
            self.publish(SnapshotFailed(index=receipt.index, error=message.error))
            self.refuse(receipt.index, receipt.asker, CorruptionError(message.error))
            return
        if info.index <= self.ledger.applied:
            self.receipt = None
            return
        try:
            installation = self.snapshots.begin_install(info)
        except (StorageFullError, *UNREADABLE) as error:
            self.give_up(info, error)
            return
        receipt.install(installation, self.clock.now())
        self.next_turn(InstallStep())

    def installing(self) -> tuple[SnapshotReceipt, Installation]:
        """The receipt whose state is being installed, and its installation."""
        receipt = self.receipt
        assert receipt is not None, "a snapshot is being installed"
        assert receipt.installation is not None, "its installation began"
        return receipt, receipt.installation

    def receiveMsg_InstallStep(self, message: InstallStep, sender: Any) -> None:
        """Install a slice of the sessions or one chunk; after the last one switch, or hand the rest to the machine."""
        receipt, installation = self.installing()
        settings = self.settings
        time_slice = TimeSlice(self.clock.boottime_ns, settings.slice_seconds, settings.heartbeat_interval)
        try:
            more = self.snapshots.install_step(installation, time_slice)
        except UNREADABLE as error:
            self.give_up(installation.info, error)
            return
        if more:
            self.next_turn(InstallStep())
        elif self.ledger.applier.ledger_machine is not None:
            self.finish_install(receipt, installation)
        elif not self.waits_for_machine(message):
            self.hand_over(installation)

    def hand_over(self, installation: Installation) -> None:
        """Let a helper restore a user's machine, unless this node has applied as much in the meantime."""
        if not self.snapshots.hand_over(installation):
            self.receipt = None
            return
        self.shared.snapshot_doing = self.doing()
        self.offload(
            lambda: self.snapshots.install_whole(installation),
            lambda _, error: MachineRestored(error),
        )

    def give_up(self, info: SnapshotInfo, error: ConsensusError) -> None:
        """Drop a received file that cannot be installed. The leader is told why, and sends it again after a while.

        This node's own state is whole, so damage in the file is no reason to stop.
        """
        receipt, self.receipt = self.receipt, None
        if receipt is not None:
            self.refuse(info.index, receipt.asker, error)
        self.snapshots.drop_installation(info)
        self.publish(SnapshotFailed(index=info.index, error=str(error)))
        self.sweep_soon()

    def receiveMsg_MachineRestored(self, message: MachineRestored, sender: Any) -> None:
        """Switch to the state that a user's machine restored. Raises `ApplyFaultError`, which ends the node.

        The state of a machine whose `restore()` failed is unknown; the next start takes the state from a snapshot.
        """
        receipt, installation = self.installing()
        if message.error:
            raise ApplyFaultError(installation.info.index, f"restore() failed: {message.error}")
        self.finish_install(receipt, installation)

    def finish_install(self, receipt: SnapshotReceipt, installation: Installation) -> None:
        """Switch to the new state. The final answer to the leader leaves when the switch is on disk."""
        last = self.ledger.log.last
        if not self.snapshots.finish_install(installation):
            self.receipt = None
            return
        receipt.stage = Stage.SWITCHING
        if removed := last - self.ledger.log.last:
            self.publish(LogTruncated(from_index=self.ledger.log.last + 1, removed=removed))
        duration = self.clock.now() - receipt.install_began
        info = installation.info
        restored = SnapshotRestored(index=info.index, snapshot_term=info.term, size=info.size_bytes, duration=duration)
        self.publish(restored)
        self.reported.committed = max(self.reported.committed, info.index)
        done = SnapshotReply(term=self.ledger.term, index=info.index, offset=info.size_bytes, done=True)
        self.send(receipt.asker, done)
        self.next_turn(SnapshotInstalled(info.index))
        self.context.next_turn(self.context.actor("replication"), SnapshotInstalled(info.index))

    def receiveMsg_SnapshotInstalled(self, message: SnapshotInstalled, sender: Any) -> None:
        """End the receipt, because the switch is on disk, and delete the rest of the old state."""
        self.receipt = None
        self.receiveMsg_SweepLog(SweepLog(), sender)
