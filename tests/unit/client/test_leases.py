"""Leases as clients hold them, against nodes that are scripted, and the keeper by itself."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.aio_lease_calls import AsyncLease
from forge_consensus.client.key_commands import TTL_SECONDS_MAX, ttl_ms_of
from forge_consensus.client.key_records import LeaseInfo
from forge_consensus.client.lease_keeper import LeaseKeeper, LeaseLife, LostLatch, running_clock
from forge_consensus.client.leases import Lease
from forge_consensus.client.pending import Pending
from forge_consensus.client.sync import Client
from forge_consensus.errors import CommandError, InvalidConfigError, NoLeaderError, NotStartedError
from forge_consensus.storage.machines.machine import Command
from tests.worlds.client_fakes import FakeCluster


@pytest.fixture
def client(cluster: FakeCluster) -> Iterator[Client]:
    with Client(cluster.addresses, timeout=3.0, cluster_id="fake") as made:
        yield made


def keep_alives(cluster: FakeCluster) -> int:
    """How many keep-alives were applied."""
    return sum(count for data, count in cluster.group.applied.items() if b"lease_keep_alive" in data)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until that is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


# --- the keeper by itself --------------------------------------------------------------------------------------------


class Keeping:
    """A keeper, its clock and one life of three seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("forge_consensus.client.lease_keeper.running_clock", lambda: self.now)
        self.keeper = LeaseKeeper(lambda: self.now)
        self.life = LeaseLife(5, 3.0, self.now)
        self.told: list[float] = []
        self.life.listeners.append(lambda: self.told.append(self.now))
        self.keeper.keep(self.life)

    def answer(self, pending: Pending[Any], error: Any = None) -> None:
        """End a keep-alive."""
        pending.error = error
        assert self.keeper.take([pending]) == []


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> Keeping:
    return Keeping(monkeypatch)


def test_a_lease_is_kept_alive_three_times_while_it_lives(keeping: Keeping) -> None:
    assert keeping.keeper.due() == []
    assert keeping.keeper.seconds() == pytest.approx(1.0)
    for _ in range(5):
        keeping.now += 1.0
        (pending,) = keeping.keeper.due()
        assert Command.decode(pending.payload).payload == {"lease": 5}
        assert keeping.keeper.due() == [], "one attempt at a time"
        keeping.now += 0.25
        keeping.answer(pending)
        assert keeping.keeper.seconds() == pytest.approx(0.75), "counted from when the last one was sent"
        assert keeping.life.seconds == pytest.approx(2.75)
        keeping.now -= 0.25


def test_attempts_that_fail_are_repeated_until_the_lease_must_be_regarded_as_lost(keeping: Keeping) -> None:
    sent = []
    while not keeping.told:
        for pending in keeping.keeper.due():
            sent.append(keeping.now)
            keeping.answer(pending, NoLeaderError())
        step = keeping.keeper.seconds()
        assert step > 0 or keeping.told
        keeping.now += step + 0.001
    assert keeping.told == [pytest.approx(103.0, abs=0.1)], "three seconds after the grant was sent"
    assert 15 < len(sent) < 30
    assert keeping.life.lost.is_set()
    assert not keeping.keeper


def test_a_lease_is_lost_at_once_if_the_cluster_does_not_know_it(keeping: Keeping) -> None:
    keeping.keeper.due()
    keeping.now += 1.0
    (pending,) = keeping.keeper.due()
    keeping.answer(pending, CommandError("ValueError", "lease 5 does not exist"))
    assert keeping.told == [101.0]
    assert keeping.life.seconds == 0.0


def test_an_answer_that_comes_after_its_time_does_not_bring_a_lease_back(keeping: Keeping) -> None:
    keeping.keeper.due()
    keeping.now += 1.0
    (pending,) = keeping.keeper.due()
    keeping.now += 2.5
    keeping.keeper.due()
    assert keeping.told == [103.5]
    keeping.answer(pending)
    assert keeping.life.lost.is_set()
    assert not keeping.keeper


def test_a_lease_that_is_left_is_neither_kept_nor_told_of(keeping: Keeping) -> None:
    keeping.keeper.due()
    keeping.now += 1.0
    (pending,) = keeping.keeper.due()
    keeping.keeper.leave(keeping.life)
    keeping.keeper.due()
    keeping.answer(pending, CommandError("ValueError", "revoked"))
    keeping.now += 10
    assert keeping.keeper.due() == []
    assert not keeping.told


