"""Snapshots, on one node alone: taken, sent, received, installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from forge_consensus.actors.messages import (
    FULL,
    AppendEntries,
    AppendReply,
    CheckPeerReply,
    InstallSnapshot,
    OpenSession,
    SnapshotReply,
)
from forge_consensus.actors.notices import TakeSnapshot
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import (
    LogCompacted,
    SnapshotCompleted,
    SnapshotFailed,
    SnapshotRestored,
    SnapshotStarted,
)
from forge_consensus.storage.machines import chunks, session_import
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import DONE, Machine
from forge_consensus.storage.machines.sessions import TTL_MS_MAX, Sessions
from forge_consensus.storage.snapshots.file import read_chunks, read_header, verify, write_snapshot
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_replication import follow, put
from tests.worlds.ledger_world import TallyMachine
from tests.worlds.one_node import OneNode

LIMITS = StorageSettings(snapshot_entries=20, snapshot_seconds_min=0.1, trailing_entries=5, sweep_entries=7)


def filled(count: int = 40, term: int = 1, machine: Callable[[], Machine] = KeyValueMachine) -> OneNode:
    """A follower of n2 that has applied so many entries of a term and taken a snapshot."""
    node = OneNode(limits=LIMITS, options=RaftSettings(chunk_bytes=64, chunk_window=1), machine=machine)
    follow(node, term, *[put(i, term, f"k{i}", f"v{i}") for i in range(2, count + 1)], commit=count)
    node.clock.seconds += 0.3
    node.turn()
    node.run_jobs()
    return node


def test_a_snapshot_by_threshold_cuts_the_log_in_slices() -> None:
    node = filled()
    assert [type(e) for e in node.events if type(e) in (SnapshotStarted, SnapshotCompleted, LogCompacted)] == [
        SnapshotStarted,
        SnapshotCompleted,
        LogCompacted,
    ]
    assert node.ledger.log.base_index == 35
    assert node.told(LogCompacted)[0].removed == 35
    assert node.tables.count("log") == 5
    assert node.ledger.configuration == node.configuration


def test_a_snapshot_is_taken_an_interval_after_the_last_one_if_anything_was_applied() -> None:
    node = OneNode(limits=replace(LIMITS, snapshot_entries=1_000, snapshot_interval=5.0))
    follow(node, 1, put(2, 1, "k", "v"), commit=2)

    def taken_after(seconds: float) -> int:
        node.wait(seconds)
        node.run_jobs()
        return len(node.told(SnapshotCompleted))

    assert taken_after(4.0) == 0
    assert taken_after(1.5) == 1
    assert taken_after(20.0) == 1, "nothing was applied since"
    node.request("n2", "replication", AppendEntries(1, 2, 1, 3, 0, (put(3, 1, "k", "w"),)))
    assert taken_after(1.0) == 2
    assert not OneNode(limits=LIMITS).ledger.settings.snapshot_interval, "by default there is none"


def test_the_status_says_what_the_node_does_with_snapshots() -> None:
    source = filled(machine=TallyMachine)
    path, index, term = snapshot_of(source)
    data = path.read_bytes()
    node = OneNode(machine=TallyMachine)

    def doing() -> str:
        node.clock.seconds += 0.3
        node.turn()
        return node.engine.shared.snapshot_doing

    assert doing() == ""
    node.request("n2", "snapshot", InstallSnapshot(1, index, term, 0, len(data), data[: len(data) // 2]))
    assert doing().startswith("receives the snapshot up to entry 40: 50% of")
    node.request("n2", "snapshot", InstallSnapshot(1, index, term, 0, len(data), data))
    assert doing() == "checks the snapshot up to entry 40"
    job, done = node.jobs.pop()
    done(job(), "")
    node.turn()
    assert node.ledger.applier.replacing
    assert node.engine.shared.snapshot_doing == "restores its state machine from the snapshot up to entry 40"
    node.run_jobs()
    assert doing() == ""
    leader = behind()
    leader.answer("n3", "replication", AppendReply(leader.ledger.term, False, 1, 0, 0))
    leader.clock.seconds += 0.3
    leader.turn()
    assert leader.engine.shared.snapshot_doing == "sends the snapshot up to entry 40 to n3: 0%"


def snapshot_of(node: OneNode) -> tuple[Path, int, int]:
    info = node.engine.opened.snapshots.newest
    assert info is not None
    return info.path, info.index, info.term


def test_a_received_snapshot_replaces_the_state_and_is_acknowledged_when_durable() -> None:
    source = filled()
    path, index, term = snapshot_of(source)
    data = path.read_bytes()
    node = OneNode()
    offset = 0
    while offset < len(data):
        chunk = InstallSnapshot(1, index, term, offset, len(data), data[offset : offset + 100])
        node.request("n2", "snapshot", chunk)
        node.request("n2", "snapshot", chunk)  # duplicates are normal input
        offset = node.last(SnapshotReply).offset
        assert not node.last(SnapshotReply).done
    node.run_jobs()
    assert node.last(SnapshotReply) == SnapshotReply(1, index, len(data), True)
    assert node.told(SnapshotRestored)[0].index == index
    assert node.ledger.applied == node.ledger.commit_index == index
    assert node.ledger.applier.machine.query("k7") == "v7"
    again = OneNode(tables=node.tables.clone_durable())
    assert again.ledger.applier.machine.query("k7") == "v7"
    assert again.ledger.log.base_index == index
    node.request("n2", "replication", AppendEntries(1, index, term, index, 0, (put(index + 1, 1, "z", "z"),)))
    assert node.last(AppendReply) == AppendReply(1, True, index + 1, 0, 0)


def with_sessions(machine: Callable[[], Machine], folder: Path) -> tuple[InstallSnapshot, Sessions]:
    """The only chunk of a snapshot that has 10 sessions with 50 outcomes each, and the sessions."""
    path, index, term = snapshot_of(filled(machine=machine))
    sessions = Sessions()
    for session in range(1, 11):
        sessions.open(session, 0, TTL_MS_MAX)
        for seq in range(50):
            assert sessions.begin(session, seq, 0, 0) is None
            sessions.finish(session, seq, DONE)
    info = write_snapshot(folder, read_header(path) | {"sessions": sessions.export()}, read_chunks(path))
    data = info.path.read_bytes()
    return InstallSnapshot(1, index, term, 0, len(data), data), sessions


@pytest.mark.parametrize("machine", [KeyValueMachine, TallyMachine])
def test_many_sessions_are_imported_over_turns_in_which_entries_are_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Callable[[], Machine]
) -> None:
    monkeypatch.setattr(session_import, "SLICE_ROWS", 10)
    chunk, sessions = with_sessions(machine, tmp_path)
    node = OneNode(machine=machine)
    node.request("n2", "snapshot", chunk)
    job, done = node.jobs.pop()
    done(job(), "")
    for turn in range(50):
        entries = AppendEntries(1, 1, 0, 2, 0, (put(2, 1, "k", "v"),))
        node.engine.turn([(node.frame("n2", "replication", entries), "->n2")] if turn == 20 else [], [])
        assert not node.ledger.applier.sessions.live
    assert node.ledger.applied == 2
    node.turn()
    node.run_jobs()
    assert node.ledger.applied == chunk.index
    assert node.ledger.applier.sessions.export() == sessions.export()
    assert node.last(SnapshotReply).done
    again = OneNode(tables=node.tables.clone_durable(), machine=machine, folder=node.folder)
    assert again.ledger.applier.sessions.export() == sessions.export()


def test_a_machine_that_answers_queries_is_handed_the_snapshot_when_it_is_back(tmp_path: Path) -> None:
    chunk, _ = with_sessions(TallyMachine, tmp_path)
    node = OneNode(machine=TallyMachine)
    node.request("n2", "snapshot", chunk)
    job, done = node.jobs.pop()
    node.ledger.applier.lent = True
    done(job(), "")
    for _ in range(5):
        node.wait(0.02)
    assert not node.jobs
    assert not node.ledger.applier.replacing
    node.ledger.applier.lent = False
    node.wait(0.02)
    assert node.ledger.applier.replacing
    node.run_jobs()
    assert node.ledger.applied == chunk.index
    assert not node.ledger.applier.replacing


@pytest.mark.parametrize(
    ("machine", "place"), [(KeyValueMachine, 20), (KeyValueMachine, 0.5), (KeyValueMachine, -1), (TallyMachine, 20)]
)
def test_a_received_file_damaged_before_its_installation_is_dropped_and_requested_again(
    machine: Callable[[], Machine], place: float
) -> None:
    """As long as nothing of it was handed to a user's machine: what that holds then, nobody knows."""
    path, index, term = snapshot_of(filled(machine=machine))
    data = path.read_bytes()
    chunk = InstallSnapshot(1, index, term, 0, len(data), data)
    node = OneNode(machine=machine)
    node.request("n2", "snapshot", chunk)
    job, done = node.jobs.pop()
    info = job()
    damage(info.path, int(len(data) * place) if isinstance(place, float) else place)
    done(info, "")
    node.turn()
    assert (node.ledger.applied, node.engine.cells.generation) == (1, 0)
    assert "damaged" in node.told(SnapshotFailed)[0].error
    assert node.engine.opened.snapshots.installing is None
    assert not list(node.folder.iterdir())
    node.request("n2", "snapshot", InstallSnapshot(1, index, term, len(data), len(data), b""))  # the leader repeats it
    assert node.last(SnapshotReply) == SnapshotReply(1, index, 0, False, chunk_end=len(data))
    node.request("n2", "snapshot", chunk)
    node.run_jobs()
    assert node.ledger.applied == index
    assert node.last(SnapshotReply).done


