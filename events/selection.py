"""A selection: which events a listener gets, by class (with all subclasses) and by pattern of kinds."""

import difflib
from dataclasses import dataclass
from fnmatch import fnmatchcase

from forge_consensus.events.types import EVENT_TYPES, ConsensusEvent, UnknownEvent


def meant(pattern: str) -> str:
    """What somebody may have meant by a pattern that matches nothing."""
    groups = {f"{kind.rpartition('.')[0]}.*" for kind in EVENT_TYPES}
    near = difflib.get_close_matches(pattern, [*EVENT_TYPES, *groups], 2)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(groups))}"


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice of events by class and by pattern; a choice of nothing in particular selects all events."""

    classes: tuple[type[ConsensusEvent], ...]
    patterns: tuple[str, ...]

    @classmethod
    def of(cls, *kinds: type[ConsensusEvent] | str) -> "Selection":
        """Select event classes, and patterns such as `consensus.leader.*` (with shell wildcards).

        Raises ValueError for a pattern that no kind matches and for a class that is not an event class, because a
        listener with a typing mistake would otherwise wait for ever.
        """
        patterns = tuple(kind for kind in kinds if isinstance(kind, str))
        for pattern in patterns:
            if not any(fnmatchcase(known, pattern) for known in EVENT_TYPES):
                raise ValueError(f"no kind of event matches {pattern!r}: {meant(pattern)}")
        classes = tuple(kind for kind in kinds if not isinstance(kind, str))
        for kind in classes:
            if not (isinstance(kind, type) and issubclass(kind, ConsensusEvent)):
                raise ValueError(
                    f"{kind!r} is not an event class: give a class of forge_consensus.events, or a pattern"
                )
        return cls(classes if kinds else (ConsensusEvent,), patterns)

    def may_want(self, event_type: type[ConsensusEvent]) -> bool:
        """Return whether an event of exactly this class can be selected."""
        if issubclass(event_type, self.classes):
            return True
        # The kind of an unknown event is known only from the event itself, so patterns are matched there.
        if event_type is UnknownEvent:
            return bool(self.patterns)
        return any(fnmatchcase(event_type.kind, pattern) for pattern in self.patterns)

    def wants(self, event: ConsensusEvent) -> bool:
        """Return whether this event is selected."""
        return isinstance(event, self.classes) or any(fnmatchcase(event.topic, pattern) for pattern in self.patterns)

    def __str__(self) -> str:
        """Return the kinds and patterns, for log lines."""
        return ", ".join([*(event_type.kind for event_type in self.classes), *self.patterns])
