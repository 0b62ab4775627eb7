"""One simulated run: a cluster of the seed's choosing, clients, faults, all checks, and an end that must be good."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from forge_consensus.actors.options import Options
from forge_consensus.actors.simulated_client import Habits, SimulatedClient
from forge_consensus.actors.simulated_cluster import SimulatedCluster
from forge_consensus.actors.simulated_faults import Faults
from forge_consensus.storage.kv import KeyValueMachine
from forge_consensus.storage.limits import Limits
from forge_consensus.storage.machine import Entry
from tests.invariants import CountingMachine, History, Invariants, ViolationError, demand, state_of

QUIET_S_MAX = 20.0
"""A cluster that nobody disturbs elects, converges and serves within so many virtual seconds."""


class CheckedKeyValueMachine(KeyValueMachine):
    """The built-in machine, whose every step is compared with that of the other nodes."""

    invariants: Invariants | None = None

    def apply(self, entry: Entry) -> Any:
        result = super().apply(entry)
        if self.invariants is not None:
            self.invariants.applies(entry, state_of(entry.command, result))
        return result


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run. `Plan.of` draws it from a seed."""

    seed: int
    nodes: int = 3
    own_machine: bool = False
    lease_reads: bool = False
    clients: int = 3
    seconds: float = 12.0
    faults: bool = True
    kinds: tuple[str, ...] = ()
    """Only these kinds of faults."""
    limits: Limits = field(default_factory=Limits)
    options: Options = field(default_factory=Options)

    @classmethod
    def of(cls, seed: int, seconds: float = 12.0) -> Plan:
        """The plan of a seed: small limits, so that snapshots and compaction happen."""
        chance = random.Random(f"plan {seed}")
        snapshot_entries = chance.choice((20, 60, 200, 100_000))
        limits = Limits(
            tail_bytes_max=chance.choice((2_000, 20_000, 1 << 20)),
            checkpoint_entries=chance.choice((5, 40, 1000)),
            checkpoint_seconds=chance.choice((0.5, 30.0)),
            snapshot_entries=snapshot_entries,
            snapshot_seconds_min=0.1,
            trailing_entries=chance.choice((0, 3, 30)),
            sweep_entries=chance.choice((5, 100)),
            verify_entries=50,
        )
        options = Options(
            chunk_bytes=chance.choice((100, 500, 256 * 1024)),
            run_bytes_max=chance.choice((200, 2_000, 512 * 1024)),
            inflight_frames_max=chance.choice((2, 64)),
            apply_entries_max=chance.choice((1, 3, 4096)),
            chunk_timeout=0.3,
            election_timeout_max=chance.choice((0.82, 1.2)),
        )
        return cls(
            seed,
            nodes=chance.choice((1, 2, 3, 3, 3, 5)),
            own_machine=chance.random() < 0.5,
            lease_reads=chance.random() < 0.4,
            clients=chance.choice((2, 4)),
            seconds=seconds,
            limits=limits,
            options=options,
        )


class World:
    """A run of a plan. Use it in a ``with`` statement."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.invariants = Invariants()
        self.history = History()
        self.cluster = SimulatedCluster(
            plan.nodes,
            plan.seed,
            options=plan.options,
            limits=plan.limits,
            machine=self.machine,
            lease_reads=plan.lease_reads,
            watchers=[self.invariants],
        )
        habits = Habits(lease_share=0.5 if plan.lease_reads else 0.0)
        self.clients = [
            SimulatedClient(self.cluster, f"c{number}", self.history, habits) for number in range(plan.clients)
        ]
        reader = Habits(read_share=0.95, lease_share=habits.lease_share, rest_s_max=0.02, patience_s=0.15)
        self.clients.append(SimulatedClient(self.cluster, "reader", self.history, reader))
        self.faults = Faults(self.cluster, plan.kinds)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.cluster.close()

    def machine(self) -> CountingMachine | CheckedKeyValueMachine:
        """A node's machine."""
        if self.plan.own_machine:
            return CountingMachine(self.invariants)
        machine = CheckedKeyValueMachine()
        machine.invariants = self.invariants
        return machine

    def run(self) -> str:
        """Run everything; returns the digest of what happened. Raises what was found wrong, with the seed in a note."""
        try:
            self.cluster.start()
            for client in self.clients:
                client.start()
            if self.plan.faults:
                self.faults.start()
            self.cluster.run(self.plan.seconds)
            self.be_quiet()
        except BaseException as error:
            plan = self.plan
            kind = f"seed {plan.seed}, {plan.nodes} nodes, own machine {plan.own_machine}, leases {plan.lease_reads}"
            error.add_note(f"{kind}; at {self.cluster.timeline.now:.6f} s; faults {self.faults.counts}")
            raise
        return self.cluster.timeline.digest

    def be_quiet(self) -> None:
        """Heal: then the cluster must elect, serve every client, and converge, within a bound."""
        cluster = self.cluster
        self.faults.heal()
        elected = cluster.run(QUIET_S_MAX, lambda: cluster.leader() is not None)
        demand(elected, "liveness", f"nobody leads {QUIET_S_MAX} s after the last fault")
        goals = [client.done + 3 for client in self.clients]
        served = cluster.run(
            QUIET_S_MAX,
            lambda: all(client.done >= goal for client, goal in zip(self.clients, goals, strict=True)),
        )
        demand(served, "liveness", f"a client is not served: {[client.done for client in self.clients]} of {goals}")
        for client in self.clients:
            client.stop()
        finished = cluster.run(QUIET_S_MAX, lambda: all(client.idle for client in self.clients) and cluster.settled())
        demand(finished, "liveness", f"no convergence: {self.describe()}")
        self.compare()

    def describe(self) -> list[tuple[Any, ...]]:
        """Where each node stands."""
        rows: list[tuple[Any, ...]] = [("idle", *[client.idle for client in self.clients])]
        for base in self.cluster.running():
            ledger = base.engine.ledger
            rows.append(
                (
                    base.name,
                    ledger.term,
                    ledger.leading,
                    ledger.log.base_index,
                    ledger.log.last,
                    ledger.commit_index,
                    ledger.applied,
                )
            )
        return rows

    def compare(self) -> None:
        """All machines hold the same, and that is what clients were told."""
        states = []
        for base in self.cluster.running():
            machine = base.engine.ledger.applier.machine
            states.append({key: machine.query({"get": key}) for key in sorted(self.history.counters)})
        for state in states:
            demand(state == states[0], "I5", f"the machines differ: {states}")
        self.history.final(states[0])
        sessions = [sorted(base.engine.ledger.applier.sessions.live) for base in self.cluster.running()]
        demand(all(live == sessions[0] for live in sessions), "I5", f"the sessions differ: {sessions}")


def run_seed(seed: int, seconds: float = 12.0, **changes: Any) -> str:
    """Run the plan of a seed, with what is to be different."""
    with World(replace(Plan.of(seed, seconds), **changes)) as world:
        return world.run()


__all__ = ["CheckedKeyValueMachine", "Plan", "ViolationError", "World", "run_seed"]
