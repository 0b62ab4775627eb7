"""Applying: committed entries change the machine's state, the sessions and the applied index as one unit."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Any, Final, NamedTuple, cast

import msgpack

from forge_consensus.errors import (
    CorruptionError,
    LogInconsistentError,
    ProtocolError,
    StorageError,
    UnavailableError,
    UnsupportedVersionError,
)
from forge_consensus.security.access_changes import RESERVED
from forge_consensus.storage.backends.sealed import CRC_BYTES, REJOIN
from forge_consensus.storage.backends.tables import Batch, Tables, TablesView
from forge_consensus.storage.ledger.access import (
    LoggedAccess,
    access_of_row,
    is_asked_for,
    put_access,
    stored_access,
    told,
)
from forge_consensus.storage.ledger.checks import broken
from forge_consensus.storage.ledger.levels import LEVEL_OF_KIND, unknown_kind
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.pace import Pace
from forge_consensus.storage.ledger.record import HEAD_BYTES, SEQ, UNTIMED, Kind, Record, count_alike, parse, term_of
from forge_consensus.storage.ledger.skips import SKIPPED, Skips, check_skipped, stored_skips, upto
from forge_consensus.storage.ledger.time_slice import NS, TimeSlice, endless
from forge_consensus.storage.ledger.transaction import get_meta, put_meta
from forge_consensus.storage.machines.machine import (
    DONE,
    UNREADABLE,
    ApplyFaultError,
    Command,
    Entry,
    LedgerMachine,
    Machine,
    Outcome,
    PlainRun,
    apply_all,
    apply_one,
)
from forge_consensus.storage.machines.session_owner import opened
from forge_consensus.storage.machines.sessions import IN_PROGRESS, Sessions
from forge_consensus.storage.machines.steps import Encoded, WaitingQueries, WaitingQuery, finished

APPLIED = b"applied"
COMMAND = int(Kind.COMMAND)
SESSION = int(Kind.SESSION)
READ_BYTES = 1 << 20
READ_ENTRIES = 256
"""Entries are read and parsed in pieces of this size, because a slice may end after the first of them."""
RUN_ENTRIES_MIN = 4
"""Fewer entries are applied one by one, because that is as quick."""
RUN_ENTRIES_FIRST = 16
RUN_ENTRIES_MAX = 4096
MEASURED_SECONDS_MIN = 1e-6


class Applied(NamedTuple):
    """One applied entry and its outcome."""

    index: int  # type: ignore[assignment]  # tuple.index is not needed here
    term: int
    session: int
    seq: int
    outcome: Outcome


made_applied: Final = partial(tuple.__new__, Applied)
"""Makes an `Applied` of a tuple, five times as fast as its class."""


class SlowStep(NamedTuple):
    """Entries whose application took so long that it is worth telling."""

    index: int  # type: ignore[assignment]  # tuple.index is not needed here
    """The last one of them."""
    entries: int
    """How many they are: 1, or a run that the machine took at once."""
    command: str
    """The type of the last command, empty if the entry holds none."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Point:
    """The point in the log that a state represents: the entries up to `index` are applied."""

    index: int
    term: int
    time_ms: int
    configuration: bytes
    elapsed_ms: int
    access: bytes = b""
    """The list of access that is in the log, as a row; empty while there is none."""


