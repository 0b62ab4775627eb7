"""The keyring of a folder: its data keys, one for each epoch, in one row that only the node's key opens.

The row is bound to the bytes of the row that says whose folder it is. So neither of the two can be exchanged for that
of another node, or of an earlier time, alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import msgpack

from forge_consensus.errors import CorruptionError, InvalidConfigError, UnsupportedVersionError
from forge_consensus.security.encryption import DataKey, EncryptionKey, WrongKeyError, epoch_of, random_bytes
from forge_consensus.storage.backends.sealed import REJOIN, seal, unseal

META: Final = "meta"
KEYS: Final = b"keys"
"""The key of the row of the keyring, in the table of the ledger's own records."""
OWNER: Final = b"identity"
"""The key of the row that says whose folder it is."""
PLAIN_ROWS: Final = frozenset({KEYS, OWNER})
"""The rows that are not encrypted, because they are read before the key is known; with `KEYS` they are bound."""
VERSION: Final = 1
FOLDER_BYTES: Final = 16
ROWS_RESERVED: Final = 1 << 24
"""So many rows are counted ahead, so that the count on disk is never too low."""
ROWS_MAX: Final = 1 << 32
"""After so many rows another data key is made: NIST's bound for one key, though no nonce here is drawn as a whole."""
FORMER_MAX: Final = 16
"""So many earlier keys of the node are kept, for the snapshot files that they encrypted."""


class Keyring:
    """The data keys of one folder, the key that opens them, and the earlier ones that files in it may have.

    Args:
        key: the node's key.
        folder: 16 random bytes, which stay with the folder; each row is bound to them.
        keys: the data keys by epoch.
        former: earlier keys of the node, oldest first.
        opened: how often the tables were opened to be written.
        rows: how many rows the newest key may have encrypted.

    """

    def __init__(
        self,
        key: EncryptionKey,
        folder: bytes,
        keys: Mapping[int, DataKey],
        former: tuple[EncryptionKey, ...] = (),
        opened: int = 0,
        rows: int = 0,
    ) -> None:
        self.key = key
        self.folder = folder
        self.keys = dict(keys)
        """The data keys that rows on disk may have."""
        self.known = dict(keys)
        """The same, and those that only a view of earlier rows may need."""
        self.former = former
        self.opened = opened
        self.rows = rows
        self.left = 0
        """So many rows may be encrypted before the count on disk must grow."""
        self.stamp = b""
        """What an orderly end left, to be compared with what stands beside the tables."""
        self.place: tuple[str, bytes] | None = None
        """Up to which table and key rows are under the newest data key, while old ones are written anew."""

    @classmethod
    def made(cls, key: EncryptionKey) -> Keyring:
        """Return the keyring of a new folder."""
        return cls(key, random_bytes(FOLDER_BYTES), {1: DataKey.made(1)})

    @classmethod
    def read(cls, row: bytes, owner: bytes, key: EncryptionKey, where: str) -> Keyring:
        """Return the keyring in a row. `owner` is the row of the folder's identity, `where` names the folder.

        Raises `InvalidConfigError` for another key than the folder's, `CorruptionError` if one of the rows is damaged
        or was exchanged, `UnsupportedVersionError` for a row of a later version.
        """
        key_id, sealed = unpacked(row, where)
        if key_id != key.id:
            raise InvalidConfigError(
                f"{where} is encrypted under the key {key_id}, and the key given is {key.id}: give the folder's key. "
                "If it was replaced, that is the new one"
            )
        try:
            found: dict[str, Any] = msgpack.unpackb(key.decrypt(sealed, KEYS + owner))
        except WrongKeyError as error:
            raise CorruptionError(
                f"the records of identity and data keys in {where} do not belong together: one of them was exchanged "
                f"or damaged. {REJOIN}"
            ) from error
        keys = {epoch: DataKey(epoch, secret) for epoch, secret in found["keys"]}
        former = tuple(EncryptionKey(secret) for secret in found["former"])
        ring = cls(key, found["folder"], keys, former, found["opened"], found["rows"])
        ring.stamp = found["stamp"]
        ring.place = tuple(found["place"]) if found["place"] else None
        return ring

    @property
    def newest(self) -> DataKey:
        """The data key with which rows are encrypted now."""
        return self.keys[max(self.keys)]

    @property
    def rewriting(self) -> bool:
        """Whether rows of earlier data keys may be left."""
        return len(self.keys) > 1

    @property
    def node_keys(self) -> dict[str, EncryptionKey]:
        """The keys by id that files of this folder may be encrypted with."""
        return {one.id: one for one in (*self.former, self.key)}

    def row(self, owner: bytes) -> bytes:
        """Return the row of the keyring, bound to the row of the identity."""
        found = {
            "folder": self.folder,
            "keys": [[epoch, one.secret] for epoch, one in sorted(self.keys.items())],
            "former": [one.secret for one in self.former],
            "opened": self.opened,
            "rows": self.rows,
            "stamp": self.stamp,
            "place": self.place,
        }
        sealed = self.key.encrypt(cast("bytes", msgpack.packb(found)), KEYS + owner)
        return seal(KEYS, cast("bytes", msgpack.packb([VERSION, self.key.id, sealed])))

    def reserve(self, rows: int) -> bool:
        """Count rows that are about to be encrypted; returns whether the keyring's row must be written with them."""
        self.left -= rows
        if self.left >= 0:
            return False
        if self.rows >= ROWS_MAX:
            self.begin_epoch()
        reserved = max(ROWS_RESERVED, rows)
        self.rows += reserved
        self.left = reserved - rows
        return True

    def begin_epoch(self) -> None:
        """Make another data key; rows are encrypted with it from now on, and old ones are to be written anew."""
        epoch = max(self.known) + 1
        self.keys[epoch] = self.known[epoch] = DataKey.made(epoch)
        self.rows = self.left = 0
        self.place = None

    def end_rewriting(self) -> None:
        """Forget all data keys but the newest, because no row on disk has another; views keep them."""
        newest = self.newest
        self.keys = {newest.epoch: newest}
        self.place = None

    def take_key(self, key: EncryptionKey) -> None:
        """Let another key of the node open the keyring, with a data key of its own."""
        self.former = (*(one for one in self.former if one != key), self.key)[-FORMER_MAX:]
        self.key = key
        self.begin_epoch()

    def value(self, row: bytes | memoryview, bound: bytes) -> bytes | None:
        """Return the value in an encrypted row, None if it is damaged or was not written to this place."""
        key = self.known.get(epoch_of(row))
        if key is None:
            return None
        try:
            return key.decrypt(row, bound)
        except WrongKeyError:
            return None


def unpacked(row: bytes, where: str) -> tuple[str, bytes]:
    """Return the id of the key that opens a keyring, and what it opens.

    Raises `CorruptionError`, `UnsupportedVersionError`.
    """
    version, key_id, sealed, *_ = msgpack.unpackb(unseal(KEYS, row, f"the record of the data keys in {where}"))
    if version != VERSION:
        raise UnsupportedVersionError(
            f"the data keys in {where} are of version {version}, and this program reads {VERSION}: start it with the "
            "program that wrote them"
        )
    return key_id, sealed


def key_id_in(row: bytes, where: str) -> str:
    """Return the id of the key that opens a keyring. Raises as `unpacked`."""
    return unpacked(row, where)[0]
