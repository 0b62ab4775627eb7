"""A quick refutation: times in which a key must have held one state, and calls that say otherwise."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from math import inf

from forge_consensus.testing.histories.models import ANY
from forge_consensus.testing.histories.search import Search


@dataclass(frozen=True, slots=True)
class Span:
    """Between these times the state was this one; the two calls, numbered in `Search.closed`, show it."""

    start: float
    end: float
    state: Hashable
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Why no order can exist: a sentence, and the calls with answers that show it."""

    text: str
    calls: tuple[int, ...]


def spans_of(search: Search) -> list[Span]:
    """All spans of a history, by their start.

    Take a state that is not the initial one and that one call alone can bring about: in every order it lasts in one
    piece, from that call to the last one that needs it. If one of these took effect before `start`, since it ended
    then, and another one after `end`, since it began then, it lasted all the time between. (Zones in Gibbons and
    Korach, "Testing shared memories", 1997; theirs are of reads and writes alone.)
    """
    supply = search.supply
    members: defaultdict[Hashable, list[int]] = defaultdict(list)
    for number, (need, made) in enumerate(zip(supply.needs, supply.makes, strict=False)):
        if number < search.head:
            for state in {need, made} - {ANY, supply.initial}:
                members[state].append(number)
    spans = []
    for state, calls in members.items():
        first = min(calls, key=search.ended.__getitem__)
        last = max(calls, key=search.began.__getitem__)
        if (
            search.ended[first] < search.began[last]
            and supply.makers[state] <= 1
            and not supply.wild(state, supply.initial)
        ):
            spans.append(Span(search.ended[first], search.began[last], state, first, last))
    return sorted(spans, key=lambda span: (span.start, span.end))


def contradiction(search: Search) -> Contradiction | None:
    """Something that cannot be in any order, if it is found without searching; to be asked before the search runs."""
    missing = [number for number, need in enumerate(search.supply.needs) if search.supply.lacking(need, search.state)]
    if missing:
        return Contradiction("no call could have brought about what these answers tell", tuple(missing))
    spans = spans_of(search)
    reach: Span | None = None
    for span in spans:
        if reach is not None and span.start < reach.end:
            text = "two values would have been there at one time: that of the first two calls and that of the last two"
            return Contradiction(text, (reach.first, reach.last, span.first, span.last))
        reach = span
    starts = [span.start for span in spans]
    for number in range(search.head):
        place = bisect_left(starts, search.began[number]) - 1
        if place >= 0 and search.ended[number] < spans[place].end < inf:
            span = spans[place]
            if search.model.step(span.state, search.closed[number]) != (True, span.state):
                text = "between the first call and the last one the value stayed, and yet there is the one between them"
                return Contradiction(text, (span.first, number, span.last))
    return None
