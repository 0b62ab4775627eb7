"""Locks: one holder at a time, in the order in which they came."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from math import inf
from types import TracebackType
from typing import Self

from forge_consensus.client.compare import Compare
from forge_consensus.client.lease_keeper import LostLatch
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import AlreadyHeldError, ConsensusError, LeaseLostError, NotHeldError
from forge_consensus.process.waiters import Waiters
from forge_consensus.recipes.hold import HoldCore
from forge_consensus.recipes.line import Line
from forge_consensus.recipes.names import TTL_SECONDS, check_name, check_owner, check_timeout, check_ttl
from forge_consensus.recipes.patience import NotYetError, Patience
from forge_consensus.recipes.steps import RecipeClient, Steps, carry_out, check_client

CONTENDERS_MAX = 1000


class LockCore(PublicSurface):
    """What the blocking locks and those of asyncio share. Through one of them the lock is held once at most."""

    blocking = True
    kind = "lock"

    internal = frozenset(
        {"internal", "blocking", "kind", "line", "hold", "on_lost", "owner", "held", "patience", "claiming"}
    )

    def __init__(
        self,
        client: RecipeClient,
        name: str,
        ttl: float = TTL_SECONDS,
        *,
        owner: str = "",
        timeout: float | None = None,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        check_client(type(self).__name__, client, blocking=self.blocking)
        self.name = check_name(self.kind, name)
        self.line = Line(client, self.kind, name, check_ttl(ttl))
        self.owner = check_owner(owner)
        self.timeout = check_timeout(timeout)
        self.on_lost = on_lost
        self.hold: HoldCore | None = None

    def patience(self, timeout: float | None) -> Patience:
        """The time limit of a call. Raises `InvalidConfigError` for a timeout that is none."""
        return self.line.patience(self.timeout if timeout is None else timeout)

    def __repr__(self) -> str:
        """Its name and whether it is held."""
        state = f"held with token {self.hold.token}" if self.hold is not None and self.is_held else "not held"
        return f"<{type(self).__name__} {self.name!r}, {state}>"

    def held(self) -> HoldCore:
        """What is held. Raises `NotHeldError`."""
        hold = self.hold
        if hold is None:
            raise NotHeldError(f"{self.kind} {self.name!r} is not held through this object: acquire it first")
        hold.held()
        return hold

    @property
    def token(self) -> int:
        """The fencing token: larger than those of all who held the lock before. Raises `NotHeldError`."""
        return self.held().token

    @property
    def key(self) -> str:
        """The key in the cluster that stands for the holder. Raises `NotHeldError`."""
        return self.held().key

    @property
    def is_held(self) -> bool:
        """Whether it is held for certain at this moment, by this process' clock; see `lost`."""
        hold = self.hold
        return hold is not None and hold.is_held

    @property
    def lost(self) -> LostLatch:
        """A flag with `is_set` and `wait`: whether the lease must be regarded as lost. Raises `NotHeldError`.

        It is set before the cluster lets others in, by this process' clock. Between a look and what is done next a
        process may stand still for any time: where that matters, use `token` or `guard`.
        """
        return self.held().lost

    def guard(self) -> list[Compare]:
        """What must hold in a transaction that only the present holder may carry out. Raises `NotHeldError`.

        Such as ``client.transaction(lock.guard(), [Command("set", {"key": "k", "value": 1})])``. It does not succeed
        once the cluster has let somebody else in, however late it arrives.
        """
        return self.held().guard()

    def claiming(self, patience: Patience) -> Steps[HoldCore]:
        """Wait for the turn, and give what is held then."""
        hold = HoldCore(self.line, self.on_lost)
        yield from hold.taking(self.owner, patience)
        return hold


