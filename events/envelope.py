"""What every event carries besides its payload, and how the node writes it on."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsensusEvent:
    """One state transition of one node; the base of all event types.

    An actor creates an event with its payload only. The turn that publishes it fills in the rest
    with `stamp`, after the commit, so that no event can tell of what is not on disk.
    """

    kind: ClassVar[str] = "consensus"
    """The name of the event type, as the seed spells it: `consensus.leader.elected`."""

    node_id: str = ""
    """The node that went through the transition."""
    cluster_id: str = ""
    """The cluster it belongs to."""
    term: int = 0
    """The Raft term in which it happened."""
    sequence: int = 0
    """The number of the event on its node: rises, is never reused; 0 is "not yet stamped"."""
    time: float = 0.0
    """Unix seconds, UTC, by the node's wall clock. To be shown, never to be compared."""
    monotonic: float = 0.0
    """Seconds of the node's monotonic clock; differences hold within one boot of one host."""
    correlation_id: str | None = None
    """The id that a client gave to the request that caused the event, where there is one."""

    @property
    def topic(self) -> str:
        """The name under which the event travels: its kind, also when this version lacks it."""
        return self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(ConsensusEvent):
    """An event that a newer version of a node sent: its kind as text and its payload as data."""

    kind: ClassVar[str] = "consensus.unknown"

    name: str
    """The kind that the sender gave it."""
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """The payload, of plain values, lists and mappings with text keys."""

    @property
    def topic(self) -> str:
        """The name under which the event travels: the one that its sender gave it."""
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

    A term that the actor wrote stays: one turn may lay down a role of term 7 and see term 8, and
    each event tells of its own. Only an event without a term gets the one given here.
    """
    # What `dataclasses.replace` does, without its looking at every field of the class each time.
    return type(event)(
        node_id=node_id,
        cluster_id=cluster_id,
        term=event.term or term,
        sequence=sequence,
        time=time,
        monotonic=monotonic,
        correlation_id=event.correlation_id,
        **{name: getattr(event, name) for name in own_fields(type(event))},
    )


def payload(event: ConsensusEvent) -> dict[str, Any]:
    """Return what the event says besides its envelope, by field name, in order of declaration."""
    if isinstance(event, UnknownEvent):
        return dict(event.data)
    return {name: getattr(event, name) for name in own_fields(type(event))}


OWN_FIELDS: dict[type[ConsensusEvent], tuple[str, ...]] = {}
"""What `own_fields` has returned."""


def own_fields(event_type: type[ConsensusEvent]) -> tuple[str, ...]:
    """Return the names of the fields that a class adds to the envelope, in order of declaration."""
    names = OWN_FIELDS.get(event_type)
    if names is None:
        names = OWN_FIELDS[event_type] = tuple(f.name for f in fields(event_type))[len(ENVELOPE_FIELDS) :]
    return names
