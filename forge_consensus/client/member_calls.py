"""The calls that change who belongs to a cluster and who leads it, as clients and services share them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from forge_consensus.actors.messages import GetMembers, Locate, Located, Members, TransferLeadership, TransferStarted
from forge_consensus.client.endpoints import LOCATE_WAIT_MS
from forge_consensus.client.members import POLL_SECONDS, ClusterMembers, MembersPlan
from forge_consensus.client.pending import PendingNodeQuery
from forge_consensus.client.steps import Pause, Steps
from forge_consensus.config.address import joined_address
from forge_consensus.errors import (
    ConsensusError,
    ConsensusTimeoutError,
    OperationFailedError,
    OutcomeUnknownError,
    UnavailableError,
)
from forge_consensus.storage.ledger.changes import Action, Change

LOOK_SECONDS_MIN: Final = 0.001
AGAIN_SECONDS: Final = 1.0
"""How long after a handover to a named node was asked for it is asked for again, if the same node leads still."""
STILL_LEADS = (
    "the same node still leads: the handover was given up, because the target did not win in time; try again, or name "
    "another target"
)
HANDED_OVER = (
    "the handover is begun, and nobody leads yet as far as is known: look at who leads before it is asked for again"
)
UNFINISHED = (
    "the change of members is begun and not complete yet: it goes on by itself; look at the members, and allow more "
    "time if a node has to catch up"
)
OVERTAKEN = (
    "the change of members was begun and is not in force: a new leader took it back, or another change was made after "
    "it; look at the members, and ask for it again if it is still wanted"
)


def soon_or(deadline: float) -> float:
    """The deadline of a look: there is time for one also when the whole time is over."""
    return max(deadline, time.monotonic() + LOOK_SECONDS_MIN)


def addition(node: str, address: str, port: int | None, *, learner: bool) -> Change:
    """The change that adds a node. Raises `InvalidConfigError` for a port besides an address that has one."""
    whole = address if port is None else joined_address(address, port)
    return Change(Action.ADD_LEARNER if learner else Action.ADD, node, whole)


def until_done(
    plan: MembersPlan, deadline: float, progress: Callable[[ClusterMembers], object] | None = None
) -> Steps[None]:
    """Wait for a change of members that is begun; `progress` gets what each look finds.

    `deadline` is in seconds of `time.monotonic`. Raises `ConsensusTimeoutError` when the time is over, also if the last
    look failed, because then too the change is begun and not complete; and at once the error of a look that no later
    one can mend.
    """
    while plan.index:
        problem: ConsensusError | None = None
        try:
            told = yield PendingNodeQuery[Members](GetMembers(), "", soon_or(deadline))
            found = ClusterMembers.of(told)
        except ConsensusError as error:
            if not error.retryable and not isinstance(error, ConsensusTimeoutError):
                raise
            problem = error
        else:
            if progress is not None:
                progress(found)
            if max(told.index, told.commit) >= plan.index and plan.is_done(found):  # else it tells what was before
                return
            if found.settled and told.commit >= plan.index:
                raise OperationFailedError(OVERTAKEN)
        if time.monotonic() > deadline:
            raise ConsensusTimeoutError(UNFINISHED) from problem
        yield Pause(POLL_SECONDS)


def until_transferred(
    started: TransferStarted, target: str, deadline: float, progress: Callable[[str], object] | None = None
) -> Steps[str]:
    """Wait until another node leads after a handover that is begun; returns which.

    `progress` gets the target at each look. Raises `ConsensusTimeoutError` if the same node still leads at the end,
    `OutcomeUnknownError` if nobody is known to.

    A handover to a named node is asked for again while the same node leads, because it is given up after an election
    timeout, and a node that was just started may take longer to catch up.
    """
    asked_at, problem = time.monotonic(), None
    while True:
        try:
            located = yield PendingNodeQuery[Located](Locate(0, LOCATE_WAIT_MS), "", soon_or(deadline))
        except UnavailableError as error:
            raise OutcomeUnknownError(HANDED_OVER) from error
        now = time.monotonic()
        if located.term > started.term:
            return str(located.leader)
        if progress is not None:
            progress(started.target)
        if now > deadline:
            raise ConsensusTimeoutError(STILL_LEADS) from problem
        if target and now - asked_at >= AGAIN_SECONDS:
            asked_at, until = now, min(deadline, now + AGAIN_SECONDS)
            try:
                yield PendingNodeQuery[TransferStarted](TransferLeadership(target), "", until)
            except ConsensusError as error:
                problem = error
        yield Pause(POLL_SECONDS)


class MemberCalls:
    """Names for the usual changes, over the two calls that everything goes through."""

    def change_members(
        self,
        *changes: Change,
        force: bool = False,
        dry_run: bool = False,
        wait: bool = True,
        timeout: float | None = None,
    ) -> MembersPlan:
        """Change the members of the cluster."""
        raise NotImplementedError

    def transfer_leadership(self, target: str = "", *, wait: bool = True, timeout: float | None = None) -> str | None:
        """Hand the leadership over to another voter."""
        raise NotImplementedError

    def step_down(self, *, timeout: float | None = None) -> str | None:
        """Have the leader hand over to any other voter (the original's `StepDown`); as `transfer_leadership`."""
        return self.transfer_leadership(timeout=timeout)

    def add_node(
        self,
        node: str,
        address: str,
        port: int | None = None,
        *,
        learner: bool = False,
        wait: bool = True,
        timeout: float | None = None,
    ) -> MembersPlan:
        """Add a node to the cluster, which is started with ``--join`` (the original's `AddNode`).

        It receives the log as a learner first, and votes by itself once it has caught up.

        Args:
            node: the node's id.
            address: where the members reach it, ``host:port`` or ``ipc:///path``; with a port besides the host alone.
            port: the port, where it is given apart, as in the original.
            learner: whether it stays a learner.
            wait: whether to wait until it votes, or is a learner.
            timeout: how many seconds to try and to wait; None for the client's timeout.

        Raises as `change_members`.

        """
        return self.change_members(addition(node, address, port, learner=learner), wait=wait, timeout=timeout)

    def remove_node(
        self, node: str, *, force: bool = False, wait: bool = True, timeout: float | None = None
    ) -> MembersPlan:
        """Remove a node from the cluster (the original's `RemoveNode`); arguments and errors as `change_members`."""
        return self.change_members(Change(Action.REMOVE, node), force=force, wait=wait, timeout=timeout)
