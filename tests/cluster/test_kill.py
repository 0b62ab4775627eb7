"""Node processes killed at random moments under load: no acknowledged write is lost, no node differs, none hangs."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.workload import Ledgerbook, Writer

ROUNDS = int(os.environ.get("FORGE_KILL_ROUNDS", "5"))
SEED = int(os.environ.get("FORGE_KILL_SEED", "0")) or int.from_bytes(os.urandom(4))
TIMEOUT = 3.0
SNAPSHOTS_OFTEN = StorageSettings(
    snapshot_entries=1500,
    snapshot_seconds_min=0.3,
    trailing_entries=200,
    checkpoint_entries=400,
    checkpoint_seconds=1.0,
)


class Siege:
    """Rounds of killing, restarting and comparing."""

    def __init__(self, cluster: LocalCluster, dice: random.Random) -> None:
        self.cluster = cluster
        self.dice = dice
        self.book = Ledgerbook()
        self.writers = [Writer(f"w{n}", cluster.client(timeout=TIMEOUT), self.book, pipelined=n == 0) for n in range(4)]

    def victims(self) -> list[str]:
        """Whom to kill: mostly the leader, sometimes a follower, sometimes two, sometimes all."""
        names, roll = self.cluster.names, self.dice.random()
        if roll < 0.6:
            return [self.cluster.wait_for_leader()]
        if roll < 0.85:
            return [self.dice.choice(names)]
        return self.dice.sample(names, 2 if roll < 0.95 else 3)

    def kill(self, victims: list[str]) -> None:
        """SIGKILL, and a restart soon after."""
        for name in victims:
            self.cluster.nodes[name].kill()
        time.sleep(self.dice.choice([0.0, 0.05, 0.5]) * self.dice.random())
        for name in victims:
            self.cluster.nodes[name].launch()
        self.cluster.wait_serving(*victims)

    def pause(self, victims: list[str]) -> None:
        """SIGSTOP, and SIGCONT after a moment or after the others elected somebody else."""
        for name in victims:
            self.cluster.pause(name)
        try:
            time.sleep(self.dice.choice([0.1, 0.5, 2.0]) * self.dice.random())
        finally:
            for name in victims:
                self.cluster.resume(name)

    def round(self, attack: Callable[[list[str]], None]) -> str:
        """One round; returns what was done, for the log."""
        stop = threading.Event()
        victims = self.victims()
        for writer in self.writers:
            writer.start(stop)
        try:
            time.sleep(self.dice.uniform(0.0, 0.6))
            attack(victims)
            began = time.monotonic()
            self.cluster.wait_for_leader()
            time.sleep(self.dice.uniform(0.0, 0.4))
        finally:
            stop.set()
        for writer in self.writers:
            writer.join(TIMEOUT + 5)
        self.writers[1].client.put("alive", "yes", timeout=10.0)
        self.book.acknowledged["alive"] = "yes"
        level = self.cluster.wait_until_settled(*self.cluster.names)
        return f"{attack.__name__} {victims}, led after {time.monotonic() - began:.2f} s, level at {level}"

    def compare(self) -> None:
        """Every node holds the same, and what was promised."""
        states = {name: self.cluster.contents(name) for name in self.cluster.names}
        first, *others = states.values()
        for other in others:
            differing = {key for key in first.keys() | other.keys() if first.get(key) != other.get(key)}
            assert not differing, f"nodes differ in {sorted(differing)[:20]} ({len(differing)})"
        self.book.check(first)


@pytest.mark.timeout(60 + 20 * ROUNDS)
@pytest.mark.parametrize("storage", [None, SNAPSHOTS_OFTEN], ids=["defaults", "snapshots-often"])
def test_acknowledged_writes_survive_kills_at_random_moments(tmp_path: Path, storage: StorageSettings | None) -> None:
    rounds = ROUNDS if storage is None else max(3, ROUNDS // 2)
    print(f"FORGE_KILL_SEED={SEED} FORGE_KILL_ROUNDS={ROUNDS}")
    with LocalCluster(folder=tmp_path, storage=storage) as cluster:
        siege = Siege(cluster, random.Random(SEED))
        for number in range(rounds):
            done = siege.round(siege.kill)
            print(f"round {number}: {done}, {len(siege.book.acknowledged)} keys acknowledged", flush=True)
            if number % 10 == 9 or number == rounds - 1:
                siege.compare()
        book = siege.book
        print(f"{len(book.acknowledged)} keys and {len(book.sums)} sums acknowledged; failed: {dict(book.errors)}")
        for name in cluster.names:
            node = cluster.process(name)
            assert node.stop() == 0, f"{name}: {node.output()}"


@pytest.mark.timeout(60 + 20 * ROUNDS)
def test_acknowledged_writes_survive_paused_nodes(tmp_path: Path) -> None:
    print(f"FORGE_KILL_SEED={SEED} FORGE_KILL_ROUNDS={ROUNDS}")
    with LocalCluster(folder=tmp_path) as cluster:
        siege = Siege(cluster, random.Random(SEED))
        for number in range(max(3, ROUNDS // 4)):
            print(f"round {number}: {siege.round(siege.pause)}", flush=True)
        siege.compare()
        print(f"{len(siege.book.acknowledged)} keys acknowledged; failed: {dict(siege.book.errors)}")
