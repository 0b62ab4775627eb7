"""Tests of the tests: the known seed of each mutant, or one soon after, finds the mutant."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.actors.messages import AppendEntries
from forge_consensus.actors.replication import ReplicationActor
from forge_consensus.errors import CorruptionError, OperationFailedError
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.testing.rules.violations import ViolationError
from tests.simulation.mutants import election
from tests.simulation.mutants.__main__ import search
from tests.simulation.mutants.catalogue import MUTANTS
from tests.simulation.mutants.hunt import attempt, hunt, known_seeds, muted, verdict
from tests.simulation.mutants.patch import Patch
from tests.simulation.mutants.registry import Change, Mutant
from tests.worlds.story.script import StoryError
from tests.worlds.story.telling import tell

pytestmark = [
    # A run that ends in the midst of a turn leaves open what the node's process would have taken along.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SEEDS_MAX = 40
"""A known seed means another run as soon as a simulation draws otherwise, so the search goes on from there."""


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect files that a run left open while this module's filters hold; a later test has none."""
    yield
    gc.collect()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", MUTANTS)
def test_the_simulator_finds_each_mutant(name: str) -> None:
    first = known_seeds().get(name, 1)
    # That these seeds pass without a mutant is what the tests of the simulation and the command look at.
    found = hunt(MUTANTS[name], range(first, first + SEEDS_MAX), control=False)
    assert found is not None, (
        f"no violation from seed {first} on: python -m tests.simulation.mutants --write --only {name}"
    )


@pytest.mark.parametrize(
    ("change", "story"), [(election.who_speaks_of_an_earlier_term_gets_no_answer, "18_stuck_candidate.txt")]
)
def test_a_rare_fault_breaks_its_story(change: Change, story: str) -> None:
    text = (Path(__file__).parents[1] / "stories" / story).read_text(encoding="utf-8")
    assert tell(text) == text
    with Patch() as patch, pytest.raises(StoryError):
        change(patch)
        tell(text)


def test_every_mutant_names_its_fault_and_has_a_known_seed() -> None:
    assert len(MUTANTS) >= 110
    assert not [name for name, mutant in MUTANTS.items() if not mutant.sentence.endswith((".", ")"))]
    assert set(known_seeds()) == set(MUTANTS)


def test_a_patch_leaves_nothing_behind() -> None:
    before = (dict(vars(ReplicationActor)), dict(ReplicationActor.handlers), dict(vars(Ledger)))
    for mutant in MUTANTS.values():
        with Patch() as patch:
            mutant.change(patch)
            assert patch.undone, mutant.name
    assert (dict(vars(ReplicationActor)), dict(ReplicationActor.handlers), dict(vars(Ledger))) == before


def test_a_patch_takes_no_name_that_is_not_there() -> None:
    with Patch() as patch:
        with pytest.raises(AttributeError):
            patch.setattr(Ledger, "a_name_of_yesterday", None)
        with pytest.raises(KeyError):
            patch.setitem(ReplicationActor.handlers, Ledger, None)


def test_an_error_in_the_mutant_itself_is_not_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.simulation.mutants.hunt.HERE", Path(__file__).parent)  # where this slip is made

    def broken(patch: Patch) -> None:
        def raises(self: Any, message: Any, sender: Any) -> None:
            raise TypeError("a slip in the mutant")

        patch.handler(ReplicationActor, AppendEntries, lambda _: raises)

    with muted(), pytest.raises(OperationFailedError, match="a slip in the mutant"):
        attempt(Mutant("broken", broken), 2)  # of three nodes


def test_violations_and_failed_checks_of_the_node_are_findings() -> None:
    wrapped = OperationFailedError("an actor raised")
    wrapped.__cause__ = CorruptionError("damage")
    assert verdict(ViolationError("I1: two leaders")) == "I1: two leaders"
    assert verdict(wrapped).endswith("CorruptionError: damage")


def test_a_harmless_change_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MUTANTS, "harmless", Mutant("harmless", lambda patch: None))
    assert search("harmless", 1, 2, cheaper=False)[1] is None


def test_a_seed_that_fails_without_the_mutant_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(mutant: Mutant, seed: int) -> None:
        raise ViolationError("I1: whatever runs")

    monkeypatch.setattr("tests.simulation.mutants.hunt.run", fail)
    assert hunt(Mutant("harmless", lambda patch: None), range(1, 3)) is None
