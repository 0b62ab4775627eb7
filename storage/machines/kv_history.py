"""The history of changes: what the last commands wrote and deleted, in memory, for those who watch keys."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Final

import msgpack

from forge_consensus.storage.machines.kv_commands import check_key
from forge_consensus.storage.machines.kv_pages import check_text, whole_number
from forge_consensus.storage.machines.kv_rows import (
    OPEN_BYTE,
    head_of,
    is_open,
    value_of,
    with_birth,
)
from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX
from forge_consensus.storage.machines.steps import Encoded

CHANGES_MAX: Final = 100_000
HISTORY_BYTES_MAX: Final = 32 << 20
PART_CHANGES: Final = 1000
PART_BYTES: Final = 1 << 20
"""The changes are kept and forgotten in parts of about this size, so that few of them need be looked at again."""
KNOWN_MAX: Final = 50
"""How many checkpoints tell beside the changes what they found."""
CHANGE_BYTES: Final = 100
"""About how much memory a change takes beside its key and row; its answer takes less beside them."""
ENTRY_BYTES_MAX: Final = RESULT_BYTES_MAX - (1 << 20) - 4096
"""If the changes of one entry have more bytes, the history begins anew behind it, because no answer could hold them
together with one large value. Answers have all changes of an entry or none."""
PAGE_CHANGES: Final = 1000
PAGE_CHANGES_MAX: Final = 10_000
FOUND_MAX: Final = 2_000
"""With so many changes an answer ends behind the entry that reaches them, whatever its limit: it takes about 10 ms."""
PASSED_MAX: Final = 10_000
"""How many changes one question passes, of other keys too, before it ends at the next entry: about 2 ms."""
HEAD_BYTES: Final = 64
WAIT_MS_MAX: Final = 60_000
INDEX_MAX: Final = (1 << 63) - 1
CHANGE_HEAD: Final = b"\x96"
"""The first byte of a list of six."""
UNKNOWN: Final = (1 << 63) - 1
"""In the place of the first index of a history that begins with the next command."""

Change = tuple[int, str, bytes | int]
"""Index of the entry, key, and its row; for a deletion twice the id of the key's lease, with 1 added if it expired."""

Place = tuple[int, str]
"""Index of the entry, and key."""

Below = Callable[[list[str]], list[bytes | None]]
"""Returns the births of keys below the overlay, None for those that are not there."""

index_of: Final[Callable[[Any], Any]] = itemgetter(0)


class History:
    """The last changes, complete from the entry `oldest` on.

    A row may be open (see `kv_rows`). What `created` is then is found below the overlay, until a checkpoint writes the
    overlay: the checkpoint notes it here, in all changes before it.
    """

    __slots__ = (
        "bytes",
        "changes",
        "closed",
        "dropped",
        "known",
        "last",
        "oldest",
        "part_bytes",
        "part_end",
        "parts",
        "run_bytes",
        "run_index",
    )

    def __init__(self, last: int = 0) -> None:
        """Begin behind the entry `last`; with `UNKNOWN` behind the one before the next command."""
        self.changes: list[Change] = []
        self.dropped = 0
        """How many older ones were forgotten."""
        self.parts: deque[tuple[int, int, int]] = deque()
        """How many changes each part has, their bytes, and the index of the last one."""
        self.bytes = 0
        """Those of all parts but the last one."""
        self.part_bytes = 0
        self.part_end = PART_CHANGES
        """How many changes there are when the last part is complete."""
        self.last = last
        """The index of the last command that the machine has applied."""
        self.oldest = last + 1
        self.closed = 0
        """Up to this entry no row is open."""
        self.known: list[tuple[int, dict[str, bytes | None]]] = []
        """For the changes up to an index, and behind that of the one before, the births of keys with open rows."""
        self.run_index = self.run_bytes = 0
        """The last entry that changed more than one plain key, and the bytes of its changes."""

    def began(self, index: int) -> None:
        """Note the first command, if it was not known where the history begins."""
        if self.oldest > UNKNOWN:
            self.oldest = index

    def note(self, index: int, key: str, row: bytes | int) -> None:
        """Note one change of an entry."""
        self.changes.append((index, key, row))
        size = len(key) + CHANGE_BYTES + (len(row) if isinstance(row, bytes) else 0)
        self.part_bytes += size
        if index != self.run_index:
            self.run_index, self.run_bytes = index, 0
        self.run_bytes += size
        if self.run_bytes > ENTRY_BYTES_MAX:
            self.forget_until(index)
        elif self.part_bytes > PART_BYTES or len(self.changes) > self.part_end:
            self.end_part()

    def forget_until(self, index: int) -> None:
        """Forget all changes up to an entry."""
        self.dropped += len(self.changes)
        self.changes, self.bytes, self.part_bytes, self.part_end = [], 0, 0, PART_CHANGES
        self.parts.clear()
        self.known.clear()
        self.oldest = index + 1

    def end_part(self) -> None:
        """Begin another part, and forget the oldest parts until the others are within the bounds."""
        changes, parts = self.changes, self.parts
        parts.append((len(changes) + PART_CHANGES - self.part_end, self.part_bytes, changes[-1][0]))
        self.bytes += self.part_bytes
        self.part_bytes = 0
        while self.bytes > HISTORY_BYTES_MAX or len(changes) > CHANGES_MAX:
            count, size, last = parts.popleft()
            del changes[:count]
            self.dropped += count
            self.bytes -= size
            self.oldest = last + 1
        while self.known and self.known[0][0] < self.oldest:
            del self.known[0]
        self.part_end = len(changes) + PART_CHANGES

    def close(self, births: dict[str, bytes | None]) -> None:
        """Note what a checkpoint found: the births of the keys that have open rows in changes since the last one.

        None stands for a key that was absent below: its changes have the right birth themselves.
        """
        if len(births) > CHANGES_MAX:
            kept = {change[1] for change in self.changes}
            births = {key: birth for key, birth in births.items() if key in kept}
        self.known.append((self.last, births))
        if len(self.known) > KNOWN_MAX:
            self.close_rows(*self.known.pop(0))

    def birth(self, index: int, key: str) -> tuple[bool, bytes | None]:
        """Return whether the birth of a key in an open row of that entry is known, and the birth, see `close`."""
        known = self.known
        place = bisect_left(known, index, key=index_of)
        return (True, known[place][1][key]) if place < len(known) else (False, None)

    def births(self, places: list[Place], below: Below) -> dict[Place, bytes | None]:
        """Return the births for open rows, by index and key; `below` finds those that are below the overlay."""
        told = {place: self.birth(*place) for place in places}
        asked = [place for place, (is_known, _) in told.items() if not is_known]
        found = dict(zip(asked, below([key for _, key in asked]), strict=True)) if asked else {}
        return {place: birth for place, (_, birth) in told.items()} | found

    def close_rows(self, last: int, births: dict[str, bytes | None]) -> None:
        """Close the rows up to an entry whose births are these, so that they need not be kept beside them."""
        changes, first = self.changes, max(self.closed + 1, self.oldest)  # behind what is left of a forgotten entry
        for place in range(self.since(first), self.since(last + 1)):
            index, key, row = changes[place]
            if isinstance(row, bytes) and row[1] >= OPEN_BYTE:
                changes[place] = index, key, with_birth(row, births[key])
        self.closed = last

    @property
    def count(self) -> int:
        """How many changes there were since the history began."""
        return self.dropped + len(self.changes)

    def newest(self, seen: int) -> list[Change] | None:
        """Return all changes but the first `seen`, None if some of those are forgotten."""
        return None if seen < self.dropped else self.changes[seen - self.dropped :]

    def since(self, index: int) -> int:
        """Return the place of the first change of that entry or a later one."""
        return bisect_left(self.changes, index, key=index_of)


