"""The snapshots of a node: taken, used to compact the log, and installed when a leader sent one (paper 7)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from forge_consensus.errors import SnapshotFailedError, StorageError, StorageFullError, UnsupportedVersionError
from forge_consensus.storage.backends.encrypted import ask_for_ring
from forge_consensus.storage.backends.folder import fsync_directory
from forge_consensus.storage.ledger.applying import Point, header_of, point_of
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.skips import check_snapshot
from forge_consensus.storage.ledger.time_slice import TimeSlice, endless
from forge_consensus.storage.machines.machine import StateMachine
from forge_consensus.storage.machines.session_import import SessionImport
from forge_consensus.storage.machines.sessions import packed
from forge_consensus.storage.snapshots.compaction import Compaction
from forge_consensus.storage.snapshots.file import (
    Choice,
    SnapshotInfo,
    check_shape,
    list_snapshots,
    newest_valid,
    prune,
    read_chunks,
    read_header,
    remove_quietly,
    write_snapshot,
)
from forge_consensus.storage.snapshots.origin import origin
from forge_consensus.storage.snapshots.receiver import SnapshotReceiver, parts_in, remove_parts
from forge_consensus.storage.snapshots.rests import Rests

Export = Callable[[], SnapshotInfo]
"""Writes the snapshot of the state on disk. It runs outside the node's thread, best in a process of its own."""

GENERATION_TABLES = ("kv", "sessions")
"""The tables whose keys begin with a generation."""
GENERATION_BYTES = 4
HELD_LOG_BYTES_MIN = 64 << 20
"""A log up to this size, or twice the snapshot's size, is kept for followers that lack its entries. With a longer log
it is cheaper to send them another snapshot."""


@dataclass(slots=True)
class Installation:
    """A received snapshot that is being moved into the ledger."""

    info: SnapshotInfo
    point: Point
    sessions: SessionImport
    """The sessions in its header."""
    chunks: Iterator[bytes]
    """The chunks of the machine's state that are not installed yet."""
    generation: int
    """The generation of tables that takes the state of a machine in the ledger."""


@dataclass(frozen=True, slots=True)
class PruningWrite:
    """The job that makes a file durable with `write`, and then removes older ones.

    It runs outside the node's thread, because a file system takes a quarter of a second to remove 1 GB. The new file
    and the newest usable one are spared, because they need not be among the two newest: those may be files that were
    never installed. A transfer that begins meanwhile is of the newest usable file too. What it reads of `snapshots` the
    node's thread only ever replaces as a whole.
    """

    snapshots: Snapshots
    write: Export

    def __call__(self) -> SnapshotInfo:
        """Write, then remove. Raises what `write` raises."""
        info = self.write()
        snapshots = self.snapshots
        usable = [] if snapshots.newest is None else [snapshots.newest.path]
        with suppress(SnapshotFailedError):  # an old file that stays harms nothing, and the next job tries again
            prune(snapshots.folder, spare=[*snapshots.in_use, *usable, info.path])
        return info


