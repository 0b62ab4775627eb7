"""The remote feed: the events of a node or a whole cluster, from another process, each once and in order per node."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

from forge_consensus.client.endpoints import parse_endpoints
from forge_consensus.client.surface import PublicSurface
from forge_consensus.config.client_file import read_client_file
from forge_consensus.errors import InvalidConfigError
from forge_consensus.events.stream import StreamEndedError
from forge_consensus.events.subscription import inside_inline_handler
from forge_consensus.events.types import ConsensusEvent
from forge_consensus.feed.cursor import PAGE_ROWS, Gap, Position, Since, Wanted
from forge_consensus.feed.driver import CONNECT_SECONDS, FeedDriver, OnSilence
from forge_consensus.feed.inbox import Inbox
from forge_consensus.security.credentials import Credentials, credentials_of

__all__ = ["EventFeed", "Gap", "Position", "Since"]

QUEUE_MAX = 10_000
CLOSE_SECONDS = 5.0


class EventFeed(PublicSurface):
    """The events of a node or of a whole cluster, from another process; each once, and in order per node.

    Iterate over it with ``for`` or ``async for``, or call `get` or `aget`; close it, or use it in a ``with`` or
    ``async with`` statement. Threads and tasks can share one feed: each event goes to one of them. Numbers that are
    missing come as a `Gap` in their place, whichever kinds are wanted. The feed runs one thread. A slow reader costs no
    memory: what does not fit into the queue is read from the node's journal later. A feed that is dropped without
    `close` ends. In a forked process it has ended too, with `NotStartedError`: make another one there.

    Args:
        endpoints: where nodes answer: addresses ``host:port`` or ``ipc:///path``, as a list or a text with commas.
        kinds: event classes and patterns of kinds, such as ``leader.*`` (short for ``consensus.leader.*``); none for
            all kinds.
        since: where to begin. None: with what is published from now on. A number: with the event of that sequence
            number on each node, 0 for everything that is kept. A mapping of node ids, such as the `positions` of an
            earlier feed: there, and nodes that it does not name from their first event on.
        timeout: after how many seconds without an event an iteration ends; None for never.
        scope: "cluster" follows every member, also those that join later; "node" only the nodes at `endpoints`.
        follow: whether to go on for ever. If not, the feed ends when everything was read that the nodes had published
            when they were first asked.
        cluster_id: the cluster that the nodes must belong to; "" for any.
        queue_max: how many events can wait for the reader; at least 1.
        connect_seconds: how long to wait for nodes that do not answer; they are then in `silent`. If none answers by
            then, a feed with ``follow=False`` ends with `ConnectionFailedError`; any other calls `on_silence` and goes
            on trying.
        on_silence: called with a `ConnectionFailedError` that names the addresses, on the feed's thread, when no node
            answered for `connect_seconds`, and again if that comes again; None warns by the standard `logging`.
        credentials: what the feed shows the nodes, and by what they prove themselves; None for no encryption.

    Raises `InvalidConfigError` for an endpoint, a kind or a `queue_max` that is none, `TransportUnavailableError` if
    the process may open no more files or threads.

    """

    internal = frozenset({"internal", "inbox", "driver"})

    def __init__(
        self,
        endpoints: Sequence[str] | str,
        kinds: Sequence[type[ConsensusEvent] | str] = (),
        since: Since = None,
        timeout: float | None = None,
        *,
        scope: Literal["cluster", "node"] = "cluster",
        follow: bool = True,
        cluster_id: str = "",
        queue_max: int = QUEUE_MAX,
        connect_seconds: float = CONNECT_SECONDS,
        on_silence: OnSilence | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        if queue_max < 1:
            raise InvalidConfigError(f"queue_max is {queue_max}: it must be at least 1")
        self.timeout, self.queue_max = timeout, queue_max
        self.inbox = Inbox(since, queue_max)
        self.driver = FeedDriver(
            self.inbox,
            parse_endpoints(endpoints),
            wanted_of(kinds),
            since,
            cluster_id=cluster_id,
            whole_cluster=scope == "cluster",
            capacity_min=max(1, min(PAGE_ROWS, queue_max // 2)),
            follow=follow,
            connect_seconds=connect_seconds,
            on_silence=on_silence,
            credentials=credentials,
        )
        self.inbox.starved = self.driver.rouse_if_starved
        # The driver does not know this object, so that a feed that is dropped without `close` takes its thread with it.
        weakref.finalize(self, self.driver.close).atexit = False
        self.driver.begin()

    @classmethod
    def from_config(cls, file: str | Path, *args: Any, **others: Any) -> Self:
        """Return a feed of the cluster that a client's configuration file names.

        Args:
            file: the file, see `forge_consensus.config.client_file`.
            args: the arguments of the class after `endpoints`.
            others: further ones, which win over what the file says.

        Raises `InvalidConfigError` for a file that cannot be used, with the field.

        """
        found = read_client_file(file)
        given = {"cluster_id": found.cluster_id, "credentials": credentials_of(found)}
        return cls(list(found.endpoints), *args, **{**given, **others})

    def __repr__(self) -> str:
        """The nodes that are followed, the events that wait, and whether the feed is open."""
        followed = ",".join(list(self.driver.sources)) or ",".join(self.driver.endpoints)
        state = "closed" if self.inbox.ended or self.driver.closing else "open"
        return f"<EventFeed nodes={followed} waiting={len(self.inbox.queue)} {state}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or sent to another process."""
        raise TypeError(
            "an EventFeed cannot be pickled or copied, because it is a thread and connections: make another one with "
            "since=feed.positions where it is needed"
        )

    # --- for readers -------------------------------------------------------------------------------------------------

    def get(self, timeout: float | None = None) -> ConsensusEvent:
        """Return the next event, or a `Gap`; wait for it up to `timeout` seconds, None for as long as it takes.

        Raises TimeoutError after that time, `StreamEndedError` when the feed has ended, RuntimeError inside an inline
        event handler, and the error that ended the feed: `ClusterNotFoundError`, `AuthenticationFailedError` if it may
        not read events, `ConnectionFailedError` if no node answered, or `NotStartedError` in a process that was forked
        after the feed was made.
        """
        if inside_inline_handler():
            raise RuntimeError("an inline handler must not wait for events: use a queued one")
        return self.inbox.get(timeout)

    async def aget(self, timeout: float | None = None) -> ConsensusEvent:
        """Return the next event, as `get` does; a task that is cancelled loses none."""
        return await self.inbox.aget(timeout)

    @property
    def positions(self) -> dict[str, Position]:
        """The position on each node behind the last event that was taken; give it to another feed as `since`."""
        return self.inbox.positions()

    @property
    def silent(self) -> list[str]:
        """The addresses of nodes that are not connected."""
        return self.driver.silent

    def close(self) -> None:
        """End it: the thread, the sockets, and whoever waits. May be called twice."""
        self.driver.close()
        if not self.driver.thread.is_current():
            self.driver.thread.join(CLOSE_SECONDS)

    # --- iterating ---------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> ConsensusEvent:
        """The next event."""
        try:
            return self.get(self.timeout)
        except (TimeoutError, StreamEndedError):
            raise StopIteration from None

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> ConsensusEvent:
        """The next event."""
        try:
            return await self.aget(self.timeout)
        except (TimeoutError, StreamEndedError):
            raise StopAsyncIteration from None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *failure: object) -> None:
        """Close."""
        await asyncio.to_thread(self.close)


def wanted_of(kinds: Sequence[type[ConsensusEvent] | str]) -> Wanted:
    """The kinds that a reader wants. Raises `InvalidConfigError` for a pattern that matches none."""
    try:
        return Wanted([kinds] if isinstance(kinds, str | type) else kinds)
    except (ValueError, TypeError) as error:
        raise InvalidConfigError(f"kinds is {kinds!r:.200}: {error}") from error
