"""Commands survive the trip through bytes, and no exception of one command stops a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forge_consensus.errors import ProtocolError, StorageError
from forge_consensus.storage.machines.machine import (
    COMMAND_FAILED,
    DEPTH_MAX,
    DONE,
    RESULT_BYTES_MAX,
    TEXT_BYTES_MAX,
    YES,
    ApplyFaultError,
    Command,
    Entry,
    Outcome,
    apply_all,
    apply_one,
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
        OSError("disk"),
        TimeoutError("peer"),
        RecursionError(),
        ExceptionGroup("several", [ValueError(), MemoryError()]),
    ],
)
def test_an_exception_that_may_differ_between_nodes_stops_the_node_and_names_the_entry(error: Exception) -> None:
    with pytest.raises(ApplyFaultError, match="log entry 7") as caught:
        outcome_of_raising(error)
    assert caught.value.index == 7
    assert caught.value.fatal
    assert caught.value.__cause__ is error


def test_a_storage_error_passes_unchanged_and_names_the_entry() -> None:
    with pytest.raises(StorageError) as caught:
        outcome_of_raising(StorageError("cannot read"))
    assert "log entry 7" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_passes_unchanged_and_names_the_entry(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        outcome_of_raising(error)
    assert "log entry 7" in caught.value.__notes__[0]


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


def test_an_interrupt_of_a_batch_names_its_range() -> None:
    def interrupted(_: Sequence[Entry]) -> list[Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        apply_all(Running(interrupted), [entry(5), entry(6)])
    assert "5 to 6" in caught.value.__notes__[0]
