"""The event types: all there, each with the seed's name."""

import dataclasses

from forge_consensus.events import types
from forge_consensus.events.envelope import ENVELOPE_FIELDS, ConsensusEvent, UnknownEvent
from forge_consensus.events.types import EVENT_TYPES

KINDS = [
    "node.started", "node.stopped", "node.failed", "node.recovered",
    "leader.elected", "leader.stepdown", "leader.lost",
    "role.changed", "role.follower", "role.candidate", "role.leader",
    "cluster.formed", "cluster.quorum.achieved", "cluster.quorum.lost",
    "log.appended", "log.committed", "log.compacted", "log.truncated",
    "snapshot.started", "snapshot.completed", "snapshot.failed", "snapshot.restored",
    "health.healthy", "health.degraded", "health.unhealthy", "health.recovering",
]  # fmt: skip

NOT_YET = [
    "node.joined", "node.left", "leader.transfer", "cluster.updated", "cluster.membership.changed",
    "config.updated", "config.reloaded",
]  # fmt: skip


def test_the_kinds_are_those_of_the_seed() -> None:
    assert list(EVENT_TYPES) == [f"consensus.{kind}" for kind in KINDS]


def test_what_is_missing_is_known_by_name() -> None:
    assert len(KINDS) + len(NOT_YET) == 33
    assert not {f"consensus.{kind}" for kind in NOT_YET} & set(EVENT_TYPES)


def test_every_event_class_is_registered_and_exported() -> None:
    written = {value for value in vars(types).values() if isinstance(value, type) and issubclass(value, ConsensusEvent)}
    assert written - {ConsensusEvent, UnknownEvent} == set(EVENT_TYPES.values())
    assert {event_type.__name__ for event_type in written} <= set(types.__all__)


def test_every_event_class_is_small_and_opens_with_the_envelope() -> None:
    for event_type in EVENT_TYPES.values():
        names = tuple(f.name for f in dataclasses.fields(event_type))
        assert names[: len(ENVELOPE_FIELDS)] == ENVELOPE_FIELDS
        assert not hasattr(object.__new__(event_type), "__dict__")
        assert event_type.__doc__