class Applier:
    """Owns the machine, the sessions, the list of access and the applied index: the entry up to which all have moved.

    They change in memory only. `checkpoint` stages all of them for one transaction, so on disk they always agree. A
    machine that is not kept in the ledger is durable through its snapshot file only: for it nothing is staged, and
    `on_disk` is the index of that snapshot.
    """

    def __init__(self, tables: Tables, machine: Machine) -> None:
        self.tables = tables
        self.machine = machine
        self.ledger_machine = cast("LedgerMachine", machine) if hasattr(machine, "checkpoint") else None
        """The machine, if it is kept in the ledger's tables; None for a user's machine that is durable by snapshots."""
        self.batched = hasattr(machine, "apply_run")
        self.apply_plain: Callable[[PlainRun], int] | None = getattr(self.ledger_machine, "apply_plain", None)
        self.asked: Callable[[Any], Any] = getattr(machine, "query_steps", machine.query)
        self.elsewhere = self.ledger_machine is None and bool(getattr(machine, "query_elsewhere", True))
        """Whether queries are answered on a helper thread, because nobody knows how long a user's query takes."""
        self.waiting: WaitingQueries | None = None if self.elsewhere else getattr(machine, "watches", None)
        """The queries that wait for a change at a machine that lets them; None at any other."""
        self.lent = False
        """Whether a helper thread uses the machine: nothing is applied, captured or restored meanwhile."""
        self.wanted_back = False
        """Whether a snapshot waits until the machine is given back, so that it is not lent again at once."""
        self.sessions = Sessions()
        self.access = LoggedAccess()
        """The list of access that is in the log, which only the commands of its own type change."""
        self.skips: Skips = {}
        """The entries that are taken as failed commands."""
        self.generation = 0
        """The generation of tables that holds the state of a machine in the ledger."""
        self.index = self.term = self.time_ms = self.elapsed_ms = 0
        """Index, term, wall time and elapsed time of the last applied entry."""
        self.on_disk = self.staged = 0
        """The applied index as a restart finds it, and as the checkpoint in progress writes it."""
        self.dirty_keys = self.dirty_bytes = 0
        """How many keys changed that are not on disk, and about how much memory they take."""
        self.pace = Pace()
        """How long one entry takes at present, with all that the node does between two slices of a backlog."""
        self.left_off_ns = 0
        """When the last slice ended, by its clock; 0 if it left nothing to apply."""
        self.slow: SlowStep | None = None
        """The step of the last `run` that took too long, if one did; it was the last one."""
        self.run_entries = RUN_ENTRIES_FIRST
        """How many entries a machine that takes several at once is handed, so that a run fits into a slice."""
        self.replacing = False
        """Whether the state is being replaced by a snapshot: nothing is applied, captured, checkpointed or compacted.

        For a user's machine that lasts from the moment the snapshot is handed to it until the switch is on disk, and
        queries are refused too. For a machine in the ledger it lasts for the turn that switches.
        """

    def load(self) -> None:
        """Read the last checkpoint. Raises `CorruptionError`."""
        self.replacing = False
        self.skips = stored_skips(self.tables)
        if self.ledger_machine is None:
            return
        stored = get_meta(self.tables, APPLIED)
        if stored is not None:
            self.generation, point = stored_point(self.tables)
            self.take(point)
        self.on_disk = self.index
        self.ledger_machine.bind(self.tables, self.generation, self.index, self.elapsed_ms)
        self.measure()
        self.sessions = Sessions().bounded_like(self.sessions)
        self.sessions.load(self.tables, self.generation)

    def restored(self, point: Point, sessions: Sessions, generation: int = 0) -> None:
        """Switch to the durable state of a snapshot, with its sessions.

        A user's machine holds that state by now; a machine in the ledger finds it in the tables of this generation.
        """
        self.take(point)
        self.on_disk = point.index
        self.sessions = sessions.bounded_like(self.sessions)
        self.replacing = False
        if self.ledger_machine is not None:
            self.generation = generation
            self.ledger_machine.bind(self.tables, generation, self.index, self.elapsed_ms)
            self.measure()

    def take(self, point: Point) -> None:
        """Take index, term, times and the list of access of a state."""
        self.index, self.term = point.index, point.term
        self.time_ms, self.elapsed_ms = point.time_ms, point.elapsed_ms
        self.access.take(point.access)

    def query(self, query: Any) -> Any:
        """Ask the machine. May raise anything; `UnavailableError` while a user's machine is being handed a snapshot."""
        answer = self.ask(query)
        if isinstance(answer, Generator):
            answer = finished(answer)
        if isinstance(answer, WaitingQuery):
            answer = answer.answer(over=True)
        return msgpack.unpackb(answer.data) if type(answer) is Encoded else answer

    @property
    def is_handed_a_snapshot(self) -> bool:
        """Whether a user's machine is being handed a snapshot on a helper thread, so that nobody else may use it."""
        return self.replacing and self.ledger_machine is None

    def ask(self, query: Any) -> Any:
        """Ask the machine as `query` does; a machine that has `query_steps` may return a generator of steps.

        The generator returns the answer in the end, from the state of its first step. A `WaitingQuery` has no answer
        yet. The query for the list of access is answered here, whatever the machine is.
        """
        self.check_usable()
        return told(self.access) if is_asked_for(query) else self.asked(query)

    def check_usable(self) -> None:
        """Raise `UnavailableError` while a user's machine is being handed a snapshot, and so has no state to ask."""
        if self.is_handed_a_snapshot:
            raise UnavailableError("this node is taking over a snapshot: ask another one, or again soon")

    def run(self, log: Log, upto: int, count_max: int, time_slice: TimeSlice | None = None) -> list[Applied]:
        """Apply at most `count_max` entries up to index `upto`, in order; returns the outcome of each.

        It stops earlier when the time slice is over, after at least one entry. Raises `StorageError`,
        `LogInconsistentError`, `UnsupportedVersionError` for a kind that this program does not know, and
        `ApplyFaultError` for every other fault: the state is then half changed, so nothing can be repaired in place.
        """
        time_slice = time_slice or endless()
        began_ns = self.left_off_ns or time_slice.now_ns
        wanted, upto = upto, min(upto, self.index + count_max)
        done: list[Applied] = []
        self.slow = None
        try:
            while self.index < upto:
                first = self.index + 1
                records = log.read(first, min(upto, first + READ_ENTRIES - 1), READ_BYTES)
                if self.skips:
                    check_skipped(self.skips, first, records)
                if (term := term_of(records[0])) < self.term:
                    raise LogInconsistentError(broken("I5", f"entry {first} of term {term} follows one of {self.term}"))
                if self.apply_plain is not None and not self.skips:
                    over = self.apply_runs(self.apply_plain, first, records, done, time_slice)
                else:
                    work = self.apply_in_runs if self.batched else self.apply_each
                    over = work(parsed(first, records), done, time_slice)
                if over:
                    break
        except (ApplyFaultError, LogInconsistentError, StorageError, UnsupportedVersionError):
            raise
        except Exception as error:
            raise ApplyFaultError(self.index, f"{type(error).__name__}: {error}") from error
        if self.ledger_machine is not None:
            self.ledger_machine.passed(self.elapsed_ms)
        self.measure()
        self.pace.note(len(done), (time_slice.now_ns - began_ns) / NS)
        self.left_off_ns = time_slice.now_ns if self.index < wanted else 0
        return done

    def apply_runs(
        self,
        apply_plain: Callable[[PlainRun], int],
        first: int,
        records: list[bytes],
        done: list[Applied],
        time_slice: TimeSlice,
    ) -> bool:
        """Apply encoded entries, many at once where the machine can, until the time slice is over; returns whether.

        What a run leaves, the machine takes one by one. A run has at most `READ_ENTRIES` quick commands of at most
        `READ_BYTES` in all, so the clock is read behind it.
        """
        place = 0
        while place < len(records):
            end = place + count_alike(records, place)
            if end - place >= RUN_ENTRIES_MIN:
                taken = self.apply_alike(apply_plain, first + place, records[place:end], done)
                place += taken
                over = time_slice.over() if taken else False
                if over:
                    self.note_slow(time_slice, parse(first + place - 1, records[place - 1]), taken)
                    return True
            if self.apply_each(parsed(first + place, records[place:end]), done, time_slice):
                return True
            place = end
        return False

    def apply_alike(
        self, apply_plain: Callable[[PlainRun], int], first: int, records: list[bytes], done: list[Applied]
    ) -> int:
        """Apply entries whose heads are alike from the first one on, as long as they are plain; returns how many.

        Nothing of an entry is looked at that is the same for all: its session is asked once for all of them. If it does
        not know each of them as new, or a bound is near, none is applied here. So they leave the same state, and have
        the same outcomes, as `apply_record` gives one after the other.
        """
        head = parse(first, records[0])
        session, done_below = head.session, head.done_below
        elapsed_ms = max(self.elapsed_ms, head.elapsed_ms)
        if head.kind != COMMAND or not session:
            return 0
        seqs = [int.from_bytes(record[SEQ]) for record in records]
        if not self.sessions.are_new(session, seqs, done_below, elapsed_ms, len(DONE.payload)):
            return 0
        commands = [record[HEAD_BYTES:-CRC_BYTES] for record in records]
        try:
            count = apply_plain(PlainRun(first, head.term, head.time_ms, elapsed_ms, commands))
        except RecursionError:  # how deep the stack is differs, so it must not matter: nothing was changed
            return 0
        except Exception as error:
            raise ApplyFaultError(first, f"{type(error).__name__}: {error}") from error
        if count:
            last = first + count - 1
            self.sessions.note_all(session, seqs[:count], done_below, elapsed_ms, last, DONE)
            self.index, self.term, self.time_ms, self.elapsed_ms = last, head.term, head.time_ms, elapsed_ms
            rows = zip(range(first, last + 1), repeat(head.term), repeat(session), seqs, repeat(DONE), strict=False)
            done.extend(map(made_applied, rows))
        return count

    def apply_each(self, entries: list[Record], done: list[Applied], time_slice: TimeSlice) -> bool:
        """Apply entries one by one until the time slice is over; returns whether it is."""
        apply, append = self.apply_record, done.append
        clock_ns, until_ns, before_ns = time_slice.clock_ns, time_slice.until_ns, time_slice.now_ns
        for entry in entries:
            append(apply(entry))
            now_ns = clock_ns()
            if now_ns >= until_ns:  # `time_slice.over()` would do, and costs twice as much for each entry
                time_slice.before_ns, time_slice.now_ns = before_ns, now_ns
                self.note_slow(time_slice, entry, 1)
                return True
            before_ns = now_ns
        time_slice.now_ns = before_ns
        return False

    def note_slow(self, time_slice: TimeSlice, last: Record, count: int) -> None:
        """Note the step that ended with the entry `last`, if it took too long."""
        if time_slice.step_was_slow:
            self.slow = SlowStep(last.index, count, command_of(last), time_slice.step_seconds)

    def moved(self, record: Record) -> int:
        """Note that this entry is applied now; returns the index that counts as the last use of its session.

        An entry of format 2 carries one time, which never falls here and stands for both. Its index does not count,
        because a state that was saved before does not tell it.
        """
        index, self.term, _, time_ms, _, _, _, _, elapsed_ms = record
        self.index = index
        if elapsed_ms != UNTIMED:
            self.time_ms = time_ms
            if elapsed_ms > self.elapsed_ms:  # noqa: PLR1730 - twice as fast as max()
                self.elapsed_ms = elapsed_ms
            return index
        self.time_ms = self.elapsed_ms = max(self.time_ms, self.elapsed_ms, time_ms)
        return 0

    def apply_record(self, record: Record) -> Applied:
        """Apply one entry to the machine or to the sessions, and return its outcome."""
        index, term, kind, _, session, seq, done_below, data, _ = record
        used = self.moved(record)
        if kind == COMMAND:
            if not session:
                return Applied(index, term, 0, seq, self.apply_command(index, term, data))
            outcome = self.sessions.begin(session, seq, done_below, self.elapsed_ms, used)
            if outcome is None:
                outcome = self.apply_command(index, term, data)
                self.sessions.finish(session, seq, outcome)
            return Applied(index, term, session, seq, outcome)
        if kind == SESSION:
            ttl_ms, owner = opened(data)
            self.sessions.open(index, self.elapsed_ms, ttl_ms, used, owner)
        elif kind not in LEVEL_OF_KIND:  # written by a newer version that ran on this folder
            raise unknown_kind(index, kind)
        return Applied(index, term, 0, 0, DONE)

    def apply_command(self, index: int, term: int, data: bytes) -> Outcome:
        """Apply one command. Bytes that are no command fail like any other bad command and stop nothing."""
        if self.skips and index in self.skips:
            return SKIPPED
        try:
            command = Command.decode(data)
        except ProtocolError:
            return UNREADABLE
        if command.type == RESERVED:
            return self.access.apply(command, index, self.time_ms)
        return apply_one(self.machine, Entry(index, term, self.time_ms, command, self.elapsed_ms))

    def apply_in_runs(self, records: list[Record], done: list[Applied], time_slice: TimeSlice) -> bool:
        """Apply entries to a machine that takes several at once, until the time slice is over; returns whether it is.

        The borders of runs differ between nodes, so they must not change the result: a run ends before anything that is
        not a new command, before a second copy of a command that is in it, before a command whose session its results
        may make busy, and when it is as long as fits into a slice.
        """
        run: list[tuple[Record, Entry]] = []
        fresh: set[tuple[int, int]] = set()
        for record in records:
            key = (record.session, record.seq)
            full = len(run) >= self.run_entries or record.kind != COMMAND or (key[0] and key in fresh)
            if full and self.finish_run(run, fresh, done, time_slice):
                return True
            if record.kind != COMMAND:
                done.append(self.apply_record(record))
                continue
            used = self.moved(record)
            begun = self.begin_in_run(record, used)
            over = begun is IN_PROGRESS and self.finish_run(run, fresh, done, time_slice)
            if begun is IN_PROGRESS:
                begun = self.begin_in_run(record, used)
            if isinstance(begun, Command):
                run.append((record, Entry(record.index, record.term, self.time_ms, begun, self.elapsed_ms)))
                fresh.add(key)
            else:
                over = self.finish_run(run, fresh, done, time_slice)
                done.append(Applied(record.index, record.term, *key, begun))
            if over:
                self.finish_run(run, fresh, done, time_slice)
                return True
        return self.finish_run(run, fresh, done, time_slice)

    def begin_in_run(self, record: Record, used: int) -> Command | Outcome:
        """Begin the command of an entry: the command if the machine is to apply it, else its outcome."""
        session, seq = record.session, record.seq
        known = self.sessions.begin(session, seq, record.done_below, self.elapsed_ms, used) if session else None
        if known is not None:
            return known
        outcome = SKIPPED if record.index in self.skips else UNREADABLE
        try:
            if outcome is UNREADABLE:
                command = Command.decode(record.data)
                if command.type != RESERVED:
                    return command
                outcome = self.access.apply(command, record.index, self.time_ms)
        except ProtocolError:
            pass
        if session:
            self.sessions.finish(session, seq, outcome)
        return outcome

    def finish_run(
        self,
        run: list[tuple[Record, Entry]],
        fresh: set[tuple[int, int]],
        done: list[Applied],
        time_slice: TimeSlice,
    ) -> bool:
        """Hand the collected run to the machine, note the outcomes, and empty the run.

        Returns whether the time slice is over. The next run is as long as would have fitted into a slice.
        """
        if not run:
            return time_slice.over()
        entries = [entry for _, entry in run]
        for (record, _), outcome in zip(run, apply_all(self.machine, entries), strict=True):
            if record.session:
                self.sessions.finish(record.session, record.seq, outcome)
            done.append(Applied(record.index, record.term, record.session, record.seq, outcome))
        over = time_slice.over()
        fits = int(len(run) * time_slice.seconds / max(time_slice.step_seconds, MEASURED_SECONDS_MIN))
        if fits < self.run_entries or len(run) == self.run_entries:
            self.run_entries = max(1, min(fits, 2 * self.run_entries, RUN_ENTRIES_MAX))
        self.note_slow(time_slice, run[-1][0], len(run))
        run.clear()
        fresh.clear()
        return over

    # --- to disk -----------------------------------------------------------------------------------------------------

    def checkpoint(self, batch: Batch, configuration: bytes) -> None:
        """Stage machine, sessions, list of access and applied index together.

        `configuration` is the one as of that index.
        """
        if self.ledger_machine is None:
            return
        self.ledger_machine.checkpoint(batch)
        self.sessions.checkpoint(batch, self.generation)
        put_point(batch, self.generation, self.point(configuration), access=self.access.unsaved)
        self.staged = self.index

    def point(self, configuration: bytes) -> Point:
        """Return the point that the applied state represents; `configuration` is the one as of its index."""
        return Point(self.index, self.term, self.time_ms, configuration, self.elapsed_ms, self.access.row)

    def checkpointed(self) -> None:
        """Note that the staged checkpoint is on disk."""
        if self.ledger_machine is None:
            return
        self.ledger_machine.checkpointed()
        self.sessions.checkpointed()
        self.access.unsaved = False
        self.on_disk = self.staged
        self.measure()

    def measure(self) -> None:
        """Note how much is not on disk. Every turn reads it and few change it, so it is not computed each time."""
        if self.ledger_machine is not None:
            self.dirty_keys, self.dirty_bytes = self.ledger_machine.dirty


