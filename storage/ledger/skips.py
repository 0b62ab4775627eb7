"""Skips: entries that the operators had skipped, and the durable mark of the entry that ends a node.

An entry that ends every node whenever it is applied would end the cluster for good. The operators may have it skipped:
it then counts as a command that failed, with one constant outcome. That must be the same on all nodes, so a node tells
what it skips when it greets, snapshots carry it, and `forge_consensus.storage.skipping` records it only for the entry
that ends the node.

A node that fails notes the entry. A node that is killed while it applies (because memory ran out, say) cannot. So a
start marks durably what it is about to apply again: first ranges, then, if it was killed in a range, parts of that, and
in the end single entries. Most nodes that are killed there have no such entry, and each mark costs them a flush.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, cast

import msgpack

from forge_consensus.errors import CorruptionError, LogInconsistentError, SnapshotFailedError
from forge_consensus.storage.backends.sealed import CRC_BYTES
from forge_consensus.storage.backends.tables import Batch, TablesView
from forge_consensus.storage.ledger.record import term_of
from forge_consensus.storage.ledger.transaction import META, Transaction, get_meta, put_meta
from forge_consensus.storage.machines.machine import COMMAND_FAILED, Outcome, refusal

SKIPS: Final = b"skips"
"""The key of the skipped entries: [index, term, checksum] of each, by index."""
SUSPECT: Final = b"suspect"
"""The key of the mark of what is being applied; see `Suspect`."""
ENDED_AT: Final = b"ended at"
"""The key of the entry at which the node is known to have ended; it stays until the entry is applied."""
SKIPS_MAX: Final = 100
WHY_CHARS_MAX: Final = 500
NOT_ALONE: Final = -1
RANGE_ENTRIES: Final = 1024
"""How many entries one mark covers while a start applies again; after a death in it, marks cover less, see `PARTS`."""
PARTS: Final = 32
"""Into so many parts the range of a mark is divided after a death in it. With single entries at once, a healthy node
that is killed twice in a row would flush a thousand times before it is level, for half a minute on a busy disk."""
SKIPPED: Final[Outcome] = refusal(
    COMMAND_FAILED,
    "CommandSkipped",
    "the operators of the cluster had this command skipped, because it ended the nodes: it was not applied",
)
ADVICE: Final = (
    "Repair the cause and start the node again. If the entry ends every node at every start, have it skipped on all: "
    "forge-consensus log skip {index} --on-all FOLDER,FOLDER,..."
)


class Skip(NamedTuple):
    """One skipped entry. Term and checksum prove that it is the same entry on all nodes."""

    index: int  # type: ignore[assignment]  # tuple.index is not needed here
    term: int
    checksum: int

    @property
    def text(self) -> str:
        """The entry as it is told to peers and people."""
        return f"{self.index}:{self.term}:{self.checksum:08x}"


class Suspect(NamedTuple):
    """Entries that the node was applying when it ended, or will have been if it ends now."""

    first: int
    last: int
    deaths: int
    """How often a process of this node has ended at exactly this entry; `NOT_ALONE` for a mark of a range, however
    short it is."""
    why: str
    """The error, if the node could still note it; otherwise it was killed."""

    @property
    def proven(self) -> bool:
        """Whether it is one entry, and the node is known to have ended at it."""
        return self.first == self.last and self.deaths > 0


Skips = dict[int, Skip]
"""The skipped entries by index."""


def skip_of(index: int, record: bytes) -> Skip:
    """The skip of an entry, from its bytes."""
    return Skip(index, term_of(record), int.from_bytes(record[-CRC_BYTES:], "little"))


def stored_skips(tables: TablesView) -> Skips:
    """The skipped entries on disk."""
    stored = get_meta(tables, SKIPS)
    return skips_of(msgpack.unpackb(stored)) if stored else {}


def skips_of(rows: Iterable[Iterable[int]]) -> Skips:
    """The skipped entries in rows (index, term, checksum)."""
    found = [Skip(*map(int, row)) for row in rows]
    return {skip.index: skip for skip in found}


def put_skips(batch: Batch, skips: Skips) -> None:
    """Stage the skipped entries, so that every later start of this folder skips them too."""
    put_meta(batch, SKIPS, cast("bytes", msgpack.packb([skips[index] for index in sorted(skips)])))


def told(skips: Skips) -> str:
    """The skipped entries as one text, for greetings: equal on two nodes only if they skip the same."""
    return ",".join(skips[index].text for index in sorted(skips))


def told_by(text: str) -> Skips:
    """The skipped entries that `told` made this text of. Raises `ValueError` for any other."""
    rows = (part.split(":") for part in text.split(",") if part)
    return skips_of((int(index), int(term), int(checksum, 16)) for index, term, checksum in rows)


def upto(skips: Skips, index: int) -> list[Skip]:
    """The skipped entries that the state of entry `index` has in it."""
    return [skips[each] for each in sorted(skips) if each <= index]


def check_skipped(skips: Skips, first: int, records: list[bytes]) -> None:
    """Raise `LogInconsistentError` if one of these entries, `first` and following, is not the one that was skipped."""
    for index, record in enumerate(records, first):
        skip = skips.get(index)
        found = skip_of(index, record)
        if skip is not None and skip != found:
            raise LogInconsistentError(
                f"entry {index} of the log is {found.text}, and the entry to be skipped is {skip.text}: the node "
                "stops, keep its folder"
            )


def check_snapshot(rows: Iterable[Iterable[int]], skips: Skips, index: int, name: str) -> None:
    """Raise `SnapshotFailedError` if a snapshot's state skipped other entries than this node does.

    `rows` are those in its header, `index` is the entry that it covers. Raises `CorruptionError` if they are no rows.
    """
    try:
        theirs = told(skips_of(rows))
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptionError(f"{name} has no entries where those that are skipped should be: {error}") from error
    ours = told({skip.index: skip for skip in upto(skips, index)})
    if theirs != ours:
        raise SnapshotFailedError(
            f"{name} has the state of nodes that skipped the entries {theirs or 'none'}, and this node skips "
            f"{ours or 'none'}: run forge-consensus log skip for the folders of all members"
        )


def stored_suspect(tables: TablesView, key: bytes = SUSPECT) -> Suspect | None:
    """The mark on disk, or with `ENDED_AT` the entry that ended the node; None if there is none."""
    stored = get_meta(tables, key)
    if stored is None:
        return None
    try:
        first, last, deaths, why = msgpack.unpackb(stored)
        return Suspect(int(first), int(last), int(deaths), str(why))
    except (ValueError, TypeError) as error:
        raise CorruptionError(f"the mark of what was applied does not decode: {error}") from error


def suspect_of(tables: TablesView) -> Suspect | None:
    """The most that a stopped node's tables tell of its end: the entry if it is known, else the mark."""
    ended_at, mark = stored_suspect(tables, ENDED_AT), stored_suspect(tables)
    return mark if mark is not None and mark.proven else ended_at or mark


