"""Encryption at rest: the node's key, the data keys under it, and how bytes are encrypted with either (AES-256-GCM).

The key is what the operator keeps: 32 bytes. It encrypts little: the data keys, which are made with the node's folder
and lie in it, and the key of each snapshot file. So another key can take its place without a rewrite of everything.

A nonce must never be used twice with one key. That of a data key is 8 random bytes, drawn anew by each process, and a
counter of 4 bytes: within a process no nonce comes twice, and two processes would have to draw the same 8 bytes. A
counter on the disk alone would not do, because a folder that is brought back from a copy counts again from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from forge_consensus.errors import InvalidConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
PREFIX_BYTES: Final = 8
TAG_BYTES: Final = 16
SEALED_BYTES: Final = NONCE_BYTES + TAG_BYTES
"""By so much bytes grow that `EncryptionKey.encrypt` encrypts."""
EPOCH_BYTES: Final = 4
ROW_BYTES: Final = EPOCH_BYTES + SEALED_BYTES
"""By so much a row grows: the epoch of its data key, nonce, tag."""
COUNT_MAX: Final = 1 << 32
"""So many rows are encrypted with one prefix."""


class WrongKeyError(Exception):
    """Bytes were not encrypted with this key for this place, or are damaged. It says nothing of what is in them."""


def random_bytes(count: int) -> bytes:
    """Return bytes from the random source of the system."""
    return os.urandom(count)


def cipher_of(secret: bytes) -> AESGCM:
    """Return the cipher of a key. Raises `InvalidConfigError` without the package that has it."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise InvalidConfigError(
            "encryption needs the package cryptography: pip install 'forge-consensus[crypto]'"
        ) from error
    return AESGCM(secret)


def open_sealed(cipher: AESGCM, nonce: bytes | memoryview, sealed: bytes | memoryview, bound: bytes) -> bytes:
    """Return what was encrypted. Raises `WrongKeyError`."""
    from cryptography.exceptions import InvalidTag

    try:
        return cipher.decrypt(nonce, sealed, bound)
    except (InvalidTag, ValueError) as error:
        raise WrongKeyError from error


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A key of 32 bytes, and its id, by which people and files name it."""

    secret: bytes = field(repr=False)
    id: str = field(init=False)
    """16 hexadecimal digits, which follow from the key and do not tell it."""
    cipher: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise InvalidConfigError(f"an encryption key has {KEY_BYTES} bytes, this one {len(self.secret)}")
        object.__setattr__(self, "id", sha256(b"forge-consensus key id" + self.secret).hexdigest()[:16])
        object.__setattr__(self, "cipher", cipher_of(self.secret))

    @classmethod
    def made(cls) -> EncryptionKey:
        """Return a new key, from the random source of the system."""
        return cls(os.urandom(KEY_BYTES))

    def encrypt(self, data: bytes, bound: bytes) -> bytes:
        """Return nonce, encrypted bytes and tag; only who names the same place `bound` can read them."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + bytes(self.cipher.encrypt(nonce, data, bound))

    def decrypt(self, sealed: bytes, bound: bytes) -> bytes:
        """Return what `encrypt` was given. Raises `WrongKeyError`."""
        return open_sealed(self.cipher, sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound)


class DataKey:
    """The key of one epoch, by which rows are encrypted one by one.

    Args:
        epoch: its number, which stands in front of each row.
        secret: its 32 bytes.

    """

    __slots__ = ("cipher", "count", "epoch", "head", "prefix", "secret")

    def __init__(self, epoch: int, secret: bytes) -> None:
        self.epoch = epoch
        self.secret = secret
        self.cipher = cipher_of(secret)
        self.head = epoch.to_bytes(EPOCH_BYTES)
        self.prefix = b""
        self.count = COUNT_MAX

    @classmethod
    def made(cls, epoch: int) -> DataKey:
        """Return a new key, from the random source of the system."""
        return cls(epoch, os.urandom(KEY_BYTES))

    def encrypt_all(self, rows: Iterable[tuple[bytes, bytes]], bound: bytes) -> list[tuple[bytes, bytes]]:
        """Return the rows with their values encrypted; each is bound to `bound` and its key."""
        encrypt, head, prefix, count = self.cipher.encrypt, self.head, self.prefix, self.count
        made = []
        for key, value in rows:
            if count == COUNT_MAX:
                prefix, count = os.urandom(PREFIX_BYTES), 0
            nonce = prefix + count.to_bytes(4)
            count += 1
            made.append((key, head + nonce + encrypt(nonce, value, bound + key)))
        self.prefix, self.count = prefix, count
        return made

    def decrypt(self, row: bytes | memoryview, bound: bytes) -> bytes:
        """Return the value in a row that has this key's epoch. Raises `WrongKeyError`."""
        return open_sealed(
            self.cipher, row[EPOCH_BYTES : EPOCH_BYTES + NONCE_BYTES], row[EPOCH_BYTES + NONCE_BYTES :], bound
        )


def epoch_of(row: bytes | memoryview) -> int:
    """Return the epoch of the key with which a row was encrypted; -1 for what is too short for a row."""
    return int.from_bytes(row[:EPOCH_BYTES]) if len(row) >= ROW_BYTES else -1
