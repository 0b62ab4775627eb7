"""Leases for asyncio: the calls that grant them, and a lease as its holder has it."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, Self

from forge_consensus.client.key_commands import ttl_ms_of
from forge_consensus.client.key_records import LeaseInfo, LeaseRef, lease_id_of
from forge_consensus.client.lease_calls import LEASES_LIMIT
from forge_consensus.client.lease_keeper import LeaseLife, LostLatch, running_clock
from forge_consensus.client.machine_calls import AsyncMachineCalls
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import ConsensusError
from forge_consensus.storage.machines.machine import Command

if TYPE_CHECKING:
    from forge_consensus.client.driver import Driver


class AsyncLeaseCalls(AsyncMachineCalls):
    """The leases of the built-in key-value machine, as coroutines."""

    def lease_driver(self) -> Driver:
        """The driver that keeps leases alive."""
        raise NotImplementedError

    async def lease(self, ttl: float, timeout: float | None = None) -> AsyncLease:
        """Grant a lease that lives for `ttl` seconds; arguments and errors as `LeaseCalls.lease`."""
        ttl_ms = ttl_ms_of(ttl)
        sent_at = running_clock()
        number = int(await self.apply(Command("lease_grant", {"ttl_ms": ttl_ms}), timeout))
        return AsyncLease(self, number, ttl_ms / 1000, sent_at)

    async def lease_info(
        self, lease: LeaseRef, consistency: str = "linearizable", timeout: float | None = None
    ) -> LeaseInfo | None:
        """Return what the cluster knows of a lease, with its keys; None if there is none of that id."""
        row = await self.read({"lease": lease_id_of(lease)}, consistency, timeout)
        return None if row is None else LeaseInfo.of_row(row)

    async def leases(
        self,
        after: int = 0,
        limit: int = LEASES_LIMIT,
        consistency: str = "linearizable",
        timeout: float | None = None,
    ) -> list[LeaseInfo]:
        """Return at most `limit` leases with ids above `after`, in order, without the names of their keys."""
        rows = await self.read({"leases": after, "limit": limit}, consistency, timeout)
        return [LeaseInfo.of_row(row) for row in rows]


class AsyncLease(PublicSurface):
    """A `Lease` for asyncio: ``async with await client.lease(10) as lease`` keeps it alive, and revokes it at the end.

    The client's thread keeps it alive, so that a busy event loop does not lose it.
    """

    internal = frozenset({"internal", "client", "life", "keepings"})

    def __init__(self, client: AsyncLeaseCalls, number: int, ttl: float, sent_at: float) -> None:
        self.client = client
        self.id = number
        """The log entry that granted it, which is its name."""
        self.ttl = ttl
        """For how many seconds it lives after each keep-alive."""
        self.life = LeaseLife(number, ttl, sent_at)
        self.keepings: list[AsyncKeptLease] = []
        """What keeps it alive at present."""

    def __repr__(self) -> str:
        """Its id, its time to live, and for how long it lives for certain."""
        state = "lost" if self.lost.is_set() else f"lives for {self.valid_for:.1f} s or longer"
        return f"<AsyncLease {self.id} of {self.ttl:g} s, {state}>"

    @property
    def lost(self) -> LostLatch:
        """A flag with `is_set`: whether the lease must be regarded as gone; as `Lease.lost`. `wait_lost` waits."""
        return self.life.lost

    @property
    def valid_for(self) -> float:
        """For how many seconds it lives for certain if nobody keeps it alive; 0 if it must be regarded as gone."""
        return self.life.seconds

    async def wait_lost(self, timeout: float | None = None) -> bool:
        """Wait until it is lost, at most `timeout` seconds (None: without limit); return whether it is."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        end = inf if timeout is None else loop.time() + timeout

        def wake() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(ready.set)

        self.life.sleepers.append(wake)
        try:
            while not self.lost.is_set():
                left = min(self.lost.until - running_clock(), end - loop.time())
                if left <= 0:
                    break
                with suppress(TimeoutError):
                    await asyncio.wait_for(ready.wait(), left)
        finally:
            self.life.sleepers.remove(wake)
        return self.lost.is_set()

    async def keep_alive(self, timeout: float | None = None) -> float:
        """Have it live for `ttl` seconds from now on, and return that time; errors as `Lease.keep_alive`."""
        sent_at = running_clock()
        ttl_ms = await self.client.apply(Command("lease_keep_alive", {"lease": self.id}), timeout)
        self.life.kept(sent_at)
        return float(ttl_ms) / 1000

    async def revoke(self, timeout: float | None = None) -> int:
        """End it now, and return how many keys went with it; as `Lease.revoke`."""
        self.stop_keeping()
        gone = int(await self.client.apply(Command("lease_revoke", {"lease": self.id}), timeout))
        self.life.end()
        return gone

    async def left(self, timeout: float | None = None) -> float | None:
        """Ask the cluster for how many seconds it lives still, and return that; None if it is gone."""
        found = await self.client.lease_info(self.id, timeout=timeout)
        return None if found is None else found.left

    def kept(self, on_lost: Callable[[AsyncLease], object] | None = None) -> AsyncKeptLease:
        """Return what keeps it alive inside of an ``async with`` statement; it is not revoked at the end.

        Args:
            on_lost: called with the lease on the event loop once it is lost, as `Lease.kept` says; None for nobody.

        """
        return AsyncKeptLease(self, on_lost)

    def stop_keeping(self) -> None:
        """End all that keeps it alive."""
        for keeping in self.keepings.copy():
            keeping.end()

    async def __aenter__(self) -> Self:
        """Begin to keep it alive."""
        await self.kept().begin()
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Revoke it; if that fails it ends by itself."""
        self.stop_keeping()
        if not self.life.lost.flag:
            with suppress(ConsensusError):
                await self.revoke()


class AsyncKeptLease(PublicSurface):
    """What keeps a lease alive; see `AsyncLease.kept`."""

    internal = frozenset({"internal", "on_lost", "listener", "finalizer"})

    def __init__(self, lease: AsyncLease, on_lost: Callable[[AsyncLease], object] | None) -> None:
        self.lease = lease
        self.on_lost = on_lost
        self.listener: Callable[[], object] | None = None
        self.finalizer: weakref.finalize[Any, Any] | None = None

    async def begin(self) -> AsyncLease:
        """Begin to keep the lease alive, and return it; errors as `KeptLease.begin`."""
        lease = self.lease
        if lease.lost.is_set():
            await lease.keep_alive()
            lease.lost.clear()
        if self.finalizer is not None:
            return lease
        driver = lease.client.lease_driver()
        self.finalizer = weakref.finalize(lease, driver.leave_lease, lease.life)
        self.finalizer.atexit = False
        lease.keepings.append(self)
        if self.on_lost is not None:
            self.listener = self.listener or self.told_of(self.on_lost, asyncio.get_running_loop())
            lease.life.listeners.append(self.listener)
        driver.keep_lease(lease.life)
        return lease

    def told_of(self, on_lost: Callable[[AsyncLease], object], loop: asyncio.AbstractEventLoop) -> Callable[[], object]:
        """Return a function that tells of the loss on that loop, and does not keep a handle that others dropped."""
        known = weakref.ref(self.lease)

        def tell_here() -> None:
            found = known()
            if found is not None:
                on_lost(found)

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell_here)

        return tell

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

    async def __aenter__(self) -> AsyncLease:
        """Begin."""
        return await self.begin()

    async def __aexit__(self, *failure: object) -> None:
        """End."""
        self.end()
