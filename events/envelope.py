"""The envelope: the fields that every event carries besides its payload, and how the node fills them in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, TypeVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusEvent:
    """One state transition of one node; the base class of all event types.

    An actor creates an event with its payload only. The turn that publishes the event fills in the envelope with
    `stamp`, after the commit, so that no event speaks of anything that is not on disk.
    """

    kind: ClassVar[str] = "consensus"
    """The name of the event type, as the Go original spells it: `consensus.leader.elected`."""

    node_id: str = ""
    """The node that made the transition."""
    cluster_id: str = ""
    """The cluster that the node belongs to."""
    term: int = 0
    """The Raft term in which the transition happened."""
    sequence: int = 0
    """The number of the event on its node: it rises and is never reused; 0 means "not stamped yet"."""
    time: float = 0.0
    """Unix seconds (UTC) by the node's wall clock. Show it; do not compare it between nodes."""
    monotonic: float = 0.0
    """Seconds of the node's monotonic clock; differences are valid within one boot of one host."""
    correlation_id: str | None = None
    """The id that a client gave to the request that caused the event; None if there is none."""

    @property
    def topic(self) -> str:
        """The name under which the event is sent: its kind, also where this version does not know the kind."""
        return self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(ConsensusEvent):
    """An event of a kind that only a newer version knows: its kind as text and its payload as data."""

    kind: ClassVar[str] = "consensus.unknown"

    name: str
    """The kind that the sender gave it."""
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The payload, made of plain values, lists and mappings with text keys."""

    @property
    def topic(self) -> str:
        """The name under which the event is sent: the kind that its sender gave it."""
        return self.name


E = TypeVar("E", bound=ConsensusEvent)

ENVELOPE_FIELDS = tuple(f.name for f in fields(ConsensusEvent))


def stamp(
    event: E,
    *,
    node_id: str,
    cluster_id: str,
    term: int,
    sequence: int,
    time: float,
    monotonic: float,
) -> E:
    """Return the event with its envelope filled in.

    A term that the actor set is kept: one turn may end a role of term 7 and enter term 8, and each event carries its
    own term. Only an event without a term gets the given one.
    """
    # Faster than `dataclasses.replace`, which inspects every field of the class at each call.
    return type(event)(
        node_id=node_id,
        cluster_id=cluster_id,
        term=event.term or term,
        sequence=sequence,
        time=time,
        monotonic=monotonic,
        correlation_id=event.correlation_id,
        **own_values(event),
    )


def payload(event: ConsensusEvent) -> dict[str, Any]:
    """Return the fields of the event besides its envelope, by name, in order of declaration."""
    if isinstance(event, UnknownEvent):
        return dict(event.data)
    return own_values(event)


OWN_FIELDS: dict[type[ConsensusEvent], tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]] = {}
"""By event class: the names of the fields that it adds to the envelope, and what reads all of them from an event."""


def own_values(event: ConsensusEvent) -> dict[str, Any]:
    """Return the fields that the event's class adds to the envelope, by name, in order of declaration."""
    known = OWN_FIELDS.get(type(event))
    if known is None:
        names = tuple(f.name for f in fields(event))[len(ENVELOPE_FIELDS) :]
        # attrgetter returns no tuple for a single name, so each class is asked for one name more
        known = OWN_FIELDS[type(event)] = names, attrgetter(*names, "kind", "kind")
    names, read = known
    return dict(zip(names, read(event), strict=False))
