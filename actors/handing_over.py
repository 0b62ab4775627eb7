"""Handing over: a leader gives its leadership to another voter, on request or because its node stops.

How is explained in `forge_consensus.actors.raft.handover`.
"""

from __future__ import annotations

from math import inf
from typing import Any, Final

from forge_consensus.actors.messages import Refused, TransferStarted
from forge_consensus.actors.notices import (
    Resign,
    Retire,
    RetireDue,
    TransferBegan,
    TransferDue,
    TransferFailed,
    TransferRequested,
)
from forge_consensus.actors.raft.handover import choose
from forge_consensus.actors.runtime.actor import ConsensusActor
from forge_consensus.actors.runtime.handover import Handover
from forge_consensus.actors.runtime.shared import PeerStatus
from forge_consensus.errors import BusyError, ConsensusError, NotLeaderError

LINGER_SECONDS: Final = 0.05
"""How long a node that has handed over stays, so that its last answers, which name the new leader, reach clients."""


class HandingOver(ConsensusActor):
    """The part of the election actor that owns the handover of this node's leadership.

    Its node may be told to retire: then it hands over, if it leads, and stops. That takes an election timeout at most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.given_up_at = -inf
        """When a handover was given up last."""
        self.retiring = ""
        """Why the node is to stop once another one leads; empty while it is not."""

    @property
    def is_voter(self) -> bool:
        """Whether this node votes in the configuration in force or in the committed one, so that it may stand."""
        raise NotImplementedError

    def receiveMsg_Resign(self, message: Resign, sender: Any) -> None:
        """Stop leading without entering a new term."""
        raise NotImplementedError

    # --- on request --------------------------------------------------------------------------------------------------

    def receiveMsg_TransferRequested(self, message: TransferRequested, sender: Any) -> None:
        """Begin to hand the leadership over, and answer to whom; or say why not."""
        ledger, shared = self.ledger, self.shared
        term = ledger.leading_term
        try:
            if term is None:
                raise NotLeaderError(shared.leader)
            if shared.handover is not None:
                raise BusyError(f"the leadership is being handed over to {shared.handover.target}: try again")
            if self.clock.now() - self.given_up_at < self.settings.election_timeout_min:
                raise BusyError("a handover was given up just now, and what waited for it comes first: try again")
            target = self.begin(term, message.target)
        except ConsensusError as error:
            if message.asker is not None:
                self.send(message.asker, Refused(error.code, str(error), "", "", ledger.term))
            return
        if message.asker is not None:
            self.send(message.asker, TransferStarted(target, term))

    def begin(self, term: int, wanted: str, lost: str = "") -> str:
        """Begin a handover in the term that this node leads; returns the target. Raises as `choose`.

        `lost` is a node that health may not have found to be gone yet.
        """
        shared = self.shared
        unable = shared.refusals.keys() | {lost}
        able = [n for n, view in shared.peers.items() if view.status is PeerStatus.ACTIVE and n not in unable]
        target = choose(wanted, self.node_id, self.ledger.configuration, shared.match, able, self.ledger.commit_index)
        shared.handover = handover = Handover(target, term)
        self.after(self.settings.election_timeout_min, TransferDue(handover, told=False))
        self.tell("replication", TransferBegan())
        return target

    def receiveMsg_TransferDue(self, message: TransferDue, sender: Any) -> None:
        """Lead on, because the target does not lead in time. What clients asked for meanwhile is taken now.

        A target that was told to stand has an election timeout from then on. So no turn both tells it, which promises
        that it has the whole log, and takes new entries, however late a slow or suspended leader reads its answer.
        """
        handover = self.shared.handover
        if handover is not None and handover is message.handover and handover.told == message.told:
            self.give_up(handover)

    def lose_target(self, node: str) -> None:
        """Give a handover up at once, because the connection to its target broke."""
        handover = self.shared.handover
        if handover is not None and handover.target == node:
            self.give_up(handover)

    def give_up(self, handover: Handover) -> None:
        """End a handover that failed."""
        self.shared.handover = None
        if self.ledger.leading_term != handover.term:
            return
        self.given_up_at = self.clock.now()
        if self.retiring:
            self.hand_over_or_stop(self.retiring, handover.target)
            return
        self.tell_all(TransferFailed(handover.term))
        if not self.is_voter:
            self.tell("election", Resign(handover.term, "this node does not vote any more"))

    # --- before the end ----------------------------------------------------------------------------------------------

    def receiveMsg_Retire(self, message: Retire, sender: Any) -> None:
        """Stop the node; if it leads, have another one lead before."""
        if self.ledger.leading_term is None:
            self.context.stop(message.reason)
            return
        self.retiring = message.reason
        self.after(self.settings.election_timeout_min, RetireDue(message.reason))
        if self.shared.handover is None:
            self.hand_over_or_stop(message.reason)

    def hand_over_or_stop(self, reason: str, lost: str = "") -> None:
        """Begin a handover; stop the node at once if nobody can take the leadership."""
        term = self.ledger.leading_term
        try:
            if term is None:
                raise NotLeaderError(self.shared.leader)
            self.begin(term, "", lost)
        except ConsensusError:
            self.context.stop(reason)

    def receiveMsg_RetireDue(self, message: RetireDue, sender: Any) -> None:
        """Stop the node: it was not replaced in time, or it was and its last answers have left."""
        self.context.stop(message.reason)

    def end_if_retiring(self) -> None:
        """Stop the node soon, if another one has taken the leadership of this one, which is to stop."""
        if self.retiring and self.shared.leader != self.node_id:
            self.after(LINGER_SECONDS, RetireDue(self.retiring))
