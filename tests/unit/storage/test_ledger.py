"""The ledger: the fence of terms, the rules of truncation and commit, turns that happen entirely or not at all."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from forge_consensus.errors import (
    BusyError,
    LogInconsistentError,
    ProtocolError,
    StaleTermError,
)
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Accepted, Mismatch, Proposal
from forge_consensus.storage.ledger.record import Kind
from tests.worlds.backends import BACKENDS
from tests.worlds.ledger_world import CONFIGURATION, World, entries, entry, put

MIB = 1 << 20
NOOP = [Proposal(Kind.NOOP, 0, 0, 0, b"")]
COMMAND = [Proposal(Kind.COMMAND, 0, 0, 0, put("k", 1))]


@pytest.fixture(params=BACKENDS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = World(request.param, tmp_path)
    with made.turn():  # the first turn of a boot raises the mark of event numbers
        pass
    yield made
    made.close()


# --- term and vote ---------------------------------------------------------------------------------------------------


def test_one_vote_a_term_and_it_is_durable(world: World) -> None:
    ledger = world.ledger
    with world.turn():
        assert ledger.advance(5)
        assert ledger.grant_vote(5, "n2", 1, 0)
        assert ledger.grant_vote(5, "n2", 1, 0)
        assert not ledger.grant_vote(5, "n3", 9, 9)
    world.crash()
    assert (world.ledger.term, world.ledger.vote) == (5, "n2")
    assert not world.ledger.grant_vote(5, "n3", 9, 9)
    with pytest.raises(StaleTermError):
        world.ledger.grant_vote(4, "n3", 9, 9)
    with pytest.raises(StaleTermError):
        world.ledger.grant_vote(6, "n3", 9, 9)


@pytest.mark.parametrize(
    ("last_index", "last_term", "granted"), [(4, 2, True), (3, 2, False), (9, 1, False), (1, 3, True), (5, 2, True)]
)
def test_a_vote_requires_a_log_as_up_to_date_as_the_voters(
    world: World, last_index: int, last_term: int, granted: bool
) -> None:
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 4, 2))
    with world.turn():
        world.ledger.advance(9)
        assert world.ledger.grant_vote(9, "n2", last_index, last_term) is granted
        assert world.ledger.vote == ("n2" if granted else "")


def test_the_term_never_goes_back(world: World) -> None:
    with world.turn():
        assert world.ledger.advance(7)
        assert not world.ledger.advance(7)
        assert not world.ledger.advance(3)
    with pytest.raises(StaleTermError):
        world.ledger.stand(6)
    assert world.ledger.term == 7


# --- leading ---------------------------------------------------------------------------------------------------------


def test_leading_needs_a_vote_for_oneself_given_in_this_boot(world: World) -> None:
    ledger = world.ledger
    ledger.begin(0)
    ledger.advance(3)
    with pytest.raises(StaleTermError):
        ledger.lead(3, 1000)
    assert ledger.grant_vote(3, "n2", 9, 9)
    with pytest.raises(StaleTermError):
        ledger.lead(3, 1000)
    assert ledger.stand(3) == 4
    ledger.commit()
    world.crash()
    assert (world.ledger.term, world.ledger.vote) == (4, "n1")
    with pytest.raises(StaleTermError):
        world.ledger.lead(4, 1000)


def test_a_term_is_led_once(world: World) -> None:
    term, ledger = world.lead(), world.ledger
    assert ledger.resign(term)
    assert not ledger.resign(term)
    for act in (lambda: ledger.lead(term, 1000), lambda: ledger.propose(term, COMMAND)):
        with pytest.raises(StaleTermError):
            act()
    assert world.lead() == term + 1


def test_a_rollback_ends_the_leadership_and_its_term_is_not_led_again(world: World) -> None:
    term, ledger = world.lead(), world.ledger
    ledger.begin(0)
    ledger.rollback()
    assert ledger.leading_term is None
    with pytest.raises(StaleTermError):
        ledger.lead(term, 1000)


def test_a_term_won_in_a_rolled_back_turn_is_not_led_later(world: World) -> None:
    ledger = world.ledger
    ledger.begin(0)
    term = ledger.stand(ledger.term)
    ledger.lead(term, 1000)
    ledger.rollback()
    assert (ledger.term, ledger.vote, ledger.leading_term) == (term - 1, "", None)
    assert ledger.stand(ledger.term) == term
    with pytest.raises(StaleTermError):
        ledger.lead(term, 1000)


def test_a_leader_does_not_stand_before_it_has_resigned(world: World) -> None:
    ledger = world.ledger
    term = world.lead()
    with world.turn():
        with pytest.raises(StaleTermError):
            ledger.stand(term)
        assert (ledger.term, ledger.leading_term) == (term, term)
        assert ledger.resign(term)
        assert ledger.stand(term) == term + 1


def test_entries_leave_early_only_when_leading_was_durable_before_the_turn(world: World) -> None:
    ledger = world.ledger
    ledger.begin(0)
    term = ledger.stand(ledger.term)
    ledger.lead(term, 1000)
    ledger.propose(term, NOOP)
    assert not ledger.may_send_early(term)
    ledger.commit()
    with world.turn():
        assert ledger.may_send_early(term)
        assert not ledger.may_send_early(term - 1)
        ledger.resign(term)
        assert not ledger.may_send_early(term)


# --- accepting -------------------------------------------------------------------------------------------------------


def test_entries_are_appended_only_behind_a_matching_previous_entry(world: World) -> None:
    world.follow(2)
    with world.turn():
        assert world.accept(1, 0, *entries(2, 4, 2)) == Accepted(4, 2, 0, 0)
        assert world.accept(1, 0, *entries(2, 3, 2)) == Accepted(3, 0, 0, 0)
        assert world.accept(4, 2) == Accepted(4, 0, 0, 0)
        assert world.accept(3, 2, *entries(4, 6, 2)) == Accepted(6, 5, 0, 0)
        assert world.accept(9, 2, *entries(10, 11, 2)) == Mismatch(6, 2)
    world.crash()
    assert world.log_bytes[1:] == entries(2, 6, 2)


def test_a_late_shorter_append_takes_nothing_away(world: World) -> None:
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 9, 2))
        assert world.accept(1, 0, *entries(2, 3, 2)) == Accepted(3, 0, 0, 0)
    assert world.ledger.log.last == 9


def test_entries_are_cut_from_the_first_with_another_term(world: World) -> None:
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 9, 2))
    world.follow(3)
    with world.turn():
        assert world.accept(3, 2, entry(4, 2), *entries(5, 6, 3)) == Accepted(6, 5, 5, 5)
    world.crash()
    assert world.log_bytes[1:] == [*entries(2, 4, 2), *entries(5, 6, 3)]


def test_nothing_at_or_below_the_commit_index_is_ever_cut(world: World) -> None:
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 9, 2))
        world.ledger.commit_following(2, 5)
    world.follow(3)
    world.ledger.begin(0)
    with pytest.raises(LogInconsistentError, match="contradicts entry 5, and 5 entries are committed"):
        world.accept(4, 2, *entries(5, 6, 3))
    world.ledger.rollback()
    with world.turn():
        assert world.accept(5, 2, *entries(6, 6, 3)) == Accepted(6, 6, 6, 4)


def test_a_divergence_is_resolved_by_one_hint_a_term(world: World) -> None:
    for term, (first, last) in {2: (2, 5), 3: (6, 8), 6: (9, 20)}.items():
        world.follow(term)
        with world.turn():
            world.accept(first - 1, world.ledger.log.last_term, *entries(first, last, term))
    world.follow(7)
    assert world.accept(20, 7) == Accepted(20, 0, 0, 0) or world.accept(20, 7) == Mismatch(20, 6)
    assert world.accept(15, 5) == Mismatch(8, 3)
    assert world.accept(7, 2) == Mismatch(5, 2)
    assert world.accept(99, 1) == Mismatch(1, 0)


def test_two_leaders_of_one_term_stop_the_node(world: World) -> None:
    world.lead()
    with pytest.raises(LogInconsistentError, match="two leaders in term 1"):
        world.accept(1, 0)


def test_a_refused_append_changes_nothing(world: World) -> None:
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 5, 2))
    world.follow(3)
    before = world.log_bytes
    with pytest.raises(ProtocolError, match="entry 5 of an append"):
        world.accept(2, 2, *entries(3, 4, 3), b"damaged")
    with pytest.raises(StaleTermError):
        world.ledger.accept(2, 5, 2, entries(6, 6, 2))
    assert world.log_bytes == before
    assert not world.ledger.changed


def test_a_configuration_is_in_force_from_its_append_to_its_truncation(world: World) -> None:
    other = Configuration.of({"n1": "host1:1", "n2": "host2:2"})
    world.follow(2)
    with world.turn():
        world.accept(1, 0, entry(2, 2, other.encode(), Kind.CONFIGURATION), entry(3, 2))
    assert world.ledger.configuration == other
    world.crash()
    assert world.ledger.configuration == other
    world.follow(3)
    with world.turn():
        world.accept(1, 0, entry(2, 3))
    assert world.ledger.configuration == CONFIGURATION
    world.crash()
    assert world.ledger.configuration == CONFIGURATION
    term = world.lead()
    world.settle()
    with world.turn():
        world.ledger.propose(term, [Proposal(Kind.CONFIGURATION, 0, 0, 0, other.encode())])
        assert world.ledger.configuration == other
    world.ledger.begin(0)
    world.ledger.rollback()
    assert world.ledger.configuration == other


def test_one_configuration_is_under_way_and_none_before_the_leaders_first_entry_is_committed(world: World) -> None:
    proposal = Proposal(Kind.CONFIGURATION, 0, 0, 0, replace(CONFIGURATION, lease_reads=True).encode())
    term = world.lead()
    before = world.ledger.log.last
    with world.turn(), pytest.raises(BusyError, match="waits for a majority"):
        world.ledger.propose(term, [proposal])
    world.settle()
    with world.turn():
        world.ledger.propose(term, [proposal])
        with pytest.raises(BusyError, match="waits for a majority"):
            world.ledger.propose(term, [proposal])
    assert world.ledger.log.last == before + 1
    assert [index for index, _ in world.ledger.configurations.rows] == [1, before + 1]
    world.settle()
    with world.turn():
        world.ledger.propose(term, [proposal])
    world.follow(term + 1)
    with world.turn():
        world.accept(before + 1, term, entry(before + 2, term + 1))
    term = world.lead()
    with world.turn(), pytest.raises(BusyError, match="waits for a majority"):
        world.ledger.propose(term, [proposal])


# --- committing and applying -----------------------------------------------------------------------------------------


def test_a_leader_commits_only_with_an_entry_of_its_own_term(world: World) -> None:
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 5, 2))
    term = world.lead()
    with world.turn():
        assert not world.ledger.commit_leading(term, 5)
        assert world.ledger.commit_leading(term, 6)
        assert not world.ledger.commit_leading(term, 6)
        with pytest.raises(StaleTermError):
            world.ledger.commit_leading(term - 1, 6)
    assert world.ledger.commit_index == 6


def test_a_follower_commits_no_more_than_it_has_and_never_goes_back(world: World) -> None:
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 5, 2))
        assert world.ledger.commit_following(2, 99)
        assert world.ledger.commit_index == 5
        assert not world.ledger.commit_following(2, 3)
    assert world.ledger.commit_index == 5


def test_only_entries_durable_when_the_turn_began_are_applied(world: World) -> None:
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 5, 2))
        world.ledger.commit_following(2, 4)
        assert [done.index for done in world.ledger.apply(100)] == [1]
    with world.turn():
        assert [done.index for done in world.ledger.apply(2)] == [2, 3]
        assert world.ledger.more_to_apply
        assert [done.index for done in world.ledger.apply(100)] == [4]
        assert not world.ledger.more_to_apply


def test_entries_that_replace_durable_ones_are_not_applied_in_their_own_turn(world: World) -> None:
    """The same indexes were durable when the turn began, with other entries."""
    world.follow(2)
    with world.turn():
        world.accept(1, 0, *entries(2, 10, 2))
    world.follow(3)
    world.ledger.begin(0)
    world.accept(7, 2, *entries(8, 10, 3))
    world.ledger.commit_following(3, 10)
    assert [done.index for done in world.ledger.apply(100)] == [1, 2, 3, 4, 5, 6, 7]
    world.ledger.rollback()
    assert world.ledger.log.term_at(8) == 2
    assert world.ledger.applied == 7
    with world.turn():
        world.accept(7, 2, *entries(8, 10, 3))
        world.ledger.commit_following(3, 10)
    with world.turn():
        assert [(done.index, done.term) for done in world.ledger.apply(100)] == [(8, 3), (9, 3), (10, 3)]
