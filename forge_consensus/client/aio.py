"""The client for asyncio: the same calls as coroutines, over the same driver."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from forge_consensus.actors.messages import Located
from forge_consensus.client.aio_access_calls import AsyncAccessCalls
from forge_consensus.client.aio_key_calls import AsyncKeyCalls
from forge_consensus.client.calls import (
    TIMEOUT_SECONDS,
    Calls,
    ReadDetail,
    check_timeout,
    listed,
)
from forge_consensus.client.connections import LocalPort
from forge_consensus.client.driver import Driver
from forge_consensus.client.member_calls import addition
from forge_consensus.client.members import ClusterMembers, MembersPlan
from forge_consensus.client.pending import Pending, PendingNodeQuery, PendingRead
from forge_consensus.client.pending_many import PendingMany
from forge_consensus.client.routes import Route
from forge_consensus.client.steps import Pause, Result, Step, Steps
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import ConsensusError, WrongEventLoopError
from forge_consensus.security.credentials import Credentials
from forge_consensus.storage.ledger.changes import Action, Change
from forge_consensus.storage.machines.machine import Command

if TYPE_CHECKING:
    from forge_consensus.client.backup import SnapshotTaken
    from forge_consensus.client.cluster_info import ClusterInfo
    from forge_consensus.storage.restoring import SnapshotReport

ADMITTED_MAX = 500
"""So many commands are handed over, and answers handed out, before the loop serves others again."""


class Gathered:
    """The future of the outcomes of many commands on the loop; it stands in the place of the last that is open."""

    __slots__ = ("future", "many")

    def __init__(self, many: PendingMany, future: asyncio.Future[list[Any]]) -> None:
        self.many = many
        self.future = future

    def done(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.future.done()


class LoopDelivery:
    """Between a driver and one event loop: it admits commands, and hands out the answers.

    Both go in portions of `ADMITTED_MAX`, one portion each time round the loop, so that ten thousands of calls at once
    leave the loop to others in between. It does not know the client, so that one that is dropped can end.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Belong to no loop; what was under way is not handed out."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self.batches: deque[list[Pending[Any]]] = deque()
        self.scheduled = False
        """Whether `hand_out` is scheduled on the loop and has not begun."""
        self.futures: dict[Pending[Any], asyncio.Future[Any] | Gathered] = {}
        self.waiters: deque[asyncio.Future[bool]] = deque()
        """Commands that wait to be admitted, and some that gave up."""
        self.ends: list[tuple[float, int, asyncio.Future[bool]]] = []
        """A heap of the loop's times at which they give up, each with a number of its own, because futures have no
        order; also some that do not wait any more."""
        self.numbers = count()
        self.alarm_at = inf
        """The earliest of those times."""
        self.alarm: asyncio.TimerHandle | None = None
        self.admitted = 0
        """How many commands were handed over since the last portion; no time round the loop takes more than one."""

    def bound(self) -> asyncio.AbstractEventLoop:
        """The loop; the first call decides. Raises `WrongEventLoopError` on another one, and RuntimeError on none."""
        running = asyncio.get_running_loop()
        if self.loop is None:
            self.loop = running
        elif self.loop is not running:
            raise WrongEventLoopError
        return running

    def deliver(self, batch: list[Pending[Any]]) -> None:
        """Have the loop hand out a batch of calls that ended; called on the driver's thread, wakes the loop once."""
        self.batches.append(batch)
        if not self.scheduled and self.loop is not None:
            self.scheduled = True
            try:
                self.loop.call_soon_threadsafe(self.hand_out)
            except RuntimeError:  # the loop is closed: nobody waits any more
                self.batches.clear()

    def hand_out(self) -> None:
        """Set the futures of calls that were delivered, and go on the next time round if there are many."""
        self.scheduled = False  # before looking: what comes later tells the loop again
        left = ADMITTED_MAX
        while self.batches and left > 0:
            batch = self.batches.popleft()
            if len(batch) > left:
                self.batches.appendleft(batch[left:])
                batch = batch[:left]
            left -= len(batch)
            self.settle(batch)
        if self.batches and not self.scheduled and self.loop is not None:
            self.scheduled = True
            self.loop.call_soon(self.hand_out)
        if self.waiters:
            self.renew()

    def settle(self, batch: list[Pending[Any]]) -> None:
        """Set the futures of these calls."""
        take = self.futures.pop
        for pending in batch:
            pending.finished = True
            future = take(pending, None)
            if future is None or future.done():
                continue
            if isinstance(future, Gathered):
                self.gather(future)
                continue
            if pending.error is not None:
                future.set_exception(pending.error)
                continue
            try:
                future.set_result(pending.value())
            except Exception as error:
                future.set_exception(error)

    def gather(self, gathered: Gathered) -> None:
        """Set the future of many commands if all have ended, else look again when one that has not ended does."""
        part = gathered.many.open_part()
        if part is None:
            gathered.future.set_result(gathered.many.outcomes())
        else:
            self.futures[part] = gathered

    def renew(self) -> None:
        """Admit the next portion of those who wait: the next time round the loop after a portion was admitted."""
        self.admitted = 0
        while self.waiters and self.admitted < ADMITTED_MAX and not (self.full() and self.open()):
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(True)
                self.admitted += 1
        if self.admitted >= ADMITTED_MAX and self.loop is not None:
            self.loop.call_soon(self.renew)
        if len(self.ends) > 2 * len(self.waiters) + ADMITTED_MAX:
            self.ends = [end for end in self.ends if not end[2].done()]
            heapify(self.ends)

    def full(self) -> bool:
        """Whether as many commands are outstanding as are allowed; the client sets it."""
        return False

    def open(self) -> bool:
        """Whether the driver takes commands; the client sets it."""
        return True

    def crowded(self) -> bool:
        """Whether a command must wait; one that need not is counted as admitted."""
        if self.waiters or self.admitted >= ADMITTED_MAX or self.full():
            return True
        self.admitted += 1
        if self.admitted == ADMITTED_MAX and self.loop is not None:
            self.loop.call_soon(self.renew)
        return False

    async def wait(self, timeout: float) -> bool:
        """Wait until a command is admitted, at most `timeout` seconds; return whether it is."""
        loop = self.bound()
        waiter: asyncio.Future[bool] = loop.create_future()
        end = loop.time() + timeout
        self.waiters.append(waiter)
        heappush(self.ends, (end, next(self.numbers), waiter))
        if end < self.alarm_at:
            self.set_alarm(loop, end)
        return await waiter

    def set_alarm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        """Have `refuse_late` called at that time and no other."""
        if self.alarm is not None:
            self.alarm.cancel()
        self.alarm_at, self.alarm = at, loop.call_at(at, self.refuse_late)

    def refuse_late(self) -> None:
        """End the waits whose time is over; one alarm for all, because one for each would cost more than the wait."""
        loop, ends = self.bound(), self.ends
        now = loop.time()
        while ends and (ends[0][0] <= now or ends[0][2].done()):
            _, _, waiter = heappop(ends)
            if not waiter.done():
                waiter.set_result(False)
        self.alarm_at, self.alarm = inf, None
        if ends:
            self.set_alarm(loop, ends[0][0])


