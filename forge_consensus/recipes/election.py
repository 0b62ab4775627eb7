"""Elections among clients: one leads at a time, and all can see who."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from forge_consensus.client.key_records import KeyEntry
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import CompactedError, ConsensusError, LeaseLostError, UnavailableError
from forge_consensus.recipes.hold import HoldCore
from forge_consensus.recipes.line import RETRY_SECONDS, Line
from forge_consensus.recipes.names import TTL_SECONDS, check_name, check_ttl
from forge_consensus.recipes.patience import NotYetError
from forge_consensus.recipes.steps import NextChange, Pause, RecipeClient, Step, Steps, carry_out, check_client, take
from forge_consensus.storage.machines.machine import Command

LOOK_SECONDS = 10.0
"""An observer looks at least so often, whatever it is told."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The leader of an election, as somebody else sees it."""

    value: Any
    """What it campaigned with or proclaimed since."""
    token: int
    """The fencing token: larger than those of the leaders before it."""
    key: str
    """The key in the cluster that stands for its leadership."""

    @classmethod
    def of(cls, rows: list[KeyEntry]) -> Leader | None:
        """The leader, if the line is not empty."""
        return cls(rows[0].value, rows[0].created, rows[0].key) if rows else None


class LeadershipCore(HoldCore):
    """What the blocking leaderships and those of asyncio share."""

    internal = HoldCore.internal | {"proclaiming"}

    def proclaiming(self, value: Any) -> Steps[None]:
        """Change the value that others see."""
        claim = self.held()
        again = Command("set", {"key": claim.key, "value": value, "lease": claim.lease.id})
        result = yield partial(self.line.client.transaction, self.guard(), [again])
        if not result.succeeded:
            raise LeaseLostError(
                f"election {self.line.name!r}: nothing was proclaimed, because this leadership was lost: its lease of "
                f"{self.line.ttl:g} s had ended or was revoked"
            )


class ElectionCore(PublicSurface):
    """What the blocking elections and those of asyncio share."""

    blocking = True

    internal = frozenset({"internal", "blocking", "line", "on_lost", "seeing", "observing", "views"})

    def __init__(
        self,
        client: RecipeClient,
        name: str,
        ttl: float = TTL_SECONDS,
        *,
        on_lost: Callable[[], object] | None = None,
    ) -> None:
        check_client("Election", client, blocking=self.blocking)
        self.name = check_name("election", name)
        self.line = Line(client, "election", name, check_ttl(ttl))
        self.on_lost = on_lost

    def __repr__(self) -> str:
        """Its name."""
        return f"<{type(self).__name__} {self.name!r}>"

    def seeing(self, timeout: float | None = None) -> Steps[tuple[Leader | None, int]]:
        """Who leads, and as of which entry."""
        query = {"entries": self.line.prefix, "limit": 1}
        detail = yield partial(self.line.client.read_detail, query, timeout=timeout)
        return Leader.of([KeyEntry.of_row(row) for row in detail.value]), detail.applied

    def observing(self, timeout: float | None) -> Generator[Step | Seen, Any, None]:
        """The steps of an observer, among them what it sees, whenever that is something new."""
        last: Leader | None = None
        first = True
        patience = self.line.patience(timeout)
        while True:
            try:
                leader, applied = yield from self.seeing(patience.to_look())
                if first or leader != last:
                    first, last = False, leader
                    yield Seen(leader)
                    patience = self.line.patience(timeout)
                if patience.over:
                    return
                watch = partial(
                    self.line.client.watch,
                    prefix=self.line.prefix,
                    since=applied + 1,
                    timeout=min(LOOK_SECONDS, patience.left),
                )
                yield NextChange(watch)
            except (UnavailableError, CompactedError):
                if patience.over:
                    raise
                yield Pause(min(RETRY_SECONDS, patience.left))


@dataclass(frozen=True, slots=True)
class Seen:
    """Who leads, as an observer sees it; None if nobody does."""

    leader: Leader | None


