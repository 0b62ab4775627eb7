"""The choice of events: by class, by base class, by pattern."""

from typing import Any

import pytest

from forge_consensus.events.envelope import ConsensusEvent, UnknownEvent
from forge_consensus.events.selection import Selection
from forge_consensus.events.types import EVENT_TYPES, LeaderElected, LeaderLost, QuorumLost


def wanted(*kinds: type[ConsensusEvent] | str) -> set[str]:
    selection = Selection.of(*kinds)
    return {kind for kind, event_type in EVENT_TYPES.items() if selection.may_want(event_type)}


def test_a_class_chooses_itself() -> None:
    assert wanted(LeaderElected) == {"consensus.leader.elected"}


def test_the_base_class_and_no_choice_choose_all() -> None:
    assert wanted(ConsensusEvent) == wanted() == wanted("*") == set(EVENT_TYPES)


def test_a_pattern_chooses_as_in_a_shell() -> None:
    assert wanted("consensus.cluster.quorum.*") == {
        "consensus.cluster.quorum.achieved",
        "consensus.cluster.quorum.lost",
    }
    assert wanted("consensus.leader.lost", LeaderElected) == {
        "consensus.leader.elected",
        "consensus.leader.lost",
    }


def test_a_pattern_without_a_match_is_refused() -> None:
    with pytest.raises(ValueError, match=r"consensus\.leder"):
        Selection.of("consensus.leder.*")


@pytest.mark.parametrize("wrong", [str, 5])
def test_a_selection_of_other_classes_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="not an event class"):
        Selection.of(wrong)


def test_an_unknown_event_is_selected_by_its_name() -> None:
    event = UnknownEvent(name="consensus.leader.praised")
    assert Selection.of("consensus.leader.*").wants(event)
    assert Selection.of().wants(event)
    assert not Selection.of("consensus.log.*").wants(event)
    assert not Selection.of(LeaderLost).wants(event)
    assert not Selection.of(LeaderLost).may_want(UnknownEvent)


def test_a_selection_names_itself() -> None:
    assert str(Selection.of(QuorumLost, "consensus.leader.*")) == ("consensus.cluster.quorum.lost, consensus.leader.*")
