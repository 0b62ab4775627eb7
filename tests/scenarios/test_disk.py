"""Scenarios 61 and 62: torn and damaged records under LMDB; disks that fail or hang under a leader or a follower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.messages import AppendEntries, Submit
from forge_consensus.errors import CorruptionError, StorageError
from forge_consensus.events.types import LeaderStepDown
from tests.unit.actors.test_replication import noop
from tests.worlds.crash_steps import Persistent
from tests.worlds.one_node import OneNode
from tests.worlds.scenario_world import (
    Caller,
    ask,
    base_of,
    file_of,
    increment,
    leader_of,
    led_cluster,
    node_on_lmdb,
    open_session,
    others_than,
    outcomes,
    put,
    value_at,
)

META_PAGES = 2
"""LMDB's root lies in these two pages in turn; a commit is what it writes there last."""


# --- 61 ---------------------------------------------------------------------------------------------------------------


def commit_in_bytes(path: Path) -> tuple[bytes, bytes, int, int]:
    """The file before and after the one commit of a command, its page size, and the log's last index before."""
    with node_on_lmdb(path, 1) as node:
        session = open_session(node)
        ask(node, session, *(put(f"k{number}", "x" * 300) for number in range(30)))
        node.turn()
        before, last = file_of(path).read_bytes(), node.ledger.log.last
        frame = node.frame("", "gateway", Submit(session, 31, ((31, put("k31", "y" * 9_000)),)))
        node.engine.turn([(frame, "->client")], [])
        assert node.ledger.log.last == last + 1
        page_bytes = node.tables.environment.stat()["psize"]  # type: ignore[attr-defined]
        return before, file_of(path).read_bytes(), page_bytes, last


def last_index(path: Path, file: bytes) -> int:
    """Start a node on that file; returns where its log ends. It must serve."""
    file_of(path).write_bytes(file)
    with node_on_lmdb(path, 1) as node:
        last = node.ledger.log.last - 1  # its own no-op came since
        ask(node, open_session(node), put("it", "serves"))
        assert outcomes(node)[-1][1] == ""
        assert node.ledger.applier.machine.query("k29") == "x" * 300
        return last


