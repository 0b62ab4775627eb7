"""Encrypted files: a file in blocks that are encrypted one by one, so that any part of it can be read alone.

A file begins with a head: magic, the id of the node's key that opens it, 16 random bytes that name the file, and the
file's own key under the node's. Then come the blocks, each with a nonce of its own. A block is bound to the file, to
its number and to whether it is the last, so one that was moved is noticed, and so is a file that was cut. Whoever has
the key can read the file, wherever it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final, Protocol, Self

from forge_consensus.errors import CorruptionError, InvalidConfigError
from forge_consensus.security.encryption import KEY_BYTES, SEALED_BYTES, EncryptionKey, WrongKeyError, random_bytes
from forge_consensus.storage.backends.sealed import REJOIN

MAGIC: Final = b"FCCRYPT\x01"
ID_BYTES: Final = 8
NAME_BYTES: Final = 16
HEAD_BYTES: Final = len(MAGIC) + ID_BYTES + NAME_BYTES + SEALED_BYTES + KEY_BYTES
BLOCK_BYTES: Final = 64 << 10
STORED_BYTES: Final = BLOCK_BYTES + SEALED_BYTES
"""A block as it lies in the file."""


class FileKeys(Protocol):
    """The keys of files: the one that new files get, and by id all that may open one."""

    @property
    def key(self) -> EncryptionKey:
        """The key of new files."""
        ...

    @property
    def node_keys(self) -> Mapping[str, EncryptionKey]:
        """All keys under which a file may have been written, by their ids."""
        ...


class OneKey(FileKeys):
    """One key, for files that are written and read with it alone."""

    def __init__(self, key: EncryptionKey) -> None:
        self.only = key

    @property
    def key(self) -> EncryptionKey:
        """The one key, for new files too."""
        return self.only

    @property
    def node_keys(self) -> Mapping[str, EncryptionKey]:
        """The key, by its id."""
        return {self.only.id: self.only}


def stored_size(size_bytes: int) -> int:
    """Return how long the encrypted file is whose content has so many bytes."""
    return HEAD_BYTES + size_bytes + SEALED_BYTES * max(1, -(-size_bytes // BLOCK_BYTES))


def key_id_of(path: Path) -> str:
    """Return the id of the key that a file is encrypted with; empty if it is not encrypted. Raises `OSError`."""
    with path.open("rb") as file:
        head = file.read(len(MAGIC) + ID_BYTES)
    return head[len(MAGIC) :].hex() if head.startswith(MAGIC) else ""


def bound_of(name: bytes, number: int, *, is_last: bool) -> bytes:
    """Return what a block is bound to."""
    return name + number.to_bytes(8) + bytes((is_last,))


class EncryptedWriter:
    """Writes an encrypted file; what it is given reaches `file` in whole blocks.

    Args:
        file: where it goes; it is empty, or holds `blocks` whole blocks of a part that is continued.
        keys: the keys; only that of new files is used, unless a part is continued.
        blocks: how many blocks there are already.

    """

    def __init__(self, file: BinaryIO, keys: FileKeys, blocks: int = 0) -> None:
        self.file = file
        self.number = blocks
        self.waiting = bytearray()
        if blocks:
            file.seek(0)
            self.name, self.key = read_head(file.read(HEAD_BYTES), keys, Path(str(file.name)))
            file.seek(HEAD_BYTES + blocks * STORED_BYTES)
        else:
            self.name, self.key = random_bytes(NAME_BYTES), EncryptionKey.made()
            begun = MAGIC + bytes.fromhex(keys.key.id) + self.name
            file.write(begun + keys.key.encrypt(self.key.secret, begun))

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises `OSError`."""
        self.waiting += data
        while len(self.waiting) > BLOCK_BYTES:  # a block that is full is the last one if nothing follows
            self.put(bytes(self.waiting[:BLOCK_BYTES]), is_last=False)
            del self.waiting[:BLOCK_BYTES]

    def put(self, block: bytes, *, is_last: bool) -> None:
        """Write a block."""
        self.file.write(self.key.encrypt(block, bound_of(self.name, self.number, is_last=is_last)))
        self.number += 1

    def finish(self) -> None:
        """Write the last block; nothing is written after it. Raises `OSError`."""
        self.put(bytes(self.waiting), is_last=True)
        self.waiting.clear()


