"""Queries, on one node alone: sliced by time, in steps, on a helper thread, admitted, dropped when nobody waits."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgpack
import pytest

from forge_consensus.actors.messages import (
    NEVER_MS,
    AppendEntries,
    AppendReply,
    GetStatus,
    OpenSession,
    Read,
    ReadResults,
    Refused,
    SessionOpened,
    Status,
    Submit,
)
from forge_consensus.actors.notices import TakeSnapshot
from forge_consensus.actors.queries import QueryDesk
from forge_consensus.actors.raft.answering import Answers
from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import UnavailableError
from forge_consensus.events.types import QuerySlow
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.kv_pages import STEP_ROWS, Page
from forge_consensus.storage.machines.machine import Command, Entry
from tests.unit.actors.test_election import lead
from tests.worlds.one_node import OneNode


class Reporting(KeyValueMachine):
    """The key-value machine; its query [name, seconds, ...] takes so many seconds of the node's clock in each step."""

    node: OneNode
    ended = 0

    def query_steps(self, query: Any) -> Any:
        if not isinstance(query, list):
            return super().query_steps(query)
        name, *seconds = query
        if len(seconds) > 1:
            return self.steps(seconds)
        self.node.clock.seconds += seconds[0]
        if name == "raise":
            raise ValueError("asked to")
        return name

    def steps(self, seconds: list[float]) -> Iterator[None]:
        try:
            before = self.read("n")
            for each in seconds[:-1]:
                self.node.clock.seconds += each
                yield
            return None if before is None else msgpack.unpackb(before)  # type: ignore[return-value]
        finally:
            self.ended += 1


class Own:
    """A user's machine: durable by snapshots, asked on a helper thread."""

    node: OneNode
    total = 0

    def apply(self, entry: Any) -> int:
        self.total += 1
        return self.total

    def query(self, seconds: float) -> int:
        self.node.clock.seconds += seconds
        return self.total

    def snapshot(self) -> list[bytes]:
        return [b"%d" % self.total]

    def restore(self, chunks: Any) -> None:
        self.total = int(b"".join(chunks))


def single(machine: type = Reporting, size: int = 1, **options: Any) -> OneNode:
    node = OneNode(size, machine=machine, options=RaftSettings(**options))
    node.ledger.applier.machine.node = node  # type: ignore[attr-defined]
    return node


def ask(node: OneNode, *queries: Any, first: int = 1, wait_ms: int = 0, consistency: str = "linearizable") -> None:
    packed = tuple((number, msgpack.packb(query)) for number, query in enumerate(queries, first))
    node.request("", "gateway", Read(consistency, packed, wait_ms))


def answers(node: OneNode) -> list[tuple[int, str, Any]]:
    return [
        (number, code, msgpack.unpackb(payload))
        for _, message in node.messages(ReadResults)
        for number, code, payload in message.items
    ]


def numbers(node: OneNode) -> list[list[int]]:
    return [[number for number, _, _ in message.items] for _, message in node.messages(ReadResults)]


# --- barriers --------------------------------------------------------------------------------------------------------


class Silent(Own):
    """A user's machine that nobody may ask."""

    def query(self, seconds: float) -> int:
        raise AssertionError("a barrier asks the machine nothing")


def test_a_barrier_is_answered_with_the_index_of_the_state_and_the_machine_is_not_asked() -> None:
    node = single(Silent)
    node.request("", "gateway", Read("linearizable", ((1, b""),)))
    node.run_jobs()
    [(_, message)] = node.messages(ReadResults)
    assert (message.applied, message.stale_ms) == (node.ledger.applied, 0)
    assert answers(node) == [(1, "", None)]


def test_a_barrier_is_refused_while_a_users_machine_is_handed_a_snapshot() -> None:
    node = single(Silent)
    node.ledger.begin_replacing()
    node.request("", "gateway", Read("stale", ((1, b""),)))
    node.run_jobs()
    [(_, message)] = node.messages(ReadResults)
    assert [(number, code) for number, code, _ in message.items] == [(1, UnavailableError.code)]


# --- slices ----------------------------------------------------------------------------------------------------------


def test_a_turn_answers_for_a_quarter_of_a_heartbeat_and_the_next_turns_do_the_rest() -> None:
    node = single()
    before = node.engine.totals.turns
    ask(node, *[["a", 0.01]] * 10)
    assert numbers(node) == [[1, 2, 3], [4, 5, 6], [7, 8, 9], [10]]
    assert node.engine.totals.turns - before >= 4
    assert not [event for event in node.events if isinstance(event, QuerySlow)]


