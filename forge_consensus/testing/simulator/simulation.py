"""The simulation: a cluster in one process from one random seed, with clients, faults and checks, in virtual time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from forge_consensus.errors import AlreadyStartedError, InvalidConfigError
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Machine
from forge_consensus.testing.faults.drawn import Faults
from forge_consensus.testing.rules.access_rules import AccessLists
from forge_consensus.testing.rules.agreement import (
    Agreement,
    CountingMachine,
    WatchedMachine,
    counting_state,
    named,
)
from forge_consensus.testing.rules.clock_errors import ClockErrors
from forge_consensus.testing.rules.event_order import EventOrder
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.rules.machine_cost import CostOfMachine
from forge_consensus.testing.rules.time_rules import Reading, check_passed
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.simulator import access_user
from forge_consensus.testing.simulator.arguments import check_function, given_plan, given_workload, machine_maker
from forge_consensus.testing.simulator.audit import Audit, compare
from forge_consensus.testing.simulator.by_hand import HandMoves
from forge_consensus.testing.simulator.client import SimulatedClient
from forge_consensus.testing.simulator.conditions import core_of, own_settings
from forge_consensus.testing.simulator.failure_story import story
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.simulator.hostile import FloodWorkload, HostileWorkload, MoodyMachine
from forge_consensus.testing.simulator.judge import Judge
from forge_consensus.testing.simulator.key_judge import KeyJudge
from forge_consensus.testing.simulator.key_watch import KeyWatch
from forge_consensus.testing.simulator.leased_keys import LeasedKeysWorkload
from forge_consensus.testing.simulator.main_guard import check_main_guard
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.plan_text import reproduction
from forge_consensus.testing.simulator.progress import CORE_SECONDS_MAX, Progress
from forge_consensus.testing.simulator.twin import Run, compare_with_twin, importable
from forge_consensus.testing.simulator.workload import CountingWorkload, KeyValueWorkload, Workload
from forge_consensus.testing.story.message_table import MessageTable
from forge_consensus.testing.world.base import Watcher
from forge_consensus.testing.world.cluster import SimulatedCluster

QUIET_SECONDS_MAX = 20.0
"""The time limit, in virtual seconds at pace 1, for a cluster without faults to elect, converge and serve."""
TIME_SECONDS = 1.5
"""How long the time of the state is watched, in virtual seconds at pace 1."""
LARGEST_BYTES_MAX = 200_000
"""The largest command that a simulated client sends, if settings allow more."""
TIDY_SECONDS = 0.5
"""How often a ruined member is looked for after the faults, in virtual seconds at pace 1."""
LATE_SECONDS, REST_SECONDS = 3.0, 3.0
"""The latest report of a broken connection, and how long a cluster at rest is watched, at pace 1."""
COLLECT_EACH = 100_000
"""The number of new objects after which the garbage collector runs again."""
DEFAULT_WORKLOAD = (
    '. Without workload= the clients send Command("increment", {"key": key}), and the machine must count and return '
    'how often a key was counted, and answer the query {"get": key} with that count, or None: give a workload of what '
    "your machine does, see forge_consensus.testing.Workload"
)


class Simulation(HandMoves):
    """A whole cluster in one process and in virtual time; `run` it under faults, or move it by hand.

    The nodes are the real ones: the same actors, codec and ledger, on a simulated store, clock and network. The
    random seed decides every draw, so a run that failed fails again. Use it in a ``with`` statement::

        with Simulation(nodes=5, seed=7, state_machine=MyMachine, workload=MyWorkload()) as simulation:
            simulation.run()

    By hand, every step is a call: `start`, `advance`, `crash`, `restart`, `partition`, `heal`, `leader`, `submit`.
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
        """Prepare a run: of the given plan, or of the plan of the seed; the other arguments replace parts of it.

        Args:
            plan: the plan of the run; None for `Plan.of(seed)` at pace 1 and under usual conditions.
            nodes: how many nodes, 1 to 9; None for the plan's number.
            seed: the random seed of every draw, a whole number from 0.
            state_machine: makes a new machine for each process of each node: a class, or a function without parameters.
                None for the built-in machines.
            state: takes a machine and returns what identifies its state, anything with a ``repr``. If given, the states
                of all nodes are compared after every command, otherwise only the results.
            workload: the calls of clients, and the model by which answers are judged. None for commands of the built-in
                machine or, with your own, for the command "increment" and the query {"get": key} of some keys.
            seconds: how long `run` injects faults, in virtual seconds; None for the plan's duration.
            faults: True or False, or a list of kinds of faults; an empty list means none. None for the plan's faults.
            twin: whether `run` ends by applying the same commands in another process, with another hash seed and clock,
                and compares results, final answers and, if the process can import `state`, states. None for yes if
                another process can import the machine that is given.
            quiet: whether the log of the nodes is dropped from `start` to `close`, because injected faults fill it.

        Raises `InvalidConfigError` for a wrong argument; the text says what to give instead.

        """
        self.plan = plan = given_plan(plan, seed=seed, nodes=nodes, seconds=seconds, faults=faults)
        if state is not None:
            check_function("state", state, "tells the state of a machine")
        self.workload = workload_for(plan, state_machine, workload)
        asked = self.workload if state_machine or workload else with_hostile(plan, self.workload)
        self.again = reproduction(plan, state_machine, workload, state)
        self.twin = twin_wanted(twin, state_machine)
        if state_machine is None:
            state_machine = usual_machine(plan)
            state = state or (counting_state if plan.own_machine else None)
        self.state_machine = machine_maker(state_machine)
        self.state, self.agreement = state, Agreement(state)
        self.invariants, self.clock_errors = Invariants(), ClockErrors()
        self.agreement.observe = self.invariants.applies
        self.invariants.sessions.sessions_max = plan.conditions.bounds.sessions_max
        self.keys = KeyWatch(plan, self.invariants) if isinstance(self.workload, LeasedKeysWorkload) else None
        self.judge = self.make_judge()
        if workload is None and state_machine not in (CountingMachine, MoodyMachine, KeyValueMachine):
            self.judge.advice = DEFAULT_WORKLOAD
        cluster = self.make_cluster()
        super().__init__(cluster, self.make_faults(cluster), quiet=quiet, pace=plan.pace)
        self.messages, self.events = MessageTable.of(cluster), EventOrder(cluster)
        self.clients = self.make_clients(asked)
        self.ran = False

    access: access_user.AccessJudge | None = None
    """What judges the list of access, where the plan has a user who changes it."""
    progress: Progress | None = None
    """Watches the client of the core, while faults strike."""

    def machine(self, node: str) -> Machine:
        """Make a node's machine, wrapped so that each step is compared."""
        made = self.state_machine()
        slowest = self.plan.conditions.machine_seconds
        cost = CostOfMachine(self.cluster_node(node), slowest) if slowest else None
        return WatchedMachine(made, node, self.agreement, lambda: self.saved(node), cost)

    def cluster_node(self, name: str) -> Callable[[float], None]:
        """Return the function that lets a node's running process spend virtual seconds."""

        def spend(seconds: float) -> None:
            base = self.cluster.nodes[name].running
            if base is not None:
                base.spend(seconds)

        return spend

    def saved(self, node: str) -> int:
        """Return the index of the newest snapshot on a node's disk."""
        base = self.cluster.nodes[node].running
        return 0 if base is None else base.engine.ledger.applier.on_disk

    def entry_of(self, label: tuple[int, int]) -> str:
        """Return the entry of a session's command in words, empty if no machine has applied it."""
        index = self.invariants.executed.get(label, 0)
        return next((named(entry) for entry in self.agreement.entries if entry.index == index), "")

    def make_cluster(self) -> SimulatedCluster:
        """Make the nodes; none of them runs yet."""
        plan = self.plan
        if plan.conditions.access:
            self.access = access_user.AccessJudge(AccessLists())
        storage, raft = plan.paced()
        unequal, names = plan.conditions.unequal, [f"n{number}" for number in range(1, plan.nodes + 1)]
        return SimulatedCluster(
            plan.nodes,
            plan.seed,
            raft=raft,
            storage=storage,
            machine=self.machine,
            lease_reads=plan.lease_reads,
            watchers=self.watchers(),
            own={name: own_settings(plan.seed, name, unequal, raft, storage) for name in names} if unequal else None,
            core=core_of(names, plan.seed) if plan.conditions.core else frozenset(),
            backoff=plan.conditions.backoff,
            bounds=plan.conditions.bounds,
        )

    def watchers(self) -> list[Watcher]:
        """Return those that observe every node: the invariants, and the rules of what this run has besides."""
        found: list[Watcher] = [self.invariants, self.clock_errors]
        if self.keys is not None:
            found.append(self.keys.histories)
        return found if self.access is None else [*found, self.access.lists]

    def make_faults(self, cluster: SimulatedCluster) -> Faults:
        """Make the schedule of faults; none strikes yet."""
        plan = self.plan
        return Faults(cluster, plan.kinds, plan.skip, plan.pace, plan.conditions.wild, plan.conditions.spares)

    def make_judge(self) -> Judge:
        """Make the judge of what clients see."""
        judge = Judge(self.workload)
        if self.keys is not None:
            judge, self.agreement.first = KeyJudge(self.workload, self.keys.log), self.keys.log.applies
        judge.entry_of, judge.committed_at = self.entry_of, self.invariants.committed_by
        judge.clock_error = lambda: self.clock_errors.seconds
        return judge

    def make_clients(self, workload: Workload) -> list[SimulatedClient]:
        """Make clients with habits of their own; one more reads often and impatiently, one watches the core.

        Where keys hang on leases, watchers are made besides.
        """
        plan, cluster = self.plan, self.cluster
        if self.keys is not None:
            self.keys.follow(cluster)
        lease_share = 0.5 if plan.lease_reads else 0.0
        chance = cluster.timeline.chance("habits")
        habits = {
            f"c{number}": Habits.drawn(chance, plan.clients, lease_share, plan.pace) for number in range(plan.clients)
        }
        habits["reader"] = Habits.of_reader(lease_share, plan.pace)
        for own in habits.values():
            own.route_share = plan.conditions.reads
        clients = [SimulatedClient(cluster, name, self.judge, own, workload) for name, own in habits.items()]
        if plan.conditions.calm:
            flood = Habits.of_flood(plan.pace)
            clients.append(SimulatedClient(cluster, "flood", self.judge, flood, FloodWorkload()))
        if self.access is not None:
            own, workload = access_user.habits(plan.pace), access_user.AccessWorkload()
            clients.append(SimulatedClient(cluster, access_user.NAME, self.access, own, workload))
        if plan.conditions.core:
            own = Progress.habits(plan.pace)
            clients.append(SimulatedClient(cluster, Progress.name(), self.judge, own, self.workload))
        return clients

    # --- a whole run -------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Inject faults while clients work, then heal: the cluster must serve and converge, and pass all checks.

        Returns the digest of everything that happened: equal digests mean equal runs. Raises `ViolationError` for a
        broken rule, and any error that ended a node without an order; a note on the error tells the whole story. Raises
        `AlreadyStartedError` the second time.
        """
        self.check_outside("run")
        if self.ran:
            raise AlreadyStartedError(
                "this simulation has run already: make another one, with the same seed or the next"
            )
        self.ran = True
        try:
            with rare_collections():
                self.start()
                for client in self.clients:
                    client.start()
                if self.keys is not None:
                    self.keys.start()
                if self.plan.faults and not self.plan.conditions.calm:
                    self.faults.start()
                if self.plan.conditions.core:
                    written = None if self.plan.conditions.machine_seconds else self.invariants.sessions.written
                    self.progress = Progress(self.clients[-1], self.core_seconds_max(), written)
                    self.progress.look()
                self.advance(self.plan.seconds * self.plan.pace)
                self.check_steady()
                self.be_quiet()
        except BaseException as error:
            error.add_note(story(self.plan, error, self.faults.ordered, self.messages, self.again))
            raise
        return self.cluster.timeline.digest

    def core_seconds_max(self) -> float:
        """Return how long a client of the core waits at most: longer where election timeouts or the machine are."""
        longest = max(self.cluster.settings_of(name)[0].election_timeout_max for name in self.cluster.names)
        return max(CORE_SECONDS_MAX * self.plan.pace, 5 * longest) + 20 * self.plan.conditions.machine_seconds

    def check_steady(self) -> None:
        """Demand that the first leader of a calm run still leads, however much its machine has to do."""
        terms = sorted(self.invariants.leaders)
        demand(
            not self.plan.conditions.calm or len(terms) <= 1,
            "steady",
            f"no fault struck, and commands take up to {self.plan.conditions.machine_seconds} s: still the terms "
            f"{terms} had a leader",
        )

    def be_quiet(self) -> None:
        """Heal; then the cluster must elect a leader, serve every client, and converge, within a time limit."""
        cluster, patience = self.cluster, QUIET_SECONDS_MAX * self.plan.pace
        if self.progress is not None:
            self.progress.running = False
        self.faults.heal()
        if self.faults.changes:
            self.tidy()
        elected = cluster.run(patience, lambda: cluster.leader() is not None)
        demand(elected, "liveness", f"no node leads {patience} s after the last fault")
        if self.keys is not None:
            self.keys.heal()
        for client in self.clients:
            if client.is_lost:
                client.start_again()
        goals = [client.done + 3 for client in self.clients]
        served = cluster.run(
            patience,
            lambda: all(client.done >= goal for client, goal in zip(self.clients, goals, strict=True)),
        )
        demand(served, "liveness", f"a client is not served: {[client.done for client in self.clients]} of {goals}")
        self.let_time_pass()
        for client in self.clients:
            client.stop()
        finished = cluster.run(patience, lambda: all(client.idle for client in self.clients) and self.at_rest())
        busy = "".join(f"{client.name} waits for answers, " for client in self.clients if not client.idle)
        demand(finished, "liveness", f"no convergence: {busy}{self.status_text()}")
        if self.faults.changes:
            self.check_undisturbed()
            rests = cluster.run(patience, self.at_rest)  # what a client had sent before it stopped may have come since
            demand(rests, "liveness", f"no convergence: {self.status_text()}")
        if self.keys is not None:
            self.keys.end(patience, self.at_rest)
        self.judge_all(patience)

    def tidy(self) -> None:
        """Have members with ruined folders removed, one after the other, as an operator would."""
        if not self.faults.operator.tidy():
            self.cluster.timeline.after(TIDY_SECONDS * self.plan.pace, self.tidy)

    def at_rest(self) -> bool:
        """Whether all members hold the same, no change of members is left, and none of them has a ruined folder."""
        ruined = self.faults.changes and any(self.faults.operator.ruined_members())
        return self.cluster.settled() and not ruined and not self.faults.operator.waits

    def check_undisturbed(self) -> None:
        """Demand that the leader of a cluster at rest stays, whatever removed nodes do that run on."""
        cluster, pace = self.cluster, self.plan.pace
        cluster.run(LATE_SECONDS * pace)  # until then a broken connection may be reported
        leader = cluster.leader()
        before = "nobody" if leader is None else f"{leader.name} in {leader.engine.ledger.term}"
        cluster.run(REST_SECONDS * pace)
        leader = cluster.leader()
        after = "nobody" if leader is None else f"{leader.name} in {leader.engine.ledger.term}"
        demand(before == after, "disturbed", f"all was healed and at rest, {before} led, and then {after} did")

    def let_time_pass(self) -> None:
        """Demand that the state's time passes while clients work; it is measured while one node leads."""
        written = self.invariants.sessions.written
        leader = self.cluster.leader()
        before = None if leader is None else Reading.of(leader, written)
        self.cluster.run(TIME_SECONDS * self.plan.pace)
        leader = self.cluster.leader()
        if before is not None and leader is not None and not self.plan.conditions.machine_seconds:
            check_passed(before, Reading.of(leader, written), self.plan.pace)

    def judge_all(self, patience: float) -> None:
        """Compare the nodes, read everything once more, and judge the whole history.

        Call it when no frame is in flight any more.
        """
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