class ChangesQuery:
    """The question for changes: of which keys, from which entry on, how many, and how long to wait for the first."""

    __slots__ = ("exact", "limit", "prefix", "since", "wait_ms")

    def __init__(self, query: dict[str, Any]) -> None:
        """Take {"changes": prefix, "since": index, ...}. Raises `TypeError` or `ValueError` for what cannot be."""
        self.prefix = check_text("changes", query["changes"])
        self.exact = query.get("key", False)
        if type(self.exact) is not bool:
            raise TypeError("key is True for one key, False for a prefix")
        if self.exact:
            check_key(self.prefix)
        self.prefix.encode()
        self.since = whole_number("since", query.get("since"), 1, INDEX_MAX)
        self.limit = whole_number("limit", query.get("limit", PAGE_CHANGES), 1, PAGE_CHANGES_MAX)
        self.wait_ms = whole_number("wait_ms", query.get("wait_ms", 0), 0, WAIT_MS_MAX)

    def wants(self, key: str) -> bool:
        """Whether it asks for changes of that key."""
        return key == self.prefix if self.exact else key.startswith(self.prefix)


def is_changes(query: dict[Any, Any]) -> bool:
    """Whether a query asks for changes."""
    return "changes" in query and query.keys() <= {"changes", "since", "limit", "key", "wait_ms"}


def changes_page(history: History, query: ChangesQuery, births_below: Below) -> tuple[Encoded, int, int]:
    """Answer a question for changes from a history; returns the answer, how many changes it has, and its `next`.

    An answer ends at the border of an entry: when it has `limit` changes or `FOUND_MAX`, when it would become too
    large, or when it has passed `PASSED_MAX`.
    """
    found, following = found_changes(history, query)
    open_rows = [(index, key) for index, key, row in found if isinstance(row, bytes) and is_open(row)]
    births = history.births(open_rows, births_below)
    pack = msgpack.Packer().pack
    parts: list[bytes] = []
    for index, key, row in found:
        parts.append(CHANGE_HEAD)
        if isinstance(row, int):
            parts.append(pack((index, key, None, 0, row >> 1, "expire" if row & 1 else "delete"))[1:])
            continue
        whole_row = with_birth(row, births[index, key]) if is_open(row) else row
        created, _, lease = head_of(whole_row)
        parts += [pack((index, key))[1:], value_of(whole_row), pack((created, lease, "put"))[1:]]
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(3)
    packer.pack("next")
    packer.pack(following)
    packer.pack("oldest")
    packer.pack(history.oldest)
    packer.pack("changes")
    packer.pack_array_header(len(found))
    return Encoded(b"".join((packer.bytes(), *parts))), len(found), following


def found_changes(history: History, query: ChangesQuery) -> tuple[list[Change], int]:
    """Return the changes that an answer has, and up to which index (exclusive) they are all."""
    if query.since < history.oldest:
        return [], query.since
    changes, wants = history.changes, query.wants
    found: list[Change] = []
    size, entry, begun = HEAD_BYTES, 0, 0
    first, count_max = history.since(query.since), min(query.limit, FOUND_MAX)
    for place in range(first, len(changes)):
        change = changes[place]
        index, key, row = change
        if index != entry:
            if len(found) >= count_max or place - first >= PASSED_MAX:
                return found, index
            entry, begun = index, len(found)
        if not wants(key):
            continue
        size += len(key) + CHANGE_BYTES + (len(row) if isinstance(row, bytes) else 0)
        if size > RESULT_BYTES_MAX:
            return found[:begun], index
        found.append(change)
    return found, max(query.since, history.last + 1)