class Turnstile:
    """Lets one thread of this process at a time deal with an object."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.free = deque([True])
        self.waiters = Waiters()
        self.owner: int | None = None
        """The thread that is inside."""

    def take(self) -> bool:
        """Go in if nobody is inside; return whether."""
        try:
            self.free.pop()
        except IndexError:
            return False
        self.owner = threading.get_ident()
        return True

    def enter(self, seconds: float) -> bool:
        """Go in, waiting at most so many seconds; return whether it was possible."""
        return self.waiters.wait_for(self.take, None if seconds == inf else seconds)

    def leave(self) -> None:
        """Let the next one in."""
        self.owner = None
        self.free.append(True)
        self.waiters.wake()


class Lock(LockCore):
    """A lock of the whole cluster: one holder at a time, in the order in which they asked.

    The holder has a lease that the client keeps alive. If it dies or is cut off, the lock is free `ttl` seconds later,
    and that is known here by `lost` and `is_held` before others get in. In a ``with`` statement::

        with Lock(client, "reports") as lock:
            client.transaction(lock.guard(), [Command("set", {"key": "report", "value": make_report()})])

    Any thread may use it. Threads that share one object wait for each other, and any of them may release it; to be
    served in the order in which they came, each takes an object of its own. A thread that holds it and acquires it
    again gets an error; see `RLock`. A forked process does not hold what its parent holds.

    Args:
        client: a `Client` or `ConsensusService` with the built-in machine.
        name: the lock's name, without ``#``; the holder and those who wait have keys that begin with ``locks/NAME#``.
        ttl: after how many seconds without a sign of life the lock is taken from its holder, 1 to 86,400. It must be
            longer than an election takes.
        owner: what others are told of this holder; "" for host and process.
        timeout: for how many seconds `acquire` and ``with`` wait where they are not told otherwise; None for no limit.
        on_lost: called without arguments, on a thread of its own, if the lease is lost while the lock is held; None for
            nobody.

    Raises `InvalidConfigError` for an argument that cannot be. Calls raise what the client's calls raise.

    """

    internal = LockCore.internal | {"turnstile", "enter"}

    def __init__(
        self,
        client: RecipeClient,
        name: str,
        ttl: float = TTL_SECONDS,
        *,
        owner: str = "",
        timeout: float | None = None,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(client, name, ttl, owner=owner, timeout=timeout, on_lost=on_lost)
        self.turnstile = Turnstile()

    def acquire(self, timeout: float | None = None) -> int:
        """Wait until the lock is held here, and return its fencing token.

        Args:
            timeout: how many seconds to wait, 0 to look once; None for what the lock was made with.

        Without a limit it ends all the same if the cluster cannot be asked at the beginning, with the client's error.
        Raises `ConsensusTimeoutError` when the time is over: it is not held and nobody waits for it here any more.
        Raises `AlreadyHeldError` if this thread holds it, `LeaseLostError` if no lease of its ttl can be kept alive.

        """
        patience = self.patience(timeout)
        self.enter(patience)
        try:
            self.hold = carry_out(self.claiming(patience))
        except BaseException:
            self.turnstile.leave()
            raise
        return self.hold.token

    def try_acquire(self) -> int | None:
        """Look once whether the lock is free; return the token if it is held here now, None if others are ahead."""
        try:
            return self.acquire(0)
        except NotYetError:
            return None

    def enter(self, patience: Patience) -> None:
        """Keep other threads of this process out. Raises `AlreadyHeldError`, `ConsensusTimeoutError`."""
        if self.turnstile.process != os.getpid():
            self.hold, self.turnstile = None, Turnstile()  # a fork: it is the parent who holds or awaits it
        if self.turnstile.owner == threading.get_ident():
            raise AlreadyHeldError(
                f"{self.kind} {self.name!r} is held or awaited by this very thread, which would wait for itself: "
                "release it first, or take an RLock"
            )
        if not self.turnstile.enter(patience.left):
            raise NotYetError(
                f"{self.kind} {self.name!r} was not to be had within {patience.timeout:g} s: another thread of this "
                "process holds or awaits it through the same object"
            )

    def release(self) -> None:
        """Release the lock, so that the next one has it at once.

        Raises `NotHeldError` if it is not held, and `LeaseLostError` if the lease had ended before, so that others may
        have held it since. If the cluster cannot be asked, the client's error is raised; the lock is free when the
        lease ends.
        """
        hold = self.held()
        claim = hold.withdrawn()
        self.hold = None
        try:
            carry_out(hold.letting_go(claim))
        finally:
            self.turnstile.leave()

    def contenders(self, timeout: float | None = None) -> list[str]:
        """Return the owners of the holder and of those who wait, in their order; at most 1,000.

        Args:
            timeout: how many seconds the query tries; None for the client's timeout.

        """
        return [entry.value for entry in carry_out(self.line.standing(CONTENDERS_MAX, timeout))]

    def __enter__(self) -> Self:
        """Wait until the lock is held, at most for the timeout that it was made with."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the lock. An error of the body stays the one that is raised, with a note of what went wrong here."""
        try:
            self.release()
        except ConsensusError as failed:
            if error is None:
                raise
            error.add_note(f"{type(failed).__name__}: {failed}")


class RLock(Lock):
    """A lock that its holder may acquire again: the thread that holds it gets it at once, with the same token.

    It is the same lock of the cluster as a `Lock` of that name. It is released when `release` was called as often as
    `acquire`, by the same thread. Arguments and errors are those of `Lock`.
    """

    depth = 0

    def acquire(self, timeout: float | None = None) -> int:
        """Wait until the lock is held here, and return its fencing token; at once if this thread holds it.

        Args:
            timeout: how many seconds to wait, 0 to look once; None for what the lock was made with.

        Raises what `Lock.acquire` raises, and `LeaseLostError` if this thread holds it and has lost it: release it
        first.

        """
        if self.hold is None or self.hold.is_foreign or self.turnstile.owner != threading.get_ident():
            token = super().acquire(timeout)
            self.depth = 1
            return token
        check_timeout(timeout)
        if self.lost.is_set():
            raise LeaseLostError(
                f"lock {self.name!r} was lost while this thread held it, so it cannot be acquired again inside: "
                "release it as often as it was acquired, then begin anew"
            )
        self.depth += 1
        return self.token

    def release(self) -> None:
        """Release the lock once; the last time frees it, as `Lock.release` does, and raises the same errors.

        Raises `NotHeldError` also if another thread holds it.
        """
        self.held()
        if self.turnstile.owner != threading.get_ident():
            raise NotHeldError(f"lock {self.name!r} is held by another thread, which must release it")
        self.depth -= 1
        if not self.depth:
            super().release()
