"""Example: every event that the Go original names, subscribed to by its class, and made to happen in three nodes.

It needs the extra ``cli`` for the node that joins.
"""

import itertools
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from dataclasses import replace

from forge_consensus import Command, ConsensusError, ConsensusService, Entry, StorageSettings, events
from forge_consensus.demo.joining import joining_node
from forge_consensus.events.log_lines import line_of
from forge_consensus.testing.local.network_paths import CUT
from forge_consensus.testing.local.ports import free_ports
from forge_consensus.testing.local.proxy import Proxy

SECONDS = 60.0
COUNTED = 50
MACHINE = "forge_consensus.demo.original_events:Tally"
"""By name, because the node that joins is another program, and is refused with another machine."""
# There ConsensusEventNodeStarted and so on.
EVENTS = (
    events.NodeStarted, events.NodeStopped, events.NodeJoined, events.NodeLeft, events.NodeFailed, events.NodeRecovered,
    events.LeaderElected, events.LeaderStepDown, events.LeaderTransfer, events.LeaderLost,
    events.RoleChanged, events.BecameFollower, events.BecameCandidate, events.BecameLeader,
    events.ClusterFormed, events.ClusterUpdated, events.QuorumAchieved, events.QuorumLost, events.MembershipChanged,
    events.LogAppended, events.LogCommitted, events.LogCompacted, events.LogTruncated,
    events.SnapshotStarted, events.SnapshotCompleted, events.SnapshotFailed, events.SnapshotRestored,
    events.Healthy, events.Unhealthy, events.Degraded, events.Recovering,
    events.ConfigUpdated, events.ConfigReloaded,
)  # fmt: skip


Kind = type[events.ConsensusEvent]


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + SECONDS
    while not holds():
        if time.monotonic() > end:
            raise SystemExit("what was waited for did not happen in time")
        time.sleep(0.02)


