"""A lease as its holder has it: kept alive, left or revoked."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from forge_consensus.client.key_records import LeaseInfo
from forge_consensus.client.lease_keeper import LeaseLife, LostLatch, running_clock, told_on_a_thread
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import ConsensusError
from forge_consensus.storage.machines.machine import Command

if TYPE_CHECKING:
    from forge_consensus.client.driver import Driver


class LeaseClient(Protocol):
    """What a lease needs of the client or service that granted it."""

    def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Have a command applied."""

    def lease_info(self, lease: int, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Ask what the cluster knows of a lease."""

    def lease_driver(self) -> Driver:
        """The driver that keeps leases alive."""


class Lease(PublicSurface):
    """A lease of the cluster: the keys that are attached to it go when it ends.

    It ends `ttl` seconds after it was granted or kept alive last, by the cluster's own time: time in which the whole
    cluster was down does not count. In a ``with`` statement it is kept alive by the client, and revoked at the end, so
    that its keys go at once:

        with client.lease(10) as lease:
            client.put("service/web/1", "10.0.0.1:80", lease=lease)
            serve()

    `Client.lease` makes it; calls raise what `apply` raises. Any thread may use it.
    """

    internal = frozenset({"internal", "client", "life", "keepings"})

    def __init__(self, client: LeaseClient, number: int, ttl: float, sent_at: float) -> None:
        self.client = client
        self.id = number
        """The log entry that granted it, which is its name."""
        self.ttl = ttl
        """For how many seconds it lives after each keep-alive."""
        self.life = LeaseLife(number, ttl, sent_at)
        self.keepings: list[KeptLease] = []
        """What keeps it alive at present."""

    def __repr__(self) -> str:
        """Its id, its time to live, and for how long it lives for certain."""
        state = "lost" if self.lost.is_set() else f"lives for {self.valid_for:.1f} s or longer"
        return f"<Lease {self.id} of {self.ttl:g} s, {state}>"

    @property
    def lost(self) -> LostLatch:
        """A flag with `is_set` and `wait`: whether the lease must be regarded as gone.

        It goes by this process' own clock, from when the last keep-alive that succeeded was sent, and so is set before
        the cluster ends the lease. Of a lease that is kept it is final.
        """
        return self.life.lost

    @property
    def valid_for(self) -> float:
        """For how many seconds it lives for certain if nobody keeps it alive; 0 if it must be regarded as gone."""
        return self.life.seconds

    def keep_alive(self, timeout: float | None = None) -> float:
        """Have it live for `ttl` seconds from now on, and return that time.

        Raises `CommandError` if the cluster does not know it any more.
        """
        sent_at = running_clock()
        ttl_ms = self.client.apply(Command("lease_keep_alive", {"lease": self.id}), timeout)
        self.life.kept(sent_at)
        return float(ttl_ms) / 1000

    def revoke(self, timeout: float | None = None) -> int:
        """End it now, and return how many keys went with it; 0 if it had ended before.

        Nothing keeps it alive from the beginning of this call on, also if the call fails.
        """
        self.stop_keeping()
        gone = int(self.client.apply(Command("lease_revoke", {"lease": self.id}), timeout))
        self.life.end()
        return gone

    def left(self, timeout: float | None = None) -> float | None:
        """Ask the cluster for how many seconds it lives still, and return that; None if it is gone."""
        found: LeaseInfo | None = self.client.lease_info(self.id, timeout=timeout)
        return None if found is None else found.left

    def kept(self, on_lost: Callable[[Lease], object] | None = None) -> KeptLease:
        """Return what keeps it alive from `begin` to `end`, or in a ``with`` statement; it is not revoked at the end.

        The client's thread keeps it alive three times in each `ttl`, over failovers too. If none succeeds for `ttl`
        seconds, or the cluster does not know the lease any more, or the client is closed, it is `lost`.

        Args:
            on_lost: called with the lease once it is lost, on a thread of its own; None for nobody.

        """
        return KeptLease(self, on_lost)

    def stop_keeping(self) -> None:
        """End all that keeps it alive."""
        for keeping in self.keepings.copy():
            keeping.end()

    def __enter__(self) -> Self:
        """Begin to keep it alive."""
        self.kept().begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Revoke it; if that fails it ends by itself."""
        self.stop_keeping()
        if not self.life.lost.flag:
            with suppress(ConsensusError):
                self.revoke()


class KeptLease(PublicSurface):
    """What keeps a lease alive; see `Lease.kept`."""

    internal = frozenset({"internal", "on_lost", "listener", "finalizer"})

    def __init__(self, lease: Lease, on_lost: Callable[[Lease], object] | None) -> None:
        self.lease = lease
        self.listener = None if on_lost is None else told_on_a_thread(self.told_of(on_lost))
        self.finalizer: weakref.finalize[Any, Any] | None = None

    def begin(self) -> Lease:
        """Begin to keep the lease alive, and return it.

        Raises `CommandError` if its time is over and the cluster does not know it any more.
        """
        lease = self.lease
        if lease.lost.is_set():
            lease.keep_alive()
            lease.lost.clear()
        if self.finalizer is not None:
            return lease
        driver = lease.client.lease_driver()
        self.finalizer = weakref.finalize(lease, driver.leave_lease, lease.life)
        self.finalizer.atexit = False
        lease.keepings.append(self)
        if self.listener is not None:
            lease.life.listeners.append(self.listener)
        driver.keep_lease(lease.life)
        return lease

    def end(self) -> None:
        """Keep the lease alive no longer; it ends by itself unless it is revoked. May be called twice."""
        lease, finalizer, self.finalizer = self.lease, self.finalizer, None
        if finalizer is None:
            return
        lease.keepings.remove(self)
        if self.listener is not None:
            lease.life.listeners.remove(self.listener)
        if lease.keepings:
            finalizer.detach()
        else:
            finalizer()

    def told_of(self, on_lost: Callable[[Lease], object]) -> Callable[[], object]:
        """Return a function that tells of the loss, and does not keep a handle that everybody else has dropped."""
        known = weakref.ref(self.lease)

        def tell() -> None:
            found = known()
            if found is not None:
                on_lost(found)

        return tell

    def __enter__(self) -> Lease:
        """Begin."""
        return self.begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""
        self.end()
