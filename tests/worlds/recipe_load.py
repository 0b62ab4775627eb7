"""Clients that use recipes on a real cluster, blocking and with asyncio, and note what they were answered."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from forge_consensus import AsyncClient, Client, Command
from forge_consensus.errors import ConsensusError, LeaseLostError, OutcomeUnknownError
from forge_consensus.recipes import Barrier, Counter, Election, Lock, Queue, Semaphore, aio
from forge_consensus.recipes.patience import NotYetError
from forge_consensus.testing.histories.history import History, Operation, Outcome

TTL = 2.0
PATIENCE = 20.0
LIMIT = 2


class Notes:
    """The calls of all clients, by what they are about."""

    def __init__(self) -> None:
        self.history = History()
        self.stop = threading.Event()
        self.failures: list[BaseException] = []

    def begin(self, who: str, kind: str, key: str, argument: Any = None) -> Operation:
        """Note that a call begins."""
        return self.history.begin(Operation(who, kind, key, argument, began=time.monotonic()))

    def end(self, call: Operation, result: Any = None) -> None:
        """Note its answer."""
        call.result, call.outcome, call.ended = result, Outcome.OK, time.monotonic()

    @contextmanager
    def call(self, who: str, kind: str, key: str, argument: Any = None) -> Iterator[Operation]:
        """Note a call; one that fails and whose outcome is known did not happen."""
        call = self.begin(who, kind, key, argument)
        try:
            yield call
        except OutcomeUnknownError:
            raise
        except ConsensusError:
            if call.outcome is Outcome.OPEN:
                call.outcome = Outcome.REFUSED
            raise

    def may_have_expired(self, who: str, key: str, argument: Any) -> None:
        """Note that a lease may have ended at any time."""
        self.begin(who, "expire", key, argument).began = 0.0

    def of(self, key: str) -> list[Operation]:
        """The calls about one thing."""
        return [call for call in self.history if call.key == key]


def noted(notes: Notes, work: Callable[[], None]) -> Callable[[], None]:
    """A thread's work, over and over until the end, whose unexpected failures are kept."""

    def run() -> None:
        try:
            while not notes.stop.is_set():
                with suppress(ConsensusError):
                    work()
        except BaseException as error:
            notes.failures.append(error)

    return run


def locker(notes: Notes, who: str, client: Client, careless: bool) -> Callable[[], None]:
    """Takes a lock, writes under it, releases it; a careless one lets its lease end, sometimes, and writes then."""
    lock, turns = Lock(client, "load", TTL, owner=who), count()

    def work() -> None:
        with notes.call(who, "acquire", "lock") as call:
            token = lock.acquire(PATIENCE)
            notes.end(call, token)
        guard = lock.guard()
        if careless and next(turns) % 3 == 0:
            lock.held().held().lease.stop_keeping()
            notes.may_have_expired(who, "lock", token)
            time.sleep(TTL + 0.5)
        try:
            with notes.call(who, "write", "lock", token) as call:
                done = client.transaction(guard, [Command("set", {"key": "guarded", "value": token})])
                notes.end(call, done.succeeded)
        except OutcomeUnknownError:
            call.outcome = Outcome.REFUSED  # whether it was allowed is not known, and it changes nothing
        finally:
            with notes.call(who, "release", "lock", token) as call:
                try:
                    lock.release()
                    notes.end(call, True)
                except LeaseLostError:
                    notes.may_have_expired(who, "lock", token)
                    notes.end(call, False)
                except ConsensusError as error:
                    raise OutcomeUnknownError from error
        time.sleep(0.15)

    return work


def permitted(notes: Notes, who: str, client: Client) -> Callable[[], None]:
    """Takes one of two permits, and releases it."""
    semaphore = Semaphore(client, "load", LIMIT, TTL, owner=who)

    def work() -> None:
        with notes.call(who, "acquire", "semaphore") as call:
            permit = semaphore.acquire(PATIENCE)
            token = permit.token
            notes.end(call, token)
        time.sleep(0.08)
        with notes.call(who, "release", "semaphore", token) as call:
            try:
                permit.release()
                notes.end(call, True)
            except LeaseLostError:
                notes.may_have_expired(who, "semaphore", token)
                notes.end(call, False)
            except ConsensusError as error:
                raise OutcomeUnknownError from error
        time.sleep(0.08)

    return work


def candidate(notes: Notes, who: str, client: Client) -> Callable[[], None]:
    """Campaigns, leads for a moment, resigns; looks who leads."""
    election = Election(client, "load", 10.0)

    def work() -> None:
        with notes.call(who, "acquire", "election") as call:
            leadership = election.campaign(who, PATIENCE)
            token = leadership.token
            notes.end(call, token)
        with notes.call(who, "look", "election") as call:
            leader = election.leader()
            notes.end(call, leader.token if leader else 0)
        with notes.call(who, "release", "election", token) as call:
            try:
                leadership.resign()
                notes.end(call, True)
            except LeaseLostError:
                notes.may_have_expired(who, "election", token)
                notes.end(call, False)
            except ConsensusError as error:
                raise OutcomeUnknownError from error
        time.sleep(0.15)

    return work


