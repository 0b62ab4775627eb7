"""Keys on real nodes: revisions, leases, transactions and watches, while leaders are killed, stopped and cut off."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.compare import Compare
from forge_consensus.client.key_records import KeyChange
from forge_consensus.client.sync import Client
from forge_consensus.client.watch import Watch
from forge_consensus.errors import CommandError, CompactedError, ConsensusError, OutcomeUnknownError
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from tests.worlds.source_tree import ROOT
from tests.worlds.waiting import wait_for


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three processes with proxies between them."""
    with LocalCluster(nodes=3, proxy=True) as started:
        started.wait_until_settled()
        yield started


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A client; all nodes run and are settled before and after."""
    with cluster.client(timeout=10.0) as made:
        yield made
    cluster.heal()
    for name in cluster.names:
        if not cluster.nodes[name].running:
            cluster.restart(name)
    cluster.wait_until_settled()


def set_to(key: str, value: Any, **more: Any) -> Command:
    """A command that sets a key."""
    return Command("set", {"key": key, "value": value, **more})


# --- revisions and ranges --------------------------------------------------------------------------------------------


def test_a_key_tells_the_entries_that_made_and_wrote_it(client: Client) -> None:
    client.delete_prefix("rev/")
    client.put("rev/a", 1)
    first = client.entry("rev/a")
    client.put("rev/a", 2)
    second = client.entry("rev/a")
    assert first is not None
    assert second is not None
    assert first.created == first.modified == second.created < second.modified
    assert (second.key, second.value, second.lease) == ("rev/a", 2, 0)
    client.delete("rev/a")
    assert client.entry("rev/a") is None
    client.put("rev/a", 3)
    third = client.entry("rev/a")
    assert third is not None
    assert third.created == third.modified > second.modified


def test_ranges_have_bounds_and_both_directions(client: Client) -> None:
    client.batch([set_to(f"range/{letter}", letter) for letter in "abcdef"])

    def keys(**arguments: Any) -> str:
        return "".join(entry.key[-1] for entry in client.entries("range/", **arguments))

    assert keys() == "abcdef"
    assert keys(reverse=True) == "fedcba"
    assert keys(limit=2) == "ab"
    assert keys(limit=2, after="range/b") == "cd"
    assert keys(limit=2, after="range/c", reverse=True) == "ba"
    assert keys(start="range/b", end="range/e") == "bcd"
    assert keys(start="range/b", end="range/e", reverse=True) == "dcb"
    assert keys(read_from="any") == "abcdef"


def test_appended_keys_sort_in_the_order_in_which_they_were_made(client: Client) -> None:
    client.delete_prefix("queue/")
    made = [client.append("queue/", number) for number in range(20)]
    made += client.batch([Command("append", {"prefix": "queue/", "value": number}) for number in range(20, 40)])
    assert made == sorted(made)
    assert [entry.value for entry in client.entries("queue/")] == list(range(40))


# --- transactions ----------------------------------------------------------------------------------------------------


def test_a_transaction_does_one_thing_or_the_other(client: Client) -> None:
    client.delete_prefix("tx/")
    took = client.transaction(
        [Compare.missing("tx/lock")], [set_to("tx/lock", "me"), Command("increment", {"key": "tx/n"})]
    )
    assert (bool(took), took.results) == (True, [None, 1])
    refused = client.transaction(
        Compare.missing("tx/lock"), [set_to("tx/lock", "you")], [Command("get", {"key": "tx/lock"})]
    )
    assert (refused.succeeded, refused.results) == (False, ["me"])
    entry = client.entry("tx/lock")
    assert entry is not None
    holds = [
        Compare.value("tx/lock") == "me",
        Compare.value("tx/lock") != None,  # noqa: E711
        Compare.value("tx/none") == None,  # noqa: E711
        Compare.created("tx/lock") == entry.created,
        Compare.modified("tx/lock") < entry.modified + 1,
        Compare.modified("tx/lock") > entry.modified - 1,
        Compare.created("tx/none") == 0,
        Compare.lease("tx/lock") == 0,
        Compare.exists("tx/lock"),
    ]
    assert client.transaction(holds, [])
    for wrong in (Compare.value("tx/lock") == "you", Compare.modified("tx/lock") != entry.modified):
        assert not client.transaction([*holds, wrong], [set_to("tx/lock", "you")])
    with pytest.raises(CommandError, match="no whole number"):
        client.transaction([], [set_to("tx/lock", "gone"), Command("increment", {"key": "tx/lock"})])
    assert client.get("tx/lock") == "me", "all or nothing"


def test_transfers_under_contention_keep_the_sum(cluster: LocalCluster, client: Client) -> None:
    """Eight threads move money between five accounts, each by what it has read; the leader is killed meanwhile."""
    accounts = [f"bank/{number}" for number in range(5)]
    client.batch([set_to(account, 100) for account in accounts])
    done, refused = [0], [0]
    ending = threading.Event()

    def move(seed: int) -> None:
        chance = random.Random(seed)
        with cluster.client(timeout=10.0) as own:
            while not ending.is_set():
                one, other = chance.sample(accounts, 2)
                amount = chance.randint(1, 30)
                here, there = own.entry(one, read_from="any"), own.entry(other, read_from="any")
                assert here is not None
                assert there is not None
                if here.value < amount:
                    continue
                try:
                    moved = own.transaction(
                        [Compare.modified(one) == here.modified, Compare.modified(other) == there.modified],
                        [set_to(one, here.value - amount), set_to(other, there.value + amount)],
                    )
                except OutcomeUnknownError:
                    continue
                (done if moved else refused)[0] += 1

    threads = [threading.Thread(target=move, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    sums = []
    killed = ""
    for turn in range(30):
        time.sleep(0.1)
        if turn == 10:
            killed = cluster.kill("leader")
        if turn == 20:
            cluster.restart(killed)
        sums.append(sum(entry.value for entry in client.entries("bank/")))
    ending.set()
    for thread in threads:
        thread.join(15)
        assert not thread.is_alive()
    assert set(sums) == {500}
    assert min(entry.value for entry in client.entries("bank/")) >= 0
    assert done[0] > 10
    assert refused[0] > 10, "they were in each other's way"


# --- leases ----------------------------------------------------------------------------------------------------------


def test_keys_go_with_their_lease_and_after_their_own_time(client: Client) -> None:
    began = time.monotonic()
    lease = client.lease(3.0)
    with lease.kept():  # on a busy machine all this takes longer than it lives by itself
        client.put("ttl/leased", 1, lease=lease)
        client.put("ttl/own", 1, ttl=1.5)
        client.put("ttl/kept", 1, ttl=1.5)
        client.put("ttl/kept", 2)
        info = client.lease_info(lease)
        assert info is not None
        assert (info.keys, info.ttl, info.count) == (("ttl/leased",), 3.0, 1)
        assert 0 < info.left <= 3.0
        assert [found.count for found in client.leases() if found.id == lease.id] == [1]
        left = lease.left()
        assert left is not None
        assert left <= 3.0
    wait_for(lambda: client.get("ttl/own") is None, 10, "the end of its own time")
    assert time.monotonic() - began >= 1.5
    wait_for(lambda: client.get("ttl/leased") is None, 10, "the end of the lease")
    assert time.monotonic() - began >= 3.0
    assert lease.left() is None
    assert client.get("ttl/kept") == 2
    with pytest.raises(CommandError, match=f"lease {lease.id} does not exist"):
        client.put("ttl/late", 1, lease=lease)
    with pytest.raises(CommandError, match="does not exist"):
        lease.keep_alive()
    other = client.lease(60)
    client.batch([set_to(f"ttl/revoked/{number}", 1, lease=other.id) for number in range(3)])
    assert other.revoke() == 3
    assert client.entries("ttl/revoked/") == []


class Probe(threading.Thread):
    """Writes all the time, to know how long a write takes at worst while the leader is killed and the machine busy."""

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(daemon=True)
        self.cluster = cluster
        self.ending = threading.Event()
        self.slowest = 0.0
        self.start()

    def run(self) -> None:
        with self.cluster.client(timeout=20.0) as client:
            while not self.ending.wait(0.02):
                began = time.monotonic()
                client.put("probe", began)
                self.slowest = max(self.slowest, time.monotonic() - began)

    def end(self) -> float:
        """The longest time of a write."""
        self.ending.set()
        self.join(30)
        return self.slowest


def test_leases_survive_the_kill_of_a_leader_and_end_on_time(cluster: LocalCluster, client: Client) -> None:
    ttl = 4.0
    kept = [client.lease(ttl).kept().begin() for _ in range(20)]  # from the grant on: 20 may take longer than one lives
    for lease in kept:
        client.put(f"alive/{lease.id}", 1, lease=lease)
    for _ in range(2):
        killed = cluster.kill("leader")
        cluster.wait_for_leader(other_than=killed)
        time.sleep(ttl + 0.5)
        cluster.restart(killed)
    assert not [lease for lease in kept if lease.lost.is_set()]
    assert len(client.entries("alive/")) == 20, "none ended early"
    with client.watch(prefix="alive/") as watch:
        probe = Probe(cluster)
        ends = time.monotonic()
        for lease in kept:
            lease.stop_keeping()
        killed = cluster.kill("leader")
        gone = [watch.get(30.0) for _ in kept]
        took = time.monotonic() - ends
        assert {change.kind for change in gone} == {"expire"}
        assert {change.key for change in gone} == {f"alive/{lease.id}" for lease in kept}
        assert took < ttl + 1.0 + probe.end()
        for lease in kept:
            assert lease.lost.is_set(), "the client knew it before the cluster ended it"
    cluster.restart(killed)


HOLDER = """
import sys
from forge_consensus import Client
with Client(sys.argv[1]) as client, client.lease(3.0).kept() as lease:
    client.put("held", lease.id, lease=lease)
    for _ in sys.stdin:
        print(lease.lost.is_set(), flush=True)
