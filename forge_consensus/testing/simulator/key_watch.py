"""What a run with leases has beside others: the log as a model knows it, users who watch, leases that must end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from forge_consensus.storage.machines.machine import Entry
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.rules.key_log import KeyHistories, KeyLog
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.simulator.leased_keys import ALL, NAMES, PREFIXES
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.watching import SimulatedWatcher
from forge_consensus.testing.world.cluster import SimulatedCluster

WATCHERS: Final = 2
LATE_BEATS: Final = 3
LATE_SECONDS: Final = 0.1
"""So late a lease may end while all is well: heartbeats of the slowest node, and a commit before it that is slow."""


class KeyWatch:
    """The rules of keys in one run, and its watchers."""

    def __init__(self, plan: Plan, invariants: Invariants) -> None:
        self.plan = plan
        self.log = KeyLog(invariants, is_judged)
        self.histories = KeyHistories()
        self.watchers: list[SimulatedWatcher] = []

    def follow(self, cluster: SimulatedCluster) -> None:
        """Make the watchers; none of them asks yet."""
        self.cluster = cluster
        chance = cluster.timeline.chance("watchers")
        for number in range(WATCHERS):
            exact = number > 0 and chance.random() < 0.5
            text = chance.choice(NAMES if exact else PREFIXES) if number else ALL
            name = f"watcher{number}"
            self.watchers.append(SimulatedWatcher(cluster, name, self.log, text, exact=exact, pace=self.plan.pace))

    def start(self) -> None:
        """Let the watchers ask."""
        for watcher in self.watchers:
            watcher.start()

    def heal(self) -> None:
        """Note that no fault strikes any more and that a node leads: from now on leases end in time.

        A leader looks for those that are due at each heartbeat, one entry after the other, and some machines take long.
        """
        plan, cluster = self.plan, self.cluster
        if plan.conditions.machine_seconds:
            return
        beat = max(cluster.settings_of(name)[0].heartbeat_interval for name in cluster.names)
        self.log.healed_at, self.log.late_seconds_max = cluster.timeline.now, LATE_BEATS * beat + LATE_SECONDS

    def end(self, patience: float, at_rest: Callable[[], bool]) -> None:
        """Demand that leases end although nobody writes, that watchers are told all, and that nodes hold the same.

        Copies of frames of clients may come meanwhile, so the cluster must be at rest, again, when that is looked at.
        Raises `ViolationError`.
        """
        ended = self.cluster.run(patience, lambda: not self.log.waits)
        demand(ended, "lease", f"nobody writes any more, and these leases do not end: {self.log.model.leases}")
        told = self.cluster.run(patience, lambda: all(watcher.is_at_the_end for watcher in self.watchers) and at_rest())
        places = {watcher.name: watcher.cursor.next for watcher in self.watchers}
        demand(told, "liveness", f"a watch does not come to entry {self.log.last}: they are at {places}")
        for watcher in self.watchers:
            watcher.conclude()
            watcher.stop()
        for base in self.cluster.healthy():
            self.log.check_state(base, lambda key: key.startswith(ALL))


def is_judged(entry: Entry) -> bool:
    """Whether an entry is of the workload: others are sent to do harm, and touch no key of its own."""
    return entry.command.correlation_id is not None
