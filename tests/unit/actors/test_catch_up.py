"""The rounds of a learner: when it is near enough to vote, and that a slow one never is."""

from __future__ import annotations

from forge_consensus.actors.raft.catch_up import ROUNDS_MAX, CatchUp

SECONDS_MAX = 1.0


def test_a_learner_is_near_once_it_got_all_of_a_round_in_time() -> None:
    catch_up = CatchUp(until=100, began=0.0)
    catch_up.note(match=99, last=150, now=0.9)
    assert not catch_up.is_near(0.9, SECONDS_MAX), "the first round is not complete"
    catch_up.note(match=100, last=160, now=1.0)
    assert (catch_up.rounds, catch_up.until) == (1, 160)
    assert catch_up.is_near(1.0, SECONDS_MAX)


def test_a_learner_whose_rounds_take_too_long_is_never_near() -> None:
    catch_up, last = CatchUp(until=100, began=0.0), 100
    for number in range(1, 20):
        reached, last, now = last, last + 100, number * 1.1
        catch_up.note(match=reached, last=last, now=now)
        assert (catch_up.rounds, catch_up.is_late) == (number, number >= ROUNDS_MAX)
        assert not catch_up.is_near(now, SECONDS_MAX)


def test_a_learner_that_was_quick_and_then_stands_still_is_not_near() -> None:
    catch_up = CatchUp(until=100, began=0.0)
    catch_up.note(match=100, last=200, now=0.1)
    catch_up.note(match=150, last=300, now=1.0)
    assert catch_up.is_near(1.0, SECONDS_MAX)
    assert not catch_up.is_near(1.2, SECONDS_MAX), "its present round takes too long"
