"""Workloads and simulated clients: the calls they draw, their retries, and the outcomes they record."""

from __future__ import annotations

import random
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

import msgpack
import pytest
from loguru import logger

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import (
    Locate,
    Located,
    OpenSession,
    Read,
    ReadResults,
    Refused,
    Results,
    SessionOpened,
    Submit,
    WireMessage,
)
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.testing.histories.history import Operation, Outcome
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.client import SimulatedClient
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.simulator.judge import Judge
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.simulator.workload import Call, CountingWorkload, KeyValueWorkload, Workload
from forge_consensus.testing.world.network import Connection, Party
from forge_consensus.testing.world.timeline import Timeline

NOT_LEADER = "CONSENSUS_NOT_LEADER"
UNKNOWN = "CONSENSUS_OUTCOME_UNKNOWN"
EXPIRED = "CONSENSUS_SESSION_EXPIRED"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


# --- the workloads that there are -------------------------------------------------------------------------------------


def drawn(workload: Workload, count: int, seed: int = 1) -> list[Call]:
    """So many commands."""
    chance = random.Random(seed)
    return [workload.command(chance, "c") for _ in range(count)]


@pytest.mark.parametrize("kind", [KeyValueWorkload, CountingWorkload])
def test_a_workload_draws_the_same_calls_from_the_same_seed(kind: type[Workload]) -> None:
    assert drawn(kind(), 300) == drawn(kind(), 300)
    assert drawn(kind(), 300) != drawn(kind(), 300, seed=2)


def test_no_value_is_set_twice_and_each_command_agrees_with_its_history() -> None:
    calls = drawn(KeyValueWorkload(), 2000)
    assert {call.kind for call in calls} == {"set", "cas", "delete", "increment", "get"}
    values = [
        call.argument[1] if call.kind == "cas" else call.argument for call in calls if call.kind in {"set", "cas"}
    ]
    assert len(set(values)) == len(values)
    for call in calls:
        assert call.command is not None
        payload = dict(call.command.payload)
        assert (call.command.type, payload.pop("key")) == (call.kind, call.key)
        argument = call.argument if isinstance(call.argument, tuple) else (call.argument,)
        order = ("expected", "value", "by")
        assert tuple(payload[name] for name in order if name in payload) == (argument if payload else ())


@pytest.mark.parametrize("kind", [KeyValueWorkload, CountingWorkload])
def test_a_key_is_used_a_bounded_number_of_times_and_the_last_reads_see_every_key(kind: Any) -> None:
    workload = kind(calls_a_key=40)
    calls = drawn(workload, 2000)
    used = {key: sum(call.key == key for call in calls) for key in {call.key for call in calls}}
    assert max(used.values()) <= 40
    assert len(used) >= 2000 / 40
    last = [call.key for call in workload.at_the_end()]
    assert set(used) <= set(last)
    assert len(last) == len(set(last))
    assert all(call.command is None and call.query == {"get": call.key} for call in workload.at_the_end())


def test_about_half_of_the_cas_calls_expect_the_present_value() -> None:
    state: dict[str, int] = {}
    matched = []
    for call in drawn(KeyValueWorkload(), 2000):
        value: Any = call.argument
        if call.kind == "cas":
            matched.append(state.get(call.key) == value[0])
            if matched[-1]:
                state[call.key] = value[1]
        elif call.kind == "set":
            state[call.key] = value
        elif call.kind == "increment":
            state[call.key] = state.get(call.key, 0) + value
        elif call.kind == "delete":
            state.pop(call.key, None)
    assert 0.3 < sum(matched) / len(matched) < 0.95


# --- a client and nodes that say what they are told to ----------------------------------------------------------------


