"""The calls that grant leases and tell of them, for a class that has `apply` and `read`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from forge_consensus.client.key_commands import ttl_ms_of
from forge_consensus.client.key_records import LeaseInfo, LeaseRef, lease_id_of
from forge_consensus.client.lease_keeper import running_clock
from forge_consensus.client.leases import Lease
from forge_consensus.client.machine_calls import MachineCalls
from forge_consensus.storage.machines.machine import Command

if TYPE_CHECKING:
    from forge_consensus.client.driver import Driver

LEASES_LIMIT = 1000


class LeaseCalls(MachineCalls):
    """The leases of the built-in key-value machine."""

    def lease_driver(self) -> Driver:
        """The driver that keeps leases alive."""
        raise NotImplementedError

    def lease(self, ttl: float, timeout: float | None = None) -> Lease:
        """Grant a lease that lives for `ttl` seconds, 0.1 to a year, and whenever it is kept alive for as long again.

        Nothing keeps it alive unless the result is used in a ``with`` statement, or by its `kept`. Let `ttl` be longer
        than a failover takes, some seconds. Raises `InvalidConfigError` for a wrong `ttl`.
        """
        ttl_ms = ttl_ms_of(ttl)
        sent_at = running_clock()
        number = int(self.apply(Command("lease_grant", {"ttl_ms": ttl_ms}), timeout))
        return Lease(self, number, ttl_ms / 1000, sent_at)

    def lease_info(
        self, lease: LeaseRef, consistency: str = "linearizable", timeout: float | None = None
    ) -> LeaseInfo | None:
        """Return what the cluster knows of a lease, with its keys; None if there is none of that id."""
        row = self.read({"lease": lease_id_of(lease)}, consistency, timeout)
        return None if row is None else LeaseInfo.of_row(row)

    def leases(
        self,
        after: int = 0,
        limit: int = LEASES_LIMIT,
        consistency: str = "linearizable",
        timeout: float | None = None,
    ) -> list[LeaseInfo]:
        """Return at most `limit` leases with ids above `after`, in order, without the names of their keys."""
        rows = self.read({"leases": after, "limit": limit}, consistency, timeout)
        return [LeaseInfo.of_row(row) for row in rows]