"""


def test_a_process_that_was_stopped_knows_at_once_that_its_lease_is_lost(cluster: LocalCluster, client: Client) -> None:
    """It would act as the holder, if it waited until its thread had looked."""
    command = [sys.executable, "-c", HOLDER, ",".join(cluster.endpoints)]
    with (
        client.watch("held") as watch,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as holder,
    ):
        assert holder.stdin is not None
        assert holder.stdout is not None

        def ask() -> str:
            print(file=holder.stdin, flush=True)
            return str(holder.stdout and holder.stdout.readline().strip())

        assert watch.get(30).kind == "put"
        time.sleep(4.0)
        assert ask() == "False"
        holder.send_signal(signal.SIGSTOP)
        assert watch.get(15).kind == "expire"
        holder.send_signal(signal.SIGCONT)
        assert ask() == "True"
        holder.stdin.close()


# --- watches ---------------------------------------------------------------------------------------------------------


Writes = list[dict[str, Any]]
"""What one writer did to its own keys, write by write: the new values by key, None for a key that is gone."""


def write(cluster: LocalCluster, name: str, ending: threading.Event, written: Writes) -> None:
    """Write keys of one's own until the end, single ones and several as one, and delete some; note what was done."""
    chance = random.Random(name)
    with cluster.client(timeout=10.0) as client:
        number = 0
        while not ending.is_set():
            number += 1
            keys = {f"w/{name}/{chance.randint(0, 9)}" for _ in range(chance.choice((1, 1, 1, 3)))}
            if number % 7 == 0:
                key = keys.pop()
                written += [{key: None}] if client.delete(key) else []
            else:
                did = dict.fromkeys(keys, f"{name}-{number}")
                client.batch([set_to(key, value) for key, value in did.items()])
                written.append(did)


