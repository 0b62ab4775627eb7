"""The ledger: term, vote, log, configuration, commit index and applied state as one unit.

All of it changes only through the methods of `Ledger`. A method that acts for a term takes that term and refuses a
stale one with `StaleTermError`, so actors may be separate and late without ever disagreeing about safety (paper 5.1 to
5.4). Changes are made in memory and staged; `commit` makes a turn's changes durable as one batch, and `rollback`
takes all of them back, from memory too. I1 to I16 are the invariants in docs/invariants.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, cast

import msgpack

from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import BusyError, CorruptionError, LogInconsistentError, StaleTermError, StorageFullError
from forge_consensus.storage.backends.sealed import CRC_BYTES, REJOIN
from forge_consensus.storage.backends.tables import RECORD_OVERHEAD_BYTES, Batch, Tables
from forge_consensus.storage.ledger.applying import Applied, Applier, Point, put_point
from forge_consensus.storage.ledger.checks import HardState, check_records, check_turn, check_vote, same_entry
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.history import CONFIGURATIONS, ConfigurationHistory
from forge_consensus.storage.ledger.identity import Identity
from forge_consensus.storage.ledger.journal import Journal
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.log_time import LogTime, last_times
from forge_consensus.storage.ledger.numbers import EventNumbers
from forge_consensus.storage.ledger.record import HEAD_BYTES, Kind, data_of, encode, kind_of
from forge_consensus.storage.ledger.room import Room
from forge_consensus.storage.ledger.skips import ADVICE, Careful, skip_of
from forge_consensus.storage.ledger.time_slice import TimeSlice
from forge_consensus.storage.ledger.transaction import Transaction, get_meta
from forge_consensus.storage.ledger.uncommitted import Uncommitted
from forge_consensus.storage.machines.machine import ApplyFaultError
from forge_consensus.storage.machines.sessions import Sessions

HARD = b"hard"
"""The key of (term, vote, commit index, last index): the hard state. The commit index there is a hint."""
BASE = b"base"
"""The key of (index, term, configuration) as of the log's base: the part of the log that is compacted away."""
NO_BASE = b"\x93\x00\x00\xc4\x00"
"""The value of `BASE` before the first compaction: (0, 0, b"")."""
ENTRY_BYTES = HEAD_BYTES + CRC_BYTES + 8 + RECORD_OVERHEAD_BYTES
"""The bytes of an entry on disk beside its data: head, checksum, key."""
HELD_BACK = (Kind.COMMAND, Kind.SESSION)
"""The kinds of entries that a leader refuses when too much is uncommitted, and every node when its store is full.

A no-op always passes, because a new leader could otherwise never commit what its predecessor left (etcd's rule), and
without that it answers no read. So does a configuration, because it may be the remedy."""


class Proposal(NamedTuple):
    """A proposal for a leader's log; the fields are those of `Record`."""

    kind: int
    session: int
    seq: int
    done_below: int
    data: bytes


class Accepted(NamedTuple):
    """A leader's entries are in the log."""

    match: int
    """Up to this index the log agrees with the leader's."""
    first_appended: int
    """The first index that was appended; 0 if the log had all entries already."""
    truncated_from: int
    """The first index whose old entry was removed; 0 if none was."""
    removed: int
    """How many old entries were removed."""


class Mismatch(NamedTuple):
    """The entry before a leader's entries is not in the log. The logs cannot agree after the entry (index, term)."""

    index: int  # type: ignore[assignment]  # tuple.index is not needed here
    term: int