def parsed(first: int, records: list[bytes]) -> list[Record]:
    """The entries in encoded records that are known to be intact; the index of the first is given."""
    return [parse(index, record) for index, record in enumerate(records, first)]


def command_of(record: Record) -> str:
    """The type of the command in an entry, empty if it holds none; for people."""
    try:
        return Command.decode(record.data).type if record.kind == COMMAND else ""
    except ProtocolError:
        return ""


def put_point(batch: Batch, generation: int, point: Point, *, access: bool = True) -> None:
    """Stage which generation of tables holds the state, and up to which entry.

    The list of access goes with it, unless `access` says that the one on disk is the same.
    """
    if access:
        put_access(batch, point.access)
    row = (generation, point.index, point.term, point.time_ms, point.configuration, point.elapsed_ms)
    put_meta(batch, APPLIED, cast("bytes", msgpack.packb(row)))


def decode_point(stored: bytes) -> tuple[int, Point]:
    """Return the generation and the point in a row that `put_point` wrote; in format 2 one time stood for both.

    The list of access has a row of its own, see `stored_point`.
    """
    generation, index, term, time_ms, configuration, *rest = msgpack.unpackb(stored)
    return generation, Point(index, term, time_ms, configuration, rest[0] if rest else time_ms)


def stored_point(tables: TablesView) -> tuple[int, Point]:
    """The generation and the point of the checkpoint on disk. Raises `CorruptionError` if there is none."""
    stored = get_meta(tables, APPLIED)
    if stored is None:
        raise CorruptionError(f"the store holds no checkpoint. {REJOIN}")
    generation, point = decode_point(stored)
    return generation, replace(point, access=stored_access(tables))


