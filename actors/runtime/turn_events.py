"""The events of a turn: held until the turn is committed, then published, added to the journal and forwarded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from forge_consensus.actors.runtime.clock import Clock
from forge_consensus.config.raft import RaftSettings
from forge_consensus.events.bus import EventBus
from forge_consensus.events.encoding import to_msgpack
from forge_consensus.events.types import AuditRecorded, ConsensusEvent, LogAppended, LogCommitted, joined, stamp
from forge_consensus.storage.ledger.ledger import Ledger

FREQUENT: Final = (LogAppended, LogCommitted)
"""The events of ordinary work: they are joined within a turn, and the journal keeps fewer of them."""


class TurnEvents:
    """The events of this turn, in the order in which actors published them."""

    def __init__(self, ledger: Ledger, clock: Clock, bus: EventBus, settings: RaftSettings) -> None:
        self.ledger = ledger
        self.clock = clock
        self.bus = bus
        self.settings = settings
        self.held: list[tuple[ConsensusEvent, int]] = []
        """(event, the term in which it happened)."""
        self.forward: Callable[[ConsensusEvent, bytes], None] | None = None
        """Set by a base while a subscriber in another process is connected: called with each event and its encoding."""
        self.write_audit: Callable[[AuditRecorded], None] | None = None
        """Set by a node with an audit file: writes each record there before anybody gets the event."""

    def hold(self, event: ConsensusEvent) -> None:
        """Hold an event until the turn is committed; it gets the term of this moment.

        Entries appended, or committed, in several steps of a turn become one event with the whole range.
        """
        term = self.ledger.term
        if isinstance(event, FREQUENT):
            for place, (earlier, of_term) in reversed(list(enumerate(self.held))):
                if not isinstance(earlier, FREQUENT):
                    break
                if type(earlier) is type(event):
                    if of_term == term and earlier.last_index + 1 == event.first_index:
                        del self.held[place]
                        # An append goes first, so that no entry is reported as committed before it is appended.
                        to = place if isinstance(event, LogAppended) else len(self.held)
                        self.held.insert(to, (joined(earlier, event), term))
                        return
                    break
        self.held.append((event, term))

    def publish(self) -> None:
        """Publish this turn's events, because the turn is on disk, and add them to the journal."""
        events, self.held = self.held, []
        identity, journal, forward = self.ledger.identity, self.ledger.journal, self.forward
        self.bus.begin_turn(self.settings.heartbeat_interval / 10)
        wall_ms, now = self.clock.wall_ms(), self.clock.boottime_ns() / 1e9
        for event, term in events:
            stamped = stamp(
                event,
                node_id=identity.node_id,
                cluster_id=identity.cluster_id,
                term=term,
                sequence=self.ledger.next_sequence(),
                time=wall_ms / 1000,
                monotonic=now,
            )
            data = to_msgpack(stamped)
            frequent = isinstance(stamped, FREQUENT)
            journal.append(stamped.sequence, now, data, frequent=frequent)
            if self.write_audit is not None and isinstance(stamped, AuditRecorded):
                self.write_audit(stamped)
            self.bus.publish(stamped)
            if forward is not None:
                forward(stamped, data)

    def drop(self) -> None:
        """Drop the events, because the turn was rolled back."""
        self.held.clear()
