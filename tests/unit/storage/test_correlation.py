"""Correlation ids in commands: found without taking them apart, whatever the bytes are."""

from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.storage.backends.memory import MemoryTables
from forge_consensus.storage.ledger.correlation import (
    COMMANDS_MAX,
    IDS_MAX,
    RANGE_BYTES_MAX,
    correlation_of,
    ids_between,
    ids_of,
)
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.machines.machine import Command


def record(index: int, correlation_id: str | None, kind: int = Kind.COMMAND, size: int = 1) -> bytes:
    data = Command("set", {"key": "k", "value": b"v" * size}, correlation_id).encode()
    return encode(index, 1, kind, 0, data=data)


@given(st.text(max_size=255) | st.none(), st.dictionaries(st.text(), st.integers() | st.binary() | st.lists(st.none())))
def test_the_id_is_found_behind_any_payload(correlation_id: str | None, payload: dict[str, object]) -> None:
    try:
        data = Command("do", payload, correlation_id).encode()
    except ValueError:
        return
    assert correlation_of(data) == correlation_id


@given(st.binary(max_size=40))
def test_bytes_that_are_not_a_command_have_no_correlation_id(data: bytes) -> None:
    for nearly in (data, b"\x93" + data):
        found = correlation_of(nearly)
        assert found is None or isinstance(found, str)


def test_a_range_names_the_first_distinct_ids_of_its_commands() -> None:
    records = [record(1, None), record(2, "a"), record(3, "a"), record(4, "b"), record(5, "c", Kind.SESSION)]
    assert ids_of(records) == ("a", "b")
    many = ids_of(record(index, f"id-{index}") for index in range(100))
    assert many == tuple(f"id-{index}" for index in range(IDS_MAX))
    assert ids_of([*(record(index, "same") for index in range(COMMANDS_MAX)), record(99, "late")]) == ("same",)


def test_ids_are_read_only_from_memory_and_from_the_beginning_of_a_long_range() -> None:
    log = Log(MemoryTables(), tail_bytes_max=1 << 30)
    log.append([record(1, "early", size=RANGE_BYTES_MAX), record(2, "late")])
    assert ids_between(log, 1, 2) == ("early",)
    assert ids_between(log, 2, 2) == ("late",)
    log.tail_base = 1
    assert ids_between(log, 1, 2) == ()
