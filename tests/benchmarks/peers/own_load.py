"""The program that loads this system by its own client: see `tests.benchmarks.peers.load` for what it says and when."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from forge_consensus.checks.benchmark import READS, WRITES, keys_for
from forge_consensus.checks.closed_loop import ClosedLoop
from forge_consensus.checks.load import Load
from forge_consensus.client.sync import Client
from tests.benchmarks.peers.load import BEGAN, Loaded

TIMEOUT_SECONDS = 30.0
PREFIX = "measured/"
LIST = 1000
"""So many keys are written by one call before reads are measured."""


def write_all(load: Load) -> None:
    """Write every key that is read later."""
    for number in range(-(-load.keys // LIST)):
        load.write_list(number, LIST).result()


def main() -> None:
    """Load the cluster as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", required=True)
    parser.add_argument("--outstanding", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--warm-seconds", type=float, required=True)
    parser.add_argument("--value-bytes", type=int, required=True)
    parser.add_argument("--kind", choices=(WRITES, READS), required=True)
    arguments = parser.parse_args()
    size = arguments.value_bytes
    with Client(arguments.endpoints, TIMEOUT_SECONDS) as client:
        load = Load(client, PREFIX, "x" * size, keys_for(size))
        load.begin()
        if arguments.kind == READS:
            write_all(load)
        loop = ClosedLoop(load.read if arguments.kind == READS else load.write, arguments.outstanding)
        loop.run(arguments.warm_seconds)
        loop.took.clear()
        loop.failures.clear()
        print(BEGAN, flush=True)
        seconds = loop.run(arguments.seconds)
        print(json.dumps(asdict(Loaded.of_times(loop.took, seconds, loop.failures.total()))), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