def test_the_flag_of_a_lease_is_set_when_its_time_is_over_even_if_nobody_looked() -> None:
    lost = LostLatch(running_clock() + 0.1)
    assert not lost.is_set()
    assert not lost.wait(0.02)
    began = time.monotonic()
    assert lost.wait(5.0)
    assert time.monotonic() - began < 1.0


# --- holding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [0, -1, 0.09, float("nan"), float("inf"), TTL_SECONDS_MAX + 1, "10", None, True])
def test_a_ttl_that_cannot_be_is_refused(client: Client, ttl: Any) -> None:
    with pytest.raises(InvalidConfigError, match="ttl is"):
        client.lease(ttl)


def test_times_to_live_are_rounded_to_milliseconds() -> None:
    assert [ttl_ms_of(ttl) for ttl in (0.1, 1, 2.5, 0.1234, TTL_SECONDS_MAX)] == [100, 1000, 2500, 123, 31_536_000_000]


def test_a_lease_is_granted_kept_alive_and_revoked_by_hand(client: Client, cluster: FakeCluster) -> None:
    lease = client.lease(5)
    assert cluster.group.leases == {lease.id: 5000}
    assert 4.5 < lease.valid_for <= 5.0
    time.sleep(0.1)
    left = lease.valid_for
    assert lease.keep_alive() == 5.0
    assert lease.valid_for > left
    assert f"Lease {lease.id} of 5 s" in repr(lease)
    assert lease.revoke() == 1
    assert lease.lost.is_set()
    assert lease.revoke() == 0
    with pytest.raises(CommandError, match="does not exist"):
        lease.keep_alive()


def test_writes_name_their_lease_or_their_own_time(client: Client, cluster: FakeCluster) -> None:
    seen: list[dict[str, Any]] = []
    real = cluster.group.apply

    def apply(command: Command) -> tuple[str, bytes]:
        seen.append({"type": command.type, **command.payload})
        return real(command)

    cluster.group.apply = apply  # type: ignore[method-assign]
    lease = client.lease(5)
    client.put("a", 1, lease=lease)
    client.put("a", 1, lease=lease.id)
    client.put("a", 1, lease=0)
    client.put("a", 1, ttl=1.5)
    client.cas("a", expected=1, value=2, ttl=2)
    client.append("q/", 1, lease=lease)
    assert seen[1:] == [
        {"type": "set", "key": "a", "value": 1, "lease": lease.id},
        {"type": "set", "key": "a", "value": 1, "lease": lease.id},
        {"type": "set", "key": "a", "value": 1},
        {"type": "set", "key": "a", "value": 1, "ttl_ms": 1500},
        {"type": "cas", "key": "a", "expected": 1, "value": 2, "ttl_ms": 2000},
        {"type": "append", "prefix": "q/", "value": 1, "lease": lease.id},
    ]
    with pytest.raises(InvalidConfigError, match="both given"):
        client.put("a", 1, ttl=1, lease=lease)
    for wrong in ("5", -1, True, 1 << 64):
        with pytest.raises(InvalidConfigError, match="a lease is"):
            client.put("a", 1, lease=wrong)  # type: ignore[arg-type]


def test_inside_of_with_a_lease_is_kept_alive_and_at_the_end_revoked(client: Client, cluster: FakeCluster) -> None:
    with client.lease(1.0) as lease:
        time.sleep(2.5)
        assert not lease.lost.is_set()
        assert lease.id in cluster.group.leases
    assert keep_alives(cluster) >= 4
    assert cluster.group.leases == {}
    assert lease.lost.is_set()
    assert not client.driver.keeper


def test_kept_keeps_and_does_not_revoke(client: Client, cluster: FakeCluster) -> None:
    with client.lease(1.0).kept() as lease:
        until(lambda: keep_alives(cluster) >= 2)
    time.sleep(0.2)
    count = keep_alives(cluster)
    assert lease.lost.wait(3.0), "nothing keeps it alive any more"
    assert keep_alives(cluster) == count
    assert lease.id in cluster.group.leases


def test_the_loss_of_a_lease_is_told_on_a_thread_that_may_call_the_client(client: Client, cluster: FakeCluster) -> None:
    told: list[tuple[Lease, Any]] = []
    lease = client.lease(0.3)
    with lease.kept(on_lost=lambda lost: told.append((lost, client.get("k")))):
        cluster.do(cluster.group.leases.clear)
        assert lease.lost.wait(2.0)
        until(lambda: told)
    assert told == [(lease, None)]