class Watcher(threading.Thread):
    """A watch on a thread of its own."""

    def __init__(self, client: Client, **watched: Any) -> None:
        super().__init__(daemon=True)
        self.watch: Watch = client.watch(**watched)
        self.changes: list[KeyChange] = []
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.changes.extend(iter(self.watch))
        except BaseException as error:
            self.error = error

    def until(self, index: int) -> list[KeyChange]:
        """The changes up to an index, once it has passed that."""
        wait_for(lambda: self.error or self.watch.next_index > index, 20, "the end of the changes")
        assert self.error is None
        self.watch.close()
        self.join(5)
        return self.changes


def check_changes(changes: list[KeyChange], written: dict[str, Writes], state: dict[str, Any]) -> None:
    """Each change came once and in order; they are what the writers did, in their order, and they give the state."""
    assert [change.index for change in changes] == sorted(change.index for change in changes)
    told: dict[str, dict[int, dict[str, Any]]] = defaultdict(lambda: defaultdict(dict))
    replayed: dict[str, Any] = {}
    for change in changes:
        entry = told[change.key.split("/")[1]][change.index]
        assert change.key not in entry, "no change came twice"
        entry[change.key] = change.value
        if change.kind == "put":
            replayed[change.key] = change.value
        else:
            del replayed[change.key]
    assert replayed == state
    assert {name: list(found.values()) for name, found in told.items()} == written


def test_watches_tell_each_change_once_and_in_order_over_the_kills_of_leaders(
    cluster: LocalCluster, client: Client
) -> None:
    client.delete_prefix("w/")
    written: dict[str, Writes] = {f"writer{number}": [] for number in range(4)}
    ending = threading.Event()
    with cluster.client() as other:
        watchers = [
            Watcher(client, prefix="w/"),
            Watcher(other, prefix="w/"),
            Watcher(client, prefix="w/writer2/"),
            Watcher(other, key="w/writer1/3"),
        ]
        threads = [
            threading.Thread(target=write, args=(cluster, name, ending, wrote)) for name, wrote in written.items()
        ]
        for thread in threads:
            thread.start()
        for _ in range(3):
            time.sleep(0.7)
            killed = cluster.kill("leader")
            time.sleep(0.7)
            cluster.restart(killed)
        ending.set()
        for thread in threads:
            thread.join(15)
        cluster.wait_until_settled()
        state = {entry.key: entry.value for entry in client.entries("w/")}
        last = client.barrier().applied
        whole, same, part, one = (watcher.until(last) for watcher in watchers)
    assert sum(map(len, written.values())) > 300
    assert whole == same
    check_changes(whole, written, state)
    assert part == [change for change in whole if change.key.startswith("w/writer2/")]
    assert one == [change for change in whole if change.key == "w/writer1/3"]


