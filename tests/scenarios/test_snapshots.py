"""Scenarios 55 to 59: sending, ignoring, interrupting or overtaking a snapshot never loses an entry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    RequestPreVote,
    RequestVote,
    SnapshotReply,
    VoteReply,
)
from forge_consensus.actors.notices import Persisted
from forge_consensus.actors.raft.progress import Phase, Progress
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import LogTruncated, SnapshotRestored
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_replication import follow, noop
from tests.unit.actors.test_replication import put as entry
from tests.unit.actors.test_snapshot import filled, snapshot_of
from tests.worlds.one_node import OneNode
from tests.worlds.scenario_world import (
    Caller,
    acknowledge,
    base_of,
    leader_of,
    led_cluster,
    open_session,
    others_than,
    put,
    submit_all,
    value_at,
)


def progress_of(node: OneNode, peer: str) -> Progress:
    """What a leader knows of a follower."""
    progress: Progress = node.engine.cells.actor("replication").leadership.progress[peer]
    return progress


def entries_to(node: OneNode, peer: str) -> list[AppendEntries]:
    """The appends with entries that left for a peer."""
    return [message for to, message in node.messages(AppendEntries) if to == peer and message.records]


def files_in(folder: Path) -> list[str]:
    """What lies there."""
    return sorted(path.name for path in folder.iterdir())


# --- 55 ---------------------------------------------------------------------------------------------------------------


def leader_with_one_behind() -> tuple[OneNode, int]:
    """A leader with a snapshot of 40 whose log begins behind 35; n3 says that it has entry 1. The last index."""
    node = filled()
    node.wait(3.0)
    lead(node, "n3")
    node.sent.clear()
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    assert progress_of(node, "n3").phase is Phase.SNAPSHOT
    return node, node.last(InstallSnapshot).size


def test_scenario_55_a_follower_behind_the_compacted_log_gets_the_snapshot_and_then_entries() -> None:
    node, size = leader_with_one_behind()
    term, offset = node.ledger.term, 0
    open_session(node)  # the cluster goes on with n2
    while offset < size:
        offset = node.last(InstallSnapshot).offset + len(node.last(InstallSnapshot).data)
        node.answer("n3", "snapshot", SnapshotReply(term, 40, offset, False))
        assert progress_of(node, "n3").phase is Phase.SNAPSHOT
    assert not entries_to(node, "n3"), "no entries while the snapshot is on its way"
    for _ in range(2):  # the answer comes twice
        node.answer("n3", "snapshot", SnapshotReply(term, 40, size, True))
        assert progress_of(node, "n3").phase is Phase.PROBE, "in step only when it took entries"
    (entries,) = entries_to(node, "n3")
    assert (entries.prev_index, len(entries.records)) == (40, node.ledger.log.last - 40)
    acknowledge(node, "n3")
    assert progress_of(node, "n3").phase is Phase.REPLICATE
    assert progress_of(node, "n3").match == node.ledger.log.last


def test_scenario_55_an_accepted_append_ends_a_snapshot_transfer_with_a_lost_answer() -> None:
    node, _ = leader_with_one_behind()
    acknowledge(node, "n3")
    assert progress_of(node, "n3").phase is Phase.REPLICATE
    open_session(node)
    assert [message.prev_index for message in entries_to(node, "n3")] == [node.ledger.log.last - 1]


def test_scenario_55_an_answer_from_before_the_compacted_log_leads_to_no_entries() -> None:
    node, _ = leader_with_one_behind()
    node.answer("n3", "replication", AppendReply(node.ledger.term, True, 10, 0, 0))
    open_session(node)
    assert progress_of(node, "n3").phase is Phase.SNAPSHOT
    assert not entries_to(node, "n3")


def test_scenario_55_in_a_cluster_a_follower_far_behind_becomes_level() -> None:
    limits = StorageSettings(snapshot_entries=20, snapshot_seconds_min=0.1, trailing_entries=2)
    with led_cluster(3, storage=limits) as (cluster, _):
        caller, leader = Caller(cluster), leader_of(cluster)
        session = caller.open_session(leader.name)
        behind = others_than(cluster, leader.name)[0]
        cluster.crash(behind)
        submit_all(caller, leader.name, session, [put(f"k{number}", number) for number in range(60)])
        assert cluster.run(5.0, lambda: leader.engine.ledger.log.base_index > 30)
        restored: list[Any] = []
        cluster.nodes[behind].bus.subscribe(SnapshotRestored, restored.append, inline=True)
        cluster.restart(behind)
        assert cluster.run(10.0, cluster.settled)
        assert restored
        assert [value_at(cluster, behind, f"k{number}") for number in range(60)] == list(range(60))
        assert base_of(cluster, behind).engine.ledger.applier.sessions.live.keys() == {session}


# --- 56 ---------------------------------------------------------------------------------------------------------------


def chunk_of(source: OneNode, term: int, size_max: int = 1 << 20) -> InstallSnapshot:
    """The first bytes, or all, of the snapshot of a node."""
    path, index, snapshot_term = snapshot_of(source)
    data = path.read_bytes()
    return InstallSnapshot(term, index, snapshot_term, 0, len(data), data[:size_max])


def untouched(node: OneNode) -> tuple[Any, ...]:
    """What a snapshot that is ignored must not change."""
    log = node.ledger.log
    records = log.read(log.base_index + 1, log.last, 1 << 30)
    return records, node.ledger.commit_index, node.ledger.applied, log.base_index, files_in(node.folder)


def test_scenario_56_a_snapshot_of_applied_entries_is_ignored() -> None:
    node = filled(60)
    before = untouched(node)
    chunk = chunk_of(filled(), 1)
    node.request("n2", "snapshot", chunk)
    node.run_jobs()
    assert node.last(SnapshotReply) == SnapshotReply(1, 40, chunk.size, True, chunk_end=chunk.size)
    assert untouched(node) == before
    assert not node.told(LogTruncated)


def test_scenario_56_a_snapshot_of_an_earlier_term_is_ignored() -> None:
    node = OneNode()
    follow(node, 5, noop(2, 5))
    before = untouched(node)
    node.request("n3", "snapshot", chunk_of(filled(), 4))
    node.run_jobs()
    assert node.last(SnapshotReply) == SnapshotReply(5, 40, 0, False)
    assert untouched(node) == before


def test_scenario_56_an_overtaken_snapshot_is_ignored() -> None:
    node, source = OneNode(), filled()
    node.request("n2", "snapshot", chunk_of(source, 1))  # all of it; its file is being made durable elsewhere
    assert node.jobs
    follow(node, 1, *[entry(index, 1, f"k{index}", "entries") for index in range(2, 61)], commit=60)
    before = untouched(node)[:-1]
    node.run_jobs()
    assert untouched(node)[:-1] == before
    assert not node.told(SnapshotRestored)
    assert node.ledger.applier.machine.query("k7") == "entries"


def test_scenario_56_a_snapshot_within_a_matching_log_truncates_nothing() -> None:
    node = OneNode()
    records = [entry(index, 1, f"k{index}", f"v{index}") for index in range(2, 61)]
    follow(node, 1, *records)  # none of it is known to be committed
    node.request("n2", "snapshot", chunk_of(filled(), 1))
    node.run_jobs()
    assert node.ledger.applied == node.ledger.commit_index == 40
    assert node.ledger.log.read(41, 60, 1 << 20) == records[39:]
    assert not node.told(LogTruncated)
    again = OneNode(tables=node.tables.clone_durable())
    assert again.ledger.log.read(41, 60, 1 << 20) == records[39:]


# --- 57 ---------------------------------------------------------------------------------------------------------------


def new_term(node: OneNode) -> None:
    """The same leader goes on in another term."""
    node.request("n2", "replication", AppendEntries(2, 1, 0, 1, 0, ()))


def new_leader(node: OneNode) -> None:
    """Another leader is heard."""
    node.request("n3", "replication", AppendEntries(2, 1, 0, 1, 0, ()))


def vote_request(node: OneNode) -> None:
    """A candidate stands when the leader has been silent for long enough."""
    node.clock.seconds += node.settings.election_timeout_min + 0.01
    node.request("n3", "election", RequestVote(2, 99, 1))
    assert node.last(VoteReply) == VoteReply(2, True)


def timeout(node: OneNode) -> None:
    """The leader falls silent."""
    node.wait(node.settings.election_timeout_max)
    assert node.messages(RequestPreVote)


@pytest.mark.parametrize("happens", [new_term, new_leader, vote_request, timeout])
def test_scenario_57_the_end_of_a_leadership_discards_the_half_received_snapshot(
    happens: Callable[[OneNode], None],
) -> None:
    node, source = OneNode(), filled()
    node.request("n2", "snapshot", chunk_of(source, 1, 100))
    assert len(files_in(node.folder)) == 1
    happens(node)
    assert files_in(node.folder) == []
    assert (node.ledger.applied, node.ledger.commit_index, node.ledger.log.last) == (1, 1, 1)
    term = node.ledger.term + 1
    node.request("n3", "snapshot", chunk_of(source, term))
    node.run_jobs()
    assert node.last(SnapshotReply).done
    assert node.ledger.applied == 40
    node.request("n3", "replication", AppendEntries(term, 40, 1, 41, 0, (entry(41, term, "k7", "usable"),)))
    assert node.last(AppendReply) == AppendReply(term, True, 41, 0, 0)
    assert node.ledger.applier.machine.query("k7") == "usable"


def test_scenario_57_two_leaders_snapshots_of_one_index_are_not_mixed() -> None:
    """Their files may differ in their bytes: the second one is received from its first byte on."""
    node, source = OneNode(), filled()
    half = chunk_of(source, 1, 100)
    node.request("n2", "snapshot", half)
    whole = chunk_of(source, 2)
    rest = InstallSnapshot(2, 40, 1, 100, whole.size, whole.data[100:])
    node.request("n3", "snapshot", rest)
    assert node.last(SnapshotReply) == SnapshotReply(2, 40, 0, False, chunk_end=whole.size)
    node.request("n3", "snapshot", whole)
    node.run_jobs()
    assert node.ledger.applied == 40


def test_scenario_57_a_refused_vote_request_does_not_end_a_snapshot_transfer() -> None:
    node, source = OneNode(), filled()
    whole = chunk_of(source, 1)
    node.request("n2", "snapshot", chunk_of(source, 1, 100))
    node.request("n3", "election", RequestVote(2, 99, 1))
    assert node.last(VoteReply) == VoteReply(1, False)
    node.request("n2", "snapshot", InstallSnapshot(1, 40, 1, 100, whole.size, whole.data[100:]))
    node.run_jobs()
    assert node.ledger.applied == 40


# --- 59 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("last", [30, 60])
def test_scenario_59_messages_about_compacted_entries_restore_none_of_them(last: int, together: bool) -> None:
    """Entries of a lost term are on disk; their `Persisted` comes late, in or after the turn that switches."""
    node, source = OneNode(), filled(term=2)
    old = [noop(index, 1) for index in range(2, last + 1)]
    follow(node, 1, *old)
    node.request("n2", "snapshot", chunk_of(source, 2))
    late = [Persisted(term, last) for term in (1, 2)]
    (job, done) = node.jobs.pop()
    done(job(), "")
    if together:
        while node.engine.mailbox.later:
            node.engine.turn([], list(late))
    else:
        node.turn()
        node.turn(notices=late)
    assert node.told(SnapshotRestored)
    for term in (1, 2):  # the old entries themselves come again too
        node.request("n3", "replication", AppendEntries(term, 1, 0, last, 0, tuple(old)))
    for world in (node, OneNode(tables=node.tables.clone_durable())):
        ledger = world.ledger
        assert (ledger.log.base_index, ledger.log.last, ledger.log.durable) == (40, 40, 40)
        assert (ledger.applied, ledger.commit_index) == (40, 40)
        assert ledger.applier.machine.query("k30") == "v30"
    node.request("n2", "replication", AppendEntries(2, 40, 2, 41, 0, (entry(41, 2, "k30", "new"),)))
    assert node.last(AppendReply) == AppendReply(2, True, 41, 0, 0)
    again = OneNode(tables=node.tables.clone_durable())
    assert (again.ledger.log.last, again.ledger.log.last_term) == (41, 2)


def test_scenario_59_entries_in_the_turn_of_the_switch_are_kept_or_not_acknowledged() -> None:
    node, source = OneNode(), filled()
    node.request("n2", "snapshot", chunk_of(source, 1))
    (job, done) = node.jobs.pop()
    done(job(), "")
    records = [entry(index, 1, f"k{index}", f"v{index}") for index in range(2, 46)]
    frames = [
        AppendEntries(1, 1, 0, 1, 0, tuple(records[:4])),
        AppendEntries(1, 5, 1, 5, 0, tuple(records[4:])),
        AppendEntries(1, 40, 1, 45, 0, tuple(records[39:])),
    ]
    turns = 0
    while node.engine.mailbox.later:
        turns += 1
        node.sent.clear()
        given = [(node.frame("n2", "replication", message), "->n2") for message in frames]
        node.engine.turn(given, [])
        again = OneNode(tables=node.tables.clone_durable())
        for _, reply in node.messages(AppendReply):
            assert not reply.success or reply.index <= again.ledger.log.last
        assert again.ledger.log.base_index in (0, 40)
        assert turns < 50
    assert node.told(SnapshotRestored) or node.ledger.applied == 45
    assert node.ledger.applier.machine.query("k45") == "v45"
