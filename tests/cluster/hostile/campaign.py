"""The campaign: a cluster, an attacker beside an honest client, and what each saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from forge_consensus.errors import ConsensusError
from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.hostile.flood import Orders
from tests.worlds.source_tree import ROOT

PAUSE_SECONDS = 0.02
LOOK_SECONDS = 0.1
AFTER_SECONDS = 5.0
FLOOD_SECONDS_MAX = 1800.0
ATTACKER = "attacker"


class HonestClient(threading.Thread):
    """Writes and reads a key all the time, and notes how long it was not served."""

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(name="honest-client", daemon=True)
        self.cluster = cluster
        self.ended = threading.Event()
        self.calls = 0
        self.longest_seconds = 0.0
        """The longest time between two calls that were answered."""
        self.errors: Counter[str] = Counter()
        self.wrong = 0
        """How many reads did not give what was written last."""

    def run(self) -> None:
        with self.cluster.client(timeout=10.0) as client:
            number, served = 0, time.monotonic()
            while not self.ended.wait(PAUSE_SECONDS):
                number += 1
                try:
                    client.put("honest", number)
                    self.wrong += client.get("honest") != number
                    self.calls += 2
                except ConsensusError as error:
                    self.errors[error.code] += 1
                    continue
                now = time.monotonic()
                self.longest_seconds, served = max(self.longest_seconds, now - served), now


class Watch(threading.Thread):
    """Looks at the memory and the open files of the nodes, and keeps the largest of each."""

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(name="watch", daemon=True)
        self.cluster = cluster
        self.ended = threading.Event()
        self.memory_max: Counter[str] = Counter()
        self.files_max: Counter[str] = Counter()

    def run(self) -> None:
        while not self.ended.wait(LOOK_SECONDS):
            for name in self.cluster.names:
                process = self.cluster.process(name)
                try:
                    files = len(os.listdir(f"/proc/{process.pid}/fd"))
                    memory = process.own_memory_bytes()
                except (OSError, IndexError):  # it is gone, which is told at the end
                    continue
                self.memory_max[name] = max(self.memory_max[name], memory)
                self.files_max[name] = max(self.files_max[name], files)


def orders_for(cluster: LocalCluster, seed: int, frames: int, connections: int, *, secure: bool) -> Orders:
    """What the attacker is told."""
    servers, secret = {}, ""
    if secure:
        cluster.access.add_client(ATTACKER, ["read"], ["write hostile/*"])
        servers = {node: cluster.access.keys[node].public for node in cluster.names}
        secret = cluster.access.keys[ATTACKER].secret
        time.sleep(1.5)  # a node looks at its list once a second
    events = [str(cluster.status(name, 5.0)["events_address"]) for name in cluster.names]
    return Orders(seed, cluster.cluster_id, cluster.addresses, events, frames, connections, servers, secret)


def memory_of(cluster: LocalCluster) -> dict[str, int]:
    """The memory of its own of each node that runs, in bytes."""
    return {name: cluster.process(name).own_memory_bytes() for name in cluster.running()}


def attack(orders: Orders) -> dict[str, Any]:
    """Run the attacker's process; returns what it did."""
    command = [sys.executable, "-m", "tests.cluster.hostile.flood"]
    done = subprocess.run(
        command,
        input=json.dumps(asdict(orders)) + "\n",
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=FLOOD_SECONDS_MAX,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def run(
    folder: Path, seed: int, frames: int, connections: int, *, secure: bool, after_seconds: float = AFTER_SECONDS
) -> dict[str, Any]:
    """Attack a cluster of three nodes; returns what happened, as JSON can hold it.

    Args:
        folder: where the nodes keep their data and logs.
        seed: what is drawn is drawn from it.
        frames: how many hostile frames are sent.
        connections: how many half-open connections are made.
        secure: whether the cluster is encrypted, and the frames are those of a client that is let in.
        after_seconds: how long after the attack the memory of the nodes is looked at.

    """
    with LocalCluster(folder=folder, secure=secure, cluster_id="hostile") as cluster:
        cluster.client().put("kept", "from the beginning")
        orders = orders_for(cluster, seed, frames, connections, secure=secure)
        pids = {name: cluster.process(name).pid for name in cluster.names}
        before, client, watch = memory_of(cluster), HonestClient(cluster), Watch(cluster)
        for thread in (client, watch):
            thread.start()
        time.sleep(1.0)
        deeds = attack(orders)
        time.sleep(after_seconds)
        for thread in (client, watch):
            thread.ended.set()
            thread.join(30.0)
        alive = {name: cluster.process(name).pid for name in cluster.running()}
        refused: Counter[str] = Counter()
        for name in alive:
            refused.update(cluster.status(name, 5.0)["refused"])
        whole = len(alive) == len(pids) and cluster.client(timeout=10.0).get("kept") == "from the beginning"
        if whole:
            cluster.wait_until_settled(timeout=60.0)
        mib = {
            name: [round(value / (1 << 20), 1) for value in (before[name], watch.memory_max[name], after)]
            for name, after in memory_of(cluster).items()
        }
        return {
            "seed": seed,
            "secure": secure,
            **deeds,
            "frames_per_second": round(deeds["frames"] / max(deeds["frame_seconds"], 0.001)),
            "memory_mib_before_max_after": mib,
            "open_files_max": dict(watch.files_max),
            "honest_calls": client.calls,
            "honest_longest_gap_seconds": round(client.longest_seconds, 2),
            "honest_errors": dict(client.errors),
            "honest_wrong_reads": client.wrong,
            "crashes": len(pids.items() - alive.items()),
            "whole": whole,
            "refused": dict(refused),
            "log_bytes_max": max(len(cluster.log_text(name)) for name in cluster.names),
        }
