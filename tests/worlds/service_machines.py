"""State machines of a user's own, importable by a service's child process."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable
from typing import Any

import msgpack

from forge_consensus.storage.machines.machine import Entry


class Notebook:
    """Keeps every note in order; the note `die` ends the node, `fail` is refused."""

    def __init__(self) -> None:
        self.notes: list[Any] = []
        self.restored = 0

    def apply(self, entry: Entry) -> Any:
        """Write a note, and return how many there are."""
        command = entry.command
        if command.type == "die":
            raise OSError(errno.EIO, "the disk of this machine is gone")
        if command.type == "fail":
            raise ValueError("no such page")
        if command.type == "sleep":
            time.sleep(command.payload["seconds"])
            return None
        self.notes.append(command.payload["text"])
        return len(self.notes)

    def query(self, query: Any) -> Any:
        """All notes, or the number of restores of the machine."""
        return self.restored if query == "restored" else list(self.notes)

    def snapshot(self) -> Iterable[bytes]:
        """The notes, one in each chunk."""
        return iter([msgpack.packb(note) for note in self.notes])

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the notes by those of a snapshot."""
        self.notes = [msgpack.unpackb(chunk) for chunk in chunks]
        self.restored += 1


class Titled(Notebook):
    """A machine that cannot be made without arguments."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title
