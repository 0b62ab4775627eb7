"""Snapshots: the state as one file, taken and installed, and the compaction of the log that it allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgpack

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.applying import APPLIED, Point, header_of, point_of
from forge_consensus.storage.ledger import BASE, Ledger
from forge_consensus.storage.machine import StateMachine
from forge_consensus.storage.sessions import import_rows
from forge_consensus.storage.snapshot_file import (
    SnapshotInfo,
    newest,
    prune,
    read_chunks,
    read_header,
    write_snapshot,
)
from forge_consensus.storage.tables import Batch
from forge_consensus.storage.transaction import META

Export = Callable[[], SnapshotInfo]
"""Writes the snapshot of what is on disk; runs outside the node's thread, best in a process of its own."""

GENERATION_TABLES = ("kv", "sessions")
"""The tables whose keys begin with a generation."""
GENERATION_BYTES = 4


def drop_half_installed(batch: Batch, generation: int) -> None:
    """Stage the removal of every generation above the current one: an installation that did not end."""
    for table in GENERATION_TABLES:
        batch.delete_range(table, (generation + 1).to_bytes(GENERATION_BYTES), None)


@dataclass(slots=True)
class Installation:
    """A received snapshot on its way into the ledger: which, how far, and into which generation of tables."""

    info: SnapshotInfo
    point: Point
    sessions: list[bytes]
    chunks: Iterator[bytes]
    generation: int


class Snapshots:
    """The snapshots of one node.

    `export` writes the state of a machine that lives in the ledger; a user's own machine gives its state itself.
    """

    def __init__(self, ledger: Ledger, folder: Path, export: Export) -> None:
        self.ledger = ledger
        self.folder = folder
        self.export = export
        self.newest: SnapshotInfo | None = None
        try:
            self.newest = newest(folder)
        except CorruptionError:
            # The state of a ledger machine is in the tables: its damaged file is only replaced by the next.
            if ledger.applier.kept is None:
                raise

    # --- taking ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Ask for a checkpoint, so that what is on disk is what was applied."""
        self.ledger.checkpoint_wanted = True

    def capture(self) -> Callable[[], SnapshotInfo]:
        """A job that writes the snapshot, to be run off the node's thread.

        For a user's machine the state is taken now, between two applies. Its `snapshot()` may raise anything.
        """
        ledger, applier = self.ledger, self.ledger.applier
        if applier.kept is not None:
            return self.export
        configuration = ledger.configurations.at(applier.index).encode()
        point = Point(applier.index, applier.term, applier.time_ms, configuration)
        header = header_of(point, applier.sessions.export())
        chunks = cast(StateMachine, applier.machine).snapshot()
        return lambda: write_snapshot(self.folder, header, chunks)

    def taken(self, info: SnapshotInfo) -> None:
        """A snapshot is durable; older files go."""
        if self.newest is None or info.index >= self.newest.index:
            self.newest = info
        prune(self.folder)

    def compact(self) -> tuple[int, int]:
        """Move the log's base up to the newest snapshot, less the trailing entries; returns (old base, new base).

        The entries themselves go by `sweep`, a slice a turn.
        """
        ledger = self.ledger
        log = ledger.log
        before = log.base_index
        if self.newest is None:
            return before, before
        target = min(self.newest.index, ledger.applier.index, log.durable - ledger.limits.trailing_entries)
        if target <= before:
            return before, before
        term = log.term_at(target) or 0
        self.stage_base(target, term, ledger.configurations.at(target).encode())
        return before, target

    def stage_base(self, index: int, term: int, configuration: bytes) -> None:
        """Stage the new start of the log; memory follows once it is on disk."""
        ledger = self.ledger
        ledger.turn.put_meta(BASE, cast(bytes, msgpack.packb((index, term, configuration))))

        def follow() -> None:
            ledger.configurations.compacted(index, configuration)
            ledger.log.rebase(index, term)

        ledger.turn.after.append(follow)

    def sweep(self) -> bool:
        """Stage one slice of what is no longer used; returns whether there was any."""
        ledger = self.ledger
        batch, count = ledger.turn.batch, ledger.limits.sweep_entries
        found = ledger.log.sweep(batch, count)
        current = ledger.applier.generation.to_bytes(GENERATION_BYTES)
        for table in GENERATION_TABLES:
            oldest = ledger.tables.first(table)
            if oldest is not None and oldest[0] < current:
                batch.delete_range(table, b"", current, count)
                found = True
        ledger.turn.urgent |= found
        return found

    # --- installing --------------------------------------------------------------------------------------------------

    def begin_install(self, info: SnapshotInfo) -> Installation:
        """Prepare to replace the state by a received snapshot. Raises `CorruptionError` for a bad file."""
        point, sessions = point_of(read_header(info.path))
        generation = self.ledger.applier.generation + 1
        drop_half_installed(self.ledger.turn.batch, self.ledger.applier.generation)
        return Installation(info, point, sessions, read_chunks(info.path), generation)

    def install_step(self, installation: Installation) -> bool:
        """Move one chunk into the new generation of tables; returns whether there was another."""
        kept = self.ledger.applier.kept
        assert kept is not None, "only a machine in the ledger is installed in steps"
        chunk = next(installation.chunks, None)
        if chunk is None:
            return False
        kept.import_chunk(self.ledger.turn.batch, installation.generation, chunk)
        self.ledger.turn.urgent = True
        return True

    def install_whole(self, installation: Installation) -> None:
        """Hand all chunks to a user's machine; applying must rest meanwhile. May raise anything."""
        cast(StateMachine, self.ledger.applier.machine).restore(installation.chunks)

    def finish_install(self, installation: Installation) -> None:
        """Switch to the installed state: generation, applied index, sessions, configuration and log start at once.

        The log behind the snapshot stays only if it continues it (paper 7); I8.
        """
        ledger, point = self.ledger, installation.point
        log, turn = ledger.log, ledger.turn
        if log.last > point.index and log.term_at(point.index) != point.term:
            ledger.truncate(max(point.index, log.base_index) + 1)
        self.stage_base(point.index, point.term, point.configuration)
        kept = ledger.applier.kept
        if kept is not None:
            for chunk in installation.sessions:
                import_rows(turn.batch, installation.generation, chunk)
            row = (installation.generation, point.index, point.term, point.time_ms, point.configuration)
            turn.batch.put(META, APPLIED, cast(bytes, msgpack.packb(row)))

        def follow() -> None:
            if kept is not None:
                ledger.applier.load()
            else:
                ledger.applier.restored(point, installation.sessions)
            ledger.commit_index = max(ledger.commit_index, point.index)

        turn.after.append(follow)
        self.taken(installation.info)

    @property
    def lag(self) -> int:
        """How many entries were applied since the newest snapshot."""
        return self.ledger.applier.index - (self.newest.index if self.newest else 0)
