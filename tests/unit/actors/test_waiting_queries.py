"""Queries for changes that wait on a node until there is one, on one node alone."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import OpenSession, Read, ReadResults, Refused, SessionOpened, Submit
from forge_consensus.actors.notices import Retire
from forge_consensus.actors.queries import WAKE_SECONDS
from forge_consensus.actors.raft import answering
from forge_consensus.actors.raft.waiting import IN_TIME
from forge_consensus.config.raft import RaftSettings
from forge_consensus.storage.machines import kv_history
from forge_consensus.storage.machines.machine import Command
from tests.unit.actors.test_queries import fail_actor
from tests.worlds.one_node import OneNode


class Asked:
    """A node that leads alone, a client that writes, and one that asks for changes."""

    def __init__(self, size: int = 1, **options: Any) -> None:
        self.node = OneNode(size, options=RaftSettings(**options))
        self.seq = 0
        self.node.request("", "gateway", OpenSession(3_600_000))
        self.session = self.node.last(SessionOpened).session
        self.number = 0

    def do(self, name: str, **payload: Any) -> None:
        self.seq += 1
        commands = ((self.seq, Command(name, payload).encode()),)
        self.node.request("", "gateway", Submit(self.session, self.seq, commands))

    def ask(self, text: str, wait_ms: int = 10_000, *, client: str = "watcher", **given: Any) -> int:
        """Ask for changes from now on; returns the number of the query."""
        self.number += 1
        client_ms = given.pop("client_ms", 0)
        query = {"changes": text, "since": self.node.ledger.applied + 1, "wait_ms": wait_ms, **given}
        read = Read("stale", ((self.number, msgpack.packb(query)),), client_ms)
        self.node.turn((self.node.frame("", "gateway", read), client))
        return self.number

    @property
    def answers(self) -> dict[int, Any]:
        found = {}
        for _, message in self.node.messages(ReadResults):
            for number, code, payload in message.items:
                assert number not in found, "one query has one answer"
                assert not code, msgpack.unpackb(payload)
                found[number] = msgpack.unpackb(payload)
        return found

    @property
    def kept(self) -> int:
        gateway = self.node.engine.cells.actor("gateway")
        waits = gateway.ledger.applier.machine.watches
        assert len(waits) <= len(gateway.answering.kept)
        return len(gateway.answering.kept)


def keys(answer: Any) -> list[str]:
    return [change[1] for change in answer["changes"]]


def test_a_question_waits_until_something_that_it_asks_for_changes() -> None:
    asked = Asked()
    exact, prefix = asked.ask("a/1", key=True), asked.ask("a/")
    everything, other = asked.ask(""), asked.ask("b/")
    assert asked.answers == {}
    assert asked.kept == 4
    asked.do("set", key="a/2", value=1)
    assert sorted(asked.answers) == [prefix, everything]
    assert keys(asked.answers[prefix]) == ["a/2"]
    index = asked.node.ledger.applied
    assert asked.answers[prefix]["next"] == index + 1
    asked.node.wait(WAKE_SECONDS)
    asked.do("set", key="a/1", value=2)
    assert keys(asked.answers[exact]) == ["a/1"]
    asked.node.wait(60)
    assert asked.answers[other] == {"changes": [], "next": index + 2, "oldest": asked.answers[other]["oldest"]}
    assert asked.kept == 0


def test_a_question_for_what_is_there_waits_for_nothing() -> None:
    asked = Asked()
    asked.do("set", key="a", value=1)
    number = asked.ask("a", since=1)
    assert keys(asked.answers[number]) == ["a"]
    assert asked.kept == 0


def test_a_wait_that_is_over_is_answered_with_what_was_looked_at() -> None:
    asked = Asked()
    number = asked.ask("a", wait_ms=500)
    asked.do("set", key="b", value=1)
    asked.node.wait(0.4)
    assert asked.answers == {}
    asked.node.wait(0.2)
    assert asked.answers[number]["next"] == asked.node.ledger.applied + 1
    assert asked.answers[number]["changes"] == []


def test_a_client_is_answered_before_it_gives_up() -> None:
    asked = Asked()
    number = asked.ask("a", wait_ms=60_000, client_ms=1000)
    asked.node.wait(IN_TIME + 0.1)
    assert number in asked.answers


def test_woken_is_seldom_however_often_something_changes() -> None:
    asked = Asked()
    machine: Any = asked.node.ledger.applier.machine
    looks = 0
    woken = machine.watches.woken

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return woken()

    machine.watches.woken = counted
    for number in range(5):
        asked.ask(f"never/{number}", wait_ms=60_000)
    for number in range(300):
        asked.do("set", key=f"k{number}", value=1)
        asked.node.wait(0.001)
    assert looks <= 0.3 / WAKE_SECONDS + 2
    assert asked.answers == {}
    last = asked.ask("k", wait_ms=60_000)
    asked.do("set", key="k", value=1)
    asked.node.wait(WAKE_SECONDS)
    assert keys(asked.answers[last]) == ["k"]


def test_nothing_happens_while_nothing_changes() -> None:
    asked = Asked()
    asked.ask("a", wait_ms=60_000)
    asked.node.wait(1.0)
    gateway = asked.node.engine.cells.actor("gateway")
    before = asked.node.engine.timers.number
    beats = asked.node.settings.heartbeat_interval
    asked.node.wait(10.0)
    assert asked.node.engine.timers.number - before < 3.5 * 10.0 / beats, "the timers of a node without questions"
    assert not gateway.answer_due


def test_a_long_wait_is_not_told_that_its_history_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_history, "CHANGES_MAX", 20)
    monkeypatch.setattr(kv_history, "PART_CHANGES", 5)
    asked = Asked()
    waiting, over = asked.ask("a", wait_ms=60_000), asked.ask("x", wait_ms=5000)
    for number in range(100):
        asked.do("set", key=f"b{number}", value=1)
        asked.node.wait(WAKE_SECONDS)
    machine: Any = asked.node.ledger.applier.machine
    assert machine.history.oldest > 70
    asked.do("set", key="a", value=1)
    asked.node.wait(WAKE_SECONDS)
    assert keys(asked.answers[waiting]) == ["a"]
    asked.node.wait(5)
    assert asked.answers[over]["next"] == asked.node.ledger.applied + 1
    gone = asked.ask("a", since=3)
    assert asked.answers[gone]["changes"] == []
    assert asked.answers[gone]["next"] == 3 < asked.answers[gone]["oldest"]


def test_a_question_wakes_when_the_history_runs_away_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_history, "CHANGES_MAX", 20)
    monkeypatch.setattr(kv_history, "PART_CHANGES", 5)
    asked = Asked()
    number = asked.ask("a", wait_ms=60_000)
    asked.do("batch", ops=[{"type": "set", "key": f"b{n}", "value": 1} for n in range(100)])
    asked.node.wait(WAKE_SECONDS)
    answer = asked.answers[number]
    assert (answer["changes"], answer["next"] < answer["oldest"]) == ([], True)


def test_a_question_that_passes_much_goes_on_before_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_history, "PASSED_MAX", 10)
    asked = Asked()
    for number in range(35):
        asked.do("set", key=f"b{number}", value=1)
    part = asked.ask("a", since=1, wait_ms=0)
    assert asked.answers[part]["next"] < asked.node.ledger.applied
    number = asked.ask("a", since=1, wait_ms=1000)
    assert number not in asked.answers
    asked.do("set", key="a", value=1)
    asked.node.wait(WAKE_SECONDS)
    assert keys(asked.answers[number]) == ["a"]


def test_beyond_a_bound_questions_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "KEPT_MAX", 3)
    asked = Asked()
    numbers = [asked.ask("a", client=f"client {n}") for n in range(5)]
    assert sorted(asked.answers) == numbers[3:]
    assert asked.kept == 3


def test_questions_that_wait_count_as_those_of_their_client_and_as_no_work() -> None:
    asked = Asked(outstanding_max=4, backlog_seconds_max=0.02)
    gateway = asked.node.engine.cells.actor("gateway")
    gateway.capacity.query_pace.note(1, 0.01)
    for _ in range(6):
        asked.ask("a")
    assert [message.code for _, message in asked.node.messages(Refused)] == ["CONSENSUS_BUSY"] * 2
    other = asked.ask("a", client="another", wait_ms=0)
    assert other in asked.answers
    assert gateway.waiting.kept == 4
    asked.do("set", key="a", value=1)
    asked.node.wait(1)
    assert gateway.waiting.kept == 0
    assert gateway.waiting.queries == 0
    assert not len(asked.node.engine.unanswered)


def test_a_node_that_stops_answers_what_waits_and_keeps_no_more() -> None:
    asked = Asked()
    number = asked.ask("a", wait_ms=60_000)
    asked.node.engine.next_turn(asked.node.engine.actor("gateway"), Retire("asked to"))
    asked.node.turn()
    assert asked.answers[number]["changes"] == []
    later = asked.ask("a", wait_ms=60_000)
    assert asked.answers[later]["changes"] == []


def test_a_question_whose_client_does_not_wait_any_more_is_dropped() -> None:
    asked = Asked()
    asked.ask("a", wait_ms=60_000)
    gateway = asked.node.engine.cells.actor("gateway")
    (read,) = gateway.waiting.reads
    read.until_ns = 0
    asked.do("set", key="a", value=1)
    asked.node.wait(1)
    assert asked.answers == {}
    assert (asked.kept, gateway.waiting.queries) == (0, 0)


def test_an_answer_has_whole_entries_and_the_number_that_was_asked_for() -> None:
    asked = Asked()
    asked.do("batch", ops=[{"type": "set", "key": f"b{n}", "value": n} for n in range(5)])
    asked.do("set", key="c", value=1)
    first = asked.ask("", since=1, limit=2)
    page = asked.answers[first]
    assert keys(page) == ["b0", "b1", "b2", "b3", "b4"]
    second = asked.ask("", since=page["next"], limit=2)
    assert keys(asked.answers[second]) == ["c"]


def test_actors_that_fail_leave_no_question_behind() -> None:
    asked = Asked()
    asked.ask("a", wait_ms=60_000)
    machine: Any = asked.node.ledger.applier.machine
    assert len(machine.watches) == 1
    fail_actor(asked.node)
    assert [message.code for _, message in asked.node.messages(Refused)] == ["CONSENSUS_OUTCOME_UNKNOWN"]
    assert len(machine.watches) == 0
