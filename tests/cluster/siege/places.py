"""The places of a siege: the transport of a cluster, its number of nodes, and whether it uses lease reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from forge_consensus.testing.local.cluster import LocalCluster
from tests.cluster.siege.blows import BLOWS, PROXIED, impossible
from tests.cluster.siege.members import MEMBERS
from tests.cluster.siege.namespaces import LINKS, SpacedCluster, Switch
from tests.cluster.siege.protected import ProtectedCluster

NAMESPACES: Final = "namespaces"
DRIFTS: Final = "clock-drifts"
"""Leases tolerate drifting clocks, but not at the rate of this fault."""


@dataclass(frozen=True, slots=True)
class Place:
    """The description of a cluster: behind a proxy with a transport, or in network namespaces."""

    way: str
    """``tcp``, ``ipc`` or ``namespaces``."""
    nodes: int
    leases: bool = False
    secure: bool = False
    """Whether everything is on that `ProtectedCluster` has; there is no proxy then, and so no fault of links."""

    def possible(self, names: Sequence[str]) -> list[str]:
        """The given blows that can be struck here."""
        others = set(PROXIED if self.way == NAMESPACES else LINKS) | ({DRIFTS} if self.leases else set())
        if self.secure:
            others |= {*LINKS, *PROXIED, *MEMBERS}
        return [name for name in names if name not in others and name not in impossible()]

    def __str__(self) -> str:
        return f"{self.nodes} nodes, {self.way}{', leases' if self.leases else ''}{', secure' if self.secure else ''}"

    @contextmanager
    def cluster(self, **options: Any) -> Iterator[LocalCluster]:
        """Start the cluster, with these additional options."""
        options["lease_reads"] = self.leases
        if self.way == NAMESPACES:
            names = [f"n{number}" for number in range(1, self.nodes + 1)]
            with Switch(names) as switch, SpacedCluster(switch, **options) as spaced:
                yield spaced
        else:
            transport = "ipc" if self.way == "ipc" else "tcp"
            kind = ProtectedCluster if self.secure else LocalCluster
            options |= {"secure": True} if self.secure else {"proxy": True}
            with kind(self.nodes, transport=transport, **options) as cluster:  # type: ignore[arg-type]
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
"""The places, used in turn."""


def place_of(number: int, only: Sequence[str], nodes: int | None, *, secure: bool = False) -> Place:
    """The place of the cluster of that number: the next place where most of the wanted blows can be struck.

    Namespaces are only needed for faults of links; without these, other places serve as well.
    """
    wanted = only or list(BLOWS)
    links = set(wanted) & LINKS.keys() - impossible().keys()
    places = [place for place in PLACES if place.possible(wanted) and (links or place.way != NAMESPACES)]
    if secure:
        places = [replace(place, secure=True) for place in PLACES if place.way != NAMESPACES]
    place = places[number % len(places)]
    return place if nodes is None else replace(place, nodes=nodes)
