"""The guard: a file beside the tables that knows how far they had come, so that older ones in their place are noticed.

It names the last opening of the tables, and after an orderly end the stamp that they ended with. A copy of the whole
folder, guard and all, is not noticed here but by the other members, which know each node's boots.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import msgpack

from forge_consensus.errors import CorruptionError, StorageError
from forge_consensus.security.encryption import EncryptionKey, WrongKeyError
from forge_consensus.storage.backends.folder import TEMPORARY_SUFFIX, explain, fsync_directory
from forge_consensus.storage.backends.sealed import REJOIN

NAME: Final = "GUARD"
BOUND: Final = b"guard"
ID_CHARS: Final = 16
READ_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Guard:
    """What the file GUARD says of the tables beside it, so that older ones in their place are noticed."""

    opened: int
    """The opening of the tables that it was written for."""
    begun: bool
    """Whether that opening was to be written down in the tables, and may not be yet."""
    stamp: bytes = b""
    """What an orderly end wrote into the tables; empty while they are in use."""

    def check(self, opened: int, stamp: bytes, where: str) -> None:
        """Raise `CorruptionError` unless tables with this opening and stamp are those that the file was written for."""
        fits = opened in (self.opened, self.opened - 1) if self.begun else opened == self.opened
        if not fits or (self.stamp and stamp != self.stamp):
            raise CorruptionError(
                f"the tables in {where} are older than the folder: they were opened {opened} times, and the folder's "
                f"{NAME} file knows of {self.opened}, so they were brought back from a copy. {REJOIN}"
            )


def read_guard(path: Path, keys: Mapping[str, EncryptionKey], folder: bytes) -> Guard | None:
    """Return what the file says, None if there is none.

    `keys` are the keys that it may be encrypted with, `folder` what it is bound to. Raises `CorruptionError` if it is
    not of this folder, `StorageError` if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(READ_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain(error)}") from error
    try:
        key = keys[data[:ID_CHARS].decode("ascii", "replace")]
        opened, begun, stamp = msgpack.unpackb(key.decrypt(data[ID_CHARS:], BOUND + folder))
        return Guard(opened, begun, stamp)
    except (KeyError, WrongKeyError) as error:
        raise CorruptionError(f"{path} is damaged, or of another folder. {REJOIN}") from error


def write_guard(path: Path, guard: Guard, key: EncryptionKey, folder: bytes) -> None:
    """Write the file durably, in one step. Raises `StorageError`."""
    packed = cast("bytes", msgpack.packb([guard.opened, guard.begun, guard.stamp]))
    temporary = path.with_name(f"{path.name}{TEMPORARY_SUFFIX}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(key.id.encode() + key.encrypt(packed, BOUND + folder))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {explain(error)}") from error
