"""The machine: the interfaces of state machines, commands, and how applying one gives an outcome."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, cast, runtime_checkable

import msgpack

from forge_consensus.errors import ConsensusError, ProtocolError, StorageError
from forge_consensus.storage.backends.tables import Batch, Tables, TablesView
from forge_consensus.storage.machines.bounds import FRAMES_MAX, larger_than, with_known_frames
from forge_consensus.storage.machines.steps import Encoded

COMMAND_BYTES_MAX: Final = 16 << 20
"""No command is decoded beyond this; what a node takes from clients is bounded lower, by its
configuration."""
NAME_CHARS_MAX: Final = 255
DEPTH_MAX: Final = 64
"""How deep lists and maps may nest; a deeper value could end a machine in RecursionError on every node."""
TEXT_BYTES_MAX: Final = 1024
RESULT_BYTES_MAX: Final = 4 << 20
"""The largest result. It stays with its session, in memory and in snapshots, until the client has seen it."""

PLAIN: Final = frozenset({bool, bytes, float, int, str, type(None)})

PACKER_BYTES: Final = 64 << 10
PACKERS: Final[list[Callable[[Any], bytes]]] = []
"""Packers that nobody uses now."""

COMMAND_FAILED: Final = "CONSENSUS_COMMAND_FAILED"
NO_TEXT: Final = "(its text could not be made)"
KIND_CHARS_MAX: Final = 255
SEEN_CHARS: Final = 64 << 10
"""Of a longer text of an error only the beginning is looked at."""
ADDRESS: Final = re.compile(r" at 0x[0-9A-Fa-f]+")


class ApplyFaultError(ConsensusError, code="CONSENSUS_APPLY_FAULT", fatal=True, exit_code=70):
    """Applying the entry at `index` failed for a reason of this node's alone: it must stop."""

    def __init__(self, index: int, text: str) -> None:
        super().__init__(f"log entry {index} could not be applied: {text}", index=index)
        self.index = index
        self.text = text
        self.applying = False
        """Whether it is that entry which the node was applying, and not a snapshot up to it."""


class RunInterruptError(BaseException):
    """The base of what must get through a machine's `apply` to whoever runs the node: the test kit's own signals."""


def nests_too_deep(values: list[Any], depth_max: int = DEPTH_MAX) -> bool:
    """Whether values nest deeper than so many layers; goes by layers, without recursion."""
    layer = values
    for _ in range(depth_max):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, dict | list | tuple)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return False
    return True


def packed_value(value: Any) -> bytes:
    """The msgpack of a value, as `msgpack.packb` makes it, which makes a packer and a buffer for each value.

    Raises what that raises. The packers lie in a list, so each is used by one call at a time, on whatever thread; one
    that failed or has a large buffer is thrown away.
    """
    try:
        pack = PACKERS.pop()
    except IndexError:
        pack = msgpack.Packer(buf_size=PACKER_BYTES).pack
    data = pack(value)
    if len(data) <= PACKER_BYTES:
        PACKERS.append(pack)
    return data


def check_command(name: Any, payload: Any, correlation_id: Any = None) -> bool:
    """Whether there are lists or maps in the payload of a command.

    Raises `ProtocolError` unless these are a command's type, payload and correlation id.
    """
    if type(name) is not str or not 0 < len(name) <= NAME_CHARS_MAX:
        raise ProtocolError(f"a command's type is a text of 1 to {NAME_CHARS_MAX} characters")
    if type(payload) is not dict:
        raise ProtocolError("a command's payload is a map with texts as keys")
    nests = False
    for key, value in payload.items():
        if type(key) is not str:
            raise ProtocolError("a command's payload is a map with texts as keys")
        if type(value) not in PLAIN:
            nests = True
    if nests and nests_too_deep([*payload.values()]):
        raise ProtocolError(f"a command's payload nests deeper than {DEPTH_MAX}")
    if correlation_id is not None and (type(correlation_id) is not str or len(correlation_id) > NAME_CHARS_MAX):
        raise ProtocolError(f"a correlation id has at most {NAME_CHARS_MAX} characters")
    return nests


