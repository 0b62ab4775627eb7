"""The backups of clients: snapshots that are made on request, listed, and read part by part."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from forge_consensus.actors.messages import (
    ListSnapshots,
    MakeSnapshot,
    ReadSnapshot,
    SnapshotList,
    SnapshotMade,
    SnapshotPart,
)
from forge_consensus.actors.notices import LookForBackups, PartRead, TakeSnapshot
from forge_consensus.actors.queries import QueryDesk
from forge_consensus.actors.raft.answering import RESULT_OVERHEAD_BYTES
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.actors.runtime.timers import Timer
from forge_consensus.errors import BusyError, OperationFailedError, SnapshotFailedError
from forge_consensus.storage.snapshots.file import SnapshotInfo, list_snapshots, name_of

LOOK_SECONDS: Final = 0.02
"""How often it is looked whether a snapshot that clients wait for is durable."""
WAIT_SECONDS: Final = 5.0
"""A client that did not ask again for so long is forgotten."""
WAITING_MAX: Final = 100
"""So many clients wait at most for a snapshot; further ones are refused as busy."""
PART_BYTES_MAX: Final = 1 << 20
OPEN_MAX: Final = 8
"""So many files are open at most for clients that read them; the one that rested longest is closed for another."""
OPEN_SECONDS: Final = 60.0
"""A file of which nobody read a part for so long is closed."""

Place = tuple[Any, int]
"""The connection of a client, and the entry that the snapshot must have applied."""
Name = tuple[Any, int, int]
"""The connection of a client, and index and term of the snapshot."""


@dataclass(slots=True)
class Wanted:
    """A snapshot that a client waits for."""

    asker: SenderAddress
    until: float
    """When it is forgotten, in seconds of real time."""
    tried: bool = False
    """Whether one was begun for it."""


class Reading:
    """A snapshot file that a client reads. It stays readable after it was removed, because it is open.

    It is closed by `close`, or with this object, which an actor that fails leaves behind. Raises `OSError`.
    """

    def __init__(self, path: Path, now: float) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self.descriptor)
        self.used_at = now


class BackupDesk(QueryDesk):
    """The part of the gateway that gives clients whole snapshots. They change nothing, so losing a request is safe.

    Only the snapshot actor takes snapshots. This part asks it to and looks at the newest file, so that it need not know
    how one is taken. Files are read on helper threads, because a disk may be slow.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wanted: dict[Place, Wanted] = {}
        self.readings: dict[Name, Reading] = {}
        self.looking: Timer | None = None
        """The timer of the next look at what clients wait for and read."""
        self.looks_soon = False

    def receiveMsg_MakeSnapshot(self, message: MakeSnapshot, sender: Any) -> None:
        """Answer with the newest snapshot if it is new enough; else have one taken, and answer when it is durable."""
        newest = self.snapshots.newest
        if newest is not None and newest.index >= message.min_index:
            self.send(sender, self.made(newest))
            return
        place, until = (sender.connection, message.min_index), self.clock.now() + WAIT_SECONDS
        known = self.wanted.get(place)
        if known is not None:
            known.asker, known.until = sender, until
        elif len(self.wanted) >= WAITING_MAX:
            self.refuse(sender, BusyError.code, f"{WAITING_MAX} clients wait for a snapshot already: ask again later")
            return
        else:
            self.wanted[place] = Wanted(sender, until)
        self.look_for_backups()

    def made(self, info: SnapshotInfo) -> SnapshotMade:
        """What is told of a snapshot."""
        cluster = self.ledger.identity.cluster_id
        return SnapshotMade(self.node_id, cluster, info.index, info.term, info.stored_bytes)

    def look_for_backups(self) -> None:
        """Look soon if a client waits, else once in a while if one reads; at most one look is planned."""
        if not self.wanted and not self.readings:
            return
        if self.looking is not None:
            if self.looks_soon or not self.wanted:
                return
            self.looking.cancel()  # it is for those who read, and too late for one who waits
        self.looks_soon = bool(self.wanted)
        self.looking = self.after(LOOK_SECONDS if self.looks_soon else OPEN_SECONDS / 2, LookForBackups())

    def receiveMsg_LookForBackups(self, message: LookForBackups, sender: Any) -> None:
        """Answer the clients whose snapshot is durable or failed, begin one for the others, and forget who is gone."""
        self.looking = None
        now = self.clock.now()
        for place, wanted in list(self.wanted.items()):
            if now > wanted.until or self.is_answered(place[1], wanted):
                del self.wanted[place]
        for name, reading in list(self.readings.items()):
            if now - reading.used_at > OPEN_SECONDS:
                reading.close()
                del self.readings[name]
        self.look_for_backups()

    def is_answered(self, min_index: int, wanted: Wanted) -> bool:
        """Answer a client if it is known what became of its snapshot, and begin one if none is under way."""
        newest = self.snapshots.newest
        if newest is not None and newest.index >= min_index:
            self.send(wanted.asker, self.made(newest))
            return True
        if self.reported.saving or self.ledger.applied < min_index:
            return False
        if wanted.tried and self.shared.snapshot_trouble:
            self.refuse(wanted.asker, OperationFailedError.code, f"no snapshot: {self.shared.snapshot_trouble}")
            return True
        wanted.tried = True
        self.tell("snapshot", TakeSnapshot())
        return False

    def receiveMsg_ListSnapshots(self, message: ListSnapshots, sender: Any) -> None:
        """Send which snapshot files there are."""
        found = []
        for path in list_snapshots(self.snapshots.folder):
            _, term, index = path.stem.split("-")
            try:
                found.append((int(index, 16), int(term, 16), path.stat().st_size))
            except OSError:  # it was removed meanwhile
                continue
        self.send(sender, SnapshotList(self.node_id, tuple(found)))

    def receiveMsg_ReadSnapshot(self, message: ReadSnapshot, sender: Any) -> None:
        """Read a part of a snapshot file elsewhere, and send it."""
        size = min(message.size, PART_BYTES_MAX, self.settings.message_bytes_max // 2)
        if not self.unread.takes(sender.connection, size + RESULT_OVERHEAD_BYTES):
            self.refuse_unread(sender, BusyError.code)
            return
        try:
            # A copy of the descriptor, so that closing the file meanwhile does not have another one read.
            descriptor = os.dup(self.opened_for((sender.connection, message.index, message.entry_term)))
        except OSError as error:
            text = f"{self.node_id} cannot read its snapshot of entry {message.index}, ask for another one: {error}"
            self.refuse(sender, OperationFailedError.code, text)
            return

        def read() -> SnapshotPart:
            try:
                data = os.pread(descriptor, size, message.offset)
            finally:
                os.close(descriptor)
            return SnapshotPart(message.index, message.entry_term, message.offset, data)

        self.offload(read, lambda part, error: PartRead(part, error, sender), lambda: os.close(descriptor))

    def opened_for(self, name: Name) -> int:
        """The descriptor of the file that a client reads, opened for its first part. Raises `OSError`."""
        now = self.clock.now()
        reading = self.readings.get(name)
        if reading is None:
            opened = Reading(self.snapshots.folder / name_of(name[1], name[2]), now)
            while len(self.readings) >= OPEN_MAX:
                oldest = min(self.readings, key=lambda each: self.readings[each].used_at)
                self.readings.pop(oldest).close()
            reading = self.readings[name] = opened
            self.look_for_backups()
        reading.used_at = now
        return reading.descriptor

    def receiveMsg_PartRead(self, message: PartRead, sender: Any) -> None:
        """Send a part that was read."""
        if message.part is None:
            self.refuse(message.asker, SnapshotFailedError.code, f"the snapshot could not be read: {message.error}")
        else:
            self.send(message.asker, message.part)