def test_a_half_installed_snapshot_of_a_failed_actor_is_swept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 100)
    path, index, term = snapshot_of(filled())
    data = path.read_bytes()
    node = OneNode()
    node.request("n2", "snapshot", InstallSnapshot(1, index, term, 0, len(data), data))
    job, done = node.jobs.pop()
    done(job(), "")
    for _ in range(3):
        node.engine.turn([], [])
    assert node.tables.count("kv") > 0
    node.engine.after(0.0, node.engine.actor("health"), "a message that no actor knows")
    node.engine.turn([], [])
    node.turn()
    assert node.engine.cells.generation == 1
    assert node.engine.opened.snapshots.installing is None
    assert node.tables.count("kv") == 0


def test_a_chunk_in_the_turn_of_the_switch_begins_no_second_receipt() -> None:
    path, index, term = snapshot_of(filled())
    data = path.read_bytes()
    node = OneNode()
    chunk = InstallSnapshot(1, index, term, 0, len(data), data)
    node.request("n2", "snapshot", chunk)
    job, done = node.jobs.pop()
    done(job(), "")
    while node.ledger.applied < index:
        node.engine.turn([(node.frame("n2", "snapshot", chunk), "->n2")], [])
    assert not node.jobs
    node.turn()
    assert node.engine.opened.snapshots.incoming is None
    assert [name.suffix for name in node.folder.iterdir()] == [path.suffix]