def test_heartbeats_leave_between_the_slices_of_many_queries() -> None:
    node = single(size=3)
    lead(node)
    ask(node, *[["a", 0.02]] * 20)
    round_ = node.engine.cells.actor("replication").leadership.reads.round
    node.sent.clear()
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, round_))
    kinds = [type(message).__name__ for to, message in node.sent if to != "disk"]
    assert kinds.count("ReadResults") == 10
    assert "AppendEntries" in kinds[kinds.index("ReadResults") : len(kinds) - kinds[::-1].index("ReadResults")]


def test_a_large_answer_is_cut_into_frames() -> None:
    node = single()
    node.request("", "gateway", OpenSession(60_000))
    session = node.last(SessionOpened).session
    value = "x" * 400_000
    node.request("", "gateway", Submit(session, 1, ((1, Command("set", {"key": "k", "value": value}).encode()),)))
    ask(node, *["k"] * 10)
    assert [number for number, _, _ in answers(node)] == list(range(1, 11))
    assert max(map(len, numbers(node))) == 3


def test_a_query_that_takes_long_is_told_by_its_name() -> None:
    node = single()
    ask(node, ["report", 0.3], ["raise", 0.2], ["quick", 0.05])
    assert answers(node)[0] == (1, "", "report")
    assert answers(node)[1][1] == "CONSENSUS_COMMAND_FAILED"
    told = [event for event in node.events if isinstance(event, QuerySlow)]
    assert [(event.query, event.untold) for event in told] == [("['report', 0.3]", 0)]
    assert told[0].duration == pytest.approx(0.3)
    node.request("", "gateway", GetStatus())
    assert node.last(Status).fields["slow_queries_total"] == 2


# --- steps -----------------------------------------------------------------------------------------------------------


def test_a_query_in_steps_answers_from_its_first_step_and_commands_are_applied_meanwhile() -> None:
    node = single()
    node.request("", "gateway", OpenSession(60_000))
    session = node.last(SessionOpened).session
    increment = Command("increment", {"key": "n"}).encode()
    node.request("", "gateway", Submit(session, 1, ((1, increment),)))
    applied = node.ledger.applied
    packed = ((1, msgpack.packb(["s", *[0.05] * 20])),)
    node.engine.turn([(node.frame("", "gateway", Read("linearizable", packed)), "c")], [])
    for seq in range(2, 5):
        frame = node.frame("", "gateway", Submit(session, 1, ((seq, increment),)))
        node.engine.turn([(frame, "c")], [])
        node.engine.turn([], [])
    assert node.ledger.applied == applied + 3
    node.turn()
    assert answers(node) == [(1, "", 1)]
    assert node.messages(ReadResults)[-1][1].applied == applied


def test_quick_queries_pass_those_in_steps() -> None:
    node = single()
    ask(node, ["s", *[0.01] * 30], ["a", 0.0])
    assert [number for number, _, _ in answers(node)] == [2, 1]


def test_the_end_of_a_leadership_refuses_every_read_once_and_ends_the_steps() -> None:
    node = single(size=3)
    lead(node)
    ask(node, ["s", *[0.01] * 30], consistency="stale", first=7)
    packed = ((1, msgpack.packb(["s", *[0.01] * 30])), (2, msgpack.packb(["a", 0.01])))
    node.request("", "gateway", Read("linearizable", packed))
    node.sent.clear()
    node.request("n2", "replication", AppendEntries(node.ledger.term + 1, 0, 0, 0, 0, ()))
    assert [message.code for _, message in node.messages(Refused)] == ["CONSENSUS_NOT_LEADER"]
    assert node.engine.ledger.applier.machine.ended == 1  # type: ignore[attr-defined]
    assert not node.engine.cells.actor("gateway").waiting.reads


# --- admission -------------------------------------------------------------------------------------------------------


def test_a_client_with_too_many_queries_is_refused_as_busy() -> None:
    node = single(size=3, outstanding_max=5)
    lead(node)
    ask(node, "a", "b", "c")
    ask(node, "d", "e", "f", first=4)
    assert node.last(Refused).code == "CONSENSUS_BUSY"
    ask(node, "d", "e", first=4)
    assert len(node.messages(Refused)) == 1


def test_queries_that_would_wait_too_long_are_refused_as_busy_and_one_is_always_taken() -> None:
    node = single(size=3)
    lead(node)
    gateway = node.engine.cells.actor("gateway")
    gateway.capacity.query_pace.each = 0.2
    ask(node, "a", "b", "c", "d")
    assert not node.messages(Refused)
    ask(node, "e", first=5)
    assert node.last(Refused).code == "CONSENSUS_BUSY"
    assert "4 queries wait" in node.last(Refused).text


