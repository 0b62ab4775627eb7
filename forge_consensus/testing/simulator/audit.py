"""The audit: at the end every node is queried for everything, by real frames, and all nodes must hold the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgpack

from forge_consensus.actors.codec import Frame, decode, encode
from forge_consensus.actors.messages import Read, ReadResults
from forge_consensus.client.connections import FRAME_BYTES_MAX
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import COMMAND_FAILED
from forge_consensus.testing.histories.history import Operation, Outcome
from forge_consensus.testing.rules.agreement import ADVICE, WatchedMachine, answer_text
from forge_consensus.testing.rules.violations import ViolationError, demand
from forge_consensus.testing.simulator.judge import Judge
from forge_consensus.testing.simulator.workload import Call
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.network import Connection

QUERIES_MAX = 200
"""The number of queries in one frame."""
AGAIN_SECONDS = 0.5


class Audit:
    """A party of the network that reads everything from every node of a settled cluster.

    All nodes have applied every entry, so even a stale read must return the present state: the answers join the history
    as linearizable reads. So an acknowledged write that is lost is found.
    """

    def __init__(self, cluster: SimulatedCluster, judge: Judge) -> None:
        self.cluster = cluster
        self.judge = judge
        self.name = "audit"
        self.alive = True
        self.nodes = [base.name for base in cluster.healthy()]
        self.number = 0
        self.asked: dict[int, tuple[str, Call, Operation]] = {}
        self.calls: list[Call] = []
        self.answers: list[dict[str, str]] = []
        """For each call the answers of the nodes, as text."""

    def start(self, calls: Iterable[Call], again_seconds: float = AGAIN_SECONDS) -> None:
        """Query every node with a good disk for everything; repeat every `again_seconds` until all have answered."""
        self.calls = list(calls)
        self.answers = [{} for _ in self.calls]
        for node in self.nodes:
            for call in self.calls:
                self.number += 1
                operation = Operation(f"audit of {node}", call.kind, call.key, call.argument, self.cluster.timeline.now)
                self.judge.history.begin(operation)
                self.asked[self.number] = node, call, operation
        self.ask(again_seconds)

    def ask(self, again_seconds: float) -> None:
        """Send all queries that have no answer yet, and plan to repeat that."""
        leader = self.cluster.leader()
        for node in self.nodes:
            numbers = [number for number, (other, _, _) in self.asked.items() if other == node]
            consistency = "linearizable" if leader is not None and node == leader.name else "stale"
            for start in range(0, len(numbers), QUERIES_MAX):
                some = numbers[start : start + QUERIES_MAX]
                queries = tuple((number, msgpack.packb(self.asked[number][1].query)) for number in some)
                frame = Frame("gateway", "", "", "", 0, 0, some[0], 0, Read(consistency, queries))
                self.cluster.network.ask(Connection(self, node), encode(frame))
        if self.asked:
            self.cluster.timeline.after(again_seconds, lambda: self.ask(again_seconds))

    @property
    def finished(self) -> bool:
        """Whether every query is answered."""
        return not self.asked

    def linked(self, node: str, stands: bool) -> None:
        """Do nothing: the audit opens its own connections."""

    def take(self, data: bytes, connection: Any, sender: str) -> None:
        """Match the answers in a frame with the queries."""
        message = decode(data, FRAME_BYTES_MAX).message
        if not isinstance(message, ReadResults):
            return
        for number, code, payload in message.items:
            if code not in {"", COMMAND_FAILED} or number not in self.asked:
                continue
            node, _, operation = self.asked.pop(number)
            operation.ended, value = self.cluster.timeline.now, msgpack.unpackb(payload)
            operation.applied = message.applied
            self.answers[(number - 1) % len(self.calls)][node] = answer_text(code, value)
            if code:
                self.judge.failed(operation, code, value)
            else:
                operation.outcome, operation.result = Outcome.OK, value
                self.judge.final(operation)

    def compare_answers(self) -> None:
        """Demand the same answer of all nodes to each query, whatever the model says. Raises `ViolationError`."""
        for call, answers in zip(self.calls, self.answers, strict=True):
            if len(set(answers.values())) > 1:
                told = "; ".join(f"{node} {answer}" for node, answer in sorted(answers.items()))
                raise ViolationError(
                    f"I5: all nodes have applied the same commands and answer the query {call.query!r} differently: "
                    f"{told}. {ADVICE}"
                )


def compare(bases: Iterable[SimulatedBase], state: Callable[[Any], Any] | None = None) -> None:
    """Demand that all nodes hold the same state, the same sessions and the same list of access.

    `state` returns what identifies the state of a machine. Without it, a machine of the user's own is not compared.
    Raises `ViolationError`.
    """
    known: tuple[str, Any] | None = None
    for base in bases:
        applier = base.engine.ledger.applier
        told = (
            applier.index,
            (applier.time_ms, applier.elapsed_ms),
            applier.sessions.export(),
            applier.access.row,
            state_of(applier.machine, state),
        )
        name, first = known = known or (base.name, told)
        parts = ("applied index", "time", "sessions", "list of access", "state")
        for what, one, other in zip(parts, first, told, strict=True):
            demand(one == other, "I5", f"the {what} of {name} and {base.name} differ: {difference(one, other)}")


def state_of(machine: Any, state: Callable[[Any], Any] | None) -> Any:
    """Return what identifies the state of a machine, None if it is unknown."""
    if state is not None:
        return state(machine)
    bare = machine.machine if isinstance(machine, WatchedMachine) else machine
    return list(bare.whole_state()) if isinstance(bare, KeyValueMachine) else None


def difference(one: Any, other: Any) -> str:
    """Return the difference of two values as a short text."""
    if isinstance(one, list) and isinstance(other, list):
        only = [row for row in one if row not in other], [row for row in other if row not in one]
        return f"{only[0][:5]} and {only[1][:5]}"
    return f"{one!r} and {other!r}"[:500]
