"""Transactions of the key-value machine, and its pages of entries and leases."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.storage.machines import kv_batches
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import RESULT_BYTES_MAX, Command, outcome_of
from tests.unit.storage.test_kv_leases import Log

# --- transactions -----------------------------------------------------------------------------------------------------


@pytest.fixture
def filled() -> Log:
    """A key `a` of entry 2, written again by 3 with the value 5, on lease 1; and none of another name."""
    log = Log()
    log.do("lease_grant", ttl_ms=1000)
    log.do("set", key="a", value=4, lease=1)
    log.do("set", key="a", value=5, lease=1)
    return log


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (["value", "a", "==", 5], True),
        (["value", "a", "==", 5.0], False),
        (["value", "a", "!=", 4], True),
        (["value", "a", "==", None], False),
        (["value", "b", "==", None], True),
        (["value", "b", "!=", None], False),
        (["exists", "a", "==", True], True),
        (["exists", "b", "==", True], False),
        (["exists", "b", "==", False], True),
        (["created", "a", "==", 2], True),
        (["created", "a", "<", 2], False),
        (["created", "b", "==", 0], True),
        (["modified", "a", ">", 2], True),
        (["modified", "a", "!=", 3], False),
        (["lease", "a", "==", 1], True),
        (["lease", "b", "!=", 0], False),
    ],
)
def test_a_comparison_decides_which_ops_are_executed(filled: Log, compare: list[Any], holds: bool) -> None:
    then, otherwise = [{"type": "set", "key": "t", "value": 1}], [{"type": "get", "key": "a"}]
    found = filled.do("transaction", **{"if": [compare], "then": then, "else": otherwise})
    assert found == {"succeeded": holds, "results": [None] if holds else [5]}
    assert ("t" in filled.keys) is holds
    assert filled.do("transaction", **{"if": [compare], "then": []}) == {"succeeded": holds, "results": []}


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (
            {"if": [], "then": [{"type": "delete_prefix", "prefix": ""}]},
            "op 0 of the transaction: delete_prefix cannot",
        ),
        ({"if": [], "then": [], "else": [{"type": "fly"}]}, "op 0 of the transaction: unknown command 'fly'"),
        ({"if": [["value", "a", "==", 0]], "then": [{"type": "set"}]}, "op 0 of the transaction: set needs key, value"),
        ({"if": [["value", "a", "<", 1]], "then": []}, "comparison 0 of the transaction: value is compared by != =="),
        ({"if": [["size", "a", "==", 1]], "then": []}, "a comparison is of created, exists, lease, modified, value"),
        ({"if": [["created", "a", "==", True]], "then": []}, "created is compared with a int, not with bool"),
        ({"if": [["exists", "a", "==", 1]], "then": []}, "exists is compared with a bool, not with int"),
        ({"if": [["exists", "", "==", True]], "then": []}, "at least one character"),
        ({"if": [["exists", "a", True]], "then": []}, "a comparison is a list [target, key, comparison, wanted]"),
        ({"if": {}, "then": []}, "if is a list, not dict"),
        ({"then": []}, "transaction needs if"),
        ({"if": [], "then": [], "otherwise": []}, "transaction knows no 'otherwise'"),
        ({"if": [], "then": [{"type": "increment", "key": "s"}]}, "op 0 of the transaction: the value of 's'"),
        ({"if": [["exists", "a", "==", True]] * 5001, "then": [{"type": "get", "key": "a"}] * 5000}, "at most 10000"),
    ],
)
def test_a_transaction_that_cannot_be_changes_nothing(filled: Log, payload: dict[str, Any], text: str) -> None:
    filled.do("set", key="s", value="text")
    assert text in filled.failed("transaction", **payload)


def test_a_transaction_sees_its_own_writes_and_happens_entirely_or_not_at_all(filled: Log) -> None:
    then = [
        {"type": "set", "key": "b", "value": 1, "lease": 1},
        {"type": "increment", "key": "b"},
        {"type": "append", "prefix": "q", "value": 1, "ttl_ms": 100},
        {"type": "lease_keep_alive", "lease": 1},
        {"type": "lease_revoke", "lease": 1},
        {"type": "cas", "key": "a", "expected": None, "value": "back"},
    ]
    found = filled.do("transaction", **{"if": [["lease", "a", "==", 1]], "then": then})
    assert found == {"succeeded": True, "results": [None, 2, "q0000000000000004-00002", 1000, 2, True]}
    assert filled.keys == ["a", "q0000000000000004-00002"]
    assert filled.entry("a") == ["a", "back", 4, 4, 0]


def test_the_bounds_of_a_transaction_are_known_before_it_enters_the_log() -> None:
    ops = [{"type": "get", "key": "k"}] * 6000
    large = Command("transaction", {"if": [], "then": ops, "else": ops})
    with pytest.raises(ValueError, match="at most 10000 comparisons and commands, this one 12000: split it"):
        KeyValueMachine.admit(large)
    compares = [["lease", "k", "<", 0]] * (kv_batches.BATCH_OPS_MAX + 1)
    assert len(Command("transaction", {"if": compares, "then": []}).encode()) > KeyValueMachine.admit_bytes_min
    KeyValueMachine.admit(Command("transaction", {"if": [], "then": ops}))


def test_the_results_of_a_transaction_fit_into_an_answer() -> None:
    log = Log()
    log.do("set", key="k", value=bytes(RESULT_BYTES_MAX // 8))
    ops = [{"type": "get", "key": "k"}]
    with pytest.raises(ValueError, match="the results have more than 4194304 bytes: split the transaction"):
        log.do("transaction", **{"if": [], "then": ops * 8})
    assert outcome_of(log.do("transaction", **{"if": [], "then": ops * 7}), 1).code == ""


# --- pages ------------------------------------------------------------------------------------------------------------


def test_pages_of_entries_go_either_way_between_two_keys() -> None:
    log = Log()
    for key in ("a", "b/1", "b/2", "b/3", "c"):
        log.do("set", key=key, value=1)

    def keys(**given: Any) -> list[str]:
        return [row[0] for row in log.machine.query({"entries": "", **given})]

    assert keys(entries="b/") == ["b/1", "b/2", "b/3"]
    assert keys(start="b/2") == ["b/2", "b/3", "c"]
    assert keys(start="a", end="b/2") == ["a", "b/1"]
    assert keys(entries="b/", start="b/2", end="z") == ["b/2", "b/3"]
    assert keys(reverse=True, limit=2) == ["c", "b/3"]
    assert keys(reverse=True, after="b/2") == ["b/1", "a"]
    assert keys(entries="b/", reverse=True, end="b/3", after="b/9") == ["b/2", "b/1"]
    assert keys(start="x", end="b") == []
    assert keys(after="b/2", limit=1) == ["b/3"]


@pytest.mark.parametrize(
    "query",
    [
        {"entry": 1},
        {"entries": 1},
        {"entries": "", "start": 1},
        {"entries": "", "reverse": 1},
        {"entries": "", "order": "up"},
        {"lease": "1"},
        {"lease": True},
        {"leases": -1},
        {"leases": 0, "limit": 0},
        {"changes": ""},
        {"changes": "", "since": 0},
        {"changes": 1, "since": 1},
        {"changes": "", "since": 1, "key": True},
        {"changes": "a", "since": 1, "key": 1},
        {"changes": "a", "since": 1, "wait_ms": 60_001},
        {"changes": "a", "since": 1, "limit": 0},
        {"changes": "\ud800", "since": 1},
        {"scan": "", "reverse": True},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        KeyValueMachine().query(query)


def test_leases_are_told_in_pages() -> None:
    log = Log()
    for _ in range(5):
        log.do("lease_grant", ttl_ms=100)
    assert [row[0] for row in log.machine.query({"leases": 0, "limit": 2})] == [1, 2]
    assert [row[0] for row in log.machine.query({"leases": 2, "limit": 2})] == [3, 4]
    log.do("lease_revoke", lease=5)
    assert log.machine.query({"leases": 4}) == []
