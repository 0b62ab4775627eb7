"""Changes of members drawn by chance, together with crashes, partitions, transfers, lost folders and snapshots.

That combination found most bugs in public analyses. Every invariant is checked after every step; at the end all faults
are over, and the cluster has to come to rest with all its members equal.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from forge_consensus.actors.messages import ChangeMembers
from forge_consensus.actors.notices import MembersRequested, TakeSnapshot, TransferRequested
from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.rules.invariants import Invariants
from forge_consensus.testing.simulator.client import SimulatedClient
from forge_consensus.testing.simulator.habits import Habits
from forge_consensus.testing.world.cluster import SimulatedCluster, address_of
from forge_consensus.testing.world.network import Weather
from tests.scenarios.test_changes import PATIENCE_SECONDS, Asker, Operator
from tests.worlds.effort import effort
from tests.worlds.event_story import NoJudge

SEEDS = int(os.environ.get("FORGE_CHANGES", "0")) or effort(8, 20)
STEPS = 40
NODES_MAX = 7
LIMITS = StorageSettings(snapshot_entries=40, trailing_entries=5, sweep_entries=20, checkpoint_entries=30)
STORMY = Weather(loss=0.1, duplicate=0.1, reorder=0.1, replay=0.05, delay_seconds_max=0.05)


class Drawn:
    """One run: what happens is drawn from the seed."""

    def __init__(self, cluster: SimulatedCluster, seed: int) -> None:
        self.cluster = cluster
        self.chance = random.Random(seed)
        self.operator = Operator(cluster)
        self.asker = Asker()
        self.lost: set[str] = set()
        """The members whose folders were lost, and which were not removed since."""

    def members(self) -> frozenset[str]:
        """The members by any configuration that some disk still has in force or committed."""
        found: frozenset[str] = frozenset()
        for base in self.cluster.running():
            ledger = base.engine.ledger
            for configuration in ledger.configurations.in_doubt(ledger.commit_index):
                found |= configuration.nodes
        return found

    def tell_leader(self, actor: str, message: Any) -> None:
        leader = self.cluster.leader()
        if leader is not None:
            leader.tell(leader.engine.actor(actor), message)

    def change(self) -> None:
        """Ask for one to three changes at once."""
        chance, names = self.chance, self.cluster.names
        changes = []
        for name in chance.sample(names, min(len(names), chance.choice((1, 1, 2, 3)))):
            action = chance.choice(("add", "add", "add-learner", "promote", "demote", "remove", "update"))
            address = address_of(name) if action.startswith("add") else f"{name}:{chance.randint(1, 9)}"
            changes.append((action, name, address))
        force = chance.random() < 0.5 and not self.lost  # with a lost member it can be one too many
        self.tell_leader("membership", MembersRequested(ChangeMembers(tuple(changes), force), self.asker))

    def join(self) -> None:
        """Start a further node."""
        if len(self.cluster.names) < NODES_MAX:
            self.cluster.join(f"n{len(self.cluster.names) + 1}")

    def lose_folder(self) -> None:
        """A node comes back on an empty folder: one that is no member, or of a minority of the members."""
        cluster, leader = self.cluster, self.cluster.leader()
        name = self.chance.choice(cluster.names)
        if leader is None:
            return
        ledger = leader.engine.ledger
        for configuration in ledger.configurations.in_doubt(ledger.commit_index):
            for voters, needed in configuration.quorum.sets:
                if len(voters - self.lost - {name}) < needed:
                    return
            if name in configuration.nodes:
                self.lost.add(name)
        if name not in self.lost and name in self.members():
            return
        cluster.crash(name)
        cluster.wipe(name)
        cluster.suspect.pop(name)
        cluster.nodes[name].joins = True
        cluster.restart(name)

    def strike(self) -> None:
        """Crash, start, cut off, heal, or change the weather."""
        cluster, chance = self.cluster, self.chance
        name = chance.choice(cluster.names)
        what = chance.random()
        if what < 0.3:
            cluster.crash(name)
        elif what < 0.6:
            cluster.restart(name)
        elif what < 0.75:
            some = chance.sample(cluster.names, chance.randint(1, len(cluster.names)))
            cluster.network.part(some, [other for other in cluster.names if other not in some])
        elif what < 0.9:
            cluster.network.heal()
        else:
            cluster.network.weather = STORMY

    def step(self) -> None:
        """Do one thing, and let a while pass."""
        what = self.chance.random()
        if what < 0.4:
            self.change()
        elif what < 0.5:
            self.join()
        elif what < 0.55:
            self.lose_folder()
        elif what < 0.65:
            self.tell_leader("election", TransferRequested(self.chance.choice(["", *self.cluster.names]), None))
        elif what < 0.7:
            self.tell_leader("snapshot", TakeSnapshot())
        else:
            self.strike()
        self.cluster.run(self.chance.choice((0.0, 0.01, 0.1, 0.5, 2.0)))

    def at_rest(self) -> bool:
        """Whether all members agree and nothing is under way."""
        leader = self.cluster.leader()
        if leader is None or not self.operator.settled():
            return False
        last = leader.engine.ledger.log.last
        ledgers = [
            base.engine.ledger
            for base in self.cluster.running()
            if base.name in leader.engine.ledger.configuration.nodes
        ]
        return all(ledger.log.last == ledger.commit_index == ledger.applied == last for ledger in ledgers)

    def end(self) -> None:
        """End all faults, remove the members whose folders were lost; the cluster has to come to rest."""
        self.cluster.network.heal()
        for name in self.cluster.names:
            self.cluster.restart(name)
        end = self.cluster.timeline.now + PATIENCE_SECONDS
        while self.cluster.timeline.now < end and (present := self.present_lost()):
            self.tell_leader(
                "membership", MembersRequested(ChangeMembers((("remove", present[0], ""),), True), self.asker)
            )
            self.cluster.run(1.0)
        assert self.cluster.run(2 * PATIENCE_SECONDS, self.at_rest), self.story()

    def present_lost(self) -> list[str]:
        """The members that run on another folder than the one with which they are members."""
        leader = self.cluster.leader()
        if leader is None:
            return sorted(self.lost)
        present = leader.engine.ledger.configuration
        return [
            base.name
            for base in self.cluster.running()
            if base.name in present.nodes and not base.engine.ledger.identity.is_member_of(present)
        ]

    def story(self) -> str:
        """Where every node stands."""
        told = []
        for base in self.cluster.running():
            ledger = base.engine.ledger
            log = f"log {ledger.log.last} commit {ledger.commit_index} applied {ledger.applied}"
            role = f"{base.engine.shared.role} may vote {ledger.may_vote}"
            told.append(f"{base.name} {role} term {ledger.term} {log}: {ledger.configuration.text}")
        return "\n".join(told)


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_members_change_by_chance_among_faults(seed: int) -> None:
    lease_reads = seed % 3 == 0
    with SimulatedCluster(
        1 + seed % 4, seed, watchers=[Invariants()], storage=LIMITS, lease_reads=lease_reads
    ) as cluster:
        cluster.start()
        drawn = Drawn(cluster, seed)
        client = SimulatedClient(cluster, "client", NoJudge(), Habits(read_share=0.0, rest_s_max=0.05, patience_s=5.0))
        client.start()
        for _ in range(STEPS):
            drawn.step()
        client.stop()
        drawn.end()
