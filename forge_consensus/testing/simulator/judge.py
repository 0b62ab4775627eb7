"""The judge of clients' calls: some errors are found at once, the history is checked at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.actors.messages import NEVER_MS
from forge_consensus.storage.machines.machine import COMMAND_FAILED
from forge_consensus.testing.histories.history import History, Operation, Outcome
from forge_consensus.testing.histories.linearizability import REGISTER, check
from forge_consensus.testing.rules.violations import ViolationError, demand
from forge_consensus.testing.simulator.workload import KeyValueWorkload, Workload

CLOCK_ERROR_MAX = 0.1
"""The rates of two hosts' clocks differ by less than this share."""
AGE_SLACK_SECONDS = 0.002
"""An age is told in whole milliseconds."""
CHECK_SECONDS_MAX = 120.0
"""A history that takes longer to check is too hard, which is an error of the workload."""


@dataclass(slots=True)
class Counter:
    """The answers that clients got about a key that is only incremented, always by 1."""

    invoked: int = 0
    acknowledged: int = 0
    refused: int = 0
    """The number of increments that are certain not to have taken effect."""
    values: dict[int, Operation] = field(default_factory=dict)
    seen: int = 0
    """The highest value in any answer so far; a call that begins now must not see less."""
    mixed: bool = False
    """Whether another command changed the key, so that these numbers prove nothing."""


