"""The shrinker: it finds a smaller plan that fails in the same way, so that its story can be understood."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.testing.simulator.conditions import Conditions
from forge_consensus.testing.simulator.plan import Plan
from forge_consensus.testing.simulator.trial import Failure, Trial, attempt

RUNS_MAX = 300
SECONDS_MAX = 60.0
BEYOND = 1.02
"""A run ends at this multiple of the time of its failure, because omitted faults may delay the failure."""

Run = Callable[[Plan], Trial]


class SpentError(Exception):
    """The limit of runs or of time is reached."""


@dataclass(slots=True)
class Shrunk:
    """The result: the first failing run, the smallest found, and the effort of the search."""

    first: Trial
    best: Trial
    runs: int = 0
    seconds: float = 0.0
    ended_early: bool = False
    options: str = ""
    """The options of the command that runs the whole seed again."""

    @property
    def failure(self) -> Failure:
        """The failure of the smallest run."""
        assert self.best.failure is not None
        return self.best.failure

    def text(self) -> str:
        """Return the story of the smallest run, and the sizes of the first run and this one."""
        early = ", then there were no more runs or no more time" if self.ended_early else ""
        return (
            f"{self.failure.story}\n\n"
            f"Shrunk from {size_text(self.first)} to {size_text(self.best)} "
            f"({self.runs} runs in {self.seconds:.1f} s{early}).\n"
            f"The whole run: python -m forge_consensus.testing.campaign --replay {self.first.plan.seed}{self.options}"
        )


def size_text(trial: Trial) -> str:
    """Return the size of a run in words."""
    plan = trial.plan
    return f"{plan.nodes} nodes, {plan.clients} clients, {trial.faults} faults and {trial.virtual_seconds:.1f} s"


@dataclass(slots=True)
class Shrinker:
    """Tries smaller plans, and keeps each that fails with the same kind of failure."""

    best: Trial
    run: Run = attempt
    runs_max: int = RUNS_MAX
    seconds_max: float = SECONDS_MAX
    clock: Callable[[], float] = time.monotonic
    runs: int = 0
    until: float = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self.until = self.clock() + self.seconds_max

    @property
    def failure(self) -> Failure:
        """The failure of the smallest run so far."""
        assert self.best.failure is not None
        return self.best.failure

    def fails(self, plan: Plan) -> bool:
        """Try a plan; if it fails in the same way, it is the best now. Raises `SpentError` at a limit."""
        if plan == self.best.plan:
            return False
        if self.runs >= self.runs_max or self.clock() >= self.until:
            raise SpentError
        self.runs += 1
        trial = self.run(plan)
        if trial.failure is None or trial.failure.kind != self.failure.kind:
            return False
        self.best = trial
        return True

    def change(self, **changes: Any) -> bool:
        """Try the best plan with these changes."""
        return self.fails(replace(self.best.plan, **changes))

    # --- what is tried -----------------------------------------------------------------------------------------------

    def everything(self) -> None:
        """Shorten the run, simplify its settings, leave out faults; repeat while that helps."""
        before: Plan | None = None
        while before != self.best.plan:
            before = self.best.plan
            self.shorter()
            self.simpler()
            self.fewer_faults()

    def shorter(self) -> None:
        """End the faults soon after the failure; a failure after their end may also need fewer of them."""
        plan = self.best.plan
        needed = math.ceil(self.failure.at / plan.pace * BEYOND * 1000) / 1000
        if needed < plan.seconds:
            self.change(seconds=needed)
        while self.failure.at > plan.seconds * plan.pace and self.change(seconds=round(plan.seconds / 2, 3)):
            plan = self.best.plan

    def fewer_faults(self) -> None:
        """Leave out strikes: all, whole kinds, then ever smaller parts of the rest (delta debugging)."""
        if not self.best.plan.faults or self.change(faults=False, skip=frozenset()):
            return
        for kind in sorted({one.kind for one in self.best.ordered}):
            self.keep([one.number for one in self.best.ordered if one.kind != kind])
        parts = 2
        while len(self.best.ordered) > 1:
            kept = [one.number for one in self.best.ordered]
            parts = min(parts, len(kept))
            if self.without_one_of(kept, parts):
                parts = max(parts - 1, 2)
            elif parts == len(kept):
                return
            else:
                parts *= 2

    def without_one_of(self, kept: Sequence[int], parts: int) -> bool:
        """Return whether one of `parts` equal parts of the strikes can be left out; the latest part is tried first."""
        return any(self.keep([one for one in kept if one not in part]) for part in split(kept, parts))

    def keep(self, kept: Sequence[int]) -> bool:
        """Try the best plan with these of its strikes only; return whether it still fails, and is the best one now."""
        drawn = range(1, self.failure.strikes + 1)
        return self.change(skip=self.best.plan.skip | frozenset(drawn).difference(kept))

    def simpler(self) -> None:
        """Try the defaults in place of the drawn settings, and fewer clients and nodes."""
        plan = self.best.plan
        self.change(pace=1.0)
        self.change(own_machine=False)
        self.change(lease_reads=False)
        if not self.change(storage=StorageSettings(), raft=RaftSettings()) and not self.change(
            storage=StorageSettings()
        ):
            self.change(raft=RaftSettings())
        self.usual()
        any(self.change(clients=clients) for clients in range(plan.clients))
        any(self.change(nodes=nodes) for nodes in range(1, plan.nodes))

    def usual(self) -> None:
        """Try the usual conditions in place of the unusual ones: all at once, then one by one."""
        usual = Conditions()
        if self.change(conditions=usual):
            return
        for slot in fields(usual):
            held = self.best.plan.conditions
            if getattr(held, slot.name) != getattr(usual, slot.name):
                self.change(conditions=replace(held, **{slot.name: getattr(usual, slot.name)}))
        for name in ("unequal", "wild"):
            for one in sorted(getattr(self.best.plan.conditions, name)):
                held = self.best.plan.conditions
                self.change(conditions=replace(held, **{name: getattr(held, name) - {one}}))


def split(items: Sequence[int], parts: int) -> Iterator[frozenset[int]]:
    """Yield `parts` parts of about equal size, the last first."""
    edges = [len(items) * number // parts for number in range(parts + 1)]
    for first, end in reversed(list(itertools.pairwise(edges))):
        yield frozenset(items[first:end])


def shrink(
    first: Trial | Plan,
    run: Run = attempt,
    *,
    runs_max: int = RUNS_MAX,
    seconds_max: float = SECONDS_MAX,
    options: str = "",
) -> Shrunk:
    """Shrink a failing run, or the failing run of a plan, within the given numbers of runs and seconds.

    Raises `ValueError` if it does not fail.
    """
    trial = run(first) if isinstance(first, Plan) else first
    if trial.failure is None:
        raise ValueError(f"seed {trial.plan.seed} does not fail: there is nothing to shrink")
    shrinker = Shrinker(trial, run, runs_max, seconds_max)
    began, early = time.monotonic(), False
    try:
        shrinker.everything()
    except SpentError:
        early = True
    return Shrunk(trial, shrinker.best, shrinker.runs, time.monotonic() - began, early, options)
