"""What the admin API costs the nodes: the latency of writes with and without its users, in turns.

    python -m tests.benchmarks.admin [--seconds 10] [--rounds 3] [--streams 100] [--rate 200] [--slow 1000]
        [--turns nobody,used,slow] [--stream /v1/events]

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
from typing import Any, Final, cast

from forge_consensus.client.sync import Client
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.node_process import NodeProcess
from tests.benchmarks.failover import percentile

PATHS: Final = ("/v1/node", "/v1/leader", "/v1/kv/k1", "/readyz", "/v1/cluster")
STREAM: Final = "/v1/events?kinds=-log.appended,-log.committed"
"""As the dashboard reads."""
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


class Reader(asyncio.Protocol):
    """A reader of events."""

    begun = 0
    """How many have got their first bytes."""
    pieces = 0
    """How many pieces all of them have got."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.parts = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        cast("asyncio.Transport", transport).write(request(self.path))

    def data_received(self, data: bytes) -> None:
        """Count, and throw it away."""
        Reader.begun += self.parts == 0
        self.parts += 1
        Reader.pieces += 1


class Asker(asyncio.Protocol):
    """A connection that asks one thing after another. It reads what it must, so that it costs the machine little."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.data = b""
        self.answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the connection."""
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self.transport = None
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("the server ended the connection"))

    async def ask(self, path: str) -> int:
        """Return the status of the answer to a request."""
        assert self.transport is not None
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request(path))
        return await self.answer

    def data_received(self, data: bytes) -> None:
        """Take what has arrived of the answer."""
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if end and self.answer is not None and len(body) >= (int(length[1]) if length else 0):
            self.data = b""
            self.answer.set_result(int(head.split(b" ", 2)[1]))


def request(path: str) -> bytes:
    """A request as it is sent."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def use(url: str, stream: str, streams: int, rate: float) -> None:
    """What the using process does until it is ended: read events on so many streams, and ask so often."""
    loop = asyncio.get_running_loop()
    host, _, port = url.removeprefix("http://").rpartition(":")
    for _ in range(streams):
        await loop.create_connection(lambda: Reader(stream), host, int(port))
    async with asyncio.timeout(30):
        while Reader.begun < streams:
            await asyncio.sleep(0.05)
    pool: list[Asker] = []
    took: list[float] = []
    failed: list[int] = []

    async def ask(path: str) -> None:
        began = time.perf_counter()
        while pool and pool[-1].transport is None:
            pool.pop()
        asker = pool.pop() if pool else (await loop.create_connection(Asker, host, int(port)))[1]
        status = await asker.ask(path)
        pool.append(asker)
        took.append((time.perf_counter() - began) * 1000)
        if status != 200:
            failed.append(status)

    asking: set[asyncio.Task[None]] = set()
    next_at, number, pieces = time.perf_counter(), 0, Reader.pieces
    print("ready", flush=True)
    ended = loop.run_in_executor(None, sys.stdin.readline)
    while not ended.done():
        task = asyncio.ensure_future(ask(PATHS[number % len(PATHS)]))
        asking.add(task)
        task.add_done_callback(asking.discard)
        number += 1
        next_at += 1 / rate
        await asyncio.sleep(max(0.0, next_at - time.perf_counter()))
    await asyncio.gather(*asking)
    found = {"asked": number, "p50": percentile(took, 0.5), "p99": percentile(took, 0.99), "failed": len(failed)}
    print(json.dumps({**found, "pieces": Reader.pieces - pieces}), flush=True)


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
    counts = [f"--{name}={getattr(options, name)}" for name in ("stream", "streams", "rate", "slow")]
    with process(*role, *counts) as user:
        assert said(user) == "ready"
        with process("--write", endpoints, "--seconds", str(options.seconds)) as writer:
            found = json.loads(said(writer))
        assert user.stdin is not None
        user.stdin.write("end\n")
        user.stdin.flush()
        told = json.loads(said(user))
    return {"turn": turn, **found, "answered": told.get("p99"), "asked": told}


def run(options: argparse.Namespace) -> None:
    """Run all turns on one cluster."""
    with LocalCluster(extra_args=("--http", "127.0.0.1:0")) as cluster:
        leader = cluster.wait_for_leader()
        node = cluster.nodes[leader]
        assert isinstance(node, NodeProcess)
        url = re.findall(r"(http://\S+)/$", node.output(), re.MULTILINE)[-1]
        turns = options.turns.split(",")
        endpoints = ",".join(cluster.addresses.values())
        found: dict[str, list[dict[str, Any]]] = {turn: [] for turn in turns}
        for _ in range(options.rounds):
            for turn in turns:
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
    parser.add_argument("--stream", default=STREAM, help="which events are read")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--turns", default=",".join(TURNS), help="which turns, with commas")
    parser.add_argument("--slow", type=int, default=1000)
    for role in ("--write", "--use", "--be-slow"):
        parser.add_argument(role, default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_for(options.write, options.seconds)
    elif options.use:
        asyncio.run(use(options.use, options.stream, options.streams, options.rate))
    elif options.be_slow:
        asyncio.run(be_slow(options.be_slow, options.slow))
    else:
        run(options)


if __name__ == "__main__":
    main()
