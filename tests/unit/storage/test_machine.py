"""Commands survive the trip through bytes, and no exception of one command stops a machine."""

from __future__ import annotations

import asyncio
import errno
import io
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgpack import fallback

from forge_consensus.errors import ProtocolError, StorageError
from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.applying import Applier
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.machines import machine
from forge_consensus.storage.machines.bounds import FRAMES_MAX
from forge_consensus.storage.machines.machine import (
    COMMAND_FAILED,
    DEPTH_MAX,
    DONE,
    NO_TEXT,
    RESULT_BYTES_MAX,
    TEXT_BYTES_MAX,
    TOO_DEEP,
    UNREADABLE,
    YES,
    ApplyFaultError,
    Command,
    Entry,
    Outcome,
    RunInterruptError,
    apply_all,
    apply_one,
    outcome_of,
)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


class Doing:
    """A machine that does what it was made with."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def apply(self, entry: Entry) -> Any:
        return self.action(entry)

    def query(self, query: Any) -> Any:
        return query


class Running(Doing):
    """A machine that takes entries in runs."""

    def apply_run(self, entries: Sequence[Entry]) -> Sequence[Any]:
        result: Sequence[Any] = self.action(entries)
        return result


def entry(index: int = 7, kind: str = "do", **payload: Any) -> Entry:
    return Entry(index, 1, 1000, Command(kind, payload))


def outcome_of_raising(error: BaseException) -> Outcome:
    def act(_: Entry) -> None:
        raise error

    return apply_one(Doing(act), entry())


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@settings(deadline=None)
@given(
    st.text(min_size=1, max_size=255),
    st.dictionaries(st.text(), VALUES, max_size=4),
    st.none() | st.text(max_size=20),
)
def test_a_command_survives_the_trip_through_bytes(
    kind: str, payload: dict[str, Any], correlation_id: str | None
) -> None:
    command = Command(kind, payload, correlation_id)
    assert Command.decode(command.encode()) == command


@settings(deadline=None)
@given(st.binary(max_size=60) | VALUES.map(msgpack.packb))
def test_any_bytes_are_a_command_or_a_protocol_error(data: bytes) -> None:
    try:
        command = Command.decode(data)
    except ProtocolError:
        return
    assert command.encode()


@pytest.mark.parametrize(
    "parts",
    [
        [],
        ["set"],
        ["set", {}, None, None],
        ["", {}],
        ["x" * 256, {}],
        [b"set", {}],
        ["set", []],
        ["set", {b"key": 1}],
        ["set", {"value": {1: 2}}],
        ["set", {}, 5],
        ["set", {"value": nested(DEPTH_MAX + 1)}],
        "set",
        None,
    ],
)
def test_a_command_of_another_shape_is_a_protocol_error(parts: Any) -> None:
    with pytest.raises(ProtocolError):
        Command.decode(msgpack.packb(parts))


@pytest.mark.parametrize("garbage", [b"", b"\x92", b"\xc1", b"\x91" * 5000, b"\x92\xa1\xff\x80"])
def test_truncated_and_hostile_bytes_are_a_protocol_error(garbage: bytes) -> None:
    with pytest.raises(ProtocolError):
        Command.decode(garbage)


def test_nesting_is_allowed_up_to_the_bound() -> None:
    command = Command("set", {"value": nested(DEPTH_MAX)})
    assert Command.decode(command.encode()) == command


@pytest.mark.parametrize(
    "command",
    [
        Command("", {}),
        Command("set", {"value": object()}),
        Command("set", {"value": 2**64}),
        Command("set", {"value": {1: 2}}),
        Command("set", {"value": "\ud800"}),
        Command("set", {"value": nested(DEPTH_MAX + 1)}),
        Command("set", {"value": nested(2000)}),
    ],
)
def test_an_undecodable_command_is_refused_before_it_is_sent(command: Command) -> None:
    with pytest.raises(ValueError, match="cannot be encoded"):
        command.encode()


def test_the_refusal_of_a_command_says_what_its_writer_can_change() -> None:
    with pytest.raises(ValueError, match=r"int is not allowed for map key.*: the keys of maps in a payload"):
        Command("set", {"value": {1: 2}}).encode()


def test_results_are_msgpack() -> None:
    assert apply_one(Doing(lambda _: None), entry()) == DONE
    assert apply_one(Doing(lambda _: True), entry()) == YES
    for result in (False, 1, 0, "text", b"bytes", [1, None], {"a": 1}):
        outcome = apply_one(Doing(lambda _, result=result: result), entry())
        assert outcome == Outcome("", msgpack.packb(result))


def test_an_exception_becomes_the_outcome_of_its_command() -> None:
    outcome = outcome_of_raising(ValueError("no such account"))
    assert outcome.code == COMMAND_FAILED
    assert msgpack.unpackb(outcome.payload) == ["ValueError", "no such account"]


def test_the_text_of_an_exception_holds_no_address() -> None:
    first, second = (outcome_of_raising(ValueError(f"bad {object()}")) for _ in range(2))
    assert first == second
    assert msgpack.unpackb(first.payload)[1] == "bad <object object>"


def test_a_long_text_is_cut_between_two_characters() -> None:
    text = msgpack.unpackb(outcome_of_raising(ValueError("x" + "é" * 2000)).payload)[1]
    assert text == "x" + "é" * ((TEXT_BYTES_MAX - 1) // 2)


def test_a_text_that_utf8_cannot_hold_is_escaped() -> None:
    assert msgpack.unpackb(outcome_of_raising(ValueError("\ud800")).payload)[1] == "\\ud800"


def test_an_exception_without_a_readable_text_is_an_outcome_too() -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    name, text = msgpack.unpackb(outcome_of_raising(UnspeakableError()).payload)
    assert (name, text) == ("UnspeakableError", "(its text could not be made)")


def test_a_memory_error_in_the_text_of_an_exception_stops_the_node() -> None:
    class HungryError(Exception):
        def __str__(self) -> str:
            raise MemoryError

    with pytest.raises(ApplyFaultError, match="log entry 7"):
        outcome_of_raising(HungryError())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOSPC, "disk"),
        PermissionError(errno.EACCES, "not allowed", "/etc/shadow"),
        ExceptionGroup("several", [ValueError(), MemoryError()]),
        BaseExceptionGroup("nested", [ExceptionGroup("inner", [OSError(errno.EIO, "disk")]), SystemExit()]),
    ],
)
def test_an_exception_that_may_differ_between_nodes_stops_the_node_and_names_the_entry(error: Exception) -> None:
    with pytest.raises(ApplyFaultError, match="log entry 7") as caught:
        outcome_of_raising(error)
    assert caught.value.index == 7
    assert caught.value.fatal
    assert caught.value.__cause__ is error


class UntypedError(BaseException):
    """An exception that is no `Exception`."""


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("bob does not hold the lock"),
        TimeoutError("too late"),
        FileExistsError("no such name twice"),
        ConnectionError("not linked"),
        OSError("of the machine's own"),
        io.UnsupportedOperation("not here"),
        StopIteration("at the end"),
        GeneratorExit("closed"),
        SystemExit(3),
        asyncio.CancelledError("called off"),
        UntypedError("anything"),
        StorageError("that of the machine's own store"),
        ExceptionGroup("several", [ValueError("a"), TimeoutError("b")]),
        BaseExceptionGroup("several", [SystemExit(1)]),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    ],
)
def test_what_a_machine_raises_by_itself_is_the_outcome_of_the_command(error: BaseException) -> None:
    outcome = outcome_of_raising(error)
    assert outcome.code == COMMAND_FAILED
    assert msgpack.unpackb(outcome.payload) == [type(error).__name__, str(error)]


def test_an_interrupt_is_an_outcome_where_only_the_machine_can_have_raised_it() -> None:
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(outcome_of_raising, KeyboardInterrupt("by itself")).result()
    assert msgpack.unpackb(outcome.payload) == ["KeyboardInterrupt", "by itself"]
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert outcome_of_raising(KeyboardInterrupt("by itself")) == outcome
    finally:
        signal.signal(signal.SIGINT, handler)


class OwnInterruptError(RunInterruptError):
    """A signal of a test kit."""


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """Python's own handler of Ctrl-C; in a shell's background job none is installed."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OwnInterruptError()])
def test_an_interrupt_passes_unchanged_and_names_the_entry(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        outcome_of_raising(error)
    assert "log entry 7" in caught.value.__notes__[0]


def test_an_error_of_the_store_under_a_machine_that_lives_in_it_passes_unchanged() -> None:
    machine = Doing(raising(StorageError("cannot read")))
    machine.checkpoint = lambda batch: None  # type: ignore[attr-defined]
    with pytest.raises(StorageError) as caught:
        apply_one(machine, entry())
    assert "log entry 7" in caught.value.__notes__[0]


def raising(error: BaseException) -> Callable[[Entry], Any]:
    """An action that raises."""

    def act(_: Entry) -> Any:
        raise error

    return act


def test_the_name_and_the_text_of_an_exception_are_bounded_and_can_be_encoded() -> None:
    odd = type("Bad" * 1000, (Exception,), {})
    name, text = msgpack.unpackb(outcome_of_raising(odd("y" * (1 << 20) + " at 0x12")).payload)
    assert (len(name), len(text)) == (255, TEXT_BYTES_MAX)


@pytest.mark.parametrize("fault", [SystemExit(), OSError("by itself"), RecursionError(), UntypedError()])
def test_whatever_the_text_of_an_exception_raises_is_no_harm(fault: BaseException) -> None:
    class UnspeakableError(Exception):
        def __str__(self) -> str:
            raise fault

    assert msgpack.unpackb(outcome_of_raising(UnspeakableError()).payload)[1] == NO_TEXT


def nest(levels: int) -> int:
    """Nest calls that deep."""
    return 1 + nest(levels - 1) if levels else 0


def at_depth(levels: int, call: Callable[[], Any]) -> Any:
    """Make a call with a stack that is deeper by so many frames, as another node may have it."""
    return at_depth(levels - 1, call) if levels else call()


@pytest.mark.parametrize("levels", [10, 700, 900, 1200, 1900, 1980, 1990, 1995, 2000, 2005, 2010, 3000, 100_000])
def test_the_depth_of_a_nodes_own_stack_never_decides_an_outcome(levels: int) -> None:
    machine = Doing(lambda _: nest(levels))
    with ThreadPoolExecutor(1) as pool:
        outcomes = {
            *(at_depth(deep, lambda: apply_one(machine, entry())) for deep in (0, 3, 400, 700)),
            *(pool.submit(at_depth, deep, lambda: apply_one(machine, entry())).result() for deep in (0, 250)),
        }
    assert len(outcomes) == 1
    assert outcomes == {TOO_DEEP} if levels > FRAMES_MAX else levels > 1900 or outcomes == {outcome_of(levels, 1)}
    assert sys.getrecursionlimit() < FRAMES_MAX


def test_the_recursion_limit_is_never_lowered() -> None:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(before + 3 * FRAMES_MAX)
    try:
        assert apply_one(Doing(lambda _: nest(100_000)), entry()) == TOO_DEEP
        assert sys.getrecursionlimit() == before + 3 * FRAMES_MAX
    finally:
        sys.setrecursionlimit(before)


def test_the_text_of_an_exception_may_nest_as_deep_as_a_command() -> None:
    class DeepError(Exception):
        def __str__(self) -> str:
            return str(nest(1500))

    assert msgpack.unpackb(outcome_of_raising(DeepError()).payload) == ["DeepError", "1500"]


@pytest.mark.parametrize("result", [object(), 2**64, {"a": {1, 2}}, "\ud800", nested(2000)])
def test_a_result_that_cannot_be_encoded_is_a_failed_outcome(result: Any) -> None:
    outcome = apply_one(Doing(lambda _: result), entry())
    name, text = msgpack.unpackb(outcome.payload)
    assert (outcome.code, name) == (COMMAND_FAILED, "TypeError")
    assert "was applied, but msgpack cannot encode" in text
    assert "0x" not in text


def test_a_result_too_large_to_keep_is_a_failed_outcome() -> None:
    outcome = apply_one(Doing(lambda _: b"x" * RESULT_BYTES_MAX), entry())
    assert outcome.code == COMMAND_FAILED
    assert "was applied, but its result has" in msgpack.unpackb(outcome.payload)[1]


def test_a_result_that_would_take_all_memory_is_never_encoded() -> None:
    large = bytes(1 << 20)
    deep: Any = [large] * 4
    for _ in range(40):
        deep = [deep] * 10
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    outcomes = {apply_one(Doing(lambda _, one=one: one), entry()) for one in ([large] * 20_000, deep, {"a": deep})}
    assert len(outcomes) == 1
    assert "more than" in msgpack.unpackb(outcomes.pop().payload)[1]
    assert apply_one(Doing(lambda _: cyclic), entry()).code == COMMAND_FAILED


def fallback_unpackb(data: bytes) -> Any:
    """Unpack as the variant of msgpack that is written in Python does."""
    unpacker = fallback.Unpacker(None, max_buffer_size=len(data))
    unpacker.feed(data)
    value = unpacker._unpack()
    if unpacker._got_extradata():
        raise msgpack.ExtraData(value, b"")
    return value


NOT_COMMANDS = [
    b"",
    b"\xc1",
    b"\x92\xa1a\x81\xa1k",
    b"\x92\xa1a\x80\x00",
    b"\x92\xa1a\x81\x01\x02",
    b"\x92\xa1a\x81\xa1k\xa1\xff",
    b"\x92\xa1a\x81\xa1k" + b"\x91" * 100 + b"\xc0",
    b"\x92\xa1a\x81\xa1k" + b"\x91" * 2000 + b"\xc0",
    b"\x92\xa1a\x81\x90\xc0",
    b"\x92\xa1a\x81\xa1k\xc7\x0c\xff" + b"\xff" * 12,
    b"\x92\xa0\x80",
]


@pytest.mark.parametrize("unpack", [msgpack.unpackb, fallback_unpackb])
def test_bytes_that_are_no_command_have_one_outcome_whatever_msgpack_says(
    unpack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(msgpack, "unpackb", unpack)
    for data in NOT_COMMANDS:
        log = Log(MemoryTables(), 1 << 20)
        log.append([encode(1, 1, Kind.COMMAND, 5, data=data)])
        (done,) = Applier(MemoryTables(), Doing(lambda _: 1)).run(log, 1, 10)
        assert done.outcome == UNREADABLE, data


def test_a_failed_command_stops_none_after_it() -> None:
    def act(it: Entry) -> int:
        if it.index == 2:
            raise ValueError("two")
        return it.index

    outcomes = apply_all(Doing(act), [entry(index) for index in (1, 2, 3)])
    assert [outcome.code for outcome in outcomes] == ["", COMMAND_FAILED, ""]


def test_a_batch_gives_the_same_outcomes_as_single_commands() -> None:
    def act(it: Entry) -> Any:
        if it.index == 2:
            raise ValueError("two")
        return it.index if it.index < 4 else object()

    def act_run(entries: Sequence[Entry]) -> list[Any]:
        return [ValueError("two") if it.index == 2 else act(it) for it in entries]

    entries = [entry(index) for index in range(1, 5)]
    assert apply_all(Running(act_run), entries) == apply_all(Doing(act), entries)
    assert apply_all(Running(act_run), []) == []


def broken_run(_: Sequence[Entry]) -> list[Any]:
    raise ValueError("all of it")


def with_memory_error(entries: Sequence[Entry]) -> list[Any]:
    return [None, MemoryError(), *entries[2:]]


@pytest.mark.parametrize(
    ("action", "index"),
    [
        (broken_run, 5),
        (lambda entries: entries[1:], 5),
        (lambda _: None, 5),
        (with_memory_error, 6),
    ],
)
def test_a_batch_that_fails_as_a_whole_stops_the_node(action: Any, index: int) -> None:
    with pytest.raises(ApplyFaultError) as caught:
        apply_all(Running(action), [entry(i) for i in (5, 6, 7)])
    assert caught.value.index == index


@pytest.mark.usefixtures("_ctrl_c")
def test_an_interrupt_of_a_batch_names_its_range() -> None:
    def interrupted(_: Sequence[Entry]) -> list[Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        apply_all(Running(interrupted), [entry(5), entry(6)])
    assert "5 to 6" in caught.value.__notes__[0]


def test_threads_encode_commands_at_the_same_time_and_after_failures() -> None:
    def work(number: int) -> bool:
        good = Command("set", {"key": f"k{number}", "value": [number, "x" * (number % 7 * 30_000)]})
        for _ in range(20):
            with pytest.raises(ValueError, match="cannot be encoded"):
                Command("set", {"key": "x" * 5000, "value": object()}).encode()
            assert good.encode() == msgpack.packb([good.type, good.payload])
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(64)))
    assert len(machine.PACKERS) <= 9