@dataclass(frozen=True, slots=True)
class Command:
    """A client's command to the machine; `payload` holds msgpack values under str keys.

    A correlation id of the client's choice travels with the command to every node. It is on the events
    `consensus.log.appended` and `.committed` of its entry (see there for the bounds) and on the log line that the
    answering node writes when the machine refuses the command. The machine may ignore it.
    """

    type: str
    payload: dict[str, Any] = field(default_factory=dict)
    correlation_id: str | None = None

    def encode(self) -> bytes:
        """Return the bytes that are sent and logged: msgpack [type, payload], then any id.

        Raises ValueError for a command that `decode` would refuse, so that the caller learns of it before it is sent.
        """
        parts = [self.type, self.payload]
        if self.correlation_id is not None:
            parts.append(self.correlation_id)
        try:
            data = packed_value(parts)
            if check_command(self.type, self.payload, self.correlation_id):
                Command.decode(data)
        except (TypeError, ValueError, OverflowError, ProtocolError) as error:
            reason: object = error
            if isinstance(error, ProtocolError) and error.__cause__ is not None:
                reason = f"{error.__cause__}: the keys of maps in a payload are texts or bytes"
            raise ValueError(f"command {self.type!r} cannot be encoded: {reason}") from error
        return data

    @classmethod
    def decode(cls, data: bytes) -> Command:
        """Return the command in those bytes.

        Raises `ProtocolError` for any bytes that are no command.
        """
        if len(data) > COMMAND_BYTES_MAX:
            raise ProtocolError(f"a command of {len(data)} bytes; at most {COMMAND_BYTES_MAX}")
        try:
            parts = msgpack.unpackb(data)
        except Exception as error:  # its text is msgpack's own, which differs between its variants
            raise ProtocolError("a command is msgpack, and these bytes are not") from error
        if type(parts) is not list or not 2 <= len(parts) <= 3:
            raise ProtocolError("a command is an array [type, payload] or [type, payload, id]")
        check_command(*parts)
        return cls(*parts)


EXPIRE: Final = Command("expire")
"""What a leader proposes by itself when the time has come that a machine waits for, see `StateMachine`."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A committed command as a machine sees it.

    `elapsed_ms` and `time_ms` are the only clocks that a machine may use. Let whatever expires go by `elapsed_ms`: for
    how many milliseconds the cluster has been running, as its leaders measured it. It never falls, does not jump when
    another node leads, and does not count time in which the whole cluster was down. `time_ms` is the wall time, in
    milliseconds since 1970, for what people read: it follows the median of the members' clocks, may jump forward with
    them, and falls if it is found to be more than five minutes ahead.
    """

    index: int
    term: int
    time_ms: int
    command: Command
    elapsed_ms: int = 0


class PlainRun(NamedTuple):
    """Committed commands that follow each other and have all but their bytes in common; no objects are made of them."""

    first: int
    """The index of the first one."""
    term: int
    time_ms: int
    elapsed_ms: int
    """As in `Entry`."""
    commands: list[bytes]
    """The commands, encoded."""


class Machine(Protocol):
    """The methods of every state machine.

    It may give itself a name by an attribute `machine_name` (a text, by default the import path of its class), and a
    version by `machine_version` (a whole number, by default 0). All members of a cluster run the machine of one name,
    and a folder is opened only with the machine that it had, at the same version or a higher one.
    """

    def apply(self, entry: Entry) -> Any:
        """Change the state by one command and return a result that msgpack can encode.

        It must depend on nothing but the state and the entry. An exception becomes the command's result on every node:
        a call that raises must have changed nothing, and the exception's text must be the same on every node. What
        tells of this node alone ends the node instead: MemoryError, an OSError with an `errno`, KeyboardInterrupt by
        Ctrl-C. A call that nests deeper than `FRAMES_MAX` fails with RecursionError; it may be made twice until that is
        known, so it must not catch that error.

        It runs on the node's thread, which does nothing else meanwhile: the cluster elects another leader if one call
        takes longer than an election timeout, and then the same command holds up the next one.
        """

    def query(self, query: Any) -> Any:
        """Answer from the state without changing it; an exception is returned to the client.

        See `StateMachine` for where it runs, and how a query that takes long can be answered in steps.
        """


