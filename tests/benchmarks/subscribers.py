"""What subscribers cost a cluster of three node processes: commands a second, and the failover after a kill.

    python -m tests.benchmarks.subscribers [--rounds 5] [--seconds 4] [--kills 3]

One JSON line in all. Each round measures every kind of subscriber on a fresh cluster, in another order each time:
`none`; `everything` (one handler for all events in each node's process); `remote` (ten SUB sockets on the leader's
publisher, in a process of their own); `sleeping` (a handler that takes a second an event) and `raising` (one that
always raises), in each node's process. The medians of the rounds are told, with all values: puts a second with 1,000
outstanding, the leader's processor time for each, and milliseconds from a SIGKILL of the leader to the next
acknowledged write.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import Any

import zmq

from forge_consensus.client.sync import Client
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from tests.benchmarks.failover import ANSWER_SECONDS_MAX, FALLEN_SECONDS, SETTLE_SECONDS, Writing
from tests.benchmarks.machine import cpu_seconds
from tests.benchmarks.subscribed_node import program
from tests.benchmarks.throughput import WARM_UP, put_for
from tests.worlds.source_tree import ROOT

KINDS = ("none", "everything", "remote", "sleeping", "raising")
WITH_FAILOVER = ("none", "sleeping", "raising")
REMOTE = 10
WINDOW = 1000
HEARD_SECONDS_MAX = 15.0
VALUE_BYTES = 128


def listen(address: str, count: int) -> None:
    """Receive what a node publishes with so many sockets, until killed; say when all have heard something."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    poller = zmq.Poller()
    sockets = [context.socket(zmq.SUB) for _ in range(count)]
    for socket in sockets:
        socket.setsockopt(zmq.SUBSCRIBE, b"")
        socket.connect(f"tcp://{address}")
        poller.register(socket, zmq.POLLIN)
    silent = set(sockets)
    while True:
        for socket, _ in poller.poll():
            socket.recv_multipart()
            if socket in silent:
                silent.discard(socket)
                if not silent:
                    print("listening", flush=True)


@contextmanager
def listeners(address: str, client: Client) -> Iterator[None]:
    """Ten remote subscribers in a process of their own, which hear what is written."""
    arguments = [sys.executable, "-m", "tests.benchmarks.subscribers", "--listen", address]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None, "it is a pipe"
        try:
            end = time.monotonic() + HEARD_SECONDS_MAX
            while not select.select([process.stdout], [], [], 0.1)[0]:
                if time.monotonic() > end:
                    raise TimeoutError("the remote subscribers hear nothing")
                client.put("heard", "by all")
            yield
        finally:
            process.kill()


def throughput(cluster: LocalCluster, kind: str, seconds: float) -> tuple[float, float]:
    """Puts a second, and microseconds of the leader's processor time for each."""
    client = cluster.client(timeout=30.0)
    value = os.urandom(VALUE_BYTES)
    leader = cluster.wait_for_leader()
    for future in [client.submit(Command("set", {"key": f"k{n}", "value": value})) for n in range(WARM_UP)]:
        future.result()
    heard = listeners(cluster.status(leader)["events_address"], client) if kind == "remote" else nullcontext()
    with heard:
        before = cpu_seconds(cluster.process(leader).pid)
        took, lasted = put_for(client, value, WINDOW, seconds)
        return len(took) / lasted, (cpu_seconds(cluster.process(leader).pid) - before) / len(took) * 1e6


def failovers(cluster: LocalCluster, kills: int) -> list[float]:
    """Milliseconds from a kill of the leader to the next acknowledged write, so many times."""
    client = cluster.client(timeout=ANSWER_SECONDS_MAX)
    took = []
    for _ in range(kills):
        leader = cluster.process("leader")
        with Writing(client) as writing:
            writing.next_after(time.perf_counter())
            time.sleep(random.uniform(0.1, 0.3))
            began = time.perf_counter()
            leader.signal(signal.SIGKILL)
            took.append((writing.next_after(began + FALLEN_SECONDS) - began) * 1000)
        leader.kill()
        leader.start()
        time.sleep(SETTLE_SECONDS)
        cluster.wait_until_settled(*cluster.names)
    return took


def measure(rounds: int, seconds: float, kills: int) -> dict[str, Any]:
    """All rounds; returns the line to print."""
    found: dict[str, dict[str, list[float]]] = {
        kind: {"ops_per_s": [], "leader_us_per_command": [], "failover_ms": []} for kind in KINDS
    }
    for number in range(rounds):
        for kind in KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]:
            with LocalCluster(program=program([kind] if kind not in {"none", "remote"} else [])) as cluster:
                rate, cost = throughput(cluster, kind, seconds)
                found[kind]["ops_per_s"].append(round(rate))
                found[kind]["leader_us_per_command"].append(round(cost, 1))
                if kind in WITH_FAILOVER:
                    found[kind]["failover_ms"] += [round(value, 1) for value in failovers(cluster, kills)]
    medians = {kind: {name: median(values) for name, values in rows.items() if values} for kind, rows in found.items()}
    return {
        "work": "subscribers",
        "rounds": rounds,
        "window": WINDOW,
        "size": VALUE_BYTES,
        "remote": REMOTE,
        "medians": medians,
        "all": found,
    }


def main() -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement of throughput")
    parser.add_argument("--kills", type=int, default=3, help="in each round")
    parser.add_argument("--listen", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.listen:
        listen(arguments.listen, REMOTE)
    print(json.dumps(measure(arguments.rounds, arguments.seconds, arguments.kills)), flush=True)


if __name__ == "__main__":
    main()
