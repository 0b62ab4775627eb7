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


MS = 0.001


def met() -> Freshness:
    """What is known once n1's clock, asked at 50 seconds of this node's, read 1000."""
    fresh = Freshness()
    fresh.read_clock("n1", asked=50.0, read=1000.0, now=50.0 + MS)
    return fresh


def test_seconds_of_the_leader_are_translated_by_the_clock_that_it_told() -> None:
    fresh = met()
    fresh.heard("n1", 3, confirmed=1001.0, sent=1001.0, now=51.1)
    assert fresh.as_of(3) == pytest.approx(51.0, abs=2 * MS)
    fresh.heard("n1", 3, confirmed=1002.0, sent=1002.0, now=58.0)
    assert fresh.as_of(3) == pytest.approx(52.0, abs=10 * MS), "six seconds on its way"


def test_a_leader_whose_clock_is_not_known_says_nothing() -> None:
    fresh = met()
    fresh.heard("n2", 3, confirmed=1001.0, sent=1001.0, now=51.0)
    assert fresh.as_of(3) is None
    fresh.forget_clock("n1")
    fresh.heard("n1", 3, confirmed=1001.0, sent=1001.0, now=51.0)
    assert fresh.as_of(3) is None, "its next process may run on another host"


def test_requests_that_were_all_late_do_not_make_a_state_look_fresh() -> None:
    """Seed 20000029: from a leader's first request on, a follower had so much to read that each was late."""
    fresh = met()
    for second in range(1, 200):
        sent = 1000.0 + second
        fresh.heard("n1", 3, confirmed=sent, sent=sent, now=50.0 + second + 7.0)
    as_of = fresh.as_of(3)
    assert as_of is not None
    assert 50 + 199 - DRIFT_MAX * 210 <= as_of <= 50 + 199


def test_the_quickest_answer_says_most_and_a_slow_one_takes_nothing_back() -> None:
    fresh = Freshness()
    fresh.read_clock("n1", asked=40.0, read=1000.0, now=51.0)  # the answer took ten seconds
    assert fresh.offsets["n1"].ahead(51.0) == -960.0
    fresh.read_clock("n1", asked=51.0, read=1001.0, now=51.002)
    fresh.read_clock("n1", asked=51.5, read=1004.0, now=54.0)
    assert fresh.offsets["n1"].ahead(54.0) == pytest.approx(-950.0 - 3 * DRIFT_MAX)


def test_a_reading_that_contradicts_what_was_known_corrects_it_at_once() -> None:
    """Before the next request of the leader, whose mark would look fresher than it is."""
    fresh = met()
    fresh.read_clock("n1", asked=60.0, read=1015.0, now=60.0 + 2 * MS)  # it gained five seconds in ten
    fresh.heard("n1", 3, confirmed=1015.5, sent=1015.6, now=65.0)  # late, so it alone would correct nothing
    as_of = fresh.as_of(3)
    assert as_of == pytest.approx(60.5, abs=10 * MS)
    assert as_of is not None
    assert as_of <= 60.5 + 2 * MS


def test_a_clock_that_runs_apart_faster_than_it_should_is_noticed_by_the_requests() -> None:
    fresh = met()
    for second in range(1, 100):
        sent = 1000.0 + second * 1.05
        fresh.heard("n1", 3, confirmed=sent, sent=sent, now=50.0 + second + MS)
    as_of = fresh.as_of(3)
    assert as_of is not None
    assert as_of <= 50.0 + 99 + MS


@given(
    st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0), st.floats(0.0, 3.0), st.booleans()), max_size=60),
    st.floats(-1000.0, 1000.0),
)
def test_whatever_is_late_no_mark_looks_younger_than_it_is(
    steps: list[tuple[float, float, float, bool]], offset: float
) -> None:
    """This node's clock is ahead by `offset`. Each step waits, and is a check or a request with two delays."""
    fresh, now = Freshness(), 2000.0
    for wait, there, back, check in steps:
        asked = now + wait
        now = asked + there + back
        if check:
            fresh.read_clock("n1", asked, asked + there - offset, now)
        else:
            sent = asked + there - offset
            fresh.heard("n1", 3, confirmed=sent, sent=sent, now=now)
            as_of = fresh.as_of(3)
            assert as_of is None or as_of <= asked + there + 1e-6
