"""Comparisons and transactions as they are sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from forge_consensus.client.compare import Compare
from forge_consensus.client.key_commands import entries_query, transaction_command
from forge_consensus.client.key_records import KeyChange, KeyEntry, TransactionResult
from forge_consensus.errors import InvalidConfigError
from forge_consensus.storage.machines.machine import Command


class Held:
    """Something with the id of a lease."""

    id = 12


def test_operators_make_conditions() -> None:
    made = [
        Compare.value("k") == 1,
        Compare.value("k") != None,  # noqa: E711
        Compare.created("k") == 5,
        Compare.created("k") != 5,
        Compare.modified("k") < 5,
        Compare.modified("k") > 5,
        5 > Compare.modified("k"),  # noqa: SIM300
        Compare.lease("k") == Held(),
        Compare.lease("k") != 12,
        Compare.exists("k"),
        Compare.missing("k"),
    ]
    assert [each.row() for each in made] == [
        ["value", "k", "==", 1],
        ["value", "k", "!=", None],
        ["created", "k", "==", 5],
        ["created", "k", "!=", 5],
        ["modified", "k", "<", 5],
        ["modified", "k", ">", 5],
        ["modified", "k", "<", 5],
        ["lease", "k", "==", 12],
        ["lease", "k", "!=", 12],
        ["exists", "k", "==", True],
        ["exists", "k", "==", False],
    ]


def test_conditions_are_plain_values() -> None:
    one, same, other = Compare.value("k") == 1, Compare.value("k") == 1, Compare.value("k") == 2
    assert Compare.__eq__(one, same) is True
    assert Compare.__eq__(one, other) is False
    assert len({one, same, other}) == 2
    with pytest.raises(AttributeError):
        one.key = "other"  # type: ignore[misc]
    assert hash(Compare.value("k")) is not None
    assert repr(Compare.value("k")) == "Compare.value('k')"


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: bool(Compare.value("k") == 1),
        lambda: bool(Compare.value("k")),
        lambda: not Compare.exists("k"),
        lambda: 1 < Compare.created("k") < 5,
        lambda: (Compare.value("a") == 1) and (Compare.value("b") == 2),
    ],
)
def test_a_comparison_is_no_truth(mistake: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="neither true nor false"):
        mistake()


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Compare.created("k") == "5",
        lambda: Compare.modified("k") > True,
        lambda: Compare.lease("k") == "5",
        lambda: Compare.value(b"k"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_compared_is_refused(mistake: Callable[[], Any]) -> None:
    with pytest.raises(InvalidConfigError):
        mistake()


def test_values_have_no_order() -> None:
    with pytest.raises(TypeError):
        _ = Compare.value("k") < 1  # type: ignore[operator]


def test_a_transaction_is_one_command() -> None:
    command = transaction_command(
        [Compare.missing("a"), Compare.value("b") == [1, {"x": None}]],
        (Command("set", {"key": "a", "value": 1, "lease": 3}), Command("lease_keep_alive", {"lease": 3})),
        [Command("get", {"key": "a"})],
        "id-1",
    )
    assert Command.decode(command.encode()) == Command(
        "transaction",
        {
            "if": [["exists", "a", "==", False], ["value", "b", "==", [1, {"x": None}]]],
            "then": [
                {"key": "a", "value": 1, "lease": 3, "type": "set"},
                {"lease": 3, "type": "lease_keep_alive"},
            ],
            "else": [{"key": "a", "type": "get"}],
        },
        "id-1",
    )
    assert transaction_command(Compare.exists("a"), [], [], None).payload == {
        "if": [["exists", "a", "==", True]],
        "then": [],
    }
    with pytest.raises(ValueError, match="is no comparison"):
        transaction_command([True], [], [], None)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="is no command"):
        transaction_command([], ["set"], [], None)  # type: ignore[list-item]


def test_the_outcome_of_a_transaction_is_as_true_as_its_comparisons() -> None:
    assert TransactionResult(True, [])
    assert not TransactionResult(False, [1])


def test_only_what_is_said_is_asked() -> None:
    assert entries_query("p", 10, None, None, None, False) == {"entries": "p", "limit": 10}
    assert entries_query("", 10, "a", "b", "c", True) == {
        "entries": "",
        "limit": 10,
        "after": "a",
        "start": "b",
        "end": "c",
        "reverse": True,
    }


def test_rows_become_records() -> None:
    assert KeyEntry.of_row(["k", 1, 2, 3, 4]) == KeyEntry("k", 1, created=2, modified=3, lease=4)
    assert KeyChange.of_row([9, "k", None, 2, 4, "expire"]) == KeyChange(9, "k", None, "expire", created=2, lease=4)
