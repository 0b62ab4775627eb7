"""Events as log lines: one line an event, at a fitting level, with node, term and correlation id bound."""

from __future__ import annotations

from typing import Any, Final

from loguru import logger

from forge_consensus.events.bus import BLOCK_MS_MAX, EventBus
from forge_consensus.events.envelope import ConsensusEvent, UnknownEvent, payload
from forge_consensus.events.selection import Selection
from forge_consensus.events.subscription import QueuedSubscription, Subscription
from forge_consensus.events.types import (
    EVENT_TYPES,
    BecameCandidate,
    BecameFollower,
    BecameLeader,
    Degraded,
    LeaderLost,
    LeaderStepDown,
    LogAppended,
    LogCommitted,
    NodeFailed,
    QuorumLost,
    RoleChanged,
    SnapshotFailed,
    Unhealthy,
)

LEVELS: Final[dict[type[ConsensusEvent], str]] = {
    Unhealthy: "ERROR",
    SnapshotFailed: "ERROR",
    LeaderLost: "WARNING",
    LeaderStepDown: "WARNING",
    NodeFailed: "WARNING",
    QuorumLost: "WARNING",
    Degraded: "WARNING",
    RoleChanged: "DEBUG",  # the next line says what the node became
    BecameCandidate: "INFO",
    BecameFollower: "INFO",
    BecameLeader: "INFO",
    LogAppended: "TRACE",
    LogCommitted: "TRACE",
}
"""At which level an event is logged; those that are not listed at INFO."""

FREQUENT: Final = (LogAppended, LogCommitted)
"""These come every turn: only who asks for them gets them, for otherwise nobody would pay for making them."""
QUEUE_MAX: Final = 10_000


def log_events(bus: EventBus, *, frequent: bool = False, queue_max: int = QUEUE_MAX) -> Subscription[ConsensusEvent]:
    """Write every event that is published from now on into loguru's log, until the subscription is cancelled.

    On a thread of its own: a slow sink holds up no node; what it was too slow for is counted in a line. Where the
    lines go, and from which level on, is up to your own set-up of loguru. Each carries `node`, `cluster`, `term`,
    `sequence`, `event` (the type's string), `data` (the payload) and, where there is one, `correlation_id` in its
    `extra`. With `frequent`, `consensus.log.appended` and `.committed` are logged too, at TRACE.
    """
    kinds = (kind for kind in (*EVENT_TYPES.values(), UnknownEvent) if frequent or kind not in FREQUENT)
    lines = EventLines()
    backlog = bus.backlog_of(queue_max, "drop_oldest", BLOCK_MS_MAX)
    lines.subscription = QueuedSubscription(Selection.of(*kinds), lines.write, backlog)
    bus.attach(lines.subscription)
    return lines.subscription


class EventLines:
    """What writes the lines of one subscription."""

    def __init__(self) -> None:
        self.subscription: QueuedSubscription[ConsensusEvent] | None = None
        self.dropped = 0

    def write(self, event: ConsensusEvent) -> None:
        """Write one event, and before it how many were missed."""
        dropped = self.subscription.dropped if self.subscription is not None else 0
        if dropped > self.dropped:
            logger.bind(node=event.node_id, cluster=event.cluster_id).warning(
                "{}: {} events are not in this log, it was too slow for them", event.node_id, dropped - self.dropped
            )
            self.dropped = dropped
        logger.bind(**bound(event)).log(LEVELS.get(type(event), "INFO"), "{}", line_of(event))


def bound(event: ConsensusEvent) -> dict[str, Any]:
    """What the line has in its `extra`."""
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
    """The event as a line: `n1 term 7: leader.elected leader=n1 votes=2 total=3 duration=0.012`.

    Node and term are in the text because loguru's own format shows nothing of what is bound.
    """
    facts = "".join(
        f" {name}={text_of(value)}" for name, value in payload(event).items() if value not in (None, "", ())
    )
    return f"{event.node_id} term {event.term}: {event.topic.removeprefix('consensus.')}{facts}"


def text_of(value: object) -> str:
    """One value, without a space in it unless it is quoted."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ",".join(map(text_of, value))
    text = str(value)
    plain = text.isprintable() and not set(text) & set(" \"'=,")
    return text if plain else repr(text)
