"""The rules of keys and leases: what they must find in answers, changes, times and states, and what they accept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from loguru import logger

from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.testing.histories.history import Operation, Outcome
from forge_consensus.testing.rules.agreement import result_of
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.rules.key_log import KeyLog
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.conditions import SHARES, Conditions
from forge_consensus.testing.simulator.key_judge import KeyJudge
from forge_consensus.testing.simulator.leased_keys import COMMANDS, QUERIES, LeasedKeysWorkload
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation

TTL_MS = 1000


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


class Bench:
    """A machine, and a log that is told of what it makes."""

    def __init__(self) -> None:
        self.machine = KeyValueMachine()
        self.invariants = Invariants()
        self.invariants.leaders[1] = "n1"
        self.log = KeyLog(self.invariants)
        self.judge = KeyJudge(LeasedKeysWorkload(), self.log)
        self.index = 0
        self.now = 0.0

    def apply(self, name: str, at_ms: int, written: float | None = None, **payload: Any) -> int:
        """Apply a command whose entry was written at a moment, that of its time if none is given."""
        self.index += 1
        entry = Entry(self.index, 1, 0, Command(name, payload, f"c {self.index}"), at_ms)
        key = self.index, 1
        self.invariants.sessions.written[key] = at_ms / 1000 if written is None else written
        self.invariants.sessions.written_by[key] = "n1"
        self.log.applies(entry, result_of(self.machine, entry)[0])
        return self.index

    def ask(self, query: Any) -> None:
        self.log.check_answer("c", query, self.index, self.machine.query(query))

    def call(self, kind: str, argument: Any) -> Operation:
        self.now += 1.0
        operation = Operation("c", kind, "k/", argument, self.now)
        self.judge.invoked(operation)
        return operation

    def end(self, operation: Operation, result: Any, applied: int = 0) -> None:
        operation.outcome, operation.result, operation.applied = Outcome.OK, result, applied
        self.judge.answered(operation)


def used() -> Bench:
    """A bench whose keys have revisions and leases."""
    bench = Bench()
    bench.apply("lease_grant", 0, ttl_ms=TTL_MS)
    bench.apply("set", 10, key="k/a", value=1, lease=1)
    bench.apply("set", 20, key="k/b", value=2)
    bench.apply("set", 30, key="k/b", value=3)
    bench.apply("set", 40, key="k/c", value=4, ttl_ms=5000)
    return bench


def test_right_answers_pass() -> None:
    bench = used()
    asked: list[Any] = [
        "k/a",
        {"get": "k/none"},
        {"entry": "k/b"},
        {"entries": "k/", "reverse": True, "after": "k/c"},
        {"entries": "", "start": "k/b", "end": "k/c", "limit": 1},
        {"scan": "k/", "limit": 2},
        {"count": "k/"},
        {"lease": 1},
        {"leases": 0},
        {"changes": "k/", "since": 1},
        {"changes": "k/b", "since": 2, "key": True, "limit": 1},
        {"changes": "k/", "since": 99},
    ]
    for query in asked:
        bench.ask(query)
    bench.apply("expire", 2000)
    for query in asked:
        bench.ask(query)
    assert bench.log.ended == 1
    assert bench.log.state_at(5).keys.keys() == {"k/a", "k/b", "k/c"}, "earlier states stay as they were"
    assert bench.log.state_at(6).keys.keys() == {"k/b", "k/c"}


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ({"entry": "k/b"}, ["k/b", 3, 4, 4, 0]),
        ({"entry": "k/b"}, None),
        ({"lease": 1}, [1, TTL_MS, 959, ["k/a"]]),
        ({"leases": 0}, [[1, TTL_MS, 960, 1]]),
        ({"get": "k/a"}, True),
        ({"changes": "k/b", "since": 1}, {"changes": [[4, "k/b", 3, 3, 0, "put"]], "next": 6, "oldest": 1}),
        ({"changes": "k/b", "since": 5}, {"changes": [], "next": 7, "oldest": 1}),
        ({"changes": "k/b", "since": 5}, {"changes": [], "next": 5, "oldest": 1}),
        ({"changes": "k/b", "since": 1}, {"changes": [], "next": 4, "oldest": 2}),
    ],
)
def test_wrong_answers_are_found(query: Any, wrong: Any) -> None:
    with pytest.raises(ViolationError, match="keys: "):
        used().log.check_answer("c", query, 5, wrong)


def test_a_history_that_is_gone_is_told_as_such() -> None:
    used().log.check_answer("c", {"changes": "", "since": 1}, 5, {"changes": [], "next": 1, "oldest": 3})


def test_a_result_that_the_model_does_not_find_is_one_too_many() -> None:
    bench = used()
    with pytest.raises(ViolationError, match=r"keys: .*by the model 4"):
        bench.log.applies(Entry(6, 1, 0, Command("increment", {"key": "k/b"}, "c"), 50), "5")
    with pytest.raises(ViolationError, match="it must fail"):
        bench.log.applies(Entry(7, 1, 0, Command("set", {"key": "k/b", "value": 1, "lease": 99}), 50), "None")
    with pytest.raises(ViolationError, match=r"I14: .* at 2 and at 8"):
        bench.log.applies(Entry(8, 1, 0, Command("expire", {}, "c 2"), 50), "None")
    with pytest.raises(ViolationError, match="I5: "):
        bench.log.applies(Entry(3, 1, 0, Command("expire", {}), 50), "None")


def test_a_lease_that_ends_early_by_the_virtual_time_is_found() -> None:
    bench = used()
    with pytest.raises(ViolationError, match=r"lease: .* ends lease 1 of 1000 ms, 0.800 s after entry 1"):
        bench.apply("expire", TTL_MS, 0.8)


def test_clocks_may_differ_a_little_and_a_lease_counts_from_when_it_was_kept_alive() -> None:
    bench = used()
    bench.apply("lease_keep_alive", 500, lease=1)
    bench.apply("expire", 500 + TTL_MS, 1.42)
    assert bench.log.ended == 1
    bench = used()
    bench.apply("lease_keep_alive", 500, lease=1)
    with pytest.raises(ViolationError, match="after entry 6"):
        bench.apply("expire", 500 + TTL_MS, 1.2)


def test_nothing_is_said_of_times_that_nobody_knows() -> None:
    bench = used()
    bench.invariants.sessions.written_by[1, 1] = "n2"  # its leader may have written it much earlier
    bench.apply("expire", TTL_MS, 0.1)
    assert bench.log.ended == 1


def test_the_order_of_the_log_must_agree_with_time() -> None:
    bench = used()
    late, early = bench.call("set", "c 2"), bench.call("set", "c 3")
    bench.end(early, None)
    bench.end(late, None)
    with pytest.raises(ViolationError, match=r"I15: .* is entry 4, and entry 5 was known before"):
        bench.end(read_then(bench, "c 4"), None)
    with pytest.raises(ViolationError, match=r"I13: .*entry 4, and entry 5"):
        bench.end(bench.call("entry", {"entry": "k/b"}), ["k/b", 3, 3, 4, 0], 4)
    stale = bench.call("entry", {"entry": "k/b"})
    stale.consistency = "stale"
    bench.end(stale, ["k/b", 3, 3, 4, 0], 4)


def read_then(bench: Bench, argument: str) -> Operation:
    """Begin a command behind a read that saw everything."""
    bench.end(bench.call("get", {"get": "k/b"}), 3, 5)
    return bench.call("set", argument)


def test_each_answer_is_that_of_its_entry() -> None:
    bench = used()
    index = bench.apply("cas", 50, key="k/b", expected=7, value=8)
    bench.end(bench.call("cas", f"c {index}"), result=False)
    bench.judge.seen = 0
    with pytest.raises(ViolationError, match=r"I14: .* got True"):
        bench.end(bench.call("cas", f"c {index}"), result=True)
    with pytest.raises(ViolationError, match="no machine has applied it"):
        bench.end(bench.call("set", "c 77"), None)
    failing = bench.apply("lease_keep_alive", 60, lease=44)
    reason = ["ValueError", "lease 44 does not exist: it expired or was revoked"]
    bench.judge.seen = 0
    bench.judge.failed(bench.call("lease_keep_alive", f"c {failing}"), "CONSENSUS_COMMAND_FAILED", reason)
    with pytest.raises(ViolationError, match="I14"):
        bench.judge.seen = 0
        bench.judge.failed(bench.call("set", "c 2"), "CONSENSUS_COMMAND_FAILED", reason)


def test_what_was_refused_for_certain_is_in_no_entry() -> None:
    bench = used()
    refused = bench.call("set", "c 2")
    bench.judge.refused(refused, 1.0)
    bench.judge.settle(copies=True)
    bench.judge.refused(refused, 1.0)
    with pytest.raises(ViolationError, match="was refused, and it is entry 2"):
        bench.judge.settle(copies=False)


def test_the_workload_draws_all_kinds_and_the_same_from_the_same_seed() -> None:
    def drawn(seed: int) -> list[Any]:
        chance, workload = random.Random(seed), LeasedKeysWorkload()
        return [(workload.command(chance, "c"), workload.query(chance, "c")) for _ in range(1500)]

    assert drawn(1) == drawn(1) != drawn(2)
    calls = drawn(1)
    assert {call.kind for call, _ in calls} == set(COMMANDS)
    assert {call.kind for _, call in calls} == set(QUERIES)
    names = [call.command.correlation_id for call, _ in calls if call.command is not None]
    assert len(set(names)) == len(names)


def test_plans_draw_leases_and_nothing_else_moves() -> None:
    leased = [Plan.of(seed) for seed in range(300)]
    assert 70 < sum(plan.conditions.leases for plan in leased) < 130
    shares = {"leases": 0.0}
    for plan in leased[:100]:
        without = replace(plan, conditions=replace(plan.conditions, leases=False))
        assert Plan.of(plan.seed, shares={**SHARES, **shares}) == without


def test_plans_draw_a_list_of_access_and_nothing_else_moves() -> None:
    plans = [Plan.of(seed) for seed in range(300)]
    assert 20 < sum(plan.conditions.access for plan in plans) < 55
    for plan in plans[:100]:
        without = replace(plan, conditions=replace(plan.conditions, access=False))
        assert Plan.of(plan.seed, shares={**SHARES, "access": 0.0}) == without


def test_a_run_with_leases_judges_what_its_clients_and_watchers_see() -> None:
    plan = Plan(5, nodes=3, clients=2, seconds=4.0, kinds=("kill",), conditions=Conditions(leases=True))
    with Simulation(plan) as simulation:
        simulation.run()
        keys = simulation.keys
        assert keys is not None
        assert simulation.judge.answers > 50
        assert keys.log.ended > 2
        assert all(watcher.is_at_the_end for watcher in keys.watchers)
        assert keys.watchers[0].told > 30
        keys.watchers[0].found.pop(3)
        with pytest.raises(ViolationError, match="watch: "):
            keys.watchers[0].conclude()
