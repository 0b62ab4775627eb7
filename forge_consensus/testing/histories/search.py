"""The search of the linearizability checker: it places the calls of one key in an order that explains every answer.

It is Wing and Gong's search with Lowe's memory ("Testing for linearizability", 2016), as in porcupine: place a call
that may come first, remember which (calls placed, state) led nowhere, step back. The additions make it fast enough for
Python and change no answer; the docstring of the function that holds a rule proves it:

- an unanswered call is placed only right before a call that it matters to: `Search.moves`
- what led nowhere leads nowhere with fewer calls left to choose from: `Search.new`
- states that no remaining call can tell apart are one: `RemainingCalls.canonical`
- a call that changes nothing is placed at once: `Search.settle`
- of calls that do the same only the most urgent is tried: `Search.candidates`
- a state that an answer still needs is never left for good: `RemainingCalls.stranded`

The last four need the `Insight` of the model; a model without insight is searched without them.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import inf

from forge_consensus.testing.histories.history import Operation
from forge_consensus.testing.histories.models import ANY, Insight, Model
from forge_consensus.testing.histories.remaining import RemainingCalls


class OutOfTimeError(Exception):
    """The search did not finish before its deadline."""


@dataclass(frozen=True, slots=True)
class Move:
    """Unanswered calls, by number, and the answered call that they make possible."""

    opened: tuple[int, ...]
    closed: int


class Search:
    """The search over the calls of one key.

    `closed` are the calls with answers, `opened` those without, both sorted by their beginning.
    """

    def __init__(
        self,
        model: Model,
        closed: Sequence[Operation],
        opened: Sequence[Operation],
        *,
        insight: Insight | None = None,
        deadline: float = inf,
    ) -> None:
        self.model = model
        self.closed = closed
        self.opened = opened
        self.insight = insight
        self.deadline = deadline
        self.remaining = RemainingCalls(model, closed, opened, insight)
        self.steps = 0
        self.began = [operation.began for operation in closed]
        self.ended = [inf if operation.ended is None else operation.ended for operation in closed]
        # the remaining calls as a linked list, which a call leaves and enters again in constant time
        self.head = len(closed)
        self.after = [*range(1, self.head + 1), 0]
        self.before = [self.head, *range(self.head)]
        self.state = model.initial()
        self.placed = 0
        """The placed calls of `closed`, as bits."""
        self.trail: list[tuple[bool, int, Hashable]] = []
        """The placed calls, in order: whether the call is of `closed`, its number, the state before it."""
        self.seen: defaultdict[tuple[int, Hashable], list[int]] = defaultdict(list)
        self.best: list[tuple[bool, int, Hashable]] = []
        """The longest trail that led nowhere."""
        self.stuck: list[int] = []
        """The calls of `closed` of which one had to come next after that trail."""

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> bool:
        """Return whether there is an order. Raises `OutOfTimeError` if the deadline came first."""
        self.settle()
        frames = [(0, self.moves())]
        while self.after[self.head] != self.head:
            mark, moves = frames[-1]
            move = next(moves, None)
            if move is None:
                self.fail()
                frames.pop()
                if not frames:
                    return False
                self.undo(mark)
                continue
            mark = len(self.trail)
            if self.made(move) and self.new():
                frames.append((mark, self.moves()))
            elif self.after[self.head] != self.head:
                self.undo(mark)
        return True

    def fail(self) -> None:
        """Remember the present trail, if none was longer."""
        if len(self.trail) > len(self.best) or not self.stuck:
            self.best = list(self.trail)
            self.stuck = self.first()

    def tick(self) -> None:
        """Check the deadline now and then. Raises `OutOfTimeError`."""
        self.steps += 1
        if self.steps % 256 == 0 and time.monotonic() > self.deadline:
            raise OutOfTimeError

    # --- placing and taking back -------------------------------------------------------------------------------------

    def place(self, number: int, state: Hashable) -> None:
        """Make an answered call the next of the order, which leaves this state; `undo` takes it back."""
        before, after = self.before[number], self.after[number]
        self.after[before], self.before[after] = after, before
        self.trail.append((True, number, self.state))
        self.placed |= 1 << number
        self.remaining.count(number, -1)
        self.state = state

    def use(self, number: int, state: Hashable) -> None:
        """Let a call without an answer take effect here, which leaves this state; `undo` takes it back."""
        self.trail.append((False, number, self.state))
        self.remaining.used |= 1 << number
        self.remaining.count(self.head + number, -1)
        self.state = state

    def undo(self, mark: int) -> None:
        """Remove the calls that were placed since the trail had this length."""
        while len(self.trail) > mark:
            closed, number, self.state = self.trail.pop()
            if closed:
                self.after[self.before[number]] = self.before[self.after[number]] = number
                self.placed ^= 1 << number
                self.remaining.count(number, 1)
            else:
                self.remaining.used ^= 1 << number
                self.remaining.count(self.head + number, 1)

    def made(self, move: Move) -> bool:
        """Make a move and settle; return False if it leaves a state for good that is still needed."""
        self.tick()
        passed = []
        for number in move.opened:
            passed.append(self.state)
            self.use(number, self.model.step(self.state, self.opened[number])[1])
        passed.append(self.state)
        self.place(move.closed, self.model.step(self.state, self.closed[move.closed])[1])
        if any(self.remaining.stranded(state, self.state) for state in passed):
            return False
        self.settle()
        return True

    # --- what may come next ------------------------------------------------------------------------------------------

    def first(self) -> list[int]:
        """Return the calls that may come next: they began before any other remaining call ended."""
        found = []
        limit = inf
        number = self.after[self.head]
        while number != self.head and self.began[number] <= limit:
            found.append(number)
            limit = min(limit, self.ended[number])
            number = self.after[number]
        return found

    def settle(self) -> None:
        """Place every call that may come next, fits the state and changes nothing.

        No order is lost: in any order that continues from here, such a call stands somewhere. Moved to the front it
        fits, because the state is the same; the calls that it passed see the states that they saw; and it began before
        any of them ended.
        """
        limit = inf
        number = self.after[self.head]
        while number != self.head and self.began[number] <= limit:
            if self.remaining.reads[number] and self.model.step(self.state, self.closed[number])[0]:
                self.place(number, self.state)
            else:
                limit = min(limit, self.ended[number])
            number = self.after[number]

    def new(self) -> bool:
        """Return whether it is worth continuing from here, and remember the place.

        It is not if the same answered calls were placed before, leading to the same state, with no unanswered calls
        used except some of those used now. That way failed, although every way from here was open to it: a place is met
        twice only after all ways from it failed, because each move places one more answered call.
        """
        if self.after[self.head] == self.head:
            return False
        visits = self.seen[self.placed, self.remaining.canonical(self.state)]
        if any(not used & ~self.remaining.used for used in visits):
            return False
        visits.append(self.remaining.used)
        return True

    def candidates(self) -> list[int]:
        """Return the calls that may come next, the most urgent first, one of those that are alike.

        Of two calls that are alike, the one that has to end earlier may be taken. In an order that takes the other,
        exchange the two: both began before any other remaining call ended, and the later place came before the end of
        the one that moves to the front, thus before that of the other.
        """
        found: dict[Hashable, int] = {}
        for number in sorted(self.first(), key=self.ended.__getitem__):
            found.setdefault(self.remaining.names[number], number)
        return list(found.values())

    # --- calls without an answer -------------------------------------------------------------------------------------

    def moves(self) -> Iterator[Move]:
        """Yield the possible moves; first those without unanswered calls.

        Unanswered calls are tried only right before an answered call, and only if that one does not fit without them or
        leads elsewhere. For take an order with as few of them as possible. A sequence of them before a call that fits
        and leads to the same state without them can be left out, because no answer depends on them; so can a sequence
        at the end, and a part that returns to a state. And one of several calls that are alike is enough: the one that
        began first may stand wherever another stands.
        """
        candidates = self.candidates()
        limit = min((self.ended[number] for number in candidates), default=inf)
        direct = {number: self.model.step(self.state, self.closed[number]) for number in candidates}
        for number, (fits, _) in direct.items():
            if fits:
                yield Move((), number)
        undecided = {}
        for number, (fits, after) in direct.items():
            if self.remaining.needs[number] is not ANY:
                if not fits:
                    yield from (Move(opened, number) for opened in self.ways_to(self.remaining.needs[number], limit))
            elif not fits or self.remaining.makes[number] is ANY:
                undecided[number] = after if fits else ANY
        yield from self.ways_from(undecided, limit)

    def usable(self, group: list[int], used: int, limit: float) -> int | None:
        """Return the first unused call of a group, if it began in time; a group is used from its front."""
        self.tick()
        place = bisect_left(group, True, key=lambda number: not used >> number & 1)
        if place == len(group) or self.opened[group[place]].began > limit:
            return None
        return group[place]

    def ways_to(self, goal: Hashable, limit: float) -> Iterator[tuple[int, ...]]:
        """Yield sequences of unanswered calls that lead from the present state to the goal, shortest first.

        They are found backwards from the goal. A sequence that passes a state from which fewer of its calls lead to the
        goal is left out, because what follows needs only the goal, and more calls are left for it.
        """
        if self.insight is None:
            return
        reached = defaultdict(list, {goal: [self.remaining.used]})
        ways: list[tuple[tuple[int, ...], int, Hashable]] = [((), self.remaining.used, goal)]
        for path, used, state in ways:  # grows while it is read
            for group in [*self.remaining.by_made.get(state, ()), *self.remaining.by_made.get(ANY, ())]:
                number = self.usable(group, used, limit)
                if number is None:
                    continue
                total = used | 1 << number
                earlier = self.insight.before(self.opened[number], state)
                if earlier is ANY or self.state in earlier:
                    yield (number, *path)
                    continue
                for one in earlier:
                    if any(not part & ~total for part in reached[one]):
                        continue
                    if self.remaining.within_reach(one, self.state):
                        reached[one].append(total)
                        ways.append(((number, *path), total, one))

    def ways_from(self, undecided: dict[int, Hashable], limit: float) -> Iterator[Move]:
        """Yield sequences of unanswered calls after which one of these calls fits, shortest first, found forwards.

        With each call comes the state that it leads to from here, ANY if it does not fit. A sequence that leads to a
        state that a part of its calls led to is left out, as in `ways_to`, and no sequence continues where all of these
        calls fit that lead to one state.
        """
        reached = defaultdict(list, {self.state: [self.remaining.used]})
        ways: list[tuple[tuple[int, ...], int, Hashable]] = [((), self.remaining.used, self.state)] if undecided else []
        for path, used, state in ways:  # grows while it is read
            for group in self.remaining.groups:
                number = self.usable(group, used, limit)
                if number is None:
                    continue
                total = used | 1 << number
                _, then = self.model.step(state, self.opened[number])
                if then == state or any(not part & ~total for part in reached[then]):
                    continue
                reached[then].append(total)
                found = {call: self.model.step(then, self.closed[call]) for call in undecided}
                for call, (fits, after) in found.items():
                    if fits and after != undecided[call]:
                        yield Move((*path, number), call)
                if any(
                    not fits or self.remaining.makes[call] is ANY is self.remaining.needs[call]
                    for call, (fits, _) in found.items()
                ):
                    ways.append(((*path, number), total, then))
