"""Slow machines, in virtual time: whatever commands and queries cost, leaderships last and clients are answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import GetStatus, Read, ReadResults, Refused, Results, Submit
from forge_consensus.events.types import BecameLeader
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import Command, Entry
from forge_consensus.testing.world.cluster import SimulatedCluster
from tests.worlds.effort import effort
from tests.worlds.scenario_world import Caller, leader_of

COMMAND = Command("count").encode()
QUERY = msgpack.packb("how many")


class Costs:
    """What commands and queries cost, on all nodes alike, and the cluster whose virtual time they take."""

    cluster: SimulatedCluster | None = None
    apply = query = 0.0

    def take(self, name: str, seconds: float) -> None:
        """Take the time of a node's running turn."""
        base = self.cluster.nodes[name].running if self.cluster is not None else None
        if base is not None:
            base.spend(seconds)


class Slow:
    """A user's machine that counts, slowly."""

    def __init__(self, costs: Costs, name: str) -> None:
        self.costs, self.name, self.total = costs, name, 0

    def apply(self, entry: Entry) -> int:
        self.costs.take(self.name, self.costs.apply)
        self.total += 1
        return self.total

    def query(self, query: Any) -> int:
        return self.total

    def snapshot(self) -> list[bytes]:
        return [b"%d" % self.total]

    def restore(self, chunks: Any) -> None:
        self.total = int(b"".join(chunks))


class SlowKeyValue(KeyValueMachine):
    """The built-in machine, each of whose queries costs the node's own thread time."""

    def __init__(self, costs: Costs, name: str) -> None:
        super().__init__()
        self.costs, self.name = costs, name

    def query_steps(self, query: Any) -> Any:
        self.costs.take(self.name, self.costs.query)
        return super().query_steps(query)


@contextmanager
def slow_cluster(kind: Any, seed: int, *, nodes: int = 3) -> Iterator[tuple[SimulatedCluster, Costs, list[str]]]:
    """A cluster with a leader; yields also the costs, which are 0 so far, and the list of leaderships."""
    costs, led = Costs(), list[str]()
    with SimulatedCluster(nodes, seed, machine=lambda name: kind(costs, name)) as cluster:
        costs.cluster = cluster
        for node in cluster.nodes.values():
            node.bus.subscribe(BecameLeader, lambda event: led.append(event.node_id), inline=True)
        cluster.start()
        assert cluster.run(10.0, cluster.settled)
        yield cluster, costs, led


def answered(caller: Caller) -> Counter[str]:
    """How many commands and queries were answered, and how many refused, by code."""
    found: Counter[str] = Counter()
    for _, message in caller.answers:
        if isinstance(message, Results | ReadResults):
            found.update(code or "ok" for _, code, _ in message.items)
        elif isinstance(message, Refused):
            found[message.code] += len(message.numbers) or 1
    return found


@pytest.mark.parametrize("seed", range(1, 3))
@pytest.mark.parametrize("seconds", [0.0003, 0.001, 0.02, 0.09, 0.3])
def test_commands_that_cost_much_end_no_leadership(seconds: float, seed: int) -> None:
    with slow_cluster(Slow, seed) as (cluster, costs, led):
        caller = Caller(cluster)
        session = caller.open_session(leader_of(cluster).name)
        costs.apply = seconds
        count = min(4000, int(8 / seconds))
        numbered = [(seq, COMMAND) for seq in range(1, count + 1)]
        for start in range(0, count, 500):
            caller.send(leader_of(cluster).name, Submit(session, 1, tuple(numbered[start : start + 500])))
            cluster.run(0.1)
        cluster.run(10.0)
        assert len(led) == 1
        assert answered(caller).total() == count
        assert answered(caller)["ok"] >= min(count, 0.5 / seconds)


@pytest.mark.parametrize("seed", range(1, 3))
def test_what_a_slow_machine_cannot_do_in_time_is_refused_at_once_and_a_status_is_quick(seed: int) -> None:
    with slow_cluster(Slow, seed) as (cluster, costs, led):
        name = leader_of(cluster).name
        caller = Caller(cluster)
        session = caller.open_session(name)
        costs.apply = 0.001
        sent: dict[int, float] = {}
        waits: list[float] = []
        for turn in range(200):  # 3,000 commands a second for 4 s
            commands = tuple((60 * turn + n, COMMAND) for n in range(1, 61))
            sent[caller.send(name, Submit(session, 1, commands))] = cluster.timeline.now
            cluster.run(0.02)
            for request, _ in caller.answers:
                if request in sent:
                    waits.append(cluster.timeline.now - sent.pop(request))
        began = cluster.timeline.now
        status = caller.ask(name, GetStatus()).fields
        assert cluster.timeline.now - began < 0.1
        assert any("busy" in detail for detail in status["details"])
        assert status["health"] == "degraded"
        assert max(waits[10:]) < 0.8
        done = answered(caller)
        assert done["ok"] > 3000
        assert done["CONSENSUS_BUSY"] == status["busy_total"] > 6000
        assert len(led) == 1
        cluster.run(2.0)
        caller.ask(name, Submit(session, 1, ((100_000, COMMAND),)), seconds_max=0.2)


