"""The simulation: a cluster in one process under one seed, with clients, faults and all checks, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from loguru import logger

from forge_consensus.actors.simulated import SimulatedBase
from forge_consensus.actors.simulated_cluster import SimulatedCluster
from forge_consensus.errors import InvalidConfigError, NodeNotFoundError, NoLeaderError
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.storage.kv import KeyValueMachine
from forge_consensus.storage.machine import Machine
from forge_consensus.testing.faults.drawn import KINDS, Faults
from forge_consensus.testing.rules.audit import Audit, compare
from forge_consensus.testing.rules.event_order import EventOrder
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.rules.judge import Judge
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.simulator.agreement import (
    Agreement,
    CountingMachine,
    WatchedMachine,
    counting_state,
    named,
)
from forge_consensus.testing.simulator.client import SimulatedClient
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.plan_text import reproduction
from forge_consensus.testing.simulator.twin import Run, compare_with_twin, importable, refuse_in_twin
from forge_consensus.testing.simulator.workload import CountingWorkload, KeyValueWorkload, Workload
from forge_consensus.testing.story.failure_story import story
from forge_consensus.testing.story.message_table import MessageTable

QUIET_S_MAX = 20.0
"""A cluster that nobody disturbs elects, converges and serves within so many virtual seconds, at pace 1."""
DEFAULT_WORKLOAD = (
    '. Without workload= the clients send Command("increment", {"key": key}), and the machine must count and return '
    'how often a key was counted, and answer the query {"get": key} with that count, or None: give a workload of what '
    "your machine does, see forge_consensus.testing.Workload"
)


class Simulation:
    """A whole cluster in one process and in virtual time; `run` it under faults, or move it by hand.

    The nodes are the real ones: the same actors, codec and ledger, over a simulated store, clock and network. A seed
    decides everything, so a run that failed fails again. Use it in a ``with`` statement::

        with Simulation(nodes=5, seed=7, state_machine=MyMachine, workload=MyWorkload()) as simulation:
            simulation.run()

    By hand, every step is a call: `start`, `advance`, `crash`, `restart`, `partition`, `heal`, `leader`.
    """

    def __init__(
        self,
        plan: Plan | None = None,
        *,
        nodes: int | None = None,
        seed: int = 1,
        state_machine: Callable[[], Machine] | None = None,
        state: Callable[[Any], Any] | None = None,
        workload: Workload | None = None,
        seconds: float | None = None,
        faults: bool | Sequence[str] | None = None,
        twin: bool | None = None,
        quiet: bool = True,
    ) -> None:
        """Set up a run: that of a plan, or of the seed's own plan with what is given here in its place.

        Args:
            plan: what is run; None for `Plan.of(seed)`, at pace 1.
            nodes: how many nodes, 1 to 9.
            seed: decides everything that is left to chance.
            state_machine: makes a node's machine anew for each of its processes: its class, or any function.
            state: makes of a machine what identifies its state, anything with a ``repr``. Where given, the states of
                all nodes are compared after every command, otherwise the results only.
            workload: what clients do, and by which model they are judged; None for what the built-in machine can do,
                or, with a machine of the caller's, for an "increment" and a {"get": key} of some keys.
            seconds: how long `run` lets faults rage, in virtual seconds.
            faults: whether there are any, or the names of the kinds that there are.
            twin: whether `run` ends with the same commands applied in another process, with another hash seed and
                another clock: results, the answers to the queries at the end, and states where it can import `state`
                are compared. None for yes where a machine is given that another process can import.
            quiet: from `start` to `close`, what the nodes write to the log is dropped: they fail by order all the time.

        Raises `InvalidConfigError` for what makes no sense.

        """
        changes: dict[str, Any] = {"nodes": nodes, "seconds": seconds}
        if isinstance(faults, bool):
            changes["faults"] = faults
        elif faults is not None:
            changes |= {"faults": True, "kinds": tuple(faults)}
        self.plan = plan = changed(plan or replace(Plan.of(seed), pace=1.0), changes)
        self.twin = twin if twin is not None else state_machine is not None and importable(state_machine)
        self.again = reproduction(plan, state_machine, workload, state)
        built_in = state_machine is None and not plan.own_machine
        self.workload = workload or (KeyValueWorkload() if built_in else CountingWorkload())
        if state_machine is None:
            state_machine = CountingMachine if plan.own_machine else KeyValueMachine
            state = state or (counting_state if plan.own_machine else None)
        self.state_machine = state_machine
        self.state = state
        self.agreement = Agreement(state)
        self.invariants = Invariants()
        self.agreement.heard = self.invariants.applies
        self.judge = Judge(self.workload)
        self.judge.entry_of = self.entry_of
        if workload is None and state_machine not in (CountingMachine, KeyValueMachine):
            self.judge.advice = DEFAULT_WORKLOAD
        self.cluster = self.make_cluster()
        self.messages = MessageTable.of(self.cluster)
        self.events = EventOrder(self.cluster)
        self.clients = self.make_clients()
        self.faults = Faults(self.cluster, plan.kinds, plan.skip, plan.pace)
        self.quiet = quiet
        self.started = False

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what lies on the real disk, and let nodes be heard again."""
        self.cluster.close()
        if self.started and self.quiet:
            logger.enable("forge_consensus")

    def machine(self, node: str) -> Machine:
        """A node's machine, watched."""
        return WatchedMachine(self.state_machine(), node, self.agreement, lambda: self.saved(node))

    def saved(self, node: str) -> int:
        """Of which entry the newest snapshot on a node's disk is."""
        base = self.cluster.nodes[node].running
        return 0 if base is None else base.engine.ledger.applier.on_disk

    def entry_of(self, label: tuple[int, int]) -> str:
        """The entry of a session's command, in words."""
        index = self.invariants.executed.get(label, 0)
        return next((named(entry) for entry in self.agreement.entries if entry.index == index), "")

    def make_cluster(self) -> SimulatedCluster:
        """The nodes, none of which runs yet."""
        plan = self.plan
        limits, options = plan.paced()
        return SimulatedCluster(
            plan.nodes,
            plan.seed,
            options=options,
            limits=limits,
            machine=self.machine,
            lease_reads=plan.lease_reads,
            watchers=[self.invariants],
        )

    def make_clients(self) -> list[SimulatedClient]:
        """The clients, each with habits of its own; one more reads often and impatiently."""
        plan, cluster = self.plan, self.cluster
        lease_share = 0.5 if plan.lease_reads else 0.0
        chance = cluster.timeline.chance("habits")
        habits = {
            f"c{number}": Habits.drawn(chance, plan.clients, lease_share, plan.pace) for number in range(plan.clients)
        }
        habits["reader"] = Habits.of_reader(lease_share, plan.pace)
        return [SimulatedClient(cluster, name, self.judge, own, self.workload) for name, own in habits.items()]

    # --- a whole run -------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Let faults rage while clients work, then heal all: the cluster must serve and converge; everything is judged.

        Returns the digest of all that happened: equal digests, equal runs. Raises `ViolationError` for what does not
        hold, and whatever else ended a node without an order, with the whole story in a note.
        """
        try:
            self.start()
            for client in self.clients:
                client.start()
            if self.plan.faults:
                self.faults.start()
            self.advance(self.plan.seconds * self.plan.pace)
            self.be_quiet()
        except BaseException as error:
            error.add_note(story(self.plan, error, self.faults.ordered, self.messages, self.again))
            raise
        return self.cluster.timeline.digest

    def be_quiet(self) -> None:
        """Heal: then the cluster must elect, serve every client, and converge, within a bound."""
        cluster, patience = self.cluster, QUIET_S_MAX * self.plan.pace
        self.faults.heal()
        elected = cluster.run(patience, lambda: cluster.leader() is not None)
        demand(elected, "liveness", f"nobody leads {patience} s after the last fault")
        goals = [client.done + 3 for client in self.clients]
        served = cluster.run(
            patience,
            lambda: all(client.done >= goal for client, goal in zip(self.clients, goals, strict=True)),
        )
        demand(served, "liveness", f"a client is not served: {[client.done for client in self.clients]} of {goals}")
        for client in self.clients:
            client.stop()
        finished = cluster.run(patience, lambda: all(client.idle for client in self.clients) and cluster.settled())
        demand(finished, "liveness", f"no convergence: {self.describe()}")
        self.judge_all(patience)

    def judge_all(self, patience: float) -> None:
        """Nothing comes any more: compare the nodes, read everything once more, and judge all that clients saw."""
        cluster = self.cluster
        compare(cluster.healthy(), self.state)
        self.judge.settle(copies=cluster.network.copies > 0)
        audit = Audit(cluster, self.judge)
        audit.start(self.workload.at_the_end())
        answered = cluster.run(patience, lambda: audit.finished)
        demand(answered, "liveness", f"the last reads are not answered: {audit.asked}")
        audit.compare_answers()
        self.events.compare_journals()
        self.judge.conclude()
        if self.twin:
            machine = cluster.healthy()[0].engine.ledger.applier.machine
            queries = [call.query for call in audit.calls]
            run = Run.of(self.agreement.entries, self.agreement.effects, queries, machine)
            compare_with_twin(self.state_machine, run, self.state)

    def describe(self) -> list[tuple[Any, ...]]:
        """Where each node stands."""
        rows: list[tuple[Any, ...]] = [("idle", *[client.idle for client in self.clients])]
        for base in self.cluster.running():
            ledger = base.engine.ledger
            log = ledger.log
            rows.append(
                (base.name, ledger.term, ledger.leading, log.base_index, log.last, ledger.commit_index, ledger.applied)
            )
        return rows

    # --- by hand -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all nodes, once."""
        if not self.started:
            refuse_in_twin()
            self.started = True
            if self.quiet:
                logger.disable("forge_consensus")
            self.cluster.start()

    def advance(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Let so much virtual time pass, less if `until` says so after a step; returns what it says.

        Raises what was found wrong meanwhile.
        """
        self.start()
        return self.cluster.run(seconds, until)

    def leader(self) -> str | None:
        """Who leads the highest term, of those that run."""
        base = self.cluster.leader()
        return None if base is None else base.name

    def wait_for_leader(self, seconds: float = 30.0) -> str:
        """Let time pass until somebody leads; raises `NoLeaderError` after so many virtual seconds."""
        self.advance(seconds, lambda: self.cluster.leader() is not None)
        leader = self.leader()
        if leader is None:
            raise NoLeaderError(f"nobody leads after {seconds} virtual seconds: {self.describe()}")
        return leader

    def name_of(self, node: str) -> str:
        """A node's name; "leader" is whoever leads. Raises `NodeNotFoundError`, `NoLeaderError`."""
        if node == "leader":
            return self.leader() or self.wait_for_leader(0.0)
        if node not in self.cluster.nodes:
            raise NodeNotFoundError(f"there is no node {node!r}; there are {', '.join(self.cluster.names)}")
        return node

    def crash(self, node: str) -> str:
        """End a node's process at once; what was not flushed is lost. Returns its name."""
        name = self.name_of(node)
        self.cluster.crash(name)
        return name

    def restart(self, node: str) -> None:
        """Start a node on its disk as the last process left it; does nothing if it runs."""
        self.cluster.restart(self.name_of(node))

    def pause(self, node: str, seconds: float) -> str:
        """Stop a node's process for a while, as SIGSTOP does. Returns its name."""
        name = self.name_of(node)
        base = self.cluster.nodes[name].running
        if base is not None:
            base.pause(seconds)
        return name

    def partition(self, *groups: Sequence[str]) -> None:
        """Let frames through only within each group; all who are in none form one more."""
        named = [[self.name_of(node) for node in group] for group in groups]
        rest = [name for name in self.cluster.names if not any(name in group for group in named)]
        sides = [*named, rest]
        self.cluster.network.cut.clear()
        for number, side in enumerate(sides):
            for other in sides[number + 1 :]:
                self.cluster.network.part(side, other)

    def heal(self) -> None:
        """End all faults: every node runs, every frame arrives, every disk is well."""
        self.faults.heal()

    def subscribe(self, kind: type[ConsensusEvent] | str, handler: Callable[[ConsensusEvent], object]) -> None:
        """Have a handler hear the events of all nodes, at the moment of each, in virtual time.

        What it raises comes out of `run` or `advance`. Call it before `start`, to hear everything.
        """

        def heard(event: ConsensusEvent) -> None:
            try:
                handler(event)
            except BaseException as error:  # a bus lets no handler harm a node; here it is to fail the run
                self.cluster.failure = self.cluster.failure or error

        for node in self.cluster.nodes.values():
            node.bus.subscribe(kind, heard, inline=True)

    def query(self, node: str, query: Any) -> Any:
        """Ask a node's machine directly, past reads and leaders; None if the node is down."""
        base: SimulatedBase | None = self.cluster.nodes[self.name_of(node)].running
        return None if base is None else base.engine.ledger.applier.query(query)


def changed(plan: Plan, changes: dict[str, Any]) -> Plan:
    """The plan with those changes that are not None. Raises `InvalidConfigError` for what cannot be simulated."""
    plan = replace(plan, **{name: value for name, value in changes.items() if value is not None})
    if not 1 <= plan.nodes <= 9:
        raise InvalidConfigError(f"a simulation has 1 to 9 nodes, not {plan.nodes}")
    if unknown := sorted(set(plan.kinds) - KINDS.keys()):
        raise InvalidConfigError(f"no kind of fault is called {unknown[0]!r}; there are {', '.join(sorted(KINDS))}")
    return plan


def run_seed(seed: int, seconds: float = 12.0, **changes: Any) -> str:
    """Run the plan of a seed, with what is to be different; returns the digest."""
    with Simulation(replace(Plan.of(seed, seconds), **changes)) as simulation:
        return simulation.run()
