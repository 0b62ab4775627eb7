"""Slow turns: heartbeats and check-quorum go by real time, and nobody is blamed for a node's own slowness."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from forge_consensus.actors.messages import OpenSession
from forge_consensus.events.types import LeaderStepDown
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.effort import effort
from tests.worlds.scenario_world import (
    Caller,
    SilentWatcher,
    base_of,
    increment,
    leader_of,
    led_cluster,
    others_than,
    submit_all,
)


def flood(cluster: SimulatedCluster, node: str) -> None:
    """Send the node a request that it must write to disk, every 20 ms and without end."""
    caller = Caller(cluster)

    def ask() -> None:
        caller.send(node, OpenSession(60_000))
        cluster.timeline.after(0.02, ask)

    ask()


def slow_turns(base: SimulatedBase, seconds: float) -> None:
    """Let every turn of a process take this long, whatever it does."""
    act = base.engine.act

    def slowly(*taken: list[object]) -> int:
        base.clock.ahead += seconds
        return act(*taken)  # type: ignore[arg-type]

    base.engine.act = slowly  # type: ignore[method-assign, assignment]


def seconds_until(cluster: SimulatedCluster, done: Callable[[], bool]) -> float:
    """Let time pass until something has happened; returns how long that took."""
    began = cluster.timeline.now
    assert cluster.run(60.0, done)
    return cluster.timeline.now - began


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("commit_s", [0.002, 0.1, 0.3, 0.6, 0.75])
def test_a_leader_that_is_cut_off_stops_in_real_time_however_slow_its_commits_are(commit_s: float, seed: int) -> None:
    with led_cluster(seed=seed) as (cluster, _):
        base = leader_of(cluster)
        term = base.engine.ledger.leading_term
        flood(cluster, base.name)
        base.slow_commits = (commit_s, commit_s)
        cluster.run(4.0 + seed / 10)
        assert base.engine.ledger.leading_term == term, "slow commits alone end no leadership"
        cluster.network.part([base.name], others_than(cluster, base.name))
        took = seconds_until(cluster, lambda: base.engine.ledger.leading_term is None)
        assert took <= 2 * base.engine.settings.election_timeout_min


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("commit_s", [0.85, 0.9, 1.2])
def test_a_leader_whose_commits_outlast_an_election_timeout_stops_too_when_it_is_cut_off(
    commit_s: float, seed: int
) -> None:
    """It gives the others as long to answer as its own commits take, and judges between two of them."""
    with led_cluster(seed=seed) as (cluster, _):
        base = leader_of(cluster)
        for each in cluster.running():
            each.slow_commits = (commit_s / 2, commit_s)
        flood(cluster, base.name)
        cluster.run(4.0 + seed / 10)
        assert base.engine.ledger.leading_term is not None
        cluster.network.part([base.name], others_than(cluster, base.name))
        took = seconds_until(cluster, lambda: base.engine.ledger.leading_term is None)
        assert took <= 2 * base.engine.settings.election_timeout_max + commit_s


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("commits", [(0.9, 0.9), (0.85, 0.9), (1.5, 1.5)])
def test_where_all_disks_are_slow_one_leader_serves(commits: tuple[float, float], nodes: int, seed: int) -> None:
    """A commit may take longer than an election timeout: a leader that resigned would have as slow a successor."""
    with led_cluster(nodes, seed) as (cluster, _):
        leader, caller = leader_of(cluster).name, Caller(cluster)
        term = base_of(cluster, leader).engine.ledger.term
        session = caller.open_session(leader)
        for base in cluster.running():
            base.slow_commits = commits
        written, ends = 0, cluster.timeline.now + 60.0
        while cluster.timeline.now < ends:
            written += 1
            submit_all(caller, leader, session, [increment("n")], written)
        assert written >= 60.0 / (2 * commits[1]), "a write takes two slow commits at most"
        assert {base.engine.ledger.term for base in cluster.running()} == {term}


@pytest.mark.parametrize("seed", range(1, 1 + effort(2, 5)))
@pytest.mark.parametrize("nodes", [3, 5])
def test_where_commits_take_longer_or_shorter_than_an_election_timeout_few_terms_begin(nodes: int, seed: int) -> None:
    """Here a leader may be silent for longer than its followers wait; the next election ends all the same."""
    with led_cluster(nodes, seed) as (cluster, _):
        term = leader_of(cluster).engine.ledger.term
        for base in cluster.running():
            base.slow_commits = (0.6, 1.2)
        for name in cluster.names:
            flood(cluster, name)
        cluster.run(5.0)
        commits = max(base.engine.ledger.commit_index for base in cluster.running())
        leader_of(cluster).pause(3.0)  # at least one election
        cluster.run(60.0)
        terms = max(base.engine.ledger.term for base in cluster.running()) - term
        assert 1 <= terms <= 10
        assert max(base.engine.ledger.commit_index for base in cluster.running()) > commits + 1000


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_leader_whose_disk_alone_is_slow_is_replaced(seed: int) -> None:
    """Its followers stand, because it is silent for longer than they wait."""
    with led_cluster(seed=seed) as (cluster, _):
        slow = leader_of(cluster)
        flood(cluster, slow.name)
        slow.slow_commits = (0.9, 0.9)
        assert cluster.run(10.0, lambda: cluster.leader() not in (None, slow))
        cluster.run(2.0)
        assert slow.engine.ledger.leading_term is None


@pytest.mark.parametrize("turn_s", [0.16, 0.4])
def test_a_leader_whose_every_turn_is_slow_sends_its_heartbeats_in_time(turn_s: float) -> None:
    with led_cluster() as (cluster, _):
        base = leader_of(cluster)
        term = base.engine.ledger.leading_term
        slow_turns(base, turn_s)
        cluster.run(30.0)
        assert base.engine.ledger.leading_term == term
        assert {each.engine.ledger.term for each in cluster.running()} == {term}


@pytest.mark.parametrize("seed", range(1, 6))
def test_one_turn_as_long_as_an_election_timeout_is_no_reason_to_resign(seed: int) -> None:
    """The leader asks first, and its followers answer, unless one of them has stood meanwhile."""
    with led_cluster(5, seed) as (cluster, _):
        base, reasons = leader_of(cluster), list[str]()
        cluster.nodes[base.name].bus.subscribe(LeaderStepDown, lambda event: reasons.append(event.reason), inline=True)
        cluster.run(1.0 + seed / 100)
        act = base.engine.act

        def slowly(*taken: list[object]) -> int:
            base.clock.ahead += 0.85
            base.engine.act = act  # type: ignore[method-assign]
            return act(*taken)  # type: ignore[arg-type]

        base.engine.act = slowly  # type: ignore[method-assign, assignment]
        cluster.run(3.0)
        assert not [reason for reason in reasons if "no answer" in reason]


class RunningClocks(SilentWatcher):
    """Notes that the running clock of no process goes back from one turn to the next."""

    def __init__(self) -> None:
        self.last: dict[SimulatedBase, float] = {}
        self.turns = itertools.count()

    def turned(self, node: SimulatedBase) -> None:
        """Compare with the turn before."""
        next(self.turns)
        assert node.clock.running() >= self.last.get(node, 0.0)
        self.last[node] = node.clock.running()


def test_the_running_clock_never_goes_back_whatever_a_turn_costs() -> None:
    clocks = RunningClocks()
    with led_cluster(lease_reads=True) as (cluster, _):
        cluster.watchers.append(clocks)
        for base in cluster.running():
            base.slow_commits = (0.001, 1.5)
        flood(cluster, leader_of(cluster).name)
        for _ in range(10):
            for base in cluster.running():
                base.pause(0.3)
            cluster.run(2.0)
        assert next(clocks.turns) > 100
