"""Watching keys: every change of a key or of a prefix, once and in order, over failovers."""

from __future__ import annotations

import time
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from forge_consensus.client.change_cursor import KEPT_SECONDS, ChangeCursor
from forge_consensus.client.key_records import KeyChange
from forge_consensus.client.machine_calls import MachineCalls
from forge_consensus.client.pending import PendingRead
from forge_consensus.client.routes import NEAREST, Route
from forge_consensus.client.surface import PublicSurface
from forge_consensus.errors import ConsensusError, NotStartedError, fresh
from forge_consensus.process.waiters import Waiters

if TYPE_CHECKING:
    from forge_consensus.client.driver import Driver

CLOSED_TEXT = "the watch is closed: make another one with since=watch.next_index"


class WatchClient(Protocol):
    """What a watch needs of a client."""

    timeout: float
    driver: Driver

    def query(self, query: Any, route: Route, timeout: float | None) -> PendingRead[Any]:
        """The call that answers a query by that route, not yet handed over."""

    def barrier_query(self, route: Route, timeout: float | None) -> PendingRead[None]:
        """The call that tells what a node has applied, not yet handed over."""


class WatchCalls(MachineCalls):
    """The changes of the built-in key-value machine, for a class that has a client."""

    def watch_client(self) -> WatchClient:
        """The client by which a watch asks now."""
        raise NotImplementedError

    def watch(
        self,
        key: str | None = None,
        *,
        prefix: str | None = None,
        since: int | None = None,
        timeout: float | None = None,
    ) -> Watch:
        """Return the changes of a key, or of all keys with a prefix, as an iterator; close it, or use it in ``with``.

        Args:
            key: the key to watch.
            prefix: what the keys to watch begin with, instead of one key; without both all keys are watched.
            since: the first log entry whose changes come, such as the entry after that of a read (its `applied`), or
                the `next_index` of another watch. None for now: what is acknowledged before this call does not come,
                what is asked for after it does.
            timeout: after how many seconds without a change the iteration ends; None for never.

        Raises `InvalidConfigError` for arguments that cannot be, and without `since` what `read` raises.

        """
        watch = Watch(self, ChangeCursor(key, prefix, since), timeout)
        watch.start()
        return watch


class Watch(PublicSurface):
    """The changes of a key or of a prefix, each once and in order, as `KeyChange`; `Client.watch` makes it.

    Iterate over it, or call `get`. Threads can share it: each change goes to one of them. It asks one node, which keeps
    the question until there is a change; if that node fails, hangs or is cut off, it goes on at another one, without a
    gap or a repetition. While no node can answer it goes on trying. Nodes keep the newest changes in memory: a watch
    that is too far behind raises `CompactedError`.
    """

    internal = frozenset(
        {"internal", "calls", "cursor", "closed", "waiters", "turn", "pending", "pause_until", "start"}
    )

    def __init__(self, calls: WatchCalls, cursor: ChangeCursor, timeout: float | None) -> None:
        self.calls = calls
        self.cursor = cursor
        self.timeout = timeout
        """After how many seconds without a change an iteration ends; None for never."""
        self.closed = False
        self.waiters = Waiters()
        self.turn = [True]
        """Who takes the one element out asks; the others wait for what it gets."""
        self.pending: PendingRead[Any] | None = None
        self.asked_at = self.pause_until = -inf

    def __repr__(self) -> str:
        """What is watched, from where on, and whether it is open."""
        what = "key" if self.cursor.exact else "prefix"
        state = "closed" if self.closed else "open"
        return f"<Watch {what}={self.cursor.text!r} next_index={self.cursor.position} {state}>"

    def start(self) -> None:
        """Find out where to begin, if that is not given."""
        if self.cursor.next is None:
            client = self.calls.watch_client()
            pending = client.barrier_query(Route.of(read_from=NEAREST), client.timeout)
            client.driver.hand_over(pending)
            try:
                pending.result()
            except NotStartedError:
                self.calls.watch_client()  # raises what ended the client, if it knows more of that
                raise
            self.cursor.start(pending.applied)

    @property
    def next_index(self) -> int:
        """The log entry from which another watch goes on where this one is.

        If only some changes of one transaction were taken, all of that transaction come again.
        """
        return self.cursor.position or 0

    def get(self, timeout: float | None = None) -> KeyChange:
        """Return the next change; wait for it up to `timeout` seconds, None for as long as it takes.

        Raises TimeoutError after that time, `NotStartedError` if the watch or its client is closed, `CompactedError` if
        the changes that come next are not kept any more, and what `read` raises if asking again would not help.
        """
        end = inf if timeout is None else time.monotonic() + timeout
        looked = False
        while True:
            if self.closed:
                raise NotStartedError(CLOSED_TEXT)
            try:
                return self.cursor.changes.popleft()
            except IndexError:
                left = end - time.monotonic()
            if left <= 0 and looked:
                raise TimeoutError(f"no change within {timeout} s")
            seconds = None if left == inf else max(left, 0.0)
            try:
                self.turn.pop()
            except IndexError:
                self.waiters.wait_for(self.may_look, seconds)
            else:
                try:
                    self.look(seconds)
                finally:
                    self.turn.append(True)
                    self.waiters.wake()
            looked = True

    def may_look(self) -> bool:
        """Whether there is something to take, or to do."""
        return bool(self.cursor.changes or self.turn) or self.closed

    def look(self, seconds: float | None) -> None:
        """Wait up to `seconds` (None: without limit) for the answer to a question, and take it."""
        pause = self.pause_until - time.monotonic()
        if pause > 0:
            self.waiters.wait_for(self.is_closed, pause if seconds is None else min(pause, seconds))
            return
        pending = self.pending = self.pending or self.ask()
        self.waiters.wait_for(lambda: pending.done() or self.closed, seconds)
        if pending.done():
            self.pending = None
            self.take(pending)

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self.closed

    def ask(self) -> PendingRead[Any]:
        """Ask the next question. Raises what ended the client."""
        client = self.calls.watch_client()
        question, route = self.cursor.question()
        pending = client.query(question, route, KEPT_SECONDS + client.timeout)
        pending.add_done_callback(lambda done: self.waiters.wake())
        client.driver.hand_over(pending)
        self.asked_at = time.monotonic()
        return pending

    def take(self, pending: PendingRead[Any]) -> None:
        """Take an answer, or plan the next question. Raises the error if asking again would not help."""
        error = pending.error
        now = time.monotonic()
        if isinstance(error, NotStartedError):
            self.note_end(error)
        elif error is not None:
            self.pause_until = now + self.cursor.failed(fresh(error))
        else:
            self.pause_until = now + self.cursor.take(pending.value(), now - self.asked_at)

    def note_end(self, error: ConsensusError) -> None:
        """Raise what ended the client, unless it was only the call: that of a parent process, before a fork."""
        driver = self.calls.watch_client().driver
        if driver.closed_by is not None or driver.closing:
            raise fresh(error)

    def close(self) -> None:
        """End it, and whoever waits; from any thread. May be called twice."""
        self.closed = True
        self.waiters.wake()

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> KeyChange:
        """The next change."""
        try:
            return self.get(self.timeout)
        except TimeoutError:
            raise StopIteration from None
        except NotStartedError:
            if self.closed:
                raise StopIteration from None
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()