class Tally:
    """A state machine whose first snapshot fails."""

    def __init__(self) -> None:
        self.count = 0
        self.snapshots = 0

    def apply(self, entry: Entry) -> int:
        """Count the command."""
        self.count += 1
        return self.count

    def query(self, query: object) -> int:
        """Return the count."""
        return self.count

    def snapshot(self) -> list[bytes]:
        """Return the count as bytes."""
        self.snapshots += 1
        if self.snapshots == 1:
            raise RuntimeError("the first snapshot fails on purpose")
        return [str(self.count).encode()]

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Take over the count of a snapshot."""
        self.count = int(b"".join(chunks))


class Witness:
    """Keeps the first event of each kind, whichever node publishes it, and the kinds of the present chapter."""

    def __init__(self) -> None:
        self.first: dict[Kind, events.ConsensusEvent] = {}
        self.recent: set[Kind] = set()
        self.came = threading.Condition()

    def hear(self, event: events.ConsensusEvent) -> None:
        """Note an event."""
        with self.came:
            self.first.setdefault(type(event), event)
            self.recent.add(type(event))
            self.came.notify_all()

    def wait_for(self, *kinds: Kind) -> None:
        """Wait until events of all these kinds have come in this chapter."""
        with self.came:
            if not self.came.wait_for(lambda: self.recent >= set(kinds), SECONDS):
                missing = [kind.__name__ for kind in kinds if kind not in self.recent]
                raise SystemExit(f"these events did not come: {', '.join(missing)}")


def leads(service: ConsensusService) -> bool:
    """Whether a node leads; one that was stopped does not."""
    try:
        return service.is_leader()
    except ConsensusError:
        return False


class Story:
    """Three nodes, a proxy between them, and what happens to them."""

    def __init__(self, folder: str, running: ExitStack) -> None:
        names = ("n1", "n2", "n3")
        addresses = [f"127.0.0.1:{port}" for port in free_ports(7)]
        self.folder, self.spare = folder, addresses.pop()
        self.fronts: dict[str, str] = dict(zip(names, addresses[:3], strict=True))
        real = dict(zip(names, addresses[3:], strict=True))
        self.proxy = running.enter_context(Proxy({name: (self.fronts[name], real[name]) for name in names}))
        self.witness = Witness()
        self.services = {name: self.made(name, real[name]) for name in names}
        for service in self.services.values():
            running.enter_context(service)

    def made(self, name: str, address: str) -> ConsensusService:
        """Make a node, and subscribe to its events before it starts."""
        short = StorageSettings(trailing_entries=10, snapshot_seconds_min=0.1)
        folder = f"{self.folder}/{name}"
        service = ConsensusService(
            name, "events", address, self.fronts, folder, MACHINE, storage=short, timeout=SECONDS
        )
        for kind in EVENTS:
            # Inline means on the node's own thread, which this handler does not hold up.
            service.bus.subscribe(kind, self.witness.hear, inline=True)
        return service

    def leader(self, *others: ConsensusService) -> ConsensusService:
        """Wait for a node that leads and is none of these."""
        found: list[ConsensusService] = []

        def look() -> bool:
            found[:] = [each for each in self.services.values() if each not in others and leads(each)]
            return bool(found)

        until(look)
        return found[0]

    def take_snapshots(self, *services: ConsensusService) -> None:
        """Count to more than what stays in the log, and take snapshots; the first one of a node fails."""
        for _ in range(COUNTED):
            services[0].submit(Command("count"))
        services[0].apply(Command("count"))
        for service in services:
            service.barrier()
            with suppress(ConsensusError):
                service.snapshot()
            service.snapshot()

    # --- what happens ------------------------------------------------------------------------------------------------

    def members(self) -> None:
        """Add a node and remove it."""
        with joining_node("n4", self.spare, "events", self.fronts.values(), f"{self.folder}/n4", MACHINE):
            self.leader().add_node("n4", self.spare, learner=True)
            self.leader().remove_node("n4")

    def settings(self) -> None:
        """Change a setting of a running node; a ConsensusExtension with a file has its own `reload`."""
        leader = self.leader()
        storage = replace(leader.settings.storage, snapshot_interval=3600.0)
        leader.reload(replace(leader.settings, storage=storage))

    def follower_away(self) -> None:
        """Stop a follower, and start it again when no other node's log has its next entries any more."""
        leader = self.leader()
        follower, other = (service for service in self.services.values() if service is not leader)
        follower.stop()
        until(lambda: leader.get_cluster_info().active_nodes == 2)
        self.take_snapshots(leader, other)
        until(lambda: max(service.status().log_entries for service in (leader, other)) < COUNTED)
        follower.start()

    def leader_cut_off(self) -> None:
        """Cut the leader off with a command that nobody else has; the others elect another one and go on."""
        old = self.leader()
        name = old.settings.node_id
        pairs = [pair for pair in itertools.permutations(self.fronts, 2) if name in pair]
        self.proxy.impose_all(pairs, CUT)
        old.submit(Command("count"))
        self.witness.wait_for(events.QuorumLost, events.Unhealthy, events.LeaderLost)
        self.leader(old).apply(Command("count"))
        self.proxy.heal()


def main() -> None:
    """Let things happen until every event has come, and print the first of each kind."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        story = Story(folder, running)
        witness = story.witness
        chapters: list[tuple[Callable[[], object], tuple[Kind, ...]]] = [
            (story.leader, (events.Healthy, events.ClusterFormed, events.QuorumAchieved)),
            (lambda: story.take_snapshots(story.leader()), (events.SnapshotFailed, events.SnapshotCompleted)),
            (story.members, (events.NodeJoined, events.NodeLeft, events.MembershipChanged, events.ClusterUpdated)),
            (story.settings, (events.ConfigUpdated, events.ConfigReloaded)),
            (lambda: story.leader().transfer_leadership(), (events.LeaderTransfer, events.LeaderStepDown)),
            (story.follower_away, (events.NodeStopped, events.NodeRecovered, events.SnapshotRestored)),
            (story.leader_cut_off, (events.LogTruncated,)),
        ]
        for happen, kinds in chapters:
            happen()
            witness.wait_for(*kinds)
            witness.recent.clear()
    if missing := [kind.__name__ for kind in EVENTS if kind not in witness.first]:
        raise SystemExit(f"these events did not come: {', '.join(missing)}")
    print("== Events ==")
    for kind in EVENTS:
        print(f"{kind.__name__}: {kind.kind}, first {line_of(witness.first[kind])}")


if __name__ == "__main__":
    main()
