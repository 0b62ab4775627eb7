"""The envelope: the fields that an actor leaves out and the turn fills in."""

import dataclasses

import pytest

from forge_consensus.events.envelope import E, UnknownEvent, payload, stamp
from forge_consensus.events.types import LeaderElected, NodeStarted, QuorumLost


def stamped(event: E) -> E:
    return stamp(event, node_id="n1", cluster_id="demo", term=7, sequence=42, time=1.5, monotonic=2.5)


def test_an_actor_fills_in_only_the_payload() -> None:
    event = LeaderElected(leader="n1", votes=2, total=3, duration=0.01)
    assert (event.node_id, event.sequence, event.term, event.correlation_id) == ("", 0, 0, None)


def test_a_stamp_fills_in_the_envelope_and_keeps_the_payload() -> None:
    event = stamped(QuorumLost(required=2, healthy=1, total=3, correlation_id="c"))
    assert event == QuorumLost(
        required=2,
        healthy=1,
        total=3,
        node_id="n1",
        cluster_id="demo",
        term=7,
        sequence=42,
        time=1.5,
        monotonic=2.5,
        correlation_id="c",
    )


def test_a_stamp_keeps_the_term_that_an_actor_wrote() -> None:
    assert stamped(NodeStarted(term=6)).term == 6
    assert stamped(NodeStarted()).term == 7


def test_an_event_cannot_be_changed() -> None:
    event = NodeStarted()
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.term = 3  # type: ignore[misc]


def test_the_payload_holds_the_fields_outside_the_envelope() -> None:
    assert payload(stamped(NodeStarted())) == {}
    event = LeaderElected(leader="n1", votes=2, total=3, duration=0.5)
    assert list(payload(event)) == ["leader", "votes", "total", "duration"]
    assert payload(UnknownEvent(name="consensus.x", data={"a": 1})) == {"a": 1}


def test_an_unknown_event_keeps_its_name() -> None:
    assert UnknownEvent(name="consensus.x").topic == "consensus.x"
    assert NodeStarted().topic == "consensus.node.started"
