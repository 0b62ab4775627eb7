"""Event numbers: no number is used twice, at any crash."""

from pathlib import Path

import pytest

from forge_consensus.storage.ledger.numbers import BLOCK, FEW
from tests.worlds.backends import BACKENDS
from tests.worlds.ledger_world import World


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_number_is_never_used_twice_over_crashes(backend: str, tmp_path: Path) -> None:
    world = World(backend, tmp_path)
    newest = 0
    for told in (0, 1, 3 * FEW, BLOCK // 2, BLOCK + 7, 5):
        with world.turn():
            pass
        numbers = [world.ledger.next_sequence() for _ in range(told)]
        assert numbers == sorted(set(numbers))
        assert not numbers or numbers[0] > newest
        newest = max([newest, *numbers])
        world.crash()
        assert world.ledger.numbers.sequence >= newest
    world.close()


def test_numbering_events_costs_hardly_a_flush(tmp_path: Path) -> None:
    world = World("memory", tmp_path)
    commits = world.tables.commits
    for _ in range(2_000):
        with world.turn():
            pass
        for _ in range(100):
            world.ledger.next_sequence()
    assert world.tables.commits - commits <= 200_000 // (BLOCK - FEW) + 1


def test_a_turn_with_more_events_than_reserved_numbers_flushes(tmp_path: Path) -> None:
    world = World("memory", tmp_path)
    numbers = [world.ledger.next_sequence() for _ in range(2 * BLOCK)]
    assert numbers == sorted(set(numbers))
    world.crash()
    assert world.ledger.next_sequence() > numbers[-1]
