"""How the cost of a command grows: with commands outstanding, size of values, nodes, length of the log, sessions.

    python -m tests.benchmarks.growth [--only outstanding,value,nodes,log,sessions] [--rounds 1] [--seconds 2]

Each axis changes one number and leaves the others as they are. Rounds take turns over all of them, and medians are
plotted. It writes ``growth.json`` and ``growth.svg`` into the folder of `--out`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Final

from forge_consensus.actors.messages import OpenSession, SessionOpened
from forge_consensus.actors.transport.liveness import LINK_TIMEOUT_SECONDS
from forge_consensus.client.connections import Connections
from forge_consensus.config.storage import StorageSettings
from forge_consensus.output import table
from forge_consensus.process.wakeup import Wakeup
from forge_consensus.storage.machines.machine import Command
from tests.benchmarks.line_plot import Chart, Row, svg
from tests.benchmarks.machine import machine_facts
from tests.benchmarks.peers.figures import Run, Work
from tests.benchmarks.peers.own import Own
from tests.benchmarks.peers.rounds import measure
from tests.worlds.source_tree import ROOT

OUTSTANDING: Final = (1, 4, 16, 64, 256, 1000)
VALUES: Final = (16, 128, 1000, 4000, 16_000, 100_000, 1_000_000)
NODES: Final = (1, 3, 5, 7)
SESSIONS: Final = (0, 100, 1000, 5000)
LOG_SHARES: Final = (0.0, 0.1, 0.25, 0.5, 1.0)
"""The parts of `--log-entries` at which is measured."""
USUAL: Final = 64
"""How many commands are outstanding where that does not grow."""
USUAL_LARGE: Final = 16
"""The same where values grow: the largest together are 16 MB."""
USUAL_BYTES: Final = 128
NEVER: Final = 1_000_000_000
LOG_BYTES_MAX: Final = 64 << 30
BURST: Final = 4000
KEYS: Final = 10_000
TTL_MS: Final = 3_600_000
OPEN_SECONDS_MAX: Final = 60.0
OPEN_AT_ONCE: Final = 100


Measured = Iterator[tuple[int, Run]]


@contextmanager
def running(nodes: int = 3, storage: StorageSettings | None = None) -> Iterator[Own]:
    """A fresh cluster that has been loaded for a moment, because fresh processes are slow."""
    with tempfile.TemporaryDirectory(prefix="growth-", ignore_cleanup_errors=True) as folder:
        system = Own(Path(folder), nodes=nodes, storage=storage)
        try:
            system.start()
            fill(system, BURST)
            yield system
        finally:
            system.stop()


def fill(system: Own, entries: int) -> None:
    """Add so many entries to the log, at full speed."""
    client = system.cluster.client(timeout=60.0)
    value = os.urandom(USUAL_BYTES)
    for began in range(0, entries, BURST):
        writes = range(began, min(began + BURST, entries))
        futures = [client.submit(Command("set", {"key": f"k{n % KEYS}", "value": value})) for n in writes]
        for future in futures:
            future.result()
    client.close()


def by_outstanding(seconds: float, log_entries: int) -> Measured:
    """Commands outstanding grow."""
    with running() as system:
        for outstanding in OUTSTANDING:
            yield outstanding, measure(system, Work(outstanding, seconds, USUAL_BYTES), 1)


def by_value(seconds: float, log_entries: int) -> Measured:
    """Values grow, from 16 bytes to 1 MB."""
    for size in VALUES:
        with running() as system:
            yield size, measure(system, Work(USUAL_LARGE, seconds, size), 1)


def by_nodes(seconds: float, log_entries: int) -> Measured:
    """Nodes become more, on the same machine."""
    for nodes in NODES:
        with running(nodes) as system:
            yield nodes, measure(system, Work(USUAL, seconds, USUAL_BYTES), 1)


def by_log(seconds: float, log_entries: int) -> Measured:
    """The log becomes longer, because no snapshot shortens it; the measurements add their entries too."""
    lengths = [round(log_entries * share) for share in LOG_SHARES]
    with running(storage=StorageSettings(snapshot_entries=NEVER, snapshot_log_bytes=LOG_BYTES_MAX)) as system:
        yield lengths[0], measure(system, Work(USUAL, seconds, USUAL_BYTES), 1)
        for shorter, longer in pairwise(lengths):
            fill(system, longer - shorter)
            yield longer, measure(system, Work(USUAL, seconds, USUAL_BYTES), 1)


def by_sessions(seconds: float, log_entries: int) -> Measured:
    """Sessions of other clients become more, which do nothing."""
    with running() as system:
        for fewer, more in pairwise((0, *SESSIONS)):
            open_sessions(system, more - fewer)
            yield more, measure(system, Work(USUAL, seconds, USUAL_BYTES), 1)


def open_sessions(system: Own, count: int) -> None:
    """Open so many sessions by one connection to the leader. Raises `TimeoutError`."""
    if not count:
        return
    address = system.cluster.addresses[system.wait_for_leader()]
    wakeup = Wakeup()
    connections = Connections(wakeup, LINK_TIMEOUT_SECONDS)
    connections.connect(address)
    end = time.monotonic() + OPEN_SECONDS_MAX
    asked = opened = 0
    try:
        while opened < count:
            while asked < count and asked - opened < OPEN_AT_ONCE:
                if not connections.send(address, OpenSession(TTL_MS), asked + 1, system.cluster.cluster_id):
                    break
                asked += 1
            opened += sum(type(what) is SessionOpened for _, what, _ in connections.wait(0.05))
            if time.monotonic() > end:
                raise TimeoutError(f"only {opened:,} of {count:,} sessions were opened within {OPEN_SECONDS_MAX:g} s")
    finally:
        connections.close()


AXES: Final[dict[str, tuple[str, Callable[[float, int], Measured]]]] = {
    "outstanding": (f"commands outstanding; 3 nodes, values of {USUAL_BYTES} bytes", by_outstanding),
    "value": (f"bytes of a value; 3 nodes, {USUAL_LARGE} commands outstanding", by_value),
    "nodes": (f"nodes, all on this machine; {USUAL} commands outstanding", by_nodes),
    "log": (f"entries added to the log before; 3 nodes, {USUAL} commands outstanding", by_log),
    "sessions": (f"sessions of other clients; 3 nodes, {USUAL} commands outstanding", by_sessions),
}


def middle(runs: list[Run], figure: str) -> float:
    """Return the median of a figure of some runs; 0 where it is not known."""
    return median(getattr(run, figure) or 0.0 for run in runs)


def row_of(title: str, found: dict[int, list[Run]]) -> Row:
    """Return the charts of one axis."""

    def over(figure: str) -> list[float]:
        return [middle(runs, figure) for runs in found.values()]

    processor = {"leader": over("leader_us"), "a follower": over("follower_us"), "client": over("client_us")}
    return Row(
        title,
        list(found),
        [
            Chart("commands a second", {"": over("per_second")}),
            Chart("milliseconds", {"p50": over("p50_ms"), "p99": over("p99_ms")}),
            Chart("processor time for a command, microseconds", processor),
        ],
    )


def figure_text(runs: list[Run], figure: str) -> str:
    """Return the median of a figure of some runs; "-" where it is not known."""
    return "-" if getattr(runs[0], figure) is None else f"{middle(runs, figure):,.2f}"


def lines_of(axis: str, found: dict[int, list[Run]]) -> list[str]:
    """Return the table of one axis."""
    figures = (
        "per_second",
        "p50_ms",
        "p99_ms",
        "leader_us",
        "follower_us",
        "client_us",
        "flushes_per_write",
        "others_percent",
    )
    rows = [(f"{number:,}", *(figure_text(runs, figure) for figure in figures)) for number, runs in found.items()]
    doubts = [f"{axis} {number:,}: {run.note}" for number, runs in found.items() for run in runs if run.note]
    return [*table((axis.upper(), *(figure.replace("_", " ").upper() for figure in figures)), rows), *doubts]


def parsed() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(AXES), help="the axes; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement; default: %(default)s")
    parser.add_argument("--log-entries", type=int, default=200_000, help="of the longest log; default: %(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="default: build/bench")
    arguments = parser.parse_args()
    arguments.only = arguments.only.split(",")
    if unknown := [axis for axis in arguments.only if axis not in AXES]:
        parser.error(f"there is no axis {', '.join(unknown)}: choose from {', '.join(AXES)}")
    return arguments


def main() -> None:
    """Measure, print tables, write the files."""
    arguments = parsed()
    machine = machine_facts()
    found: dict[str, dict[int, list[Run]]] = {axis: {} for axis in arguments.only}
    for number in range(1, arguments.rounds + 1):
        for axis in arguments.only:
            for at, run in AXES[axis][1](arguments.seconds, arguments.log_entries):
                found[axis].setdefault(at, []).append(run)
                print(f"round {number}, {axis} {at:,}: {run.per_second:,.0f}/s, p50 {run.p50_ms:g} ms", file=sys.stderr)
    for axis in arguments.only:
        print("\n".join([*lines_of(axis, found[axis]), ""]), flush=True)
    write(arguments, machine, found)


def write(arguments: argparse.Namespace, machine: dict[str, Any], found: dict[str, dict[int, list[Run]]]) -> None:
    """Write all figures and the plot."""
    rows = [row_of(AXES[axis][0], runs) for axis, runs in found.items()]
    caption = (
        f"One machine of {machine['processors']} processors; medians of {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s; every command on the disks of a majority"
    )
    told = {
        axis: [{"at": at, "runs": [asdict(run) for run in runs]} for at, runs in axes.items()]
        for axis, axes in found.items()
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "growth.json").write_text(json.dumps({"machine": machine, "measured": told}, indent=1) + "\n")
    (arguments.out / "growth.svg").write_text(svg(rows, caption))
    print(f"wrote growth.json and growth.svg into {arguments.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
