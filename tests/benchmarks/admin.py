"""What the admin API costs the nodes: the latency of writes with and without its users, in turns.

    python -m tests.benchmarks.admin [--seconds 10] [--rounds 3] [--streams 100] [--rate 200] [--slow 1000]

Three node processes with the API; a process of its own writes keys, one after another, and measures each. The turns
are: nobody at the API; so many readers of events and so many requests a second at the leader's API (statuses, reports,
keys); and so many connections that send half a request and are silent. One JSON line for each turn and round, then one
with the median of each, and `answered`, the p99 in milliseconds of the requests at the API.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import httpx

from forge_consensus.client.sync import Client
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from tests.benchmarks.failover import percentile

PATHS: Final = ("/v1/node", "/v1/leader", "/v1/kv/k1", "/readyz", "/v1/cluster")
STREAM: Final = "/v1/events?kinds=-log.appended,-log.committed"
TURNS: Final = ("nobody", "used", "slow")


def write_for(endpoints: str, seconds: float) -> None:
    """What the writing process does: write keys one after another, and print how long each took."""
    took: list[float] = []
    with Client(endpoints, timeout=30.0) as client:
        client.put("k1", b"x" * 128)
        end = time.perf_counter() + seconds
        number = 0
        while time.perf_counter() < end:
            began = time.perf_counter()
            client.put(f"k{number % 1000}", b"x" * 128)
            took.append((time.perf_counter() - began) * 1000)
            number += 1
    print(json.dumps({"count": len(took), "p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}))


async def use(url: str, streams: int, rate: float) -> None:
    """What the using process does until it is ended: read events on so many streams, and ask so often."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as client:

        async def read() -> None:
            async with client.stream("GET", STREAM) as answer:
                async for _ in answer.aiter_bytes():
                    pass

        reading = [asyncio.ensure_future(read()) for _ in range(streams)]
        took: list[float] = []

        async def ask(path: str) -> None:
            began = time.perf_counter()
            (await client.get(path)).raise_for_status()
            took.append((time.perf_counter() - began) * 1000)

        asking: set[asyncio.Task[None]] = set()
        next_at, number = time.perf_counter(), 0
        print("ready", flush=True)
        loop = asyncio.get_running_loop()
        ended = loop.run_in_executor(None, sys.stdin.readline)
        while not ended.done():
            task = asyncio.ensure_future(ask(PATHS[number % len(PATHS)]))
            asking.add(task)
            task.add_done_callback(asking.discard)
            number += 1
            next_at += 1 / rate
            await asyncio.sleep(max(0.0, next_at - time.perf_counter()))
        await asyncio.gather(*asking)
        print(json.dumps({"asked": number, "p99": percentile(took, 0.99)}), flush=True)
        for task in reading:
            task.cancel()


async def be_slow(url: str, count: int) -> None:
    """What the slow process does until it is ended: hold connections on which half a request was sent."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    held: list[asyncio.StreamWriter] = []
    for _ in range(count):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/cluster HTTP/1.1\r\nHost: local")
        held.append(writer)
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for writer in held:
        writer.transport.abort()
    print(json.dumps({"held": len(held)}), flush=True)


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Another process of this program."""
    command = [sys.executable, "-m", "tests.benchmarks.admin", *arguments]
    made = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield made
    finally:
        made.kill()
        made.wait()


def said(one: subprocess.Popen[str]) -> str:
    """The next line of a process."""
    assert one.stdout is not None
    return one.stdout.readline().strip()


def measure(turn: str, endpoints: str, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Write for a while, with or without users at the API."""
    if turn == "nobody":
        with process("--write", endpoints, "--seconds", str(options.seconds)) as writer:
            return {"turn": turn, **json.loads(said(writer))}
    role = ("--use", url) if turn == "used" else ("--be-slow", url)
    counts = ("--streams", str(options.streams), "--rate", str(options.rate), "--slow", str(options.slow))
    with process(*role, *counts) as user:
        assert said(user) == "ready"
        with process("--write", endpoints, "--seconds", str(options.seconds)) as writer:
            found = json.loads(said(writer))
        assert user.stdin is not None
        user.stdin.write("end\n")
        user.stdin.flush()
        told = json.loads(said(user))
    return {"turn": turn, **found, "answered": told.get("p99")}


def run(options: argparse.Namespace) -> None:
    """Run all turns on one cluster."""
    with LocalCluster(extra_args=("--http", "127.0.0.1:0")) as cluster:
        leader = cluster.wait_for_leader()
        node = cluster.nodes[leader]
        assert isinstance(node, NodeProcess)
        url = re.findall(r"(http://\S+)/$", node.output(), re.MULTILINE)[-1]
        endpoints = ",".join(cluster.addresses.values())
        found: dict[str, list[dict[str, Any]]] = {turn: [] for turn in TURNS}
        for _ in range(options.rounds):
            for turn in TURNS:
                row = measure(turn, endpoints, url, options)
                found[turn].append(row)
                print(json.dumps(row), flush=True)
    for turn, rows in found.items():
        middle = {name: median(row[name] for row in rows) for name in ("count", "p50", "p99")}
        answered = [row["answered"] for row in rows if row.get("answered") is not None]
        print(json.dumps({"median of": turn, **middle, "answered": median(answered) if answered else None}))


def main() -> None:
    """Measure, or be one of the processes that take part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--slow", type=int, default=1000)
    for role in ("--write", "--use", "--be-slow"):
        parser.add_argument(role, default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_for(options.write, options.seconds)
    elif options.use:
        asyncio.run(use(options.use, options.streams, options.rate))
    elif options.be_slow:
        asyncio.run(be_slow(options.be_slow, options.slow))
    else:
        run(options)


if __name__ == "__main__":
    main()