class Ledger:
    """The state that a node must not forget, and the facts derived from it.

    It belongs to the node's thread. `forge_consensus.storage.opening.open_ledger` makes one from a folder. Other
    modules read its parts (`log`, `applier`, `identity`, `configurations`) freely; they change them only through the
    methods below, except that `journal`, `numbers` and `identity` are called directly.
    """

    def __init__(
        self, tables: Tables, identity: Identity, applier: Applier, settings: StorageSettings, level: int
    ) -> None:
        self.tables = tables
        self.identity = identity
        self.applier = applier
        self.settings = settings
        self.log = Log(tables, settings.tail_bytes_max)
        self.turn = Transaction()
        self.term, self.vote = 0, ""
        self.commit_index = 0
        self.leading_term: int | None = None
        """The term that this node leads; None if it leads none."""
        self.configurations = ConfigurationHistory(level)
        self.uncommitted = Uncommitted()
        self.log_time = LogTime()
        self.now = 0.0
        """When this turn began, in seconds of real time."""
        self.room = Room(tables, settings.reserve_bytes, lambda: self.log.fresh_bytes + self.applier.dirty_bytes)
        self.numbers = EventNumbers(tables)
        self.journal = Journal(tables, self.numbers, settings.events_kept, settings.events_seconds)
        self.early_term: int | None = None
        """The term that this node led when the turn began, so with term and vote on disk."""
        self.appliable = 0
        """Only entries up to this index are applied in this turn: they were on disk when it began."""
        self.stood = self.led = 0
        """The terms in which this node last stood and last led, since its process began."""
        self.checkpoint_wanted, self.checkpoint_clean_at = False, 0.0
        """Whether a checkpoint was requested or is overdue; and when applied and stored state last were the same."""
        self.careful = Careful()
        """Marks what is applied again after a start."""
        self.commit_before = 0
        """The commit index when the turn began."""
        self.hard_on_disk: HardState = (0, "", 0, 0)
        self.configurations_on_disk: bytes | None = None

    def take_settings(self, settings: StorageSettings) -> None:
        """Take other bounds, between two turns; what is beyond a lower one goes bit by bit, as it always does."""
        self.settings, self.log.tail_bytes_max = settings, settings.tail_bytes_max
        self.room.take_reserve(settings.reserve_bytes)
        self.journal.take_bounds(settings.events_kept, settings.events_seconds)
        self.tables.take_quota(settings.quota_bytes)

    # --- the turn ----------------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read all stored state from disk again; state that was only in memory is gone.

        Raises `CorruptionError`, `UnsupportedVersionError` for a configuration of a later version.
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
        self.leading_term, self.stood = None, 0
        self.uncommitted.clear()

    def begin(self, now: float) -> None:
        """Begin a turn at `now` (seconds of real time)."""
        self.turn = Transaction()
        self.now = now
        self.room.now = now
        self.commit_before = self.commit_index
        self.appliable = self.log.durable
        self.early_term = self.leading_term
        if self.applier.index == self.applier.on_disk:
            self.checkpoint_clean_at = now
        elif now - self.checkpoint_clean_at > self.settings.checkpoint_seconds:
            self.checkpoint_wanted = True

    def commit(self) -> bool:
        """Make the turn durable; returns whether log entries were written.

        It makes one transaction and one flush if anything must be on disk or a checkpoint is due, and none otherwise:
        applying alone costs nothing. Raises `StorageError`, after which the node must stop.
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
        self.identity.stage_tips(turn.batch, self.now)
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
        """Undo the turn, in memory too. Applied entries stay applied, because only committed entries are applied.

        Raises `ApplyFaultError` if a user's machine is being handed a snapshot, because nobody can take that back: the
        node must stop, and its next start takes the state from the snapshot.
        """
        applier = self.applier
        if applier.replacing and applier.ledger_machine is None:
            raise ApplyFaultError(applier.index, "a turn failed while a snapshot was handed to the machine")
        applier.replacing = False
        self.turn = Transaction()
        self.reload()

    def check_turn(self) -> None:
        """Check the invariants after `commit` and before frames leave. Raises `LogInconsistentError`."""
        hard = (self.term, self.vote, self.commit_index, self.log.last)
        applier = self.applier
        check_turn(hard, self.hard_on_disk, self.commit_before, applier.index, applier.on_disk, self.log)

    @property
    def changed(self) -> bool:
        """Whether term, vote or log differ from the disk.

        The commit index there is a hint and does not count.
        """
        log = self.log
        term, vote, _, _ = self.hard_on_disk
        return self.term != term or self.vote != vote or not log.disk_last <= log.durable == log.last

    @property
    def checkpoint_due(self) -> bool:
        """Whether the applied state must move to disk in this turn; never in the turn that replaces it."""
        applier, settings = self.applier, self.settings
        if applier.ledger_machine is None or applier.index == applier.on_disk or applier.replacing:
            return False
        return (
            (self.checkpoint_wanted or applier.access.unsaved)
            or applier.index - applier.on_disk >= settings.checkpoint_entries
            or applier.dirty_keys >= settings.checkpoint_entries
            or applier.dirty_bytes >= settings.checkpoint_bytes
        )

    def request_checkpoint(self) -> None:
        """Have this turn's commit write the applied state to disk, if the machine is kept in the ledger."""
        self.checkpoint_wanted = True

    # --- the fence: term and vote ------------------------------------------------------------------------------------

    def require(self, term: int) -> None:
        """Raise `StaleTermError` unless the ledger is in `term`."""
        if term != self.term:
            raise StaleTermError(self.term, term)

    def require_leading(self, term: int) -> None:
        """Raise `StaleTermError` unless this node leads `term`."""
        if self.leading_term != term:
            raise StaleTermError(self.term, term)

    def advance(self, term: int) -> bool:
        """Enter `term` if it is higher, without a vote and without leading; returns whether the term moved."""
        if term <= self.term:
            return False
        self.term, self.vote, self.leading_term = term, "", None
        return True

    def up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends with this index and term is at least as new as ours (paper 5.4.1)."""
        return (last_term, last_index) >= (self.log.last_term, self.log.last)

    def grant_vote(self, term: int, candidate: str, last_index: int, last_term: int) -> bool:
        """Vote for the candidate in `term`; returns whether it got the vote (I10).

        It does not if this node voted for another in this term, has a newer log than one that ends with `last_index`
        and `last_term`, or may not vote at all. Raises `StaleTermError` unless the ledger is in `term`.
        """
        self.require(term)
        if self.vote not in ("", candidate) or not self.up_to_date(last_index, last_term) or not self.may_vote:
            return False
        self.vote = candidate
        return True

    @property
    def may_vote(self) -> bool:
        """Whether this node has the folder of the member of its id, so that it knows what that member promised."""
        return any(map(self.identity.is_member_of, self.configurations.in_doubt(self.commit_index)))

    def stand(self, term: int) -> int:
        """Start a candidacy: enter `term` + 1 with a vote for this node; returns the new term.

        Raises `StaleTermError` unless the ledger is in `term`, for a node that may not vote, and while this node leads:
        it must resign first, so that every actor learns that its leadership ended.
        """
        self.require(term)
        if self.leading_term is not None or not self.may_vote:
            raise StaleTermError(self.term, term)
        self.term, self.vote, self.leading_term = term + 1, self.identity.node_id, None
        self.stood = self.term
        return self.term

    def lead(self, term: int, wall_ms: int) -> None:
        """Begin to lead `term` (I1). The time of the log goes on; only a log without any begins at `wall_ms`.

        Raises `StaleTermError` if this process led the term before, or did not itself vote for this node in it. That
        outlives a rebuild of the actors, so that no term is led twice.
        """
        self.require(term)
        if self.vote != self.identity.node_id or self.stood != term or self.led >= term:
            raise StaleTermError(self.term, term)
        self.led = self.leading_term = term
        self.uncommitted.clear()
        elapsed_ms, last_wall_ms = last_times(self.log, self.applier)
        self.log_time.begin(self.now, elapsed_ms, last_wall_ms or wall_ms)

    def resign(self, term: int) -> bool:
        """Stop leading `term` without entering a new one; returns whether this node led it."""
        if self.leading_term != term:
            return False
        self.leading_term = None
        return True

    def may_send_early(self, term: int) -> bool:
        """Whether entries of `term` may leave before this turn's commit (dissertation 10.2.1).

        They may only if term and vote were durable when the turn began. A node that voted for itself, led and sent in
        one turn could otherwise crash, forget it, and write another entry at the same index and term.
        """
        return self.leading_term == term == self.early_term

    # --- the fence: log ----------------------------------------------------------------------------------------------

    def check_space(self, size_bytes: int) -> None:
        """Raise `StorageFullError` unless there is room for entries of this size, see `Room`."""
        try:
            self.room.check_entries(size_bytes)
        except StorageFullError:
            self.save_what_waits()
            raise

    def look_for_room(self) -> str:
        """Find out whether this node is full, so that it takes no entries; returns why, or ""."""
        full = self.room.look()
        if full:
            self.save_what_waits()
        return full

    def save_what_waits(self) -> None:
        """Have the applied state move to disk, because room is short and what waits in memory takes it twice."""
        if self.applier.dirty_bytes:
            self.checkpoint_wanted = True

    def room_for(self, proposals: Sequence[Proposal]) -> int:
        """How many of the first of these proposals may be uncommitted besides what is now."""
        sizes = [len(proposal.data) + ENTRY_BYTES for proposal in proposals]
        settings, waiting = self.settings, self.log.last - self.commit_index
        entries_left = max(0, settings.uncommitted_entries_max - waiting)
        return self.uncommitted.room_for(sizes[:entries_left], settings.uncommitted_bytes_max)

    def propose(self, term: int, proposals: Sequence[Proposal]) -> tuple[int, int]:
        """Append entries as the leader of `term`; returns their first and last index.

        All proposals are of one kind; a configuration is proposed alone. They carry the times of this turn. Raises
        `StaleTermError` unless this node leads `term`, `StorageFullError`, and `BusyError` if too much is uncommitted.
        """
        self.require_leading(term)
        log, settings = self.log, self.settings
        kind = proposals[0].kind
        size = sum([len(proposal.data) for proposal in proposals]) + ENTRY_BYTES * len(proposals)
        if kind in HELD_BACK:
            if (
                log.last - self.commit_index + len(proposals) > settings.uncommitted_entries_max
                or self.uncommitted.size_bytes + size > settings.uncommitted_bytes_max
            ):
                raise BusyError(f"{log.last - self.commit_index} entries wait for a majority: try again in a moment")
            self.check_space(size)
        if kind == Kind.CONFIGURATION:
            self.configurations.check_change(self.commit_index, led=log.term_at(self.commit_index) == term)
        first = log.last + 1
        wall_ms, elapsed_ms = self.log_time.wall_ms(self.now), self.log_time.elapsed_ms(self.now)
        records = [
            encode(index, term, kind, wall_ms, session, seq, done_below, data, elapsed_ms)
            for index, (kind, session, seq, done_below, data) in enumerate(proposals, first)
        ]
        log.append(records)
        self.uncommitted.proposed(log.last, size)
        if kind == Kind.CONFIGURATION:
            self.configurations.add(first, proposals[0].data)
        return first, log.last

    def accept(self, term: int, prev_index: int, prev_term: int, records: Sequence[bytes]) -> Accepted | Mismatch:
        """Take the entries that the leader of `term` sent to follow (prev_index, prev_term) (paper 5.3, I3).

        The log is truncated only at the first entry whose term differs, and never at or below the commit index. Raises
        `StaleTermError`, `ProtocolError` for a record that is damaged, `StorageFullError`, `UnsupportedVersionError`
        for one that this program does not know, all before anything is changed, and `LogInconsistentError`. The last
        two are fatal.
        """
        self.require(term)
        if self.leading_term is not None:
            raise LogInconsistentError(f"two leaders in term {term}: this node and the one that sent entries")
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
        configurations = check_records(term, log.term_at(first - 1) or 0, first, fresh, self.configurations.level)
        if any(kind_of(record) in HELD_BACK for record in fresh):
            self.check_space(sum(map(len, fresh)))
        removed = self.truncate(first) if first <= log.last else 0
        log.append(fresh)
        for index in configurations:
            self.configurations.add(index, data_of(fresh[index - first]))
        return Accepted(match, first, first if removed else 0, removed)

    def truncate(self, first: int) -> int:
        """Remove the entries from `first` on, with their configurations; returns how many.

        A committed one is fatal (I7).
        """
        if first <= self.commit_index:
            raise LogInconsistentError(
                f"a leader of term {self.term} contradicts entry {first}, and {self.commit_index} entries are "
                "committed: this node does not forget them and stops"
            )
        self.configurations.truncate(first)
        # New entries may get the same indexes, and are not on disk before this turn's commit.
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
        """Move the commit index to the one that the leader of `term` reported; returns whether it moved.

        `index` must be at most the index up to which the same message proved the logs equal.
        """
        self.require(term)
        if index <= self.commit_index:
            return False
        self.commit_index = min(index, self.log.last)
        return True

    # --- the state that a snapshot holds -----------------------------------------------------------------------------

    def move_base(self, index: int, term: int, configuration: bytes) -> None:
        """Stage the new start of the log: everything up to `index` is in a durable snapshot. Memory follows the commit.

        `term` and `configuration` (its bytes) are those as of `index`.
        """
        self.turn.put_meta(BASE, cast("bytes", msgpack.packb((index, term, configuration))))
        self.turn.base_index = index
        self.turn.after.append(lambda: self.configurations.compacted(index, configuration))
        self.turn.after.append(lambda: self.log.rebase(index, term))

    def begin_replacing(self) -> None:
        """Let a user's machine rest, because it is about to be handed a snapshot; `switch_state` ends that.

        A machine in the ledger applies entries meanwhile, because the snapshot is copied into another generation.
        """
        self.applier.replacing = self.applier.ledger_machine is None

    def switch_state(self, point: Point, sessions: Sessions, generation: int) -> bool:
        """Replace the state by an installed snapshot: machine, applied index, sessions, configuration and log start.

        All of it changes together when this turn commits, and nothing is applied, compacted or checkpointed in it. The
        log behind the snapshot stays only if it continues it (paper 7, I8). `generation` is that of the tables that
        hold the state of a machine in the ledger. Returns False, with nothing done, if as much is applied already.
        """
        applier, log, turn = self.applier, self.log, self.turn
        if point.index <= applier.index:
            assert not applier.replacing, "nothing is applied to a machine that is being replaced"
            return False
        applier.replacing = True
        if log.last > point.index and log.term_at(point.index) != point.term:
            self.truncate(point.index + 1)
        self.move_base(point.index, point.term, point.configuration)
        if applier.ledger_machine is not None:
            put_point(turn.batch, generation, point)

        def follow() -> None:
            applier.restored(point, sessions, generation)
            self.commit_index = max(self.commit_index, point.index)

        turn.after.append(follow)
        return True

    def adopt_state(self, point: Point, sessions: Sessions) -> None:
        """Take the state of a snapshot that the log already holds or continues, at the start of the process.

        A user's machine has been handed it; nothing is written, because it is durable as a file.
        """
        self.applier.restored(point, sessions)
        self.commit_index = max(self.commit_index, min(point.index, self.log.last))

    def snapshot_saved(self, index: int) -> None:
        """Note that a snapshot up to `index` is durable: it is where a user's machine restarts from."""
        applier = self.applier
        if applier.ledger_machine is None and not applier.replacing:
            applier.on_disk = max(applier.on_disk, index)

    @property
    def elapsed_ms(self) -> int:
        """For how many milliseconds the cluster has been running, as far as this node knows, when this turn began."""
        return self.log_time.elapsed_ms(self.now)

    # --- configuration and applying ----------------------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The configuration in force: the last one in the log, committed or not."""
        return self.configurations.current

    def apply(self, count_max: int, time_slice: TimeSlice | None = None) -> list[Applied]:
        """Apply at most `count_max` entries that are committed and were durable when the turn began.

        It stops earlier when the time slice is over, after at least one entry; None is a slice without an end. After a
        start it may apply nothing in a turn, because what is applied again is marked durably first.

        So applying is never undone: a turn that is rolled back takes no applied entry back (I8). Raises
        `ApplyFaultError` with the entry's index for a fault of this program, `StorageError`; both end the node.
        """
        applier, careful = self.applier, self.careful
        if not self.more_to_apply or applier.replacing or applier.lent:
            return []
        wanted = min(self.commit_index, self.appliable)
        upto = careful.allowed(applier.index, wanted)
        try:
            done = applier.run(self.log, upto, count_max, time_slice) if upto > applier.index else []
        except ApplyFaultError as fault:
            raise self.explained(fault) from fault.__cause__ or fault
        if careful.until:
            careful.stage(self.turn, applier.index, wanted)
        return done

    def explained(self, fault: ApplyFaultError) -> ApplyFaultError:
        """The error with what an operator needs to know of the entry."""
        skip = skip_of(fault.index, self.log.get(fault.index))
        which = f"(the entry is of term {skip.term}, its checksum {skip.checksum:08x})"
        told = ApplyFaultError(fault.index, f"{fault.text} {which}. {ADVICE.format(index=fault.index)}")
        told.applying = True
        return told

    def note_fault(self, fault: BaseException) -> None:
        """Note durably which entry the node was applying when it failed, if it did and the store still takes it."""
        if not isinstance(fault, ApplyFaultError) or not fault.applying:
            return
        with suppress(Exception):  # the node ends anyhow, and a later start finds the entry without it
            batch = Batch()
            self.careful.note(batch, fault.index, fault.text)
            self.tables.commit(batch)

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
