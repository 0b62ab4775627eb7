"""The schedule of faults: which fault strikes when and where, drawn from the seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from forge_consensus.storage.backends.memory import DISK_FREE_BYTES
from forge_consensus.testing.faults.disks import DISK_FAULTS
from forge_consensus.testing.faults.members import MEMBER_FAULTS
from forge_consensus.testing.faults.networks import CUTS, NETWORK_FAULTS
from forge_consensus.testing.faults.operators import OPERATOR_FAULTS
from forge_consensus.testing.faults.processes import PROCESS_FAULTS
from forge_consensus.testing.faults.strike import Ordered, Strike
from forge_consensus.testing.world.cluster import SimulatedCluster
from forge_consensus.testing.world.operator import SPARES, Operator

Fault = Callable[[Strike], str]
"""Injects one fault; returns in words which node it hit and how."""

ALL = (*PROCESS_FAULTS, *NETWORK_FAULTS, *DISK_FAULTS, *OPERATOR_FAULTS, *MEMBER_FAULTS)
KINDS: dict[str, Fault] = {fault.__name__: fault for fault in ALL}
"""Every kind of fault, by the name of its function."""
MISTAKES = frozenset(fault.__name__ for fault in OPERATOR_FAULTS)
"""The kinds that are mistakes of people; they are wild, too."""
WILD = MISTAKES | frozenset(
    {
        "jump_clock_by_years",
        "creep_clock",
        "full_disk_for_long",
        "slow_disk_for_long",
        "cut_for_long",
        "crash_loop",
    }
)
"""The kinds that strike only in runs that ask for them, because each changes a whole run or costs much time."""
CHANGES = frozenset(fault.__name__ for fault in MEMBER_FAULTS)
"""The kinds that change members or leadership. They strike only in runs whose members change, and there often."""
CHANGE_WEIGHTS = (1.0, 4.0, 10.0)
"""How often each of them may strike; more than half of all strikes are theirs then, and never all."""
NAMED = frozenset({"put_running_copy_back"})
"""The kinds that strike only in runs that name them: among the others they would change what a seed means."""
PACES_SECONDS = (0.2, 0.5, 1.0, 2.0)
"""Mean times between two faults. With 0.1 s most clusters were never healthy long enough to serve anything."""
KIND_PACE_SECONDS = 0.4
"""The mean time between two faults when the caller names the kinds."""


class Faults:
    """Strikes a cluster with faults until `heal` repairs everything; `ordered` lists the injected faults.

    Each seed uses only some kinds of faults, each with a frequency of its own: runs in which everything happens at once
    find less than runs that differ (swarm testing). Every strike draws from a random source of its own, named by its
    number; the time of the next strike comes from there too. So leaving out the strikes in `skip` changes nothing of
    what the others draw, and a failure can be shrunk to the strikes that it needs.
    """

    def __init__(
        self,
        cluster: SimulatedCluster,
        kinds: Sequence[str] = (),
        skip: frozenset[int] = frozenset(),
        pace: float = 1.0,
        wild: frozenset[str] = frozenset(),
        spares: int = 0,
    ) -> None:
        """Prepare the faults of a run; `start` begins them.

        Args:
            cluster: the cluster to strike.
            kinds: the names of the kinds to use, all equally often and in quick succession; if empty, the seed chooses.
            skip: the numbers of the strikes to leave out.
            pace: the factor by which all times are stretched.
            wild: the kinds of `WILD` that the seed may choose too.
            spares: how many new nodes may join. With 0 the seed chooses none of `CHANGES`.

        Raises `KeyError` for a kind that is not in `KINDS`.

        """
        self.cluster = cluster
        self.timeline = cluster.timeline
        self.skip = skip
        self.pace = pace
        self.weights = {KINDS[kind].__name__: 1.0 for kind in kinds} or self.swarm(wild, changes=spares > 0)
        self.pace_seconds = KIND_PACE_SECONDS if kinds else self.timeline.chance("faults").choice(PACES_SECONDS)
        if spares and not kinds:
            self.pace_seconds /= 2  # because more than half of the strikes harm nobody
        self.running = False
        self.number = 0
        self.ordered: list[Ordered] = []
        self.operator = Operator(cluster, spares or SPARES)

    def swarm(self, wild: frozenset[str], *, changes: bool) -> dict[str, float]:
        """Draw how often each kind strikes under this seed; a new kind would not change the weights of the others."""
        usual = [kind for kind in KINDS if kind not in WILD | NAMED | CHANGES]
        weights = {kind: self.timeline.chance(f"weight of {kind}").choice((0.0, 0.3, 1.0, 3.0)) for kind in usual}
        weights |= {kind: self.timeline.chance(f"weight of {kind}").choice((0.5, 2.0)) for kind in sorted(wild)}
        if changes:
            chosen = {
                kind: self.timeline.chance(f"weight of {kind}").choice(CHANGE_WEIGHTS) for kind in sorted(CHANGES)
            }
            weights |= chosen
        # Cuts add up until a `mend`, and a cluster that is always partitioned shows little.
        cuts = sum(weights[fault.__name__] for fault in CUTS)
        weights["mend"] = cuts * self.timeline.chance("mending").choice((0.1, 0.5, 1.0))
        return weights if any(weights.values()) else dict.fromkeys(usual, 1.0)

    @property
    def changes(self) -> bool:
        """Whether members or leaders are changed in this run."""
        return not CHANGES.isdisjoint(self.weights)

    @property
    def counts(self) -> dict[str, int]:
        """How often each kind has struck."""
        counts: dict[str, int] = {}
        for ordered in self.ordered:
            counts[ordered.kind] = counts.get(ordered.kind, 0) + 1
        return counts

    def start(self) -> None:
        """Strike again and again, after random pauses, until `heal`."""
        self.running = True
        self.next()

    def next(self) -> None:
        """Number the next strike, on which its draws depend, and plan it after a random pause."""
        self.number += 1
        strike = Strike(self.cluster, self.number, self.pace, lambda: self.running, self.operator)
        wait = strike.chance.expovariate(1 / self.pace_seconds) * self.pace
        self.timeline.after(wait, lambda: self.strike(strike))

    def strike(self, strike: Strike) -> None:
        """Inject one fault, unless it is to be left out, and plan the next."""
        if not self.running:
            return
        kind = strike.chance.choices(list(self.weights), list(self.weights.values()))[0]
        if strike.number not in self.skip:
            self.timeline.note("strike", f"{strike.number} {kind}")
            at = self.timeline.now
            self.ordered.append(Ordered(at, kind, KINDS[kind](strike), strike.number))
        self.next()

    def heal(self) -> None:
        """Stop the faults and repair everything, except disks that are ruined: all nodes run, all frames arrive."""
        self.running = False
        self.timeline.note("heal", "")
        self.cluster.network.heal()
        self.cluster.raise_quota()
        for name, node in self.cluster.nodes.items():
            node.crash_opening = False
            node.files.stop_in = node.files.error_in = None
            node.full, node.slow_commits = False, None
            if node.skips:
                self.cluster.crash(name)
                self.cluster.skip(name, None)
            base = node.running
            if base is None:
                self.cluster.restart(name)
            else:
                base.crash_at = base.turn_fails = None
                base.disk.ordered_failure = None
                base.disk.disk_free_bytes = DISK_FREE_BYTES
                base.slow_commits = (0.0001, 0.002)
                base.resume_at = min(base.resume_at, self.timeline.now)
                base.wake(0.0)
