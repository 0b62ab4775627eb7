"""The places of a siege: where a cluster stands, of how many nodes, and whether its reads go by leases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.siege.blows import BLOWS, MISSING, PROXIED
from tests.cluster.siege.namespaces import LINKS, SpacedCluster, Switch

NAMESPACES: Final = "namespaces"
DRIFTS: Final = "clock-drifts"
"""Leases allow for clocks that drift, but not by as much as these do."""


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster that is to be: behind a proxy by a transport, or in network namespaces."""

    way: str
    """``tcp``, ``ipc`` or ``namespaces``."""
    nodes: int
    leases: bool = False

    def possible(self, names: Sequence[str]) -> list[str]:
        """Which of these blows can be struck here."""
        others = set(PROXIED if self.way == NAMESPACES else LINKS) | set(MISSING) | ({DRIFTS} if self.leases else set())
        return [name for name in names if name not in others]

    def __str__(self) -> str:
        return f"{self.nodes} nodes, {self.way}{', leases' if self.leases else ''}"

    @contextmanager
    def cluster(self, **options: Any) -> Iterator[LocalCluster]:
        """The cluster, with these options besides."""
        options["lease_reads"] = self.leases
        if self.way == NAMESPACES:
            names = [f"n{number}" for number in range(1, self.nodes + 1)]
            with Switch(names) as switch, SpacedCluster(switch, **options) as spaced:
                yield spaced
        else:
            transport = "ipc" if self.way == "ipc" else "tcp"
            with LocalCluster(self.nodes, transport=transport, proxy=True, **options) as cluster:  # type: ignore[arg-type]
                yield cluster


PLACES: Final = (
    Place("tcp", 3),
    Place("ipc", 5, leases=True),
    Place(NAMESPACES, 3),
    Place("ipc", 3),
    Place("tcp", 5),
    Place("tcp", 3, leases=True),
    Place(NAMESPACES, 5, leases=True),
)
"""In turn."""


def place_of(number: int, only: Sequence[str], nodes: int | None) -> Place:
    """Where the cluster of that number stands: at the next place where most of the wanted blows can be struck.

    Namespaces are for faults of links; without any, other places serve as well.
    """
    wanted = only or list(BLOWS)
    links = set(wanted) & LINKS.keys() - MISSING.keys()
    places = [place for place in PLACES if place.possible(wanted) and (links or place.way != NAMESPACES)]
    place = places[number % len(places)]
    return place if nodes is None else replace(place, nodes=nodes)