def test_a_lease_outlives_a_failover(client: Client, cluster: FakeCluster) -> None:
    with client.lease(3.0) as lease:
        for leader in ("n2", "n3"):
            cluster.kill(cluster.group.leader)
            time.sleep(0.2)
            cluster.elect(leader)
            count = keep_alives(cluster)
            until(lambda before=count: keep_alives(cluster) > before)  # type: ignore[misc]
        assert not lease.lost.is_set()


def test_a_lease_is_lost_before_the_cluster_could_end_it_if_nobody_answers(
    client: Client, cluster: FakeCluster
) -> None:
    lease = client.lease(0.5)
    with lease.kept():
        until(lambda: keep_alives(cluster) >= 1)
        cluster.mute.update(("n1", "n2", "n3"))
        time.sleep(0.5)
        assert lease.lost.is_set(), "whatever was sent before is half a second old"


def test_the_end_of_the_client_is_the_loss_of_what_it_keeps(client: Client) -> None:
    lease = client.lease(30)
    kept = lease.kept()
    kept.begin()
    client.close()
    assert lease.lost.wait(1.0)
    kept.end()
    with pytest.raises(NotStartedError):
        lease.kept().begin()


def test_a_handle_that_is_dropped_is_kept_no_longer(client: Client) -> None:
    lease = client.lease(30)
    lease.kept(print).begin()
    until(lambda: client.driver.keeper.lives)
    del lease
    gc.collect()
    until(lambda: not client.driver.keeper)


def test_a_lease_can_be_kept_again_and_by_several_at_once(client: Client, cluster: FakeCluster) -> None:
    lease = client.lease(1.0)
    assert lease.lost.wait(3.0)
    with lease.kept():  # the cluster knows it still
        assert not lease.lost.is_set()
        with lease.kept():
            until(lambda: keep_alives(cluster) >= 3)
        time.sleep(1.5)
        assert not lease.lost.is_set()
    until(lambda: not client.driver.keeper.lives or client.driver.keeper.wishes)
    assert lease.lost.wait(3.0)


def test_many_leases_are_kept_by_one_thread(client: Client) -> None:
    threads = threading.active_count()
    leases = [client.lease(1.5) for _ in range(50)]
    for lease in leases:
        lease.kept().begin()
    time.sleep(2.0)
    assert not [lease for lease in leases if lease.lost.is_set()]
    assert threading.active_count() == threads


def test_a_child_process_holds_no_lease_of_its_parent(client: Client) -> None:
    with client.lease(5) as lease:
        until(lambda: client.driver.keeper.lives)
        pid = os.fork()
        if not pid:
            os._exit(0 if lease.lost.is_set() and not client.driver.keeper else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert not lease.lost.is_set()


def test_what_the_cluster_tells_of_leases_is_understood() -> None:
    assert LeaseInfo.of_row([7, 1500, 900, ["a", "b"]]) == LeaseInfo(7, 1.5, 0.9, 2, ("a", "b"))
    assert LeaseInfo.of_row([7, 1500, 900, []]) == LeaseInfo(7, 1.5, 0.9, 0)
    assert LeaseInfo.of_row([7, 1500, 900, 12]) == LeaseInfo(7, 1.5, 0.9, 12)


# --- asyncio ---------------------------------------------------------------------------------------------------------


def test_a_lease_for_asyncio_is_kept_alive_while_the_loop_is_busy(cluster: FakeCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.addresses, timeout=3.0) as client:
            async with await client.lease(1.0) as lease:
                time.sleep(2.0)
                assert not lease.lost.is_set()
                assert lease.id in cluster.group.leases
                assert await lease.keep_alive() == 1.0
            assert cluster.group.leases == {}
            assert await lease.wait_lost(0.0)

    asyncio.run(main())


def test_the_loss_of_a_lease_is_told_on_the_loop(cluster: FakeCluster) -> None:
    async def main() -> None:
        told: list[tuple[AsyncLease, int]] = []
        async with AsyncClient(cluster.addresses, timeout=3.0) as client:
            lease = await client.lease(1.5)
            async with lease.kept(lambda lost: told.append((lost, threading.get_ident()))):
                assert not await lease.wait_lost(2.0)
                cluster.do(cluster.group.leases.clear)
                assert await lease.wait_lost(2.0)
                await asyncio.sleep(0.05)
            assert told == [(lease, threading.get_ident())]
            revoked = await client.lease(30)
            waiting = asyncio.ensure_future(revoked.wait_lost())
            await asyncio.sleep(0)
            assert await revoked.revoke() == 1
            assert await asyncio.wait_for(waiting, 1.0)

    asyncio.run(main())