class Leadership(LeadershipCore):
    """The leadership that was won, until it is resigned; in a ``with`` statement until its end."""

    def proclaim(self, value: Any) -> None:
        """Change the value that others see of this leader.

        Args:
            value: anything that msgpack encodes.

        Raises `NotHeldError` after `resign`, and `LeaseLostError` if the leadership was lost; nothing is changed then.

        """
        carry_out(self.proclaiming(value))

    def resign(self) -> None:
        """Lead no longer, so that the next candidate leads at once.

        Raises `NotHeldError` if it was resigned, and `LeaseLostError` if the lease had ended before, so that others may
        have led since. If the cluster cannot be asked, the client's error is raised, and the lease ends by
        itself.
        """
        carry_out(self.letting_go(self.withdrawn()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Resign. An error of the body stays the one that is raised, with a note of what went wrong here."""
        try:
            self.resign()
        except ConsensusError as failed:
            if error is None:
                raise
            error.add_note(f"{type(failed).__name__}: {failed}")


class Election(ElectionCore):
    """An election among clients: the first candidate leads, and the next one when it resigns or dies.

    It has nothing to do with the leader of the cluster itself; see `LeaderTask` for what is to run there::

        election = Election(client, "scheduler")
        with election.campaign("10.0.0.1:80") as leadership:
            while leadership.is_held:
                schedule(leadership.token)

    Any number of threads may share one object; each campaign is a candidate of its own.

    Args:
        client: a `Client` or `ConsensusService` with the built-in machine.
        name: the election's name, without ``#``; candidates have keys that begin with ``elections/NAME#``.
        ttl: after how many seconds without a sign of life a leader is deposed, 1 to 86,400. It must be longer than an
            election of the cluster itself takes.
        on_lost: called without arguments, on a thread of its own, if a leadership is lost; None for nobody.

    Raises `InvalidConfigError` for an argument that cannot be. Calls raise what the client's calls raise.

    """

    def campaign(self, value: Any, timeout: float | None = None) -> Leadership:
        """Stand for election with a value that others see, and return the leadership when it is won.

        Args:
            value: anything that msgpack encodes, such as the address of this process.
            timeout: how many seconds to wait, 0 to look once; None for no limit.

        Without a limit it ends all the same if the cluster cannot be asked at the beginning, with the client's error.
        Raises `ConsensusTimeoutError` when the time is over, and `LeaseLostError` if no lease of its ttl can be kept
        alive.

        """
        leadership = Leadership(self.line, self.on_lost)
        carry_out(leadership.taking(value, self.line.patience(timeout)))
        return leadership

    def try_campaign(self, value: Any) -> Leadership | None:
        """Stand for election, and return the leadership if nobody leads; None otherwise.

        Args:
            value: anything that msgpack encodes.

        """
        try:
            return self.campaign(value, 0)
        except NotYetError:
            return None

    def leader(self, timeout: float | None = None) -> Leader | None:
        """Return who leads; None if nobody does.

        Args:
            timeout: how many seconds the query tries; None for the client's timeout.

        """
        return carry_out(self.seeing(timeout))[0]

    def observe(self, timeout: float | None = None) -> Iterator[Leader | None]:
        """Yield who leads, at once and whenever that or its value changes; None while nobody does.

        Leaders between two looks may be left out: what comes is always newer than what came before. While the cluster
        cannot be asked it waits, and so says nothing new.

        Args:
            timeout: after how many seconds without anything new it ends; None for never.

        Raises what reads raise if the cluster could not be asked when the time was over.

        """
        return self.views(self.observing(self.line.patience(timeout).timeout))

    def views(self, steps: Generator[Step | Seen, Any, None]) -> Iterator[Leader | None]:
        """Carry out the steps of an observer and yield what it sees."""
        answer: Any = None
        failed: Exception | None = None
        while True:
            try:
                step = steps.send(answer) if failed is None else steps.throw(failed)
            except StopIteration:
                return
            answer, failed = None, None
            if isinstance(step, Seen):
                yield step.leader
                continue
            try:
                answer = take(step)
            except Exception as error:
                failed = error
