"""The rule of the list of access: what it finds, and that a run with such a list changes and reads it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from forge_consensus.security.access import AccessList, Principal
from forge_consensus.storage.ledger.access import row_of
from forge_consensus.storage.machines.machine import COMMAND_FAILED
from forge_consensus.testing.histories.history import Operation
from forge_consensus.testing.rules.access_rules import AccessLists
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.access_user import AccessJudge
from forge_consensus.testing.simulator.conditions import Conditions
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation

KEY = "k" * 40
ANN = AccessList([Principal("ann", frozenset({"admin"}), keys=(KEY,))])
GONE = ANN.without("ann")


def node(applied: int, index: int, access: AccessList, name: str = "n1") -> Any:
    logged = SimpleNamespace(index=index, current=access, row=row_of(access, index) if index else b"")
    applier = SimpleNamespace(index=applied, access=logged)
    return SimpleNamespace(name=name, engine=SimpleNamespace(ledger=SimpleNamespace(applier=applier)))


def test_nodes_that_have_applied_as_much_hold_the_same_list() -> None:
    lists = AccessLists()
    lists.began(node(3, 0, AccessList()))
    lists.turned(node(7, 5, ANN))
    lists.turned(node(4, 0, AccessList(), "n2"))
    lists.turned(node(5, 5, ANN, "n2"))
    with pytest.raises(ViolationError, match=r"n3 has applied entry 6, and its list of access is that of entry 0"):
        lists.began(node(6, 0, AccessList(), "n3"))
    with pytest.raises(ViolationError, match="I5: n3"):
        lists.turned(node(8, 5, AccessList(), "n3"))
    with pytest.raises(ViolationError, match="I5: n3"):
        lists.turned(node(6, 9, ANN, "n3"))
    assert (lists.last_at(4), lists.last_at(5), lists.last_at(99)) == (0, 5, 5)


def test_what_was_revoked_stays_so_in_whatever_order_nodes_are_seen() -> None:
    for order in ((7, 9), (9, 7)):
        lists = AccessLists()
        rows = {7: node(7, 7, GONE), 9: node(9, 9, ANN)}
        lists.turned(rows[order[0]])
        with pytest.raises(ViolationError, match="revoked: the list of entry 9 does not have"):
            lists.turned(rows[order[1]])
    admits = AccessList(ANN.by_name.values(), [KEY])
    with pytest.raises(ViolationError, match="entry 4 admits what was revoked"):
        AccessLists().turned(node(4, 4, admits))


def test_a_later_read_sees_a_list_that_is_as_new() -> None:
    lists = AccessLists()
    lists.turned(node(7, 5, ANN))
    judge = AccessJudge(lists)

    def asked(kind: str, applied: int, index: int = 0, consistency: str = "linearizable") -> Operation:
        operation = Operation("admin", kind, "@access", None, 0.0, consistency=consistency)
        operation.applied, operation.result = applied, {"index": index} if kind == "access" else True
        judge.invoked(operation)
        return operation

    judge.answered(asked("put", 6))
    judge.answered(asked("access", 6, 5))
    judge.answered(asked("access", 4, 0, "stale"))
    with pytest.raises(ViolationError, match="I13: a read of the list got that of entry 0, 5 was known before"):
        judge.answered(asked("access", 4, 0))
    with pytest.raises(ViolationError, match="I5: a read of the list as of entry 6 got that of 0"):
        judge.answered(asked("access", 6, 0))
    judge.failed(asked("put", 0), COMMAND_FAILED, ["AccessChangeRefused", "no"])
    judge.refused(asked("put", 0), 1.0)
    with pytest.raises(ViolationError, match="I14"):
        judge.failed(asked("put", 0), COMMAND_FAILED, ["ValueError", "unknown command"])


@pytest.mark.parametrize("own_machine", [False, True])
def test_a_run_with_a_list_changes_and_reads_it(own_machine: bool) -> None:
    kinds = ("kill", "snapshot", "isolate", "mend")
    plan = Plan(
        7, nodes=3, clients=1, seconds=4.0, own_machine=own_machine, kinds=kinds, conditions=Conditions(access=True)
    )
    with Simulation(plan) as simulation:
        simulation.run()
        access = simulation.access
        assert access is not None
        assert access.answers > 10
        assert len(access.lists.indexes) > 5
        final = {base.engine.ledger.applier.access.row for base in simulation.cluster.healthy()}
        assert len(final) == 1
        assert access.lists.lists[access.lists.indexes[-1]].revoked
