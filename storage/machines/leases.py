"""Leases: keys that go together when their time is over, unless somebody keeps them alive.

Times are elapsed times of entries, in milliseconds. What is due is decided by the entries that are applied alone, so it
is the same on every node.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, Final, cast

import msgpack

from forge_consensus.errors import CorruptionError
from forge_consensus.storage.backends.sealed import REJOIN, seal
from forge_consensus.storage.backends.tables import Batch

LEASES: Final = b"\xff"
"""The byte with which the rows of leases begin, behind that of their generation; no UTF-8 has it."""
ID_BYTES: Final = 8
PLACE_BYTES: Final = 1 + ID_BYTES
"""How long the key of a lease's row is within its generation."""
TTL_MS_MIN: Final = 100
TTL_MS_MAX: Final = 86_400_000 * 365
KEYS_MAX: Final = 10_000
"""How many keys one lease holds at most, because they are all deleted by one entry."""
EXPIRED_MAX: Final = 10_000
"""With the lease that reaches so many deletions one entry stops expiring; the next one goes on. A lease without keys
counts as one."""
LEASED_MAX: Final = 4_000_000
"""How many leases and keys on leases there are at most, because they are kept in memory: about 0.3 KiB each."""
NEVER: Final = 1 << 63
OWN_BITS: Final = 48
"""The id of a lease that op n of a batch made for a key has n at this bit; indexes of entries do not reach it."""
LEASE_BYTES: Final = 300
HEAP_SPARE: Final = 64
NONE: Final[set[str]] = set()

LeaseRow = tuple[bytes, bytes]


class Lease:
    """One lease: how long it lives, when it ends, and its keys."""

    __slots__ = ("ends_ms", "keys", "own", "ttl_ms")

    def __init__(self, ttl_ms: int, ends_ms: int, own: str | None = None) -> None:
        self.ttl_ms = ttl_ms
        self.ends_ms = ends_ms
        self.own = own
        """The key for whose time to live it was made, which it holds alone; None for one that was granted."""
        self.keys: set[str] = NONE if own is not None else set()
        """The keys of one that was granted."""

    def __len__(self) -> int:
        return len(self.keys) if self.own is None else 1

    @property
    def ordered_keys(self) -> list[str]:
        """Its keys in order."""
        return sorted(self.keys) if self.own is None else [self.own]


