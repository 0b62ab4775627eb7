"""The ledger: term, vote, log, configuration and applied index as one unit, changed only through its few calls.

Every call that acts for a term takes that term and refuses a stale one, so actors may be separate and late without
ever disagreeing about safety (paper 5.1 to 5.4). Changes are made in memory and staged; `commit` makes a turn's
changes durable in one transaction and `rollback` takes all of them back, from memory too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import msgpack

from forge_consensus.errors import (
    BusyError,
    CorruptionError,
    LogInconsistentError,
    ProtocolError,
    StaleTermError,
    StorageFullError,
)
from forge_consensus.storage.applying import Applied, Applier
from forge_consensus.storage.configuration import (
    CONFIGURATIONS,
    Configuration,
    ConfigurationHistory,
)
from forge_consensus.storage.identity import Identity
from forge_consensus.storage.limits import Limits
from forge_consensus.storage.log import Log
from forge_consensus.storage.machine import ApplyFaultError
from forge_consensus.storage.record import (
    CRC_BYTES,
    HEAD_BYTES,
    REJOIN,
    Kind,
    data_of,
    encode,
    intact,
    kind_of,
    term_of,
)
from forge_consensus.storage.tables import RECORD_OVERHEAD_BYTES, Tables
from forge_consensus.storage.transaction import Transaction, get_meta
from forge_consensus.storage.uncommitted import Uncommitted

HARD = b"hard"
BASE = b"base"
EVENTS_MARK = b"events"
EVENTS_BLOCK = 100_000
EVENTS_FEW = 1_000
NO_BASE = b"\x93\x00\x00\xc4\x00"
ENTRY_BYTES = HEAD_BYTES + CRC_BYTES + 8 + RECORD_OVERHEAD_BYTES
"""What an entry takes beside its data: head, checksum, key."""


class Proposal(NamedTuple):
    """What a leader is asked to put into its log."""

    kind: int
    session: int
    seq: int
    done_below: int
    data: bytes


class Accepted(NamedTuple):
    """What became of a leader's entries: all up to `match` are in the log; `truncated_from` is 0 if nothing went."""

    match: int
    first_appended: int
    truncated_from: int
    removed: int


class Mismatch(NamedTuple):
    """The previous entry is not here; (index, term) is the newest that may be in both logs."""

    index: int
    term: int


