"""Which events a listener wants: classes with all that derive from them, and patterns of kinds."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from forge_consensus.events.types import EVENT_TYPES, ConsensusEvent, UnknownEvent


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice of events; of nothing in particular, it is the choice of all."""

    classes: tuple[type[ConsensusEvent], ...]
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, *kinds: type[ConsensusEvent] | str) -> "Selection":
        """Choose event classes and patterns such as `consensus.leader.*` (as in a shell).

        Raises ValueError for a pattern that no kind matches, and for what is no class of events: a
        listener with a slip of the pen would otherwise wait for ever.
        """
        patterns = tuple(kind for kind in kinds if isinstance(kind, str))
        for pattern in patterns:
            if not any(fnmatchcase(known, pattern) for known in EVENT_TYPES):
                raise ValueError(f"no kind of event matches {pattern!r}")
        classes = tuple(kind for kind in kinds if not isinstance(kind, str))
        for kind in classes:
            if not (isinstance(kind, type) and issubclass(kind, ConsensusEvent)):
                raise ValueError(f"{kind!r} is no class of events: give one of forge_consensus.events, or a pattern")
        return cls(classes if kinds else (ConsensusEvent,), patterns)

    def may_want(self, event_type: type[ConsensusEvent]) -> bool:
        """Say whether some event of exactly this class can be wanted."""
        if issubclass(event_type, self.classes):
            return True
        # The kind of an unknown event is in the event, so a pattern can be asked only then.
        if event_type is UnknownEvent:
            return bool(self.patterns)
        return any(fnmatchcase(event_type.kind, pattern) for pattern in self.patterns)

    def wants(self, event: ConsensusEvent) -> bool:
        """Say whether this very event is wanted."""
        return isinstance(event, self.classes) or any(fnmatchcase(event.topic, pattern) for pattern in self.patterns)

    def __str__(self) -> str:
        """Name what is chosen, for log lines."""
        return ", ".join([*(event_type.kind for event_type in self.classes), *self.patterns])
