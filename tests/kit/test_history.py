"""Histories: kept in the order of beginning, saved as lines and read again."""

from __future__ import annotations

import pytest

from forge_consensus.testing.histories.history import History, Operation, Outcome


def test_a_history_keeps_calls_in_the_order_in_which_they_began() -> None:
    history = History()
    first = history.begin(Operation("a", "set", "k", 1, began=1.0))
    second = history.begin(Operation("b", "get", "k", began=2.0))
    assert list(history) == [first, second]
    assert len(history) == 2
    assert first.outcome is Outcome.OPEN


def test_a_history_survives_saving_and_loading() -> None:
    history = History()
    call = history.begin(Operation("a", "cas", "k", [None, {"x": [1, 2.5, True]}], began=0.1))
    call.outcome, call.result, call.ended = Outcome.OK, True, 0.30000000000000004
    history.begin(Operation("b", "get", "k", began=2.0, consistency="lease"))
    history.begin(Operation("b", "set", "k", "v", began=3.0, outcome=Outcome.REFUSED))
    lines = list(history.lines())
    again = History.of_lines([*lines, "", "\n"])
    assert list(again.lines()) == lines
    assert [call.outcome for call in again] == [Outcome.OK, Outcome.OPEN, Outcome.REFUSED]
    assert again.operations[0].ended == 0.30000000000000004
    assert again.operations[1].consistency == "lease"


@pytest.mark.parametrize("line", ["{", '{"client": "a", "kind": "set", "key": "k", "outcome": "perhaps"}'])
def test_a_malformed_history_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        History.of_lines([line])
