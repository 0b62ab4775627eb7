"""Leases and changes in simulated clusters: they end in time without traffic, whoever leads and whatever clocks say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import Read, ReadResults, Submit
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import SnapshotRestored
from forge_consensus.storage.ledger.record import parse
from forge_consensus.storage.machines.machine import EXPIRE, Command
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.scenario_world import Caller, base_of, leader_of, led_cluster, others_than, value_at

LATE_SECONDS = 0.25
"""How much later than its end a lease may still be there: an interval of heartbeats, and a commit on slow disks."""
YEARS_MS = 10 * 365 * 86_400_000


class World:
    """A led cluster and a client with a session."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster
        self.caller = Caller(cluster)
        self.session = self.caller.open_session(leader_of(cluster).name)
        self.seq = 0

    def do(self, name: str, **payload: Any) -> Any:
        """Execute a command at the leader; returns its result."""
        self.seq += 1
        command = ((self.seq, Command(name, payload).encode()),)
        answer = self.caller.ask(leader_of(self.cluster).name, Submit(self.session, self.seq, command))
        ((_, code, result),) = answer.items
        assert not code, msgpack.unpackb(result)
        return msgpack.unpackb(result)

    def ask(self, node: str, query: Any, consistency: str = "stale", after_index: int = 0) -> Any:
        """Ask a node."""
        read = Read(consistency, ((self.caller.number, msgpack.packb(query)),), 60_000, after_index=after_index)
        answer = self.caller.ask(node, read, 65.0)
        assert isinstance(answer, ReadResults), answer
        return msgpack.unpackb(answer.items[0][2])

    def holders(self, key: str) -> list[str]:
        """The running nodes that hold a key."""
        return [base.name for base in self.cluster.running() if value_at(self.cluster, base.name, key) is not None]

    def lead_again(self) -> SimulatedBase:
        """Wait until another node leads."""
        assert self.cluster.run(10.0, lambda: self.cluster.leader() is not None)
        self.caller.ask(leader_of(self.cluster).name, Read("linearizable", ((self.caller.number, b""),)), 10.0)
        return leader_of(self.cluster)

    def gone_within(self, key: str, earliest: float, latest: float) -> None:
        """Demand that a key is on all running nodes until `earliest`, and on none at `latest`, in virtual time."""
        now = self.cluster.timeline.now
        if earliest > now:
            self.cluster.run(earliest - now)
        assert len(self.holders(key)) == len(self.cluster.running()), "too early"
        assert self.cluster.run(latest - self.cluster.timeline.now, lambda: not self.holders(key)), "too late"


@contextmanager
def world(nodes: int = 3, seed: int = 1, **settings: Any) -> Iterator[World]:
    with led_cluster(nodes, seed, **settings) as (cluster, _):
        yield World(cluster)


def proposed_expiries(base: SimulatedBase) -> int:
    """How many entries in a node's log its leaders let in by themselves to end leases."""
    log = base.engine.ledger.log
    records = (parse(index, log.get(index)) for index in range(log.base_index + 1, log.last + 1))
    return sum(record.data == EXPIRE.encode() for record in records)


@pytest.mark.parametrize(("nodes", "seed"), [(1, 1), (3, 2), (3, 3), (5, 4)])
def test_keys_go_in_time_although_nobody_writes(nodes: int, seed: int) -> None:
    with world(nodes, seed) as here:
        lease = here.do("lease_grant", ttl_ms=2000)
        granted = here.cluster.timeline.now
        for key in "ab":
            here.do("set", key=key, value=1, lease=lease)
        here.do("set", key="own", value=1, ttl_ms=4000)
        own = here.cluster.timeline.now
        here.do("set", key="stays", value=1)
        here.gone_within("a", granted + 1.9, granted + 2.0 + LATE_SECONDS)
        assert not here.holders("b"), "all keys of a lease go with one entry"
        here.gone_within("own", own + 3.9, own + 4.0 + LATE_SECONDS)
        here.cluster.run(3.0)
        assert proposed_expiries(leader_of(here.cluster)) == 2, "and then nothing is proposed any more"
        assert len(here.holders("stays")) == nodes
        changes = here.ask(leader_of(here.cluster).name, {"changes": "", "since": lease})["changes"]
        assert [change[1] for change in changes if change[5] == "expire"] == ["a", "b", "own"]


