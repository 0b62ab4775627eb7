"""Retelling: pages of the journal for who was not listening, or listens to some kinds of event only."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Final

from forge_consensus.actors.messages import EventPage, ReadEvents
from forge_consensus.events.encoding import kind_of
from forge_consensus.storage.ledger.ledger import Ledger

ROWS_MAX: Final = 1000
"""Events in one page."""
KINDS_MAX: Final = 64
KIND_CHARS_MAX: Final = 200


def page_of(asked: ReadEvents, ledger: Ledger, events_address: str) -> EventPage:
    """The page of the journal that was asked for; bounded in events, bytes and rows looked at."""
    limit = min(asked.limit, ROWS_MAX)
    if asked.kinds:
        page = ledger.journal.read(asked.since, limit, matcher(asked.kinds[:KINDS_MAX]))
    else:
        page = ledger.journal.read(asked.since, limit)
    identity = ledger.identity
    return EventPage(
        identity.node_id,
        identity.cluster_id,
        identity.incarnation,
        identity.boot,
        events_address,
        page.first,
        page.next,
        page.end,
        tuple(page.rows),
        tuple(page.gaps),
    )


def matcher(kinds: tuple[str, ...]) -> Callable[[bytes], bool]:
    """Whether an encoded event is of one of these kinds, which may be patterns as in a shell."""
    patterns = [kind[:KIND_CHARS_MAX] for kind in kinds]
    known: dict[str, bool] = {}

    def wanted(data: bytes) -> bool:
        kind = kind_of(data)
        answer = known.get(kind)
        if answer is None:
            answer = known[kind] = any(fnmatchcase(kind, pattern) for pattern in patterns)
        return answer

    return wanted