class Nodes:
    """What of a cluster a client sees: names, a clock, and a network that hands its frames to the test.

    Every connection stands at once, and every node says that n1 leads in term 1, unless `leader` is another.
    """

    def __init__(self) -> None:
        self.names = ["n1", "n2", "n3"]
        self.configuration = Configuration.of({name: f"{name}:7000" for name in self.names})
        self.timeline = Timeline(7)
        self.network = self
        self.leader, self.term = "n1", 1
        self.links: dict[tuple[str, str], Connection] = {}
        self.asked: list[tuple[Connection, Frame]] = []

    def addresses(self) -> dict[str, str]:
        """The addresses that clients are given."""
        return self.configuration.addresses

    def attach(self, caller: Party, name: str) -> None:
        """A client connects to a node."""

        def connect() -> None:
            self.links[caller.name, name] = Connection(caller, name)
            caller.linked(name, True)

        self.timeline.after(0.001, connect)

    def detach(self, caller: Party) -> None:
        """A client is gone."""
        self.links = {ends: link for ends, link in self.links.items() if link.owner is not caller}

    def ask(self, connection: Connection, data: bytes) -> None:
        """A client's frame."""
        self.asked.append((connection, decode(data, len(data))))
        message = self.asked[-1][1].message
        if isinstance(message, Locate) and (self.leader or not message.wait_ms):
            members, address = self.configuration.members, f"{self.leader}:7000" if self.leader else ""
            located = Located(connection.target, "c", self.leader, address, self.term, members)
            self.timeline.after(0.001, self.answer, len(self.asked) - 1, located)

    def answer(self, place: int, message: WireMessage) -> None:
        """Answer the frame at that place."""
        connection, frame = self.asked[place]
        reply = Frame("", "c", connection.target, "", 0, 0, frame.request, 0, message)
        connection.owner.take(encode(reply), None, connection.target)

    def of(self, kind: type) -> list[int]:
        """Where the frames of a kind are."""
        return [place for place, (_, frame) in enumerate(self.asked) if isinstance(frame.message, kind)]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.timeline.run_until(self.timeline.now + seconds)


WRITER = {"read_share": 0.0, "leave_share": 0.0, "pipeline_max": 1, "burst_max": 1, "rest_s_max": 0.01}


class Desk:
    """One client, the nodes that it asks, and the judge."""

    def __init__(self, **habits: Any) -> None:
        self.nodes = Nodes()
        self.workload = CountingWorkload(1)
        self.judge = Judge(self.workload)
        self.client = SimulatedClient(self.nodes, "c", self.judge, Habits(**{**WRITER, **habits}), self.workload)  # type: ignore[arg-type]

    def opened(self) -> Desk:
        """Let it work in session 5 until it has sent a command or a query."""
        self.client.start()
        self.nodes.run(0.03)
        if opening := self.nodes.of(OpenSession):
            self.nodes.answer(opening[0], SessionOpened(5))
        self.nodes.run(0.02)
        return self

    @property
    def operation(self) -> Operation:
        """The first call."""
        return self.judge.history.operations[0]

    def sent(self) -> list[Submit]:
        """The frames with commands."""
        messages = [self.nodes.asked[place][1].message for place in self.nodes.of(Submit)]
        return [message for message in messages if isinstance(message, Submit)]

    def answer(self, code: str = "", result: Any = 1, session: int = 5, number: int = 1) -> None:
        """A result of a command."""
        self.nodes.answer(self.nodes.of(Submit)[-1], Results(session, ((number, code, msgpack.packb(result)),)))

    def refuse(self, place: int, code: str, leader: str = "", term: int = 0) -> None:
        """Refuse the frame with commands at that place."""
        self.nodes.answer(self.nodes.of(Submit)[place], Refused(code, "", leader, f"{leader}:7000", term))

    def settled(self) -> Outcome:
        """What the judge makes of the first call when nothing comes any more."""
        self.judge.settle(copies=False)
        return self.operation.outcome


def test_a_command_stays_open_until_its_first_answer() -> None:
    desk = Desk().opened()
    desk.nodes.run(10.0)
    assert len(desk.sent()) > 3
    assert len(set(desk.sent())) == 1
    assert desk.operation.outcome is Outcome.OPEN
    desk.answer()
    assert (desk.operation.outcome, desk.operation.result) == (Outcome.OK, 1)
    assert desk.operation.ended == desk.nodes.timeline.now
    desk.answer(result=9)  # late, doubled, or of another session: it is known
    assert desk.operation.result == 1