class Leases:
    """All leases, in memory; a checkpoint writes the changed ones.

    Changes since the last `settle` can be taken back with `roll_back`, so that a command that fails changes nothing.
    """

    def __init__(self) -> None:
        self.live: dict[int, Lease] = {}
        self.of_key: dict[str, int] = {}
        """The lease of each key that has one."""
        self.now_ms = 0
        """The elapsed time of the last entry."""
        self.next_ms = NEVER
        """No lease ends before this time."""
        self.heap: list[tuple[int, int]] = []
        """(time, id) for each lease, and for some that are gone; the time may be too early, never too late."""
        self.undo: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self.shared = 0
        """How many keys hang on leases that were granted; each has a row."""
        self.changed: set[int] = set()
        """The leases whose own row is not on disk as it is here."""
        self.moved: set[tuple[int, str]] = set()
        """The (lease, key) rows of which that is so."""
        self.staged: tuple[set[int], set[tuple[int, str]]] = set(), set()
        self.staged_rows = 0
        self.stored_rows = 0
        """How many rows are on disk."""
        self.order: list[int] = []
        """All ids in order, or empty."""

    # --- what commands do ---

    def find(self, lease: Any) -> Lease:
        """Return a lease by its id. Raises `TypeError` for what is no id, `ValueError` if there is no such lease."""
        if type(lease) is not int:
            raise TypeError(f"the id of a lease is a whole number, not {type(lease).__name__}")
        found = self.live.get(lease)
        if found is None:
            raise ValueError(f"lease {lease} does not exist: it expired or was revoked")
        return found

    def check_free(self, lease: int, key: str) -> None:
        """Raise `TypeError` or `ValueError` unless the key may be attached to that lease."""
        found = self.find(lease)
        if self.of_key.get(key) == lease:
            return
        if found.own is not None:
            raise ValueError(f"lease {lease} is the time to live of the key {found.own!r} alone")
        if len(found.keys) >= KEYS_MAX:
            raise ValueError(f"lease {lease} has {KEYS_MAX} keys already, and no lease holds more")
        self.check_room()

    def check_room(self) -> None:
        """Raise `ValueError` if there are as many leases and keys on them as may be."""
        if len(self.live) + len(self.of_key) >= LEASED_MAX:
            raise ValueError(f"there are {LEASED_MAX} leases and keys on leases, and no more are held")

    def grant(self, lease: int, ttl_ms: Any, own: str | None = None) -> None:
        """Make a lease that ends `ttl_ms` from now. Raises `TypeError` or `ValueError` for a time that cannot be."""
        check_ttl(ttl_ms)
        if lease in self.live:
            raise ValueError(f"lease {lease} exists already")
        self.check_room()
        if own is not None:
            self.move(own, 0)
        self.add(lease, Lease(ttl_ms, self.now_ms + ttl_ms, own))
        self.undo.append((self.drop, (lease,)))

    def keep_alive(self, lease: Any) -> int:
        """Let a lease end as long from now as it lives; returns that time. Raises as `find`."""
        found = self.find(lease)
        self.undo.append((self.end_at, (lease, found.ends_ms)))
        self.end_at(lease, self.now_ms + found.ttl_ms)
        return found.ttl_ms

    def remove(self, lease: int) -> None:
        """Remove a lease, and let its keys be keys without one."""
        found = self.live[lease]
        self.drop(lease)
        self.undo.append((self.add, (lease, found)))

    def move(self, key: str, lease: int) -> None:
        """Attach a key to a lease, 0 for none. A lease that was made for the key alone goes with it."""
        old = self.of_key.get(key, 0)
        if old == lease:
            return
        if old and self.live[old].own is not None:
            self.remove(old)
        elif old:
            self.detach(key, old)
            self.undo.append((self.attach, (key, old)))
        if lease:
            self.attach(key, lease)
            self.undo.append((self.detach, (key, lease)))

    def settle(self) -> None:
        """Let all changes stay."""
        self.undo.clear()

    def roll_back(self) -> None:
        """Take back the changes since the last `settle`."""
        while self.undo:
            function, arguments = self.undo.pop()
            function(*arguments)

    def take_due(self, now_ms: int) -> list[tuple[int, list[str]]]:
        """Remove the leases that are due, in the order of their ends, until `EXPIRED_MAX` is reached; settled at once.

        Returns their ids and keys.
        """
        found: list[tuple[int, list[str]]] = []
        count = 0
        while count < EXPIRED_MAX and (due := self.first_due()) is not None and due[0] <= now_ms:
            lease = due[1]
            keys = self.live[lease].ordered_keys
            found.append((lease, keys))
            count += max(1, len(keys))
            self.drop(lease)
        self.note_next()
        return found

    # --- what they are made of ---

    def add(self, lease: int, made: Lease) -> None:
        """Put a lease with its keys among the others."""
        self.live[lease] = made
        if made.own is not None:
            self.of_key[made.own] = lease
        else:
            self.of_key.update(dict.fromkeys(made.keys, lease))
            self.shared += len(made.keys)
            self.moved.update((lease, key) for key in made.keys)
        self.changed.add(lease)
        self.order = []
        heappush(self.heap, (made.ends_ms, lease))
        self.next_ms = min(self.next_ms, made.ends_ms)

    def drop(self, lease: int) -> None:
        """Take a lease out; its keys have none then."""
        gone = self.live.pop(lease)
        for key in gone.keys if gone.own is None else (gone.own,):
            del self.of_key[key]
        self.shared -= len(gone.keys)
        self.changed.add(lease)
        self.order = []
        if len(self.heap) > 2 * len(self.live) + HEAP_SPARE:
            self.heap = [(each.ends_ms, number) for number, each in self.live.items()]
            heapify(self.heap)
            self.note_next()

    def attach(self, key: str, lease: int) -> None:
        """Note that a granted lease has that key."""
        self.live[lease].keys.add(key)
        self.of_key[key] = lease
        self.shared += 1
        self.moved.add((lease, key))

    def detach(self, key: str, lease: int) -> None:
        """Note that a granted lease no longer has that key."""
        self.live[lease].keys.discard(key)
        del self.of_key[key]
        self.shared -= 1
        self.moved.add((lease, key))

    def end_at(self, lease: int, ends_ms: int) -> None:
        """Note when a lease ends; it is earlier than before only if that is taken back."""
        found = self.live[lease]
        if ends_ms < found.ends_ms:
            heappush(self.heap, (ends_ms, lease))
            self.next_ms = min(self.next_ms, ends_ms)
        found.ends_ms = ends_ms
        self.changed.add(lease)

    def first_due(self) -> tuple[int, int] | None:
        """Return (time, id) of the lease that ends first, of several the one with the lowest id; None without one."""
        heap = self.heap
        while heap:
            ends_ms, lease = heap[0]
            found = self.live.get(lease)
            if found is None:
                heappop(heap)
            elif found.ends_ms != ends_ms:
                heapreplace(heap, (found.ends_ms, lease))
            else:
                return heap[0]
        return None

    def note_next(self) -> None:
        """Note when the first lease may end."""
        self.next_ms = self.heap[0][0] if self.heap else NEVER

    # --- what queries see ---

    def left_ms(self, lease: Lease) -> int:
        """Return how long a lease still lives, as of the last applied entry."""
        return max(0, lease.ends_ms - self.now_ms)

    def told(self, lease: int) -> list[Any] | None:
        """Return [id, ttl_ms, left_ms, keys in order] of a lease, None if there is none."""
        found = self.live.get(lease)
        return None if found is None else [lease, found.ttl_ms, self.left_ms(found), found.ordered_keys]

    def page(self, after: int, limit: int) -> list[list[int]]:
        """Return [id, ttl_ms, left_ms, number of keys] of the leases beyond an id, in order."""
        if not self.order:
            self.order = sorted(self.live)
        first = bisect_right(self.order, after)
        rows = ((lease, self.live[lease]) for lease in self.order[first : first + limit])
        return [[lease, found.ttl_ms, self.left_ms(found), len(found)] for lease, found in rows]

    # --- to disk and back ---

    @property
    def dirty(self) -> tuple[int, int]:
        """(rows, bytes) that are not on disk."""
        rows = len(self.changed) + len(self.moved) + len(self.staged[0]) + len(self.staged[1])
        return rows, rows * LEASE_BYTES

    @property
    def rows_count(self) -> int:
        """How many rows all leases have."""
        return len(self.live) + self.shared

    def rows(self) -> Iterator[LeaseRow]:
        """Yield all rows in order, without the prefix of a generation: each lease, then its keys."""
        for lease in sorted(self.live):
            found = self.live[lease]
            yield lease_row(lease, found)
            for key in sorted(found.keys):
                yield key_row(lease, key)

    def checkpoint(self, batch: Batch, table: str, prefix: bytes) -> None:
        """Stage the changes since the last checkpoint that is known to be on disk."""
        changed, moved = self.staged[0] | self.changed, self.staged[1] | self.moved
        self.staged, self.changed, self.moved = (changed, moved), set(), set()
        self.staged_rows = self.rows_count
        rows: list[LeaseRow] = []
        for lease in sorted(changed):
            found = self.live.get(lease)
            if found is not None:
                rows.append(lease_row(lease, found))
            else:
                place = prefix + place_of(lease)
                batch.delete_range(table, place, place + LEASES)
        for lease, key in sorted(moved):
            if self.of_key.get(key) == lease:
                rows.append(key_row(lease, key))
            elif lease in self.live:
                batch.delete(table, prefix + key_row(lease, key)[0])
        rows.sort()
        places = ((prefix + key, row) for key, row in rows)
        batch.put_all(table, [(place, seal(place, row)) for place, row in places])

    def checkpointed(self) -> None:
        """Note that the last checkpoint is on disk."""
        self.staged = set(), set()
        self.stored_rows = self.staged_rows

    def replaced(self, rows: Iterable[LeaseRow], now_ms: int) -> Leases:
        """Return other leases, of these rows, that the next checkpoint writes in the place of these.

        Raises `CorruptionError` as `load`.
        """
        made = Leases()
        made.now_ms = now_ms
        made.load(rows, stored=False)
        made.stored_rows = made.staged_rows = self.stored_rows
        made.changed |= self.changed | self.staged[0] | self.live.keys()
        shared = {(lease, key) for key, lease in self.of_key.items() if self.live[lease].own is None}
        made.moved |= self.moved | self.staged[1] | shared
        return made

    def load(self, rows: Iterable[LeaseRow], *, stored: bool) -> None:
        """Take leases from their rows in order, into none; with `stored` they are on disk already.

        Raises `CorruptionError` if a lease is missing.
        """
        live, of_key, heap = self.live, self.of_key, self.heap
        for place, row in rows:
            lease = int.from_bytes(place[1:PLACE_BYTES])
            if len(place) == PLACE_BYTES:
                ttl_ms, ends_ms, own = msgpack.unpackb(row)
                live[lease] = Lease(ttl_ms, ends_ms, own)
                heap.append((ends_ms, lease))
                if own is not None:
                    of_key[own] = lease
                continue
            if lease not in live:
                raise CorruptionError(f"a key on lease {lease} is there, and the lease is missing. {REJOIN}")
            key = place[PLACE_BYTES:].decode()
            of_key[key] = lease
            live[lease].keys.add(key)
            self.shared += 1
        heapify(heap)
        self.note_next()
        if stored:
            self.stored_rows = self.staged_rows = self.rows_count
        else:
            self.changed.update(live)
            self.moved.update((lease, key) for lease, one in live.items() for key in one.keys)


