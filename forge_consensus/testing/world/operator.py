"""The operator of a simulated cluster: changes its members while faults strike, and never past what it can survive.

A change is asked for as a program would, and again until it is made. The operator knows which disks were ruined. It
leaves a majority of good ones in every set of voters that may come into force, because no cluster survives otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.actors.messages import ChangeMembers, MembersPlanned
from forge_consensus.actors.notices import MembersRequested, TransferRequested
from forge_consensus.actors.runtime.address import Address
from forge_consensus.errors import ConsensusError
from forge_consensus.storage.ledger.changes import changes_of, left, steps
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.testing.world.base import SimulatedBase
from forge_consensus.testing.world.cluster import WIPED, SimulatedCluster

SPARES = 2
"""How many new nodes there are if nobody says."""
ANSWER_SECONDS_MAX = 10.0
"""A running leader that has not answered for so long has lost the request, in a turn that was rolled back."""

Row = tuple[str, str, str]
"""A change as a client asks for it: action, node, address."""


class Asker(Address):
    """Whoever asked a leader for something; it keeps the answers."""

    def __init__(self) -> None:
        super().__init__(None)
        self.answers: list[Any] = []

    def deliver(self, message: Any, sender: Address) -> None:
        """Keep an answer; it counts even if the turn that gave it is rolled back, which is only pessimistic."""
        self.answers.append(message)


@dataclass(slots=True)
class Request:
    """A change that was asked for, and the configurations that it leads to if it is made."""

    base: SimulatedBase
    at: float
    path: list[Configuration]
    asker: Asker = field(default_factory=Asker)

    @property
    def made(self) -> bool:
        """Whether the leader has answered that the first step is in its log."""
        return bool(self.asker.answers) and isinstance(self.asker.answers[-1], MembersPlanned)


class Operator:
    """Changes the members of one cluster, one request at a time; `spares` is how many new nodes it has."""

    def __init__(self, cluster: SimulatedCluster, spares: int = SPARES) -> None:
        self.cluster = cluster
        self.spares = spares
        self.request: Request | None = None
        cluster.planned = self.planned

    # --- what may be in force ----------------------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether the last request may still be carried out, although it was not answered yet."""
        request = self.request
        if request is None or request.asker.answers or not request.base.alive:
            return False
        now = self.cluster.timeline.now
        return request.base.resume_at > now or now - request.at < ANSWER_SECONDS_MAX

    def planned(self) -> list[Configuration]:
        """The configurations that come into force once what was asked for is made."""
        return [*self.request.path] if self.request is not None and self.waits else []

    # --- changing ----------------------------------------------------------------------------------------------------

    def ask(self, changes: Sequence[Row], *, force: bool = False) -> bool:
        """Ask the leader for these changes; returns whether it was asked. What it answers is in `request`."""
        leader = self.cluster.leader()
        if leader is None or self.waits:
            return False
        present = leader.engine.ledger.configuration
        if present.is_joint:
            present = left(present)
        try:
            path = steps(present, changes_of(changes), {node: "not met yet" for _, node, _ in changes})
        except ConsensusError:
            path = []  # the leader will refuse it as well
        if not self.cluster.bear(path):
            return False
        self.request = Request(leader, self.cluster.timeline.now, path)
        message = MembersRequested(ChangeMembers(tuple(changes), force), self.request.asker)
        leader.tell(leader.engine.actor("membership"), message)
        return True

    def hand_over(self, target: str = "") -> SimulatedBase | None:
        """Ask the leader to hand over, to any voter without a target; returns the leader that was asked."""
        leader = self.cluster.leader()
        if leader is not None:
            leader.tell(leader.engine.actor("election"), TransferRequested(target, None))
        return leader

    def start_empty(self, name: str) -> None:
        """Start a node on an empty folder to join, whatever it was before: the documented way back.

        It stays suspect for as long as it may be a member by its former folder.
        """
        cluster = self.cluster
        if name in cluster.nodes:
            cluster.crash(name)
            cluster.wipe(name)
            cluster.gone.pop(name, None)
            cluster.nodes[name].joins = True
            cluster.restart(name)
        else:
            cluster.join(name)
        self.acquit()

    def acquit(self) -> None:
        """Take nodes that run on an empty folder for good ones, once no configuration names them as former members."""
        possible = self.cluster.possible()
        for name, how in list(self.cluster.suspect.items()):
            node = self.cluster.nodes[name]
            if how == WIPED and node.joins and name not in self.cluster.gone:
                base = node.running
                folder = "" if base is None else base.engine.ledger.identity.incarnation
                if all(name not in each.nodes or each.folder_of(name) == folder != "" for each in possible):
                    del self.cluster.suspect[name]
                    if base is not None:
                        base.disk_is_damaged = False

    def ruined_members(self) -> Iterator[str]:
        """The members by the configuration in force on the leader whose folders are ruined, or are not the ones named.

        A leader that could not meet a node's new folder names the former one, by which the node never joins.
        """
        leader = self.cluster.leader()
        if leader is None:
            return
        present = leader.engine.ledger.configuration
        for name in sorted(present.nodes):
            base, folder = self.cluster.nodes[name].running, present.folder_of(name)
            other = base is not None and folder not in {"", base.engine.ledger.identity.incarnation}
            if other or name in self.cluster.suspect:
                yield name

    def tidy(self) -> bool:
        """Ask to remove a member whose folder is ruined, forced; returns whether nothing is left to do.

        A removal that is not committed may be taken back, above all if the ruined node itself leads.
        """
        self.acquit()
        leader = self.cluster.leader()
        if leader is None:
            return False
        ruined = list(self.ruined_members())
        if ruined:
            self.ask([("remove", ruined[0], "")], force=True)
        ledger = leader.engine.ledger
        return not ruined and not self.waits and ledger.configurations.last <= ledger.commit_index
