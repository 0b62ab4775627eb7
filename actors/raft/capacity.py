"""The capacity: which commands and queries a leader takes, so that what it has taken is answered in time.

What waits for longer than its client does is work for nobody, and holds up everything behind it. So a leader takes as
much as the state machine, at its present pace, does within `raft.backlog_seconds_max`, and answers the rest with busy.
Something is always taken if nothing waits, however long it may take.
"""

from __future__ import annotations

from typing import Final

from forge_consensus.actors.raft.waiting import WaitingRequests
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.config.raft import RaftSettings
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.pace import Pace

FOR_OTHERS: Final = 8
"""This part of the room is for clients of which nothing waits: one that always has more to send would take all of it,
and the others would be busy for ever."""


class Capacity:
    """Says how much may be taken, and why not more."""

    def __init__(self, ledger: Ledger, waiting: WaitingRequests, settings: RaftSettings) -> None:
        self.ledger = ledger
        self.waiting = waiting
        self.settings = settings
        self.query_pace = Pace()

    def commands(self, asker: SenderAddress, count: int) -> tuple[int, str]:
        """How many of so many commands of a client may be proposed now, and why not all."""
        settings, ledger = self.settings, self.ledger
        waits = self.waiting.outstanding.get(asker.connection, 0)
        backlog = ledger.log.last - ledger.applied
        pace = ledger.applier.pace
        most = settings.backlog_entries_max
        if pace.each:
            most = min(most, int(settings.backlog_seconds_max / pace.each))
        if waits:
            most -= most // FOR_OTHERS
        room = most - backlog
        if not backlog:
            room = max(room, 1)
        own = max(0, settings.outstanding_max - waits)
        if own < count and own <= room:
            return own, f"more than {settings.outstanding_max} commands of this client would wait"
        if room >= count:
            return count, ""
        text = f"{backlog} entries wait for the state machine, about {pace.seconds(backlog):.2f} s of work"
        return max(0, room), f"{text}: try again in a moment"

    def queries(self, asker: SenderAddress, count: int) -> str:
        """Why so many queries of a client may not be taken now; empty if they may."""
        waiting, settings = self.waiting, self.settings
        own = waiting.waiting_queries(asker.connection)
        if own and own + count > settings.outstanding_max:
            return f"{own} queries of this client wait: at most {settings.outstanding_max} may"
        others = max(0, waiting.queries - waiting.kept)
        seconds = self.query_pace.seconds(others + count)
        if others and seconds > settings.backlog_seconds_max:
            return f"{others} queries wait, about {seconds:.2f} s of work: try again in a moment"
        return ""
