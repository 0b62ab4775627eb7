"""Members of a real cluster change: by the command line, under load, one process after the other."""

from __future__ import annotations

import asyncio
import json
import re
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.client.aio import AsyncClient
from forge_consensus.client.sync import Client
from forge_consensus.errors import BusyError, InvalidConfigError
from forge_consensus.events.types import LogCommitted
from forge_consensus.feed.event_feed import EventFeed
from forge_consensus.storage.ledger.changes import Action, Change
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.command_line import run_command
from tests.worlds.command_nodes import CommandNodes
from tests.worlds.waiting import wait_for

SECONDS = 30.0


def run(cluster: LocalCluster, *arguments: str, expect: int = 0, seconds: int = 30) -> str:
    """Run the command line against the cluster; returns what it printed, or its error."""
    options = ("--endpoints", ",".join(cluster.addresses.values()), "--timeout", str(seconds))
    return run_command(*arguments, *options, expect=expect)


def command(cluster: LocalCluster, *arguments: str, expect: int = 0, seconds: int = 30) -> str:
    """Run ``forge-consensus members`` against the cluster; returns what it printed, or its error."""
    return run(cluster, "members", *arguments, expect=expect, seconds=seconds)


def parts(cluster: LocalCluster) -> dict[str, str]:
    """The part of each member, as the command line lists them."""
    return {each["id"]: each["part"] for each in json.loads(command(cluster, "list", "-o", "json"))["members"]}


def status_row(cluster: LocalCluster, name: str) -> dict[str, Any]:
    """What ``forge-consensus status`` tells programs of a node."""
    rows: list[dict[str, Any]] = json.loads(run(cluster, "status", "-o", "json", seconds=5))["nodes"]
    return next(row for row in rows if row["node_id"] == name)


