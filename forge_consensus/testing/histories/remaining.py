"""The calls that are not placed yet: how many need, make or compare with each state, counted for the search."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from enum import Enum

from forge_consensus.testing.histories.history import Operation
from forge_consensus.testing.histories.models import ANY, Insight, Model


class Forgotten(Enum):
    """The placeholder for all states that no remaining call can tell apart."""

    STATE = "whatever it is"


class Tally:
    """The number of calls for each state, with the numbers among the states in sorted order."""

    def __init__(self, states: Iterable[Hashable]) -> None:
        self.counts = Counter(states)
        self.numbers = sorted(state for state in self.counts if type(state) is int)

    def __getitem__(self, state: Hashable) -> int:
        """Return the number of calls for a state."""
        return self.counts[state]

    def add(self, state: Hashable, change: int) -> None:
        """Change the number of calls for a state."""
        before = self.counts[state]
        self.counts[state] = now = before + change
        if type(state) is int and (before > 0) != (now > 0):
            if now > 0:
                insort(self.numbers, state)
            else:
                del self.numbers[bisect_left(self.numbers, state)]

    def between(self, low: int, high: int) -> list[int]:
        """Return the numbers in a range, both ends included."""
        return self.numbers[bisect_left(self.numbers, low) : bisect_right(self.numbers, high)]


class RemainingCalls:
    """The states that the calls not placed yet need, make and compare with.

    Calls are numbered: first the `closed` ones, which have answers, then the `opened` ones, which have none.
    """

    def __init__(
        self, model: Model, closed: Sequence[Operation], opened: Sequence[Operation], insight: Insight | None
    ) -> None:
        self.model = model
        self.opened = opened
        self.insight = insight
        self.head = len(closed)
        self.initial = model.initial()
        self.used = 0
        """The placed calls of `opened`, as bits."""
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
        """Whether a call, if it takes effect, produces its state from whatever state it finds."""
        added = [insight.adds(call) if insight else None for call in opened]
        self.added = [*[0] * len(closed), *(0 if amount is None else amount for amount in added)]
        """The amount that each unanswered call adds to a number."""
        self.up = sum(amount for amount in self.added if amount > 0)
        """The sum of the positive amounts that remain."""
        self.down = -sum(amount for amount in self.added if amount < 0)
        self.lookahead_off = insight is None or any(
            amount is None and made is ANY for amount, made in zip(added, self.makes[len(closed) :], strict=True)
        )
        """Whether some calls may lead to any state, so that looking ahead proves nothing."""
        self.needed = Tally(self.needs)
        """The number of remaining calls that need a state."""
        self.makers = Tally(made for made, sure in zip(self.makes, self.sure, strict=True) if sure)
        """The number of remaining calls that produce a state from whatever state they find."""
        self.offers = Tally(
            made for made, sure in zip(self.makes[self.head :], self.sure[self.head :], strict=True) if sure
        )
        """The number of these that have no answer."""
        self.comparers = Tally(self.compares)
        """The number of remaining calls that compare with a state."""
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for number, name in enumerate(self.names[len(closed) :]):
            groups[name].append(number)
        self.groups = list(groups.values())
        """The unanswered calls in groups that do the same, the earliest first."""
        self.by_made: defaultdict[Hashable, list[list[int]]] = defaultdict(list)
        """The groups by the state that they produce."""
        self.unsure: list[list[int]] = []
        """The groups that produce their state from one other state only."""
        for group in self.groups:
            number = len(closed) + group[0]
            self.by_made[self.makes[number]].append(group)
            if not self.sure[number] and self.makes[number] is not ANY:
                self.unsure.append(group)

    def count(self, number: int, change: int) -> None:
        """Add a call to the counts, or remove it."""
        if self.sure[number]:
            self.makers.add(self.makes[number], change)
            if number >= self.head:
                self.offers.add(self.makes[number], change)
        elif (added := self.added[number]) > 0:
            self.up += change * added
        else:
            self.down -= change * added
        self.comparers.add(self.compares[number], change)
        if number < self.head:
            self.needed.add(self.needs[number], change)

    def reach(self, state: Hashable, up: int, down: int) -> tuple[int, int]:
        """Return the range of numbers that a state can become if at most `up` is added and `down` subtracted."""
        if not up and not down:
            return 1, 0
        if state == self.initial:
            return -down, up
        return (state - down, state + up) if type(state) is int else (1, 0)

    def within_reach(self, state: Hashable, current: Hashable) -> bool:
        """Return whether unanswered calls alone might lead from the current state to another; True in doubt."""
        if type(state) is not int or self.lookahead_off:
            return True
        low, high = self.reach(state, self.down, self.up)
        if self.offers.between(low, high) or (type(current) is int and low <= current <= high):
            return True
        if any(type(self.makes[self.head + group[0]]) is int for group in self.unsure):
            return True
        return low <= 0 <= high and (current == self.initial or self.offers[self.initial] > 0)

    def stranded(self, state: Hashable, current: Hashable) -> bool:
        """Return whether `state`, or one that it could have become, is still needed and cannot be produced again.

        Then no order can continue from here.
        """
        if self.lookahead_off:
            return False
        if self.needed[state] > 0 and self.lacking(state, current):
            return True
        low, high = self.reach(state, self.up, self.down)
        heirs: list[Hashable] = [*self.needed.between(low, high)]
        for group in self.unsure:
            if not self.used >> group[-1] & 1 and self.compares[self.head + group[0]] == state:
                heirs.append(self.makes[self.head + group[0]])
        return any(self.needed[one] > 0 and self.lacking(one, current) for one in heirs)

    def lacking(self, state: Hashable, current: Hashable) -> bool:
        """Return whether no remaining call could produce a state that is needed."""
        return state is not ANY and not self.producible(state, current)

    def producible(self, state: Hashable, current: Hashable) -> bool:
        """Return whether the state is the current one or some remaining call could produce it; True in doubt."""
        return self.makers[state] > 0 or state == current or self.may_be_reached(state, current)

    def may_be_reached(self, state: Hashable, current: Hashable) -> bool:
        """Return whether unanswered calls that depend on the state that they find could lead to it; True in doubt."""
        if self.lookahead_off or self.insight is None:
            return True
        seen = {state}
        ways = [state]
        for one in ways:  # grows while it is read
            low, high = self.reach(one, self.down, self.up)
            if self.makers.between(low, high) or (type(current) is int and low <= current <= high):
                return True
            origins: list[Hashable] = [self.initial] if low <= 0 <= high else []
            for group in self.unsure:
                made = self.makes[self.head + group[0]]
                if not self.used >> group[-1] & 1 and (made == one or (type(made) is int and low <= made <= high)):
                    found = self.insight.before(self.opened[group[0]], made)
                    origins.extend(() if found is ANY else found)
            if any(self.makers[origin] > 0 or origin == current for origin in origins):
                return True
            ways.extend(origin for origin in dict.fromkeys(origins) if origin not in seen)
            seen.update(origins)
        return False

    def canonical(self, state: Hashable) -> Hashable:
        """Return the state, or one placeholder for all states that no remaining call can tell apart.

        Take two states that are not the initial one, and with which no remaining call compares, nor with any state that
        they could become. The same calls fit both, and lead to equal states or again to two such states.
        """
        if self.lookahead_off or state == self.initial or self.comparers[state] > 0:
            return state
        return state if self.comparers.between(*self.reach(state, self.up, self.down)) else Forgotten.STATE
