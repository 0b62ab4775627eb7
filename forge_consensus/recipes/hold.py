"""What is held: a claim that came first in its line, until it is let go or its lease is lost."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from forge_consensus.client.compare import Compare
from forge_consensus.client.lease_keeper import LostLatch
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import ConsensusError, LeaseLostError, NotHeldError
from forge_consensus.recipes.line import Claim, Line
from forge_consensus.recipes.patience import Patience
from forge_consensus.recipes.steps import Steps


def leave_when_dropped(holder: object, lease: Any) -> None:
    """Have a lease kept alive no longer once its holder is dropped without having let go."""
    weakref.finalize(holder, lease.stop_keeping).atexit = False


class HoldCore(PublicSurface):
    """What is held; what the blocking ones and those of asyncio share.

    Args:
        line: the line in which it is to come first.
        on_lost: called without arguments if the lease is lost while it is held; None for nobody.
        forget: called with this once it is let go.

    """

    internal = frozenset(
        {
            "internal",
            "line",
            "claims",
            "on_lost",
            "forget",
            "process",
            "is_foreign",
            "held",
            "taking",
            "tell",
            "withdrawn",
            "letting_go",
        }
    )

    def __init__(
        self,
        line: Line,
        on_lost: Callable[[], object] | None = None,
        forget: Callable[[Any], object] = lambda hold: None,
    ) -> None:
        self.line = line
        self.on_lost = on_lost
        self.forget = forget
        self.claims: list[Claim] = []
        """The claim, while it is held: a list, because a thread takes it out in one piece."""
        self.process = os.getpid()

    def __repr__(self) -> str:
        """What it is, and whether it is held."""
        state = f"token {self.token}" if self.is_held else "not held"
        return f"<{type(self).__name__} of {self.line.kind} {self.line.name!r}, {state}>"

    @property
    def is_foreign(self) -> bool:
        """Whether it belongs to another process, of which this one is a fork."""
        return self.process != os.getpid()

    def held(self) -> Claim:
        """The claim. Raises `NotHeldError` if it was let go, or if this process is a fork of its holder."""
        claims = self.claims[:]
        if not claims:
            raise NotHeldError(f"{self.line.kind} {self.line.name!r} is not held here: acquire it first")
        if self.is_foreign:
            raise NotHeldError(
                f"{self.line.kind} {self.line.name!r} is held by process {self.process}, of which this one is a fork: "
                "acquire it here too, where a call makes connections of its own"
            )
        return claims[0]

    @property
    def token(self) -> int:
        """The fencing token: larger than those of all who held it before. Raises `NotHeldError`.

        Send it along to whatever is to be protected, and have that refuse smaller tokens than it has seen.
        """
        return self.held().token

    @property
    def key(self) -> str:
        """The key in the cluster that stands for this claim. Raises `NotHeldError`."""
        return self.held().key

    @property
    def is_held(self) -> bool:
        """Whether it is held for certain at this moment, by this process' clock.

        False as soon as the lease may have ended, which is before the cluster lets others in. Between this look and
        what is done next a process may stand still for any time: where that matters, use `token` or `guard`.
        """
        return not self.is_foreign and any(not claim.lease.lost.is_set() for claim in self.claims[:])

    @property
    def lost(self) -> LostLatch:
        """A flag with `is_set` and `wait`: whether the lease must be regarded as lost. Raises `NotHeldError`."""
        lost: LostLatch = self.held().lease.lost
        return lost

    def guard(self) -> list[Compare]:
        """What must hold in a transaction that only the present holder may carry out. Raises `NotHeldError`.

        Such as ``client.transaction(lock.guard(), [Command("set", {"key": "k", "value": 1})])``. It does not succeed
        once the cluster has let somebody else in, however late it arrives.
        """
        claim = self.held()
        return [Compare.created(claim.key) == claim.token]

    def taking(self, value: Any, patience: Patience) -> Steps[None]:
        """Wait for the claim."""
        known = weakref.ref(self)  # a hold that everybody has dropped must not be kept by its lease

        def tell(lease: Any) -> None:
            found = known()
            if found is not None:
                found.tell()

        claim = yield from self.line.wait(value, patience, tell)
        self.claims.append(claim)
        leave_when_dropped(self, claim.lease)

    def tell(self) -> None:
        """Tell that the lease was lost, if it was held."""
        if self.claims and self.on_lost is not None:
            self.on_lost()

    def withdrawn(self) -> Claim:
        """Hold it no longer, and return the turn, whose lease is still to be ended. Raises `NotHeldError`."""
        self.held()
        try:
            claim = self.claims.pop()
        except IndexError:  # another thread was faster
            return self.held()
        self.forget(self)
        return claim

    def letting_go(self, claim: Claim) -> Steps[None]:
        """End the lease of a claim that was withdrawn. Raises `LeaseLostError` if it had ended before.

        If the cluster cannot be asked, its error is raised, and the lease ends by itself.
        """
        must_be_lost = claim.lease.lost.is_set()
        text = (
            f"{self.line.kind} {self.line.name!r} was lost before it was let go, because its lease of "
            f"{self.line.ttl:g} s had ended or was revoked, or its key was deleted: others may have held it since; "
            "only what was guarded by its token is safe"
        )
        try:
            gone = yield partial(claim.lease.revoke)
        except ConsensusError as error:
            if must_be_lost:
                raise LeaseLostError(text) from error
            raise
        if not gone:
            raise LeaseLostError(text)