def header_of(point: Point, sessions: list[bytes], skips: Skips) -> dict[str, Any]:
    """The header of a snapshot of that point: everything but the machine's own state.

    `skips` are the entries that the node skips; the header has those that the state has in it.
    """
    skipped = {"skips": upto(skips, point.index)} if upto(skips, point.index) else {}
    access = {"access": point.access} if point.access else {}
    return {
        **skipped,
        **access,
        "index": point.index,
        "term": point.term,
        "time_ms": point.time_ms,
        "elapsed_ms": point.elapsed_ms,
        "configuration": point.configuration,
        "sessions": sessions,
    }


def point_of(header: dict[str, Any]) -> tuple[Point, list[bytes]]:
    """The point and the sessions in a snapshot's header. Raises `CorruptionError` if a part is missing or damaged."""
    try:
        time_ms = header["time_ms"]
        elapsed_ms = header.get("elapsed_ms", time_ms)  # before entries carried it, one time stood for both
        access = header.get("access", b"")
        point = Point(header["index"], header["term"], time_ms, header["configuration"], elapsed_ms, access)
        sessions = list(header["sessions"])
    except (KeyError, TypeError) as error:
        raise CorruptionError(f"the snapshot's header lacks {error}") from error
    numbers = (point.index, point.term, point.time_ms, point.elapsed_ms)
    if not all(type(each) is int and 0 <= each < 1 << 63 for each in numbers):
        raise CorruptionError(f"the snapshot's header has {numbers!r:.200} for index, term and times")
    if not all(type(each) is bytes for each in (point.configuration, access, *sessions)):
        raise CorruptionError("the snapshot's header has something else where packed bytes should be")
    access_of_row(access)
    return point, sessions