def test_a_result_of_another_session_is_ignored() -> None:
    desk = Desk().opened()
    desk.answer(session=4)
    assert desk.operation.outcome is Outcome.OPEN


def test_commands_of_an_expired_session_stay_unknown_and_are_never_sent_in_another() -> None:
    desk = Desk().opened()
    desk.answer(EXPIRED, ["", ""])
    assert (desk.operation.outcome, desk.operation.ended) == (Outcome.OPEN, None)
    desk.nodes.run(0.05)
    desk.nodes.answer(desk.nodes.of(OpenSession)[-1], SessionOpened(9))
    desk.nodes.run(1.0)
    assert {(sent.session, number) for sent in desk.sent() for number, _ in sent.commands} == {(5, 1), (9, 2)}
    assert desk.sent()[-1].done_below == 2
    assert desk.settled() is Outcome.OPEN


def test_a_killed_client_receives_nothing_and_its_successor_opens_a_new_session() -> None:
    desk = Desk().opened()
    desk.client.be_killed()
    desk.answer()
    assert desk.operation.outcome is Outcome.OPEN
    assert desk.client.session == 0
    desk.nodes.answer(0, SessionOpened(5))
    assert desk.client.session == 0
    desk.nodes.run(1.5)
    assert len({connection.owner.name for connection, _ in desk.nodes.asked}) > 1
    assert desk.settled() is Outcome.OPEN


def test_an_abandoned_call_stays_unknown_and_uses_up_its_number() -> None:
    desk = Desk(hurry_share=1.0).opened()
    desk.nodes.run(1.5)
    assert desk.settled() is Outcome.OPEN
    assert desk.client.session == 5
    later = next(sent for sent in desk.sent() if sent.commands[0][0] == 2)
    assert later.done_below == 2


def test_a_user_without_an_outcome_may_start_again_as_another_client() -> None:
    desk = Desk(hurry_share=1.0, leave_share=1.0).opened()
    desk.nodes.run(1.0)
    assert desk.client.session == 0
    assert desk.client.lives > 1
    assert desk.settled() is Outcome.OPEN


def test_a_closed_client_reports_an_unsent_command_as_not_carried_out() -> None:
    desk = Desk()
    desk.nodes.leader = ""
    desk.client.start()
    desk.nodes.run(0.05)
    desk.client.leave()
    assert desk.settled() is Outcome.REFUSED


def test_refusals_prove_that_nothing_was_done_only_if_every_sending_was_refused() -> None:
    sure = Desk(timeout_s=2.0).opened()
    sure.nodes.leader = ""
    sure.refuse(0, NOT_LEADER)
    sure.nodes.run(3.0)
    assert sure.settled() is Outcome.REFUSED

    twice = Desk(timeout_s=2.0).opened()
    twice.nodes.run(1.0)  # the first sending had no answer
    twice.nodes.leader = ""
    twice.refuse(-1, NOT_LEADER)
    twice.nodes.run(3.0)
    assert twice.settled() is Outcome.OPEN

    unknown = Desk(timeout_s=2.0).opened()
    unknown.nodes.leader = ""
    unknown.refuse(0, UNKNOWN)
    unknown.nodes.run(3.0)
    assert unknown.settled() is Outcome.OPEN


def test_a_refusal_of_a_duplicated_frame_proves_nothing() -> None:
    desk = Desk(copy_share=1.0, timeout_s=2.0).opened()
    desk.nodes.run(0.3)
    desk.nodes.leader = ""
    desk.refuse(0, NOT_LEADER)
    desk.nodes.run(3.0)
    assert desk.settled() is Outcome.OPEN


def test_duplicated_and_stray_frames_reach_any_node_even_after_the_end_of_their_call() -> None:
    desk = Desk(copy_share=1.0, stray_share=0.5, pipeline_max=4, hurry_share=1.0).opened()
    desk.nodes.run(2.0)
    desk.client.stop()
    desk.client.driver_now().close("the copies come when it is gone")
    before = len(desk.nodes.of(Submit))
    desk.nodes.run(9.0)
    frames = [desk.nodes.asked[place] for place in desk.nodes.of(Submit)]
    assert len(frames) > before
    assert len(frames) > len({frame.request for _, frame in frames})
    assert {connection.target for connection, _ in frames} == {"n1", "n2", "n3"}


