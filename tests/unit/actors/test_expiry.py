"""The leader's own entries for what ends by time, on one node alone."""

from __future__ import annotations

from typing import Any

import pytest

from forge_consensus.actors.messages import AppendReply, OpenSession, SessionOpened, Submit
from forge_consensus.actors.raft.expiry import EXPIRE_BYTES
from forge_consensus.actors.runtime.handover import Handover
from forge_consensus.errors import StorageFullError
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.record import parse
from forge_consensus.storage.machines.machine import EXPIRE, Command, Entry
from tests.unit.actors.test_election import lead
from tests.worlds.one_node import OneNode


class Alarm:
    """A user's machine that waits for a time."""

    node: OneNode

    def __init__(self) -> None:
        self.due_ms: Any = None
        self.rung: list[int] = []

    def apply(self, entry: Entry) -> Any:
        if self.due_ms is not None and entry.elapsed_ms >= self.due_ms:
            self.rung.append(entry.elapsed_ms - self.due_ms)
            self.due_ms = None
        if entry.command == EXPIRE:
            return None
        self.due_ms = entry.elapsed_ms + entry.command.payload["after_ms"]
        return None

    def query(self, query: Any) -> Any:
        return self.rung

    def snapshot(self) -> list[bytes]:
        return []

    def restore(self, chunks: Any) -> None:
        """Forget all."""
        self.__init__()  # type: ignore[misc]


def expiries(node: OneNode) -> list[int]:
    """The indexes of the entries that the leader let in."""
    log = node.ledger.log
    records = (parse(index, log.get(index)) for index in range(log.base_index + 1, log.last + 1))
    return [record.index for record in records if record.data == EXPIRE_BYTES and not record.session]


def do(node: OneNode, *commands: Command, seq: int = 1) -> None:
    node.request("", "gateway", OpenSession(3_600_000))
    session = node.last(SessionOpened).session
    node.request("", "gateway", Submit(session, 1, tuple((n, each.encode()) for n, each in enumerate(commands, seq))))


def grant(ttl_ms: int) -> Command:
    return Command("lease_grant", {"ttl_ms": ttl_ms})


def test_an_entry_comes_when_a_lease_is_over_and_only_then() -> None:
    node = OneNode(1)
    do(node, grant(5000), grant(5030), grant(9000))
    node.wait(4.9)
    assert expiries(node) == []
    node.wait(0.11)
    assert len(expiries(node)) == 1
    node.wait(0.03 + node.settings.heartbeat_interval)
    assert len(expiries(node)) == 2
    node.wait(3.9)
    assert len(expiries(node)) == 3
    timers = len(node.engine.timers.heap)
    node.wait(60)
    assert len(expiries(node)) == 3, "nothing waits any more"
    assert len(node.engine.timers.heap) <= timers
    machine: Any = node.ledger.applier.machine
    assert machine.query({"leases": 0}) == []


def test_a_lease_that_is_short_ends_with_the_next_heartbeat() -> None:
    node = OneNode(1)
    do(node, grant(100))
    node.wait(0.1 + node.settings.heartbeat_interval)
    assert len(expiries(node)) == 1


def test_one_entry_is_under_way_at_most() -> None:
    node = OneNode(3)
    lead(node)
    node.request("", "gateway", OpenSession(3_600_000))
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    session = node.last(SessionOpened).session
    node.request("", "gateway", Submit(session, 1, ((1, grant(1000).encode()),)))
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    for _ in range(15):
        node.wait(0.1)
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.commit_index, 0, 0))
    assert len(expiries(node)) == 1, "it is not committed"
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    machine: Any = node.ledger.applier.machine
    assert machine.query({"leases": 0}) == []
    node.wait(0.3)
    assert len(expiries(node)) == 1


def test_many_leases_end_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forge_consensus.storage.machines.leases.EXPIRED_MAX", 3)
    node = OneNode(1)
    do(node, *[grant(1000)] * 10)
    node.wait(1.5)
    assert len(expiries(node)) == 4


def test_nothing_is_proposed_while_the_leadership_is_handed_over_or_entries_have_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = OneNode(1)
    do(node, grant(1000))
    node.engine.shared.handover = Handover("n2", node.ledger.term, None)  # type: ignore[arg-type]
    node.wait(2.0)
    assert expiries(node) == []
    node.engine.shared.handover = None
    propose = Ledger.propose

    def full(*_: Any) -> Any:
        raise StorageFullError("full")

    monkeypatch.setattr(Ledger, "propose", full)
    node.wait(1.0)
    assert expiries(node) == []
    monkeypatch.setattr(Ledger, "propose", propose)
    node.wait(0.2)
    assert len(expiries(node)) == 1


def test_a_users_machine_is_handed_an_entry_when_it_waits_for_a_time() -> None:
    node = OneNode(1, machine=Alarm)
    do(node, Command("in", {"after_ms": 700}))
    node.wait(0.69)
    machine: Any = node.ledger.applier.machine
    assert machine.rung == []
    node.wait(0.02)
    assert len(machine.rung) == 1
    assert machine.rung[0] <= 10
    assert len(expiries(node)) == 1


def test_a_machine_that_says_nonsense_is_asked_on_and_nothing_is_proposed() -> None:
    node = OneNode(1, machine=Alarm)
    machine: Any = node.ledger.applier.machine
    machine.due_ms = "soon"
    node.wait(1.0)
    assert expiries(node) == []
    machine.due_ms = 0
    node.wait(0.2)
    machine.due_ms = None
    assert len(expiries(node)) >= 1


def test_a_machine_is_not_asked_while_another_thread_uses_it() -> None:
    node = OneNode(1, machine=Alarm)
    machine: Any = node.ledger.applier.machine
    machine.due_ms, node.ledger.applier.lent = 0, True
    node.wait(1.0)
    assert expiries(node) == []