def test_a_lease_that_is_kept_alive_stays_and_costs_no_entry() -> None:
    with world() as here:
        lease = here.do("lease_grant", ttl_ms=1000)
        here.do("set", key="held", value=1, lease=lease)
        for _ in range(10):
            here.cluster.run(0.5)
            assert here.do("lease_keep_alive", lease=lease) == 1000
        kept = here.cluster.timeline.now
        assert proposed_expiries(leader_of(here.cluster)) == 0
        here.gone_within("held", kept + 0.9, kept + 1.0 + LATE_SECONDS)


def test_a_successor_ends_the_leases_that_its_predecessor_granted() -> None:
    with world(3, 5) as here:
        lease = here.do("lease_grant", ttl_ms=6000)
        granted = here.cluster.timeline.now
        here.do("set", key="held", value=1, lease=lease)
        here.cluster.run(1.0)
        here.cluster.crash(leader_of(here.cluster).name)
        here.lead_again()
        assert here.do("lease_keep_alive", lease=lease) == 6000
        kept = here.cluster.timeline.now
        here.cluster.run(2.0)
        here.cluster.crash(leader_of(here.cluster).name)
        here.cluster.restart(others_than(here.cluster, *(base.name for base in here.cluster.running()))[0])
        assert kept < granted + 6
        here.lead_again()
        here.gone_within("held", kept + 5.5, kept + 6.0 + 1.0)


def test_a_leader_that_was_cut_off_ends_no_lease_that_its_successor_keeps_alive() -> None:
    """It may propose that the time has come; but what it proposes is never committed."""
    with world(3, 6) as here:
        lease = here.do("lease_grant", ttl_ms=3000)
        here.do("set", key="held", value=1, lease=lease)
        old = leader_of(here.cluster).name
        rest = others_than(here.cluster, old)
        here.cluster.network.part([old], rest)
        leading = [base_of(here.cluster, name) for name in rest]
        assert here.cluster.run(10.0, lambda: any(base.engine.ledger.leading_term for base in leading))
        new = next(base for base in leading if base.engine.ledger.leading_term)
        for _ in range(8):
            here.seq += 1
            command = ((here.seq, Command("lease_keep_alive", {"lease": lease}).encode()),)
            answer = here.caller.ask(new.name, Submit(here.session, here.seq, command))
            assert answer.items[0][1] == ""
            here.cluster.run(1.0)
        here.cluster.network.heal()
        here.cluster.run(1.5)
        assert len(here.holders("held")) == 3


@pytest.mark.parametrize("error_ms", [-YEARS_MS, YEARS_MS])
def test_wall_clocks_that_jump_end_nothing_and_keep_nothing(error_ms: int) -> None:
    with world() as here:
        lease = here.do("lease_grant", ttl_ms=5000)
        granted = here.cluster.timeline.now
        here.do("set", key="held", value=1, lease=lease)
        for base in here.cluster.running():
            base.clock.skew_ms += error_ms
        here.cluster.run(1.0)
        here.do("set", key="other", value=1)
        for base in here.cluster.running():
            base.clock.skew_ms -= error_ms
        here.gone_within("held", granted + 4.9, granted + 5.0 + LATE_SECONDS)


def test_time_in_which_the_whole_cluster_is_down_does_not_count() -> None:
    with world(3, 7) as here:
        here.do("set", key="held", value=1, ttl_ms=4000)
        here.cluster.run(1.0)
        for name in here.cluster.names:
            here.cluster.crash(name)
        here.cluster.run(60.0)
        for name in here.cluster.names:
            here.cluster.restart(name)
        here.lead_again()
        again = here.cluster.timeline.now
        here.gone_within("held", again + 1.0, again + 5.0)


