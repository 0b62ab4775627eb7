"""Log events of one turn: what is told of ranges that follow each other is told once, of the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from forge_consensus.events.types import LogAppended, LogCommitted

IDS_MAX: Final = 8
"""So many correlation ids one event tells, whatever it was joined from."""

LogRange = LogAppended | LogCommitted


def joined(earlier: LogRange, later: LogRange) -> LogRange:
    """One event for both ranges, of which the later begins where the earlier ends; both are of one type."""
    if not (earlier.correlation_ids or later.correlation_ids):
        return replace(earlier, last_index=later.last_index)
    ids = tuple(dict.fromkeys((*earlier.correlation_ids, *later.correlation_ids)))[:IDS_MAX]
    correlation_id = ids[0] if len(ids) == 1 else None
    return replace(earlier, last_index=later.last_index, correlation_ids=ids, correlation_id=correlation_id)
