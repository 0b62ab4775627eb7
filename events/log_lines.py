"""Events as log lines: one line per event, at a fitting level, with node, term and correlation id bound."""

from __future__ import annotations

import logging
import time
from typing import Any, Final

from loguru import logger

from forge_consensus.events.bus import BLOCK_MS_MAX, EventBus
from forge_consensus.events.envelope import ConsensusEvent, UnknownEvent, payload
from forge_consensus.events.selection import Selection
from forge_consensus.events.subscription import QueuedSubscription, Subscription
from forge_consensus.events.text import facts_text
from forge_consensus.events.types import (
    EVENT_TYPES,
    AddressDiffers,
    ApplySlow,
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    ConfigRejected,
    Degraded,
    LeaderLost,
    LeaderStepDown,
    LogAppended,
    LogCommitted,
    NodeFailed,
    NodeRefused,
    NodeRemoved,
    QuerySlow,
    QuorumLost,
    RoleChanged,
    SettingsDiffer,
    SnapshotFailed,
    SnapshotsOnThread,
    TimeSkewed,
    TimeStepped,
    Unhealthy,
)
from forge_consensus.process.log import Line, Target, to_standard_logger

LEVELS: Final[dict[type[ConsensusEvent], str]] = {
    Unhealthy: "ERROR",
    SnapshotFailed: "ERROR",
    ConfigRejected: "ERROR",
    LeaderLost: "WARNING",
    LeaderStepDown: "WARNING",
    NodeFailed: "WARNING",
    QuorumLost: "WARNING",
    ApplySlow: "WARNING",
    NodeRefused: "WARNING",
    NodeRemoved: "WARNING",
    SettingsDiffer: "WARNING",
    AddressDiffers: "WARNING",
    QuerySlow: "WARNING",
    TimeSkewed: "WARNING",
    TimeStepped: "WARNING",
    SnapshotsOnThread: "WARNING",
    Degraded: "WARNING",
    RoleChanged: "DEBUG",  # the event of the new role follows
    BecameCandidate: "INFO",
    BecameFollower: "INFO",
    BecameLeader: "INFO",
    LogAppended: "TRACE",
    LogCommitted: "TRACE",
}
"""The level at which an event type is logged; a type that is not listed is logged at INFO."""

FREQUENT: Final = (LogAppended, LogCommitted)
"""These events come every turn. They are logged only on request, because otherwise the node need not create them."""
QUEUE_MAX: Final = 10_000


def log_events(
    bus: EventBus,
    *,
    frequent: bool = False,
    queue_max: int = QUEUE_MAX,
    to: logging.Logger | None = None,
) -> Subscription[ConsensusEvent]:
    """Write every event that is published from now on into the log, until the returned subscription is cancelled.

    A thread of its own writes the lines, so a slow sink does not delay the node; a warning counts the events that it
    missed. Your own loguru set-up decides where lines go and from which level on. Each line carries `node`, `cluster`,
    `term`, `sequence`, `event` (the kind), `data` (the payload) and, if there is one, `correlation_id` in its `extra`.

    Args:
        bus: the bus whose events are logged.
        frequent: whether `consensus.log.appended` and `consensus.log.committed` are logged too, at TRACE.
        queue_max: how many events may wait to be written.
        to: a logger of the standard library, such as ``logging.getLogger("consensus")``, whose records then have what
            is bound as `record.forge_consensus`; None for loguru.

    """
    if to is None:
        logger.enable(__name__)  # who calls this asks for these lines, and for no others of the package
    kinds = (kind for kind in (*EVENT_TYPES.values(), UnknownEvent) if frequent or kind not in FREQUENT)
    lines = EventLines(to_loguru if to is None else to_standard_logger(to))
    backlog = bus.backlog_of(queue_max, "drop_oldest", BLOCK_MS_MAX)
    lines.subscription = QueuedSubscription(Selection.of(*kinds), lines.write, backlog)
    bus.attach(lines.subscription)
    return lines.subscription


class EventLines:
    """The handler of one subscription: it writes one line per event and one about missed events."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.subscription: QueuedSubscription[ConsensusEvent] | None = None
        self.dropped = 0

    def write(self, event: ConsensusEvent) -> None:
        """Log one event; before it, log how many events were missed since the last line."""
        dropped = self.subscription.dropped if self.subscription is not None else 0
        if dropped > self.dropped:
            missing = dropped - self.dropped
            text = f"{event.node_id}: {missing} events are missing in this log, because it was too slow for them"
            self.target(line_at("WARNING", text, {"node": event.node_id, "cluster": event.cluster_id}))
            self.dropped = dropped
        self.target(line_at(LEVELS.get(type(event), "INFO"), line_of(event), bound(event)))


def line_at(level: str, text: str, extra: dict[str, Any]) -> Line:
    """Return a line of this module."""
    return Line(level, text, __name__, "write", 0, time.time(), extra)


def to_loguru(line: Line) -> None:
    """Write a line into loguru's log, from this module, which `log_events` enables there."""
    logger.bind(**line.extra).log(line.level, "{}", line.text)


def bound(event: ConsensusEvent) -> dict[str, Any]:
    """Return the `extra` of the line of an event."""
    extra: dict[str, Any] = {
        "node": event.node_id,
        "cluster": event.cluster_id,
        "term": event.term,
        "sequence": event.sequence,
        "event": event.topic,
        "data": payload(event),
    }
    if event.correlation_id is not None:
        extra["correlation_id"] = event.correlation_id
    return extra


def line_of(event: ConsensusEvent) -> str:
    """Return the event as a line: `n1 term 7: leader.elected leader=n1 votes=2 total=3 duration=12ms`.

    Node and term are in the text, because loguru's default format does not show bound values.
    """
    kind = event.topic.removeprefix("consensus.")
    return f"{event.node_id} term {event.term}: {kind} {facts_text(event)}".rstrip()