def test_a_snapshot_that_is_older_than_the_state_is_ignored() -> None:
    source = filled()
    path, index, term = snapshot_of(source)
    data = path.read_bytes()
    node = filled(60)
    before = node.ledger.applied
    node.request("n2", "snapshot", InstallSnapshot(1, index, term, 0, len(data), data[:50]))
    assert node.last(SnapshotReply).done
    assert node.ledger.applied == before


def test_a_damaged_snapshot_changes_nothing() -> None:
    source = filled()
    path, index, term = snapshot_of(source)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    node = OneNode()
    node.request("n2", "snapshot", InstallSnapshot(1, index, term, 0, len(data), bytes(data)))
    node.run_jobs()
    assert node.ledger.applied == 1
    assert not [reply for _, reply in node.messages(SnapshotReply) if reply.done]


def test_a_follower_behind_the_log_gets_chunks_and_then_entries() -> None:
    node = filled()
    node.wait(3.0)
    lead(node, "n3")
    node.sent.clear()
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    first = node.last(InstallSnapshot)
    assert (first.index, first.offset) == (40, 0)
    offset = len(first.data)
    while offset < first.size:
        node.answer("n3", "snapshot", SnapshotReply(node.ledger.term, 40, offset, False))
        assert node.last(InstallSnapshot).offset == offset
        offset += len(node.last(InstallSnapshot).data)
    node.answer("n3", "snapshot", SnapshotReply(node.ledger.term, 40, offset, True))
    entries = [m for to, m in node.messages(AppendEntries) if to == "n3"][-1]
    assert (entries.prev_index, len(entries.records)) == (40, node.ledger.log.last - 40)


def test_a_leader_keeps_the_entries_behind_a_snapshot_once_a_follower_has_it() -> None:
    """Its first acknowledgement comes a round trip later, and the log may be cut meanwhile."""
    node = behind()
    term = node.ledger.term

    def grow(count: int) -> None:
        for _ in range(count):
            node.request("", "gateway", OpenSession(60_000))
        for _ in range(2):
            node.answer("n2", "replication", AppendReply(term, True, node.ledger.log.last, 0, 0))
        node.turn(notices=[TakeSnapshot()])
        node.run_jobs()

    for peer in ("n2", "n3"):
        node.answer(peer, "health", CheckPeerReply(1))
    node.answer("n3", "replication", AppendReply(term, False, 1, 0, 0))
    grow(30)
    size = node.last(InstallSnapshot).size
    node.answer("n3", "snapshot", SnapshotReply(term, 40, size, True))
    assert node.engine.shared.match["n3"] == 40
    grow(10)
    assert node.ledger.log.base_index == 40
    node.sent.clear()
    node.answer("n3", "replication", AppendReply(term, True, 40, 0, 0))
    assert next(m.prev_index for to, m in node.messages(AppendEntries) if to == "n3") == 40
    assert not node.messages(InstallSnapshot)


