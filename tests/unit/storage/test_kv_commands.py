"""Each key-value command changes the keys as its docstring says, or fails with a clear error."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_batches import BATCH_OPS_MAX
from forge_consensus.storage.machines.kv_commands import DELETED_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX, same
from forge_consensus.storage.machines.kv_draft import READ_BYTES_MAX
from forge_consensus.storage.machines.kv_overlay import Span
from forge_consensus.storage.machines.kv_rows import value_size
from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX, Command, Entry


def do(machine: KeyValueMachine, kind: str, **payload: Any) -> Any:
    return machine.apply(Entry(1, 1, 0, Command(kind, payload)))


def holding(**values: Any) -> KeyValueMachine:
    machine = KeyValueMachine()
    for key, value in values.items():
        do(machine, "set", key=key, value=value)
    return machine


@pytest.mark.parametrize("value", [None, True, 0, -1, 2.5, "é", b"\0", [1, [2]], {"a": {"b": 1}}])
def test_a_value_that_is_set_can_be_read(value: Any) -> None:
    machine = holding(k=value)
    assert do(machine, "get", key="k") == value
    assert machine.query("k") == value


def test_delete_says_whether_there_was_something() -> None:
    machine = holding(k=1)
    assert do(machine, "delete", key="k") is True
    assert do(machine, "delete", key="k") is False
    assert do(machine, "get", key="k") is None


def test_cas_sets_only_an_expected_value() -> None:
    machine = holding(k="a")
    assert do(machine, "cas", key="k", expected="b", value="c") is False
    assert do(machine, "cas", key="k", expected="a", value="c") is True
    assert do(machine, "get", key="k") == "c"


def test_cas_expecting_none_creates_and_never_overwrites() -> None:
    machine = holding(there=None)
    assert do(machine, "cas", key="new", expected=None, value=1) is True
    assert do(machine, "cas", key="new", expected=None, value=2) is False
    assert do(machine, "cas", key="there", expected=None, value=3) is False
    assert do(machine, "cas", key="absent", expected=1, value=3) is False


@pytest.mark.parametrize(
    ("held", "expected", "matches"),
    [
        ({"a": 1, "b": [2]}, {"b": [2], "a": 1}, True),
        (1, True, False),
        (1, 1.0, False),
        ([1], [True], False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("a", b"a", False),
        (float("nan"), float("nan"), True),
        ([1, 2], (1, 2), True),
    ],
)
def test_cas_compares_values_and_their_types(held: Any, expected: Any, matches: bool) -> None:
    assert do(holding(k=held), "cas", key="k", expected=expected, value=0) is matches


def test_increment_begins_at_zero() -> None:
    machine = KeyValueMachine()
    assert do(machine, "increment", key="n") == 1
    assert do(machine, "increment", key="n", by=-5) == -4
    assert do(machine, "get", key="n") == -4


@pytest.mark.parametrize(
    ("held", "by"),
    [("a", 1), (True, 1), (1.5, 1), (2**64 - 1, 1), (-(2**63), -1), (1, 1.5), (1, True)],
)
def test_increment_refuses_values_that_are_not_64_bit_integers(held: Any, by: Any) -> None:
    machine = holding(n=held)
    with pytest.raises((TypeError, ValueError)):
        do(machine, "increment", key="n", by=by)
    assert do(machine, "get", key="n") == held


def test_commands_of_a_batch_see_those_before_them() -> None:
    machine = holding(gone=1)
    results = do(
        machine,
        "batch",
        ops=[
            {"type": "set", "key": "a", "value": 1},
            {"type": "increment", "key": "a", "by": 2},
            {"type": "delete", "key": "gone"},
            {"type": "cas", "key": "gone", "expected": None, "value": "back"},
            {"type": "cas", "key": "a", "expected": 9, "value": 0},
            {"type": "get", "key": "a"},
        ],
    )
    assert results == [None, 3, True, True, False, 3]
    assert machine.query({"scan": ""}) == [["a", 3], ["gone", "back"]]


def test_a_batch_that_fails_changes_nothing() -> None:
    machine = holding(k="text", stays=1)
    ops = [
        {"type": "set", "key": "new", "value": 1},
        {"type": "delete", "key": "stays"},
        {"type": "increment", "key": "k"},
    ]
    with pytest.raises(TypeError, match="op 2 of the batch: the value of 'k' is no whole number"):
        do(machine, "batch", ops=ops)
    assert machine.query({"scan": ""}) == [["k", "text"], ["stays", 1]]


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        ("fly", {}, "unknown command 'fly'; there are append, batch, cas"),
        ("set", {"key": "a"}, "set needs value"),
        ("cas", {}, "cas needs expected, key, value"),
        ("set", {"key": "a", "value": 1, "ttl": 5}, "set knows no 'ttl'"),
        ("set", {"key": 5, "value": 1}, "a key is a text, not int"),
        ("set", {"key": "", "value": 1}, "at least one character"),
        ("set", {"key": "é" * 201, "value": 1}, "at most 400 bytes, this one 402"),
        ("set", {"key": "\ud800", "value": 1}, "surrogates"),
        ("set", {"key": "a", "value": object()}, "msgpack cannot encode"),
        ("set", {"key": "a", "value": [1, object()]}, "msgpack cannot encode"),
        ("set", {"key": "a", "value": b"x" * VALUE_BYTES_MAX}, "a value has at most"),
        ("batch", {"ops": {}}, "ops is a list, not dict"),
        ("batch", {"ops": [5]}, "op 0 of the batch: an op is a map"),
        ("batch", {"ops": [{"type": "batch", "ops": []}]}, "op 0 of the batch: batch cannot be a part of a batch"),
        ("batch", {"ops": [{"type": "get"}]}, "op 0 of the batch: get needs key"),
    ],
)
def test_a_bad_command_names_its_fault(kind: str, payload: dict[str, Any], text: str) -> None:
    machine = KeyValueMachine()
    with pytest.raises((TypeError, ValueError), match=text):
        do(machine, kind, **payload)
    assert machine.dirty == (0, 0)
    do(machine, "set", key="a", value="good")
    assert machine.query("a") == "good"


def test_a_key_may_be_as_long_as_the_bound() -> None:
    key = "é" * (KEY_BYTES_MAX // 2)
    assert holding(**{key: 1}).query(key) == 1


def test_a_prefix_is_deleted_in_key_order_up_to_a_limit() -> None:
    machine = holding(a1=1, a2=2, a3=3, b=4)
    do(machine, "delete", key="a1")
    assert do(machine, "delete_prefix", prefix="a", limit=1) == 1
    assert machine.query({"scan": ""}) == [["a3", 3], ["b", 4]]
    assert do(machine, "delete_prefix", prefix="a") == 1
    assert do(machine, "delete_prefix", prefix="a") == 0
    assert do(machine, "delete_prefix", prefix="") == 1
    assert machine.query({"count": ""}) == 0


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"prefix": 1},
        {"prefix": "a", "limit": 0},
        {"prefix": "a", "limit": True},
        {"prefix": "", "limit": DELETED_MAX + 1},
    ],
)
def test_a_wrong_deletion_of_a_prefix_changes_nothing(payload: dict[str, Any]) -> None:
    machine = holding(a=1)
    with pytest.raises((TypeError, ValueError)):
        do(machine, "delete_prefix", **payload)
    assert machine.query("a") == 1


@pytest.mark.parametrize("name", ["batch", "delete_prefix"])
def test_some_commands_are_no_part_of_a_batch(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a part of a batch"):
        do(holding(), "batch", ops=[{"type": name, "ops": [], "prefix": ""}])


LARGE = bytes(VALUE_BYTES_MAX - 100)


@pytest.mark.parametrize("size", [1 << 20, 200_000, 3000])
def test_the_results_of_a_batch_are_counted_before_they_take_memory(size: int) -> None:
    machine = holding(large=bytes(size - 100))
    many = 1
    while 5 + 9 * (2 * many + 1) + many * len(msgpack.packb(bytes(size - 100))) <= RESULT_BYTES_MAX:
        many += 1
    ops = [{"type": "increment", "key": "n"}, *[{"type": "get", "key": "large"}] * 2 * many]
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"^op {many} of the batch: the results have more than"):
            do(machine, "batch", ops=ops)
        assert tracemalloc.get_traced_memory()[1] < 3 * RESULT_BYTES_MAX
    finally:
        tracemalloc.stop()
    assert machine.query("n") is None
    results = do(machine, "batch", ops=ops[: many - 1])
    assert len(msgpack.packb(results)) <= RESULT_BYTES_MAX


def test_a_batch_has_at_most_so_many_commands() -> None:
    machine = KeyValueMachine()
    ops = [{"type": "increment", "key": "n"}] * BATCH_OPS_MAX
    assert do(machine, "batch", ops=ops)[-1] == BATCH_OPS_MAX
    large = Command("batch", {"ops": [*ops, ops[0]]})
    for refuse in (machine.admit, lambda command: machine.apply(Entry(1, 1, 0, command))):
        with pytest.raises(ValueError, match=f"at most {BATCH_OPS_MAX} commands, this one {BATCH_OPS_MAX + 1}"):
            refuse(large)
    assert machine.query("n") == BATCH_OPS_MAX
    assert len(large.encode()) > machine.admit_bytes_min
    machine.admit(Command("batch", {"ops": ops}))
    machine.admit(Command("no such", {}))


@pytest.mark.parametrize("op", [{"type": "cas", "expected": 1, "value": 2}, {"type": "delete"}])
def test_a_batch_reads_only_so_many_bytes_of_values(op: dict[str, Any]) -> None:
    machine = holding(**{f"k{n}": LARGE for n in range(READ_BYTES_MAX // len(LARGE) + 1)})
    with pytest.raises(ValueError, match=r"reads more than \d+ bytes of values"):
        do(machine, "batch", ops=[{**op, "key": f"k{n}"} for n in range(READ_BYTES_MAX // len(LARGE) + 1)])
    assert machine.query({"count": ""}) == READ_BYTES_MAX // len(LARGE) + 1


def test_a_batch_that_reads_too_much_can_be_split_down_to_its_commands() -> None:
    """So the advice can always be followed: one command reads one value."""
    assert VALUE_BYTES_MAX < READ_BYTES_MAX
    machine = holding(k=b"x" * (VALUE_BYTES_MAX - 5))
    op = {"type": "cas", "key": "k", "expected": 1, "value": 2}
    with pytest.raises(ValueError, match="split the batch"):
        do(machine, "batch", ops=[op] * (READ_BYTES_MAX // VALUE_BYTES_MAX + 1))
    assert do(machine, "batch", ops=[op] * (READ_BYTES_MAX // VALUE_BYTES_MAX)) == [False] * 8
    assert do(machine, "batch", ops=[{**op, "expected": b"x" * (VALUE_BYTES_MAX - 5)}]) == [True]


def test_one_deletion_of_a_prefix_reads_little_beyond_the_bound() -> None:
    """The bytes that it reads are the time for which it holds up the node."""
    read = 0

    class Counting(KeyValueMachine):
        def span_rows(self, span: Span) -> Iterator[tuple[str, bytes]]:
            nonlocal read
            for key, row in super().span_rows(span):
                read += value_size(row)
                yield key, row

    machine, largest = Counting(), b"x" * (VALUE_BYTES_MAX - 5)
    for n in range(2 * READ_BYTES_MAX // VALUE_BYTES_MAX):
        do(machine, "set", key=f"k{n:02}", value=largest)
    assert do(machine, "delete_prefix", prefix="k") == READ_BYTES_MAX // VALUE_BYTES_MAX + 1
    assert read <= READ_BYTES_MAX + VALUE_BYTES_MAX
    assert READ_BYTES_MAX <= 16 << 20


def test_a_small_cas_does_not_decode_a_large_value(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = holding(k=[{}] * 100_000)
    monkeypatch.setattr("msgpack.unpackb", lambda data: pytest.fail("decoded"))
    assert do(machine, "cas", key="k", expected=[{}], value=1) is False


def test_a_prefix_with_large_values_is_deleted_in_steps() -> None:
    count = 2 * (READ_BYTES_MAX // len(LARGE))
    machine = holding(**{f"k{n:03}": LARGE for n in range(count)})
    steps = []
    while gone := do(machine, "delete_prefix", prefix="k"):
        steps.append(gone)
    assert len(steps) == 2
    assert sum(steps) == count


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_equal_values_have_encodings_of_one_length(value: Any) -> None:
    def shuffled(one: Any) -> Any:
        if isinstance(one, dict):
            return {key: shuffled(one[key]) for key in reversed(one)}
        return [shuffled(inner) for inner in one] if isinstance(one, list) else one

    other = shuffled(value)
    assert len(msgpack.packb(other)) == len(msgpack.packb(value))
    machine = holding(k=value)
    held = msgpack.unpackb(msgpack.packb(value))
    if value is not None and same(held, msgpack.unpackb(msgpack.packb(other))):
        assert do(machine, "cas", key="k", expected=other, value=0) is True
