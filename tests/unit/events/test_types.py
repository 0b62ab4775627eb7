"""The event types: all are there, each with its name in the Go original; adjacent ranges of the log are joined."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from forge_consensus import events
from forge_consensus.events import types
from forge_consensus.events.envelope import ENVELOPE_FIELDS, ConsensusEvent, UnknownEvent
from forge_consensus.events.types import EVENT_TYPES, IDS_MAX, LogAppended, LogCommitted, joined

KINDS = [
    "node.started", "node.stopped", "node.joined", "node.left", "node.failed", "node.recovered", "node.refused",
    "node.removed", "settings.differ", "address.differs",
    "leader.elected", "leader.stepdown", "leader.transfer", "leader.lost",
    "role.changed", "role.follower", "role.candidate", "role.leader",
    "cluster.formed", "cluster.membership.changed", "cluster.updated", "cluster.quorum.achieved", "cluster.quorum.lost",
    "log.appended", "log.committed", "log.compacted", "log.truncated",
    "apply.slow", "query.slow", "time.skewed", "time.stepped",
    "snapshot.on_thread", "snapshot.started", "snapshot.completed", "snapshot.failed", "snapshot.restored",
    "health.healthy", "health.degraded", "health.unhealthy", "health.recovering",
    "config.updated", "config.reloaded", "config.rejected", "audit.recorded",
]  # fmt: skip

NEW = [
    "node.refused", "node.removed", "settings.differ", "address.differs", "apply.slow", "query.slow", "time.skewed",
    "time.stepped", "snapshot.on_thread", "config.rejected", "audit.recorded",
]  # fmt: skip
"""The kinds that the Go original does not have."""


def test_the_kinds_are_those_of_the_go_original_and_new_ones() -> None:
    assert list(EVENT_TYPES) == [f"consensus.{kind}" for kind in KINDS]


def test_all_of_the_go_original_exist() -> None:
    assert len(KINDS) - len(NEW) == 33


def test_every_event_class_is_registered_and_exported() -> None:
    written = {value for value in vars(types).values() if isinstance(value, type) and issubclass(value, ConsensusEvent)}
    assert written - {ConsensusEvent, UnknownEvent} == set(EVENT_TYPES.values())
    assert {event_type.__name__ for event_type in written} <= set(types.__all__)
    assert {event_type.__name__ for event_type in written} <= set(events.__all__)


def test_every_event_class_is_small_and_opens_with_the_envelope() -> None:
    for event_type in EVENT_TYPES.values():
        names = tuple(f.name for f in dataclasses.fields(event_type))
        assert names[: len(ENVELOPE_FIELDS)] == ENVELOPE_FIELDS
        assert not hasattr(object.__new__(event_type), "__dict__")
        assert event_type.__doc__


@given(st.lists(st.lists(st.sampled_from("abcdefghijk"), max_size=9, unique=True), min_size=2, max_size=4))
def test_a_joined_range_holds_the_first_distinct_ids(ids: list[list[str]]) -> None:
    whole: LogAppended | LogCommitted = LogAppended(first_index=1, last_index=1)
    for index, some in enumerate(ids, 2):
        later = LogAppended(
            first_index=index,
            last_index=index,
            correlation_ids=tuple(some),
            correlation_id=some[0] if len(some) == 1 else None,
        )
        whole = joined(whole, later)
    assert (whole.first_index, whole.last_index) == (1, len(ids) + 1)
    every = list(dict.fromkeys(one for some in ids for one in some))
    assert list(whole.correlation_ids) == every[:IDS_MAX]
    assert whole.correlation_id == (every[0] if len(every) == 1 else None)