def test_a_chunk_without_an_answer_is_sent_again() -> None:
    node = filled()
    node.wait(3.0)
    lead(node, "n3")
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    node.sent.clear()
    for _ in range(13):
        node.wait(0.1)
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    assert {(message.offset, message.data) for _, message in node.messages(InstallSnapshot)} == {(64, b"")}, "it asks"
    node.answer("n3", "snapshot", SnapshotReply(node.ledger.term, 40, 0, False, chunk_end=64))
    assert node.last(InstallSnapshot).offset == 0
    assert node.last(InstallSnapshot).data


def behind() -> OneNode:
    """A leader whose follower n3 needs a snapshot and has just said so."""
    node = filled()
    node.wait(3.0)
    lead(node, "n3")
    node.sent.clear()
    return node


def test_an_answer_to_an_earlier_chunk_begins_no_second_chain_of_chunks() -> None:
    node = behind()
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    sent = node.clock.boottime_ns()
    node.clock.seconds += 0.01
    reply = SnapshotReply(node.ledger.term, 40, len(node.last(InstallSnapshot).data), False)
    for _ in range(3):
        node.answer("n3", "snapshot", reply, sent=sent)
    assert [message.offset for _, message in node.messages(InstallSnapshot)] == [0, reply.offset]
    node.answer("n3", "snapshot", SnapshotReply(node.ledger.term, 40, 0, False, chunk_end=2 * reply.offset))
    assert node.last(InstallSnapshot).offset == 0


def test_a_leader_whose_snapshot_file_is_gone_takes_another() -> None:
    node = behind()
    snapshot_of(node)[0].unlink()
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    assert not node.messages(InstallSnapshot)
    for _ in range(15):
        node.wait(0.1)
        node.run_jobs()
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    assert node.last(InstallSnapshot).offset == 0
    assert node.engine.cells.generation == 0


def test_a_disk_error_while_receiving_a_snapshot_fails_only_the_transfer() -> None:
    path, index, term = snapshot_of(filled())
    data = path.read_bytes()
    node = OneNode()
    node.folder.rmdir()
    for _ in range(5):
        node.request("n2", "snapshot", InstallSnapshot(1, index, term, 0, len(data), data))
    assert node.engine.cells.generation == 0
    node.folder.mkdir()
    node.request("n2", "snapshot", InstallSnapshot(1, index, term, 0, len(data), data))
    node.run_jobs()
    assert node.ledger.applied == index


def test_a_half_received_snapshot_is_dropped_when_the_actors_are_rebuilt() -> None:
    path, index, term = snapshot_of(filled())
    data = path.read_bytes()
    node = OneNode()
    node.request("n2", "snapshot", InstallSnapshot(1, index, term, 0, len(data), data[:50]))
    assert list(node.folder.iterdir())
    node.engine.undo(RuntimeError("an actor failed"))
    node.turn()
    assert not list(node.folder.iterdir())


