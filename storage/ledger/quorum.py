"""The quorum: which nodes are enough to decide. The only place that counts majorities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def majority(count: int) -> int:
    """The smallest number that is more than half of `count`."""
    return count // 2 + 1


class Quorum:
    """Answers every question about majorities for the voters of one configuration. It never changes.

    A plain configuration has one set of voters. A joint configuration (dissertation 4.3) has two, the incoming and the
    outgoing one, and decides only with a majority of each. Elections, commits, reads and leases all ask here, so they
    cannot count differently. A set without voters has no majority: with it, nothing is ever decided.
    """

    __slots__ = ("sets", "voters")

    def __init__(self, incoming: frozenset[str], outgoing: frozenset[str] | None = None) -> None:
        """Create the quorum of these voters, given by node id; `outgoing` is None in a plain configuration."""
        voter_sets = [incoming] if outgoing is None else [incoming, outgoing]
        self.sets = [(voters, majority(len(voters))) for voters in voter_sets]
        """Each set of voters, with how many of them are a majority of it."""
        self.voters = incoming if outgoing is None else incoming | outgoing
        """The ids of all voters, each once."""

    def has(self, ids: Iterable[str]) -> bool:
        """Whether these nodes include a majority of every set of voters. Ids of nodes that do not vote do not count."""
        present = self.voters.intersection(ids)
        return all(len(voters & present) >= needed for voters, needed in self.sets)

    def reached(self, values: Mapping[str, int]) -> int:
        """The largest value that a majority of every set of voters has reached; a node that is missing counts as 0.

        `values` maps node ids to numbers from 0 up. With match indexes the result is the commit rule's candidate
        (paper 5.3), with read rounds the confirmed round, with send times the start of the lease.
        """
        reached = []
        for voters, needed in self.sets:
            ordered = sorted([values.get(node, 0) for node in voters], reverse=True)
            reached.append(ordered[needed - 1] if ordered else 0)
        return min(reached)

    def can_lose(self, ids: Iterable[str]) -> int:
        """How many of these nodes may fail, whichever they are, and the others are a majority of every set; at least 0.

        In a joint configuration that is up to the set that has the fewest to spare.
        """
        present = self.voters.intersection(ids)
        return max(0, min(len(voters & present) - needed for voters, needed in self.sets))

    @property
    def total(self) -> int:
        """The number of voters, each counted once although a joint configuration may name it twice."""
        return len(self.voters)

    @property
    def required(self) -> int:
        """The smallest number of nodes that can be a majority of every set, for reports: `has` decides.

        A node that is in both sets counts for both.
        """
        if len(self.sets) == 1:
            return self.sets[0][1]
        (incoming, one), (outgoing, other) = self.sets
        return one + other - min(one, other, len(incoming & outgoing))
