"""The hunt: runs seeds against a mutant until something finds it."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loguru import logger

from forge_consensus.errors import OperationFailedError
from forge_consensus.testing.rules.violations import ViolationError
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.simulation import Simulation
from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import Mutant

HERE = Path(__file__).parent
KNOWN = HERE / "known_seeds.txt"
"""For each mutant a seed that found it soon; `python -m tests.simulation.mutants --write` makes it anew."""


@dataclass(frozen=True, slots=True)
class Found:
    """What found a mutant, with which seed, after how many, and how much processor time that one took."""

    seed: int
    text: str
    seeds: int
    seconds: float


def run(mutant: Mutant, seed: int) -> None:
    """Run the plan of a seed, with what the mutant needs."""
    with Simulation(replace(Plan.of(seed), **mutant.plan)) as simulation:
        simulation.run()


def verdict(error: BaseException) -> str:
    """What a finding says; nothing for a slip within the mutant itself, which proves nothing.

    Besides the invariants, the node's own checks count, and actors that raise what nobody ordered.
    """
    if isinstance(error, ViolationError):
        return str(error)
    cause = error.__cause__ if isinstance(error, OperationFailedError) and error.__cause__ is not None else error
    last = traceback.extract_tb(cause.__traceback__)[-1:]
    if any(Path(row.filename).parent == HERE for row in last):
        return ""
    return f"{'the node' if cause is error else 'an actor'} raised {type(cause).__name__}: {cause}"


def attempt(mutant: Mutant, seed: int, *, control: bool = True) -> tuple[str, float]:
    """Run one seed against a mutant; returns (what was found or nothing, seconds). Raises what is no finding.

    A seed that fails without the mutant too says nothing of it: `control` looks whether it does.
    """
    began = time.process_time()
    found = ""
    with Patch() as patch:
        mutant.change(patch)
        try:
            run(mutant, seed)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            found = verdict(error)
            if not found:
                raise
    seconds = time.process_time() - began
    if found and control and not passes(mutant, seed):
        found = ""
    return found, seconds


def passes(mutant: Mutant, seed: int) -> bool:
    """Whether the unchanged nodes pass the plan."""
    try:
        run(mutant, seed)
    except Exception as error:
        logger.debug("seed {} fails without a mutant: {}", seed, error)
        return False
    except ViolationError:
        return False
    return True


def hunt(mutant: Mutant, seeds: Iterable[int], *, control: bool = True) -> Found | None:
    """Run seeds until one finds the mutant, see `attempt`."""
    with muted():
        for count, seed in enumerate(seeds, 1):
            text, seconds = attempt(mutant, seed, control=control)
            if text:
                return Found(seed, text, count, seconds)
    return None


@contextmanager
def muted() -> Iterator[None]:
    """Nodes that fail on purpose need not say so."""
    logger.disable("forge_consensus")
    try:
        yield
    finally:
        logger.enable("forge_consensus")


def known_seeds() -> dict[str, int]:
    """The seeds that found each mutant when the table was written."""
    rows = (line.split() for line in KNOWN.read_text(encoding="utf-8").splitlines() if line.strip())
    return {name: int(seed) for name, seed in rows}


def write_known_seeds(found: dict[str, int]) -> None:
    """Note seeds, besides those of mutants that were not tried now."""
    kept = {name: seed for name, seed in known_seeds().items() if name in MUTANTS} if KNOWN.exists() else {}
    rows = {**kept, **found}
    width = max(map(len, rows))
    text = "".join(f"{name:<{width}} {rows[name]}\n" for name in MUTANTS if name in rows)
    KNOWN.write_text(text, encoding="utf-8")
