"""The order of events: a subscriber on every node that checks the guarantees to every subscriber."""

from __future__ import annotations

from dataclasses import dataclass, field

from forge_consensus.events.types import (
    BecameCandidate,
    BecameLeader,
    ConsensusEvent,
    LeaderElected,
    LeaderStepDown,
    NodeStarted,
)
from forge_consensus.testing.rules.violations import ViolationError, demand
from forge_consensus.testing.world.cluster import WIPED, SimulatedCluster, SimulatedNode


@dataclass(slots=True)
class Stream:
    """The events that one incarnation of a node has published."""

    boot: int = 0
    number: int = 0
    term: int = 0
    leads: bool = False
    """Whether it published the beginning of its leadership, and not yet its end."""
    boots: list[tuple[int, int]] = field(default_factory=list)
    """For each process: the first and the last number that it published."""


class EventOrder:
    """Observes every event that the nodes of a cluster publish, and checks it against the previous one.

    The sequence numbers of a node rise: by one while a process runs, and above all earlier ones when the next process
    starts. Terms never go back. Each term has one leader in all events, and a leader publishes the end of its
    leadership before it is a candidate again.
    """

    def __init__(self, cluster: SimulatedCluster) -> None:
        """Subscribe to every node; construct this before the cluster starts."""
        self.cluster = cluster
        self.streams: dict[tuple[str, str], Stream] = {}
        self.elected: dict[int, str] = {}
        self.count = 0
        for node in cluster.nodes.values():
            self.subscribe(node)
        cluster.made.append(self.subscribe)

    def subscribe(self, node: SimulatedNode) -> None:
        """Observe a node, also one that is made later."""
        node.bus.subscribe(ConsensusEvent, lambda event: self.observe(node.name, event), inline=True)

    def observe(self, name: str, event: ConsensusEvent) -> None:
        """Check an event. A bus ignores errors of handlers, so a violation becomes the cluster's failure."""
        try:
            self.check(name, event)
        except ViolationError as error:
            self.cluster.failure = self.cluster.failure or error

    def check(self, name: str, event: ConsensusEvent) -> None:
        """Compare an event with the previous ones, unless the disk was ruined. Raises `ViolationError`."""
        self.count += 1
        if self.cluster.suspect.get(name, WIPED) != WIPED:  # an empty folder tells its events in order
            return
        base = self.cluster.nodes[name].base
        if base is None or event.node_id != name:
            raise ViolationError(f"events: {name} told {event}")
        identity = base.engine.ledger.identity
        stream = self.streams.get((name, identity.incarnation))
        if stream is None:
            stream = self.streams[name, identity.incarnation] = Stream()
        number, first = event.sequence, identity.boot != stream.boot
        if first != isinstance(event, NodeStarted):
            raise ViolationError(f"events: a process of {name} begins with {event}")
        if first:
            demand(number > stream.number, "events", f"{name} repeats number {number}")
            stream.boot, stream.leads = identity.boot, False
            stream.boots.append((number, number))
        elif number != stream.number + 1:
            raise ViolationError(f"events: {name} told {stream.number}, then {event}")
        if event.term < stream.term:
            raise ViolationError(f"events: {name} goes back from term {stream.term}: {event}")
        if isinstance(event, LeaderElected):
            leader = self.elected.setdefault(event.term, event.leader)
            demand(leader == event.leader, "I1", f"{name} told of {event.leader} in {event.term}, others of {leader}")
        if isinstance(event, BecameCandidate) and stream.leads:
            raise ViolationError(f"events: {name} stands, and has not told that it leads no more: {event}")
        stream.leads = isinstance(event, BecameLeader) or (stream.leads and not isinstance(event, LeaderStepDown))
        stream.boots[-1] = stream.boots[-1][0], number
        stream.number, stream.term = number, event.term

    def compare_journals(self) -> None:
        """Demand that each journal holds the events that its node published, and names those that are missing.

        Only events from before a crash, or old ones, may be missing. Raises `ViolationError`.
        """
        for base in self.cluster.healthy():
            identity, journal = base.engine.ledger.identity, base.engine.ledger.journal
            stream = self.streams[base.name, identity.incarnation]
            place, end = 1, stream.number
            while place <= end:
                page = journal.read(place, 1000)
                demand(page.end == end, "events", f"{base.name} told {end}, its journal ends at {page.end}")
                for number, _ in page.rows:
                    told = any(first <= number <= last for first, last in stream.boots)
                    demand(told, "events", f"{base.name} never told {number}, and would tell it again")
                for gap in page.gaps:
                    present = gap.last >= stream.boots[-1][0] and gap.reason == "lost"
                    demand(not present, "events", f"{base.name}, never ended since, lost {gap}")
                covered = len(page.rows) + sum(gap.last - gap.first + 1 for gap in page.gaps)
                demand(covered == page.next - place, "events", f"{base.name} skips numbers in {place}..{page.next}")
                place = page.next
