"""Semaphores: some holders at a time, in the order in which they came."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from forge_consensus.client.key_records import KeyEntry
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import ConsensusError, InvalidConfigError, NotHeldError
from forge_consensus.recipes.hold import HoldCore
from forge_consensus.recipes.line import Line
from forge_consensus.recipes.names import TTL_SECONDS, check_count, check_name, check_owner, check_timeout, check_ttl
from forge_consensus.recipes.patience import NotYetError, Patience
from forge_consensus.recipes.steps import RecipeClient, carry_out, check_client

LIMIT_MAX = 1000

PermitKind = TypeVar("PermitKind", bound=HoldCore)


class SemaphoreCore(PublicSurface, Generic[PermitKind]):
    """What the blocking semaphores and those of asyncio share."""

    blocking = True

    internal = frozenset(
        {"internal", "blocking", "line", "on_lost", "value", "patience", "permits", "entered"}
        | {"forgetting", "mine", "left_by"}
    )

    def __init__(
        self,
        client: RecipeClient,
        name: str,
        limit: int,
        ttl: float = TTL_SECONDS,
        *,
        owner: str = "",
        timeout: float | None = None,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        check_client("Semaphore", client, blocking=self.blocking)
        self.name = check_name("semaphore", name)
        self.limit = check_count("limit", limit, LIMIT_MAX)
        self.value = {"limit": self.limit, "owner": check_owner(owner)}
        self.timeout = check_timeout(timeout)
        self.on_lost = on_lost
        self.line = Line(
            client,
            "semaphore",
            name,
            check_ttl(ttl),
            places=limit,
            check=partial(check_limits, name, limit),
            owner_of=owner_of,
        )
        self.permits: dict[PermitKind, Hashable] = {}
        """The permits that are held through this object, and the thread or task that acquired each."""
        self.entered: dict[Hashable, list[PermitKind]] = {}
        """The threads or tasks that are inside ``with`` statements, and their permits; each changes its own row."""

    def __repr__(self) -> str:
        """Its name, its limit, and how many permits are held through it."""
        return f"<{type(self).__name__} {self.name!r} of {self.limit}, {len(self.permits)} held here>"

    def patience(self, timeout: float | None) -> Patience:
        """The time limit of a call. Raises `InvalidConfigError` for a timeout that is none."""
        return self.line.patience(self.timeout if timeout is None else timeout)

    @property
    def forgetting(self) -> Callable[[Any], object]:
        """What a permit calls that is let go; it does not keep this object, so that both can be dropped."""
        known = weakref.ref(self)

        def forget(permit: Any) -> None:
            if (found := known()) is not None:
                found.permits.pop(permit, None)

        return forget

    def mine(self, who: Hashable) -> PermitKind:
        """The permit that this thread or task acquired last and holds. Raises `NotHeldError`."""
        for permit, each in reversed(list(self.permits.items())):
            if each == who and not permit.is_foreign:
                return permit
        raise NotHeldError(
            f"semaphore {self.name!r}: this thread or task holds no permit of it through this object: acquire one "
            "first; one that was acquired elsewhere is released by its own release()"
        )

    def left_by(self, who: Hashable) -> PermitKind:
        """The permit of the innermost ``with`` statement that this thread or task is in, which it leaves."""
        row = self.entered[who]
        permit = row.pop()
        if not row:
            del self.entered[who]
        return permit


def check_limits(name: str, limit: int, ahead: Sequence[KeyEntry]) -> None:
    """Raise `InvalidConfigError` if those ahead have another limit: then nobody could tell who holds a permit."""
    for entry in ahead:
        other = entry.value.get("limit") if isinstance(entry.value, dict) else None
        if other != limit:
            raise InvalidConfigError(
                f"semaphore {name!r} has a limit of {other} for {owner_of(entry.value)!r:.99}, which holds or awaits "
                f"it, and {limit} here: give all clients the same; it can change while nobody holds it"
            )


def owner_of(value: Any) -> Any:
    """Who stands in the line with a key of that value."""
    return value.get("owner") if isinstance(value, dict) else value


class Permit(HoldCore):
    """One permit of a semaphore, held until it is released; in a ``with`` statement until its end."""

    def release(self) -> None:
        """Release it, so that the next one has it at once.

        Raises `NotHeldError` if it was released, and `LeaseLostError` if the lease had ended before. If the cluster
        cannot be asked, the client's error is raised; the permit is free when the lease ends.
        """
        carry_out(self.letting_go(self.withdrawn()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release it. An error of the body stays the one that is raised, with a note of what went wrong here."""
        try:
            self.release()
        except ConsensusError as failed:
            if error is None:
                raise
            error.add_note(f"{type(failed).__name__}: {failed}")


class Semaphore(SemaphoreCore[Permit]):
    """A semaphore of the whole cluster: at most `limit` holders at a time, in the order in which they asked.

    Each permit has a lease and a token of its own, as a `Lock` has::

        semaphore = Semaphore(client, "licences", 3)
        with semaphore as permit:
            work(permit.token)

    Any number of threads may share one object, and each may hold permits. All clients must say the same `limit`.

    Args:
        client: a `Client` or `ConsensusService` with the built-in machine.
        name: the semaphore's name, without ``#``; holders and those who wait have keys that begin with
            ``semaphores/NAME#``.
        limit: how many permits there are, 1 to 1,000.
        ttl: after how many seconds without a sign of life a permit is taken from its holder, 1 to 86,400.
        owner: what others are told of this holder; "" for host and process.
        timeout: for how many seconds `acquire` and ``with`` wait where they are not told otherwise; None for no limit.
        on_lost: called without arguments, on a thread of its own, if the lease of a permit that is held is lost; None
            for nobody.

    Raises `InvalidConfigError` for an argument that cannot be. Calls raise what the client's calls raise.

    """

    def acquire(self, timeout: float | None = None) -> Permit:
        """Wait for a permit and return it.

        Args:
            timeout: how many seconds to wait, 0 to look once; None for what the semaphore was made with.

        Without a limit it ends all the same if the cluster cannot be asked at the beginning, with the client's error.
        Raises `ConsensusTimeoutError` when the time is over, `InvalidConfigError` if other clients say another limit,
        and `LeaseLostError` if no lease of its ttl can be kept alive.

        """
        permit = Permit(self.line, self.on_lost, self.forgetting)
        carry_out(permit.taking(self.value, self.patience(timeout)))
        self.permits[permit] = threading.get_ident()
        return permit

    def try_acquire(self) -> Permit | None:
        """Look once whether a permit is free, and return it; None if there is none."""
        try:
            return self.acquire(0)
        except NotYetError:
            return None

    def release(self) -> None:
        """Release the permit that this thread acquired last; errors are those of `Permit.release`."""
        self.mine(threading.get_ident()).release()

    def holders(self, timeout: float | None = None) -> list[str]:
        """Return the owners of the permits that are held.

        Args:
            timeout: how many seconds the query tries; None for the client's timeout.

        """
        return [owner_of(entry.value) for entry in carry_out(self.line.standing(self.limit, timeout))]

    def __enter__(self) -> Permit:
        """Wait for a permit, at most for the timeout that the semaphore was made with."""
        permit = self.acquire()
        self.entered.setdefault(threading.get_ident(), []).append(permit)
        return permit

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release the permit of this ``with`` statement, as its own would."""
        self.left_by(threading.get_ident()).__exit__(kind, error, traceback)