class StateMachine(Machine, Protocol):
    """A machine of the user's own. It is durable through its snapshots only.

    It may also have `apply_run(entries: Sequence[Entry]) -> Sequence[Any]`, which returns one result per entry; an
    exception instance stands for a command that failed. How entries are cut into runs differs between nodes, so a run
    that raises ends the node, and so does a RecursionError among its results.

    It may also have `admit(command: Command) -> None`: the leader calls it for each command before the command enters
    the log, and an exception refuses the command. It must look at nothing but the command, because the state may change
    before the command is applied; `apply` must bound again what a command may cost, because it decides for every node.

    Queries run on a helper thread, so that one that takes a second does not silence a leader. The methods are never
    called at the same time: nothing is applied while a query runs. A machine that only the node's own thread may touch
    sets `query_elsewhere = False`; then the node does nothing else during a query.

    What ends by time, such as a lease, must end although nobody writes. A machine that has an attribute or property
    `due_ms` is handed an entry for that: when `entry.elapsed_ms` of the next entry would be at least `due_ms`, the
    leader proposes the command "expire" with an empty payload. It is None while nothing is waited for, and must be
    above the time of the last entry as soon as that was taken care of. It is read often, between two applies, so it
    must be cheap. Entries may come later than they are due, several in a row, and clients may send that command too: so
    go by `entry.elapsed_ms` alone, in whatever command carries it.

    It may also have `query_steps(query)`, which is called instead of `query` and may return a generator: each `next` is
    one step, and what the generator returns is the answer. Commands are applied between the steps, so everything that
    the answer rests on must be taken in the first step. For example, a list of references to values that are replaced
    and never changed can be taken in an instant and summed up in steps.
    """

    def snapshot(self) -> Iterable[bytes]:
        """Return the state in chunks.

        It is called between two applies, on the node's thread. It must return at once something that later applies
        cannot change; another thread iterates over it, and writes each chunk before it takes the next. So a generator
        over references to values that are replaced and never changed, with some hundred KiB in each chunk, keeps memory
        bounded however large the state is. A chunk has at most 256 MiB.
        """

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state by that of a snapshot.

        The chunks are those of `snapshot`, read from the file one after another as they are taken. It runs on a helper
        thread of a node that was sent a snapshot, and before a node that starts serves. Until it returns nothing is
        applied or answered, and the node does not stand for election. An exception ends the node.
        """


@runtime_checkable
class LedgerMachine(Machine, Protocol):
    """A machine whose state lives in the ledger's tables, one generation of it beside another.

    It may also have `apply_plain(run: PlainRun) -> int`, which applies commands from the first one on, as long as they
    are so plain that each is quick and has the outcome `DONE`, and returns how many it has applied. The others are
    handed to `apply`, and so is what fails. It must leave the very state that `apply` leaves, because how commands are
    cut into runs differs between nodes. It raises RecursionError only before it changes anything.
    """

    @property
    def dirty(self) -> tuple[int, int]:
        """(keys, bytes) that are applied and not yet on disk."""

    def bind(self, tables: Tables, generation: int, index: int = 0, elapsed_ms: int = 0) -> None:
        """Take the state that the tables hold under that generation; forget changes that are not on disk.

        It is the state after the entry `index`, whose elapsed time is given.
        """

    def passed(self, elapsed_ms: int) -> None:
        """Note the elapsed time of the last applied entry, which need not be a command.

        So two nodes that have applied the same entries give the same answers, wherever each began to apply.
        """

    def checkpoint(self, batch: Batch) -> None:
        """Stage all that is applied and not on disk."""

    def checkpointed(self) -> None:
        """Note that the data of the last `checkpoint` is on disk.

        Without this call, the next one stages it again.
        """

    @staticmethod
    def export(tables: TablesView, generation: int) -> Iterator[bytes]:
        """Yield the state on disk in chunks, from a read view. It runs in another process."""

    @staticmethod
    def import_chunk(batch: Batch, generation: int, chunk: bytes) -> None:
        """Stage one exported chunk under a generation."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a command: the same bytes on every node.

    With code "" the payload is the msgpack of the result, otherwise that of [class name, text].
    """

    code: str
    payload: bytes


DONE: Final = Outcome("", b"\xc0")
YES: Final = Outcome("", b"\xc3")
NO: Final = Outcome("", b"\xc2")


def refusal(code: str, kind: str, text: str) -> Outcome:
    """Make the outcome of a command that was refused or failed: error code, class name and text."""
    return Outcome(code, cast("bytes", msgpack.packb([kind, text])))


UNREADABLE: Final = refusal(
    COMMAND_FAILED,
    "ProtocolError",
    "the bytes are no command: a command is msgpack of [type, payload] or [type, payload, id], its payload a map with "
    f"texts as keys that nests at most {DEPTH_MAX} deep",
)
"""The outcome of bytes that are no command. It is one text for all reasons, because variants of msgpack differ in which
reason they find."""
TOO_DEEP: Final = refusal(
    COMMAND_FAILED, "RecursionError", f"the command nests calls deeper than {FRAMES_MAX} frames in the state machine"
)


def differs_between_nodes(error: BaseException) -> bool:
    """Whether an exception tells of this node alone, so that it must never become the outcome of a command.

    An OSError that the system raised has an `errno`; one without was raised by the machine itself.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(map(differs_between_nodes, error.exceptions))
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def of_the_store(error: BaseException, machine: object) -> bool:
    """Whether the node's own store failed under a machine that lives in it; a user's own machine has no part in it."""
    return isinstance(error, StorageError) and hasattr(machine, "checkpoint")