class Ledger:
    """The node's memory. It belongs to the node's thread; use `forge_consensus.storage.opening.open_ledger`."""

    def __init__(self, tables: Tables, identity: Identity, applier: Applier, limits: Limits) -> None:
        self.tables = tables
        self.identity = identity
        self.applier = applier
        self.limits = limits
        self.log = Log(tables, limits.tail_bytes_max)
        self.turn = Transaction()
        self.term = 0
        self.vote = ""
        self.commit_index = 0
        self.leading: int | None = None
        self.initial = ""
        self.configurations = ConfigurationHistory()
        self.early_term: int | None = None
        self.commits = 0
        self.appliable = 0
        self.stood = self.led = 0
        self.uncommitted_bytes = 0
        self.sequence = self.sequence_mark = 0
        self.checkpoint_wanted = False
        self.checkpoint_clean_at = 0.0
        self.commit_before = 0
        self.hard_on_disk: tuple[int, str, int] = (0, "", 0)

    # --- the turn ----------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Take everything that is derived from disk from there; what was only in memory is gone."""
        stored = self.tables.get(META, HARD)
        self.term, self.vote, hint = msgpack.unpackb(stored) if stored else (0, "", 0)
        self.hard_on_disk = (self.term, self.vote, hint)
        base = self.tables.get(META, BASE) or NO_BASE
        base_index, base_term, base_configuration = msgpack.unpackb(base)
        self.log.reload(base_index, base_term)
        self.identity.reload()
        self.configurations.load(
            base_index,
            base_configuration,
            self.tables.get(META, CONFIGURATIONS),
            lambda index: self.log.get(index)[RECORD_HEAD_BYTES:],
        )
        self.commit_index = min(max(hint, self.commit_before, self.applier.index), self.log.last)
        self.leading, self.stood = None, 0
        self.uncommitted_bytes = 0

    def begin(self, now: float) -> None:
        """A turn begins at `now` (seconds, the node's running clock)."""
        self.turn = Transaction()
        self.commit_before = self.commit_index
        self.appliable = self.log.durable
        self.early_term = self.leading
        if not self.applier.dirty_bytes:
            self.checkpoint_clean_at = now
        elif now - self.checkpoint_clean_at > self.limits.checkpoint_seconds:
            self.checkpoint_wanted = True

    def commit(self) -> bool:
        """Make the turn durable; returns whether log entries were written.

        One transaction and one flush if anything urgent happened or a checkpoint is due, none otherwise: applying
        alone costs nothing. Raises `StorageError`, after which the node must stop.
        """
        turn = self.turn
        checkpoint = self.checkpoint_due
        numbers_left = self.sequence_mark - self.sequence
        must = turn.urgent or checkpoint or self.log_changed or self.hard_changed
        if not must and numbers_left > EVENTS_FEW:
            return False
        wrote = self.log.stage(turn.batch)
        if wrote:
            turn.put_meta(CONFIGURATIONS, self.configurations.stored())
        hard = (self.term, self.vote, self.commit_index)
        if hard != self.hard_on_disk:
            turn.put_meta(HARD, cast(bytes, msgpack.packb(hard)))
        if numbers_left < EVENTS_BLOCK // 2:
            self.sequence_mark = self.sequence + EVENTS_BLOCK
            turn.put_meta(EVENTS_MARK, self.sequence_mark.to_bytes(8))
        if checkpoint:
            point = self.configurations.at(self.applier.index)
            self.applier.checkpoint(turn.batch, point.encode())
        self.tables.commit(turn.batch)
        self.commits += 1
        self.hard_on_disk = hard
        self.log.committed()
        if checkpoint:
            self.applier.checkpointed()
            self.checkpoint_wanted = False
        for follow in turn.after:
            follow()
        return wrote

    def rollback(self) -> None:
        """The turn did not happen: neither on disk nor in memory. What was applied stays, it was committed."""
        self.turn = Transaction()
        self.commit_index = self.commit_before
        self.reload()

    @property
    def log_changed(self) -> bool:
        """Whether the log differs from what is on disk."""
        return self.log.last != self.log.durable or self.log.disk_last > self.log.durable

    @property
    def hard_changed(self) -> bool:
        """Whether term or vote differ from what is on disk; the commit index there is only a hint."""
        return (self.term, self.vote) != self.hard_on_disk[:2]

    @property
    def checkpoint_due(self) -> bool:
        """Whether the applied state must move to disk now."""
        applier, limits = self.applier, self.limits
        if applier.kept is None or applier.index == applier.on_disk:
            return False
        return (
            self.checkpoint_wanted
            or applier.index - applier.on_disk >= limits.checkpoint_entries
            or applier.dirty_bytes >= limits.checkpoint_bytes
        )

    # --- the fence: term and vote ------------------------------------------------------------------------------------

    def require(self, term: int) -> None:
        """Raise `StaleTermError` unless the ledger is in that term."""
        if term != self.term:
            raise StaleTermError(self.term, term)

    def require_leading(self, term: int) -> None:
        """Raise `StaleTermError` unless this node leads that term."""
        if self.leading != term:
            raise StaleTermError(self.term, term)

    def advance(self, term: int) -> bool:
        """Enter a higher term, without a vote and without leading; returns whether the term moved."""
        if term <= self.term:
            return False
        self.term, self.vote, self.leading = term, "", None
        return True

    def up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log with that tip is at least as new as this one (paper 5.4.1)."""
        return (last_term, last_index) >= (self.log.last_term, self.log.last)

    def grant_vote(self, term: int, candidate: str, last_index: int, last_term: int) -> bool:
        """Vote for the candidate unless this node voted for another or has a newer log (I10)."""
        self.require(term)
        if self.vote not in ("", candidate) or not self.up_to_date(last_index, last_term):
            return False
        self.vote = candidate
        return True

    def stand(self, term: int) -> int:
        """Enter the term after `term` with a vote for oneself; returns it."""
        self.require(term)
        self.term, self.vote, self.leading = term + 1, self.identity.node_id, None
        self.stood = self.term
        return self.term

    def lead(self, term: int) -> None:
        """Begin to lead `term`: once a term and boot, and only with the vote for oneself given in this boot (I1).

        Raises `StaleTermError` otherwise. Rebuilding the actors does not reset it.
        """
        self.require(term)
        if self.vote != self.identity.node_id or self.stood != term or self.led >= term:
            raise StaleTermError(self.term, term)
        self.led = self.leading = term
        self.uncommitted_bytes = 0

    def resign(self, term: int) -> bool:
        """Stop leading `term` without a new one; returns whether this node led it."""
        if self.leading != term:
            return False
        self.leading = None
        return True

    def may_send_early(self, term: int) -> bool:
        """Whether entries of `term` may leave before this turn's commit (dissertation 10.2.1).

        Only if term and vote were durable when the turn began; else a node that voted for itself, led and sent in
        one turn could crash, forget it, and write another entry at the same index and term.
        """
        return self.leading == term == self.early_term

    # --- the fence: log ----------------------------------------------------------------------------------------------

    def room(self, extra_bytes: int) -> None:
        """Raise `StorageFullError` unless the store has room for that much and the reserve.

        The reserve keeps votes, compaction and copy-on-write possible when proposals no longer are.
        """
        space = self.tables.space()
        need = 2 * extra_bytes + self.limits.reserve_bytes
        if space.used_bytes + need > space.quota_bytes or space.disk_free_bytes < need:
            raise StorageFullError(
                f"the store uses {space.used_bytes} of {space.quota_bytes} bytes with "
                f"{space.disk_free_bytes} free on the disk, and keeps {self.limits.reserve_bytes} in reserve: "
                "make room on the disk or raise the quota; nothing was lost"
            )

    def propose(self, term: int, wall_ms: int, proposals: Sequence[Proposal]) -> tuple[int, int]:
        """Append the leader's own entries; returns (first, last) index.

        Raises `StaleTermError`, `BusyError` when too much is uncommitted, `StorageFullError`. A no-op always
        passes, else a new leader could never commit what its predecessor left (etcd's rule).
        """
        self.require_leading(term)
        log, limits = self.log, self.limits
        size = sum([len(proposal.data) for proposal in proposals]) + 64 * len(proposals)
        if proposals[0].kind != Kind.NOOP:
            if (
                log.last - self.commit_index + len(proposals) > limits.uncommitted_entries_max
                or self.uncommitted_bytes + size > limits.uncommitted_bytes_max
            ):
                raise BusyError(
                    f"{log.last - self.commit_index} entries wait for a majority: try again in a moment"
                )
            self.room(size)
        first = log.last + 1
        records = [
            encode(first + i, term, kind, wall_ms, session, seq, done_below, data)
            for i, (kind, session, seq, done_below, data) in enumerate(proposals)
        ]
        log.append(records)
        self.uncommitted_bytes += size
        return first, log.last

    def accept(
        self, term: int, prev_index: int, prev_term: int, records: Sequence[bytes]
    ) -> Accepted | Mismatch:
        """Take a leader's entries behind (prev_index, prev_term) (paper 5.3, I3).

        Truncates only at the first entry whose term differs, and never at or below the commit index. Raises
        `StaleTermError`, `ProtocolError` for a damaged record, `StorageFullError`.
        """
        self.require(term)
        if self.leading is not None:
            raise LogInconsistentError(f"two leaders in term {term}: this node and who sent entries")
        log = self.log
        match = prev_index + len(records)
        if prev_index < log.base_index:
            if match <= log.base_index:
                return Accepted(match, 0, 0, 0)
            records = records[log.base_index - prev_index :]
            prev_index, prev_term = log.base_index, log.base_term
        if log.term_at(prev_index) != prev_term:
            hint = log.last_at_most(prev_index, prev_term)
            return Mismatch(hint, log.term_at(hint) or 0)
        self.check_records(term, prev_index, prev_term, records)
        skip = 0
        while skip < len(records) and log.term_at(prev_index + 1 + skip) == term_of(records[skip]):
            skip += 1
        fresh = records[skip:]
        if not fresh:
            return Accepted(match, 0, 0, 0)
        self.room(sum(map(len, fresh)))
        first = prev_index + 1 + skip
        removed = self.truncate(first) if first <= log.last else 0
        log.append(fresh)
        for index, record in enumerate(fresh, first):
            if kind_of(record) == Kind.CONFIGURATION:
                self.configurations.add(index, record[RECORD_HEAD_BYTES:])
        return Accepted(match, first, first if removed else 0, removed)

    def check_records(
        self, term: int, prev_index: int, prev_term: int, records: Iterable[bytes]
    ) -> None:
        """Raise `ProtocolError` unless each record is whole, in its place, and of a term that fits."""
        previous = prev_term
        for index, record in enumerate(records, prev_index + 1):
            if not intact(index, record) or not previous <= term_of(record) <= term:
                raise ProtocolError(f"entry {index} of an append is damaged or out of order")
            previous = term_of(record)

    def truncate(self, first: int) -> int:
        """Take the entries from `first` on away, and their configurations with them (I7)."""
        if first <= self.commit_index:
            raise LogInconsistentError(
                f"a leader of term {self.term} contradicts entry {first}, and {self.commit_index} entries are "
                "committed: this node does not forget them and stops"
            )
        self.configurations.truncate(first)
        return self.log.truncate(first)

    def commit_leading(self, term: int, index: int) -> bool:
        """Move the commit index as the leader of `term`; entries of earlier terms commit only with one of ours.

        Returns whether it moved (paper 5.4.2, I6). `index` must be durable on a majority.
        """
        self.require_leading(term)
        if index <= self.commit_index or self.log.term_at(index) != term:
            return False
        sent = self.log.read(self.commit_index + 1, index, self.limits.uncommitted_bytes_max)
        self.uncommitted_bytes = max(0, self.uncommitted_bytes - sum(map(len, sent)))
        self.commit_index = index
        if index == self.log.last:
            self.uncommitted_bytes = 0
        return True

    def commit_following(self, term: int, index: int) -> bool:
        """Move the commit index to what a leader's message both verified and reported; returns whether it moved."""
        self.require(term)
        if index <= self.commit_index:
            return False
        self.commit_index = min(index, self.log.last)
        return True

    # --- configuration and applying ----------------------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The configuration in force: the last one in the log, committed or not."""
        return self.configurations.current

    def apply(self, count_max: int) -> list[Applied]:
        """Apply what is committed and was durable when the turn began, at most `count_max` entries.

        So applying is never undone: a rolled-back turn has applied nothing that it takes back (I8).
        """
        upto = min(self.commit_index, self.appliable)
        if self.applier.index >= upto:
            return []
        return self.applier.run(self.log, upto, count_max)

    @property
    def applied(self) -> int:
        """The index of the last entry that the machine has seen."""
        return self.applier.index

    @property
    def more_to_apply(self) -> bool:
        """Whether `apply` would find work now."""
        return self.applier.index < min(self.commit_index, self.appliable)

    def next_sequence(self) -> int:
        """The number of the next event; numbers are never used twice, over restarts too."""
        self.sequence += 1
        return self.sequence