def test_a_watch_goes_on_from_where_another_one_was(client: Client) -> None:
    client.delete_prefix("on/")
    with client.watch(prefix="on/") as first:
        for number in range(10):
            client.put("on/a", number)
        assert [first.get(15).value for _ in range(4)] == [0, 1, 2, 3]
        with client.watch(prefix="on/", since=first.next_index, timeout=1.0) as second:
            assert [change.value for change in second] == [4, 5, 6, 7, 8, 9]


def test_a_watch_goes_on_when_its_node_hangs_or_is_cut_off(cluster: LocalCluster, client: Client) -> None:
    with client.watch("hang") as watch:
        for blow in (cluster.pause, cluster.isolate):
            client.put("hang", 1)
            assert watch.get(15).value == 1
            time.sleep(0.2)
            hit = blow("leader")
            began = time.monotonic()
            client.put("hang", 2, timeout=30)
            written = time.monotonic() - began
            assert watch.get(30).value == 2
            assert time.monotonic() - began < 10 + written
            if blow == cluster.pause:
                cluster.resume(hit)
            else:
                cluster.heal()
            cluster.wait_until_settled()


def test_a_watch_for_asyncio_goes_on_over_the_kill_of_a_leader(cluster: LocalCluster) -> None:
    async def main() -> None:
        async with AsyncClient(cluster.endpoints, timeout=10.0) as client, client.watch(prefix="aio/") as watch:
            lease = await client.lease(8.0)
            async with lease.kept():
                for number in range(60):
                    if number == 20:
                        killed = await asyncio.to_thread(cluster.kill, "leader")
                    if number == 40:
                        await asyncio.to_thread(cluster.restart, killed)
                    await client.put(f"aio/{number}", number, lease=lease)
                assert [(await watch.get(20)).value for _ in range(60)] == list(range(60))
                assert not lease.lost.is_set()
            assert await lease.revoke() == 60
            assert {(await watch.get(20)).kind for _ in range(60)} <= {"delete", "expire"}

    asyncio.run(main())


def test_a_history_that_is_gone_everywhere_is_told(client: Client) -> None:
    """Nodes keep the newest hundred thousand changes."""
    client.put("gone", 1)
    since = client.last_index
    for number in range(11):
        client.batch([set_to(f"many/{key}", number) for key in range(10_000)])
    with client.watch("gone", since=since) as watch, pytest.raises(CompactedError) as raised:
        watch.get(15)
    oldest = raised.value.oldest
    assert since < oldest <= client.last_index
    with client.watch(prefix="many/", since=oldest, timeout=1.0) as watch:
        assert sum(1 for _ in watch) % 10_000 == 0, "changes that were made as one are kept or gone as one"
    with client.watch("gone", since=client.last_index + 1) as watch:
        client.put("gone", "new")
        assert watch.get(10).value == "new"
    client.delete_prefix("many/")


# --- in a service ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_service_has_leases_transactions_and_watches(mode: Any, tmp_path: Path) -> None:
    with ConsensusService("n1", bind="127.0.0.1:0", storage_path=tmp_path, mode=mode) as service:
        service.wait_for_leader(10)
        with service.watch(prefix="s/") as watch, service.lease(3.0) as lease:
            service.put("s/a", 1, lease=lease)
            assert service.transaction(Compare.lease("s/a") == lease, [set_to("s/b", 2, ttl_ms=400)])
            kinds = [(change.key, change.kind) for change in (watch.get(15) for _ in range(3))]
            assert kinds == [("s/a", "put"), ("s/b", "put"), ("s/b", "expire")]
            time.sleep(3.5)
            assert not lease.lost.is_set()
            info = service.lease_info(lease)
            assert info is not None
            assert info.keys == ("s/a",)
        entry = service.entry("s/a")
        assert entry is None
        waiting = service.watch("s/c")
        threading.Timer(0.3, service.stop).start()
        with pytest.raises(ConsensusError, match=r"stopped|not started"):
            waiting.get(10)
