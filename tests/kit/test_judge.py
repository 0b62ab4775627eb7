"""The judge of a simulation: wrong answers that it must find, correct ones that it must accept, and injected faults."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from loguru import logger

from forge_consensus.events.types import BecameFollower, ConsensusEvent, LeaderElected, NodeStarted
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.testing.histories.history import Operation, Outcome
from forge_consensus.testing.histories.linearizability import Verdict
from forge_consensus.testing.histories.register import Register
from forge_consensus.testing.rules.event_order import EventOrder
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator import judge as judging
from forge_consensus.testing.simulator.audit import Audit, compare
from forge_consensus.testing.simulator.judge import Judge
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.simulator.workload import CountingWorkload, Workload, get
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.simulation.mutants import machine as mutants
from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.mutants.hunt import hunt, known_seeds

FAILED = "CONSENSUS_COMMAND_FAILED"
STALE = "CONSENSUS_SESSION_STALE"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


class Bench:
    """A judge and a clock, to be told of calls one by one."""

    def __init__(self, workload: Workload | None = None) -> None:
        self.judge = Judge(workload)
        self.now = 0.0

    def begin(self, kind: str, key: str = "a", argument: Any = None, consistency: str = "linearizable") -> Operation:
        self.now += 1.0
        operation = Operation("c", kind, key, argument, self.now, consistency=consistency)
        self.judge.invoked(operation)
        return operation

    def end(self, operation: Operation, result: Any) -> None:
        self.now += 1.0
        operation.ended, operation.outcome, operation.result = self.now, Outcome.OK, result
        self.judge.answered(operation)

    def do(self, kind: str, result: Any, key: str = "a", argument: Any = None) -> None:
        self.end(self.begin(kind, key, argument), result)


# --- at once ----------------------------------------------------------------------------------------------------------


def test_two_increments_must_not_make_the_same_value() -> None:
    bench = Bench()
    one, other = bench.begin("increment", argument=1), bench.begin("increment", argument=1)
    bench.end(one, 1)
    with pytest.raises(ViolationError, match=r"^I14.* both made 1"):
        bench.end(other, 1)


def test_a_read_of_a_value_that_no_command_made_is_found() -> None:
    bench = Bench()
    bench.do("increment", 1, argument=1)
    with pytest.raises(ViolationError, match=r"^I14.* got 2, only 1"):
        bench.do("get", 2)


def test_a_read_must_not_miss_an_earlier_acknowledged_write() -> None:
    bench = Bench()
    before = bench.begin("get")
    bench.do("increment", 1, argument=1)
    bench.end(before, None)  # it began earlier, so it may
    with pytest.raises(ViolationError, match=r"^I13.* saw 0, 1 was known"):
        bench.do("get", None)


def test_an_increment_after_an_acknowledged_one_must_make_a_higher_value() -> None:
    bench = Bench()
    bench.begin("increment", argument=1)
    bench.do("increment", 2, argument=1)
    with pytest.raises(ViolationError, match=r"^I15.* made 1, 2 was known"):
        bench.do("increment", 1, argument=1)


def test_a_stale_read_may_miss_acknowledged_writes_but_never_sees_the_future() -> None:
    bench = Bench()
    bench.do("increment", 1, argument=1)
    bench.end(bench.begin("get", consistency="stale"), None)
    with pytest.raises(ViolationError, match=r"^I14"):
        bench.end(bench.begin("get", consistency="stale"), 2)


def test_a_key_with_other_commands_is_not_judged_as_a_counter() -> None:
    bench = Bench()
    bench.do("increment", 1, argument=1)
    under_way = bench.begin("increment", argument=1)
    bench.begin("set", argument=1000)
    bench.end(under_way, 1001)
    bench.do("delete", True)
    bench.do("get", None)
    bench.do("increment", 5, "b", 5)
    bench.judge.conclude()


def test_an_unexplained_error_is_a_violation_and_an_expected_one_is_an_outcome() -> None:
    class Lenient(CountingWorkload):
        may_fail = True

    with pytest.raises(ViolationError, match="failed with CONSENSUS_COMMAND_FAILED"):
        Judge(CountingWorkload()).failed(Operation("c", "set", "a"), FAILED, ["ValueError", "no"])
    operation = Operation("c", "set", "a")
    Judge(Lenient()).failed(operation, FAILED, ["ValueError", "no"])
    assert (operation.outcome, operation.result) == (Outcome.REFUSED, ["ValueError", "no"])
    with pytest.raises(ViolationError, match=STALE):
        Judge(Lenient()).failed(Operation("c", "set", "a"), STALE, None)


# --- at the end -------------------------------------------------------------------------------------------------------


def final(key: str, value: Any) -> Operation:
    """What a node said at the end."""
    return Operation("audit", "get", key, None, 90.0, 91.0, Outcome.OK, value)


def test_the_loss_of_an_acknowledged_write_is_found_at_the_end() -> None:
    bench = Bench()
    bench.do("increment", 1, argument=1)
    bench.do("increment", 2, argument=1)
    bench.judge.final(final("a", 2))
    with pytest.raises(ViolationError, match=r"^I15"):
        bench.judge.final(final("a", 1))
    with pytest.raises(ViolationError, match=r"^I14"):
        bench.judge.final(final("a", 3))


@pytest.mark.parametrize("copies", [False, True])
def test_a_command_refused_by_all_did_not_happen_unless_the_network_made_copies(copies: bool) -> None:
    bench = Bench()
    bench.do("increment", 1, argument=1)
    refused = bench.begin("increment", argument=1)
    bench.judge.refused(refused, 7.0)
    bench.judge.settle(copies=copies)
    assert refused.outcome is (Outcome.OPEN if copies else Outcome.REFUSED)
    if copies:
        bench.judge.final(final("a", 2))
    else:
        with pytest.raises(ViolationError, match=r"^I14.*only 1 were asked for"):
            bench.judge.final(final("a", 2))


def test_a_lost_write_and_a_deleted_key_that_came_back_are_not_linearizable() -> None:
    lost = Bench()
    lost.do("set", None, argument=1000)
    lost.do("get", None)
    with pytest.raises(ViolationError, match="linearizability: key 'a' is not linearizable"):
        lost.judge.conclude()
    back = Bench()
    back.do("set", None, argument=1000)
    back.do("delete", True)
    back.do("get", 1000)
    with pytest.raises(ViolationError, match="not linearizable"):
        back.judge.conclude()


def test_a_cas_that_matched_an_absent_value_is_not_linearizable() -> None:
    bench = Bench()
    bench.do("set", None, argument=1000)
    bench.do("cas", True, argument=(2000, 3000))
    with pytest.raises(ViolationError, match="not linearizable"):
        bench.judge.conclude()


def test_a_call_with_an_unknown_outcome_may_have_happened_or_not() -> None:
    bench = Bench()
    bench.begin("set", argument=1000)
    bench.do("get", None)
    bench.do("get", 1000)
    bench.begin("set", argument=2000)
    bench.judge.conclude()


def test_stale_reads_of_any_kind_need_not_be_linearizable() -> None:
    class Other(Register):
        def step(self, state: Any, operation: Operation) -> tuple[bool, Any]:
            assert operation.kind in {"write", "look"}
            return super().step(state, replace(operation, kind={"write": "set", "look": "get"}[operation.kind]))

        def simplified(self, operations: list[Operation]) -> list[Operation]:
            return operations

    class Own(CountingWorkload):
        model = cast("Any", Other())

    for consistency in ("stale", "linearizable"):
        bench = Bench(Own())
        bench.do("write", None, argument=1000)
        bench.end(bench.begin("look", consistency=consistency), None)
        if consistency == "stale":
            bench.judge.conclude()
        else:
            with pytest.raises(ViolationError, match="not linearizable"):
                bench.judge.conclude()


def test_an_undecided_history_does_not_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "check", lambda *_, **__: Verdict(None, "late", "a"))
    with pytest.raises(ViolationError, match="undecided"):
        Bench().judge.conclude()


# --- the nodes at the end ---------------------------------------------------------------------------------------------


@pytest.fixture
def settled() -> Iterator[Simulation]:
    """Three nodes that have served clients and rest now."""
    with Simulation(Plan(3, nodes=3, clients=2, faults=False, seconds=2.0)) as world:
        world.run()
        yield world


def ledger_of(world: Simulation, node: str) -> Any:
    """A node's ledger."""
    base = world.cluster.nodes[node].running
    assert base is not None
    return base.engine.ledger


