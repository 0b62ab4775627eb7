"""Queues: each item goes to one consumer, in the order in which the items were put.

An item is a key that the cluster numbers. `get` deletes it in one transaction: it comes at most once. `take` leaves it
where it is and claims it with a key of its own, which hangs on a lease. If the consumer dies before it acknowledges,
the claim goes and the item is given again, at its old place. It comes at least once, and is acknowledged once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from forge_consensus.client.compare import Compare
from forge_consensus.client.key_records import KeyChange, KeyEntry
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import (
    CommandError,
    CompactedError,
    ConsensusError,
    LeaseLostError,
    NotHeldError,
    OutcomeUnknownError,
    UnavailableError,
)
from forge_consensus.recipes.hold import leave_when_dropped
from forge_consensus.recipes.line import RETRY_SECONDS, give_up, granted, is_gone
from forge_consensus.recipes.names import MARK, TTL_SECONDS, check_name, check_owner, check_ttl
from forge_consensus.recipes.patience import NotYetError, Patience
from forge_consensus.recipes.steps import NextChange, Pause, RecipeClient, Steps, carry_out, check_client
from forge_consensus.storage.machines.machine import Command

PAGE_MIN: Final = 3
"""So many items are looked at, at once; who comes second takes the next one, and looks at more if all are gone."""
PAGE_MAX: Final = 96
CLAIMS: Final = 1000
LOOK_SECONDS: Final = 10.0
"""Who waits looks at least so often, whatever it is told."""


class ItemCore(PublicSurface):
    """An item that was taken; what the blocking ones and those of asyncio share."""

    internal = frozenset({"internal", "queue", "lease", "claim", "open", "withdrawn", "acknowledging", "giving_back"})

    def __init__(self, queue: QueueCore, entry: KeyEntry, lease: Any, token: int) -> None:
        self.queue = queue
        self.value = entry.value
        """What was put."""
        self.key = entry.key
        """The key in the cluster that stands for the item, which tells it from all others."""
        self.token = token
        """The fencing token: larger than those of all who were given this item before."""
        self.lease = lease
        self.claim = queue.claim_of(entry.key)
        self.open = [True]
        leave_when_dropped(self, lease)

    def __repr__(self) -> str:
        """Its key, and whether it is this consumer's still."""
        return f"<{type(self).__name__} {self.key!r}, {'held' if self.is_held else 'not held'}>"

    @property
    def is_held(self) -> bool:
        """Whether the item is this consumer's for certain at this moment, by this process' clock."""
        return bool(self.open) and not self.lease.lost.is_set()

    def guard(self) -> list[Compare]:
        """What must hold in a transaction that only the present consumer of the item may carry out."""
        return [Compare.created(self.claim) == self.token]

    def withdrawn(self) -> None:
        """Hold it no longer. Raises `NotHeldError` if it was acknowledged or given back."""
        try:
            self.open.pop()
        except IndexError:
            raise NotHeldError(f"item {self.key!r} was acknowledged or given back before: take another one") from None

    def acknowledging(self) -> Steps[None]:
        """Remove the item for good."""
        self.withdrawn()
        left = Command("lease_revoke", {"lease": self.lease.id})  # the claim goes with it
        self.lease.stop_keeping()
        done = [Command("delete", {"key": self.key}), left]
        result = yield partial(self.queue.client.transaction, self.guard(), done, [left])
        if not result.succeeded:
            raise LeaseLostError(
                f"item {self.key!r} was not acknowledged, because the lease of {self.queue.ttl:g} s had ended or was "
                "revoked: it was given to another consumer, or will be"
            )

    def giving_back(self) -> Steps[None]:
        """Leave the item to others."""
        self.withdrawn()
        yield self.lease.revoke


