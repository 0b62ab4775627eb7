"""The freshness: marks that are applied say how old a state is; a mark that is left out only makes it look older."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.actors.runtime.freshness import DRIFT_MAX, MARKS_MAX, Freshness


def test_only_the_newest_mark_that_is_applied_counts() -> None:
    fresh = Freshness()
    assert fresh.as_of(5) is None
    fresh.note(3, 10.0)
    fresh.note(5, 11.0)
    assert [fresh.as_of(applied) for applied in (2, 3, 4, 5, 9)] == [None, 10.0, 10.0, 11.0, 11.0]


def test_while_nothing_is_committed_the_same_index_gets_fresher() -> None:
    fresh = Freshness()
    for second in range(1, 1000):
        fresh.note(3, float(second))
    assert len(fresh.marks) == 1
    assert fresh.as_of(3) == 999.0


def test_older_news_moves_nothing_back() -> None:
    fresh = Freshness()
    fresh.note(3, 10.0)
    fresh.note(2, 9.0)
    assert fresh.as_of(3) == 10.0
    fresh.note(1, 9.5)
    assert fresh.as_of(3) == 10.0


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0.0, 0.5)), max_size=300), st.data())
def test_a_state_never_looks_fresher_than_the_marks_that_it_covers(
    steps: list[tuple[int, float]], data: st.DataObject
) -> None:
    fresh, index, at, marks, applied = Freshness(), 1, 1.0, list[tuple[int, float]](), 0
    for more, seconds in steps:
        index, at = index + more, at + seconds
        fresh.note(index, at)
        marks.append((index, at))
        assert len(fresh.marks) <= MARKS_MAX
        if data.draw(st.booleans()):
            applied = data.draw(st.integers(applied, index + 1))
            truth = max((second for mark, second in marks if mark <= applied), default=None)
            told = fresh.as_of(applied)
            assert told is None or (truth is not None and told <= truth)
    assert not marks or fresh.as_of(index) is not None


def test_seconds_of_the_leader_are_translated_by_its_quickest_request() -> None:
    fresh = Freshness()
    fresh.heard(1, 3, confirmed=1000.0, sent=1000.0, now=50.3)
    assert fresh.as_of(3) == pytest.approx(50.3), "nothing better is known"
    fresh.heard(1, 3, confirmed=1001.0, sent=1001.0, now=51.1)
    assert fresh.as_of(3) == pytest.approx(51.1)
    fresh.heard(1, 3, confirmed=1002.0, sent=1002.0, now=58.0)
    assert fresh.as_of(3) == pytest.approx(52.1, abs=0.01), "six seconds on its way"


def test_the_quickest_request_is_followed_as_clocks_drift_apart() -> None:
    fresh, took = Freshness(), 0.1
    for step in range(10_000):
        took += DRIFT_MAX / 2
        fresh.heard(1, 3, confirmed=100.0 + step, sent=100.0 + step, now=100.0 + step + took)
    assert fresh.quickest == pytest.approx(took)


def test_requests_that_are_late_for_minutes_do_not_look_quick() -> None:
    """Seed 3002349: for more than a minute all requests came late, and a state looked seven seconds too fresh."""
    fresh = Freshness()
    fresh.heard(1, 3, confirmed=1000.0, sent=1000.0, now=50.1)
    for second in range(1, 200):
        sent = 1000.0 + second
        fresh.heard(1, 3, confirmed=sent, sent=sent, now=50.1 + second + 7.0)
    as_of = fresh.as_of(3)
    assert as_of is not None
    assert as_of - (50.1 + 199) <= DRIFT_MAX * 207


def test_another_leader_has_another_clock() -> None:
    fresh = Freshness()
    fresh.heard(1, 3, confirmed=1000.0, sent=1000.0, now=50.0)
    fresh.heard(2, 3, confirmed=7.0, sent=7.0, now=51.0)
    assert fresh.as_of(3) == 51.0


@pytest.mark.parametrize("term", [2, 1])
def test_first_requests_of_a_leader_that_were_long_on_their_way_are_corrected_by_the_next(term: int) -> None:
    """They waited while this node was stopped, and say of a state that is ten seconds old that it is of now."""
    fresh = Freshness()
    if term == 2:
        fresh.heard(1, 2, confirmed=700.0, sent=700.0, now=40.0)
    for half in range(21):
        sent = 1000.0 + half / 2
        fresh.heard(term, 3 + half, confirmed=sent, sent=sent, now=60.0)
    assert fresh.as_of(3) == pytest.approx(50.0)
    assert fresh.as_of(13) == pytest.approx(55.0)
    assert fresh.as_of(23) == pytest.approx(60.0)


def test_what_is_applied_already_is_corrected_too() -> None:
    fresh = Freshness()
    fresh.heard(1, 3, confirmed=1000.0, sent=1000.0, now=60.0)
    assert fresh.as_of(3) == 60.0
    fresh.heard(1, 9, confirmed=1010.0, sent=1010.0, now=60.0)
    assert fresh.as_of(3) == 50.0
