"""The simulated files: a node's snapshot folder on a disk that may lose, at a crash, whatever was not flushed."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forge_consensus.storage.snapshots.receiver import SnapshotReceiver
from forge_consensus.storage.snapshots.store import PruningWrite

STOPPING_STEPS = ("write", "flush", "rename", "flush folder")
"""The steps after which a process may be ended, or at which the disk may be made to fail."""


@dataclass(eq=False, slots=True)
class Inode:
    """A file independent of its names, and the bytes of it that are safe on the disk."""

    flushed: bytes = b""


class SimulatedFiles:
    """Follows each step of the files of a folder and, after a crash, damages only what a real disk may damage.

    The bytes of a file are safe once the file was flushed, its name once its folder was flushed. When the power fails,
    anything else may be lost: a file may lack its last bytes, have zeros in their place, or be empty; a rename or a
    removal may not have happened. When only the process ends, its writes stay, but are still not safe.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.present: dict[str, Inode] = {}
        self.durable: dict[str, Inode] = {}
        self.frozen: dict[str, bytes] | None = None
        """The folder as it was when the process ended within a step, before its clean-up code ran."""
        self.stop_in: int | None = None
        """The number of further steps after which the process ends; None for no such order."""
        self.error_in: int | None = None
        """The number of further steps after which the disk fails; None for no such order."""
        self.stop: Callable[[], None] = lambda: None
        self.error: Callable[[], Exception] = lambda: OSError("ordered")
        self.deaf = False
        self.full: Callable[[], bool] = lambda: False
        """Returns whether the disk has no space for another byte."""

    # --- the steps ---------------------------------------------------------------------------------------------------

    def took(self, step: str, name: str, earlier: str) -> None:
        """Follow one step. Raises the failure that was ordered for it."""
        if self.frozen is not None:
            return  # the process has ended, so the steps of its clean-up code never happened
        if step == "create":
            self.present[name] = Inode()
        elif step == "flush":
            self.inode(name).flushed = self.bytes_of(name)
        elif step == "rename":
            self.present[name] = self.present.pop(earlier, Inode())
        elif step == "remove":
            self.present.pop(name, None)
        elif step == "flush folder":
            self.durable = self.present.copy()
        if step in STOPPING_STEPS and not self.deaf:
            self.obey()
            if step == "write" and self.full():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def obey(self) -> None:
        """Count down to an ordered failure, and raise it when it is due."""
        if self.stop_in is not None:
            self.stop_in -= 1
            if self.stop_in < 0:
                self.stop_in = None
                self.frozen = self.contents()
                self.stop()
        if self.error_in is not None:
            self.error_in -= 1
            if self.error_in < 0:
                self.error_in = None
                raise self.error()

    def inode(self, name: str) -> Inode:
        """Return the file of that name, which exists."""
        return self.present.setdefault(name, Inode())

    def bytes_of(self, name: str) -> bytes:
        """Return the content of the file of that name, flushed or not; empty if there is no such file."""
        path = self.folder / name
        return path.read_bytes() if path.is_file() else b""

    def contents(self) -> dict[str, bytes]:
        """Return a copy of the folder as a reader sees it."""
        return {name: self.bytes_of(name) for name in self.present}

    # --- the ends ----------------------------------------------------------------------------------------------------

    def ended(self, *, power_fails: bool) -> None:
        """Handle the end of the process. If the power failed with it, bytes that were not flushed may be lost."""
        contents, self.frozen = self.frozen or self.contents(), None
        self.stop_in = self.error_in = None
        if power_fails:
            contents = self.survivors(contents)
            self.put_back(contents)
        else:
            self.replace(contents)

    def survivors(self, contents: dict[str, bytes]) -> dict[str, bytes]:
        """Return the files that are there after a power failure."""
        left: dict[str, bytes] = {}
        for name in dict.fromkeys([*self.present, *self.durable]):
            now, safe = self.present.get(name), self.durable.get(name)
            kept = now if now is safe else self.chance.choice((now, safe))
            if kept is not None:
                left[name] = self.torn(kept.flushed, contents[name] if kept is now else kept.flushed)
        return left

    def torn(self, flushed: bytes, written: bytes) -> bytes:
        """Return possible contents of a file on the disk: the flushed bytes, and any part of the rest."""
        if flushed == written:
            return written
        at = self.chance.randint(min(len(flushed), len(written)), len(written))
        ends = (written, flushed, written[:at], written[:at] + bytes(len(written) - at))
        return self.chance.choice(ends)

    def replace(self, contents: dict[str, bytes]) -> None:
        """Make the folder hold exactly these files."""
        for path in self.folder.iterdir():
            if path.is_file() and path.name not in contents:
                path.unlink()
        for name, data in contents.items():
            path = self.folder / name
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)

    # --- damage ------------------------------------------------------------------------------------------------------

    def put_back(self, contents: dict[str, bytes]) -> None:
        """Replace the folder with this copy, durably."""
        self.replace(contents)
        self.present = {name: Inode(data) for name, data in contents.items()}
        self.durable = self.present.copy()

    def flip(self, name: str, at: int, bit: int) -> None:
        """Flip a bit of a file on the disk."""
        data = bytearray(self.bytes_of(name))
        data[at] ^= 1 << bit
        (self.folder / name).write_bytes(bytes(data))
        self.inode(name).flushed = bytes(data)


def close_file_of(job: Callable[[], Any]) -> None:
    """Close the file of a job that will not run, as the end of its process would; the file stays on the disk."""
    work = job.write if isinstance(job, PruningWrite) else job
    receiver = getattr(work, "__self__", None)
    if isinstance(receiver, SnapshotReceiver):
        receiver.file.close()
