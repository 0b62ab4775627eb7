"""The arithmetic of majorities."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.actors.raft.quorum import has_majority, majority, reached_by_majority

NODES = ["n1", "n2", "n3", "n4", "n5"]


def test_a_majority_is_more_than_half() -> None:
    assert [majority(count) for count in range(1, 8)] == [1, 2, 2, 3, 3, 4, 4]


@given(
    st.sets(st.sampled_from(NODES), min_size=1),
    st.dictionaries(st.sampled_from([*NODES, "stranger"]), st.integers(0, 9)),
)
def test_the_reached_value_is_the_largest_that_a_majority_of_voters_has(
    voters: set[str], values: dict[str, int]
) -> None:
    chosen = frozenset(voters)
    reached = reached_by_majority(values, chosen)
    assert has_majority([node for node in voters if values.get(node, 0) >= reached], chosen)
    assert not has_majority([node for node in voters if values.get(node, 0) > reached], chosen)


@given(st.sets(st.sampled_from(NODES), min_size=1), st.sets(st.sampled_from(NODES)))
def test_two_disjoint_sets_are_never_both_majorities(voters: set[str], who: set[str]) -> None:
    chosen = frozenset(voters)
    assert not (has_majority(who, chosen) and has_majority(voters - who, chosen))
