"""Time: sessions live on the elapsed time of the log, so no wall clock expires anybody and none stops the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from forge_consensus.actors.messages import OpenSession, Submit
from forge_consensus.events.types import ConsensusEvent, TimeSkewed, TimeStepped
from forge_consensus.storage.ledger.record import parse
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.timeline import WALL_MS
from tests.worlds.scenario_world import Caller, leader_of, led_cluster, others_than, put

YEARS_MS = 10 * 365 * 86_400_000
TTL_MS = 5000


@contextmanager
def world(nodes: int = 3, seed: int = 1) -> Iterator[tuple[SimulatedCluster, Caller, int]]:
    """A led cluster, all wall clocks right, with an open session."""
    with led_cluster(nodes, seed) as (cluster, _):
        for node in cluster.nodes.values():
            assert node.running is not None
            node.running.clock.skew_ms = 0
        cluster.run(2.0)
        caller = Caller(cluster)
        yield cluster, caller, int(caller.ask(leader_of(cluster).name, OpenSession(TTL_MS)).session)


def use(cluster: SimulatedCluster, caller: Caller, session: int, seq: int) -> str:
    """Write with the session; returns the error code of the outcome."""
    answer = caller.ask(leader_of(cluster).name, Submit(session, seq, ((seq, put("k", seq)),)))
    return str(answer.items[0][1])


def newest_times(base: SimulatedBase) -> tuple[int, int]:
    """(wall time, elapsed time) of the newest entry in a node's log."""
    log = base.engine.ledger.log
    record = parse(log.last, log.get(log.last))
    return record.time_ms, record.elapsed_ms


def truth_ms(cluster: SimulatedCluster) -> int:
    return WALL_MS + int(cluster.timeline.now * 1000)


@pytest.mark.parametrize("error_ms", [-YEARS_MS, -90_000, 90_000, YEARS_MS])
def test_a_new_leader_with_a_wrong_wall_clock_expires_nobody(error_ms: int) -> None:
    with world() as (cluster, caller, session):
        assert use(cluster, caller, session, 1) == ""
        old = leader_of(cluster)
        _, before = newest_times(old)
        began = cluster.timeline.now
        for name in others_than(cluster, old.name):
            base = cluster.nodes[name].running
            assert base is not None
            base.clock.skew_ms += error_ms  # both, so that whoever is next has the wrong clock
        cluster.crash(old.name)
        assert cluster.run(5.0, lambda: cluster.leader() is not None)
        assert use(cluster, caller, session, 2) == ""
        _, after = newest_times(leader_of(cluster))
        passed_ms = (cluster.timeline.now - began) * 1000
        assert 0 <= after - before <= passed_ms + 50, "it neither falls nor jumps"


@pytest.mark.parametrize("nodes", [1, 3])
def test_a_leader_whose_clock_is_wrong_for_a_moment_does_not_stop_the_time(nodes: int) -> None:
    with world(nodes) as (cluster, caller, session):
        base = leader_of(cluster)
        base.clock.skew_ms += YEARS_MS
        cluster.run(1.0)
        assert use(cluster, caller, session, 1) == ""
        base.clock.skew_ms -= YEARS_MS
        cluster.run(3.0)
        assert use(cluster, caller, session, 2) == ""
        wall, elapsed = newest_times(base)
        assert abs(wall - truth_ms(cluster)) < 1500
        cluster.run(2.0)
        assert use(cluster, caller, session, 3) == ""
        later_wall, later = newest_times(base)
        assert later - elapsed >= 2000
        assert later_wall - wall >= 1000, "the wall time goes on too"
        cluster.run(TTL_MS / 1000 + 1)
        assert use(cluster, caller, session, 4) == "CONSENSUS_SESSION_EXPIRED", "and whoever is silent expires"


def test_one_wrong_clock_of_three_moves_no_time_of_the_log_and_is_told() -> None:
    with world() as (cluster, caller, session):
        base, told = leader_of(cluster), list[ConsensusEvent]()
        cluster.nodes[base.name].bus.subscribe("consensus.time.*", told.append, inline=True)
        base.clock.skew_ms += YEARS_MS
        cluster.run(2.0)
        assert use(cluster, caller, session, 1) == ""
        assert abs(newest_times(base)[0] - truth_ms(cluster)) < 100
        (skew,) = told
        assert isinstance(skew, TimeSkewed)
        assert (skew.member, round(skew.ahead)) == (base.name, YEARS_MS // 1000)


def test_a_wall_time_that_was_led_astray_creeps_back_without_falling() -> None:
    """A majority of clocks was a minute ahead, and is put right."""
    with world() as (cluster, caller, session):
        base, told = leader_of(cluster), list[ConsensusEvent]()
        cluster.nodes[base.name].bus.subscribe(TimeStepped, told.append, inline=True)
        for other in cluster.running():
            other.clock.skew_ms += 60_000
        cluster.run(1.0)
        use(cluster, caller, session, 1)
        wall, seq = newest_times(base)[0], 1
        assert wall - truth_ms(cluster) > 50_000
        for other in cluster.running():
            other.clock.skew_ms -= 60_000
        while wall - truth_ms(cluster) > 200:
            cluster.run(4.0)
            seq += 1
            assert use(cluster, caller, session, seq) == ""
            assert newest_times(base)[0] > wall
            wall = newest_times(base)[0]
            assert seq < 40, "twice the error is a bound"
        assert not told


def test_the_time_without_any_entry_counts_too_when_another_node_leads() -> None:
    with world() as (cluster, caller, session):
        assert use(cluster, caller, session, 1) == ""
        old = leader_of(cluster)
        _, before = newest_times(old)
        cluster.run(30.0)
        cluster.crash(old.name)
        assert cluster.run(5.0, lambda: cluster.leader() is not None)
        _, after = newest_times(leader_of(cluster))
        assert after - before >= 29_000
        assert use(cluster, caller, session, 2) == "CONSENSUS_SESSION_EXPIRED"