class QueueCore(PublicSurface):
    """What the blocking queues and those of asyncio share."""

    blocking = True

    internal = frozenset(
        {"internal", "blocking", "client", "owner", "prefix", "items", "claims", "claim_of", "patience", "first_free"}
        | {"page", "getting", "getting_one", "taking", "claiming", "next_change"}
    )

    def __init__(self, client: RecipeClient, name: str, ttl: float = TTL_SECONDS, *, owner: str = "") -> None:
        self.client = check_client("Queue", client, blocking=self.blocking)
        self.name = check_name("queue", name)
        self.ttl = check_ttl(ttl)
        self.owner = check_owner(owner)
        self.prefix = f"queues/{name}{MARK}"
        self.items = f"{self.prefix}item/"
        self.claims = f"{self.prefix}taken/"

    def __repr__(self) -> str:
        """Its name."""
        return f"<{type(self).__name__} {self.name!r}>"

    def claim_of(self, key: str) -> str:
        """The key that claims an item."""
        return f"{self.claims}{key.removeprefix(self.items)}"

    def patience(self, timeout: float | None) -> Patience:
        """The time limit of a call. Raises `InvalidConfigError` for a timeout that is none."""
        return Patience(timeout, self.client.timeout)

    def first_free(self, patience: Patience, count: int) -> Steps[tuple[list[KeyEntry], int]]:
        """The first items that nobody has taken, about so many, and as of which entry at least."""
        rows, applied = yield from self.page(self.claims, CLAIMS, "", patience)
        taken = {entry.key.removeprefix(self.claims) for entry in rows}
        while len(rows) >= CLAIMS:
            rows, _ = yield from self.page(self.claims, CLAIMS, rows[-1].key, patience)
            taken.update(entry.key.removeprefix(self.claims) for entry in rows)
        after = ""
        while True:
            rows, _ = yield from self.page(self.items, count + min(len(taken), PAGE_MAX), after, patience)
            free = [entry for entry in rows if entry.key.removeprefix(self.items) not in taken]
            if free or not rows:
                return free[:count], applied
            after = rows[-1].key

    def page(self, prefix: str, limit: int, after: str, patience: Patience) -> Steps[tuple[list[KeyEntry], int]]:
        """At most so many keys with that prefix, beyond `after`, and as of which entry; fewer if they are large."""
        while True:
            query = {"entries": prefix, "limit": limit} | ({"after": after} if after else {})
            try:
                detail = yield partial(self.client.read_detail, query, timeout=patience.to_look())
            except CommandError as error:
                if limit == 1 or "rows have over" not in error.text:
                    raise
                limit = max(1, limit // 4)
            else:
                return [KeyEntry.of_row(row) for row in detail.value], detail.applied

    def next_change(self, since: int, patience: Patience) -> NextChange:
        """The step that waits until an item comes, or one that was taken is free again."""

        def matters(change: KeyChange) -> bool:
            return change.key.startswith(self.items) == (change.kind == "put")

        seconds = min(LOOK_SECONDS, patience.left)
        return NextChange(partial(self.client.watch, prefix=self.prefix, since=since, timeout=seconds), matters)

    def getting(self, patience: Patience, one: Callable[[KeyEntry, Patience], Steps[Any]]) -> Steps[Any]:
        """Wait until one of the first items is had by `one`, which gives None if another consumer has it."""
        count = PAGE_MIN
        while True:
            try:
                free, applied = yield from self.first_free(patience, count)
                for entry in free:
                    found = yield from one(entry, patience)
                    if found is not None:
                        return found
                if free:
                    count = min(2 * count, PAGE_MAX)
                    continue
                if patience.over:
                    result = f"had no item within {patience.timeout:g} s" if patience.timeout else "is empty"
                    raise NotYetError(f"queue {self.name!r} {result}")
                yield self.next_change(applied + 1, patience)
            except NotYetError:
                raise
            except CompactedError:  # it looks again, and then watches from later on
                yield Pause(RETRY_SECONDS)
            except UnavailableError:
                if patience.timeout is None or patience.over:
                    raise
                yield Pause(min(RETRY_SECONDS, patience.left))

    def getting_one(self, entry: KeyEntry, patience: Patience) -> Steps[KeyEntry | None]:
        """Remove an item, if nobody else has it."""
        when = [Compare.created(entry.key) == entry.created, Compare.missing(self.claim_of(entry.key))]
        gone = [Command("delete", {"key": entry.key})]
        try:
            result = yield partial(self.client.transaction, when, gone, timeout=patience.to_look())
        except OutcomeUnknownError as error:
            raise OutcomeUnknownError(
                f"item {entry.key!r} may have been removed from queue {self.name!r}, and then no consumer gets it: its "
                f"value is {entry.value!r:.99}; take() and ack() lose nothing. {error}"
            ) from error
        return entry if result.succeeded else None

    def taking(self, patience: Patience, make: Callable[[KeyEntry, Any, int], Any]) -> Steps[Any]:
        """Wait until an item is claimed with a lease, and give what `make` makes of it."""
        leases: list[Any] = []

        def one(entry: KeyEntry, patience: Patience) -> Steps[Any]:
            if leases and leases[0].lost.is_set():
                yield from give_up(leases.pop())
            if not leases:
                leases.append((yield from granted(self.client, self.ttl, patience)))
                yield leases[0].kept().begin
            token = yield from self.claiming(entry, leases, patience)
            return make(entry, leases.pop(), token) if token else None

        try:
            return (yield from self.getting(patience, one))
        except GeneratorExit:
            raise
        except BaseException:
            while leases:
                yield from give_up(leases.pop())
            raise

    def claiming(self, entry: KeyEntry, leases: list[Any], patience: Patience) -> Steps[int]:
        """Claim an item with the lease in the list; give the token of the claim, 0 if another consumer has the item.

        The lease is taken out of the list if it is of no use any more.
        """
        claim, lease = self.claim_of(entry.key), leases[0]
        when = [Compare.created(entry.key) == entry.created, Compare.missing(claim)]
        mine = [Command("set", {"key": claim, "value": self.owner, "lease": lease.id})]
        try:
            result = yield partial(self.client.transaction, when, mine, timeout=patience.to_look())
            if not result.succeeded:
                return 0
            detail = yield partial(self.client.read_detail, {"entry": claim}, timeout=patience.to_look())
        except CommandError as error:
            if not is_gone(error, lease):
                raise
            leases.pop()
            return 0
        except (OutcomeUnknownError, UnavailableError) as error:
            yield from give_up(leases.pop())  # if the claim is there, it goes with the lease
            if isinstance(error, OutcomeUnknownError):
                return 0
            raise
        found = None if detail.value is None else KeyEntry.of_row(detail.value)
        return found.created if found is not None and found.lease == lease.id else 0


class Item(ItemCore):
    """An item that was taken: acknowledge it when its work is done; in a ``with`` statement at its end.

    Its lease is kept alive until then. If the body of the ``with`` statement raises, the item is given back.
    """

    def ack(self) -> None:
        """Remove the item for good.

        Raises `NotHeldError` if that was done before, and `LeaseLostError` if the lease had ended, so that another
        consumer has it or gets it.
        """
        carry_out(self.acknowledging())

    def release(self) -> None:
        """Give the item back, at its old place; the next consumer has it at once. Raises `NotHeldError`."""
        carry_out(self.giving_back())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Acknowledge the item, or give it back if the body raised; does nothing if the body did one of them."""
        if not self.open:
            return
        if error is None:
            self.ack()
            return
        try:
            self.release()
        except ConsensusError as failed:
            error.add_note(f"{type(failed).__name__}: {failed}")


class Queue(QueueCore):
    """A queue of the whole cluster: each item goes to one consumer, in the order in which the items were put.

    With `get` an item comes at most once: it is removed as it is given. With `take` it is removed when it is
    acknowledged, and given again if its consumer dies before::

        queue = Queue(client, "mails")
        queue.put({"to": "a@example.org"})
        with queue.take(timeout=5) as item:  # acknowledged at the end, given back if this raises
            send(item.value)

    Any number of threads may share one object.

    Args:
        client: a `Client` or `ConsensusService` with the built-in machine.
        name: the queue's name, without ``#``; its keys begin with ``queues/NAME#``.
        ttl: after how many seconds without a sign of life a consumer's item is given to another one, 1 to 86,400.
        owner: what others are told of this consumer; "" for host and process.

    Raises `InvalidConfigError` for an argument that cannot be. Calls raise what the client's calls raise.

    """

    def put(self, value: Any, timeout: float | None = None) -> str:
        """Put an item at the end, and return its key.

        Args:
            value: anything that msgpack encodes.
            timeout: how many seconds the command tries; None for the client's timeout.

        Raises `OutcomeUnknownError` if nobody can know whether it is there: putting it again may put it twice.

        """
        return str(self.client.append(self.items, value, timeout))

    def get(self, timeout: float | None = None) -> Any:
        """Remove the first item that nobody has taken, and return its value.

        Args:
            timeout: how many seconds to wait for one, 0 to look once; None for no limit, which ends all the same with
                the client's error if the cluster cannot be asked.

        Raises `ConsensusTimeoutError` if there is none in time, and `OutcomeUnknownError` if an item may have been
        removed without being given to anybody.

        """
        return carry_out(self.getting(self.patience(timeout), self.getting_one)).value

    def try_get(self, default: Any = None) -> Any:
        """Remove the first item that nobody has taken, and return its value; `default` if there is none.

        Args:
            default: what to return for an empty queue.

        """
        try:
            return self.get(0)
        except NotYetError:
            return default

    def take(self, timeout: float | None = None) -> Item:
        """Claim the first item that nobody has taken, and return it; it stays until it is acknowledged.

        Args:
            timeout: how many seconds to wait for one, 0 to look once; None for no limit, which ends all the same with
                the client's error if the cluster cannot be asked.

        Raises `ConsensusTimeoutError` if there is none in time.

        """
        return carry_out(self.taking(self.patience(timeout), partial(Item, self)))  # type: ignore[no-any-return]

    def peek(self, default: Any = None, timeout: float | None = None) -> Any:
        """Return the value of the first item that nobody has taken, and leave it; `default` if there is none.

        Args:
            default: what to return for an empty queue.
            timeout: how many seconds the queries try; None for the client's timeout.

        """
        free, _ = carry_out(self.first_free(self.patience(timeout), PAGE_MIN))
        return free[0].value if free else default

    def size(self, timeout: float | None = None) -> int:
        """Return how many items there are, with those that were taken and not acknowledged.

        Args:
            timeout: how many seconds the query tries; None for the client's timeout.

        """
        return int(self.client.read({"count": self.items}, timeout=timeout))

    def __len__(self) -> int:
        """How many items there are, see `size`; it asks the cluster."""
        return self.size()