def producer(notes: Notes, who: str, client: Client, name: str) -> Callable[[], None]:
    """Puts items."""
    queue, numbers = Queue(client, name, TTL), count()

    def work() -> None:
        item = f"{who}-{next(numbers)}"
        with notes.call(who, "put", name, item) as call:
            queue.put(item)
            notes.end(call)
        time.sleep(0.12)

    return work


def consumer(notes: Notes, who: str, client: Client) -> Callable[[], None]:
    """Gets items."""
    queue = Queue(client, "queue", TTL)

    def work() -> None:
        with notes.call(who, "pop", "queue") as call:
            try:
                notes.end(call, queue.get(0.5))
            except NotYetError:
                notes.end(call, None)

    return work


def worker(notes: Notes, who: str, client: Client, dice: random.Random) -> Callable[[], None]:
    """Takes items and acknowledges them; sometimes it lets its lease end before."""
    queue = Queue(client, "work", TTL, owner=who)

    def work() -> None:
        with notes.call(who, "take", "work") as call:
            item = queue.take(0.5)
            had = (item.value, item.token)
            notes.end(call, had)
        if dice.random() < 0.05:
            item.lease.stop_keeping()
            notes.may_have_expired(who, "work", had)
            time.sleep(TTL + 0.5)
        with notes.call(who, "ack", "work", had) as call:
            try:
                item.ack()
                notes.end(call, True)
            except LeaseLostError:
                notes.may_have_expired(who, "work", had)
                notes.end(call, False)
            except ConsensusError as error:
                notes.may_have_expired(who, "work", had)
                raise OutcomeUnknownError from error

    return work


def adder(notes: Notes, who: str, client: Client, dice: random.Random) -> Callable[[], None]:
    """Adds to a counter, looks at it, sets it if it is what it was."""
    counter = Counter(client, "load")

    def work() -> None:
        by = dice.randint(-3, 9)
        with notes.call(who, "increment", "counter", by) as call:
            total = counter.add(by)
            notes.end(call, total)
        with notes.call(who, "cas", "counter", (total, total + 100)) as call:
            notes.end(call, counter.compare_and_set(total, total + 100))
        with notes.call(who, "get", "counter") as call:
            notes.end(call, counter.get())
        time.sleep(0.15)

    return work


def gatekeeper(notes: Notes, client: Client) -> Callable[[], None]:
    """Makes a barrier and removes it."""
    barrier = Barrier(client, "load")

    def work() -> None:
        with notes.call("gate", "create", "barrier") as call:
            notes.end(call, barrier.create())
        time.sleep(0.15)
        with notes.call("gate", "remove", "barrier") as call:
            notes.end(call, barrier.remove())
        time.sleep(0.05)

    return work


def walker(notes: Notes, who: str, client: Client) -> Callable[[], None]:
    """Waits at a barrier."""
    barrier = Barrier(client, "load")

    def work() -> None:
        with notes.call(who, "wait", "barrier") as call:
            barrier.wait(PATIENCE)
            notes.end(call)
        time.sleep(0.15)

    return work


async def with_asyncio(notes: Notes, endpoints: list[str]) -> None:
    """The same with coroutines, on the same names: a lock, a queue, a counter."""
    async with AsyncClient(endpoints) as client:
        lock = aio.Lock(client, "load", TTL, owner="async")
        queue = aio.Queue(client, "queue", TTL)
        counter = aio.Counter(client, "load")

        async def lock_once() -> None:
            with notes.call("async", "acquire", "lock") as call:
                token = await lock.acquire(PATIENCE)
                notes.end(call, token)
            with notes.call("async", "release", "lock", token) as call:
                try:
                    await lock.release()
                    notes.end(call, True)
                except LeaseLostError:
                    notes.may_have_expired("async", "lock", token)
                    notes.end(call, False)
                except ConsensusError as error:
                    raise OutcomeUnknownError from error

        async def count_and_get() -> None:
            with notes.call("async", "increment", "counter", 1) as call:
                notes.end(call, await counter.add(1))
            with notes.call("async", "pop", "queue") as call:
                notes.end(call, await queue.try_get())

        async def over_and_over(work: Callable[[], Any]) -> None:
            while not notes.stop.is_set():
                with suppress(ConsensusError):
                    await work()
                await asyncio.sleep(0.15)

        await asyncio.gather(over_and_over(lock_once), over_and_over(count_and_get))