def check_ttl(ttl_ms: Any) -> None:
    """Raise `TypeError` or `ValueError` unless a lease may live so long."""
    if type(ttl_ms) is not int:
        raise TypeError(f"ttl_ms is a whole number, not {type(ttl_ms).__name__}")
    if not TTL_MS_MIN <= ttl_ms <= TTL_MS_MAX:
        raise ValueError(f"ttl_ms is a number of milliseconds from {TTL_MS_MIN} to {TTL_MS_MAX}, not {ttl_ms}")


def place_of(lease: int) -> bytes:
    """Return the key of a lease's row within its generation; those of its keys begin with it."""
    return LEASES + lease.to_bytes(ID_BYTES)


def lease_row(lease: int, found: Lease) -> LeaseRow:
    """Return the row of a lease."""
    return place_of(lease), cast("bytes", msgpack.packb((found.ttl_ms, found.ends_ms, found.own)))


def key_row(lease: int, key: str) -> LeaseRow:
    """Return the row of a key on a granted lease; the key is all that is in it."""
    return place_of(lease) + key.encode(), b""


def check_lease_row(key: bytes, row: bytes) -> None:
    """Raise ValueError or TypeError unless this is the row of a lease, or of a key on one."""
    if len(key) > PLACE_BYTES:
        if row or not key[PLACE_BYTES:].decode():
            raise ValueError("a key on a lease has an empty row")
        return
    if len(key) < PLACE_BYTES:
        raise ValueError("a lease without an id")
    ttl_ms, ends_ms, own = msgpack.unpackb(row)
    if type(ttl_ms) is not int or type(ends_ms) is not int or not isinstance(own, str | None):
        raise TypeError("a lease has a time to live and an end")
