"""What an application that computes costs the node inside it: latency of writes, on a thread and as a child process.

    python -m tests.benchmarks.embedded [--seconds 5] [--rounds 3]

A cluster of one in this process, with ``mode="thread"`` and ``mode="process"``. Beside it this process is idle,
computes in Python on one thread ("python"), or calls on one thread what keeps the interpreter's lock for about 100 ms
at a time ("long"), with pauses as long. Another process writes keys one after another, and so does this one, in
turns. One JSON line for each mode, kind of computing and round, then one with the medians, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal

from forge_consensus.client.sync import Client
from forge_consensus.service.consensus import ConsensusService
from tests.benchmarks.failover import percentile

MODES: Final[tuple[Literal["thread", "process"], ...]] = ("thread", "process")
LOADS: Final = ("idle", "python", "long")
LOCKED_SECONDS: Final = 0.1


def write_for(put: Callable[[str, bytes], object], seconds: float) -> dict[str, Any]:
    """Write keys one after another, and return how long that took."""
    took: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        put(f"k{len(took) % 1000}", b"x" * 128)
        took.append((time.perf_counter() - began) * 1000)
    return {"count": len(took), "p50": percentile(took, 0.5), "p99": percentile(took, 0.99)}


def loop_of_length() -> int:
    """Over how many numbers `sum` goes in the time for which the lock is kept."""
    count = 1_000_000
    began = time.perf_counter()
    sum(range(count))
    return round(count * LOCKED_SECONDS / (time.perf_counter() - began))


@contextmanager
def computing(load: str) -> Iterator[None]:
    """Compute on a thread meanwhile."""
    over = threading.Event()

    def python() -> None:
        number = 0
        while not over.is_set():
            for each in range(10_000):
                number += each % 7

    def long() -> None:
        count = loop_of_length()
        while not over.wait(LOCKED_SECONDS):
            sum(range(count))  # gives the lock to nobody before its end

    bodies: dict[str, Callable[[], None]] = {"python": python, "long": long}
    thread = threading.Thread(target=bodies[load]) if load in bodies else None
    if thread is not None:
        thread.start()
    try:
        yield
    finally:
        over.set()
        if thread is not None:
            thread.join()


def measure(mode: Literal["thread", "process"], load: str, seconds: float) -> dict[str, Any]:
    """Write from another process and then from this one, beside a node in this mode."""
    with (
        TemporaryDirectory() as folder,
        ConsensusService("n1", bind="127.0.0.1:0", storage_path=folder, mode=mode, timeout=30) as service,
    ):
        service.wait_for_leader(30)
        command = [sys.executable, "-m", "tests.benchmarks.embedded", "--write", service.address]
        with computing(load):
            done = subprocess.run(
                [*command, "--seconds", str(seconds)], capture_output=True, text=True, check=True, timeout=seconds + 60
            )
            own = write_for(service.put, seconds)
    others = json.loads(done.stdout)
    return {
        "mode": mode, "load": load, "others_p50": others["p50"], "others_p99": others["p99"],
        "own_p50": own["p50"], "own_p99": own["p99"],
    }  # fmt: skip


def main() -> None:
    """Measure all in turns, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        with Client(options.write, timeout=30.0) as client:
            client.put("k0", b"")
            print(json.dumps(write_for(client.put, options.seconds)))
        return
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for mode in MODES:
            for load in LOADS:
                row = measure(mode, load, options.seconds)
                print(json.dumps(row), flush=True)
                found.setdefault((mode, load), []).append(row)
    for (kind, load), rows in found.items():
        told = {name: round(median(row[name] for row in rows), 1) for name in rows[0] if name.endswith(("p50", "p99"))}
        print(json.dumps({"mode": kind, "load": load, "median_of": len(rows), **told}))


if __name__ == "__main__":
    main()
