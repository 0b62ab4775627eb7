"""How long one piece of work is said to take."""

from __future__ import annotations

import pytest

from forge_consensus.storage.ledger.pace import HALF_LIFE_SECONDS, PIECES_MAX, Pace

QUICK = 20e-6
"""Seconds of one quick piece."""


def worked(*slices: tuple[int, float]) -> Pace:
    """A pace after slices of so many pieces that took so many seconds each."""
    pace = Pace()
    for count, each in slices:
        pace.note(count, count * each)
    return pace


def test_nothing_is_expected_before_the_first_piece() -> None:
    pace = worked()
    pace.note(0, 1.0)
    assert pace.seconds(1000) == 0


def test_the_first_pieces_are_believed_at_once() -> None:
    assert worked((10, 0.001)).seconds(500) == pytest.approx(0.5)


def test_one_slow_piece_among_quick_ones_is_no_pace() -> None:
    pace = worked(*[(100, QUICK)] * 30, (1, 0.3))
    assert pace.seconds(1000) < 0.2


def test_it_does_not_matter_where_slices_end() -> None:
    together = worked((1000, 0.0001))
    alone = worked(*[(1, 0.0001)] * 1000)
    assert together.each == pytest.approx(alone.each)


def test_a_machine_that_becomes_slow_is_noticed_within_ten_half_lives() -> None:
    pace = worked(*[(100, QUICK)] * 100)
    seconds = 0.0
    while pace.each < 0.05:
        pace.note(1, 0.1)
        seconds += 0.1
    assert seconds < 10 * HALF_LIFE_SECONDS


def test_a_machine_that_is_quick_again_is_noticed_after_its_pieces() -> None:
    pace = worked(*[(1, 0.1)] * 100)
    for _ in range(4 * PIECES_MAX // 64):
        pace.note(64, 64 * QUICK)
    assert pace.each < 100 * QUICK
