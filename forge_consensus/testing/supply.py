"""What the calls that are not placed yet need, make and compare with, counted for the search of the checker."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from enum import Enum

from forge_consensus.testing.history import Operation
from forge_consensus.testing.models import ANY, Insight, Model

STATES_MAX = 200
"""Where a state could become, or come of, more others than these, none of them is looked for."""


class Forgotten(Enum):
    """The state of which nobody will ask any more."""

    STATE = "whatever it is"


class Supply:
    """Calls are numbered through: first the `closed`, which have answers, then the `opened`, which have none."""

    def __init__(
        self, model: Model, closed: Sequence[Operation], opened: Sequence[Operation], insight: Insight | None
    ) -> None:
        self.model = model
        self.opened = opened
        self.insight = insight
        self.head = len(closed)
        self.initial = model.initial()
        self.used = 0
        """The placed calls of `opened` as bits."""
        calls = [*closed, *opened]
        nothing: list[Hashable] = [ANY] * len(calls)
        self.reads = [insight is not None and insight.reads(call) for call in closed]
        self.needs = [insight.needs(call) for call in closed] if insight else nothing
        self.names = [insight.alike(call) for call in calls] if insight else list(range(len(calls)))
        self.makes = [insight.makes(call) for call in calls] if insight else nothing
        self.compares = [insight.compares(call) for call in calls] if insight else nothing
        for number, read in enumerate(self.reads):
            if read:
                self.makes[number] = ANY
        self.sure = [True] * len(closed) + [
            insight is not None and insight.before(call, insight.makes(call)) is ANY for call in opened
        ]
        """Whether a call, if it happens, makes its state of whatever it finds."""
        self.loose = self.sure.count(False)
        """How many calls that are not placed have an effect that depends on what they find."""
        self.wanted = Counter(self.needs)
        """How many calls that are not placed need a state."""
        self.makers = Counter(made for made, sure in zip(self.makes, self.sure, strict=True) if sure)
        """How many calls that are not placed make a state of whatever they find."""
        self.askers = Counter(self.compares)
        """How many calls that are not placed tell a state from others."""
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for number, name in enumerate(self.names[len(closed) :]):
            groups[name].append(number)
        self.groups = list(groups.values())
        """Calls without an answer that do the same, the earliest first."""
        self.by_made: defaultdict[Hashable, list[list[int]]] = defaultdict(list)
        """The same, by the state that they make."""
        self.by_asked: defaultdict[Hashable, list[list[int]]] = defaultdict(list)
        """Those of them that do not make their state of every other, by the one that they compare with."""
        for group in self.groups:
            number = len(closed) + group[0]
            self.by_made[self.makes[number]].append(group)
            if not self.sure[number]:
                self.by_asked[self.compares[number]].append(group)

    def count(self, number: int, change: int) -> None:
        """Count a call in or out."""
        if self.sure[number]:
            self.makers[self.makes[number]] += change
        else:
            self.loose += change
        self.askers[self.compares[number]] += change
        if number < self.head:
            self.wanted[self.needs[number]] += change

    def stranded(self, state: Hashable, current: Hashable) -> bool:
        """Whether that state, or one that it could have become, is needed and cannot be brought about again.

        Whatever follows would have to do without.
        """
        if self.wanted[state] > 0 and self.lacking(state, current):
            return True
        return any(self.wanted[one] > 0 and not self.producible(one, current) for one in self.descendants(state)[0])

    def producible(self, state: Hashable, current: Hashable) -> bool:
        """Whether the state is there, or some of the calls that are not placed could make it; rather yes than no."""
        return self.makers[state] > 0 or state == current or self.insight is None or self.wild(state, current)

    def lacking(self, state: Hashable, current: Hashable) -> bool:
        """Whether nothing could bring about a state that is needed."""
        return state is not ANY and not self.producible(state, current)

    def wild(self, state: Hashable, current: Hashable) -> bool:
        """Whether calls without an answer that depend on the state before could lead to this one; rather yes than no.

        They are followed backwards, as many steps as there are of them.
        """
        if self.insight is None:
            return True
        seen = frontier = {state}
        for _ in range(self.loose):
            earlier: set[Hashable] = set()
            for one in frontier:
                for group in [*self.by_made.get(one, ()), *self.by_made.get(ANY, ())]:
                    if not self.used >> group[-1] & 1:
                        states = self.insight.before(self.opened[group[0]], one)
                        earlier.update(() if states is ANY else states)
            frontier = earlier - seen
            if not frontier:
                return False
            if any(self.makers[one] > 0 or one == current for one in frontier):
                return True
            seen = seen | frontier
            if len(seen) > STATES_MAX:
                return True
        return False

    def descendants(self, state: Hashable) -> tuple[list[Hashable], bool]:
        """States that calls without an answer could make of this one, and of this one alone; whether those are all."""
        seen = {state}
        found: list[Hashable] = []
        frontier = [state]
        for _ in range(self.loose):
            later = []
            for one in frontier:
                for group in [*self.by_asked.get(one, ()), *self.by_asked.get(ANY, ())]:
                    if not self.used >> group[-1] & 1:
                        _, then = self.model.step(one, self.opened[group[0]])
                        if then not in seen:
                            seen.add(then)
                            later.append(then)
            found += later
            frontier = later
            if not frontier or len(seen) > STATES_MAX:
                return found, not frontier
        return found, True

    def known_as(self, state: Hashable) -> Hashable:
        """The state, or one name for all that no call left can tell apart.

        Two states that are not the initial one, and with which no call left compares, nor with any that they could
        become: the same calls fit them, forever, and lead to equal states or again to two such.
        """
        if self.insight is None or state == self.initial or self.askers[state] > 0:
            return state
        descendants, all_of_them = self.descendants(state)
        if not all_of_them or any(self.askers[one] > 0 for one in descendants):
            return state
        return Forgotten.STATE
