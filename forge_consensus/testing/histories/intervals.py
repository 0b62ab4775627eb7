"""A quick refutation: intervals in which a key must have held one state, and calls that contradict them."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from math import inf

from forge_consensus.testing.histories.models import ANY
from forge_consensus.testing.histories.search import Search


@dataclass(frozen=True, slots=True)
class Interval:
    """A time in which the state was this one; the calls `first` and `last`, numbered in `Search.closed`, prove it."""

    start: float
    end: float
    state: Hashable
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Why no order of the calls can exist: a sentence, and the answered calls that prove it."""

    text: str
    calls: tuple[int, ...]


def intervals_of(search: Search) -> list[Interval]:
    """Return all intervals of a history, sorted by their start.

    Take a state that is not the initial one and that only one call can produce: in every order the state lasts in one
    piece, from that call to the last one that needs it. If one of these calls took effect before `start`, because it
    ended then, and another one after `end`, because it began then, the state lasted all the time between. (Zones in
    Gibbons and Korach, "Testing shared memories", 1997; theirs are of reads and writes only.)
    """
    remaining = search.remaining
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number, (need, made) in enumerate(zip(remaining.needs, remaining.makes, strict=False)):
        if number < search.head:
            for state in {need, made} - {ANY, remaining.initial}:
                members[state].append(number)
    intervals = []
    for state, calls in members.items():
        first = min(calls, key=search.ended.__getitem__)
        last = max(calls, key=search.began.__getitem__)
        if (
            search.ended[first] < search.began[last]
            and remaining.makers[state] <= 1
            and not remaining.may_be_reached(state, remaining.initial)
        ):
            intervals.append(Interval(search.ended[first], search.began[last], state, first, last))
    return sorted(intervals, key=lambda interval: (interval.start, interval.end))


def contradiction(search: Search) -> Contradiction | None:
    """Return a contradiction that is found without searching, None if there is none; call it before the search."""
    missing = [
        number for number, need in enumerate(search.remaining.needs) if search.remaining.lacking(need, search.state)
    ]
    if missing:
        return Contradiction("no call could have produced what these answers show", tuple(missing))
    intervals = intervals_of(search)
    reach: Interval | None = None
    for interval in intervals:
        if reach is not None and interval.start < reach.end:
            text = (
                "the key would have held two values at one time: that of the first two calls and that of the last two"
            )
            return Contradiction(text, (reach.first, reach.last, interval.first, interval.last))
        reach = interval
    starts = [interval.start for interval in intervals]
    for number in range(search.head):
        place = bisect_left(starts, search.began[number]) - 1
        if place >= 0 and search.ended[number] < intervals[place].end < inf:
            interval = intervals[place]
            if search.model.step(interval.state, search.closed[number]) != (True, interval.state):
                text = "the value lasted from the first call to the last one, but the call between them contradicts it"
                return Contradiction(text, (interval.first, number, interval.last))
    return None