def test_a_query_that_is_asked_again_while_it_waits_is_answered_once() -> None:
    node = single(size=3)
    lead(node)
    for _ in range(3):
        ask(node, ["a", 0.0], ["b", 0.0])
    round_ = node.engine.cells.actor("replication").leadership.reads.round
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, round_))
    assert answers(node) == [(1, "", "a"), (2, "", "b")]
    ask(node, ["a", 0.0])  # its answer was lost
    assert len(node.engine.unanswered) == 1


def test_a_number_twice_in_one_frame_is_answered_once_and_harms_nobody() -> None:
    """Two such frames would end what the gateway knows of the connection too early, and the actors with it."""
    node = single()
    queries = tuple((1, msgpack.packb([name, 0.03])) for name in "abc")
    for frame in (Read("stale", queries), Read("stale", queries[:1])):
        node.engine.turn([(node.frame("", "gateway", frame), "->client")], [])
    for _ in range(4):
        node.turn()
    assert node.engine.cells.generation == 0
    assert {number for number, _, _ in answers(node)} == {1}
    gateway = node.engine.cells.actor("gateway")
    assert (gateway.waiting.asked, gateway.waiting.queries, len(node.engine.unanswered)) == ({}, 0, 0)


def test_what_nobody_waits_for_is_dropped_before_the_machine_is_asked() -> None:
    node = single(size=3)
    lead(node)
    ask(node, ["late", 0.0], wait_ms=100)
    node.clock.seconds += 0.2
    ask(node, ["early", 0.0], first=2, wait_ms=1000)
    round_ = node.engine.cells.actor("replication").leadership.reads.round
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, round_ + 1))
    assert answers(node) == [(2, "", "early")]
    assert not len(node.engine.unanswered)


# --- a user's machine ------------------------------------------------------------------------------------------------


class Broken:
    """A message that no actor handles, so the one that gets it fails."""


def fail_actor(node: OneNode, *frames: tuple[bytes, str]) -> None:
    """Have an actor fail at the end of a turn that took these frames."""
    node.engine.after(0.0, node.engine.actor("health"), Broken())
    node.turn(*frames)


def test_a_users_machine_is_asked_on_a_helper_thread_and_rests_meanwhile() -> None:
    node = single(Own)
    node.request("", "gateway", OpenSession(60_000))
    session = node.last(SessionOpened).session
    ask(node, 1.3)
    assert node.ledger.applier.lent
    node.request("", "gateway", Submit(session, 1, ((1, Command("x").encode()),)))
    node.turn(notices=[TakeSnapshot()])
    assert node.ledger.applied == session
    assert len(node.jobs) == 1  # no snapshot is captured while the machine is lent
    node.run_jobs()
    assert answers(node) == [(1, "", 0)]
    assert node.ledger.applied == session + 1
    assert [event.query for event in node.events if isinstance(event, QuerySlow)] == ["1.3"]


def test_a_machine_that_is_bound_to_its_thread_is_asked_on_the_nodes_own() -> None:
    class Bound(Own):
        query_elsewhere = False

    node = single(Bound)
    ask(node, 0.01)
    assert not node.jobs
    assert answers(node) == [(1, "", 0)]


def test_after_a_rebuild_of_the_actors_the_machine_is_used_again_when_the_helper_is_done() -> None:
    node = single(Own)
    node.request("", "gateway", OpenSession(60_000))
    ask(node, 0.0)
    (job, done) = node.jobs.pop()
    node.request("", "gateway", Submit(2, 1, ((1, Command("x").encode()),)))
    fail_actor(node)
    assert [message.code for _, message in node.messages(Refused)][-1] == "CONSENSUS_OUTCOME_UNKNOWN"
    ask(node, 0.0, first=2, consistency="stale")
    assert not node.jobs
    done(job(), "")  # the report is for actors that are gone
    assert not node.ledger.applier.lent
    for _ in range(5):
        node.clock.seconds += 0.02
        node.turn()
    node.run_jobs()
    assert [number for number, _, _ in answers(node)] == [2]


def test_a_turn_that_is_taken_back_lends_nothing() -> None:
    node = single(Own)
    node.request("", "gateway", OpenSession(60_000))
    packed = ((1, msgpack.packb(0.0)),)
    fail_actor(node, (node.frame("", "gateway", Read("stale", packed)), "c"))
    assert not node.jobs
    assert not node.ledger.applier.lent


