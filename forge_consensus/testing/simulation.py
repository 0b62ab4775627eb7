"""One simulated run: a cluster of the seed's choosing, clients, faults, all checks, and an end that must be good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from forge_consensus.actors.simulated_cluster import SimulatedCluster
from forge_consensus.testing.faults import Faults
from forge_consensus.testing.invariants import Invariants
from forge_consensus.testing.judge import Judge
from forge_consensus.testing.machines import CheckedKeyValueMachine, CountingMachine
from forge_consensus.testing.plan import Plan
from forge_consensus.testing.simulated_client import Habits, SimulatedClient
from forge_consensus.testing.violations import demand

QUIET_S_MAX = 20.0
"""A cluster that nobody disturbs elects, converges and serves within so many virtual seconds."""


class Simulation:
    """A run of a plan. Use it in a ``with`` statement."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.invariants = Invariants()
        self.judge = Judge()
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
            SimulatedClient(self.cluster, f"c{number}", self.judge, habits) for number in range(plan.clients)
        ]
        reader = Habits(read_share=0.95, lease_share=habits.lease_share, rest_s_max=0.02, patience_s=0.15)
        self.clients.append(SimulatedClient(self.cluster, "reader", self.judge, reader))
        self.faults = Faults(self.cluster, plan.kinds)

    def __enter__(self) -> Simulation:
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
            states.append({key: machine.query({"get": key}) for key in sorted(self.judge.counters)})
        for state in states:
            demand(state == states[0], "I5", f"the machines differ: {states}")
        self.judge.final(states[0])
        sessions = [sorted(base.engine.ledger.applier.sessions.live) for base in self.cluster.running()]
        demand(all(live == sessions[0] for live in sessions), "I5", f"the sessions differ: {sessions}")


def run_seed(seed: int, seconds: float = 12.0, **changes: Any) -> str:
    """Run the plan of a seed, with what is to be different."""
    with Simulation(replace(Plan.of(seed, seconds), **changes)) as world:
        return world.run()
