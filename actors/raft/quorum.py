"""The quorum: pure arithmetic of majorities."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def majority(count: int) -> int:
    """How many of `count` are more than half."""
    return count // 2 + 1


def has_majority(who: Collection[str], voters: frozenset[str]) -> bool:
    """Whether those who are voters make a majority of the voters."""
    return len(voters.intersection(who)) >= majority(len(voters))


def reached_by_majority(values: Mapping[str, int], voters: frozenset[str]) -> int:
    """The largest value that a majority of the voters has reached; 0 for who is missing.

    With match indexes it is the commit rule's candidate (paper 5.3), with read rounds the confirmed round, with
    send times the start of the lease.
    """
    ordered = sorted((values.get(node, 0) for node in voters), reverse=True)
    return ordered[majority(len(voters)) - 1]