class Snapshots:
    """The snapshot files of one node, and their use: compaction, sending, installing.

    It belongs to the node's thread. `export` writes the state of a machine that is kept in the ledger; a user's machine
    gives its state itself. `newest` is the newest usable file; `damaged` says what is wrong with the newer ones that a
    start found.
    """

    def __init__(self, ledger: Ledger, folder: Path, export: Export) -> None:
        self.ledger = ledger
        self.folder = folder
        self.keys = ledger.tables.files
        """The keys of the files, if the folder is encrypted."""
        self.export = export
        self.compaction = Compaction(ledger)
        self.incoming: SnapshotReceiver | None = None
        """The file that is being received; it is noted here because it outlives an actor that fails."""
        self.parts_left = bool(parts_in(folder))
        """Whether the folder may hold parts of snapshots that nobody receives now."""
        self.installing: Installation | None = None
        """The received snapshot that is being installed, until its switch is on disk.

        The next file may arrive in the turn that switches, so this is not the same fact as `incoming`.
        """
        self.end_export: Callable[[str], None] | None = None
        """Ends the run of `export` that goes on, with a reason for people; None if it cannot be ended."""
        self.on_thread = ""
        """Why `export` runs on a thread of the node's process, where one of its own was meant; for people."""
        self.in_use: Collection[Path] = ()
        """The files that are being sent, and therefore not removed."""
        find = state_of_machine if ledger.applier.ledger_machine is None else beside_tables
        choice = find(ledger, folder)
        self.newest, self.damaged = choice.info, choice.corrupt
        if self.newest is not None:
            make_names_safe(folder)

    # --- taking ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Ask for a checkpoint in this turn, so that the state on disk is the state that was applied."""
        self.ledger.request_checkpoint()

    def capture(self) -> Callable[[], SnapshotInfo]:
        """Return a job that writes the snapshot, to be run outside the node's thread.

        The state of a user's machine is taken now, between two applies; its `snapshot()` may raise anything. Its
        sessions are captured now and packed by the job, because there may be hundreds of thousands of outcomes. Raises
        `SnapshotFailedError` while a snapshot is being installed, `StorageFullError` without room for the file.
        """
        ledger, applier = self.ledger, self.ledger.applier
        self.compaction.check_file(self.newest)
        if applier.ledger_machine is not None:
            ledger.tables.sync()  # the exporter reads them for itself
            return self.pruning(self.export)
        if applier.replacing:
            raise SnapshotFailedError("no snapshot is taken while another one is installed")
        configuration = ledger.configurations.at(applier.index).encode()
        header = header_of(applier.point(configuration), [], applier.skips) | origin(ledger.tables, in_ledger=False)
        sessions = applier.sessions.capture()
        chunks = cast("StateMachine", applier.machine).snapshot()
        rests = Rests(ledger.settings.snapshot_seconds_max)

        def write() -> SnapshotInfo:
            whole = {**header, "sessions": packed(sessions)}
            return write_snapshot(self.folder, whole, chunks, self.keys, rests)

        return self.pruning(write)

    def pruning(self, write: Export) -> PruningWrite:
        """Return a job that makes a file durable with `write`, and then removes older ones."""
        return PruningWrite(self, write)

    def taken(self, info: SnapshotInfo) -> None:
        """Note that a snapshot is durable."""
        info = replace(info, keys=self.keys)  # a helper process does not tell them
        if self.newest is None or info.index >= self.newest.index:
            self.newest = info
        self.ledger.snapshot_saved(info.index)

    def compact(self, needed: int | None = None) -> tuple[int, int]:
        """Move the log's base up to the newest snapshot, less the trailing entries; returns (old base, new base).

        The base never moves beyond the state on disk, even if a leader sent a newer file (I8). Entries after `needed`
        are kept for a live follower while the store has space for them; None if no follower is known to need any.
        `sweep` then deletes the other entries, a slice a turn.
        """
        target = self.compactable
        if needed is not None and self.may_hold(self.newest):
            target = min(target, needed)
        return self.cut(target)

    def compact_without_file(self) -> tuple[int, int]:
        """Move the log's base up to the state on disk, because there is no room for a snapshot file.

        Only for a machine that is kept in the ledger: its tables hold the state up to there, whatever happens to files
        (I8). A follower that needs the entries gets a snapshot when there is room for one.
        """
        if self.ledger.applier.ledger_machine is None:
            return self.cut(0)
        return self.cut(self.compaction.behind_state())

    def cut(self, target: int) -> tuple[int, int]:
        """Move the log's base up to `target`, if it lies behind it; returns (old base, new base).

        One turn may be asked twice, and the second time need less. The base does not go back then: a configuration in
        between would be in force no more, because memory has forgotten its entry.
        """
        ledger = self.ledger
        log = ledger.log
        before = max(log.base_index, ledger.turn.base_index)
        if target <= before or ledger.applier.replacing:
            return before, before
        term = log.term_at(target) or 0
        ledger.move_base(target, term, ledger.configurations.at(target).encode())
        return before, target

    @property
    def compactable(self) -> int:
        """The index up to which the log may be cut if no follower needs its entries; 0 without a snapshot."""
        return self.compaction.target(self.newest)

    def make_room_for_file(self) -> bool:
        """Remove the older files if there is no room for another; returns whether there is, as far as is known now."""
        if self.compaction.fits(self.newest):
            return True
        with suppress(SnapshotFailedError):
            newest = [] if self.newest is None else [self.newest.path]
            prune(self.folder, keep=1, spare=[*self.in_use, *newest])
        return False

    def free_room(self, *, saving: bool) -> None:
        """Give back what snapshots take of a full disk. `saving` says whether one is being written.

        A helper that reads the tables keeps every page that is freed meanwhile from being used again, so a slow one can
        fill the disk, and what would cut the log is the snapshot that it writes. A machine that is kept in the ledger
        needs no file, so the helper is ended. While nothing is written the files go that nobody is being sent: a short
        log is no reason for a snapshot, so nothing else would make room.
        """
        ledger = self.ledger
        if ledger.applier.ledger_machine is None or not ledger.room.full:
            return
        if not ledger.room.disk_is_short(ledger.tables.space()):
            return
        if saving:
            if self.end_export is not None:
                self.end_export("the disk was full before it was done")
        elif self.newest is not None and self.newest.path not in self.in_use:
            self.newest = None
            for path in list_snapshots(self.folder):
                if path not in self.in_use:
                    remove_quietly(path)

    def drop_useless(self) -> None:
        """Remove the newest file if the log no longer continues it and the state is in the tables: it is useless."""
        newest = self.newest
        if newest is None or self.ledger.applier.ledger_machine is None or newest.path in self.in_use:
            return
        if newest.index < self.ledger.log.base_index:
            self.newest = None
            remove_quietly(newest.path)

    def may_hold(self, newest: SnapshotInfo | None) -> bool:
        """Whether entries may be kept for a follower: the log is not long, and the store is less than half full."""
        tables = self.ledger.tables
        space = tables.space()
        held_bytes_max = max(HELD_LOG_BYTES_MIN, 2 * newest.size_bytes if newest else 0)
        return tables.size_bytes("log") <= held_bytes_max and space.used_bytes < space.room_bytes

    def sweep(self) -> bool:
        """Stage the removal of one slice of unused data; returns whether there was any.

        That is the log before its base, and every generation of tables except the current one and the one that is being
        installed. So a generation that a crash left half-written is removed without one long transaction at start. Rows
        that are encrypted with an earlier key are written anew, a slice each time too.
        """
        ledger = self.ledger
        batch, count = ledger.turn.batch, ledger.settings.sweep_entries
        found = ledger.log.sweep(batch, count)
        if self.keys is not None and self.keys.rewriting:
            ask_for_ring(batch)
            found = True
        current = ledger.applier.generation
        used = sorted({current, current if self.installing is None else self.installing.generation})
        for table in GENERATION_TABLES:
            for after, before in zip([-1, *used], [*used, None], strict=True):
                start = (after + 1).to_bytes(GENERATION_BYTES)
                stop = None if before is None else before.to_bytes(GENERATION_BYTES)
                if ledger.tables.scan(table, start, stop, 1):
                    batch.delete_range(table, start, stop, count)
                    found = True
                    break
        return found

    def receive(self, index: int, term: int, size_bytes: int, digest: bytes) -> SnapshotReceiver:
        """Open a receiver, which goes on with a part of the same file that is there.

        Raises `SnapshotFailedError` if the disk refuses it, `StorageFullError` unless there is room for the rest of the
        file, and for its state in the tables.
        """
        receiver = SnapshotReceiver(self.folder, index, term, size_bytes, digest, self.keys)
        beside_bytes = 0 if self.ledger.applier.ledger_machine is None else size_bytes
        try:
            self.ledger.room.check_file(size_bytes - receiver.resumed_bytes, beside_bytes=beside_bytes)
        except StorageFullError:
            receiver.abort()
            raise
        self.incoming = receiver
        return receiver

    def leave_incoming(self) -> None:
        """Stop receiving, and leave the part of the file to whoever goes on with it."""
        if self.incoming is not None:
            if self.incoming.digest:
                self.incoming.close()
                self.parts_left = True
            else:
                self.incoming.abort()
            self.incoming = None

    def drop_incoming(self) -> None:
        """Give up a file that is being received, and remove it."""
        if self.incoming is not None:
            self.incoming.abort()
            self.incoming = None

    def drop_overtaken_parts(self) -> None:
        """Remove parts that an earlier process or actor left, once this node has applied as much as they would hold."""
        if self.parts_left:
            remove_parts(self.folder, index_max=self.ledger.applied)
            self.parts_left = bool(parts_in(self.folder))

    # --- installing --------------------------------------------------------------------------------------------------

    def begin_install(self, info: SnapshotInfo) -> Installation:
        """Prepare to replace the state by a received snapshot.

        The old state stays in force, and entries are applied to it. Raises `CorruptionError` for a bad file,
        `SnapshotFailedError` for one whose configuration is of a later version and for one whose state skipped other
        entries, `StorageFullError` when there is no room for it.
        """
        ledger = self.ledger
        header = read_header(info.path, self.keys)
        point, sessions = point_of(header)
        check_snapshot(header.get("skips", ()), ledger.applier.skips, point.index, info.path.name)
        try:
            Configuration.decode(point.configuration, ledger.configurations.level)
        except UnsupportedVersionError as error:
            raise SnapshotFailedError(
                f"{info.path.name} cannot be installed: {error}", refusal="unsupported"
            ) from error
        if ledger.applier.ledger_machine is not None:
            ledger.room.check(info.size_bytes)
        newest_rows = [ledger.tables.last(table) for table in GENERATION_TABLES]
        used = [int.from_bytes(row[0][:GENERATION_BYTES]) for row in newest_rows if row is not None]
        generation = max(ledger.applier.generation, *used, 0) + 1
        imported = SessionImport(sessions, None if ledger.applier.ledger_machine is None else generation)
        self.installing = Installation(info, point, imported, read_chunks(info.path, self.keys), generation)
        return self.installing

    def install_step(self, installation: Installation, time_slice: TimeSlice | None = None) -> bool:
        """Import the sessions, a slice in each step, and then one chunk after another into the new tables.

        Returns whether more may be left; for a user's machine that is whether sessions are left, because all chunks are
        handed to it at once. Raises `CorruptionError` for a damaged chunk and, at the end, for a damaged file.
        """
        sessions, machine = installation.sessions, self.ledger.applier.ledger_machine
        if not sessions.done and sessions.step(self.ledger.turn.batch, (time_slice or endless()).over):
            return True
        if machine is None:
            return False
        chunk = next(installation.chunks, None)
        if chunk is None:
            return False
        machine.import_chunk(self.ledger.turn.batch, installation.generation, chunk)
        return True

    def drop_installation(self, info: SnapshotInfo | None = None) -> None:
        """Give up an installation before its switch, and remove its file if `info` names it; the old state stays.

        The next sweeps remove its data from the tables.
        """
        self.installing = None
        if info is not None and (self.newest is None or self.newest.path != info.path):
            remove_quietly(info.path)

    def hand_over(self, installation: Installation) -> bool:
        """Let a user's machine rest, because it is to be handed the snapshot: nothing is applied until the switch.

        Returns False, with the installation dropped, if this node has applied as much in the meantime.
        """
        if installation.point.index <= self.ledger.applier.index:
            self.installing = None
            return False
        self.ledger.begin_replacing()
        return True

    def install_whole(self, installation: Installation) -> None:
        """Hand all chunks to a user's machine. Any thread may do that, because nothing is applied meanwhile.

        The machine's `restore()` may raise anything.
        """
        cast("StateMachine", self.ledger.applier.machine).restore(installation.chunks)

    def finish_install(self, installation: Installation) -> bool:
        """Switch to the installed state when this turn commits; see `Ledger.switch_state`.

        Returns False, with nothing done, if this node has applied as much in the meantime.
        """
        if not self.ledger.switch_state(installation.point, installation.sessions.sessions(), installation.generation):
            self.installing = None
            return False

        def follow() -> None:
            self.installing = None
            self.taken(installation.info)

        self.ledger.turn.after.append(follow)
        return True

    @property
    def is_due(self) -> bool:
        """Whether it is time for a snapshot."""
        return self.compaction.is_due(self.newest)

    @property
    def lag(self) -> int:
        """How many entries were applied after the newest snapshot."""
        return self.ledger.applier.index - (self.newest.index if self.newest else 0)