@pytest.mark.parametrize("seed", range(1, 3))
def test_a_flood_of_queries_ends_no_leadership_and_writes_go_on_beside_it(seed: int) -> None:
    with slow_cluster(SlowKeyValue, seed) as (cluster, costs, led):
        name = leader_of(cluster).name
        reader, writer = Caller(cluster, "reader"), Caller(cluster, "writer")
        session = writer.open_session(name)
        costs.query = 0.0001
        slowest = 0.0
        for turn in range(60):
            for client in range(10):
                queries = tuple((4096 * turn + n, QUERY) for n in range(1, 4097))
                reader.send(name, Read("linearizable", queries[client::10], 500))
            began = cluster.timeline.now
            put = Command("set", {"key": "k", "value": turn}).encode()
            writer.ask(name, Submit(session, turn + 1, ((turn + 1, put),)))
            slowest = max(slowest, cluster.timeline.now - began)
            cluster.run(0.05)
        cluster.run(3.0)
        assert len(led) == 1
        assert slowest < 0.3
        done = answered(reader)
        assert done["ok"] > 15_000
        assert done["CONSENSUS_BUSY"] > 0


@pytest.mark.parametrize("seed", range(1, 3))
def test_queries_of_a_second_end_no_leadership_of_a_users_machine(seed: int) -> None:
    with slow_cluster(Slow, seed) as (cluster, _costs, led):
        name = leader_of(cluster).name
        reader, writer = Caller(cluster, "reader"), Caller(cluster, "writer")
        session = writer.open_session(name)
        for turn in range(1, 21):
            reader.send(name, Read("linearizable", ((turn, QUERY),)))
            writer.ask(name, Submit(session, turn, ((turn, COMMAND),)), seconds_max=1.0)
        cluster.run(2.0)
        assert answered(reader)["ok"] == 20
        assert len(led) == 1


def test_slices_by_time_replay_exactly_from_their_seed() -> None:
    digests = []
    for _ in range(2):
        with slow_cluster(Slow, 7) as (cluster, costs, _led):
            caller = Caller(cluster)
            session = caller.open_session(leader_of(cluster).name)
            costs.apply = 0.004
            caller.send(leader_of(cluster).name, Submit(session, 1, tuple((n, COMMAND) for n in range(1, 301))))
            caller.send(leader_of(cluster).name, Read("linearizable", ((1, QUERY), (2, QUERY))))
            cluster.run(5.0)
            digests.append((cluster.timeline.digest, cluster.timeline.steps, answered(caller)))
    assert digests[0] == digests[1]


@pytest.mark.parametrize("seed", range(1, 1 + effort(1, 3)))
def test_after_a_failover_under_a_flood_of_queries_the_next_leader_stays(seed: int) -> None:
    """All clients come to the new leader at once with what the old one owed them, and ask again and again."""
    with slow_cluster(SlowKeyValue, seed) as (cluster, costs, led):
        readers = [Caller(cluster, f"reader{number}") for number in range(20)]
        writer = Caller(cluster, "writer")
        session = writer.open_session(leader_of(cluster).name)
        costs.query = 0.0002
        flood = Read("linearizable", tuple((number, QUERY) for number in range(1, 4097)), 1000)

        def ask(caller: Caller) -> None:
            leader = cluster.leader()
            if leader is not None:
                caller.send(leader.name, flood)
            cluster.timeline.after(0.2, ask, caller)

        for caller in readers:
            ask(caller)
        cluster.run(1.0)
        cluster.crash(leader_of(cluster).name)
        cluster.run(2.0)
        assert len(led) == 2
        name, began = leader_of(cluster).name, cluster.timeline.now
        put = Command("set", {"key": "k", "value": 1}).encode()
        writer.ask(name, Submit(session, 1, ((1, put),)))
        assert cluster.timeline.now - began < 0.3
        cluster.run(10.0)
        assert len(led) == 2
        assert sum(answered(reader)["ok"] for reader in readers) > 30_000
