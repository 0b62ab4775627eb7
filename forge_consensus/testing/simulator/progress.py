"""The rule of progress: a majority that no fault touches serves, whatever happens to the others, and for how long."""

from __future__ import annotations

from forge_consensus.testing.rules.time_rules import Reading, check_passed
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.simulator.client import SimulatedClient
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.world.network import CORE_CLIENT

CORE_SECONDS_MAX = 6.0
"""A client of the core waits no longer for a result, at pace 1: some elections of disturbed nodes, and slow disks.

It is half as long as the faults of a usual run last; with the whole of it the rule could not fail."""
CHECK_SECONDS = 1.0


class Progress:
    """Watches a client that only writes, and that has a calm network to an undisturbed majority.

    `limit` is the longest time in virtual seconds without a result. While one node of that majority leads, the time of
    the replicated state must pass too; `written` has the moment at which each (index, term) was written, None if the
    machine takes time.
    """

    def __init__(
        self, client: SimulatedClient, limit: float, written: dict[tuple[int, int], float] | None = None
    ) -> None:
        self.client = client
        self.limit = limit
        self.written = written
        self.before: Reading | None = None
        """The time of the replicated state at the last look, if a node of the core led."""
        self.done = -1
        self.since = 0.0
        self.running = True

    @staticmethod
    def habits(pace: float) -> Habits:
        """The habits of the client: one command at a time, and no end of patience."""
        return Habits(read_share=0.0, pipeline_max=1, burst_max=1, rest_s_max=0.2 * pace, leave_share=0.0, pace=pace)

    @staticmethod
    def name() -> str:
        """The name of the user, whose first and only client the network knows."""
        return CORE_CLIENT.partition(".")[0]

    def look(self) -> None:
        """Demand progress since the last look, and plan the next. Raises `ViolationError`."""
        if not self.running:
            return
        now = self.client.timeline.now
        if self.client.done != self.done:
            self.done, self.since = self.client.done, now
        demand(
            now - self.since <= self.limit,
            "core",
            f"a majority is undisturbed, and its client has had no result for {now - self.since:.1f} s",
        )
        self.look_at_time()
        self.client.timeline.after(CHECK_SECONDS * self.client.habits.pace, self.look)

    def look_at_time(self) -> None:
        """Demand that the state's time has passed since the last look. Raises `ViolationError`."""
        cluster, before, self.before = self.client.cluster, self.before, None
        leader = cluster.leader()
        if self.written is None or leader is None or leader.name not in cluster.core:
            return
        applier = leader.engine.ledger.applier
        if (applier.index, applier.term) in self.written:  # otherwise its state is that of a founding
            self.before = Reading.of(leader, self.written)
            if before is not None:
                check_passed(before, self.before, self.client.habits.pace)