class Judge:
    """Records all calls and judges them.

    At once, for keys that are only counted: each increment takes effect once and in the order of time, and reads see
    everything that was acknowledged. At the end, by `conclude`: the whole history is linearizable, which proves more
    and takes longer. With the final reads that `audit.Audit` adds, this also proves that nothing acknowledged is lost.
    """

    def __init__(self, workload: Workload | None = None) -> None:
        self.workload = workload or KeyValueWorkload()
        self.history = History()
        self.counts = self.workload.model is REGISTER
        self.counters: defaultdict[str, Counter] = defaultdict(Counter)
        self.floors: dict[Operation, int] = {}
        """For each call without an answer: the highest value of its counter that was seen when it began."""
        self.advice = ""
        """Appended to violations of counters and to failed calls."""
        self.entry_of: Callable[[tuple[int, int]], str] = lambda label: ""
        """Names the entry of a session's command, if some machine has applied it."""
        self.committed_at: Callable[[float], int] = lambda moment: 0
        """Returns the commit index of the cluster at a moment, which every node's stale reads are measured by."""
        self.clock_error: Callable[[], float] = lambda: 0.0
        """Returns by how many seconds ages may be wrong because simulated clocks are, see `ClockErrors`."""
        self.turned_away: list[tuple[Operation, float]] = []
        self.answers = 0

    # --- at once -----------------------------------------------------------------------------------------------------

    def invoked(self, operation: Operation) -> None:
        """Record a call that begins."""
        self.history.begin(operation)
        if not self.counts:
            return
        counter = self.counters[operation.key]
        if operation.kind == "increment" and operation.argument == 1:
            counter.invoked += 1
        elif operation.kind != "get":
            counter.mixed = True
        if not counter.mixed:
            self.floors[operation] = counter.seen

    def answered(self, operation: Operation) -> None:
        """Record an answer. Raises `ViolationError` if it contradicts what was seen of a counter."""
        self.answers += 1
        floor = self.floors.pop(operation, None)
        counter = self.counters[operation.key] if self.counts else None
        if floor is None or counter is None or counter.mixed:
            return
        value = self.number_in(operation)
        if value > counter.invoked:
            raise self.wrong("I14", f"{call_text(operation)} got {value}, only {counter.invoked} were asked for")
        if operation.consistency == "stale":
            return
        if operation.kind == "get":
            if value < floor:
                raise self.wrong("I13", f"{call_text(operation)} saw {value}, {floor} was known before")
        else:
            if value <= floor:
                raise self.wrong("I15", f"{call_text(operation)} made {value}, {floor} was known before")
            other = counter.values.setdefault(value, operation)
            if other is not operation:
                both = f"{call_text(operation)} and {other.client}'s of {other.began:.6f}"
                raise self.wrong("I14", f"{both} both made {value}")
            counter.acknowledged += 1
        counter.seen = max(counter.seen, value)

    def told_age(self, operation: Operation, applied: int, stale_ms: int) -> None:
        """Check that a stale read covers what was committed `stale_ms` before it began. Raises `ViolationError`."""
        if stale_ms >= NEVER_MS:
            return
        moment = operation.began - stale_ms / 1000 * (1 + CLOCK_ERROR_MAX) - AGE_SLACK_SECONDS - self.clock_error()
        known = self.committed_at(moment)
        demand(
            applied >= known,
            "stale",
            f"{call_text(operation)} was answered as of entry {applied}, at most {stale_ms} ms old, but entry {known} "
            f"was committed by {moment:.6f}",
        )

    def number_in(self, operation: Operation) -> int:
        """Return the count in an answer; None counts as 0. Raises `ViolationError` for anything but a number."""
        value = operation.result
        if value is None or isinstance(value, int):
            return value or 0
        raise self.wrong("I14", f"{call_text(operation)} got {value!r}, which is no count")

    def wrong(self, number: str, text: str) -> ViolationError:
        """Return a violation with the advice."""
        return ViolationError(f"{number}: {text}{self.advice}")

    def failed(self, operation: Operation, code: str, reason: Any, label: tuple[int, int] = (0, 0)) -> None:
        """Record a call that the machine refused, which the workload may allow, or the session, which never may happen.

        `label` is the session and the number of a command. Raises `ViolationError`.
        """
        self.floors.pop(operation, None)
        who = f"{operation.client}'s {operation.kind} of {operation.key!r}"
        if code != COMMAND_FAILED:
            raise ViolationError(f"I14: {who} failed with {code}: {reason}")
        if not self.workload.may_fail:
            kind, text = reason
            entry = self.entry_of(label) if label[0] else ""
            raise self.wrong(
                "I14",
                f"{who} failed with {code}: the machine raised {kind}: {text}{f' for {entry}' if entry else ''}. The "
                "workload does not allow that a command or a query fails: may_fail = True in its class does",
            )
        operation.outcome, operation.result = Outcome.REFUSED, reason

    def refused(self, operation: Operation, moment: float) -> None:
        """Record a call whose every attempt was refused; this is proof only if the network copied no frames."""
        self.floors.pop(operation, None)
        self.turned_away.append((operation, moment))

    # --- at the end --------------------------------------------------------------------------------------------------

    def settle(self, *, copies: bool) -> None:
        """Call it when no frame is under way: without copies of frames, refused calls did not take effect."""
        for operation, moment in self.turned_away if not copies else ():
            operation.outcome, operation.ended = Outcome.REFUSED, moment
            if self.counts and operation.kind == "increment":
                self.counters[operation.key].refused += 1
        self.turned_away.clear()

    def final(self, operation: Operation) -> None:
        """Check a node's answer about a key at the very end. Raises `ViolationError` if a counter is wrong."""
        counter = self.counters[operation.key] if self.counts else None
        if counter is None or counter.mixed:
            return
        value, key = self.number_in(operation), operation.key
        least = max(counter.seen, counter.acknowledged)
        most = counter.invoked - counter.refused
        if value < least:
            raise self.wrong("I15", f"{key!r} ends at {value} on {operation.client}, {least} was acknowledged")
        if value > most:
            raise self.wrong("I14", f"{key!r} ends at {value} on {operation.client}, only {most} were asked for")

    def conclude(self) -> None:
        """Check the whole history. Raises `ViolationError`, also if the check takes too long."""
        model = self.workload.model
        if model is None:
            return
        judged = [operation for operation in self.history if operation.consistency != "stale"]
        verdict = check(judged, model, seconds=CHECK_SECONDS_MAX)
        demand(verdict.linearizable is not False, "linearizability", verdict.text + self.advice)
        demand(
            verdict.linearizable is True,
            "linearizability",
            f"undecided after {CHECK_SECONDS_MAX} s, at key {verdict.key!r}: give the workload more keys, so that "
            "each is used less often",
        )


def call_text(operation: Operation) -> str:
    """Return a call as a violation describes it."""
    return f"{operation.client}'s {operation.kind} of {operation.key!r}, begun at {operation.began:.6f},"
