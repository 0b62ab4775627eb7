"""The rule of the list of access: on all nodes it is the same after the same entry, and nothing revoked comes back."""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Any

from forge_consensus.security.access import AccessList
from forge_consensus.testing.rules.violations import demand
from forge_consensus.testing.world.base import SimulatedBase


class AccessLists:
    """A watcher that knows the list after each entry that changed it, as the first node had it.

    A node that has applied as much as another one must hold the list of the last change up to there: also after a
    restart, and after a snapshot. It holds where nobody forgets what was revoked.
    """

    def __init__(self) -> None:
        self.indexes: list[int] = [0]
        """The entries that are known to have changed the list, in order; 0 for the empty list."""
        self.rows: dict[int, bytes] = {0: b""}
        self.lists: dict[int, AccessList] = {0: AccessList()}

    def last_at(self, applied: int) -> int:
        """Return the last entry up to `applied` that is known to have changed the list."""
        return self.indexes[bisect_right(self.indexes, applied) - 1]

    def turned(self, node: SimulatedBase) -> None:
        """Compare the list of a node with those that are known. Raises `ViolationError`."""
        applier = node.engine.ledger.applier
        access = applier.access
        index, known = access.index, self.last_at(applier.index)
        if index > known and index <= applier.index:
            insort(self.indexes, index)
            self.rows[index], self.lists[index] = access.row, access.current
            self.check_revoked(index)
            return
        demand(
            index == known and (access.row is self.rows[known] or access.row == self.rows[known]),
            "I5",
            f"{node.name} has applied entry {applier.index}, and its list of access is that of entry {index}: "
            f"{access.row!r}; entry {known} made it {self.rows[known]!r} on another node",
        )

    def check_revoked(self, index: int) -> None:
        """Demand that a list admits nothing that it, or the one before it, has as revoked. Raises `ViolationError`."""
        place = self.indexes.index(index)
        for one, other in zip(self.indexes[place - 1 :], self.indexes[place : place + 2], strict=False):
            lost = sorted(self.lists[one].revoked - self.lists[other].revoked)
            demand(
                not lost, "revoked", f"the list of entry {other} does not have {lost} as revoked, as entry {one} has"
            )
        access = self.lists[index]
        admitted = [name for name in sorted(access.revoked) if access.of_key(name) or name in access.by_token]
        listed = [key for one in access.by_name.values() for key in one.keys if key in access.revoked]
        demand(
            not admitted + listed, "revoked", f"the list of entry {index} admits what was revoked: {admitted}{listed}"
        )

    def began(self, node: SimulatedBase) -> None:
        """Compare the list with which a process begins."""
        self.turned(node)

    def ended(self, node: SimulatedBase, error: BaseException | None) -> None:
        """Do nothing."""

    def durable(self, node: SimulatedBase, batch: Any) -> None:
        """Do nothing."""

    def asks(self, node: SimulatedBase, to: str, data: bytes) -> None:
        """Do nothing."""

    def answers(self, node: SimulatedBase, connection: Any, frame: Any) -> None:
        """Do nothing."""
