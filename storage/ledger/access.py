"""The list of access that is in the log: as the applied entries made it, and as bytes for checkpoints and snapshots.

Commands of a reserved type change it, and no state machine sees them; see `forge_consensus.security.access_changes`. In
all else they are commands like any other, so a session lets each of them through once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgpack

from forge_consensus.errors import CorruptionError, InvalidConfigError
from forge_consensus.security.access import AccessList
from forge_consensus.security.access_changes import RESERVED, changed, in_order
from forge_consensus.security.access_file import access_of_data, data_of_access
from forge_consensus.storage.backends.tables import Batch, TablesView
from forge_consensus.storage.ledger.transaction import get_meta, put_meta
from forge_consensus.storage.machines.machine import (
    COMMAND_FAILED,
    NO,
    TEXT_BYTES_MAX,
    YES,
    Command,
    Outcome,
    cut,
    refusal,
)

ACCESS: Final = b"access"
"""The key of the row: empty while nothing was ever in the list, else [version, index of the last change, list]."""
VERSION: Final = 1
REFUSED: Final = "AccessChangeRefused"
"""The class name in the outcome of a change that was refused."""
EMPTY: Final = AccessList()


class LoggedAccess:
    """The list of access as of the applied entries. It belongs to the applier, and goes to disk with its state."""

    def __init__(self) -> None:
        self.current = EMPTY
        """The list; another value after each change, so other threads may read it."""
        self.index = 0
        """The entry that changed it last; 0 if none did."""
        self.row = b""
        """The list as it is stored."""
        self.unsaved = False
        """Whether it differs from the disk, for a machine that is kept in the ledger."""
        self.of_file: Callable[[], AccessList] | None = None
        """Returns the list of this node's access file, which is told besides and is no part of the state; None where
        nobody is asked who they are."""

    def apply(self, command: Command, index: int, time_ms: int) -> Outcome:
        """Apply one change: the outcome says whether the list differs, or why the change was refused."""
        try:
            after = changed(self.current, command.payload, time_ms)
        except InvalidConfigError as error:
            return refusal(COMMAND_FAILED, REFUSED, cut(str(error), TEXT_BYTES_MAX))
        if after is self.current:
            return NO
        self.current, self.index, self.unsaved = after, index, True
        self.row = row_of(after, index)
        return YES

    def take(self, row: bytes) -> None:
        """Take the list of a checkpoint or a snapshot. Raises `CorruptionError` for bytes that are none."""
        self.index, self.current = access_of_row(row)
        self.row, self.unsaved = row, False


def row_of(access: AccessList, index: int) -> bytes:
    """Return the row of a list that the entry `index` changed last."""
    return cast("bytes", msgpack.packb([VERSION, index, data_of_access(access)]))


def access_of_row(row: bytes) -> tuple[int, AccessList]:
    """Return the entry that changed a list last, and the list. Raises `CorruptionError` for a row that is none."""
    if not row:
        return 0, EMPTY
    try:
        version, index, data = msgpack.unpackb(row)
        if version != VERSION or type(index) is not int:
            raise ValueError(f"it has version {version}, and this program reads {VERSION}")
        access = access_of_data(data)
    except (InvalidConfigError, ValueError, TypeError) as error:
        raise CorruptionError(f"the list of access does not decode: {error}") from error
    return index, in_order(access.by_name.values(), access.revoked)


def put_access(batch: Batch, row: bytes) -> None:
    """Stage the row of the list."""
    put_meta(batch, ACCESS, row)


def stored_access(tables: TablesView) -> bytes:
    """Return the row of the list on disk, empty if there is none. Raises `CorruptionError`."""
    return get_meta(tables, ACCESS) or b""


def is_asked_for(query: Any) -> bool:
    """Whether a query asks for the list, and not the state machine: it has that field alone."""
    return type(query) is dict and len(query) == 1 and query.get(RESERVED) is True


def told(logged: LoggedAccess) -> Mapping[str, Any]:
    """Return the answer to the query for the list, without the digests of tokens.

    It has "index", the entry that changed the list last, and "members", "clients" and "revoked" as an access file has
    them. "file" has the same three of the answering node's own access file, where the node has one to go by.
    """
    found = {"index": logged.index, **without_digests(logged.current)}
    return found if logged.of_file is None else {**found, "file": without_digests(logged.of_file())}


def without_digests(access: AccessList) -> dict[str, Any]:
    """Return a list as plain data without what proves a token."""
    data = data_of_access(access)
    for fields in data["clients"].values():
        for token in fields.get("tokens", ()):
            del token["sha256"]
    return data
