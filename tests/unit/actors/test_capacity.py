"""The admission of commands and queries: a leader takes what its machine does in time, and refuses the rest at once."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    GetStatus,
    OpenSession,
    Read,
    Refused,
    RequestPreVote,
    Results,
    SessionOpened,
    Status,
    Submit,
)
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.storage.machines.machine import Command
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_replication import noop
from tests.worlds.ledger_world import TallyMachine
from tests.worlds.one_node import OneNode

INCREMENT = Command("increment", {"key": "n"}).encode()


def leader(seconds_each: float, **options: Any) -> OneNode:
    """A leader of three whose machine takes so long for a command; only its no-op is applied."""
    node = OneNode(options=RaftSettings(**options))
    lead(node)
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    assert node.ledger.applied == node.ledger.log.last
    node.ledger.applier.pace.each = seconds_each
    node.sent.clear()
    return node


def submit(node: OneNode, first: int, count: int) -> None:
    node.request("", "gateway", Submit(5, 1, tuple((seq, INCREMENT) for seq in range(first, first + count))))


@pytest.mark.parametrize(("seconds_each", "taken"), [(0.0, 1000), (1e-6, 1000), (0.001, 500), (0.1, 5), (2.0, 1)])
def test_as_much_is_taken_as_is_done_in_time_and_the_rest_is_refused(seconds_each: float, taken: int) -> None:
    node = leader(seconds_each)
    last = node.ledger.log.last
    submit(node, 1, 1000)
    assert node.ledger.log.last - last == taken
    refused = [message for _, message in node.messages(Refused)]
    assert [(each.code, each.numbers) for each in refused] == (
        [("CONSENSUS_BUSY", tuple(range(taken + 1, 1001)))] if taken < 1000 else []
    )
    node.request("", "gateway", GetStatus())
    fields = node.last(Status).fields
    assert (fields["busy_total"], fields["backlog_entries"]) == (1000 - taken, taken)
    assert fields["backlog_seconds"] == pytest.approx(taken * seconds_each)


def test_a_backlog_is_bounded_in_entries_whatever_they_cost() -> None:
    node = leader(0.0, backlog_entries_max=7)
    submit(node, 1, 5)
    submit(node, 6, 5)
    assert node.ledger.log.last - node.ledger.applied == 7
    assert node.last(Refused).numbers == (8, 9, 10)
    node.request("", "gateway", OpenSession(60_000))
    assert (node.last(Refused).code, node.last(Refused).numbers) == ("CONSENSUS_BUSY", ())


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"outstanding_max": 3}, {}),
        ({}, {"uncommitted_entries_max": 3}),
        ({"command_bytes_max": 600}, {"uncommitted_bytes_max": 800}),
    ],
)
def test_a_frame_larger_than_a_bound_is_taken_in_parts_and_not_refused_for_ever(
    options: dict[str, Any], limits: dict[str, Any]
) -> None:
    node = OneNode(options=RaftSettings(**options), limits=StorageSettings(**limits))
    lead(node)
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    opened = node.ledger.log.last
    submit(node, 1, 10)
    taken = node.ledger.log.last - opened
    assert 0 < taken < 10
    assert node.last(Refused).numbers == tuple(range(taken + 1, 11))
    submit(node, taken + 1, 10 - taken)
    assert node.ledger.log.last == opened + taken, "the bound holds"
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    submit(node, taken + 1, 10 - taken)
    assert node.ledger.log.last > opened + taken, "and lets go on what has room again"


def test_a_client_that_always_has_more_to_send_leaves_room_for_the_others() -> None:
    node = leader(0.001)
    for first in range(1, 1001, 100):
        submit(node, first, 100)
    waits = node.ledger.log.last - node.ledger.applied
    assert 400 < waits < 450
    node.turn((node.frame("", "gateway", Submit(6, 1, ((1, INCREMENT),))), "->another"))
    assert node.ledger.log.last - node.ledger.applied == waits + 1
    node.turn((node.frame("", "gateway", Submit(7, 1, tuple((n, INCREMENT) for n in range(1, 201)))), "->a third"))
    assert node.ledger.log.last - node.ledger.applied == 500, "the bound holds"


def test_the_end_of_a_clients_own_bound_is_no_way_around_the_backlogs() -> None:
    node = leader(0.001, outstanding_max=450, backlog_entries_max=430)
    submit(node, 1, 300)
    submit(node, 301, 200)
    assert node.ledger.log.last - node.ledger.applied <= 430


def test_queries_of_one_frame_are_taken_where_nothing_waits() -> None:
    node = leader(0.0, outstanding_max=3)
    queries = tuple((number, msgpack.packb("n")) for number in range(10))
    node.request("", "gateway", Read("stale", queries))
    assert not node.messages(Refused)


def test_room_comes_back_as_entries_are_applied() -> None:
    node = leader(0.1)
    submit(node, 1, 9)
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    node.ledger.applier.pace.each = 0.1
    node.sent.clear()
    submit(node, 6, 5)
    assert not node.messages(Refused)


def test_the_pace_is_measured_while_entries_are_applied() -> None:
    class Costly(TallyMachine):
        node: OneNode

        def apply(self, entry: Any) -> Any:
            self.node.clock.seconds += 0.01
            return super().apply(entry)

    node = OneNode(1, machine=Costly)
    node.ledger.applier.machine.node = node  # type: ignore[attr-defined]
    node.request("", "gateway", OpenSession(60_000))
    session = node.last(SessionOpened).session
    for turn in range(10):
        node.request("", "gateway", Submit(session, 1, tuple((10 * turn + n, INCREMENT) for n in range(1, 11))))
    assert node.ledger.applier.pace.each == pytest.approx(0.01, rel=0.2)
    assert sum(len(message.items) for _, message in node.messages(Results)) == 100
    node.request("", "gateway", Submit(session, 1, tuple((n, INCREMENT) for n in range(101, 201))))
    assert 40 < sum(len(message.items) for _, message in node.messages(Results)) - 100 < 60


def test_a_node_that_answers_busy_is_degraded_until_it_keeps_up() -> None:
    node = leader(0.1)
    submit(node, 1, 9)
    node.wait(node.settings.check_interval)
    reported = node.engine.reported
    assert any("busy" in detail for detail in reported.details)
    node.wait(node.settings.check_interval)
    assert not any("busy" in detail for detail in reported.details)
    node.ledger.commit_index = node.ledger.log.last  # n2 has it, but the machine has not seen it
    node.ledger.appliable = node.ledger.applied
    node.ledger.applier.pace.each = 1.0
    node.wait(node.settings.check_interval)
    assert any("far behind" in detail for detail in reported.details) or node.ledger.applied == node.ledger.log.last


def test_a_follower_that_is_far_behind_lets_the_others_stand_first_and_then_stands_all_the_same() -> None:
    node = OneNode()
    records = tuple(noop(index, 1) for index in range(2, 202))
    node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, records))
    node.ledger.applier.lent = True  # so that nothing is applied
    node.request("n2", "replication", AppendEntries(1, 201, 1, 201, 0, ()))
    node.ledger.applier.pace.each = 0.1
    node.sent.clear()
    node.wait(node.settings.election_timeout_max + 0.01)
    assert not node.messages(RequestPreVote)
    assert node.engine.shared.leader is None
    node.wait(node.settings.election_timeout_max + 0.01)
    assert node.messages(RequestPreVote)