class Stepping(Own):
    """A user's machine whose queries have steps; `at_work` says whether another thread uses it."""

    at_work = False

    def query_steps(self, query: Any) -> Iterator[None]:
        try:
            for _ in range(query):
                assert not self.at_work
                self.node.clock.seconds += 0.1
                yield
            return self.total  # type: ignore[return-value]
        finally:
            assert not self.at_work


def test_queries_in_steps_rest_while_a_users_machine_is_handed_a_snapshot() -> None:
    node = single(Stepping)
    machine: Any = node.ledger.applier.machine
    ask(node, 3, consistency="stale")
    job, done = node.jobs.pop()
    done(job(), "")
    node.turn()
    if node.jobs:
        job, done = node.jobs.pop()
        done(job(), "")
        node.engine.turn([], [])  # the report of a slice after which the query is not done
    node.ledger.begin_replacing()
    machine.at_work = True
    for _ in range(3):
        node.clock.seconds += 0.02
        node.turn()
    assert not node.jobs
    assert not answers(node)
    assert 0.0 < node.engine.patience(1.0) < 0.02, "and the node does not spin"
    machine.at_work = node.ledger.applier.replacing = False
    for _ in range(5):
        node.clock.seconds += 0.02
        node.turn()
        node.run_jobs()
    assert answers(node) == [(1, "", 0)]


class Asked(Own):
    """A user's machine whose queries take 30 ms each, in which the node goes on with its turns."""

    def query(self, seconds: float) -> int:
        for _ in range(3):
            self.node.clock.seconds += 0.01
            self.node.turn()
        return self.total


def test_a_snapshot_gets_the_machine_between_queries_that_never_end() -> None:
    node = single(Asked)
    node.request("", "gateway", OpenSession(60_000))
    ask(node, *[0.0] * 50, consistency="stale")
    node.turn(notices=[TakeSnapshot()])
    for _ in range(5):
        job, done = node.jobs.pop(0)
        done(job(), "")
        node.turn()
        node.wait(0.03)
    assert node.engine.opened.snapshots.newest is not None
    assert len(answers(node)) >= 3, "and the queries go on"


def test_a_long_scan_is_answered_in_steps_between_which_commands_are_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is of the state of its first step, which the answer names."""
    node = single()
    machine: Any = node.ledger.applier.machine
    count = 4 * STEP_ROWS
    for number in range(count):
        machine.apply(Entry(1, 1, 0, Command("set", {"key": f"k{number:05}", "value": "old"})))
    taken: list[str] = []
    add = Page.add

    def slow(page: Page, key: str, value: bytes) -> bool:
        node.clock.seconds += 0.03 / STEP_ROWS  # so a step takes longer than a slice
        return add(page, key, value)

    monkeypatch.setattr(Page, "add", slow)
    node.request("", "gateway", OpenSession(60_000))
    session = node.last(SessionOpened).session
    packed = (1, msgpack.packb({"scan": "k", "limit": 10_000}))
    frames = [(node.frame("", "gateway", Read("linearizable", (packed,))), "c")]
    node.engine.turn(frames, [])
    applied = node.ledger.applied
    command = Command("set", {"key": "k00000", "value": "new"}).encode()
    for number in range(1, 200):
        if numbers(node):
            break
        node.clock.seconds += 0.01
        node.engine.turn([(node.frame("", "gateway", Submit(session, number, ((number, command),))), "c")], [])
        taken.append(machine.query("k00000"))
    assert len(taken) > 3
    assert "new" in taken
    [(_, answer)] = node.messages(ReadResults)
    assert applied <= answer.applied < node.ledger.applied
    [(number, code, rows)] = answers(node)
    assert (number, code, len(rows)) == (1, "", count)
    assert rows[0] == ["k00000", "old"]


@pytest.mark.parametrize(("stale_ms", "told"), [(NEVER_MS, NEVER_MS), (7, 1507)])
def test_an_age_that_is_not_known_stays_so_while_the_node_applies(stale_ms: int, told: int) -> None:
    """A read without a bound accepts it; one millisecond more would be refused."""
    desk = cast("Any", SimpleNamespace(slice_began=1.0, clock=SimpleNamespace(reading=lambda: 2.5)))
    desk.ledger = SimpleNamespace(applied=5)
    assert QueryDesk.stale_ms_of(desk, Answers(cast("Any", None), [], 4, stale_ms)) == told
