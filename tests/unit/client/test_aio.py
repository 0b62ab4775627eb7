"""The asyncio client, against nodes that are scripted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from math import inf

import pytest

from forge_consensus.actors.messages import Submit
from forge_consensus.client.aio import ADMITTED_MAX, AsyncClient, LoopDelivery
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import (
    BusyError,
    CommandError,
    ConnectionFailedError,
    NotStartedError,
    OutcomeUnknownError,
    WrongEventLoopError,
)
from forge_consensus.storage.machines.machine import Command
from tests.worlds.client_fakes import FakeCluster


def run(
    cluster: FakeCluster,
    work: Callable[[AsyncClient], Awaitable[None]],
    settings: ClientSettings | None = None,
) -> None:
    """Run a coroutine with a client."""

    async def main() -> None:
        async with AsyncClient(cluster.addresses, settings=settings) as client:
            await work(client)

    asyncio.run(main())


def test_every_call_is_a_coroutine(cluster: FakeCluster) -> None:
    async def work(client: AsyncClient) -> None:
        await client.put("a", 1)
        assert await client.get("a") == 1
        assert await client.cas("a", expected=1, value=2) is True
        assert await client.incr("n", by=3) == 3
        assert await client.scan("") == [("a", 2), ("n", 3)]
        assert await client.delete("a") is True
        ops = [Command("set", {"key": "p1", "value": 1}), Command("increment", {"key": "n", "by": 1})]
        assert await client.batch(ops) == [None, 4]
        assert await client.delete_prefix("p") == 1
        assert (await client.read_detail("n", consistency="stale")).stale_ms == 7
        assert (await client.status(cluster.addresses[2]))["node"] == "n3"
        assert (await client.locate()).leader == "n1"

    run(cluster, work)


def test_completion_offers_the_calls_and_no_internals(cluster: FakeCluster) -> None:
    async def work(client: AsyncClient) -> None:
        names = {name for name in dir(client) if not name.startswith("_")}
        calls = {
            "last_index",
            "submit",
            "submit_many",
            "apply",
            "apply_many",
            "read",
            "read_detail",
            "status",
            "locate",
            "close",
        }
        calls |= {
            "members",
            "change_members",
            "get_cluster_info",
            "save_snapshot",
            "snapshot",
            "barrier",
            "snapshots",
            "add_node",
            "remove_node",
            "transfer_leadership",
            "step_down",
            "reload_config",
        }
        keys = {"put", "get", "delete", "cas", "incr", "scan", "batch", "delete_prefix", "append", "entry", "entries"}
        keys |= {"transaction", "lease", "lease_info", "leases", "watch"}
        keys |= {"access", "add_principal", "remove_principal", "add_key", "revoke_key"}
        keys |= {"create_token", "rotate_token", "revoke_token", "forget_revoked"}
        assert names == calls | keys | {"timeout", "from_config"}
        assert repr(client).startswith("<AsyncClient endpoints=")

    run(cluster, work)


def test_a_thousand_tasks_at_once_each_get_their_own_result(cluster: FakeCluster) -> None:
    async def work(client: AsyncClient) -> None:
        sums = await asyncio.gather(*(client.incr("n") for _ in range(1000)))
        assert sorted(sums) == list(range(1, 1001))

    run(cluster, work)


def test_errors_are_raised_where_they_are_awaited(cluster: FakeCluster) -> None:
    async def work(client: AsyncClient) -> None:
        await client.put("a", "text")
        with pytest.raises(CommandError):
            await client.incr("a")
        cluster.group.hook = lambda node, message: [] if isinstance(message, Submit) else None
        with pytest.raises(OutcomeUnknownError):
            await client.put("a", 1, timeout=0.1)

    run(cluster, work)


def test_a_cancelled_call_harms_no_other(cluster: FakeCluster) -> None:
    async def work(client: AsyncClient) -> None:
        await client.put("a", 1)
        cluster.mute.add("n1")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.put("b", 1), 0.05)
        cluster.mute.clear()
        await client.put("c", 1)
        assert len(client.delivery.futures) <= 1

    run(cluster, work)


def test_submit_waits_while_too_much_is_outstanding(cluster: FakeCluster) -> None:
    async def work(client: AsyncClient) -> None:
        await client.put("a", 1)
        cluster.mute.add("n1")
        command = Command("set", {"key": "k", "value": 1})
        futures = [await client.submit(command) for _ in range(5)]
        with pytest.raises(BusyError):
            await client.submit(command, timeout=0.05)
        asyncio.get_running_loop().call_later(0.05, cluster.mute.clear)
        futures.append(await client.submit(command))
        await asyncio.gather(*futures)

    run(cluster, work, ClientSettings(outstanding_max=5))


def test_closing_ends_outstanding_calls(cluster: FakeCluster) -> None:
    async def work(client: AsyncClient) -> None:
        await client.put("a", 1)
        cluster.mute.add("n1")
        future = await client.submit(Command("set", {"key": "b", "value": 1}))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(OutcomeUnknownError):
            await future
        with pytest.raises(NotStartedError):
            await client.get("a")

    run(cluster, work)


def test_unreachable_endpoints_end_in_an_error() -> None:
    async def main() -> None:
        async with AsyncClient("127.0.0.1:9", timeout=0.2) as client:
            with pytest.raises(ConnectionFailedError):
                await client.put("a", 1)

    asyncio.run(main())


def test_a_client_is_made_before_any_loop_runs_and_belongs_to_that_of_its_first_call(cluster: FakeCluster) -> None:
    client = AsyncClient(cluster.addresses, timeout=5)

    async def use() -> None:
        await client.incr("n")

    asyncio.run(use())
    before = len(cluster.group.submits), len(cluster.group.reads)
    for call in (
        lambda: client.incr("n"),
        lambda: client.get("n"),
        lambda: client.submit(Command("set", {"key": "k", "value": 1})),
        client.status,
        client.locate,
    ):

        async def elsewhere(call: Callable[[], Awaitable[object]] = call) -> None:
            with pytest.raises(WrongEventLoopError, match="another event loop"):
                await call()

        asyncio.run(elsewhere())
    assert (len(cluster.group.submits), len(cluster.group.reads)) == before
    asyncio.run(client.close())
    with pytest.raises(RuntimeError, match="no running event loop"):
        client.put("a", 1).send(None)


@pytest.mark.parametrize("outstanding_max", [100, 10_000])
def test_ten_thousand_calls_at_once_leave_the_loop_to_others(cluster: FakeCluster, outstanding_max: int) -> None:
    async def work(client: AsyncClient) -> None:
        await client.put("k", 0)
        pauses = [0.0]

        async def tick() -> None:
            last = time.monotonic()
            while True:
                await asyncio.sleep(0)
                now = time.monotonic()
                pauses.append(now - last)
                last = now

        calls = [asyncio.ensure_future(client.put(str(number), number, 30)) for number in range(10_000)]
        ticking = asyncio.ensure_future(tick())
        await asyncio.gather(*calls)
        ticking.cancel()
        assert len(pauses) > 10_000 / ADMITTED_MAX  # the loop went round at least once a portion
        assert client.delivery.futures == {} and not client.delivery.waiters

    run(cluster, work, ClientSettings(outstanding_max=outstanding_max))


class Looked(asyncio.Future[bool]):
    """A future that counts how often anybody looked at whether it is done."""

    looks = 0

    def done(self) -> bool:
        Looked.looks += 1
        return super().done()


@pytest.mark.parametrize("order", [1, -1])
def test_many_waits_that_end_at_different_times_are_not_all_looked_at_each_time(
    monkeypatch: pytest.MonkeyPatch, order: int
) -> None:
    """Else the loop would do nothing else: 20,000 waits took 80 % of three seconds."""
    count = 3000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "create_future", lambda: Looked(loop=loop))
        delivery = LoopDelivery()
        monkeypatch.setattr(delivery, "full", lambda: True)
        alarms, refuse_late = [0], delivery.refuse_late

        def counted() -> None:
            alarms[0] += 1
            refuse_late()

        monkeypatch.setattr(delivery, "refuse_late", counted)
        ends = [0.1 + number % 300 / 1000 for number in range(count)][::order]
        waits = [delivery.wait(end) for end in ends]
        admitted = await asyncio.wait_for(asyncio.gather(*waits), 20)
        assert admitted == [False] * count
        assert not delivery.ends
        assert delivery.alarm_at == inf
        assert alarms[0] <= count

    Looked.looks = 0
    asyncio.run(main())
    assert Looked.looks < 5 * count


def test_the_ends_of_waits_that_were_admitted_are_forgotten() -> None:
    """A wait may end in a minute and be admitted at once, thousands of times a second."""

    async def main() -> None:
        delivery = LoopDelivery()
        for _ in range(10):
            waits = [asyncio.ensure_future(delivery.wait(60.0)) for _ in range(ADMITTED_MAX)]
            await asyncio.sleep(0)
            delivery.renew()
            assert await asyncio.gather(*waits) == [True] * ADMITTED_MAX
        assert len(delivery.ends) <= 2 * ADMITTED_MAX

    asyncio.run(main())


def test_calls_that_wait_to_be_admitted_end_when_the_client_is_closed(cluster: FakeCluster) -> None:
    async def work(client: AsyncClient) -> None:
        cluster.mute |= set(cluster.sockets)
        calls = [asyncio.ensure_future(client.put(str(number), number, 10)) for number in range(ADMITTED_MAX * 3)]
        await asyncio.sleep(0.1)
        await client.close()
        done = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
        assert all(isinstance(one, NotStartedError | OutcomeUnknownError) for one in done)

    run(cluster, work, ClientSettings(outstanding_max=10))