def own_machine_of(world: Simulation, node: str) -> KeyValueMachine:
    """A node's machine itself, without who watches it."""
    return cast("KeyValueMachine", ledger_of(world, node).applier.machine.machine)


def test_a_node_that_holds_other_values_is_found_by_comparing(settled: Simulation) -> None:
    compare(settled.cluster.healthy(), settled.state)
    extra = Entry(10**6, 1, 0, Command("set", {"key": "only here", "value": 1}))
    own_machine_of(settled, "n2").apply(extra)
    with pytest.raises(ViolationError, match=r"I5: the state of n1 and n2 differ: .*only here"):
        compare(settled.cluster.healthy(), settled.state)


def test_a_node_that_knows_other_sessions_is_found_by_comparing(settled: Simulation) -> None:
    sessions = ledger_of(settled, "n3").applier.sessions
    sessions.live[min(sessions.live)].done_below += 1
    with pytest.raises(ViolationError, match="I5: the sessions of n1 and n3 differ"):
        compare(settled.cluster.healthy(), settled.state)


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
def test_a_value_that_one_node_lost_is_found_by_the_last_reads(node: str, settled: Simulation) -> None:
    judge, cluster = settled.judge, settled.cluster
    written = next(call for call in reversed(judge.history.operations) if call.result and call.kind == "get")
    own_machine_of(settled, node).fresh.put(written.key, None)
    audit = Audit(cluster, judge)
    with pytest.raises(ViolationError, match=r"linearizability|I15"):
        audit.start([get(written.key)])
        assert cluster.run(5.0, lambda: audit.finished)
        judge.conclude()


