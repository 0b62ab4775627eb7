"""This system beside others on the same work and machine; those that are not installed are named.

    python -m tests.benchmarks.peers [--systems own,etcd] [--rounds 3] [--seconds 5] [--outstanding 1,64,1000] [--reads]

Three nodes of each system are processes on the loopback with settings that make every acknowledged write durable. One
client process keeps so many writes under way; with `--reads` it also reads, where a system has linearizable reads. The
systems take turns, round after round. It prints one table, and writes all figures as JSON and a plot as SVG into the
folder of `--out`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import Final

from forge_consensus.checks.benchmark import READS, WRITES
from forge_consensus.checks.file_system import VOLATILE, file_system_of
from tests.benchmarks.machine import machine_facts
from tests.benchmarks.peers.etcd import Etcd
from tests.benchmarks.peers.figures import Work
from tests.benchmarks.peers.hraft import Hraft
from tests.benchmarks.peers.own import Own
from tests.benchmarks.peers.plot import svg
from tests.benchmarks.peers.pysyncobj import Pysyncobj
from tests.benchmarks.peers.rabbitmq import Rabbitmq
from tests.benchmarks.peers.report import Report, data_of, missing_line, text_of
from tests.benchmarks.peers.rounds import Rounds
from tests.benchmarks.peers.system import System
from tests.benchmarks.peers.zookeeper import Zookeeper
from tests.worlds.source_tree import ROOT

SYSTEMS: Final[tuple[type[System], ...]] = (Own, Etcd, Hraft, Zookeeper, Rabbitmq, Pysyncobj)


def tell(text: str) -> None:
    """Write a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def chosen(names: str) -> list[type[System]]:
    """Return the systems of these names, with commas between them; ends the program for one that is not known."""
    known = {system.name: system for system in SYSTEMS}
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in known]:
        sys.exit(f"there is no system {', '.join(unknown)}: choose from {', '.join(known)}")
    return [known[name] for name in wanted]


def numbers(text: str) -> list[int]:
    """Return the numbers of an argument, with commas between them."""
    return [int(each) for each in text.split(",")]


def parsed() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(system.name for system in SYSTEMS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="how many turns each has; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement; default: %(default)s")
    parser.add_argument("--outstanding", type=numbers, default=[1, 64, 1000], help="default: 1,64,1000")
    parser.add_argument("--reads", action="store_true", help="measure linearizable reads as well")
    parser.add_argument("--value-bytes", type=int, default=128, help="default: %(default)s")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="for data; default: %(default)s"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="default: build/bench")
    return parser.parse_args()


def measured(arguments: argparse.Namespace) -> Report:
    """Measure as the arguments say, until all is done or Ctrl-C; ends the program if nothing can be measured."""
    missing = {system.name: line for system in chosen(arguments.systems) if (line := missing_line(system))}
    systems = [system for system in chosen(arguments.systems) if system.name not in missing]
    for line in missing.values():
        tell(line)
    if not systems:
        sys.exit("none of these systems is installed")
    kind = file_system_of(arguments.folder)
    if kind in VOLATILE:
        tell(f"{arguments.folder} is in memory ({kind}): nothing is flushed there; name a disk with --folder")
    works = [
        Work(each, arguments.seconds, arguments.value_bytes, kind)
        for kind in (WRITES, READS)[: 1 + arguments.reads]
        for each in arguments.outstanding
    ]
    rounds = Rounds(systems, works, arguments.rounds, arguments.folder, tell)
    machine = machine_facts()
    try:
        rounds.run()
    except KeyboardInterrupt:
        tell("interrupted: what was measured until now follows")
    return Report(systems, missing, works, arguments.rounds, rounds.results, machine, str(arguments.folder), kind)


def plot_of(report: Report) -> str:
    """Return the plot of a report that has figures."""
    titles = {system.name: system.title for system in report.systems}
    groups = [list(group) for _, group in groupby(report.summaries, key=lambda each: (each.kind, each.outstanding))]
    first = report.works[0]
    caption = (
        f"Three nodes on one machine of {report.machine['processors']} processors, {first.value_bytes}-byte values, "
        f"{report.rounds} rounds of {first.seconds:g} s in turns"
    )
    return svg(groups, titles, Own.name, caption)


def main() -> None:
    """Measure, print the table and write the files; the exit code is 1 if a turn failed."""
    arguments = parsed()
    report = measured(arguments)
    print("\n".join(text_of(report)), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "benchmark.json").write_text(json.dumps(data_of(report), indent=1) + "\n")
    written = ["benchmark.json"]
    if report.summaries:
        (arguments.out / "benchmark.svg").write_text(plot_of(report))
        written.append("benchmark.svg")
    tell(f"wrote {' and '.join(written)} into {arguments.out}")
    sys.exit(1 if report.results.failures else 0)


if __name__ == "__main__":
    main()
