"""Mutants of snapshots: their content, the checks before installing them, and the compaction behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from forge_consensus.actors.messages import SnapshotReply
from forge_consensus.actors.notices import SnapshotChecked, SnapshotReceived
from forge_consensus.actors.raft.snapshot_transfer import SnapshotTransfer
from forge_consensus.actors.snapshot import SnapshotActor
from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.ledger import applying
from forge_consensus.storage.ledger.applying import Point
from forge_consensus.storage.machines import chunks
from forge_consensus.storage.machines.session_rows import rows_in_chunk
from forge_consensus.storage.machines.sessions import Gathered, packed
from forge_consensus.storage.snapshots import store as snapshots
from forge_consensus.storage.snapshots.file import END_MARK, FRAME, SnapshotInfo, SnapshotReader
from forge_consensus.storage.snapshots.receiver import SnapshotReceiver
from forge_consensus.storage.snapshots.store import Installation, Snapshots
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import mutant

SMALL = StorageSettings(
    snapshot_entries=20, snapshot_seconds_min=0.1, trailing_entries=0, checkpoint_entries=5, sweep_entries=5
)
OFTEN = replace(SMALL, snapshot_entries=5)
CHUNK_BYTES = 200
"""So that even a simulation's small state has several chunks, which are installed in several turns."""


@mutant(own_machine=True)
def a_snapshot_claims_an_entry_more_than_it_holds(patch: Patch) -> None:
    """The index in a snapshot and its state are one entry apart (redisraft #43)."""
    capture = Snapshots.capture

    def boast(self: Snapshots) -> Any:
        applier, log = self.ledger.applier, self.ledger.log
        held = applier.index, applier.term
        if applier.ledger_machine is None and applier.index < log.durable:
            applier.index, applier.term = applier.index + 1, log.term_at(applier.index + 1) or 0
        try:
            return capture(self)
        finally:
            applier.index, applier.term = held

    patch.setattr(Snapshots, "capture", boast)


@mutant()
def the_log_is_cut_beyond_the_state_on_disk(patch: Patch) -> None:
    """Compaction goes as far as was applied, though a restart has to replay it (camunda/zeebe #3573)."""

    def compact(self: Snapshots, needed: int | None = None) -> tuple[int, int]:
        ledger = self.ledger
        before, target = ledger.log.base_index, min(ledger.applied, ledger.log.durable)
        if ledger.applier.replacing or target <= before:
            return before, before
        term = ledger.log.term_at(target) or 0
        ledger.move_base(target, term, ledger.configurations.at(target).encode())
        return before, target

    patch.setattr(Snapshots, "compact", compact)


@mutant(nodes=3, clients=8, storage=OFTEN, kinds=("isolate_leader", "mend", "snapshot"))
def a_diverged_suffix_survives_a_snapshot(patch: Patch) -> None:
    """The log behind an installed snapshot is kept although it does not continue it (paper 7)."""
    finish_install = Snapshots.finish_install

    def keep(self: Snapshots, installation: Installation) -> bool:
        ledger: Any = self.ledger
        ledger.truncate = lambda first: 0
        try:
            return finish_install(self, installation)
        finally:
            del ledger.truncate

    patch.setattr(Snapshots, "finish_install", keep)


@mutant()
def a_snapshot_is_acknowledged_when_it_has_arrived(patch: Patch) -> None:
    """The leader counts a snapshot that is received and not installed yet (I11)."""

    def make(receive: Callable[..., None]) -> Callable[..., None]:
        def hasty(self: SnapshotActor, message: SnapshotReceived, sender: Any) -> None:
            if message.info is not None:
                info, receipt = message.info, self.receipt
                assert receipt is not None
                self.send(receipt.asker, SnapshotReply(self.ledger.term, info.index, info.size_bytes, True))
            receive(self, message, sender)

        return hasty

    patch.handler(SnapshotActor, SnapshotReceived, make)


@mutant(nodes=3, own_machine=False, storage=OFTEN, kinds=("isolate", "isolate_leader", "mend", "snapshot", "slow_disk"))
def the_sweep_takes_what_is_being_installed(patch: Patch) -> None:
    """The half-installed tables look like those that a crash left, and are cleared away."""
    patch.setattr(chunks, "CHUNK_BYTES", CHUNK_BYTES)
    sweep = Snapshots.sweep

    def blind(self: Snapshots) -> bool:
        installing, self.installing = self.installing, None
        try:
            return sweep(self)
        finally:
            self.installing = installing

    patch.setattr(Snapshots, "sweep", blind)


@mutant(nodes=3, storage=OFTEN, kinds=("flip_file", "isolate", "isolate_leader", "mend"))
def a_damaged_snapshot_is_installed(patch: Patch) -> None:
    """Neither the receiver nor the reader compares checksums."""

    def chunks(self: SnapshotReader) -> Iterator[bytes]:
        while (row := FRAME.unpack(self.read(FRAME.size, "a chunk")))[0] != END_MARK:
            yield self.read(row[0], "a chunk")

    patch.setattr(SnapshotReceiver, "check_whole", lambda self: None)
    patch.setattr(SnapshotReader, "chunks", chunks)
    patch.setattr(SnapshotReader, "read_checked", lambda self, size, crc, what: self.read(size, what))


@mutant(nodes=3, clients=4, pace=1.0, storage=SMALL, kinds=("jump_clock", "isolate_leader", "split", "mend"))
def a_snapshot_loses_the_time(patch: Patch) -> None:
    """When its sessions were used last is no part of a snapshot, so they expire at another moment (I5)."""
    point_of = applying.point_of

    def timeless(header: dict[str, Any]) -> tuple[Point, list[bytes]]:
        point, sessions = point_of(header)
        found = Gathered(stored=False)
        for chunk in sessions:
            for row in rows_in_chunk(chunk):
                found.take(*row)
        for state in found.live.values():
            state.last_ms = 0
        return point, packed((session, state.head, state.outcomes) for session, state in found.live.items())

    patch.setattr(snapshots, "point_of", timeless)


# --- bugs that simulations found, put back in -------------------------------------------------------------------------


def a_damaged_snapshot_is_sent_on_when_there_is_a_newer_one(patch: Patch) -> None:
    """What was learned of a file's damage was of no consequence unless the file was still the newest.

    A follower's refusal does not help either, as it did not before refusals had a reason.
    """

    def make(receive: Callable[..., None]) -> Callable[..., None]:
        def heedless(self: SnapshotActor, message: SnapshotChecked, sender: Any) -> None:
            if self.snapshots.newest is message.info:
                receive(self, message, sender)

        return heedless

    patch.handler(SnapshotActor, SnapshotChecked, make)
    begin = SnapshotTransfer.begin

    def keep(self: SnapshotTransfer, newest: SnapshotInfo | None, base_index: int, now: float) -> None:
        kept = self.info
        begin(self, newest, base_index, now)
        self.info = kept or self.info

    patch.setattr(SnapshotTransfer, "begin", keep)
