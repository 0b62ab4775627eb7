"""The time of the log: it continues from leader to leader, follows the middle clock, and creeps back to the truth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.storage.ledger.ledger import Proposal
from forge_consensus.storage.ledger.log_time import STEP_BACK_MS, ClockSample, LogTime, agreed, last_times
from forge_consensus.storage.ledger.record import Kind, encode, encode_untimed, parse
from tests.worlds.ledger_world import World, put

YEARS_MS = 10 * 365 * 86400 * 1000
TRUTH = 1_800_000_000_000


def exact(wall_ms: int, at: float = 0.0) -> ClockSample:
    return ClockSample(wall_ms, wall_ms, at)


# --- the middle clock ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-YEARS_MS, -90_000, 90_000, YEARS_MS])
@pytest.mark.parametrize("right", [2, 3, 4])
def test_one_wrong_clock_among_right_ones_moves_nothing(wrong: int, right: int) -> None:
    clocks = [exact(TRUTH + wrong), *[exact(TRUTH)] * right]
    low, high = agreed(clocks, 5.0)
    assert low == high == TRUTH + 5000


@given(
    st.lists(st.tuples(st.integers(-500, 0), st.integers(0, 500)), min_size=1, max_size=5),
    st.lists(st.integers(-YEARS_MS, YEARS_MS), max_size=4),
)
def test_the_truth_lies_within_what_is_agreed_if_most_clocks_are_right(
    right: list[tuple[int, int]], wrong: list[int]
) -> None:
    wrong = wrong[: len(right) - 1]
    samples = [ClockSample(TRUTH + early, TRUTH + late, 0.0) for early, late in right]
    low, high = agreed([*samples, *[exact(TRUTH + error) for error in wrong]], 0.0)
    assert low <= TRUTH <= high


def test_of_two_clocks_nobody_knows_which_is_wrong() -> None:
    assert agreed([exact(TRUTH), exact(TRUTH + YEARS_MS)], 0.0) == (TRUTH, TRUTH + YEARS_MS)


# --- the wall time ---------------------------------------------------------------------------------------------------


def led(wall_ms: int = TRUTH) -> LogTime:
    time = LogTime()
    time.begin(100.0, 0, wall_ms)
    return time


def test_a_time_that_is_behind_is_set_forward_at_once() -> None:
    time = led()
    assert time.follow(101.0, TRUTH + 60_000, TRUTH + 60_000) == 0
    assert time.wall_ms(101.0) == TRUTH + 60_000


def test_a_time_that_is_a_little_ahead_goes_on_slowly_until_it_is_right() -> None:
    time, now, last = led(TRUTH + 60_000), 100.0, 0
    for _ in range(2 * 130):
        now += 0.5
        right = TRUTH + (now - 100.0) * 1000
        assert time.follow(now, right, right) == 0
        wall = time.wall_ms(now)
        assert wall > last, "it never falls and never stands still"
        last = wall
    assert last - right < 100, "gone after twice the error"


def test_a_time_that_is_far_ahead_is_set_back_and_says_so() -> None:
    time = led(TRUTH + YEARS_MS)
    assert time.follow(101.0, TRUTH + 1000, TRUTH + 1000) == YEARS_MS
    assert time.wall_ms(102.0) == TRUTH + 2000


def test_what_is_right_within_the_bounds_is_left_alone() -> None:
    time = led()
    time.follow(101.0, TRUTH + 900, TRUTH + 1100)
    assert time.wall_ms(101.0) == TRUTH + 1000
    assert time.pace == 1.0


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(-STEP_BACK_MS, STEP_BACK_MS // 2)), max_size=30))
def test_the_wall_time_falls_only_when_it_says_so(steps: list[tuple[float, int]]) -> None:
    time, now, last = led(), 100.0, TRUTH
    for seconds, error in steps:
        now += seconds
        right = TRUTH + (now - 100.0) * 1000 + error
        stepped = time.follow(now, right, right + 5)
        wall = time.wall_ms(now)
        assert stepped or wall >= last
        last = wall


# --- from leader to leader -------------------------------------------------------------------------------------------


def test_a_leader_continues_both_times_from_the_last_entry_whatever_its_own_clock_says() -> None:
    time = LogTime()
    time.begin(7.0, 50_000, TRUTH)
    assert (time.elapsed_ms(7.0), time.wall_ms(7.0)) == (50_000, TRUTH)
    assert (time.elapsed_ms(9.5), time.wall_ms(9.5)) == (52_500, TRUTH + 2500)


def test_a_follower_keeps_the_time_since_the_last_entry() -> None:
    time = LogTime()
    time.heard(60_000, 10.0)
    time.begin(13.0, 50_000, TRUTH)
    assert time.elapsed_ms(13.0) == 63_000


def test_what_was_heard_never_takes_the_time_behind_the_log() -> None:
    time = LogTime()
    time.heard(10_000, 10.0)
    time.begin(11.0, 50_000, TRUTH)
    assert time.elapsed_ms(11.0) == 50_000


def test_the_entries_of_a_turn_carry_the_times_of_its_begin(tmp_path: object) -> None:
    world = World("memory", tmp_path)  # type: ignore[arg-type]
    world.lead()
    world.now += 4.0
    last = world.propose(put("a", 1), put("a", 2))
    times = [(r.elapsed_ms, r.time_ms) for r in (parse(n, world.ledger.log.get(n)) for n in (last - 1, last))]
    assert times == [(4000, 5000)] * 2


def test_a_later_leader_goes_on_after_entries_that_are_not_applied_yet(tmp_path: object) -> None:
    world = World("memory", tmp_path)  # type: ignore[arg-type]
    world.follow(1)
    with world.turn():
        world.accept(1, 0, encode(2, 1, Kind.NOOP, 900, elapsed_ms=70_000))
    assert last_times(world.ledger.log, world.ledger.applier) == (70_000, 900)
    world.now = 5.0  # another host: its real time began elsewhere
    world.lead()
    world.now += 1.0
    world.propose(put("a", 1))
    assert parse(4, world.ledger.log.get(4)).elapsed_ms == 71_000


def test_entries_of_format_2_that_are_not_applied_yet_give_their_greatest_time(tmp_path: object) -> None:
    world = World("memory", tmp_path)  # type: ignore[arg-type]
    world.follow(1)
    with world.turn():
        times = enumerate([TRUTH, TRUTH + 9000, TRUTH + 4000], 2)
        world.accept(1, 0, *[encode_untimed(n, 1, Kind.NOOP, time, b"") for n, time in times])
    assert last_times(world.ledger.log, world.ledger.applier) == (TRUTH + 9000, TRUTH + 9000)
    world.lead()
    with world.turn():
        world.ledger.propose(world.ledger.term, [Proposal(Kind.COMMAND, 0, 0, 0, put("a", 1))])
    world.settle()
    assert world.ledger.applier.elapsed_ms == TRUTH + 9000