def test_the_last_reads_ask_every_node_for_every_key(settled: Simulation) -> None:
    asked = {(call.client, call.key) for call in settled.judge.history if call.client.startswith("audit")}
    keys = {call.key for call in settled.workload.at_the_end()}
    assert asked == {(f"audit of {node}", key) for node in ("n1", "n2", "n3") for key in keys}
    assert {call.key for call in settled.judge.history} == keys


# --- the order of events ----------------------------------------------------------------------------------------------


class Publisher:
    """A cluster of which nothing runs but one node's voice."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.order = EventOrder(cluster)
        cluster.start()
        cluster.run(5.0, cluster.settled)
        self.name = "n1"

    @property
    def stream(self) -> Any:
        """What is known of the node."""
        identity = self.base.engine.ledger.identity
        return self.order.streams[self.name, identity.incarnation]

    @property
    def base(self) -> Any:
        """The node's process."""
        return self.cluster.nodes[self.name].base

    def publish(self, kind: type[ConsensusEvent], ahead: int = 1, term: int | None = None, **payload: Any) -> None:
        """Tell an event so many numbers on."""
        stream = self.stream
        said = stream.term if term is None else term
        self.order.check(self.name, kind(node_id="n1", sequence=stream.number + ahead, term=said, **payload))


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    """One node of three, and the listener."""
    with SimulatedCluster(3, 1) as cluster:
        yield Publisher(cluster)


@pytest.mark.parametrize("ahead", [0, -1, 2])
def test_a_repeated_or_missing_event_number_is_found(ahead: int, publisher: Publisher) -> None:
    publisher.publish(BecameFollower)
    with pytest.raises(ViolationError, match=r"^events: n1 told \d+, then"):
        publisher.publish(BecameFollower, ahead)


def test_a_term_that_goes_back_is_found(publisher: Publisher) -> None:
    publisher.publish(BecameFollower, term=publisher.stream.term + 1)
    with pytest.raises(ViolationError, match="goes back from term"):
        publisher.publish(BecameFollower, term=publisher.stream.term - 1)


def test_two_leaders_of_one_term_are_found(publisher: Publisher) -> None:
    term, leader = max(publisher.order.elected.items())
    other = next(name for name in publisher.cluster.names if name != leader)
    with pytest.raises(ViolationError, match=rf"^I1: n1 told of {other} in {term}, others of {leader}"):
        publisher.publish(LeaderElected, term=term, leader=other, votes=0, total=3, duration=0.0)


def test_a_process_begins_with_a_start_event_and_with_higher_numbers_than_before(publisher: Publisher) -> None:
    with pytest.raises(ViolationError, match="a process of n1 begins with"):
        publisher.publish(NodeStarted)
    publisher.stream.boot -= 1  # as if the present process were new
    with pytest.raises(ViolationError, match="a process of n1 begins with"):
        publisher.publish(BecameFollower)
    with pytest.raises(ViolationError, match="n1 repeats number"):
        publisher.publish(NodeStarted, ahead=-3)


def test_a_finding_of_a_listener_ends_the_run(publisher: Publisher) -> None:
    publisher.cluster.nodes["n1"].bus.publish(BecameFollower(node_id="n1", sequence=1, term=9))
    with pytest.raises(ViolationError, match=r"^events"):
        publisher.cluster.run(1.0)


def test_a_journal_that_lost_events_of_the_present_process_is_found(publisher: Publisher) -> None:
    publisher.order.compare_journals()
    del publisher.base.engine.ledger.journal.waiting[-1:]
    publisher.base.engine.ledger.numbers.sequence += 1
    with pytest.raises(ViolationError, match="its journal ends at"):
        publisher.order.compare_journals()
    publisher.stream.number += 1
    publisher.stream.boots[-1] = publisher.stream.boots[-1][0], publisher.stream.number
    with pytest.raises(ViolationError, match=r"never ended since, lost"):
        publisher.order.compare_journals()


# --- planted faults ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        mutants.a_cas_that_is_sent_again_is_told_to_have_matched,
        mutants.a_deleted_key_comes_back_with_the_checkpoint,
        mutants.a_delete_does_not_tell_whether_there_was_anything,
    ],
)
def test_faults_common_to_all_nodes_are_found_by_the_answers_to_clients(change: Any) -> None:
    first = known_seeds()[change.__name__]
    found = hunt(MUTANTS[change.__name__], range(first, first + 40))
    assert found is not None, "nothing in 40 seeds"
    assert "not linearizable" in found.text, found.text


def test_counting_is_judged_by_the_same_model(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(CountingWorkload())
    monkeypatch.setattr(bench.judge, "counts", False)  # only the whole history is judged
    bench.do("increment", 1, argument=1)
    bench.do("increment", 1, argument=1)
    with pytest.raises(ViolationError, match="not linearizable"):
        bench.judge.conclude()
