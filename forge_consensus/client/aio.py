"""The client for asyncio: the same calls as coroutines, over the same driver."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self, cast

from forge_consensus.actors.messages import Located
from forge_consensus.client.connections import LocalPort
from forge_consensus.client.pending import Pending, PendingRead
from forge_consensus.client.sync import SCAN_LIMIT, TIMEOUT_SECONDS, Calls, ReadDetail, batch_command
from forge_consensus.config.client import ClientSettings
from forge_consensus.storage.machines.kv_commands import DELETED_MAX
from forge_consensus.storage.machines.machine import Command


class AsyncClient(Calls):
    """A client of a cluster for one event loop, the one that runs when it is made.

    Its methods are those of `Client` as coroutines, with the same arguments, and raise the same errors. A call that is
    cancelled stops waiting; its command may still be carried out. Close it, or use it in an ``async with`` statement.

    Args:
        endpoints: where nodes answer: addresses ``host:port`` or ``ipc:///path``, as a list or a text with commas
            between them.
        timeout: how many seconds a call tries where it is not told otherwise; above 0.
        cluster_id: the cluster that the nodes must belong to; "" for the cluster of the first node that answers.
        settings: the client's bounds and times; None for the defaults of `ClientSettings`.
        port: a node of this process, which is then an endpoint itself; None for none.
        correlate: whether a command without a correlation id gets one.

    Raises `InvalidConfigError` for endpoints or a timeout that are none, RuntimeError where no event loop runs.

    """

    internal = Calls.internal | {
        "loop",
        "batches",
        "scheduled",
        "futures",
        "waiters",
        "deliver",
        "hand_out",
        "start",
        "wait_for_capacity",
    }

    def __init__(
        self,
        endpoints: Sequence[str] | str = (),
        timeout: float = TIMEOUT_SECONDS,
        cluster_id: str = "",
        *,
        settings: ClientSettings | None = None,
        port: LocalPort | None = None,
        correlate: bool = False,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.batches: deque[list[Pending[Any]]] = deque()
        self.scheduled = False
        """Whether `hand_out` is scheduled on the loop and has not begun."""
        self.futures: dict[Pending[Any], asyncio.Future[Any]] = {}
        self.waiters: deque[asyncio.Future[None]] = deque()
        super().__init__(
            endpoints, timeout, cluster_id, settings=settings, port=port, deliver=self.deliver, correlate=correlate
        )

    # --- between the driver and the loop ---

    def deliver(self, batch: list[Pending[Any]]) -> None:
        """Have the loop hand out a batch of calls that ended; called on the driver's thread, wakes the loop once."""
        self.batches.append(batch)
        if not self.scheduled:
            self.scheduled = True
            try:
                self.loop.call_soon_threadsafe(self.hand_out)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self.batches.clear()

    def hand_out(self) -> None:
        """Set the futures of all calls that were delivered, and let those go on who wait for capacity."""
        self.scheduled = False  # before looking: what comes later tells the loop again
        take = self.futures.pop
        while self.batches:
            for pending in self.batches.popleft():
                pending.finished = True
                future = take(pending, None)
                if future is None or future.done():
                    continue
                if pending.error is not None:
                    future.set_exception(pending.error)
                    continue
                try:
                    future.set_result(pending.value())
                except Exception as error:
                    future.set_exception(error)
        while self.waiters and not self.driver.full():
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def start(self, pending: Pending[Any]) -> asyncio.Future[Any]:
        """Hand a call over and return the future of its answer."""
        future: asyncio.Future[Any] = self.loop.create_future()
        self.futures[pending] = future
        try:
            self.driver.hand_over(pending)
        except BaseException:
            del self.futures[pending]
            raise
        return future

    async def wait_for_capacity(self, timeout: float) -> None:
        """Wait until fewer commands are outstanding; raises `BusyError` after `timeout` seconds."""
        end = self.loop.time() + timeout
        while self.driver.full() and self.driver.closed_by is None:
            waiter: asyncio.Future[None] = self.loop.create_future()
            self.waiters.append(waiter)
            await asyncio.wait((waiter,), timeout=max(end - self.loop.time(), 0.0))
            if not waiter.done():
                waiter.cancel()
                raise self.driver.busy(timeout)

    # --- the calls ---

    async def submit(self, command: Command, timeout: float | None = None) -> asyncio.Future[Any]:
        """Hand over a command and return the future of its result, so that many can be under way.

        Waits while `settings.outstanding_max` commands are outstanding; raises `BusyError` if that lasts for `timeout`
        seconds (None for the client's timeout).
        """
        pending = self.command(command, timeout)
        if self.driver.full():
            await self.wait_for_capacity(self.timeout if timeout is None else timeout)
        return self.start(pending)

    async def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Have a command applied and return the state machine's result."""
        return await (await self.submit(command, timeout))

    async def read(self, query: Any, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Return the state machine's answer to a query; arguments and errors are those of `Client.read`."""
        return await self.start(self.query(query, consistency, timeout))

    async def read_detail(
        self, query: Any, consistency: str = "linearizable", timeout: float | None = None
    ) -> ReadDetail:
        """Return the answer to a query and as of when it is true."""
        pending: PendingRead[Any] = self.query(query, consistency, timeout)
        value = await self.start(pending)
        return ReadDetail(value, pending.applied, pending.stale_ms)

    async def put(self, key: str, value: Any, timeout: float | None = None, correlation_id: str | None = None) -> Any:
        """Set a key to a value."""
        return await self.apply(Command("set", {"key": key, "value": value}, correlation_id), timeout)

    async def get(self, key: str, consistency: str = "linearizable", timeout: float | None = None) -> Any:
        """Return the value of a key, None if it has none."""
        return await self.read(key, consistency, timeout)

    async def delete(self, key: str, timeout: float | None = None, correlation_id: str | None = None) -> bool:
        """Remove a key; return whether it was there."""
        return bool(await self.apply(Command("delete", {"key": key}, correlation_id), timeout))

    async def cas(
        self, key: str, *, expected: Any, value: Any, timeout: float | None = None, correlation_id: str | None = None
    ) -> bool:
        """Set a key if it holds the `expected` value (None: if it has none); return whether it was set."""
        payload = {"key": key, "expected": expected, "value": value}
        return bool(await self.apply(Command("cas", payload, correlation_id), timeout))

    async def incr(self, key: str, by: int = 1, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Add `by` to the number at a key and return the sum; a missing key counts as 0."""
        return cast("int", await self.apply(Command("increment", {"key": key, "by": by}, correlation_id), timeout))

    async def delete_prefix(self, prefix: str, timeout: float | None = None, correlation_id: str | None = None) -> int:
        """Remove all keys that begin with `prefix` ("" for all keys) and return how many there were.

        At most 10,000 keys go at once; more take several commands, between which others may write. `timeout` is that of
        each command.
        """
        total = 0
        while True:
            gone = cast("int", await self.apply(Command("delete_prefix", {"prefix": prefix}, correlation_id), timeout))
            total += gone
            if gone < DELETED_MAX:
                return total

    async def batch(
        self, commands: Iterable[Command], timeout: float | None = None, correlation_id: str | None = None
    ) -> list[Any]:
        """Carry out several commands of the machine as one, all or none, and return the list of their results.

        Nothing is changed if one of them fails (`CommandError`). A cas that does not match has not failed: its result
        is False, and the others are carried out.
        """
        return cast("list[Any]", await self.apply(batch_command(commands, correlation_id), timeout))

    async def scan(
        self,
        prefix: str = "",
        limit: int = SCAN_LIMIT,
        consistency: str = "linearizable",
        timeout: float | None = None,
    ) -> list[tuple[str, Any]]:
        """Return at most `limit` pairs (key, value) of the keys that begin with `prefix`, in the order of the keys."""
        pairs = await self.read({"scan": prefix, "limit": limit}, consistency, timeout)
        return [(key, value) for key, value in pairs]

    async def status(self, endpoint: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Return the status that a node reports of itself: the node at `endpoint`, or the leader, or any."""
        answer: dict[str, Any] = await self.start(self.status_query(endpoint, timeout))
        return answer

    async def locate(self, timeout: float | None = None) -> Located:
        """Return who leads, in which term, and who the members are, as one node sees it. Waits until a node leads."""
        answer: Located = await self.start(self.locate_query(timeout))
        return answer

    async def close(self) -> None:
        """Close all connections and end the thread; every outstanding call ends with an error. May be called twice."""
        await self.loop.run_in_executor(None, self.driver.close)
        self.hand_out()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
