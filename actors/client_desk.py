"""The client desk: what every part of the gateway needs to answer clients, above all how it refuses."""

from __future__ import annotations

from typing import Any

from forge_consensus.actors.messages import Located, Refused
from forge_consensus.actors.notices import SettingsChanged
from forge_consensus.actors.raft.capacity import Capacity
from forge_consensus.actors.raft.waiting import WaitingRequests
from forge_consensus.actors.runtime.actor import ConsensusActor, Context
from forge_consensus.actors.runtime.address import SenderAddress
from forge_consensus.actors.runtime.refusals import CLIENT_READS_TOO_LITTLE
from forge_consensus.actors.runtime.unread import UNREAD_TEXT
from forge_consensus.errors import BusyError, NoLeaderError, NotLeaderError


class ClientDesk(ConsensusActor):
    """The requests of clients that wait for an answer, and the ways to refuse one."""

    def __init__(self) -> None:
        super().__init__()
        self.ticket = 0
        self.waiting = WaitingRequests()

    def bind(self, context: Context) -> None:
        """Take the context, and with it the clients that were waiting for an answer before a rebuild."""
        super().bind(context)
        self.unanswered = context.unanswered
        self.unread = context.unread
        self.capacity = Capacity(self.ledger, self.waiting, self.settings)

    def receiveMsg_SettingsChanged(self, message: SettingsChanged, sender: Any) -> None:
        """Take requests by the new bounds."""
        super().receiveMsg_SettingsChanged(message, sender)
        self.capacity.settings = self.settings

    def located(self) -> Located:
        """The leader as far as this node knows it, and the members."""
        leader = self.shared.leader or ""
        configuration = self.ledger.configuration
        identity = self.ledger.identity
        # With peers, the configuration's address is binding. A single node may listen at another address than at the
        # one that its folder was created with.
        alone = leader == identity.node_id and not self.others
        address = self.context.bind_address if alone else configuration.addresses.get(leader, "")
        return Located(
            node=identity.node_id,
            cluster=identity.cluster_id,
            leader=leader,
            address=address,
            term=self.shared.leader_term if leader else self.ledger.term,
            members=configuration.members,
            frame_bytes_max=self.settings.message_bytes_max,
        )

    def refuse(self, asker: SenderAddress, code: str, text: str) -> None:
        """Refuse a whole request, and include the leader's address."""
        self.unanswered.settle(asker)
        known = self.located()
        self.send(asker, Refused(code, text, known.leader, known.address, known.term))

    def refuse_leader(self, asker: SenderAddress) -> None:
        """Refuse a request because this node does not lead; no part of it was carried out."""
        leader = self.shared.leader
        if leader is None:
            text = "no leader is known at this moment: an election goes on, or a majority is out of reach"
            self.refuse(asker, NoLeaderError.code, text)
        else:
            self.refuse(asker, NotLeaderError.code, f"{self.node_id} does not lead, {leader} does")

    def refuse_as_busy(self, asker: SenderAddress, text: str, count: int, numbers: tuple[int, ...] = ()) -> None:
        """Refuse `count` commands or queries, because too much waits already; no `numbers` mean all of the request."""
        self.totals.busy += count
        if not numbers:
            self.refuse(asker, BusyError.code, text)
            return
        self.refuse_some(asker, BusyError.code, text, numbers)

    def refuse_some(self, asker: SenderAddress, code: str, text: str, numbers: tuple[int, ...]) -> None:
        """Refuse the commands or queries with these numbers, and include the leader's address."""
        known = self.located()
        self.send(asker, Refused(code, text, known.leader, known.address, known.term, numbers))

    def refuse_unread(self, asker: SenderAddress, code: str, numbers: tuple[int, ...] = ()) -> None:
        """Send no results, because too many are unread on that connection."""
        self.context.refusals.count(CLIENT_READS_TOO_LITTLE)
        self.refuse_some(asker, code, UNREAD_TEXT, numbers)
