"""The model of a node's disk: term, vote, log and configurations, derived from the transactions alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations

from forge_consensus.storage.backends.tables import KeyValue
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.storage.ledger.log import TABLE as LOG
from forge_consensus.storage.ledger.record import Kind, data_of, index_of, key_of, kind_of, term_of


@dataclass(slots=True)
class Disk:
    """The data on a node's disk, and the last observations of its present process."""

    term: int = 0
    vote: str = ""
    base: int = 0
    base_term: int = 0
    base_configuration: bytes = b""
    last: int = 0
    terms: dict[int, int] = field(default_factory=dict)
    configurations: list[tuple[int, bytes]] = field(default_factory=list)
    """(index, bytes) of each configuration entry after the base."""
    applied_on_disk: int = 0
    boots: int = 0
    incarnation: str = ""
    """The incarnation of the folder."""
    compared: int = 0
    """The index up to which the entries are known to be the committed ones."""
    # observations of the present process:
    commit: int = 0
    applied: int = 0
    leading: int = 0
    compared_with: Configuration | None = None
    """The configuration in force that was last compared with the disk; None if the disk has another one since."""
    in_force: Configuration | None = None
    """The configuration that was in force when the last turn ended."""

    @classmethod
    def of(cls, ledger: Ledger) -> Disk:
        """Return the model of a ledger that was just opened."""
        log = ledger.log
        disk = cls(ledger.term, ledger.vote, log.base_index, log.base_term, last=log.base_index)
        disk.base_configuration = ledger.configurations.base.encode()
        for key, record in rows_of(ledger):
            disk.append(index_of(key), record)
        disk.applied_on_disk = ledger.applier.on_disk
        disk.incarnation = ledger.identity.incarnation
        return disk

    def term_at(self, index: int) -> int | None:
        """Return the term of an entry, None if it is unknown."""
        if index == self.base:
            return self.base_term
        return self.terms.get(index) if index > self.base else None

    def holds(self, index: int, term: int | None) -> bool:
        """Return whether the disk holds that entry, in the log or in a snapshot."""
        return index < self.base or (term is not None and self.term_at(index) == term)

    @property
    def configuration(self) -> bytes:
        """The configuration in force: the last one in the log, otherwise that of the base."""
        return self.configurations[-1][1] if self.configurations else self.base_configuration

    def append(self, index: int, record: bytes) -> None:
        """Note an entry that was written."""
        self.terms[index] = term_of(record)
        self.last = index
        if kind_of(record) == Kind.CONFIGURATION:
            self.configurations.append((index, data_of(record)))
            self.compared_with = None

    def truncate(self, first: int) -> None:
        """Note that the entries from `first` on were removed."""
        for index in range(first, self.last + 1):
            self.terms.pop(index, None)
        self.last = min(self.last, first - 1)
        self.compared = min(self.compared, first - 1)
        while self.configurations and self.configurations[-1][0] >= first:
            self.configurations.pop()
            self.compared_with = None

    def rebase(self, index: int, term: int, configuration: bytes) -> None:
        """Note that the log now begins after `index`."""
        for old in range(self.base, index + 1):
            self.terms.pop(old, None)
        self.base, self.base_term, self.base_configuration = index, term, configuration
        self.last = max(self.last, index)
        self.compared = min(self.compared, index - 1)
        self.configurations = [row for row in self.configurations if row[0] > index]
        self.compared_with = None


def rows_of(ledger: Ledger) -> list[KeyValue]:
    """Return the table rows of the entries after an opened ledger's base."""
    return ledger.tables.scan(LOG, key_of(ledger.log.base_index + 1), None)


def terms_of(ledger: Ledger) -> dict[int, int]:
    """Return the terms of those entries by index."""
    return {index_of(key): term_of(record) for key, record in rows_of(ledger)}


@dataclass(frozen=True, slots=True)
class Reign:
    """A leader's log as it was when it stopped leading; it holds every entry that was acknowledged to this leader."""

    base: int
    terms: dict[int, int]
    last: int

    @classmethod
    def of(cls, disk: Disk, ledger: Ledger) -> Reign:
        """Return the log of the leader, including entries that it had sent before they were on its own disk.

        In the turn in which it stopped leading, what is in memory may be its successor's, which has a higher term.
        """
        log = ledger.log
        terms = disk.terms.copy()
        first = log.tail_base + 1
        own = (
            (index, term_of(record))
            for index, record in enumerate(log.tail, first)
            if index > disk.last and term_of(record) <= disk.leading
        )
        terms.update(own)
        return cls(disk.base, terms, max(disk.last, *terms, disk.base))


def voter_sets(configuration: Configuration) -> list[set[str]]:
    """Return the sets of voters of which a majority each is needed, read from the plain fields of a configuration."""
    incoming = set(configuration.incoming) or {node for node, _ in configuration.members}
    return [incoming, set(configuration.outgoing)] if configuration.outgoing else [incoming]


def decides(configuration: Configuration, names: Iterable[str]) -> bool:
    """Return whether these nodes are more than half of every set of voters. It is counted here by its definition."""
    present = set(names)
    return all(2 * len(voters & present) > len(voters) for voters in voter_sets(configuration))


def majorities_meet(one: Configuration, other: Configuration) -> bool:
    """Return whether every majority of the one shares a node with every majority of the other, by trying all."""
    nodes = sorted({node for node, _ in (*one.members, *other.members)})
    return not any(
        decides(one, some) and decides(other, set(nodes).difference(some))
        for size in range(len(nodes) + 1)
        for some in combinations(nodes, size)
    )
