"""The command: runs the campaign against every mutant and prints the violation that found it, or that none did."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.mutants.hunt import Found, attempt, hunt, muted, write_known_seeds

SEEDS = 400
CHEAPER_TRIES = 6
CHEAP_SECONDS = 0.3
"""When the table is written, a seed that takes longer to find its mutant is compared with some that follow it."""
TEXT_CHARS = 100


def arguments() -> argparse.Namespace:
    """What the command was given."""
    parser = argparse.ArgumentParser("python -m tests.simulation.mutants", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="how many processes")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many seeds a mutant may survive")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--only", action="append", default=[], help="a mutant's name or a part of it, repeatable")
    parser.add_argument("--write", action="store_true", help="write the table of seeds that the test suite runs")
    return parser.parse_args()


def search(name: str, first: int, seeds: int, cheaper: bool) -> tuple[str, Found | None, int, float]:
    """Hunt one mutant; returns (name, what was found, the seed to keep, seconds)."""
    began = time.process_time()
    mutant = MUTANTS[name]
    found = hunt(mutant, range(first, first + seeds))
    took = time.process_time() - began
    if found is None:
        return name, None, 0, took
    best = (found.seconds, found.seed)
    if cheaper and found.seconds > CHEAP_SECONDS:
        with muted():
            for seed in range(found.seed + 1, found.seed + 1 + CHEAPER_TRIES):
                text, seconds = attempt(mutant, seed)
                best = min(best, (seconds, seed)) if text else best
    return name, found, best[1], took


def results(given: argparse.Namespace, names: list[str]) -> Iterator[tuple[str, Found | None, int, float]]:
    """Hunt in several processes; as they come."""
    with ProcessPoolExecutor(given.jobs) as pool:
        tasks = [pool.submit(search, name, given.first, given.seeds, given.write) for name in names]
        for task in as_completed(tasks):
            yield task.result()


def main() -> int:
    """Print the table; returns how many mutants survived."""
    given = arguments()
    names = [name for name in MUTANTS if not given.only or any(part in name for part in given.only)]
    width = max(map(len, names), default=0)
    print(f"{'mutant':<{width}}  plan     seeds  seconds  found by")
    survivors = []
    for name, found, seed, seconds in results(given, names):
        plan = "special" if MUTANTS[name].plan else "any"
        if found is None:
            survivors.append(name)
            said, tried = "NOTHING", given.seeds
        else:
            said, tried = " ".join(found.text.split())[:TEXT_CHARS], found.seeds
            if given.write:
                write_known_seeds({name: seed})
        print(f"{name:<{width}}  {plan:<7}  {tried:>5}  {seconds:>7.1f}  {said}", flush=True)
    print(f"{len(names) - len(survivors)} of {len(names)} mutants found; survivors: {', '.join(survivors) or 'none'}")
    return len(survivors)


if __name__ == "__main__":
    sys.exit(min(1, main()))
