"""Recipes for asyncio on a real node: turns, cancelled tasks, and what is told of misuse."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus import AsyncClient, Client, Command, ConsensusService
from forge_consensus.errors import (
    AlreadyHeldError,
    ConsensusTimeoutError,
    InvalidConfigError,
    LeaseLostError,
    NotHeldError,
    NotStartedError,
)
from forge_consensus.recipes.aio import Barrier, Counter, Election, Leader, Lock, Queue, RLock, Semaphore


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsensusService]:
    """A cluster of one node, in this process."""
    folder = Path(tmp_path_factory.mktemp("recipes"))
    with ConsensusService("n1", bind="127.0.0.1:0", storage_path=folder) as service:
        service.wait_for_leader(10)
        yield service


Run = Callable[[Callable[[AsyncClient], Awaitable[Any]]], Any]


@pytest.fixture
def run(service: ConsensusService) -> Run:
    """Runs a coroutine with a client, on a loop of its own."""

    def run(work: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            async with AsyncClient([service.address]) as client, asyncio.timeout(60):
                return await work(client)

        return asyncio.run(main())

    return run


async def until(find: Callable[[], Awaitable[Any]]) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(20):
        while not await find():
            await asyncio.sleep(0.02)


def test_a_lock_is_held_in_turn_and_by_one_task_at_a_time(run: Run) -> None:
    async def work(client: AsyncClient) -> None:
        order: list[int] = []

        async def one(number: int) -> None:
            async with Lock(client, "turns", owner=str(number)) as lock:
                order.append(lock.token)
                assert (await lock.contenders())[0] == str(number)
                guarded = await client.transaction(lock.guard(), [Command("set", {"key": "data", "value": number})])
                assert guarded

        await asyncio.gather(*(one(number) for number in range(5)))
        assert order == sorted(set(order))
        assert await client.scan("locks/turns") == []

    run(work)


def test_a_task_that_is_cancelled_leaves_the_line_at_once(run: Run) -> None:
    async def work(client: AsyncClient) -> None:
        async with Lock(client, "cancelled") as lock:
            waiting = [asyncio.create_task(Lock(client, "cancelled").acquire()) for _ in range(3)]
            await until(lambda: holds(lock, 4))
            waiting[1].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting[1]
            assert len(await lock.contenders()) == 3
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await Lock(client, "cancelled").acquire()
            assert len(await lock.contenders()) == 3
            with pytest.raises(ConsensusTimeoutError):
                await Lock(client, "cancelled").acquire(0.2)
            assert await Lock(client, "cancelled").try_acquire() is None
        first, last = await waiting[0], waiting[2]
        assert not last.done()
        assert first > 0
        last.cancel()

    async def holds(lock: Lock, count: int) -> bool:
        return len(await lock.contenders()) == count

    run(work)


def test_tasks_that_share_a_lock_wait_for_each_other(run: Run) -> None:
    async def work(client: AsyncClient) -> None:
        lock, inside = Lock(client, "shared"), 0

        async def one() -> None:
            nonlocal inside
            async with lock:
                inside += 1
                assert inside == 1
                await asyncio.sleep(0.01)
                inside -= 1

        await asyncio.gather(one(), one(), one())
        await lock.acquire()
        with pytest.raises(AlreadyHeldError, match="this very task"):
            await lock.acquire()
        with pytest.raises(ConsensusTimeoutError, match="another task of this process"):
            await asyncio.create_task(lock.acquire(0.1))
        await asyncio.create_task(lock.release())
        with pytest.raises(NotHeldError):
            await lock.release()
        rlock = RLock(client, "shared")
        async with rlock, rlock:
            assert await rlock.acquire() == rlock.token
            await rlock.release()
            with pytest.raises(NotHeldError, match="another task"):
                await asyncio.create_task(rlock.release())
            assert rlock.is_held
        assert not rlock.is_held

    run(work)


def test_a_lost_lock_is_told_on_the_loop(run: Run) -> None:
    async def work(client: AsyncClient) -> None:
        told = asyncio.Event()
        lock = Lock(client, "lost", 3.0, on_lost=told.set)
        await lock.acquire()
        [entry] = await client.entries("locks/lost#")
        await client.apply(Command("lease_revoke", {"lease": entry.lease}))
        await asyncio.wait_for(told.wait(), 20)
        assert not lock.is_held
        assert not await client.transaction(lock.guard(), [])
        with pytest.raises(LeaseLostError):
            await lock.release()
        with pytest.raises(ZeroDivisionError) as raised:
            async with lock:
                await client.delete(lock.key)
                _ = 1 / 0
        assert any("LeaseLostError" in note for note in raised.value.__notes__)

    run(work)


def test_permits_belong_to_tasks(run: Run) -> None:
    async def work(client: AsyncClient) -> None:
        semaphore, inside, most = Semaphore(client, "permits", 2, owner="me"), 0, 0

        async def one() -> None:
            nonlocal inside, most
            async with semaphore as permit:
                assert permit.is_held
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0.02)
                inside -= 1

        await asyncio.gather(*(one() for _ in range(6)))
        assert most == 2
        permit = await semaphore.acquire()
        with pytest.raises(NotHeldError):
            await asyncio.create_task(semaphore.release())
        await semaphore.release()
        with pytest.raises(NotHeldError):
            await permit.release()
        assert await semaphore.holders() == []
        async with await semaphore.acquire(), semaphore:
            assert await semaphore.try_acquire() is None
        with pytest.raises(InvalidConfigError):
            async with semaphore:
                await Semaphore(client, "permits", 3).acquire()

    run(work)


def test_leaders_are_observed(run: Run) -> None:
    async def work(client: AsyncClient) -> None:
        election, seen = Election(client, "jobs"), list[Any]()

        async def observe() -> None:
            async for leader in election.observe(timeout=20):
                seen.append(leader and leader.value)
                if seen[-1] is None and len(seen) > 1:
                    return

        observer = asyncio.create_task(observe())
        await until(lambda: something(seen))
        async with await election.campaign("one") as leadership:
            assert await election.leader() == Leader("one", leadership.token, leadership.key)
            assert await election.try_campaign("two") is None
            await leadership.proclaim("uno")
            await until(lambda: something("uno" in seen))
        await observer
        assert seen[0] is None
        assert seen[-2:] == ["uno", None]

    async def something(found: Any) -> bool:
        return bool(found)

    run(work)


def test_barriers_queues_and_counters(run: Run) -> None:
    async def work(client: AsyncClient) -> None:
        barrier = Barrier(client, "b")
        assert await barrier.create()
        waiting = asyncio.create_task(barrier.wait(20))
        with pytest.raises(ConsensusTimeoutError):
            await barrier.wait(0.1)
        assert await barrier.exists()
        assert await barrier.remove()
        await waiting
        counter = Counter(client, "c")
        assert await counter.add(2) == 2
        assert await counter.compare_and_set(2, 7)
        assert await counter.get() == 7
        await counter.set(0)
        queue = Queue(client, "q")
        for value in (1, 2, 3):
            await queue.put(value)
        assert await queue.peek() == 1
        assert await queue.get() == 1
        async with await queue.take() as item:
            assert item.value == 2
            assert await queue.size() == 2
        with pytest.raises(ZeroDivisionError):
            async with await queue.take() as item:
                _ = 1 / 0
        assert await queue.try_get() == 3
        assert await queue.try_get("none") == "none"
        late = asyncio.create_task(queue.take())
        await asyncio.sleep(0.1)
        late.cancel()
        with pytest.raises(asyncio.CancelledError):
            await late
        await queue.put("kept")
        assert await queue.get(10) == "kept"
        assert await client.scan("queues/q") == []

    run(work)


def test_a_client_that_is_closed_ends_the_wait(service: ConsensusService, run: Run) -> None:
    async def work(client: AsyncClient) -> None:
        other = AsyncClient([service.address])
        async with Lock(client, "closed"):
            waiting = asyncio.create_task(Lock(other, "closed").acquire())
            await asyncio.sleep(0.3)
            began = time.monotonic()
            await other.close()
            with pytest.raises(NotStartedError):
                await waiting
            assert time.monotonic() - began < 10.0

    run(work)


def test_a_blocking_client_is_refused(service: ConsensusService) -> None:
    with Client([service.address]) as client:
        for make in (Lock, Election, Barrier, Queue, Counter):
            with pytest.raises(InvalidConfigError, match=r"is for asyncio, .* take forge_consensus\.recipes\."):
                make(client, "x")
