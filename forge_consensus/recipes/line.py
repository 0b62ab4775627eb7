"""A line of clients: each stands in it with a key of its own, in the order in which they came.

The first ones have their turn: one for a lock or an election, some for a semaphore. The key goes with a lease that the
client keeps alive, so whoever dies leaves the line by itself. The token is the log entry that made the key; whoever has
its turn later has a larger one, because the line is in the order of those entries.

Nobody is woken in vain: who waits watches the key before its own. In a line with several places that is not enough for
the first one who waits, since any holder may go; it watches all of them, and tells the next one by writing its own key
once more when its turn has come. And because everybody looks again from time to time, no wake-up can get lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from forge_consensus.client.compare import Compare
from forge_consensus.client.key_records import KeyChange, KeyEntry
from forge_consensus.errors import (
    CommandError,
    CompactedError,
    ConsensusError,
    ConsensusTimeoutError,
    LeaseLostError,
    OutcomeUnknownError,
    UnavailableError,
)
from forge_consensus.recipes.names import MARK
from forge_consensus.recipes.patience import NotYetError, Patience
from forge_consensus.recipes.steps import NextChange, Pause, RecipeClient, Steps
from forge_consensus.storage.machines.machine import Command

AFRESH_MAX: Final = 10
"""So often a client that lost its lease while it waited joins the line again."""
LEAVE_SECONDS: Final = 1.0
"""How long leaving a line may take for one whose time is over; then its lease ends by itself."""
RETRY_SECONDS: Final = 0.2
LOOKS: Final = 2
"""So often in the time to live of its lease one who waits looks again."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one client has whose turn has come, until its lease ends."""

    key: str
    token: int
    """The log entry that made the key; whoever has the same later has a larger one."""
    value: Any
    lease: Any