def interrupts(error: BaseException) -> bool:
    """Whether an exception is meant for whoever runs the node: the test kit's own, or Ctrl-C on the main thread.

    On any other thread, and where Ctrl-C has another handler, only the machine can have raised KeyboardInterrupt.
    """
    if not isinstance(error, KeyboardInterrupt):
        return isinstance(error, RunInterruptError)
    on_main_thread = threading.current_thread() is threading.main_thread()
    return on_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def becomes_outcome(error: BaseException) -> bool:
    """Whether an exception that applying a command raised is the outcome of that command, the same on every node."""
    return not (differs_between_nodes(error) or interrupts(error))


def text_of(error: BaseException) -> str:
    """The text of an exception without the addresses in it, which differ between nodes."""
    return ADDRESS.sub("", str(error)[:SEEN_CHARS])


def cut(text: str, size_max: int) -> str:
    """The text as UTF-8 can hold it, in at most `size_max` bytes."""
    return text.encode(errors="backslashreplace")[:size_max].decode(errors="ignore")


def failure(error: BaseException) -> Outcome:
    """Make the outcome of a command that raised, without the parts of its text that differ between nodes.

    Raises what `differs_between_nodes` or `interrupts` if the making of its text raises that.
    """
    try:
        try:
            text = cut(text_of(error), TEXT_BYTES_MAX)
        except RecursionError:
            text = cut(with_known_frames(lambda: text_of(error)), TEXT_BYTES_MAX)
    except BaseException as fault:
        if not becomes_outcome(fault):
            raise
        text = NO_TEXT
    return refusal(COMMAND_FAILED, cut(type(error).__name__, KIND_CHARS_MAX), text)


def outcome_of_error(error: BaseException, index: int, machine: object = None) -> Outcome:
    """Return the outcome of a command whose application ended in an exception.

    Raises `ApplyFaultError` for an exception that differs between nodes. An error of the store under a `machine` that
    lives in it, and what is meant for whoever runs the node, is raised as it is with the entry's index in a note.
    """
    if of_the_store(error, machine) or interrupts(error):
        error.add_note(f"while applying log entry {index}")
        raise error
    if differs_between_nodes(error):
        raise ApplyFaultError(index, f"{type(error).__name__}: {error}") from error
    if isinstance(error, RecursionError):
        return TOO_DEEP
    try:
        return failure(error)
    except BaseException as fault:
        if interrupts(fault):
            raise
        text = f"{type(fault).__name__} in the text of a {type(error).__name__}"
        raise ApplyFaultError(index, text) from fault