def put_suspect(batch: Batch, suspect: Suspect, key: bytes = SUSPECT) -> None:
    """Stage a mark, or with `ENDED_AT` the entry that ended the node."""
    put_meta(batch, key, cast("bytes", msgpack.packb(suspect)))


class Careful:
    """Marks what a start applies again, until it is as far as the log was when it opened.

    The next mark is staged in the turn that has applied what the last one covers, so nothing is applied, and no result
    leaves, under an older mark. A mark covers only what is about to be applied: while the node waits for a commit,
    none is on disk.
    """

    def __init__(self, until: int = 0, found: Suspect | None = None, ended_at: Suspect | None = None) -> None:
        self.until = until
        """The last entry that is applied with care; 0 when there is none left."""
        self.found = found
        """The mark that the earlier process left, if it ended while it applied."""
        self.ended_at = ended_at
        """The entry at which earlier processes are known to have ended."""
        if found is not None and found.deaths != NOT_ALONE:
            self.ended_at = found._replace(deaths=found.deaths + 1)
        self.mark: Suspect | None = None
        """The mark that is on disk, made by this process."""

    def open(self, batch: Batch, applied: int, wanted: int) -> None:
        """Stage the first mark together with the boot, so that it costs no flush of its own.

        A mark that was found stays until something is applied, because this start may come to nothing.
        """
        ended_at = self.ended_at
        if self.found is None and applied < min(wanted, self.until):
            self.mark = self.next_mark(applied + 1, wanted)
            put_suspect(batch, self.mark)
        elif self.found is not None and not self.until:
            batch.delete(META, SUSPECT)
        if ended_at is not None and applied < ended_at.first <= self.until:
            put_suspect(batch, ended_at, ENDED_AT)
        elif ended_at is not None:
            batch.delete(META, ENDED_AT)
            self.ended_at = None

    def allowed(self, applied: int, wanted: int) -> int:
        """Up to which entry may be applied now, at most `wanted`; `applied` if a mark has to become durable first."""
        mark = self.mark
        if not self.until:
            return wanted
        return min(wanted, mark.last) if mark is not None and mark.first <= applied + 1 <= mark.last else applied

    def stage(self, turn: Transaction, applied: int, wanted: int) -> None:
        """Stage the mark of what is applied next, up to `wanted` at most, or that nothing is."""
        if not self.until or (self.mark is not None and applied < self.mark.last):
            return
        mark = None
        over = self.ended_at is not None and self.ended_at.first <= applied
        if applied < min(wanted, self.until):
            mark = self.next_mark(applied + 1, wanted)
            put_suspect(turn.batch, mark)
        else:
            turn.batch.delete(META, SUSPECT)
        if over:
            turn.batch.delete(META, ENDED_AT)

        def follow() -> None:
            self.mark = mark
            if over:
                self.ended_at = None
            if applied >= self.until:
                self.until, self.found = 0, None

        turn.after.append(follow)

    def next_mark(self, first: int, wanted: int) -> Suspect:
        """The mark for the entries from `first` on: a range, or a part of the one in which an earlier process ended."""
        last, deaths = min(first + RANGE_ENTRIES - 1, self.until, wanted), NOT_ALONE
        if self.ended_at is not None and self.ended_at.first == first:
            return self.ended_at
        for suspect in (self.found, self.ended_at):
            if suspect is not None and suspect.first <= first <= suspect.last:
                part = max(1, (suspect.last - suspect.first + 1) // PARTS)
                last, deaths = min(last, suspect.last, first + part - 1), 0 if part == 1 else NOT_ALONE
            elif suspect is not None and first < suspect.first:
                last = min(last, suspect.first - 1)
        return Suspect(first, last, deaths, "")

    def note(self, batch: Batch, index: int, why: str) -> None:
        """Stage that the node fails at this entry."""
        before = self.ended_at.deaths if self.ended_at is not None and self.ended_at.first == index else 0
        put_suspect(batch, Suspect(index, index, before + 1, why[:WHY_CHARS_MAX]), ENDED_AT)
