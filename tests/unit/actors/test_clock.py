"""The clocks of a node: what stands still within a turn, what never goes back, what counts slow turns."""

from __future__ import annotations

from forge_consensus.actors.runtime.clock import SystemClock
from tests.worlds.one_node import HandClock


def test_readings_stand_still_within_a_turn() -> None:
    clock = HandClock()
    began = clock.now()
    clock.seconds += 3.0
    assert (clock.now(), clock.running()) == (began, began)
    assert clock.reading() == began + 3.0
    clock.begin_turn()
    assert (clock.before(), clock.now()) == (began, began + 3.0)


def test_time_in_which_the_node_did_not_run_counts_for_the_real_clock_only() -> None:
    clock = HandClock()
    began = clock.now()
    clock.seconds += 3.0
    clock.lost(2.98)
    clock.begin_turn()
    assert clock.now() - began == 3.0
    assert abs(clock.running() - began - 0.02) < 1e-9


def test_the_running_clock_never_goes_back_although_lost_time_is_noted_late() -> None:
    clock = HandClock()
    clock.seconds += 1.0
    clock.begin_turn()
    ran = clock.running()
    clock.lost(5.0)
    clock.begin_turn()
    assert clock.running() == ran


def test_the_real_clock_and_the_send_times_are_one_clock() -> None:
    clock = SystemClock()
    before = clock.boottime_ns()
    clock.begin_turn()
    assert before / 1e9 <= clock.now() <= clock.boottime_ns() / 1e9
