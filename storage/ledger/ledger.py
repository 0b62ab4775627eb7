"""The ledger: term, vote, log, configuration and applied index as one unit, changed only through its few calls.

Every call that acts for a term takes that term and refuses a stale one, so actors may be separate and late without
ever disagreeing about safety (paper 5.1 to 5.4). Changes are made in memory and staged; `commit` makes a turn's
changes durable in one transaction and `rollback` takes all of them back, from memory too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgpack

from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import BusyError, CorruptionError, LogInconsistentError, StaleTermError, StorageFullError
from forge_consensus.storage.backends.tables import RECORD_OVERHEAD_BYTES, Tables
from forge_consensus.storage.ledger.applying import Applied, Applier
from forge_consensus.storage.ledger.checks import HardState, check_records, check_turn, check_vote, same_entry
from forge_consensus.storage.ledger.configuration import CONFIGURATIONS, Configuration, ConfigurationHistory
from forge_consensus.storage.ledger.identity import Identity
from forge_consensus.storage.ledger.journal import Journal
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.numbers import EventNumbers
from forge_consensus.storage.ledger.record import CRC_BYTES, HEAD_BYTES, REJOIN, Kind, data_of, encode
from forge_consensus.storage.ledger.transaction import Transaction, get_meta
from forge_consensus.storage.ledger.uncommitted import Uncommitted
from forge_consensus.storage.machines.machine import ApplyFaultError

HARD = b"hard"
BASE = b"base"
NO_BASE = b"\x93\x00\x00\xc4\x00"
ENTRY_BYTES = HEAD_BYTES + CRC_BYTES + 8 + RECORD_OVERHEAD_BYTES
"""What an entry takes on disk beside its data: head, checksum, key."""
HELD_BACK = (Kind.COMMAND, Kind.SESSION)
"""What a leader refuses when too much is uncommitted or the store is full. A no-op always passes, else a new leader
could never commit what its predecessor left (etcd's rule), and so does a configuration, which may be the remedy."""


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

    index: int  # type: ignore[assignment]  # tuple.index is not needed here
    term: int


class Ledger:
    """The node's memory. It belongs to the node's thread; use `forge_consensus.storage.opening.open_ledger`."""

    def __init__(self, tables: Tables, identity: Identity, applier: Applier, limits: StorageSettings) -> None:
        self.tables = tables
        self.identity = identity
        self.applier = applier
        self.limits = limits
        self.log = Log(tables, limits.tail_bytes_max)
        self.turn = Transaction()
        self.term, self.vote, self.commit_index = 0, "", 0
        self.leading: int | None = None
        self.configurations = ConfigurationHistory()
        self.uncommitted = Uncommitted()
        self.numbers = EventNumbers(tables)
        self.journal = Journal(tables, self.numbers, limits.events_kept, limits.events_seconds)
        self.early_term: int | None = None
        self.appliable = 0
        self.stood = self.led = 0
        self.checkpoint_wanted, self.checkpoint_clean_at = False, 0.0
        self.commit_before = 0
        self.hard_on_disk: HardState = (0, "", 0, 0)
        self.configurations_on_disk: bytes | None = None

    # --- the turn ----------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Take everything that is derived from disk from there; what was only in memory is gone.

        Raises `CorruptionError`.
        """
        stored = get_meta(self.tables, HARD)
        if stored is None:
            raise CorruptionError(f"the store does not hold term and vote, so the node does not run. {REJOIN}")
        self.term, self.vote, hint, last = msgpack.unpackb(stored)
        self.hard_on_disk = (self.term, self.vote, hint, last)
        base_index, base_term, base_configuration = msgpack.unpackb(get_meta(self.tables, BASE) or NO_BASE)
        self.log.reload(base_index, base_term, last)
        self.identity.reload()
        self.configurations_on_disk = get_meta(self.tables, CONFIGURATIONS)
        self.configurations.load(
            base_index, base_configuration, self.configurations_on_disk, lambda index: data_of(self.log.get(index))
        )
        self.commit_index = min(max(hint, self.commit_before, self.applier.index), self.log.last)
        self.leading, self.stood = None, 0
        self.uncommitted.clear()

    def begin(self, now: float) -> None:
        """A turn begins at `now` (seconds, the node's running clock)."""
        self.turn = Transaction()
        self.commit_before = self.commit_index
        self.appliable = self.log.durable
        self.early_term = self.leading
        if self.applier.index == self.applier.on_disk:
            self.checkpoint_clean_at = now
        elif now - self.checkpoint_clean_at > self.limits.checkpoint_seconds:
            self.checkpoint_wanted = True

    def commit(self) -> bool:
        """Make the turn durable; returns whether log entries were written.

        One transaction and one flush if anything must be on disk or a checkpoint is due, none otherwise: applying
        alone costs nothing. Raises `StorageError`, after which the node must stop.
        """
        turn = self.turn
        checkpoint = self.checkpoint_due
        if not (turn.batch.operations or checkpoint or self.changed or self.numbers.few):
            return False
        wrote = self.log.stage(turn.batch)
        configurations = self.configurations.stored() if wrote else self.configurations_on_disk
        if configurations is not None and configurations != self.configurations_on_disk:
            turn.put_meta(CONFIGURATIONS, configurations)
        hard = (self.term, self.vote, self.commit_index, self.log.last)
        if hard != self.hard_on_disk:
            check_vote(self.hard_on_disk, hard)
            turn.put_meta(HARD, msgpack.packb(hard))
        mark = self.numbers.stage(turn.batch)
        self.journal.stage(turn.batch)
        if checkpoint:
            self.applier.checkpoint(turn.batch, self.configurations.at(self.applier.index).encode())
        self.tables.commit(turn.batch)
        self.hard_on_disk, self.configurations_on_disk = hard, configurations
        self.numbers.mark = mark
        self.journal.committed()
        self.log.committed()
        if checkpoint:
            self.applier.checkpointed()
            self.checkpoint_wanted = False
        for follow in turn.after:
            follow()
        return wrote

    def rollback(self) -> None:
        """The turn did not happen: neither on disk nor in memory. What was applied stays, it was committed.

        Raises `ApplyFaultError` when the machine's state was just being replaced, since nobody can take that back:
        the node must stop, and its next start takes the state from the snapshot.
        """
        if self.applier.replacing:
            raise ApplyFaultError(self.applier.index, "a turn failed while a snapshot was handed to the machine")
        self.turn = Transaction()
        self.reload()

    def check_turn(self) -> None:
        """Check what must hold once `commit` returned and before frames leave. Raises `LogInconsistentError`."""
        hard = (self.term, self.vote, self.commit_index, self.log.last)
        applier = self.applier
        check_turn(hard, self.hard_on_disk, self.commit_before, applier.index, applier.on_disk, self.log)

    @property
    def changed(self) -> bool:
        """Whether term, vote or log differ from what is on disk; the commit index there is only a hint."""
        log = self.log
        term, vote, _, _ = self.hard_on_disk
        return self.term != term or self.vote != vote or not log.disk_last <= log.durable == log.last

    @property
    def checkpoint_due(self) -> bool:
        """Whether the applied state must move to disk now; never in the turn that replaces it."""
        applier, limits = self.applier, self.limits
        if applier.kept is None or applier.index == applier.on_disk or self.turn.switching:
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
        """Enter the term after `term` with a vote for oneself; returns it. Leaders resign first, so that all hear."""
        self.require(term)
        if self.leading is not None:
            raise StaleTermError(self.term, term)
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
        self.uncommitted.clear()

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
        """Raise `StorageFullError` unless the store has room for that much, for what memory holds, and the reserve.

        The reserve keeps votes, compaction and copy-on-write possible when proposals no longer are.
        """
        space = self.tables.space()
        pending = self.log.fresh_bytes + self.applier.dirty_bytes
        need = 2 * extra_bytes + pending + self.limits.reserve_bytes
        if space.used_bytes + need > space.quota_bytes or space.disk_free_bytes < need:
            raise StorageFullError(
                f"the store uses {space.used_bytes} of {space.quota_bytes} bytes with "
                f"{space.disk_free_bytes} free on the disk, and keeps {self.limits.reserve_bytes} in reserve: "
                "make room on the disk or raise the quota; nothing was lost"
            )

    def propose(self, term: int, wall_ms: int, proposals: Sequence[Proposal]) -> tuple[int, int]:
        """Append the leader's own entries; returns (first, last) index. A configuration is proposed alone.

        Raises `StaleTermError`, `BusyError` when too much is uncommitted, `StorageFullError`.
        """
        self.require_leading(term)
        log, limits = self.log, self.limits
        kind = proposals[0].kind
        size = sum([len(proposal.data) for proposal in proposals]) + ENTRY_BYTES * len(proposals)
        if kind in HELD_BACK:
            if (
                log.last - self.commit_index + len(proposals) > limits.uncommitted_entries_max
                or self.uncommitted.size_bytes + size > limits.uncommitted_bytes_max
            ):
                raise BusyError(f"{log.last - self.commit_index} entries wait for a majority: try again in a moment")
            self.room(size)
        first = log.last + 1
        records = [
            encode(index, term, kind, wall_ms, session, seq, done_below, data)
            for index, (kind, session, seq, done_below, data) in enumerate(proposals, first)
        ]
        log.append(records)
        self.uncommitted.proposed(log.last, size)
        if kind == Kind.CONFIGURATION:
            self.configurations.add(first, proposals[0].data)
        return first, log.last

    def accept(self, term: int, prev_index: int, prev_term: int, records: Sequence[bytes]) -> Accepted | Mismatch:
        """Take a leader's entries behind (prev_index, prev_term) (paper 5.3, I3).

        Truncates only at the first entry whose term differs, and never at or below the commit index. Raises
        `StaleTermError`, `ProtocolError` for a damaged record, `StorageFullError`, all before anything is changed,
        and `LogInconsistentError`, which is fatal.
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
        first = prev_index + 1
        while first <= min(match, log.last) and same_entry(first, log.get(first), records[first - prev_index - 1]):
            first += 1
        fresh = records[first - prev_index - 1 :]
        if not fresh:
            return Accepted(match, 0, 0, 0)
        configurations = check_records(term, log.term_at(first - 1) or 0, first, fresh)
        self.room(sum(map(len, fresh)))
        removed = self.truncate(first) if first <= log.last else 0
        log.append(fresh)
        for index in configurations:
            self.configurations.add(index, data_of(fresh[index - first]))
        return Accepted(match, first, first if removed else 0, removed)

    def truncate(self, first: int) -> int:
        """Take the entries from `first` on away, and their configurations with them (I7)."""
        if first <= self.commit_index:
            raise LogInconsistentError(
                f"a leader of term {self.term} contradicts entry {first}, and {self.commit_index} entries are "
                "committed: this node does not forget them and stops"
            )
        self.configurations.truncate(first)
        # What is appended instead may get the same indexes, and is not on disk before this turn's commit.
        self.appliable = min(self.appliable, first - 1)
        return self.log.truncate(first)

    def commit_leading(self, term: int, index: int) -> bool:
        """Move the commit index to `index` as the leader of `term`; returns whether it moved (paper 5.4.2, I6).

        The caller must take `index` from `configuration.quorum.reached(match indexes)`: match indexes are known to the
        leadership only, so the ledger trusts it. What the ledger knows itself it checks: the term is led by this node,
        and the entry is of this term, because entries of earlier terms commit only together with one of ours.
        Raises `StaleTermError` if this node does not lead `term`.
        """
        self.require_leading(term)
        if index <= self.commit_index or self.log.term_at(index) != term:
            return False
        self.uncommitted.committed(index)
        self.commit_index = index
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

        So applying is never undone: a rolled-back turn has applied nothing that it takes back (I8). Raises
        `ApplyFaultError` with the entry's index for any fault of ours, `StorageError`; both end the node.
        """
        if not self.more_to_apply or self.applier.replacing or self.turn.switching:
            return []
        return self.applier.run(self.log, min(self.commit_index, self.appliable), count_max)

    @property
    def applied(self) -> int:
        """The index of the last entry that the machine has seen."""
        return self.applier.index

    @property
    def more_to_apply(self) -> bool:
        """Whether `apply` would find work now."""
        return self.applier.index < min(self.commit_index, self.appliable)

    @property
    def commits(self) -> int:
        """How many transactions became durable."""
        return self.tables.commits

    def next_sequence(self) -> int:
        """The number of the next event; numbers are never used twice, over restarts too."""
        return self.numbers.next()
