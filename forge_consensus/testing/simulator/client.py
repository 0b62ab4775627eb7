"""The simulated client: a user who calls the shipped client's core, and reports each call and outcome to the judge."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgpack

from forge_consensus.actors.messages import STALE
from forge_consensus.client.outcome import retried
from forge_consensus.client.pending import Pending, PendingRead
from forge_consensus.client.routes import ANY, LINEARIZABLE, NEAREST, Route
from forge_consensus.errors import CommandError, ConsensusError, OutcomeUnknownError
from forge_consensus.testing.histories.history import Operation, Outcome
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.simulator.hostile import HOSTILE, LARGEST
from forge_consensus.testing.simulator.session_driver import SimulatedDriver, node_at
from forge_consensus.testing.simulator.workload import Call, KeyValueWorkload, Workload
from forge_consensus.testing.world.cluster import SimulatedCluster

UNJUDGED = frozenset({HOSTILE, LARGEST})


class CallJudge(Protocol):
    """Receives every call and its outcome. A call without a report of its end has an unknown outcome."""

    def invoked(self, operation: Operation) -> None:
        """A call begins; until one of the others reports its end, its outcome is unknown."""

    def answered(self, operation: Operation) -> None:
        """The call has its answer; `operation` holds it."""

    def failed(self, operation: Operation, code: str, reason: Any, label: tuple[int, int] = (0, 0)) -> None:
        """The call was answered with an error; a command is known by its session and number."""

    def told_age(self, operation: Operation, applied: int, stale_ms: int) -> None:
        """A stale read was answered as of entry `applied`, and said to be at most `stale_ms` old."""

    def refused(self, operation: Operation, moment: float) -> None:
        """The client reports that the command was not carried out and will not be."""


class SimulatedClient:
    """One user with one client at a time; the client is the shipped `SessionCore`, run by a `SimulatedDriver`.

    The core alone decides which frames are sent and repeated, and which outcome is reported. The user has habits: it
    keeps a pipeline of calls, gives some of them little time, rests, closes the client, is killed and starts again. A
    command of one client is never repeated by another, so it stays unknown whether it was carried out.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        name: str,
        judge: CallJudge,
        habits: Habits | None = None,
        workload: Workload | None = None,
    ) -> None:
        self.cluster = cluster
        self.name = name
        self.judge = judge
        self.habits = habits or Habits()
        self.workload = workload or KeyValueWorkload()
        self.timeline = cluster.timeline
        self.chance = self.timeline.chance(self.name)
        self.route_chance = self.timeline.chance(f"{self.name} routes")
        """Of its own, so that a run without routes draws as it did before there were any."""
        self.driver: SimulatedDriver | None = None
        self.lives = 0
        """The number of clients that the user has started."""
        self.open: dict[Pending[Any], Operation] = {}
        """The calls that have not ended."""
        self.resting = False
        self.planned = False
        self.done = 0

    # --- acting ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the first client, and plan its first calls."""
        self.begin_life()
        self.rest()

    def stop(self) -> None:
        """Let the outstanding calls end, and start no more."""
        self.resting = True

    @property
    def idle(self) -> bool:
        """Whether no call is outstanding."""
        return not self.open

    @property
    def session(self) -> int:
        """The id of the client's session, 0 while it has none."""
        return 0 if self.driver is None else self.driver.core.session

    def begin_life(self) -> None:
        """Start a client in the place of the last one, without a session and with endpoints of its own draw."""
        self.lives += 1
        habits, addresses = self.habits, list(self.cluster.addresses().values())
        given = self.chance.sample(addresses, len(addresses) // 2 + 1) if habits.few_endpoints else addresses
        self.driver = SimulatedDriver(
            self.cluster,
            f"{self.name}.{self.lives}",
            self.ended,
            endpoints=given,
            settings=habits.settings(),
            pace=habits.pace,
            prefer=self.chance.choice(("", *addresses)),
            misdelivery=habits.misdelivery(),
        )

    def rest(self) -> None:
        """Plan the next calls after a random time."""
        if not self.planned:
            self.planned = True
            away = self.chance.random() < self.habits.away_share
            self.timeline.after(
                self.chance.uniform(0.0, self.habits.away_s_max if away else self.habits.rest_s_max), self.act
            )

    def act(self) -> None:
        """Start the next calls, if the pipeline has room; otherwise the user acts again when a call ends."""
        self.planned = False
        if self.resting or self.driver is None:
            return
        if self.chance.random() < self.habits.kill_share:
            self.be_killed()
        if len(self.open) >= self.habits.pipeline_max:
            return
        if self.chance.random() < self.habits.read_share:
            self.read_new()
        else:
            self.submit_new()
        self.rest()

    def submit_new(self) -> None:
        """Submit some commands of the workload together, at most as many as the pipeline has room for."""
        room = self.habits.pipeline_max - len(self.open)
        commands: list[Pending[Any]] = []
        for _ in range(self.chance.randint(1, max(1, min(self.habits.burst_max, room)))):
            call = self.workload.command(self.chance, self.name)
            if call.command is None and call.kind not in UNJUDGED:
                raise TypeError(f"a workload's command() returned a call without a command: {call}")
            data = call.data if call.command is None else call.command.encode()
            commands.append(Pending(data, self.deadline()))
            self.begin(commands[-1], call)
        self.driver_now().submit(commands)

    def read_new(self) -> None:
        """Submit a query of the workload, with the consistency that the habits draw."""
        habits = self.habits
        call = self.workload.query(self.chance, self.name)
        consistency = "linearizable"
        if self.chance.random() < habits.lease_share:
            consistency = "lease"
        elif self.chance.random() < habits.stale_share:
            consistency = "stale"
        data: bytes = msgpack.packb(call.query)
        route = self.drawn_route(consistency)
        query: PendingRead[Any] = PendingRead(data, self.deadline(), route)
        self.begin(query, call, route.consistency)
        self.driver_now().submit([query])

    def drawn_route(self, consistency: str) -> Route:
        """The usual route of a query of that consistency; now and then another one, which must keep what it says.

        It is a confirmed read on any node, a stale one of a bounded age, or one that must see what this client wrote.
        """
        chance = self.route_chance
        if not self.habits.route_share or chance.random() >= self.habits.route_share:
            return Route.of(consistency)
        read_from = chance.choice((ANY, NEAREST))
        kind = chance.choice(("confirmed", "confirmed", "bounded", "token"))
        if kind == "confirmed":
            return Route.of(LINEARIZABLE if consistency == STALE else consistency, read_from)
        if kind == "bounded":
            return Route.of(STALE, read_from, chance.choice((0.15, 0.5, 2.0)))
        return Route.of(STALE, read_from, after_index=self.driver_now().core.last_index)

    def begin(self, pending: Pending[Any], call: Call, consistency: str = "linearizable") -> None:
        """Record the beginning of a call."""
        began = self.timeline.now
        operation = Operation(self.name, call.kind, call.key, call.argument, began, consistency=consistency)
        self.open[pending] = operation
        if call.kind not in UNJUDGED:
            self.judge.invoked(operation)

    def deadline(self) -> float:
        """The end of the user's wait for a call that begins now, in the client's time."""
        habits = self.habits
        hurries = self.chance.random() < habits.hurry_share
        seconds = habits.patience_s * self.chance.uniform(0.25, 2.0) if hurries else habits.timeout_s
        return (self.timeline.now + seconds) / habits.pace

    def driver_now(self) -> SimulatedDriver:
        """The driver of the present client."""
        if self.driver is None:
            raise RuntimeError(f"{self.name} was not started")
        return self.driver

    # --- beginning anew ----------------------------------------------------------------------------------------------

    def be_killed(self) -> None:
        """Kill the user's process and start another; the outcomes of outstanding calls stay unknown."""
        self.driver_now().kill()
        self.open.clear()
        self.begin_life()

    @property
    def is_lost(self) -> bool:
        """Whether no node that the client was given or has learned is a member, or leads to one.

        All of them have left, and are gone, have an empty folder, or know only others that have left too: each node
        tells the members of its own configuration. No client finds a cluster then: an operator has to give it other
        addresses.
        """
        directory = self.driver_now().core.directory
        told = {base.name: base.engine.ledger.configuration.nodes for base in self.cluster.running()}
        reached: set[str] = set()
        waiting = {node_at(name) for name in (*directory.given, *directory.endpoints)}
        while waiting:
            reached |= waiting
            waiting = {other for node in waiting for other in told.get(node, ())} - reached
        return not reached & self.cluster.members()

    def start_again(self) -> None:
        """Start another client in the place of the last one, with the addresses of the present members."""
        self.be_killed()
        self.rest()

    def leave(self) -> None:
        """Close the client in order and start another."""
        driver = self.driver_now()
        self.begin_life()
        driver.close("its user closed it")

    # --- outcomes ----------------------------------------------------------------------------------------------------

    def ended(self, calls: Sequence[Pending[Any]]) -> None:
        """Handle the outcomes of calls that the core has ended."""
        driver = self.driver_now()
        unknown = False
        for pending in calls:
            operation = self.open.pop(pending)
            if operation.kind in UNJUDGED:
                self.done += 1  # whatever its outcome is
                unknown = unknown or isinstance(pending.error, OutcomeUnknownError)
            elif pending.error is None:
                operation.applied = pending.applied
                if isinstance(pending, PendingRead):
                    self.check_route(operation, pending)
                self.succeed(operation, pending.value())
            elif isinstance(pending, PendingRead):
                self.judge_query_error(operation, pending.error)
            else:
                unknown = unknown or isinstance(pending.error, OutcomeUnknownError)
                self.judge_command_error(operation, pending, pending.error, driver.core.session)
        self.rest()
        if unknown and driver.alive and self.chance.random() < self.habits.leave_share:
            self.leave()

    def succeed(self, operation: Operation, value: Any) -> None:
        """Record the result of a call."""
        self.done += 1
        operation.ended = self.timeline.now
        operation.outcome, operation.result = Outcome.OK, value
        self.judge.answered(operation)

    def check_route(self, operation: Operation, pending: PendingRead[Any]) -> None:
        """Demand that the answer to a query keeps what its route says. Raises `ViolationError`."""
        route, pace = pending.route, self.habits.pace
        who = f"{operation.client}'s {operation.kind} of {operation.key!r}, begun at {operation.began:.6f},"
        demand(pending.applied >= route.after_index, "token", f"{who} got {pending.applied}, not {route.after_index}")
        if route.consistency == STALE:
            most = route.stale_ms_max * pace
            demand(pending.stale_ms <= most, "stale", f"{who} got {pending.stale_ms} ms, {most:g} were accepted")
            self.judge.told_age(operation, pending.applied, pending.stale_ms)

    def judge_query_error(self, operation: Operation, error: ConsensusError) -> None:
        """Handle an error of a query: it is the machine's, or the query had no answer and changed nothing."""
        if not is_no_answer(error):
            self.fail(operation, error)

    def judge_command_error(
        self, operation: Operation, pending: Pending[Any], error: ConsensusError, session: int
    ) -> None:
        """Handle an error of a command: it is the machine's, or the client reports what it knows of the outcome."""
        if isinstance(error, OutcomeUnknownError):
            return
        if is_no_answer(error):
            self.judge.refused(operation, self.timeline.now)
        else:
            self.fail(operation, error, (session, pending.number))

    def fail(self, operation: Operation, error: ConsensusError, label: tuple[int, int] = (0, 0)) -> None:
        """Record a call that was answered with an error."""
        self.done += 1
        operation.ended = self.timeline.now
        reason = [error.kind, error.text] if isinstance(error, CommandError) else str(error)
        self.judge.failed(operation, error.code, reason, label)


def is_no_answer(error: ConsensusError) -> bool:
    """Whether this error means that the client got no answer and that nothing was done."""
    return retried(error.code)