def test_a_client_asks_the_leader_named_in_a_refusal() -> None:
    desk = Desk().opened()
    desk.refuse(0, NOT_LEADER, "n2", 3)
    desk.nodes.run(0.2)
    assert desk.nodes.asked[desk.nodes.of(Submit)[1]][0].target == "n2"


def test_a_client_without_a_leader_keeps_its_commands_and_asks_the_first_leader_named() -> None:
    desk = Desk(pipeline_max=2, rest_s_max=0.001).opened()
    desk.nodes.leader = ""
    count = len(desk.sent())
    desk.refuse(0, NOT_LEADER)
    desk.nodes.run(0.001)
    asked = desk.nodes.of(Locate)[-3:]
    assert sorted(desk.nodes.asked[place][0].target for place in asked) == ["n1", "n2", "n3"]
    members = desk.nodes.configuration.members
    desk.nodes.answer(asked[1], Located("n2", "c", "", "", 3, members))  # it knows of nobody
    assert len(desk.sent()) == count
    desk.nodes.answer(asked[2], Located("n3", "c", "n3", "n3:7000", 3, members))
    assert len(desk.sent()) == count + 1
    assert desk.nodes.asked[desk.nodes.of(Submit)[-1]][0].target == "n3"
    assert [number for number, _ in desk.sent()[-1].commands] == [1, 2]


def test_unanswered_and_unanswerable_queries_stay_open() -> None:
    desk = Desk(read_share=1.0, timeout_s=2.0).opened()
    (first,) = desk.nodes.of(Read)
    desk.nodes.answer(first, ReadResults(0, 0, ((1, "CONSENSUS_UNAVAILABLE", msgpack.packb(["", ""])),)))
    desk.nodes.run(0.02)
    assert len(desk.nodes.of(Read)) == 2
    desk.nodes.run(5.0)
    assert len(desk.nodes.of(Read)) > 4
    assert {call.outcome for call in desk.judge.history} == {Outcome.OPEN}
    desk.nodes.answer(desk.nodes.of(Read)[1], ReadResults(0, 0, ((2, "", msgpack.packb(7)),)))  # nobody waits for it
    assert {call.outcome for call in desk.judge.history} == {Outcome.OPEN}


def test_an_impossible_answer_is_a_violation() -> None:
    desk = Desk().opened()
    with pytest.raises(ViolationError, match="CONSENSUS_SESSION_STALE"):
        desk.answer("CONSENSUS_SESSION_STALE", ["", ""])


def test_a_stopped_client_finishes_open_calls_and_begins_none() -> None:
    desk = Desk().opened()
    desk.client.stop()
    assert not desk.client.idle
    desk.nodes.run(3.0)
    desk.answer()
    assert desk.client.idle
    desk.nodes.run(3.0)
    assert len(desk.judge.history) == 1


def test_all_times_of_a_client_follow_the_pace() -> None:
    slow, fast = Desk(pace=10.0, patience_s=4.0, ttl_ms=30_000), Desk(ttl_ms=3_000)
    for desk, pace in ((slow, 10.0), (fast, 1.0)):
        desk.nodes.leader = ""
        desk.client.start()
        desk.nodes.run(1.0 * pace)
        asked = [desk.nodes.asked[place][1].message for place in desk.nodes.of(Locate)]
        assert {message.wait_ms for message in asked if isinstance(message, Locate)} == {0, 500 * pace}
        desk.nodes.leader = "n1"
        desk.nodes.run(2.0 * pace)
        opening = desk.nodes.asked[desk.nodes.of(OpenSession)[0]][1].message
        assert opening == OpenSession(int(3_000 * pace))
    assert len(slow.nodes.asked) == pytest.approx(len(fast.nodes.asked), abs=6)


