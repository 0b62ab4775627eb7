"""The event feed of a siege: each node's numbers must come once, in order, and without an undeclared gap."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Final, Self

from forge_consensus.events.stream import StreamEndedError
from forge_consensus.events.types import BecameLeader, ConsensusEvent
from forge_consensus.feed.event_feed import EventFeed, Gap, Position
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.siege.protected import READER

QUIET_SECONDS_MAX: Final = 30.0
"""The time limit, in seconds, for the feed to reach the end of the journals after the round."""


class Numbers:
    """The event numbers of each node so far, and the errors in them."""

    def __init__(self) -> None:
        self.next: dict[str, int] = {}
        self.kinds: Counter[str] = Counter()
        self.gaps: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.replaced: Counter[str] = Counter()
        """How often each node was found with another folder."""

    def take(self, event: ConsensusEvent) -> None:
        """Compare an event with the next number of its node."""
        node, expected = event.node_id, self.next.get(event.node_id, 1)
        if isinstance(event, Gap):
            self.gaps[event.reason] += 1
            if event.reason == "replaced":
                self.replaced[node] += 1
                self.next[node] = 1
                return
            if event.reason != "lost" or event.last is None:
                self.wrong.append(f"{node}: events {event.first} to {event.last} are {event.reason}")
            first, last = event.first, event.last or event.first
        else:
            self.kinds[event.topic] += 1
            first = last = event.sequence
        if first != expected or last < first:
            self.wrong.append(f"{node}: number {first} came instead of {expected} ({event.topic})")
        self.next[node] = max(expected, last + 1)


class FeedWatch:
    """Follows all nodes of one cluster for the cluster's whole life."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.shown: dict[str, Any] = {"cluster_id": cluster.cluster_id, "credentials": cluster.credentials(READER)}
        self.numbers = Numbers()
        self.feed = EventFeed(cluster.endpoints, since=0, **self.shown)
        self.failure: BaseException | None = None
        self.thread = threading.Thread(target=self.run, name="siege-feed", daemon=True)
        self.thread.start()

    def run(self) -> None:
        """Read events until closed; the body of the thread."""
        try:
            while True:
                self.numbers.take(self.feed.get())
        except StreamEndedError:
            pass
        except BaseException as failure:
            self.failure = failure

    def check(self, cluster: LocalCluster, seconds: float = QUIET_SECONDS_MAX) -> None:
        """Compare with the journals once no event is in flight. Raises `AssertionError`.

        A second feed reads the journals from its own beginning; the first, which was exposed to all faults and was told
        of the nodes at the beginning only, must reach the end of the second. Of a node that left, it may miss the end.
        """
        again = Numbers()
        with EventFeed(cluster.endpoints, since=0, follow=False, **self.shown) as feed:
            for event in feed:
                again.take(event)
            silent, ends = feed.silent, feed.positions
        assert not again.wrong, f"the journals: {'; '.join(again.wrong[:5])}"
        missing = sorted(set(cluster.names) - set(again.next))
        assert not missing, f"nothing is told of {', '.join(missing)}; silent: {', '.join(silent)}"
        end = time.monotonic() + seconds
        while behind := [name for name in cluster.names if not self.is_at(name, ends[name])]:
            assert self.failure is None, f"the feed ended: {self.failure!r}"
            assert time.monotonic() < end, (
                f"after {seconds:g} s the feed is not there yet for {', '.join(behind)}: "
                f"{self.feed.positions} instead of {ends}"
            )
            time.sleep(0.02)
        assert not self.numbers.wrong, f"the feed: {'; '.join(self.numbers.wrong[:5])}"
        strange = [name for name, count in self.numbers.replaced.items() if count > cluster.wiped[name]]
        assert not strange, f"the feed found other folders of {', '.join(strange)} than there were"

    def is_at(self, node: str, end: Position) -> bool:
        """Whether the feed has come to this end of a node's journal."""
        present = self.feed.positions.get(node)
        return present is not None and present.incarnation == end.incarnation and present.next >= end.next

    @property
    def leaders(self) -> int:
        """The number of times that a node became leader."""
        return self.numbers.kinds[BecameLeader.kind]

    def close(self) -> None:
        """Close the feed and end the thread."""
        self.feed.close()
        self.thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