def test_scenario_61_a_torn_last_commit_is_dropped_whole_and_the_node_starts(tmp_path: Path) -> None:
    """LMDB writes the pages of a commit, flushes, and writes its root last: any part of the pages may be there."""
    before, after, page_bytes, last = commit_in_bytes(tmp_path)
    pages = range(META_PAGES, len(after) // page_bytes)
    new = [
        page for page in pages if after[page * page_bytes :][:page_bytes] != before[page * page_bytes :][:page_bytes]
    ]
    assert len(new) >= 4
    assert len(after) > len(before), "the file has grown too"

    def torn(written: list[int], piece: int = page_bytes) -> bytes:
        file = bytearray(before)
        for page in written:
            at = page * page_bytes
            file += bytes(max(0, at + piece - len(file)))
            file[at : at + piece] = after[at : at + piece]
        return bytes(file)

    for count in range(len(new) + 1):
        for written in (new[:count], new[count:]):
            assert last_index(tmp_path, torn(written)) == last
            assert last_index(tmp_path, torn(written, page_bytes // 2)) == last
    assert last_index(tmp_path, after) == last + 1, "with its root a commit is whole"


@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_scenario_61_a_bad_record_anywhere_refuses_the_start_with_a_clear_error(tmp_path: Path, place: str) -> None:
    """Also the last: LMDB commits whole transactions, so no crash leaves it so, and it may have been acknowledged."""
    with node_on_lmdb(tmp_path, 1) as node:
        ask(node, open_session(node), *(put(f"k{number}", number) for number in range(30)))
        index = {"first": 1, "middle": 15, "last": node.ledger.log.last}[place]
        record = node.ledger.log.get(index)
    whole = file_of(tmp_path).read_bytes()
    bad = whole.replace(record, record[:-6] + bytes([record[-6] ^ 1]) + record[-5:])
    assert bad != whole
    file_of(tmp_path).write_bytes(bad)
    with pytest.raises(CorruptionError, match=f"log entry {index} fails its checksum.*majority of the members"):
        node_on_lmdb(tmp_path, 1).__enter__()
    assert file_of(tmp_path).read_bytes() == bad, "what is damaged is left as it is found"
    file_of(tmp_path).write_bytes(whole)
    with node_on_lmdb(tmp_path, 1) as again:
        assert again.ledger.log.get(index) == record


# --- 62 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [False, True])
def test_scenario_62_another_node_leads_after_the_leaders_disk_failed(written: bool) -> None:
    """The commit that fails may be on disk all the same, as far as anybody can know."""
    with led_cluster(3) as (cluster, _):
        old = leader_of(cluster)
        client = Persistent(cluster)
        client.begin()
        client.do(increment("n"))
        old.disk.fail_next_commit(StorageError("ordered"), written=written)
        (result,) = client.do(increment("n"))
        assert msgpack.unpackb(result) == 2
        assert not old.alive
        assert leader_of(cluster).name != old.name
        cluster.restart(old.name)
        assert cluster.run(10.0, cluster.settled)
        assert [value_at(cluster, name, "n") for name in cluster.names] == [2, 2, 2]


@pytest.mark.parametrize("written", [False, True])
def test_scenario_62_a_follower_acknowledges_nothing_after_its_disk_failed(written: bool) -> None:
    node = OneNode()
    node.tables.fail_next_commit(OSError(5, "Input/output error"), written=written)
    for index in (2, 3):
        append = AppendEntries(1, index - 1, 0 if index == 2 else 1, 1, 0, (noop(index, 1),))
        with pytest.raises(StorageError):
            node.request("n2", "replication", append)
    assert not node.sent
    again = OneNode(tables=node.tables.clone_durable())
    assert again.ledger.log.last == (2 if written else 1)


def test_scenario_62_no_entry_commits_while_a_majority_of_the_disks_is_down() -> None:
    with led_cluster(3) as (cluster, _):
        leader = leader_of(cluster)
        caller = Caller(cluster)
        session = caller.open_session(leader.name)
        assert cluster.run(5.0, cluster.settled)
        before = leader.engine.ledger.commit_index
        told: list[Any] = []
        cluster.nodes[leader.name].bus.subscribe(LeaderStepDown, told.append, inline=True)
        followers = others_than(cluster, leader.name)
        for name in followers:
            base_of(cluster, name).disk.fail_next_commit(StorageError("ordered"))
        number = caller.send(leader.name, Submit(session, 1, ((1, increment("n")),)))
        cluster.run(5.0)
        assert [cluster.nodes[name].running for name in followers] == [None, None]
        assert leader.engine.ledger.commit_index == before
        assert [answer.code for answer in caller.heard(number)] == ["CONSENSUS_OUTCOME_UNKNOWN"]
        assert told, "a leader that nobody answers steps down"
        for name in followers:
            cluster.restart(name)
        assert cluster.run(10.0, cluster.settled)
        assert {value_at(cluster, name, "n") for name in cluster.names} <= {None, 1}


def test_scenario_62_a_leader_with_a_hanging_disk_is_replaced_and_acknowledges_nothing() -> None:
    with led_cluster(3) as (cluster, _):
        old = leader_of(cluster)
        caller = Caller(cluster)
        session = caller.open_session(old.name)
        old.slow_commits = (4.0, 4.0)
        number = caller.send(old.name, Submit(session, 1, ((1, increment("n")),)))
        assert cluster.run(3.0, lambda: leader_of(cluster) is not old), "its followers elect while it is silent"
        assert not caller.heard(number)
        old.slow_commits = (0.0001, 0.002)
        assert cluster.run(10.0, cluster.settled)
        assert [answer.code for answer in caller.heard(number)] == ["CONSENSUS_OUTCOME_UNKNOWN"]