def damage(path: Path, place: int | None = None) -> None:
    """Flip a bit, if not said otherwise in the middle, where only reading all of it shows it."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if place is None else place] ^= 1
    path.write_bytes(bytes(data))


def refuse_whole(node: OneNode) -> None:
    """The follower n3 has the whole file that it is being sent, and does not take it."""
    chunk = node.last(InstallSnapshot)
    for offset in (chunk.size, 0):
        node.answer("n3", "snapshot", SnapshotReply(node.ledger.term, chunk.index, offset, False))
    node.run_jobs()


def test_a_leader_whose_snapshot_file_is_damaged_takes_another() -> None:
    node = behind()
    damage(snapshot_of(node)[0])
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    refuse_whole(node)
    for _ in range(15):
        node.wait(0.1)
        node.run_jobs()
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    verify(snapshot_of(node)[0])
    assert next(message.offset for _, message in node.messages(InstallSnapshot) if message.index > 40) == 0
    assert node.engine.cells.generation == 0


def test_a_damaged_file_is_not_sent_again_if_a_newer_snapshot_exists() -> None:
    node = behind()
    damage(snapshot_of(node)[0])
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    assert node.last(InstallSnapshot).index == 40
    node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    node.turn(notices=[TakeSnapshot()])
    node.run_jobs()
    path, index, _ = snapshot_of(node)
    verify(path)
    assert index == node.ledger.log.last > 40
    assert node.last(InstallSnapshot).index == 40  # a sending goes on with what it began with
    refuse_whole(node)
    assert (node.last(InstallSnapshot).index, node.last(InstallSnapshot).offset) == (index, 0)
    assert snapshot_of(node)[1] == index
    assert node.engine.refusals.counts["a damaged snapshot"] == 1


def test_a_leader_sends_nothing_of_a_truncated_snapshot_file() -> None:
    node = behind()
    path = snapshot_of(node)[0]
    path.write_bytes(path.read_bytes()[:70])
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    assert not node.messages(InstallSnapshot)
    assert node.engine.opened.snapshots.newest is None


def fed(source: OneNode, follower: OneNode) -> None:
    """Let a follower take and answer the chunks of its leader, which another follower keeps in office."""
    seen = 0
    for _ in range(30):
        while len(chunks := source.messages(InstallSnapshot)) > seen:
            answered = len(follower.messages(SnapshotReply))
            follower.request("n2", "snapshot", chunks[seen][1])
            follower.run_jobs()
            seen += 1
            for _, reply in follower.messages(SnapshotReply)[answered:]:
                source.answer("n3", "snapshot", reply)
                source.run_jobs()
        source.wait(0.1)
        source.run_jobs()
        source.answer("n2", "replication", AppendReply(source.ledger.term, True, source.ledger.log.last, 0, 0))


def test_a_grown_snapshot_file_is_sent_only_up_to_its_announced_size() -> None:
    node, follower = behind(), OneNode()
    with snapshot_of(node)[0].open("ab") as file:
        file.write(b"x")
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    fed(node, follower)
    assert follower.ledger.applied == 40
    assert not follower.engine.refusals.counts
    assert [message.offset for _, message in node.messages(InstallSnapshot)].count(0) == 1


def test_a_leader_stops_sending_a_replaced_snapshot_file() -> None:
    node, follower = behind(), OneNode()
    path, index, term = snapshot_of(node)
    write_snapshot(path.parent, {**read_header(path), "index": index, "term": term}, [*read_chunks(path), b"more"])
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    fed(node, follower)
    assert node.engine.refusals.counts["a damaged snapshot"] == 1
    assert snapshot_of(node)[1] > index
    assert follower.ledger.applied == snapshot_of(node)[1]


def test_a_sending_begins_again_when_its_file_is_replaced_by_another_of_the_same_index() -> None:
    node = behind()
    node.turn(notices=[TakeSnapshot()])
    node.run_jobs()
    path, index, _ = snapshot_of(node)
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    node.answer("n3", "snapshot", SnapshotReply(node.ledger.term, index, 64, False))
    node.turn(notices=[TakeSnapshot()])  # nothing was applied since
    node.run_jobs()
    assert snapshot_of(node)[0] == path
    assert [message.offset for _, message in node.messages(InstallSnapshot)] == [0, 64, 0]


def test_a_snapshot_finished_after_the_leadership_is_not_sent() -> None:
    node = behind()
    snapshot_of(node)[0].unlink()
    node.answer("n3", "replication", AppendReply(node.ledger.term, False, 1, 0, 0))
    for _ in range(15):
        node.wait(0.1)
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    job, done = node.jobs.pop()
    done(job(), "")
    node.sent.clear()
    node.request("n2", "replication", AppendEntries(node.ledger.term + 1, 40, 1, 40, 0, ()))
    assert node.ledger.leading_term is None
    assert not node.messages(InstallSnapshot)
    assert node.engine.cells.generation == 0


def test_a_follower_that_refused_the_snapshot_is_sent_it_at_once_when_it_is_back() -> None:
    """It was started again with more room; the pause may have grown to a minute by then."""
    node = behind()
    term = node.ledger.term
    node.answer("n3", "replication", AppendReply(term, False, 1, 0, 0))
    node.answer("n3", "snapshot", SnapshotReply(term, 40, 0, False, FULL))
    node.sent.clear()
    node.greet("n3")
    assert [message.offset for _, message in node.messages(InstallSnapshot)] == [0]
    node.greet("n3")
    assert [message.data for _, message in node.messages(InstallSnapshot)][1:] == [b""], "one that is under way goes on"
