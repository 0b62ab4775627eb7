"""Barriers: all wait until one of them, or anybody else, opens the way."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import CompactedError, UnavailableError
from forge_consensus.recipes.line import RETRY_SECONDS
from forge_consensus.recipes.names import check_name, check_owner
from forge_consensus.recipes.patience import NotYetError, Patience
from forge_consensus.recipes.steps import NextChange, Pause, RecipeClient, Steps, carry_out, check_client

LOOK_SECONDS = 10.0
"""Who waits looks at least so often, whatever it is told."""


class BarrierCore(PublicSurface):
    """What the blocking barriers and those of asyncio share."""

    blocking = True

    internal = frozenset({"internal", "blocking", "client", "owner", "waiting", "raising"})

    def __init__(self, client: RecipeClient, name: str, *, owner: str = "") -> None:
        self.client = check_client("Barrier", client, blocking=self.blocking)
        self.name = check_name("barrier", name)
        self.key = f"barriers/{name}"
        """The key in the cluster that bars the way while it is there."""
        self.owner = check_owner(owner)

    def __repr__(self) -> str:
        """Its name."""
        return f"<{type(self).__name__} {self.name!r}>"

    def raising(self, ttl: float | None, timeout: float | None) -> Callable[[], Any]:
        """The step that bars the way, if nobody did."""
        return partial(self.client.cas, self.key, expected=None, value=self.owner, ttl=ttl, timeout=timeout)

    def waiting(self, timeout: float | None) -> Steps[None]:
        """Wait until the key is gone."""
        patience = Patience(timeout, self.client.timeout)
        while True:
            try:
                detail = yield partial(self.client.read_detail, {"entry": self.key}, timeout=patience.to_look())
                if detail.value is None:
                    return
                if patience.over:
                    result = f"was not removed within {patience.timeout:g} s" if patience.timeout else "is there"
                    raise NotYetError(f"barrier {self.name!r} {result}: {detail.value[1]!r:.99} made it")
                seconds = min(LOOK_SECONDS, patience.left)
                yield NextChange(partial(self.client.watch, self.key, since=detail.applied + 1, timeout=seconds))
            except NotYetError:
                raise
            except CompactedError:  # it looks again, and then watches from later on
                yield Pause(RETRY_SECONDS)
            except UnavailableError:
                if timeout is None or patience.over:
                    raise
                yield Pause(min(RETRY_SECONDS, patience.left))


class Barrier(BarrierCore):
    """A barrier of the whole cluster: while it is there, all who wait do wait; when it is removed, all go on.

    One client makes it, others `wait`, and whoever is to let them go removes it::

        Barrier(client, "migration").create()
        ...
        Barrier(client, "migration").wait(timeout=60)

    It stays when its maker dies, unless it was made with a `ttl`. Any number of threads may share one object.

    Args:
        client: a `Client` or `ConsensusService` with the built-in machine.
        name: the barrier's name, without ``#``; its key is ``barriers/NAME``.
        owner: what others are told of who made it; "" for host and process.

    Raises `InvalidConfigError` for an argument that cannot be. Calls raise what the client's calls raise.

    """

    def create(self, ttl: float | None = None, timeout: float | None = None) -> bool:
        """Bar the way, and return whether this call did it; False if it was barred before.

        Args:
            ttl: after how many seconds the way opens by itself; None for never.
            timeout: how many seconds the command tries; None for the client's timeout.

        """
        return bool(self.raising(ttl, timeout)())

    def remove(self, timeout: float | None = None) -> bool:
        """Open the way for all who wait, and return whether it was barred.

        Args:
            timeout: how many seconds the command tries; None for the client's timeout.

        """
        return bool(self.client.delete(self.key, timeout))

    def exists(self, timeout: float | None = None) -> bool:
        """Return whether the way is barred.

        Args:
            timeout: how many seconds the query tries; None for the client's timeout.

        """
        return self.client.entry(self.key, timeout=timeout) is not None

    def wait(self, timeout: float | None = None) -> None:
        """Return as soon as the way is open, at once if nothing bars it.

        Args:
            timeout: how many seconds to wait, 0 to look once; None for no limit, which ends all the same with the
                client's error if the cluster cannot be asked.

        Raises `ConsensusTimeoutError` when the time is over.

        """
        carry_out(self.waiting(timeout))
