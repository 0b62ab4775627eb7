"""Majorities, plain and joint, compared with the definition of a majority."""

from __future__ import annotations

from itertools import combinations

from hypothesis import example, given
from hypothesis import strategies as st

from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.quorum import Quorum, majority

NODES = ["n1", "n2", "n3", "n4", "n5", "n6"]
VOTERS = st.frozensets(st.sampled_from(NODES), min_size=1)
VOTER_SETS = st.lists(VOTERS, min_size=1, max_size=2)
IDS = st.frozensets(st.sampled_from([*NODES, "stranger"]))
VALUES = st.dictionaries(st.sampled_from([*NODES, "stranger"]), st.integers(0, 9))


def decides(sets: list[frozenset[str]], ids: frozenset[str]) -> bool:
    """By definition: more than half of each set."""
    return all(sum(node in ids for node in voters) * 2 > len(voters) for voters in sets)


def test_a_majority_is_more_than_half() -> None:
    assert [majority(count) for count in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]


def test_a_plain_configuration_decides_with_its_voters() -> None:
    quorum = Configuration.of({"n1": "a:1", "n2": "b:1", "n3": "c:1"}).quorum
    assert (quorum.required, quorum.total) == (2, 3)
    assert quorum.has(["n1", "n3"])
    assert not quorum.has(["n1", "n9"])


def test_a_set_without_voters_decides_nothing() -> None:
    nobody: frozenset[str] = frozenset()
    assert not Quorum(nobody).has(["n1"])
    assert not Quorum(nobody).has([])
    assert Quorum(nobody).reached({"n1": 9}) == 0
    joint = Quorum(frozenset({"n1"}), nobody)
    assert not joint.has(["n1"])
    assert joint.reached({"n1": 9}) == 0


@given(VOTER_SETS, IDS)
@example([frozenset({"n1", "n2", "n3"}), frozenset({"n3", "n4", "n5"})], frozenset({"n2", "n3", "n4"}))
@example([frozenset({"n1", "n2", "n3"}), frozenset({"n3", "n4", "n5"})], frozenset({"n1", "n2", "n3"}))
def test_nodes_decide_if_they_are_more_than_half_of_every_set(sets: list[frozenset[str]], ids: frozenset[str]) -> None:
    assert Quorum(*sets).has(ids) == Quorum(*sets).has(list(ids)) == decides(sets, ids)


@given(VOTER_SETS, VALUES)
def test_the_reached_value_is_the_largest_that_a_majority_of_every_set_has(
    sets: list[frozenset[str]], values: dict[str, int]
) -> None:
    def have(least: int) -> frozenset[str]:
        return frozenset(node for node in NODES if values.get(node, 0) >= least)

    assert Quorum(*sets).reached(values) == max(least for least in range(10) if decides(sets, have(least)))


@given(VOTER_SETS)
def test_the_required_number_is_the_size_of_the_smallest_deciding_group(sets: list[frozenset[str]]) -> None:
    quorum = Quorum(*sets)
    assert quorum.voters == frozenset().union(*sets)
    assert quorum.total == len(quorum.voters)
    sizes = [count for count in range(len(NODES) + 1) for ids in combinations(NODES, count) if quorum.has(ids)]
    assert quorum.required == min(sizes)


@given(VOTER_SETS, IDS)
def test_so_many_of_them_may_fail_as_leave_a_majority_whichever_they_are(
    sets: list[frozenset[str]], ids: frozenset[str]
) -> None:
    quorum = Quorum(*sets)
    holds = [
        count for count in range(len(ids) + 1) if all(quorum.has(ids - set(lost)) for lost in combinations(ids, count))
    ]
    assert quorum.can_lose(ids) == max(holds, default=0)


@given(VOTER_SETS, IDS)
def test_two_disjoint_groups_never_both_decide(sets: list[frozenset[str]], ids: frozenset[str]) -> None:
    quorum = Quorum(*sets)
    assert not (quorum.has(ids) and quorum.has(quorum.voters - ids))


@given(VOTERS, VOTERS, IDS)
def test_a_joint_quorum_needs_both_of_its_sets(
    incoming: frozenset[str], outgoing: frozenset[str], ids: frozenset[str]
) -> None:
    joint = Quorum(incoming, outgoing)
    assert joint.has(ids) == (Quorum(incoming).has(ids) and Quorum(outgoing).has(ids))
