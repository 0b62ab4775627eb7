"""The faults of a simulation: what goes wrong, when and where, drawn from the seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from forge_consensus.actors.notices import TakeSnapshot
from forge_consensus.actors.simulated import CrashAt, SimulatedBase
from forge_consensus.actors.simulated_cluster import SimulatedCluster
from forge_consensus.actors.simulated_network import Weather
from forge_consensus.errors import StorageError

FAULTY_ACTORS = ("election", "replication", "membership", "snapshot", "health", "gateway")
KIND_PACE_S = 0.4
ACTOR_FAULTS_MAX = 3
"""More within the window that the options name end a process."""


class Faults:
    """Orders faults against a cluster until `stop`, then `heal` makes everything well again.

    Each seed uses only some kinds of faults and each of them as often as it likes: runs in which everything happens
    at once find less than runs that differ (swarm testing).
    """

    def __init__(self, cluster: SimulatedCluster, kinds: Sequence[str] = ()) -> None:
        """Take the kinds of faults by name, equally often and quickly; without any, as the seed decides."""
        self.cluster = cluster
        self.timeline = cluster.timeline
        self.chance = self.timeline.chance("faults")
        self.kinds: list[tuple[Callable[[], None], float]] = [
            (act, self.chance.choice((0.0, 0.3, 1.0, 3.0)))
            for act in (
                self.kill,
                self.crash_in_turn,
                self.crash_leader_in_turn,
                self.isolate,
                self.isolate_leader,
                self.stun_leader,
                self.split,
                self.one_way,
                self.bridge,
                self.mend,
                self.change_weather,
                self.pause,
                self.slow_disk,
                self.failing_disk,
                self.fail_actor,
                self.break_link,
                self.snapshot,
                self.jump_clock,
            )
        ]
        self.pace_s = self.chance.choice((0.1, 0.3, 1.0, 2.0))
        if kinds:
            self.kinds = [(act, float(act.__name__ in kinds)) for act, _ in self.kinds]
            self.pace_s = KIND_PACE_S
        elif not any(weight for _, weight in self.kinds):
            self.kinds = [(act, 1.0) for act, _ in self.kinds]
        self.running = False
        self.counts: dict[str, int] = {}

    def start(self) -> None:
        """Begin to order faults."""
        self.running = True
        self.next()

    def next(self) -> None:
        """Plan the next fault."""
        self.timeline.after(self.chance.expovariate(1 / self.pace_s), self.strike)

    def strike(self) -> None:
        """Order one fault."""
        if not self.running:
            return
        acts = [act for act, _ in self.kinds]
        act = self.chance.choices(acts, [weight for _, weight in self.kinds])[0]
        self.counts[act.__name__] = self.counts.get(act.__name__, 0) + 1
        self.timeline.note("strike", act.__name__)
        act()
        self.next()

    def heal(self) -> None:
        """No more faults: all nodes run, all frames arrive, no disk is slow."""
        self.running = False
        self.timeline.note("heal", "")
        self.cluster.network.heal()
        for name, node in self.cluster.nodes.items():
            base = node.running
            if base is None:
                self.cluster.restart(name)
            else:
                base.crash_at = None
                base.disk.ordered_failure = None
                base.slow_commits = (0.0001, 0.002)
                base.resume_at = min(base.resume_at, self.timeline.now)
                base.wake(0.0)

    # --- whom --------------------------------------------------------------------------------------------------------

    def anyone(self) -> SimulatedBase | None:
        """Some running node."""
        running = self.cluster.running()
        return self.chance.choice(running) if running else None

    def back_later(self, name: str) -> None:
        """Have a node that ends restarted after a while."""
        self.timeline.after(self.chance.uniform(0.01, 3.0), lambda: self.bring_back(name))

    def bring_back(self, name: str) -> None:
        """Restart the node, or look again later while it still runs towards its ordered end."""
        base = self.cluster.nodes[name].running
        if base is None:
            self.cluster.restart(name)
        elif self.running and (base.crash_at is not None or base.disk.ordered_failure):
            self.back_later(name)

    # --- processes ---------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """A process ends between two turns."""
        base = self.anyone()
        if base is not None:
            self.cluster.crash(base.name)
            self.back_later(base.name)

    def crash_in_turn(self) -> None:
        """A process ends within a turn."""
        self.crash_soon(self.anyone())

    def crash_leader_in_turn(self) -> None:
        """The leader ends within a turn."""
        self.crash_soon(self.cluster.leader())

    def crash_soon(self, base: SimulatedBase | None) -> None:
        """A process ends at its next commit, or while it sends."""
        if base is not None:
            base.crash(self.chance.choice(list(CrashAt)), self.chance.randrange(6))
            self.back_later(base.name)

    def pause(self) -> None:
        """A process is stopped for a while."""
        base = self.anyone()
        if base is not None:
            base.pause(self.chance.choice((0.05, 0.5, 1.5, 4.0)) * self.chance.random())

    def fail_actor(self) -> None:
        """An actor raises, so that the turn is taken back."""
        base = self.anyone()
        if base is not None and base.ordered_faults < ACTOR_FAULTS_MAX:
            base.fail_actor(self.chance.choice(FAULTY_ACTORS), at_end=self.chance.random() < 0.7)

    def snapshot(self) -> None:
        """A node takes a snapshot out of turn."""
        base = self.anyone()
        if base is not None:
            base.tell(base.engine.actor("snapshot"), TakeSnapshot())

    def jump_clock(self) -> None:
        """A wall clock is set."""
        base = self.anyone()
        if base is not None:
            base.clock.skew_ms += self.chance.randint(-5000, 5000)

    # --- disks -------------------------------------------------------------------------------------------------------

    def slow_disk(self) -> None:
        """A disk becomes slow, or well again."""
        base = self.anyone()
        if base is not None:
            slowest = self.chance.choice((0.002, 0.02, 0.2, 1.5))
            base.slow_commits = (0.0001, slowest)

    def failing_disk(self) -> None:
        """A commit fails; what it wrote may be there all the same."""
        base = self.anyone()
        if base is not None:
            base.disk.fail_next_commit(StorageError("ordered"), written=self.chance.random() < 0.5)
            self.back_later(base.name)

    # --- the network -------------------------------------------------------------------------------------------------

    def shuffled(self) -> list[str]:
        """The names of the nodes in some order."""
        return self.chance.sample(self.cluster.names, len(self.cluster.names))

    def mend(self) -> None:
        """All cuts end."""
        self.cluster.network.cut.clear()

    def isolate(self) -> None:
        """One node is cut off."""
        one, *rest = self.shuffled()
        self.cluster.network.part([one], rest)

    def isolate_leader(self) -> None:
        """The leader is cut off, and does not know it."""
        leader = self.cluster.leader()
        if leader is not None:
            self.cluster.network.part([leader.name], [name for name in self.cluster.names if name != leader.name])

    def stun_leader(self) -> None:
        """The leader is cut off and stopped for about as long as the others need to elect."""
        leader = self.cluster.leader()
        if leader is not None:
            self.isolate_leader()
            leader.pause(self.chance.uniform(0.5, 2.0))

    def split(self) -> None:
        """The cluster falls into two parts."""
        names = self.shuffled()
        middle = len(names) // 2
        self.cluster.network.part(names[:middle], names[middle:])

    def one_way(self) -> None:
        """Frames from one node to another are lost, the other way they are not."""
        names = self.shuffled()
        if len(names) > 1:
            self.cluster.network.part(names[:1], names[1 : self.chance.randint(2, len(names))], both_ways=False)

    def bridge(self) -> None:
        """Two parts see each other only through one node."""
        names = self.shuffled()
        half = len(names) // 2
        self.cluster.network.part(names[1 : half + 1], names[half + 1 :])

    def change_weather(self) -> None:
        """The network changes its habits."""
        chance = self.chance

        def sometimes(value: float) -> float:
            return chance.choice((0.0, 0.0, value * chance.random()))

        delay = chance.choice((0.002, 0.02, 0.1, 0.5)) * chance.random() + 0.001
        self.cluster.network.weather = dataclasses.replace(
            Weather(),
            loss=sometimes(0.3),
            duplicate=sometimes(0.3),
            reorder=sometimes(0.5),
            replay=sometimes(0.2),
            delay_s_max=delay,
            unreported=chance.choice((0.0, 0.5, 1.0)),
            report_s_max=chance.choice((0.002, 0.5, 3.0)),
        )

    def break_link(self) -> None:
        """A connection breaks though both ends run."""
        ends = list(self.cluster.network.links)
        if ends:
            sender, receiver = self.chance.choice(ends)
            if sender in self.cluster.network.live:
                self.cluster.network.report(self.cluster.network.live[sender], receiver)
