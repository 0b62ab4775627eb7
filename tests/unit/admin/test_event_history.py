"""The event history: what is held, from where a reader goes on, and what it is told that it lacks."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from forge_consensus.admin import event_history
from forge_consensus.admin.audience import Audience
from forge_consensus.admin.event_history import EventHistory, Place, place_text, positions_of
from forge_consensus.admin.event_stream import Stream, selection_of
from forge_consensus.admin.problems import ProblemError
from forge_consensus.events.types import BecameFollower, LeaderElected
from forge_consensus.feed.cursor import Gap, Position


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> EventHistory:
    """A history that holds four events."""
    monkeypatch.setattr(event_history, "EVENTS_MAX", 4)
    return EventHistory(cast("Any", SimpleNamespace(seat=SimpleNamespace(cluster_id="c"))))


def event(node: str, number: int, time: float = 0.0) -> BecameFollower:
    """An event of a node."""
    return BecameFollower(node_id=node, cluster_id="c", sequence=number, leader=None, time=time)


def fill(history: EventHistory, *numbers: tuple[str, int], incarnation: str = "inc") -> None:
    """Have the history take events of nodes, in this order."""
    for node, number in numbers:
        history.take(event(node, number), Position(incarnation, number + 1))


def replace(history: EventHistory, node: str, first: int, incarnation: str) -> None:
    """Have the history take the news that a node has another folder."""
    gap = Gap(node_id=node, cluster_id="c", sequence=first, first=first, last=None, reason="replaced")
    history.take(gap, Position(incarnation, 1))


def reader(history: EventHistory, positions: str | None, recent: int = 0, kinds: str = "") -> Stream:
    """A stream that has begun."""
    api = SimpleNamespace(closing=asyncio.Event(), stream_seconds=None)
    given = None if positions is None else positions_of(positions)
    stream = Stream(history, Audience(history, selection_of(kinds)[0]), given, recent, cast("Any", api))
    stream.begin()
    return stream


def told(stream: Stream) -> list[tuple[str, int | str]]:
    """What a reader gets next: (node, number), or (node, first-last reason) for a gap."""
    found: list[tuple[str, int | str]] = []
    for part in filter(None, stream.next_part().decode().split("\n\n")):
        row = json.loads(part.partition("data: ")[2])
        data = row["data"]
        gap = "reason" in data
        found.append((row["node_id"], f"{data['first']}-{data['last']} {data['reason']}" if gap else row["sequence"]))
    return found


def last_id(stream: Stream) -> str:
    """The id of the last event that a reader got."""
    return place_text(stream.seen)


# --- what is held ----------------------------------------------------------------------------------------------------


def test_the_oldest_events_make_room(history: EventHistory) -> None:
    fill(history, *(("n1", number) for number in range(1, 8)))
    assert (history.first, history.end) == (3, 7)
    assert told(reader(history, None, 100)) == [("n1", number) for number in (4, 5, 6, 7)]
    assert [number for number, _ in history.after(5, 1)] == [5]


def test_a_new_reader_gets_what_comes_and_as_many_past_ones_as_it_asked_for(history: EventHistory) -> None:
    fill(history, ("n1", 1), ("n2", 7), ("n1", 2))
    new, curious = reader(history, None), reader(history, None, 2)
    assert told(new) == []
    assert told(curious) == [("n2", 7), ("n1", 2)]
    fill(history, ("n1", 3))
    assert told(new) == told(curious) == [("n1", 3)]
    assert last_id(new) == last_id(curious) == "n1=inc.4,n2=inc.8"


def test_events_of_a_node_that_could_not_be_asked_at_first_are_left_out_if_they_are_old(history: EventHistory) -> None:
    history.began_at = 1000.0
    history.take(event("n3", 1, 900.0), Position("inc", 2))
    history.take(event("n3", 2, 1001.0), Position("inc", 3))
    assert told(reader(history, None, 10)) == [("n3", 2)]
    assert told(reader(history, "n3=inc.1")) == [("n3", "1-1 discarded"), ("n3", 2)]


# --- coming back -----------------------------------------------------------------------------------------------------


def test_a_reader_goes_on_from_its_place_on_each_node(history: EventHistory) -> None:
    fill(history, ("n1", 1), ("n2", 7), ("n1", 2), ("n2", 8))
    assert told(reader(history, "n1=inc.2,n2=inc.8")) == [("n1", 2), ("n2", 8)]
    assert told(reader(history, "n1=inc.3,n2=inc.8")) == [("n2", 8)]
    assert told(reader(history, "n1=inc.3")) == [("n2", 7), ("n2", 8)]


def test_ids_never_go_back_whichever_history_a_reader_comes_to(history: EventHistory) -> None:
    fill(history, ("n2", 23), ("n1", 27), ("n3", 19))
    stream = reader(history, "n1=inc.27,n2=inc.23,n3=inc.19")
    assert told(stream)[0] == ("n2", 23)
    again = reader(history, "n1=inc.28,n2=inc.23,n3=inc.20")
    assert told(again) == [("n2", 23)]
    assert last_id(again) == "n1=inc.28,n2=inc.24,n3=inc.20"


def test_an_id_moves_on_past_what_its_reader_does_not_want(history: EventHistory) -> None:
    stream = reader(history, None, kinds="leader.*")
    fill(history, ("n1", 1), ("n1", 2))
    assert told(stream) == []
    assert last_id(stream) == "n1=inc.3"


def test_what_is_no_longer_held_is_told_as_a_gap(history: EventHistory) -> None:
    fill(history, *(("n1", number) for number in range(1, 8)))
    assert told(reader(history, "n1=inc.2")) == [("n1", "2-3 discarded"), *(("n1", number) for number in (4, 5, 6, 7))]
    assert told(reader(history, "n1=inc.4"))[0] == ("n1", 4)
    assert told(reader(history, "n9=inc.1"))[0] == ("n1", 4)


def test_a_slow_reader_is_told_for_each_node_what_it_missed(history: EventHistory) -> None:
    stream = reader(history, None)
    fill(history, ("n1", 1), ("n2", 1))
    assert len(told(stream)) == 2
    fill(history, *(("n1", number) for number in range(2, 8)), ("n2", 2))
    assert told(stream) == [("n1", "2-4 discarded"), ("n1", 5), ("n1", 6), ("n1", 7), ("n2", 2)]


def test_what_was_left_out_by_its_kind_is_no_gap(history: EventHistory) -> None:
    history.hold_from("n1", Position("inc", 1))
    fill(history, ("n1", 5), ("n1", 9))
    assert told(reader(history, "n1=inc.2")) == [("n1", 5), ("n1", 9)]
    fill(history, ("n1", 12), ("n1", 15), ("n1", 20))
    assert told(reader(history, "n1=inc.2"))[0] == ("n1", "2-5 discarded")


# --- another folder --------------------------------------------------------------------------------------------------


def test_a_node_with_another_folder_begins_anew_and_nothing_comes_twice(history: EventHistory) -> None:
    fill(history, ("n1", 5))
    replace(history, "n1", 6, "new")
    fill(history, ("n1", 1), ("n1", 2), incarnation="new")
    assert told(reader(history, "n1=inc.5")) == [("n1", 5), ("n1", "6-None replaced"), ("n1", 1), ("n1", 2)]
    assert told(reader(history, "n1=new.2")) == [("n1", 2)], "it has seen the old folder's, whatever is held of them"
    assert told(reader(history, "n1=new.3")) == []


def test_a_reader_of_a_folder_that_is_gone_is_told_so(history: EventHistory) -> None:
    history.hold_from("n1", Position("new", 500))
    fill(history, ("n1", 500), incarnation="new")
    assert told(reader(history, "n1=old.5")) == [("n1", "5-None replaced"), ("n1", 500)]
    fill(history, ("n2", 1))
    replace(history, "n2", 2, "other")
    fill(history, *(("n2", number) for number in range(1, 6)), incarnation="other")
    assert told(reader(history, "n2=inc.2"))[0] == ("n2", "2-None replaced"), "what told of it was dropped"


def test_dropping_the_events_of_an_old_folder_makes_no_gap_in_the_new_one(history: EventHistory) -> None:
    fill(history, ("n1", 1), ("n1", 2))
    replace(history, "n1", 3, "new")
    fill(history, ("n1", 1), ("n1", 2), ("n1", 3), incarnation="new")
    assert history.held_from["n1"] == Place(Position("new", 1), 1)
    assert told(reader(history, "n1=new.1")) == [("n1", 1), ("n1", 2), ("n1", 3)]


# --- places and filters ----------------------------------------------------------------------------------------------


def test_places_survive_their_text() -> None:
    seen = {"nö=,2": Place(Position("a.b", 7), 0), "n1": Place(Position("", 1), 2)}
    assert place_text(seen).isascii()
    assert positions_of(place_text(seen)) == {node: place.position for node, place in seen.items()}
    assert positions_of("") == {}


@pytest.mark.parametrize(
    "text", ["n1", "n1=", "n1=inc", "n1=inc.x", "=inc.1", "n1=inc.1,n2", "n1=" + "x" * 40_000 + ".1"]
)
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ProblemError, match="no place in the events"):
        positions_of(text)


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


def test_gaps_have_a_kind_and_come_whatever_is_wanted() -> None:
    gap = Gap(first=1, last=2, reason="lost")
    for kinds in ("feed.*", "consensus.feed.gap", "leader.*,feed.gap", "-feed.*,leader.*"):
        fits, _ = selection_of(kinds)
        assert fits(gap)
        assert not fits(event("n1", 1)), kinds


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


# --- many readers ----------------------------------------------------------------------------------------------------


def test_what_many_readers_get_is_made_once(history: EventHistory) -> None:
    api = SimpleNamespace(closing=asyncio.Event(), stream_seconds=None)
    audience = Audience(history, selection_of("")[0])
    streams = [Stream(history, audience, None, 0, cast("Any", api)) for _ in range(3)]
    late = Stream(history, audience, positions_of("n1=inc.1"), 0, cast("Any", api))
    for stream in streams:
        stream.begin()
    fill(history, ("n1", 1), ("n2", 7))
    late.begin()
    first, *others = [stream.next_part() for stream in streams]
    assert all(other is first for other in others)
    assert late.next_part() is not first, "it was elsewhere, so its ids are others"
    assert len({id(stream.seen) for stream in streams}) == 1
    fill(history, ("n1", 2))
    first, *others = [stream.next_part() for stream in streams]
    assert all(other is first for other in others)
    assert first.startswith(b"id: n1=inc.3,n2=inc.8\n")
    assert [stream.next_part() for stream in streams] == [b""] * 3
    assert told(late) == [("n1", 2)]


def test_readers_are_woken_at_once_and_then_with_a_pause(
    history: EventHistory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_history, "PACE_SECONDS", 0.2)

    async def run() -> list[tuple[int, float]]:
        loop = asyncio.get_running_loop()
        woken: list[tuple[int, float]] = []

        async def read() -> None:
            number = 0
            while number < 30:
                assert await history.wait(number, 5)
                number = history.end
                woken.append((number, loop.time()))

        reading = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        for number in range(1, 31):
            fill(history, ("n1", number))
            await asyncio.sleep(0)
        await reading
        return woken

    (first, began), (last, ended) = asyncio.run(run())
    assert (first < 30, last) == (True, 30)
    assert ended - began >= 0.19


def test_readers_are_woken_by_the_end(history: EventHistory) -> None:
    async def run() -> bool:
        waiting = asyncio.ensure_future(history.wait(0, 5))
        await asyncio.sleep(0)
        await history.close()
        assert not await history.wait(0, 0.01), "and nobody waits for ever"
        return await waiting

    assert asyncio.run(run())
    assert history.waiting == set()
