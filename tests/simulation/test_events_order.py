"""A subscriber receives each node's events in order, each once and without a gap, under all faults."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loguru import logger

from forge_consensus.events.bus import EventBus
from forge_consensus.events.selection import Selection
from forge_consensus.events.subscription import Subscription
from forge_consensus.events.types import ConsensusEvent, RoleChanged
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.effort import effort
from tests.worlds.event_recording import Recording

SECONDS = 3.0
LISTENERS_A_NODE = 4
SELECTIONS: tuple[type[ConsensusEvent] | str, ...] = (ConsensusEvent, "*", "consensus.log.*", "*.leader.*", RoleChanged)
JOIN_SECONDS = 10.0


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    yield
    logger.enable("forge_consensus")


@dataclass(slots=True)
class Listening:
    """One subscription to a node, begun at some moment and perhaps ended at another."""

    bus: EventBus
    told: list[ConsensusEvent]
    """All that the node tells; it grows."""
    kind: type[ConsensusEvent] | str
    inline: bool
    queue_max: int
    begins: int = 0
    ends: int | None = None
    seen: list[ConsensusEvent] = field(default_factory=list)
    subscription: Subscription[ConsensusEvent] | None = None

    def begin(self) -> None:
        """Subscribe."""
        self.begins = len(self.told)
        self.subscription = self.bus.subscribe(
            self.kind, self.seen.append, inline=self.inline, queue_max=self.queue_max
        )

    def end(self) -> None:
        """Cancel."""
        if self.subscription is not None and self.ends is None:
            self.subscription.cancel()
            self.ends = len(self.told)

    def check(self) -> None:
        """It saw what it chose, from its begin to its end: all of it, or told how much was dropped."""
        if self.subscription is None:
            return
        chosen = Selection.of(self.kind)
        offered = [event for event in self.told[self.begins : self.ends] if chosen.wants(event)]
        numbers = [event.sequence for event in self.seen]
        assert numbers == sorted(set(numbers)), "out of order, or twice"
        if self.inline:
            assert self.seen == offered
        elif self.ends is None:
            assert len(self.seen) + self.subscription.dropped == len(offered)
            assert set(numbers) <= {event.sequence for event in offered}
            assert self.subscription.dropped == 0 or self.queue_max < len(offered)
        else:  # what waited when it was cancelled is not seen
            assert set(numbers) <= {event.sequence for event in offered}


def listen(world: Simulation, recording: Recording) -> list[Listening]:
    """Have subscriptions of all kinds begin and end at moments of the seed's choosing."""
    chance = random.Random(f"listeners {world.plan.seed}")
    listening = []
    for name, node in world.cluster.nodes.items():
        for _ in range(LISTENERS_A_NODE):
            kind, inline, queue_max = chance.choice(SELECTIONS), chance.random() < 0.5, chance.choice((1, 5000))
            one = Listening(node.bus, recording.events[name], kind, inline, queue_max)
            world.cluster.timeline.after(chance.choice((0.0, SECONDS)) * chance.random(), one.begin)
            if chance.random() < 0.4:
                world.cluster.timeline.after(SECONDS * (1 + chance.random()), one.end)
            listening.append(one)
    return listening


def check_boots(recording: Recording) -> None:
    """Within one boot of a node numbers rise one by one; over its boots they rise."""
    for name, told in recording.events.items():
        begins = recording.boots[name]
        for first, end in zip(begins, [*begins[1:], len(told)], strict=True):
            numbers = [event.sequence for event in told[first:end]]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        whole = [event.sequence for event in told]
        assert whole == sorted(set(whole))


@settings(max_examples=effort(8, 25), deadline=None, derandomize=True)
@given(st.integers(1, 1_000_000))
@example(115)  # entries that a turn had applied before it was taken back were never told to be committed
@example(80)  # entries were told to be committed before they were told to be there
@example(38)  # the monotonic time went back behind a slow turn
def test_every_subscriber_sees_each_nodes_events_in_order_and_without_holes(seed: int) -> None:
    plan = Plan.of(seed, SECONDS)
    if seed % 3 == 0:  # as often as nothing else, actors fail and processes end
        plan = replace(plan, kinds=("fail_actor", "kill", "isolate_leader", "mend", "snapshot"))
    # Without ruined disks: a node whose folder is replaced numbers its events anew, as another incarnation.
    with patch.object(SimulatedCluster, "spare", new=False), Simulation(plan) as world:
        recording = Recording(world.cluster)
        listening = listen(world, recording)
        world.run()
        for node in world.cluster.nodes.values():
            assert node.bus.close(JOIN_SECONDS), "a subscriber's thread did not end"
    check_boots(recording)
    for one in listening:
        one.check()
