"""The calls that change who belongs to a cluster and who leads it, as clients and services share them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import suppress

from forge_consensus.client.members import POLL_SECONDS, ClusterMembers, MembersPlan
from forge_consensus.errors import ConsensusError, ConsensusTimeoutError
from forge_consensus.storage.ledger.changes import Action, Change

STILL_LEADS = (
    "the same node still leads: the handover was given up, because the target did not win in time; try again, or name "
    "another target"
)
UNFINISHED = (
    "the change of members is begun and not complete yet: it goes on by itself; look at the members, and allow more "
    "time if a node has to catch up"
)


def looks_until_done(plan: MembersPlan, deadline: float) -> Generator[float, ClusterMembers | ConsensusError, None]:
    """Wait for a change that is begun, for any kind of client: yield how many seconds the next look may take.

    It is sent what the look found, or its error, and ends when the change is done. `deadline` is in seconds of
    `time.monotonic`. Raises `ConsensusTimeoutError` when the time is over, also if the last look failed, because then
    too the change is begun and not complete; and at once the error of a look that no later one can mend.
    """
    while plan.index:
        found = yield max(deadline - time.monotonic(), 0.001)
        if isinstance(found, ClusterMembers):
            if plan.is_done(found):
                return
        elif not found.retryable and not isinstance(found, ConsensusTimeoutError):
            raise found
        if time.monotonic() > deadline:
            raise ConsensusTimeoutError(UNFINISHED) from (found if isinstance(found, ConsensusError) else None)


def wait_for_change(
    look: Callable[[float], ClusterMembers],
    plan: MembersPlan,
    deadline: float,
    progress: Callable[[ClusterMembers], object] | None = None,
) -> None:
    """Wait until a change that is begun is complete; `looks_until_done` says what it raises.

    `look` returns the members and tries for so many seconds, `progress` gets what each look finds.
    """
    looks = looks_until_done(plan, deadline)
    with suppress(StopIteration):
        seconds = next(looks)
        while True:
            found: ClusterMembers | ConsensusError
            try:
                found = look(seconds)
            except ConsensusError as error:
                found = error
            if progress is not None and isinstance(found, ClusterMembers):
                progress(found)
            seconds = looks.send(found)
            time.sleep(POLL_SECONDS)


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
        self, node: str, address: str, *, learner: bool = False, wait: bool = True, timeout: float | None = None
    ) -> MembersPlan:
        """Add a node to the cluster, which is started with ``--join`` (the original's `AddNode`).

        It receives the log as a learner first, and votes by itself once it has caught up.

        Args:
            node: the node's id.
            address: where the members reach it, ``host:port`` or ``ipc:///path``.
            learner: whether it stays a learner.
            wait: whether to wait until it votes, or is a learner.
            timeout: how many seconds to try and to wait; None for the client's timeout.

        Raises as `change_members`.

        """
        change = Change(Action.ADD_LEARNER if learner else Action.ADD, node, address)
        return self.change_members(change, wait=wait, timeout=timeout)

    def remove_node(
        self, node: str, *, force: bool = False, wait: bool = True, timeout: float | None = None
    ) -> MembersPlan:
        """Remove a node from the cluster (the original's `RemoveNode`); arguments and errors as `change_members`."""
        return self.change_members(Change(Action.REMOVE, node), force=force, wait=wait, timeout=timeout)