def outcome_of(result: Any, index: int, done: str = "the command was applied, but ") -> Outcome:
    """Encode a command's result as its outcome.

    If it cannot be encoded or is too large, the outcome is a failure whose text starts with `done`. Raises
    `ApplyFaultError`, with the entry's `index`, for an error that differs between nodes.
    """
    if result is None:
        return DONE
    if result is True:
        return YES
    if result is False:
        return NO
    try:
        payload = packed_result(result)
    except (TypeError, ValueError, OverflowError):
        # msgpack's own text shows the object, perhaps with its address
        text = f"cannot encode its result ({cut(type(result).__name__, KIND_CHARS_MAX)})"
        return refusal(COMMAND_FAILED, "TypeError", f"{done}msgpack {text}")
    except BaseException as error:
        return outcome_of_error(error, index)
    if payload is None:
        return refusal(COMMAND_FAILED, "ValueError", f"{done}its result has more than {RESULT_BYTES_MAX} bytes")
    return Outcome("", payload)


def answer_of(answer: Any, index: int) -> Outcome:
    """Encode the answer to a query from the state after entry `index`, as `outcome_of` does."""
    if type(answer) is not Encoded:
        return outcome_of(answer, index, "")
    if len(answer.data) > RESULT_BYTES_MAX:
        return refusal(COMMAND_FAILED, "ValueError", f"its result has more than {RESULT_BYTES_MAX} bytes")
    return Outcome("", answer.data)


def packed_result(result: Any) -> bytes | None:
    """The encoded result, None if it is too large. Raises what msgpack and the result's own methods raise.

    A result that is certainly too large is not encoded at all, because that could take all memory.
    """
    if larger_than(result, RESULT_BYTES_MAX):
        return None
    try:
        payload: bytes = msgpack.packb(result)
    except RecursionError:
        payload = with_known_frames(lambda: cast("bytes", msgpack.packb(result)))
    return payload if len(payload) <= RESULT_BYTES_MAX else None


def failed_query(error: BaseException) -> Outcome:
    """Return the answer to a query that raised. A query changes nothing, so whatever it raises harms only itself.

    Raises only what is meant for whoever runs the node.
    """
    try:
        if interrupts(error):
            raise error
        return failure(error)
    except BaseException as fault:
        if interrupts(fault):
            raise
        return refusal(COMMAND_FAILED, cut(type(error).__name__, KIND_CHARS_MAX), NO_TEXT)


def apply_one(machine: Machine, entry: Entry) -> Outcome:
    """Apply one command and return its outcome.

    An exception becomes the outcome and stops nothing, so that one bad command cannot bring a cluster down for good.
    Raises `ApplyFaultError` with the entry's index for an exception that differs between nodes. How deep this node's
    stack is differs too, so a RecursionError counts only if the call fails within a known number of frames as well.
    """
    try:
        try:
            result = machine.apply(entry)
        except RecursionError:
            result = with_known_frames(lambda: machine.apply(entry))
    except BaseException as error:
        return outcome_of_error(error, entry.index, machine)
    return outcome_of(result, entry.index)


def apply_all(machine: Machine, entries: Sequence[Entry]) -> list[Outcome]:
    """Apply commands in order, by the machine's `apply_run` if it has one; one outcome for each.

    Raises `ApplyFaultError` as `apply_one` does, and if a run as a whole fails or returns too few or too many results:
    runs differ between nodes, so that must not become part of the state.
    """
    run = getattr(machine, "apply_run", None)
    if run is None:
        return [apply_one(machine, entry) for entry in entries]
    if not entries:
        return []
    first, last = entries[0].index, entries[-1].index
    try:
        results = run(entries)
        count = len(results)
    except BaseException as error:
        if of_the_store(error, machine) or interrupts(error):
            error.add_note(f"while applying log entries {first} to {last}")
            raise
        text = f"apply_run({first}..{last}) raised {type(error).__name__}: {error}"
        raise ApplyFaultError(first, text) from error
    if count != len(entries):
        text = f"apply_run({first}..{last}) returned {count} outcomes for {len(entries)} entries"
        raise ApplyFaultError(first, text)
    return [outcome_in_run(machine, result, entry.index) for entry, result in zip(entries, results, strict=True)]


def outcome_in_run(machine: Machine, result: Any, index: int) -> Outcome:
    """Return the outcome of one command of a run. Raises `ApplyFaultError` as `apply_all` does."""
    if not isinstance(result, BaseException):
        return outcome_of(result, index)
    if isinstance(result, RecursionError):
        raise ApplyFaultError(index, "apply_run returned a RecursionError, and how deep a stack is differs") from result
    return outcome_of_error(result, index, machine)
