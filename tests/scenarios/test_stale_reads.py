"""Stale reads: `stale_ms` bounds the truth, whatever keeps a node from getting or applying what was committed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import NEVER_MS, Read, ReadResults, Results, Submit
from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.effort import effort
from tests.worlds.scenario_world import Caller, base_of, leader_of, led_cluster, others_than, put

ON_ITS_WAY_MS = 60
"""More than a frame needs between two nodes, or between a node and its client."""


@dataclass
class Writer:
    """Writes one key with rising values, and notes when each was acknowledged."""

    cluster: SimulatedCluster
    caller: Caller
    session: int
    value: int = 0
    acknowledged: list[tuple[float, int]] = field(default_factory=list)

    def write(self) -> bool:
        """Try to write the next value; returns whether it was acknowledged within two seconds."""
        leader = self.cluster.leader()
        if leader is None:
            return False
        self.value += 1
        command = (self.value, put("k", self.value))
        number = self.caller.send(leader.name, Submit(self.session, self.value, (command,)))
        self.cluster.run(2.0, lambda: bool(self.caller.heard(number)))
        answers = [answer for answer in self.caller.heard(number) if isinstance(answer, Results)]
        if answers:
            self.acknowledged.append((self.cluster.timeline.now, self.value))
        return bool(answers)

    def least(self, at: float) -> int:
        """The least value that a read may see which knows everything up to that moment."""
        return max((value for moment, value in self.acknowledged if moment <= at), default=0)


def stale_read(cluster: SimulatedCluster, caller: Caller, node: str) -> tuple[int, int] | None:
    """(value, stale_ms) of a stale read, None if the node does not answer."""
    number = caller.send(node, Read("stale", ((1, msgpack.packb({"get": "k"})),)))
    cluster.run(1.0, lambda: bool(caller.heard(number)))
    answers: list[Any] = caller.heard(number)
    if not answers or not isinstance(answers[0], ReadResults):
        return None
    return msgpack.unpackb(answers[0].items[0][2]) or 0, answers[0].stale_ms


def check(writer: Writer, node: str) -> int:
    """Read at a node, demand that its bound holds, and return the bound."""
    asked_at = writer.cluster.timeline.now  # the node made the answer later, and it left when a slow turn was over
    found = stale_read(writer.cluster, writer.caller, node)
    if found is None:
        return NEVER_MS
    value, stale_ms = found
    if stale_ms < NEVER_MS:
        least = writer.least(asked_at - (stale_ms + ON_ITS_WAY_MS) / 1000)
        assert value >= least, f"{node} says {value}, at most {stale_ms} ms old, but {least} was acknowledged before"
    return stale_ms


@contextmanager
def written(seed: int = 1, nodes: int = 3, **settings: Any) -> Iterator[Writer]:
    with led_cluster(nodes, seed, **settings) as (cluster, _):
        caller = Caller(cluster)
        writer = Writer(cluster, caller, caller.open_session(leader_of(cluster).name))
        assert writer.write()
        cluster.run(1.0)
        yield writer


def test_on_a_healthy_cluster_every_state_is_fresh() -> None:
    with written() as writer:
        for name in writer.cluster.names:
            assert check(writer, name) <= 500


def test_a_follower_without_room_says_how_long_it_took_nothing() -> None:
    limits = StorageSettings(snapshot_entries=50, trailing_entries=0, snapshot_seconds_min=0.1)
    with written(storage=limits) as writer:
        cluster = writer.cluster
        full = others_than(cluster, leader_of(cluster).name)[0]
        base_of(cluster, full).disk.quota_bytes = 1 << 20
        assert writer.write()
        cluster.run(60.0)
        assert check(writer, full) >= 59_000


def test_a_leader_that_is_cut_off_knows_no_more_than_its_followers() -> None:
    with written(nodes=5) as writer:
        cluster = writer.cluster
        old = leader_of(cluster).name
        beside = others_than(cluster, old)[0]
        cluster.network.part([old, beside], others_than(cluster, old, beside))
        for _ in range(40):
            cluster.run(0.1)
            writer.write()
            for name in (old, beside):
                check(writer, name)
        assert check(writer, beside) >= 3000


def test_a_follower_that_lags_in_applying_says_so() -> None:
    with written() as writer:
        cluster = writer.cluster
        slow = others_than(cluster, leader_of(cluster).name)[0]
        applier = base_of(cluster, slow).engine.ledger.applier
        applier.replacing = True  # nothing is applied, as while a snapshot is restored
        assert writer.write()
        cluster.run(5.0)
        assert check(writer, slow) >= 4900
        applier.replacing = False
        cluster.run(1.0)
        writer.write()
        cluster.run(1.0)
        assert check(writer, slow) <= 500


@pytest.mark.parametrize("seed", range(effort(3, 6)))
def test_the_bound_holds_whatever_happens(seed: int) -> None:
    chance = random.Random(seed)
    with written(seed, nodes=5) as writer:
        cluster = writer.cluster
        told = 0
        for _ in range(60):
            match chance.randrange(6):
                case 0:
                    side = chance.sample(cluster.names, chance.choice((1, 2)))
                    cluster.network.part(side, others_than(cluster, *side))
                case 1:
                    cluster.network.cut.clear()
                case 2:
                    base_of(cluster, chance.choice(cluster.names)).pause(chance.uniform(0.1, 2.0))
                case 3:
                    base_of(cluster, chance.choice(cluster.names)).slow_commits = (0.0001, chance.choice((0.002, 0.6)))
                case _:
                    pass
            writer.write()
            cluster.run(chance.uniform(0.0, 0.6))
            told += check(writer, chance.choice(cluster.names)) < NEVER_MS
        assert told > 20
        assert len(writer.acknowledged) > 20