def read_head(head: bytes, keys: FileKeys, path: Path) -> tuple[bytes, EncryptionKey]:
    """Return the name in the head of a file, and its key.

    Raises `InvalidConfigError` for a key that is not among `keys`, `CorruptionError` for a head that is damaged.
    """
    begun, sealed = head[: len(MAGIC) + ID_BYTES + NAME_BYTES], head[len(MAGIC) + ID_BYTES + NAME_BYTES :]
    key_id = begun[len(MAGIC) : len(MAGIC) + ID_BYTES].hex()
    if not begun.startswith(MAGIC) or len(head) < HEAD_BYTES:
        raise CorruptionError(
            f"{path} is damaged, or was put there: it does not begin as encrypted files do. Move it away; the node "
            f"goes on from an older one if its log reaches back that far. If not: {REJOIN[0].lower()}{REJOIN[1:]}"
        )
    key = keys.node_keys.get(key_id)
    if key is None:
        given = " or ".join(keys.node_keys)
        raise InvalidConfigError(
            f"{path} is encrypted with the key {key_id}, and the key given is {given}: give that one"
        )
    try:
        return begun[-NAME_BYTES:], EncryptionKey(key.decrypt(sealed, begun))
    except WrongKeyError as error:
        raise CorruptionError(f"{path} is damaged in its head. {REJOIN}") from error


class DecryptedFile:
    """An encrypted file as it was before, to be read at any place and by any thread.

    Args:
        path: the file.
        keys: the keys that may open it.

    Raises `OSError`, and as `read_head`.

    """

    def __init__(self, path: Path, keys: FileKeys) -> None:
        self.path = path
        self.file = path.open("rb", buffering=0)
        try:
            self.name, self.key = read_head(self.file.read(HEAD_BYTES), keys, path)
            self.stored_bytes = os.fstat(self.file.fileno()).st_size
            blocks, rest = divmod(self.stored_bytes - HEAD_BYTES, STORED_BYTES)
            if 0 < rest < SEALED_BYTES or not blocks + rest:
                raise self.damaged(blocks)
        except BaseException:
            self.file.close()
            raise
        self.last = blocks - (not rest)
        """The number of the last block."""
        self.size_bytes = blocks * BLOCK_BYTES + max(0, rest - SEALED_BYTES)
        self.place = 0
        self.kept = (-1, b"")
        """The block that was read last, because what is read in small parts is read in order."""

    def damaged(self, number: int) -> CorruptionError:
        """Return the error for a block that is not what was written."""
        return CorruptionError(
            f"{self.path} is damaged in block {number}, or was cut. Move it away; the node goes on from an older one "
            f"if its log reaches back that far. If not: {REJOIN[0].lower()}{REJOIN[1:]}"
        )

    def block(self, number: int) -> bytes:
        """Return a block. Raises `CorruptionError`, `OSError`."""
        kept, data = self.kept
        if kept == number:
            return data
        stored = os.pread(self.file.fileno(), STORED_BYTES, HEAD_BYTES + number * STORED_BYTES)
        try:
            data = self.key.decrypt(stored, bound_of(self.name, number, is_last=number == self.last))
        except WrongKeyError as error:
            raise self.damaged(number) from error
        self.kept = number, data
        return data

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to so many bytes from an offset; fewer at the end. Raises `CorruptionError`, `OSError`."""
        stop = min(offset + size, self.size_bytes)
        if offset >= stop:
            return b""
        first, last = offset // BLOCK_BYTES, (stop - 1) // BLOCK_BYTES
        data = b"".join(map(self.block, range(first, last + 1)))
        return data[offset - first * BLOCK_BYTES : stop - first * BLOCK_BYTES]

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes, all of them for -1. Raises `CorruptionError`, `OSError`."""
        data = self.read_at(self.place, self.size_bytes - self.place if size < 0 else size)
        self.place += len(data)
        return data

    def tell(self) -> int:
        """Return where the next bytes begin."""
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Let the next bytes begin there, counted from the start, or from the end with `os.SEEK_END`."""
        self.place = offset + (self.size_bytes if whence == os.SEEK_END else 0)
        return self.place

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