def test_habits_differ_between_clients_and_times_follow_the_pace() -> None:
    chance = random.Random(1)
    some = [Habits.drawn(chance, 4, 0.5, 1.0) for _ in range(40)]
    assert len({habits.pipeline_max for habits in some}) > 2
    assert {habits.ttl_ms for habits in some} == {1000, 3000, 60_000}
    slow = Habits.drawn(random.Random(1), 4, 0.5, 10.0)
    fast = Habits.drawn(random.Random(1), 4, 0.5, 1.0)
    for name in ("rest_s_max", "patience_s", "away_s_max", "ttl_ms"):
        assert getattr(slow, name) == pytest.approx(10 * getattr(fast, name))


# --- a machine and a workload of a user's own -------------------------------------------------------------------------


class Bank:
    """Accounts that are never below zero: who wants more than there is gets an error."""

    careful = True

    def __init__(self) -> None:
        self.accounts: dict[str, int] = {}

    def apply(self, entry: Entry) -> int:
        payload: dict[str, Any] = entry.command.payload
        name, amount = str(payload["name"]), int(payload["amount"])
        rest = self.accounts.get(name, 0) + amount
        if rest < 0:
            raise ValueError("there is not so much")
        self.accounts[name] = rest if self.careful or entry.index % 7 else rest + 1
        return rest

    def query(self, query: Any) -> int:
        name: str = query["balance"]
        return self.accounts.get(name, 0)

    def snapshot(self) -> list[bytes]:
        return [msgpack.packb(self.accounts)]

    def restore(self, chunks: Iterable[bytes]) -> None:
        (self.accounts,) = map(msgpack.unpackb, chunks)


class CarelessBank(Bank):
    """Sometimes keeps another sum than it tells; every node alike."""

    careful = False


class Balance:
    """What one account does."""

    def initial(self) -> Hashable:
        return 0

    def step(self, state: Any, operation: Operation) -> tuple[bool, Hashable]:
        answered = operation.outcome is Outcome.OK
        if operation.kind == "balance":
            return not answered or operation.result == state, state
        rest = state + operation.argument
        if rest < 0:
            return not answered, state
        return not answered or operation.result == rest, rest


class Business(Workload):
    """Deposits, withdrawals, and looks at the balance."""

    model = Balance()

    def command(self, chance: random.Random, client: str) -> Call:
        name, amount = chance.choice("abcdef"), chance.randint(-5, 9)
        return Call("pay", name, amount, Command("pay", {"name": name, "amount": amount}))

    def query(self, chance: random.Random, client: str) -> Call:
        return self.balance(chance.choice("abcdef"))

    def at_the_end(self) -> Iterable[Call]:
        return map(self.balance, "abcdef")

    def balance(self, name: str) -> Call:
        return Call("balance", name, query={"balance": name})


def bank(machine: type[Bank], seed: int) -> Simulation:
    """A cluster of banks."""
    plan = Plan(seed, nodes=3, clients=2, seconds=5.0, kinds=("kill", "isolate_leader", "mend"))
    return Simulation(plan, state_machine=machine, workload=Business(), twin=False)


def test_a_users_machine_is_judged_by_the_users_model() -> None:
    with bank(Bank, 1) as simulation:
        simulation.run()
        outcomes = {call.outcome for call in simulation.judge.history if call.kind == "pay"}
        assert {Outcome.OK, Outcome.REFUSED} <= outcomes
        assert {call.client for call in simulation.judge.history} >= {"audit of n1", "audit of n2", "audit of n3"}
    with bank(CarelessBank, 1) as simulation, pytest.raises(ViolationError, match="not linearizable"):
        simulation.run()


def test_a_workload_without_a_valid_command_is_refused() -> None:
    class Wrong(Business):
        def command(self, chance: random.Random, client: str) -> Call:
            return self.query(chance, client)

    plan = Plan(1, nodes=1, clients=1, seconds=2.0, faults=False)
    with (
        Simulation(plan, state_machine=Bank, workload=Wrong(), twin=False) as simulation,
        pytest.raises(TypeError, match="a call without a command"),
    ):
        simulation.run()
