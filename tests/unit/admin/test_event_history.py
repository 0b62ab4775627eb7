"""The event history: what is held, from where a reader goes on, and what it is told that it lacks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from forge_consensus.admin import event_history
from forge_consensus.admin.event_history import EventHistory, is_new, place_text, places_of
from forge_consensus.admin.event_stream import selection_of, written
from forge_consensus.admin.problems import ProblemError
from forge_consensus.events.types import BecameFollower, LeaderElected
from forge_consensus.feed.cursor import Gap, Position


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> EventHistory:
    """A history that holds four events."""
    monkeypatch.setattr(event_history, "EVENTS_MAX", 4)
    return EventHistory(cast("Any", SimpleNamespace(seat=SimpleNamespace(cluster_id="c"))))


def event(node: str, number: int) -> BecameFollower:
    """An event of a node."""
    return BecameFollower(node_id=node, cluster_id="c", sequence=number, leader=None)


def fill(history: EventHistory, *numbers: tuple[str, int]) -> None:
    """Have the history take events of nodes, in this order."""
    places = dict(history.places)
    for node, number in numbers:
        places[node] = Position("inc", number + 1)
        history.take(event(node, number), places)


def seen(history: EventHistory, places: dict[str, Position]) -> list[tuple[str, int]]:
    """What a reader that goes on from there gets."""
    return [(entry.node, entry.event.sequence) for _, entry in history.after(0, 100) if is_new(entry, places)]


def test_the_oldest_events_make_room(history: EventHistory) -> None:
    fill(history, *(("n1", number) for number in range(1, 8)))
    assert (history.first, history.end) == (3, 7)
    assert seen(history, {}) == [("n1", number) for number in (4, 5, 6, 7)]
    assert [number for number, _ in history.after(5, 1)] == [5]
    assert history.number_of(2) == 5
    assert history.number_of(100) == 3


def test_a_reader_goes_on_from_its_place_on_each_node(history: EventHistory) -> None:
    fill(history, ("n1", 1), ("n2", 7), ("n1", 2), ("n2", 8))
    place = [entry.place for _, entry in history.after(0, 100)][1]
    assert place == "n1=inc.2,n2=inc.8"
    assert seen(history, places_of(place)) == [("n1", 2), ("n2", 8)]
    assert seen(history, places_of("n1=inc.3")) == [("n2", 7), ("n2", 8)]
    assert seen(history, places_of("n1=other.3,n2=inc.9")) == [("n1", 1), ("n1", 2)]


def test_what_is_no_longer_held_is_told_as_a_gap(history: EventHistory) -> None:
    fill(history, *(("n1", number) for number in range(1, 8)))
    assert [(gap.first, gap.last) for gap in history.missing(places_of("n1=inc.2"))] == [(2, 3)]
    assert history.missing(places_of("n1=inc.4")) == []
    assert history.missing(places_of("n9=inc.1")) == []
    assert history.missing(places_of("n1=other.2")) == []


def test_places_survive_their_text() -> None:
    places = {"n1": Position("a.b", 7), "node:2": Position("", 1)}
    assert places_of(place_text(places)) == places
    assert places_of("") == {}


@pytest.mark.parametrize(
    "text", ["n1", "n1=", "n1=inc", "n1=inc.x", "=inc.1", "n1=inc.1,n2", "n1=" + "x" * 5000 + ".1"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ProblemError, match="no place in the events"):
        places_of(text)


def test_what_was_left_out_by_its_kind_is_no_gap(history: EventHistory) -> None:
    history.held_from["n1"] = Position("inc", 1)
    fill(history, ("n1", 5), ("n1", 9))
    assert history.missing(places_of("n1=inc.2")) == []
    fill(history, ("n1", 12), ("n1", 15), ("n1", 20))
    assert [(gap.first, gap.last) for gap in history.missing(places_of("n1=inc.2"))] == [(2, 5)]


def test_a_new_folder_of_a_node_begins_anew(history: EventHistory) -> None:
    fill(history, ("n1", 5))
    history.take(event("n1", 1), {"n1": Position("other", 2)})
    assert history.held_from == {"n1": Position("other", 1)}
    assert seen(history, places_of("n1=inc.6")) == [("n1", 1)]


@pytest.mark.parametrize(
    ("kinds", "busy"),
    [
        ("", True),
        ("-log.*", False),
        ("leader.*", False),
        ("log.appended", True),
        ("log.compacted", False),
        ("*,-log.*", False),
    ],
)
def test_who_leaves_out_what_comes_with_every_commit_is_served_without_it(kinds: str, busy: bool) -> None:
    assert selection_of(kinds)[1] is busy


def test_a_minus_sign_leaves_kinds_out() -> None:
    fits, _ = selection_of("-leader.*")
    assert fits(event("n1", 1))
    assert not fits(LeaderElected(leader="n1", votes=1, total=1, duration=0.0))


def test_a_filter_takes_kinds_short_or_whole_and_gaps_always() -> None:
    fits, _ = selection_of("leader.*, consensus.node.started")
    assert fits(LeaderElected(leader="n1", votes=1, total=1, duration=0.0))
    assert not fits(event("n1", 1))
    assert fits(Gap(first=1, last=2, reason="lost"))
    assert selection_of("")[0](event("n1", 1))
    with pytest.raises(ProblemError, match="no kind of event matches"):
        selection_of("leeder.*")


def test_an_event_of_a_stream_ends_with_an_empty_line() -> None:
    assert written("kind", "n1=i.1", "{}") == "id: n1=i.1\nevent: kind\ndata: {}\n\n"