class Writing:
    """A thread that counts up one key; it keeps the longest time between two acknowledgements."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.count = 0
        self.longest_seconds = 0.0
        self.failure: BaseException | None = None
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        last = time.monotonic()
        try:
            while not self.ending.is_set():
                assert self.client.incr("count") == self.count + 1
                self.count += 1
                now = time.monotonic()
                self.longest_seconds, last = max(self.longest_seconds, now - last), now
        except BaseException as error:
            self.failure = error


@contextmanager
def writing(cluster: LocalCluster) -> Iterator[Writing]:
    with Client(list(cluster.addresses.values()), timeout=SECONDS) as client:
        writer = Writing(client)
        writer.thread.start()
        try:
            yield writer
        finally:
            writer.ending.set()
            writer.thread.join(SECONDS)
        assert writer.failure is None
        assert client.get("count") == writer.count


def test_a_cluster_grows_replaces_all_its_members_and_shrinks_under_load() -> None:
    with LocalCluster(1) as cluster, writing(cluster) as writer:
        client = writer.client
        for name in ("n2", "n3"):
            address = cluster.join(name, None)
            client.add_node(name, address, timeout=SECONDS)
        assert {member.part for member in client.members().members} == {"voter"}
        for old, new in (("n1", "n4"), ("n2", "n5"), ("n3", "n6")):
            address = cluster.join(new, None)
            client.add_node(new, address, learner=True, timeout=SECONDS)
            client.change_members(Change(Action.PROMOTE, new), Change(Action.REMOVE, old), timeout=SECONDS)
        assert [member.id for member in client.members().members] == ["n4", "n5", "n6"]
        for name in ("n4", "n5"):
            client.remove_node(name, timeout=SECONDS)
        assert [member.id for member in client.members().members] == ["n6"]
        before, end = writer.count, time.monotonic() + SECONDS
        while writer.count == before and writer.thread.is_alive():
            assert time.monotonic() < end
            time.sleep(0.1)


def test_the_command_line_adds_lists_and_removes_a_member() -> None:
    with LocalCluster(3) as cluster:
        address = cluster.join("n4", None)
        waits = f"this node waits to be added: forge-consensus members add n4={address}"
        wait_for(lambda: waits in cluster.log_text("n4"), SECONDS, "the node to say that it waits")
        planned = command(cluster, "add", f"n4={address}", "--dry-run")
        assert "before: 2 of 3 voters (n1, n2, n3)\nduring: 2 of 3 voters (n1, n2, n3), learners n4\n" in planned
        assert "after:  3 of 4 voters (n1, n2, n3, n4)" in planned
        assert "nothing was changed" in planned
        planned = command(cluster, "replace", "n3", f"n4={address}", "--dry-run")
        assert "before: 2 of 3 voters (n1, n2, n3)\n" in planned
        assert "during: 2 of 3 voters (n1, n2, n3), learners n4\n" in planned
        assert "after:  2 of 3 voters (n1, n2, n4)\nnothing was changed" in planned
        assert "n4" not in command(cluster, "list")
        added = command(cluster, "add", f"n4={address}", "--learner")
        assert added.endswith("after:  2 of 3 voters (n1, n2, n3), learners n4\n")
        assert status_row(cluster, "n4")["role"] == status_row(cluster, "n4")["part"] == "learner"
        assert "after:  3 of 4 voters (n1, n2, n3, n4)" in command(cluster, "promote", "n4")
        told: list[dict[str, Any]] = []

        def is_settled() -> bool:  # a follower may be asked, which hears a moment later that the change is committed
            told.append(json.loads(command(cluster, "list", "-o", "json")))
            return bool(told[-1]["settled"])

        wait_for(is_settled, SECONDS, "the change to be committed where it is asked for")
        assert [member["part"] for member in told[-1]["members"]] == ["voter"] * 4
        listed = command(cluster, "list")
        assert f"n4 voter priority 0 {address}" in " ".join(listed.replace("*", " ").split())
        assert "after:  2 of 3 voters (n1, n2, n3), learners n4" in command(cluster, "demote", "n4")
        # A replacement that was left after its first change goes on.
        planned = command(cluster, "replace", "n3", f"n4={address}", "--dry-run")
        assert "during: 2 of 4 voters (n1, n2, n3 (leaving), n4)" in planned
        assert "after:  2 of 3 voters (n1, n2, n4)\nnothing was changed" in planned
        assert "after:  2 of 3 voters (n1, n2, n4)" in command(cluster, "replace", "n3", f"n4={address}")
        assert "is a member already" in command(cluster, "replace", "n2", f"n4={address}", expect=78)
        nobody = command(cluster, "add", "n9=127.0.0.1:1", expect=69, seconds=4)
        assert "node 'n9' was not met at 127.0.0.1:1: start it there with --join, and add it then" in nobody
        command(cluster, "remove", "n4")
        assert "there is no member 'n4' to remove" in command(cluster, "remove", "n4", expect=78)


def test_the_command_line_moves_a_member_and_does_not_wait_if_it_is_told_so() -> None:
    with LocalCluster(3) as cluster:
        name = next(each for each in ("n2", "n3") if each != cluster.wait_for_leader())
        moved = cluster.move(name)
        command(cluster, "update", name, "--address", moved)
        assert f"{name} voter priority 0 {moved}" in " ".join(command(cluster, "list").replace("*", " ").split())
        wait_for(lambda: status_of(cluster, name) == "active", SECONDS, "the leader to find the node that moved")
        address = cluster.join("n4", None)
        begun = command(cluster, "add", f"n4={address}", "--no-wait")
        assert begun.endswith("after:  3 of 4 voters (n1, n2, n3, n4)\n")
        wait_for(lambda: parts(cluster).get("n4") == "voter", SECONDS, "n4 to vote")
        command(cluster, "remove", "n4", "--no-wait")
        wait_for(lambda: "n4" not in parts(cluster), SECONDS, "n4 to be removed")


def test_a_client_and_a_feed_that_were_given_one_node_outlive_it() -> None:
    with (
        LocalCluster(1) as cluster,
        Client(cluster.addresses["n1"], timeout=SECONDS) as client,
        EventFeed(cluster.addresses["n1"], since=0) as feed,
    ):
        client.put("key", 1)
        for name in ("n2", "n3", "n4"):
            client.add_node(name, cluster.join(name, None), timeout=SECONDS)
        known = set(cluster.addresses.values())
        endpoints = client.driver.core.directory.endpoints
        wait_for(lambda: known == set(endpoints), SECONDS, "the client to know the members")
        wait_for(lambda: known == set(feed.driver.sources), SECONDS, "the feed to know the members")
        cluster.kill("n1")
        client.put("key", 2)
        client.remove_node("n1", timeout=SECONDS)
        moved = cluster.move("n4")
        client.change_members(Change(Action.UPDATE, "n4", moved), timeout=SECONDS)
        known = {cluster.addresses[name] for name in ("n2", "n3")} | {moved}
        wait_for(lambda: known == set(endpoints), SECONDS, "the client to know who left and who moved")
        wait_for(lambda: moved in feed.driver.sources, SECONDS, "the feed to find the one that moved")
        client.put("key", 3)
        last = cluster.status("n4")["last_log_index"]
        numbers: list[int] = []
        for event in feed:
            if event.node_id == "n4":
                numbers.append(event.sequence)
                if isinstance(event, LogCommitted) and event.last_index >= last:
                    break
        assert numbers == list(range(1, numbers[-1] + 1)), "each event once, in order, before the move and after it"


def say_who_leads(cluster: LocalCluster) -> None:
    """Show the leader, name another one, and have that one hand over, with and without waiting."""
    leader, target = cluster.wait_for_leader(), cluster.followers()[0]
    assert re.fullmatch(rf"{leader} leads in term \d+\n", run(cluster, "leader", "show"))
    assert re.fullmatch(rf"{target} leads in term \d+\n", run(cluster, "leader", "transfer", target))
    assert cluster.wait_for_leader() == target
    told = json.loads(run(cluster, "leader", "stepdown", "-o", "json"))
    leader = cluster.wait_for_leader()
    assert (told["leader"], told["address"]) == (leader, cluster.addresses[leader])
    assert leader != target
    assert run(cluster, "leader", "transfer", target, "--no-wait") == ""
    assert cluster.wait_for_leader(SECONDS, other_than=leader) == target
    assert run(cluster, "leader", "stepdown", "--no-wait") == ""
    cluster.wait_for_leader(SECONDS, other_than=target)


def test_the_command_line_says_who_is_to_lead() -> None:
    with LocalCluster(3) as cluster:
        say_who_leads(cluster)
        leader = cluster.wait_for_leader()
        first, second = cluster.followers()
        command(cluster, "update", second, "--no-leader")
        command(cluster, "update", first, "--priority", "10")
        listed = " ".join(command(cluster, "list").replace("*", " ").split())
        assert f"{first} voter priority 10" in listed
        assert f"{second} voter never" in listed
        assert (status_row(cluster, first)["priority"], status_row(cluster, second)["may_lead"]) == (10, False)
        assert "is marked never to lead" in run(cluster, "leader", "transfer", second, expect=78)
        end = time.monotonic() + SECONDS
        while cluster.leader() != first:
            assert time.monotonic() < end, "it leads after a calm time"
            time.sleep(0.2)
        assert leader != first
        assert "nothing is to be updated" in command(cluster, "update", first, expect=2)


def test_a_node_asks_to_be_added_and_comes_back_after_a_restart() -> None:
    with LocalCluster(1) as cluster:
        client = cluster.client()
        client.put("key", "value")
        cluster.join("n2", "voter")
        end = time.monotonic() + SECONDS
        while client.members().part_of("n2") != "voter":
            assert time.monotonic() < end
            time.sleep(0.1)
        cluster.kill("n2")
        cluster.restart("n2")
        client.put("key", "other")
        with Client(cluster.addresses["n2"]) as reader:
            assert reader.get("key") == "other"
        cluster.join("n3", "learner")
        wait_for(lambda: "this node is a learner and holds" in cluster.log_text("n3"), SECONDS, "n3 to be a learner")
        assert [(each.id, each.part, each.joining) for each in client.members().members] == [
            ("n1", "voter", False),
            ("n2", "voter", False),
            ("n3", "learner", False),
        ]


def test_a_node_that_joins_is_of_the_cluster_that_it_finds_unless_it_names_another(tmp_path: Path) -> None:
    with LocalCluster(1, cluster_id="named") as cluster, CommandNodes() as nodes:
        cluster.wait_for_leader()
        to_join = ("--join", cluster.addresses["n1"])
        port = free_ports(1)[0]
        everywhere = ("--listen", f"0.0.0.0:{port}", "--advertise", f"127.0.0.1:{port}", "--insecure")
        as_voter = ("--join-as", "voter")
        found = nodes.start("--id", "n2", "--data", str(tmp_path / "n2"), *to_join, *as_voter, *everywhere)
        assert found.stdout is not None
        assert select.select([found.stdout], [], [], SECONDS)[0], "it said nothing"
        assert found.stdout.readline().startswith("serving n2 of cluster named at ")
        wait_for(lambda: parts(cluster).get("n2") == "voter", SECONDS, "n2 to vote")
        assert f"n2 voter priority 0 127.0.0.1:{port}" in " ".join(command(cluster, "list").replace("*", " ").split())
        other = ("--listen", "127.0.0.1:0", "--cluster", "another")
        wrong = nodes.start("--id", "n3", "--data", str(tmp_path / "n3"), *other, *to_join)
        _, told = wrong.communicate(timeout=SECONDS)
        assert wrong.returncode == 78
        assert "Give it the id of the cluster that is there" in told


def test_a_member_with_a_lost_folder_is_removed_and_added_again() -> None:
    with LocalCluster(3) as cluster:
        client = cluster.client()
        client.put("key", "value")
        name = cluster.followers()[0]
        cluster.kill(name)
        client.remove_node(name, timeout=SECONDS)
        client.add_node(name, cluster.join(name, None), timeout=SECONDS)
        assert client.members().part_of(name) == "voter"
        with Client(cluster.addresses[name]) as reader:
            assert reader.get("key") == "value"


def test_a_member_with_a_lost_folder_comes_back_by_one_command_unless_it_still_answers() -> None:
    with LocalCluster(3) as cluster:
        client = cluster.client()
        client.put("key", "value")
        name = cluster.followers()[0]
        members = ",".join(cluster.addresses[other] for other in cluster.names if other != name)
        twin = cluster.extra_node(name, peers={}, storage_path=cluster.folder / "twin")
        twin.settings = replace(twin.settings, join=members)
        code, text = twin.refused()
        assert (code, "start it with --join-as voter --rejoin" in text) == (78, True), text
        twin.settings = replace(twin.settings, join_as="voter", rejoin=True)
        code, text = twin.refused()
        assert (code, f"the member {name} answers its cluster" in text) == (78, True), text
        address = cluster.addresses[name]
        cluster.kill(name)
        wait_for(lambda: status_of(cluster, name) != "active", SECONDS, "the leader to miss it")
        twin.settings = replace(twin.settings, advertise=address, bind=address)
        twin.start()
        wait_for(lambda: "this node votes" in twin.output(), SECONDS, "the node to say that it votes")
        assert "is asked to add this node as a voter" in twin.output()
        assert client.members().part_of(name) == "voter"
        with Client(address) as reader:
            assert reader.get("key") == "value"


def status_of(cluster: LocalCluster, name: str) -> str:
    """How the leader sees a node."""
    rows = cluster.status(cluster.wait_for_leader())["nodes"]
    return str(next(row["status"] for row in rows if row["id"] == name))


def test_what_would_lose_the_quorum_or_is_impossible_is_refused() -> None:
    with LocalCluster(3) as cluster:
        client = cluster.client()
        leader = cluster.wait_for_leader()
        away, other = cluster.followers()
        cluster.kill(away)
        end = time.monotonic() + SECONDS
        while True:
            try:
                client.remove_node(other, wait=False)
            except BusyError:
                continue
            except InvalidConfigError as error:
                assert f"only 1 would answer: {away} would not" in str(error)
                break
            pytest.fail("the change was made")
            assert time.monotonic() < end
        with pytest.raises(InvalidConfigError, match=f"'{leader}' is a member already"):
            client.add_node(leader, "127.0.0.1:1")
        refused = command(cluster, "remove", other, expect=78)
        assert f"a quorum is 2 of 2, and only 1 would answer: {away} would not" in " ".join(refused.split())
        forced = command(cluster, "remove", other, "--force", "--no-wait")
        assert forced.endswith(f"after:  2 of 2 voters ({', '.join(sorted((leader, away)))})\n")
        cluster.kill(other)  # else it might still be elected by its earlier configuration, and take the change back
        cluster.restart(away)
        wait_for(lambda: parts(cluster) == {leader: "voter", away: "voter"}, SECONDS, "the change that was forced")
        client.put("key", "value", timeout=SECONDS)


def test_the_leadership_goes_to_a_node_that_starts_again_as_soon_as_it_answers() -> None:
    with LocalCluster(3) as cluster:
        client, target = cluster.client(timeout=SECONDS), cluster.followers()[0]
        cluster.kill(target)
        wait_for(lambda: status_of(cluster, target) != "active", SECONDS, "the leader to miss it")
        with pytest.raises(BusyError, match=f"node '{target}' does not answer now"):
            client.transfer_leadership(target, timeout=0.5)
        cluster.restart(target)
        assert client.transfer_leadership(target) == target
        other = client.step_down()
        assert other == cluster.wait_for_leader() != target
        asyncio.run(change_by_coroutines(cluster, target))


async def change_by_coroutines(cluster: LocalCluster, target: str) -> None:
    """Make every change of members and of the leader as one that awaits it; the target does not lead before."""
    async with AsyncClient(cluster.endpoints, SECONDS, cluster.cluster_id) as client:
        assert await client.transfer_leadership(target) == target == (await client.members()).leader
        assert await client.step_down() == cluster.wait_for_leader() != target
        plan = await client.add_node("n4", cluster.join("n4", None))
        assert {each.id for each in plan.after.members} == {"n1", "n2", "n3", "n4"}
        found = await client.members()
        assert found.part_of("n4") == "voter"
        await client.remove_node("n4")
        assert (await client.members()).part_of("n4") == ""


def test_twenty_transfers_under_load_refuse_nothing() -> None:
    with LocalCluster(3) as cluster, writing(cluster) as writer:
        client = cluster.client(timeout=SECONDS)
        gaps = []
        for _ in range(20):
            before = cluster.wait_for_leader()
            writer.longest_seconds = 0.0
            assert client.transfer_leadership() != before
            count = writer.count
            while writer.count < count + 3 and writer.thread.is_alive():
                time.sleep(0.01)
            gaps.append(writer.longest_seconds)
        assert sorted(gaps)[len(gaps) // 2] < 0.3, gaps


def test_one_of_two_voters_moves_after_its_new_address_is_in_the_log() -> None:
    with LocalCluster(2) as cluster, cluster.client(timeout=SECONDS) as client:
        leader = cluster.wait_for_leader()
        moving = next(name for name in cluster.names if name != leader)
        client.put("key", 1)
        cluster.place_at(moving)
        address = cluster.addresses[moving]
        client.change_members(Change(Action.UPDATE, moving, address), wait=False)
        cluster.nodes[moving].stop()
        cluster.begin(moving)
        client.put("key", 2)
        wait_for(lambda: client.members().settled, SECONDS, "the change to be complete")
        assert {member.id: member.address for member in client.members().members}[moving] == address
        cluster.wait_until_settled()