@contextmanager
def rare_collections() -> Iterator[None]:
    """Within it the garbage collector rarely runs, because a run keeps nearly everything that it makes.

    The collector took a tenth of the time and found next to nothing.
    """
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_EACH, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def workload_for(plan: Plan, state_machine: object, workload: object) -> Workload:
    """Return the workload that is given, or the default for the machine. Raises `InvalidConfigError`."""
    if workload is not None:
        return given_workload(workload)
    built_in = state_machine is None and not plan.own_machine
    if built_in and plan.conditions.leases:
        return LeasedKeysWorkload(plan.pace)
    return KeyValueWorkload() if built_in else CountingWorkload()


def usual_machine(plan: Plan) -> Callable[[], Machine]:
    """Return the class of the machine that runs if the caller gives none."""
    if not plan.own_machine:
        return KeyValueMachine
    return MoodyMachine if plan.conditions.hostile else CountingMachine


def with_hostile(plan: Plan, workload: Workload) -> Workload:
    """Return the workload, with the hostile and the very large commands of the plan's conditions."""
    share, largest = plan.conditions.hostile, plan.conditions.largest
    if not share and not largest:
        return workload
    bytes_max = min(plan.raft.command_bytes_max, LARGEST_BYTES_MAX) if largest else 0
    return HostileWorkload(workload, share, bytes_max, own_machine=plan.own_machine, seed=plan.seed)


def twin_wanted(twin: bool | None, state_machine: Any) -> bool:
    """Return whether a twin is run. Raises `InvalidConfigError` if one is wanted but impossible."""
    possible = state_machine is not None and importable(state_machine)
    if twin and not possible:
        raise InvalidConfigError(
            "twin=True: another process must make the machine too, so give state_machine= a class or a function at "
            "the top level of a module's file"
        )
    wanted = possible if twin is None else twin
    if wanted and state_machine is not None:
        check_main_guard(state_machine)
    return wanted


def run_seed(seed: int, seconds: float = 12.0, **changes: Any) -> str:
    """Run the plan of a seed with these changes; return the digest."""
    with Simulation(replace(Plan.of(seed, seconds), **changes)) as simulation:
        return simulation.run()