def note(restored: list[str], name: str, event: SnapshotRestored) -> None:
    restored.append(name)


SMALL = StorageSettings(snapshot_entries=20, snapshot_seconds_min=0.1, trailing_entries=2)


def test_a_snapshot_brings_leases_and_what_is_left_of_them() -> None:
    with world(3, 8, storage=SMALL) as here:
        restored: list[str] = []
        for name, node in here.cluster.nodes.items():
            node.bus.subscribe(SnapshotRestored, partial(note, restored, name), inline=True)
        lease = here.do("lease_grant", ttl_ms=20_000)
        granted = here.cluster.timeline.now
        here.do("set", key="held", value=1, lease=lease)
        here.do("set", key="own", value=1, ttl_ms=25_000)
        behind = others_than(here.cluster, leader_of(here.cluster).name)[0]
        here.cluster.crash(behind)
        for number in range(60):
            here.do("set", key=f"k{number}", value=number)
        here.cluster.run(3.0)
        here.cluster.restart(behind)
        assert here.cluster.run(20.0, lambda: behind in restored), "its entries are in a snapshot only"
        here.cluster.run(1.0)
        leader = leader_of(here.cluster).name
        machines: list[Any] = [base_of(here.cluster, name).engine.ledger.applier.machine for name in (leader, behind)]
        states = [list(machine.whole_state()) for machine in machines]
        assert states[0] == states[1]
        answer = here.ask(behind, {"changes": "", "since": lease})
        assert answer["oldest"] > lease
        assert (answer["changes"], answer["next"]) == ([], lease), "its history begins with the snapshot"
        assert here.cluster.timeline.now < granted + 19
        here.cluster.crash(leader)
        here.lead_again()
        here.gone_within("held", granted + 19.5, granted + 20.0 + 1.0)


def test_changes_are_followed_over_failovers_and_restarts_without_gap_or_repetition() -> None:
    with world(3, 9) as here:
        following = leader_of(here.cluster).name
        since, found, told = here.do("append", prefix="q/", value=0), [], []
        told.append(since)
        index = int(since[-16:])
        for step in range(40):
            told.append(here.do("append", prefix="q/", value=step))
            if step % 10 == 4:
                following = leader_of(here.cluster).name
                here.cluster.crash(following)
                here.lead_again()
            if step % 10 == 7:
                here.cluster.restart(following)
                here.cluster.run(1.0)
            running = [base.name for base in here.cluster.running()]
            for node in running:
                answer = here.ask(node, {"changes": "q/", "since": index}, after_index=index - 1)
                if index >= answer["oldest"]:
                    found += answer["changes"]
                    index = answer["next"]
                    break
            else:
                pytest.fail("no node has the history")
        last = here.ask(leader_of(here.cluster).name, {"changes": "q/", "since": index})
        assert [change[1] for change in found + last["changes"]] == told
        assert [change[0] for change in found] == [int(change[1][-16:]) for change in found]


def test_a_question_that_waits_hears_of_a_change_and_of_the_end_of_a_lease() -> None:
    with world(3, 10) as here:
        node = others_than(here.cluster, leader_of(here.cluster).name)[0]
        key = here.do("append", prefix="q/", value=1, ttl_ms=1000)
        began = here.cluster.timeline.now
        since = int(key[-16:]) + 1
        answer = here.ask(node, {"changes": "q/", "since": since, "wait_ms": 30_000})
        (change,) = answer["changes"]
        assert change[1:] == [key, None, 0, int(key[-16:]), "expire"]
        assert here.cluster.timeline.now - began < 1.0 + LATE_SECONDS
        began = here.cluster.timeline.now
        answer = here.ask(node, {"changes": "q/", "since": answer["next"], "wait_ms": 2000})
        assert answer["changes"] == []
        assert 1.9 < here.cluster.timeline.now - began < 2.3