class AsyncClient(Calls, AsyncKeyCalls, AsyncAccessCalls):
    """A client of a cluster for one event loop, that of its first call; it can be made before any loop runs.

    Its methods are those of `Client` as coroutines, with the same arguments, and raise the same errors. A call that is
    cancelled stops waiting; its command may still be carried out. A call on another loop raises `WrongEventLoopError`
    and nothing is sent. Close it, or use it in an ``async with`` statement.

    Args:
        endpoints: where nodes answer: addresses ``host:port`` or ``ipc:///path``, as a list or a text with commas
            between them.
        timeout: how many seconds a call tries where it is not told otherwise; above 0.
        cluster_id: the cluster that the nodes must belong to; "" for the cluster of the first node that answers.
        settings: the client's bounds and times; None for the defaults of `ClientSettings`.
        port: a node of this process, which is then an endpoint itself; None for none.
        correlate: whether a command without a correlation id gets one.
        credentials: what the client shows the nodes, and by what they prove themselves; None for no encryption.

    Raises `InvalidConfigError` for endpoints or a timeout that are none.

    """

    begins_at_once = False
    internal = Calls.internal | {"delivery", "start"}

    def __init__(
        self,
        endpoints: Sequence[str] | str = (),
        timeout: float = TIMEOUT_SECONDS,
        cluster_id: str = "",
        *,
        settings: ClientSettings | None = None,
        port: LocalPort | None = None,
        correlate: bool = False,
        credentials: Credentials | None = None,
    ) -> None:
        self.delivery = LoopDelivery()
        super().__init__(
            endpoints,
            timeout,
            cluster_id,
            settings=settings,
            port=port,
            deliver=self.delivery.deliver,
            correlate=correlate,
            credentials=credentials,
        )
        driver = self.driver
        driver.on_fork = self.delivery.forget
        self.delivery.full = driver.full  # type: ignore[method-assign]
        self.delivery.open = lambda: driver.closed_by is None  # type: ignore[method-assign]

    def start(self, pending: Pending[Any]) -> asyncio.Future[Any]:
        """Hand a call over and return the future of its answer. Raises `WrongEventLoopError` on another loop."""
        delivery = self.delivery
        future: asyncio.Future[Any] = delivery.bound().create_future()
        delivery.futures[pending] = future
        try:
            self.driver.hand_over(pending)
        except BaseException:
            delivery.futures.pop(pending, None)
            raise
        return future

    # --- the calls ---

    async def submit(self, command: Command, timeout: float | None = None) -> asyncio.Future[Any]:
        """Hand over a command and return the future of its result, so that many can be under way.

        Waits while `settings.outstanding_max` commands are outstanding; raises `BusyError` if that lasts for `timeout`
        seconds (None for the client's timeout).
        """
        self.delivery.bound()
        if self.delivery.crowded():
            seconds = self.timeout if timeout is None else check_timeout(timeout, late=True)
            began = time.monotonic()
            if not await self.delivery.wait(seconds):
                raise self.driver.busy(seconds)
            timeout = seconds - (time.monotonic() - began)
        return self.start(self.command(command, timeout))

    async def apply(self, command: Command, timeout: float | None = None) -> Any:
        """Have a command applied and return the state machine's result."""
        return await (await self.submit(command, timeout))

    async def submit_many(self, commands: Iterable[Command], timeout: float | None = None) -> asyncio.Future[list[Any]]:
        """Hand over many commands at once and return one future of all their outcomes.

        The future's result is a list with the result of each command, or the `ConsensusError` with which that command
        ended. Arguments and errors are those of `Client.submit_many`. A long list leaves the loop to others in between.
        """
        loop, delivery = self.delivery.bound(), self.delivery
        given, deadline = listed(commands), self.deadline(timeout)
        parts: list[Pending[Any]] = []
        for first in range(0, len(given), ADMITTED_MAX):
            if first:
                await asyncio.sleep(0)
            parts += self.commands(given[first : first + ADMITTED_MAX], deadline, first)
        if parts and delivery.crowded():
            seconds = max(0.0, deadline - time.monotonic())
            if not await delivery.wait(seconds):
                raise self.driver.busy(seconds)
        gathered = Gathered(PendingMany(parts), loop.create_future())
        delivery.gather(gathered)
        try:
            if parts:
                self.driver.hand_over_all(parts)
        except BaseException:
            delivery.futures.pop(parts[-1], None)
            raise
        return gathered.future

    async def apply_many(self, commands: Iterable[Command], timeout: float | None = None) -> list[Any]:
        """Have many commands applied, and return for each its result or the `ConsensusError` with which it ended.

        Arguments and errors are those of `submit_many`.
        """
        return await (await self.submit_many(commands, timeout))

    async def read(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> Any:
        """Return the state machine's answer to a query; arguments and errors are those of `Client.read`."""
        return await self.start(
            self.query(query, Route.of(consistency, read_from, max_staleness, after_index), timeout)
        )

    async def read_detail(
        self,
        query: Any,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        """Return the answer to a query and as of when it is true."""
        pending = self.query(query, Route.of(consistency, read_from, max_staleness, after_index), timeout)
        value = await self.start(pending)
        return ReadDetail(value, pending.applied, pending.stale_ms)

    async def barrier(
        self,
        consistency: str = "linearizable",
        timeout: float | None = None,
        *,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
    ) -> ReadDetail:
        """Return once a node's state fulfils what such a read asks, and say which entry it is; as `Client.barrier`."""
        pending = self.barrier_query(Route.of(consistency, read_from, max_staleness, after_index), timeout)
        value = await self.start(pending)
        return ReadDetail(value, pending.applied, pending.stale_ms)

    def lease_driver(self) -> Driver:
        """The driver that keeps leases alive."""
        return self.driver

    def watch_client(self) -> AsyncClient:
        """The client by which a watch asks."""
        return self

    async def status(self, endpoint: str | None = None, timeout: float | None = None) -> dict[str, Any]:
        """Return the status that a node reports of itself: the node at `endpoint`, or the leader, or any."""
        answer: dict[str, Any] = await self.start(self.status_query(endpoint, timeout))
        return answer

    async def reload_config(
        self, endpoint: str, *, dry_run: bool = False, timeout: float | None = None
    ) -> dict[str, Any]:
        """Have a node read its configuration again; arguments, result and errors are those of `Client.reload_config`.

        Args:
            endpoint: the address of the node.
            dry_run: whether only to say what would change.
            timeout: how many seconds to try; None for the client's timeout.

        """
        answer: dict[str, Any] = await self.start(self.reload_query(endpoint, timeout, dry_run=dry_run))
        return answer

    async def locate(self, timeout: float | None = None) -> Located:
        """Return who leads, in which term, and who the members are, as one node sees it. Waits until a node leads."""
        answer: Located = await self.start(self.locate_query(timeout))
        return answer

    async def members(self, endpoint: str | None = None, timeout: float | None = None) -> ClusterMembers:
        """Return the members of the cluster, as the node at `endpoint` knows them, or the leader, or any."""
        return ClusterMembers.of(await self.start(self.members_query(endpoint, timeout)))

    async def get_cluster_info(self, timeout: float | None = None) -> ClusterInfo:
        """Return the cluster as its leader sees it, or any node where none is known (`GetClusterInfo`)."""
        return self.cluster_info(await self.status(timeout=timeout))

    async def carry_out(self, steps: Steps[Result]) -> Result:
        """Carry out the steps of a call one after the other, and return their result."""
        answer, failed = None, None
        try:
            while True:
                step = steps.send(answer) if failed is None else steps.throw(failed)
                answer, failed = None, None
                try:
                    answer = await self.step(step)
                except ConsensusError as error:
                    failed = error
        except StopIteration as done:
            return cast("Result", done.value)
        finally:
            steps.close()

    async def step(self, step: Step) -> Any:
        """Carry out one step and return what it gives; work on the disk is done on a thread."""
        if isinstance(step, PendingNodeQuery | PendingRead):
            return await self.start(step)
        return await (asyncio.sleep(step.seconds) if isinstance(step, Pause) else asyncio.to_thread(step))

    async def snapshot(self, endpoint: str | None = None, timeout: float | None = None) -> SnapshotTaken:
        """Have a node take a snapshot now; arguments and errors are those of `Client.snapshot`."""
        return await self.carry_out(self.backup(timeout).snapshot(self.endpoint_name(endpoint)))

    async def snapshots(self, endpoint: str | None = None, timeout: float | None = None) -> list[SnapshotTaken]:
        """Return the snapshot files of a node, the newest first."""
        backup = self.backup(self.timeout if timeout is None else timeout)
        return await self.carry_out(backup.list(self.endpoint_name(endpoint)))

    async def save_snapshot(
        self,
        file: str | Path,
        endpoint: str | None = None,
        *,
        stale: bool = False,
        force: bool = False,
        timeout: float | None = None,
    ) -> SnapshotReport:
        """Save a backup to a file; arguments, result and errors are those of `Client.save_snapshot`."""
        backup = self.backup(timeout)
        return await self.carry_out(backup.save(Path(file), self.endpoint_name(endpoint), stale=stale, force=force))

    async def change_members(
        self,
        *changes: Change,
        force: bool = False,
        dry_run: bool = False,
        wait: bool = True,
        timeout: float | None = None,
    ) -> MembersPlan:
        """Change the members of the cluster; arguments and errors are those of `Client.change_members`."""
        return await self.carry_out(self.change_steps(changes, timeout, force=force, dry_run=dry_run, wait=wait))

    async def add_node(
        self,
        node: str,
        address: str,
        port: int | None = None,
        *,
        learner: bool = False,
        wait: bool = True,
        timeout: float | None = None,
    ) -> MembersPlan:
        """Add a node, which was started with ``--join``; arguments and errors are those of `Client.add_node`."""
        change = addition(node, address, port, learner=learner)
        return await self.change_members(change, wait=wait, timeout=timeout)

    async def remove_node(
        self, node: str, *, force: bool = False, wait: bool = True, timeout: float | None = None
    ) -> MembersPlan:
        """Remove a node from the cluster; arguments and errors are those of `Client.remove_node`."""
        return await self.change_members(Change(Action.REMOVE, node), force=force, wait=wait, timeout=timeout)

    async def transfer_leadership(
        self, target: str = "", *, wait: bool = True, timeout: float | None = None
    ) -> str | None:
        """Hand the leadership over; arguments, result and errors are those of `Client.transfer_leadership`."""
        return await self.carry_out(self.transfer_steps(target, timeout, wait=wait))

    async def step_down(self, *, timeout: float | None = None) -> str | None:
        """Have the leader hand over to any other voter; as `transfer_leadership`."""
        return await self.transfer_leadership(timeout=timeout)

    async def close(self) -> None:
        """Close all connections and end the thread; every outstanding call ends with an error. May be called twice."""
        await asyncio.get_running_loop().run_in_executor(None, self.driver.close)
        if self.delivery.loop is asyncio.get_running_loop():
            self.delivery.renew()
            self.delivery.hand_out()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
