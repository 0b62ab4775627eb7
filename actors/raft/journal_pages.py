"""Journal pages: past events for subscribers that were disconnected, or that want only some kinds of event."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final

from forge_consensus.actors.messages import EventPage, ReadEvents
from forge_consensus.events.encoding import kind_of
from forge_consensus.events.types import LogAppended, LogCommitted
from forge_consensus.storage.ledger.ledger import Ledger

ROWS_MAX: Final = 1000
"""The greatest number of events in one page."""
KINDS_MAX: Final = 64
"""The greatest number of patterns of a request that are used, each up to `KIND_CHARS_MAX` characters."""
KIND_CHARS_MAX: Final = 200
FREQUENT: Final = (LogAppended.kind, LogCommitted.kind)
"""The kinds of events that each write makes."""


def page_of(asked: ReadEvents, ledger: Ledger, events_address: str) -> EventPage:
    """The requested page of the journal; it is bounded in events, bytes and rows read.

    `events_address` is where this node publishes events in this boot.
    """
    limit = min(asked.limit, ROWS_MAX)
    if asked.kinds:
        patterns = asked.kinds[:KINDS_MAX]
        frequent = any(fnmatchcase(kind, pattern[:KIND_CHARS_MAX]) for kind in FREQUENT for pattern in patterns)
        page = ledger.journal.read(asked.since, limit, matcher(patterns), frequent=frequent)
    else:
        page = ledger.journal.read(asked.since, limit)
    identity = ledger.identity
    return EventPage(
        node=identity.node_id,
        cluster=identity.cluster_id,
        incarnation=identity.incarnation,
        boot=identity.boot,
        events_address=events_address,
        first=page.first,
        next=page.next,
        end=page.end,
        rows=tuple(page.rows),
        gaps=tuple(page.gaps),
    )


def matcher(kinds: tuple[str, ...]) -> Callable[[bytes], bool]:
    """A function that says whether an encoded event is of one of these kinds; they may be patterns as in a shell."""
    patterns = [kind[:KIND_CHARS_MAX] for kind in kinds]
    known: dict[str, bool] = {}

    def wanted(data: bytes) -> bool:
        kind = kind_of(data)
        answer = known.get(kind)
        if answer is None:
            answer = known[kind] = any(fnmatchcase(kind, pattern) for pattern in patterns)
        return answer

    return wanted