def state_of_machine(ledger: Ledger, folder: Path) -> Choice:
    """The newest usable file of a user's machine. It is the machine's state, so all of it is read.

    It may be newer than the log, because a crash may come between receiving a file and switching to it. It cannot be of
    a term that this node never knew: such a file is not of this node, so it is neither installed nor sent.
    """
    return newest_valid(folder, lambda index, term: term <= ledger.term, keys=ledger.tables.files)


def beside_tables(ledger: Ledger, folder: Path) -> Choice:
    """The newest usable file of a machine in the ledger. The state is in the tables, so only the file's shape is read.

    A file that is newer than that state was received and never switched to, or belongs to another node. The log is
    never compacted behind it (I8) and it is not sent, because nothing proves that it holds what was committed here.
    """
    applier = ledger.applier

    def wanted(index: int, term: int) -> bool:
        return index <= applier.index and term <= applier.term

    return newest_valid(folder, wanted, check_shape, ledger.tables.files)


def make_names_safe(folder: Path) -> None:
    """Flush the folder before anything relies on a file that is found in it. Raises `StorageError`.

    The last process may have ended between giving a snapshot its name and flushing the folder. If the log were
    compacted behind that snapshot and the power failed, the name would be lost, and with it the entries.
    """
    try:
        fsync_directory(folder)
    except OSError as error:
        raise StorageError(f"cannot flush {folder}: {error}") from error