class Line:
    """The line of one recipe, as one client sees it.

    Args:
        client: through which it asks.
        kind: what it is, for people, such as "lock".
        name: its name.
        ttl: the time to live of the leases, in seconds.
        places: how many have their turn at the same time.
        check: called with the keys ahead; raises if this client may not stand here.
        owner_of: what people are told of a key's value.

    """

    def __init__(
        self,
        client: RecipeClient,
        kind: str,
        name: str,
        ttl: float,
        *,
        places: int = 1,
        check: Callable[[Sequence[KeyEntry]], object] = lambda ahead: None,
        owner_of: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.client = client
        self.kind = kind
        self.name = name
        self.prefix = f"{kind}s/{name}{MARK}"
        self.ttl = ttl
        self.places = places
        self.check = check
        self.owner_of = owner_of

    def patience(self, timeout: float | None) -> Patience:
        """The time limit of a call. Raises `InvalidConfigError` for a timeout that is none."""
        return Patience(timeout, self.client.timeout)

    def wait(self, value: Any, patience: Patience, on_lost: Callable[[Any], object] | None = None) -> Steps[Claim]:
        """Join the line with a key of that value and wait for the turn.

        Whatever ends this otherwise, the key is removed, or goes with its lease. Raises `NotYetError` when the time is
        over, `LeaseLostError` if the lease is lost again and again, and what the client's calls raise.
        """
        for _ in range(AFRESH_MAX):
            lease = yield from granted(self.client, self.ttl, patience)
            try:
                yield lease.kept(on_lost).begin
                key = yield from self.join(lease, value, patience)
                own = None if key is None else (yield from self.stand(key, lease, patience))
            except GeneratorExit:
                raise
            except BaseException:
                yield from give_up(lease)
                raise
            if own is not None:
                return Claim(own.key, own.created, value, lease)
            yield from give_up(lease)
            if patience.over:
                raise ConsensusTimeoutError(
                    f"{self.kind} {self.name!r} was not to be had in time, because the cluster did not answer or the "
                    "lease was lost: nothing is held; try again, or allow more time"
                )
        raise LeaseLostError(
            f"{self.kind} {self.name!r}: the lease was lost {AFRESH_MAX} times while this client waited, because it "
            f"could not be kept alive within its ttl of {self.ttl:g} s: give a longer one"
        )

    def join(self, lease: Any, value: Any, patience: Patience) -> Steps[str | None]:
        """Make the key that stands in the line; None if it is not to be known whether it is there, or if it was lost.

        Wherever it is then, it goes with its lease.
        """
        try:
            key: str = yield partial(self.client.append, self.prefix, value, patience.to_begin(), lease=lease)
        except OutcomeUnknownError:
            return None
        except CommandError as error:
            if is_gone(error, lease):
                return None
            raise
        return key

    def stand(self, key: str, lease: Any, patience: Patience) -> Steps[KeyEntry | None]:
        """Stand in the line with that key until its turn comes, and give its entry; None if it is lost before."""
        waited, ahead = False, list[KeyEntry]()
        while True:
            try:
                rows, applied = yield from self.look(key, lease, patience)
            except UnavailableError:
                if not ahead:
                    raise
                raise NotYetError(self.late_text(ahead, patience)) from None  # who was ahead is known, and no better
            if not rows or rows[0].key != key:
                return None
            own, ahead = rows[0], rows[1:]
            self.check(ahead)
            if len(ahead) < self.places:
                if waited and self.places > 1:
                    yield from self.tell_next(own)
                return own
            if patience.over:
                raise NotYetError(self.late_text(ahead, patience))
            waited = True
            try:
                yield self.next_change(key, ahead, applied + 1, patience)
            except (UnavailableError, CompactedError):  # it looks again
                yield Pause(min(RETRY_SECONDS, patience.left))

    def look(self, key: str, lease: Any, patience: Patience) -> Steps[tuple[list[KeyEntry], int]]:
        """The own key and those just ahead of it, from there to the front, and as of which entry.

        It is asked for until it is answered, because the key stands in the line for as long as its lease lives; if that
        is lost, there is nothing.
        """
        query = {"entries": self.prefix, "end": f"{key}\0", "reverse": True, "limit": self.places + 2}
        while not lease.lost.is_set():
            try:
                detail = yield partial(self.client.read_detail, query, timeout=patience.to_look())
                return [KeyEntry.of_row(row) for row in detail.value], detail.applied
            except UnavailableError:
                if patience.over:
                    raise
                yield Pause(min(RETRY_SECONDS, patience.left))
        return [], 0

    def next_change(self, key: str, ahead: list[KeyEntry], since: int, patience: Patience) -> NextChange:
        """The step that waits until somebody ahead has gone, or it is time to look again."""
        seconds = min(self.ttl / LOOKS, patience.left)
        if self.places == 1 or len(ahead) > self.places:
            return NextChange(partial(self.client.watch, ahead[0].key, since=since, timeout=seconds))

        def matters(change: KeyChange) -> bool:
            return change.kind != "put" and change.key <= key

        return NextChange(partial(self.client.watch, prefix=self.prefix, since=since, timeout=seconds), matters)

    def tell_next(self, own: KeyEntry) -> Steps[None]:
        """Have the next one look, who watches this key. If that fails it looks by itself, only later."""
        again = Command("set", {"key": own.key, "value": own.value, "lease": own.lease})
        try:
            yield partial(self.client.transaction, [Compare.created(own.key) == own.created], [again])
        except ConsensusError:
            return

    def late_text(self, ahead: list[KeyEntry], patience: Patience) -> str:
        """What is said when the time is over."""
        owner = self.owner_of(ahead[0].value)
        result = f"was not to be had within {patience.timeout:g} s" if patience.timeout else "is not free"
        return (
            f"{self.kind} {self.name!r} {result}: {owner!r:.99} is ahead, since log entry {ahead[0].created}; allow "
            "more time"
        )

    def standing(self, limit: int, timeout: float | None = None) -> Steps[list[KeyEntry]]:
        """The keys at the front of the line, at most `limit`."""
        detail = yield partial(self.client.read_detail, {"entries": self.prefix, "limit": limit}, timeout=timeout)
        return [KeyEntry.of_row(row) for row in detail.value]


def granted(client: RecipeClient, ttl: float, patience: Patience) -> Steps[Any]:
    """Have a lease granted. Raises `ConsensusTimeoutError` if nobody can know in time whether one was.

    One that nobody knows of has no keys and ends by itself, so it does no harm to ask for another.
    """
    while True:
        try:
            return (yield partial(client.lease, ttl, timeout=patience.to_begin()))
        except OutcomeUnknownError as error:
            if patience.over or patience.timeout is None:
                raise ConsensusTimeoutError(f"no lease was granted in time, and nothing is held: {error}") from error


def give_up(lease: Any) -> Steps[None]:
    """End a lease, and so remove its keys; if nobody answers it ends by itself."""
    try:
        yield partial(lease.revoke, timeout=LEAVE_SECONDS)
    except ConsensusError:
        return


def is_gone(error: CommandError, lease: Any) -> bool:
    """Whether a command was refused because its lease has ended."""
    return f"lease {lease.id} does not exist" in error.text
