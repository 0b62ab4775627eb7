"""How a leader sends a snapshot: a window of chunks, holes and breaks, a bound of the bandwidth, several followers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from forge_consensus.actors.messages import AppendEntries, AppendReply, InstallSnapshot, SnapshotReply
from forge_consensus.actors.notices import PeerNeedsSnapshot
from forge_consensus.actors.raft.bandwidth import Bandwidth
from forge_consensus.actors.raft.snapshot_transfer import SnapshotTransfer
from forge_consensus.config.raft import RaftSettings
from forge_consensus.storage.snapshots import file as snapshot_file
from forge_consensus.storage.snapshots.file import SnapshotInfo, write_snapshot
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_replication import follow, put
from tests.unit.actors.test_snapshot import LIMITS, snapshot_of
from tests.worlds.one_node import OneNode

CHUNK, WINDOW, MS = 100, 4, 1_000_000
OPTIONS = RaftSettings(chunk_bytes=CHUNK, chunk_window=WINDOW)


def leading(options: RaftSettings = OPTIONS) -> OneNode:
    """A leader with a snapshot of 40 entries, whose log begins behind 35."""
    node = OneNode(limits=LIMITS, options=options)
    follow(node, 1, *[put(i, 1, f"k{i}", f"v{i}" * 10) for i in range(2, 41)], commit=40)
    node.clock.seconds += 0.3
    node.turn()
    node.run_jobs()
    node.wait(3.0)
    lead(node, "n3")
    node.sent.clear()
    return node


def lacks_entries(node: OneNode, follower: str = "n3") -> None:
    """A follower needs what was compacted. This is what the replication actor says then."""
    node.turn(notices=[PeerNeedsSnapshot(follower)])


def chunks_to(node: OneNode, follower: str = "n3") -> list[InstallSnapshot]:
    return [message for to, message in node.messages(InstallSnapshot) if to == follower and message.data]


def acknowledge(node: OneNode, chunk: InstallSnapshot, offset: int | None = None, follower: str = "n3") -> None:
    """Answer a chunk, by default that it arrived and the next one is wanted."""
    end = chunk.offset + len(chunk.data)
    wanted = end if offset is None else offset
    node.answer(follower, "snapshot", SnapshotReply(node.ledger.term, chunk.index, wanted, False, chunk_end=end))


def test_the_window_grows_with_each_answer_up_to_its_bound() -> None:
    node = leading()
    lacks_entries(node)
    assert [chunk.offset for chunk in chunks_to(node)] == [0], "the first one goes alone"
    for number in range(6):
        acknowledge(node, chunks_to(node)[number])
        unanswered = len(chunks_to(node)) - number - 1
        assert unanswered == min(number + 2, WINDOW)
    assert [chunk.offset for chunk in chunks_to(node)] == [CHUNK * n for n in range(len(chunks_to(node)))]


def test_a_lost_chunk_is_sent_again_once_with_all_behind_it() -> None:
    node = leading()
    lacks_entries(node)
    for number in range(4):
        acknowledge(node, chunks_to(node)[number])
    node.clock.seconds += 0.001
    lost, *behind = chunks_to(node)[4:]
    before = len(chunks_to(node))
    sent = node.clock.boottime_ns() - MS
    for chunk in behind:  # each of them finds the hole
        reply = SnapshotReply(node.ledger.term, 40, lost.offset, False, chunk_end=chunk.offset + len(chunk.data))
        node.answer("n3", "snapshot", reply, sent=sent)
    again = [chunk.offset for chunk in chunks_to(node)[before:]]
    assert again[0] == lost.offset
    assert len(again) == len(set(again)), "sent again once, not for each answer"


def test_the_window_shrinks_where_chunks_wait_in_a_queue() -> None:
    transfer = SnapshotTransfer("n3", 1)
    for _ in range(9):
        transfer.took(40 * MS, 16, 0.05)
    assert transfer.window == 10, "a long way is no queue"
    transfer.took(100 * MS, 16, 0.05)
    assert transfer.window == 5
    for _ in range(9):
        transfer.took(200 * MS, 16, 0.05)
    assert transfer.window == 1


def test_after_a_break_of_the_connection_the_follower_is_asked_at_once_what_it_has() -> None:
    node = leading()
    lacks_entries(node)
    acknowledge(node, chunks_to(node)[0])
    node.turn(notices=[node.engine.peers.link("n3", False)])
    node.clock.seconds += 0.01
    node.sent.clear()
    node.greet("n3")
    (question,) = [message for _, message in node.messages(InstallSnapshot)]
    assert (question.offset, question.data) == (3 * CHUNK, b"")
    acknowledge(node, question, 2 * CHUNK)
    assert chunks_to(node)[0].offset == 2 * CHUNK


def test_a_follower_that_has_a_part_of_the_file_is_sent_the_rest() -> None:
    node = leading()
    lacks_entries(node)
    acknowledge(node, chunks_to(node)[0], 7 * CHUNK)
    assert chunks_to(node)[1].offset == 7 * CHUNK


def test_several_followers_are_served_at_once_and_a_silent_one_holds_up_nobody() -> None:
    node = leading()
    lacks_entries(node)
    lacks_entries(node, "n2")
    assert len(chunks_to(node, "n2")) == len(chunks_to(node, "n3")) == 1
    for number in range(5):
        acknowledge(node, chunks_to(node, "n2")[number], follower="n2")
    assert len(chunks_to(node, "n2")) > 5
    assert len(chunks_to(node, "n3")) == 1


@pytest.mark.parametrize("seconds", [0.5, 1.0])
def test_the_bandwidth_is_bounded_and_shared(seconds: float) -> None:
    node = leading(replace(OPTIONS, snapshot_bytes_per_second=10 * CHUNK, chunk_window=2))
    for follower in ("n2", "n3"):
        lacks_entries(node, follower)
    answered = {"n2": 0, "n3": 0}
    for _ in range(int(seconds * 100)):
        node.wait(0.01)
        for follower in answered:
            for chunk in chunks_to(node, follower)[answered[follower] :]:
                acknowledge(node, chunk, follower=follower)
                answered[follower] += 1
        node.answer("n2", "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
    counts = [len(chunks_to(node, follower)) for follower in answered]
    assert sum(counts) == pytest.approx(10 * seconds, abs=2)
    assert max(counts) - min(counts) <= 1


def test_bandwidth_that_was_not_used_is_not_made_up_for() -> None:
    bandwidth = Bandwidth(1000)
    bandwidth.spend(500, 10.0)
    assert bandwidth.wait(10.1) == pytest.approx(0.4)
    bandwidth.spend(500, 20.0)
    assert bandwidth.wait(20.0) == pytest.approx(0.5)
    unbounded = Bandwidth(0)
    unbounded.spend(1 << 30, 1.0)
    assert unbounded.wait(1.0) == 0.0


# --- the part that a follower keeps -----------------------------------------------------------------------------------


def file_of(tmp_path: Path, tail: bytes = b"") -> tuple[SnapshotInfo, bytes]:
    """A snapshot of 40 of another node."""
    source = leading()
    path, _, _ = snapshot_of(source)
    header = snapshot_file.read_header(path)
    tmp_path.mkdir(exist_ok=True)
    info = write_snapshot(tmp_path, header, [*snapshot_file.read_chunks(path), *([tail] if tail else [])])
    return info, info.path.read_bytes()


def chunk_of(info: SnapshotInfo, data: bytes, offset: int, size: int, term: int = 1) -> InstallSnapshot:
    transfer = SnapshotTransfer("n1", term)
    transfer.begin(info, 0, 0.0)
    transfer.next = offset
    return transfer.chunk(size)


def new_term(node: OneNode) -> None:
    node.request("n2", "replication", AppendEntries(2, 1, 0, 1, 0, ()))


def new_leader(node: OneNode) -> None:
    node.request("n3", "replication", AppendEntries(2, 1, 0, 1, 0, ()))


def silence(node: OneNode) -> None:
    node.wait(node.settings.election_timeout_max)


@pytest.mark.parametrize("happens", [new_term, new_leader, silence])
@pytest.mark.parametrize("leader", ["n2", "n3"])
def test_a_part_is_continued_by_whoever_leads_if_the_file_is_the_same(
    tmp_path: Path, leader: str, happens: object
) -> None:
    assert callable(happens)
    info, data = file_of(tmp_path)
    node = OneNode()
    node.request("n2", "snapshot", chunk_of(info, data, 0, 200))
    happens(node)
    term = node.ledger.term + 1
    node.request(leader, "snapshot", chunk_of(info, data, 0, 100, term))
    assert node.last(SnapshotReply) == SnapshotReply(term, 40, 200, False, chunk_end=100)
    node.request(leader, "snapshot", chunk_of(info, data, 200, len(data), term))
    node.run_jobs()
    assert node.last(SnapshotReply).done
    assert node.ledger.applied == 40
    assert [path.suffix for path in node.folder.iterdir()] == [".fcs"]


def test_a_part_of_another_file_of_the_same_index_is_dropped(tmp_path: Path) -> None:
    info, data = file_of(tmp_path)
    other, _ = file_of(tmp_path / "other", b"\x90")
    node = OneNode()
    node.request("n2", "snapshot", chunk_of(info, data, 0, 200))
    node.request("n3", "snapshot", chunk_of(other, data, 100, 100, 2))
    assert node.last(SnapshotReply) == SnapshotReply(2, 40, 0, False, chunk_end=200)
    assert len(list(node.folder.iterdir())) == 1
    node.engine.opened.snapshots.drop_incoming()


def test_a_damaged_chunk_is_as_good_as_lost(tmp_path: Path) -> None:
    info, data = file_of(tmp_path)
    node = OneNode()
    chunk = chunk_of(info, data, 0, 200)
    node.request("n2", "snapshot", replace(chunk, data=b"?" + chunk.data[1:]))
    assert node.last(SnapshotReply) == SnapshotReply(1, 40, 0, False, chunk_end=200)
    node.request("n2", "snapshot", chunk_of(info, data, 0, len(data)))
    node.run_jobs()
    assert node.ledger.applied == 40


def test_after_a_restart_what_was_flushed_is_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_file, "FLUSH_BYTES", 150)
    info, data = file_of(tmp_path)
    node = OneNode()
    node.request("n2", "snapshot", chunk_of(info, data, 0, 400))
    node.engine.opened.snapshots.leave_incoming()  # as the end of its process closes the file
    again = OneNode(tables=node.tables.clone_durable(), folder=node.folder)
    assert list(again.folder.glob("*.part"))
    again.request("n2", "snapshot", chunk_of(info, data, 0, 100, 2))
    assert again.last(SnapshotReply) == SnapshotReply(2, 40, 250, False, chunk_end=100)
    again.request("n2", "snapshot", chunk_of(info, data, 250, len(data), 2))
    again.run_jobs()
    assert again.ledger.applied == 40


def test_a_part_with_what_a_power_failure_left_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_file, "FLUSH_BYTES", 150)
    info, data = file_of(tmp_path)
    node = OneNode()
    node.request("n2", "snapshot", chunk_of(info, data, 0, 400))
    node.engine.opened.snapshots.leave_incoming()
    (part,) = node.folder.glob("*.part")
    part.write_bytes(bytes(400))
    again = OneNode(tables=node.tables.clone_durable(), folder=node.folder)
    again.request("n2", "snapshot", chunk_of(info, data, 250, len(data), 2))
    again.run_jobs()
    assert again.last(SnapshotReply).refusal == "damaged"
    assert not list(again.folder.iterdir())
    again.request("n2", "snapshot", chunk_of(info, data, 0, len(data), 2))
    again.run_jobs()
    assert again.ledger.applied == 40


def test_a_part_that_the_log_has_overtaken_is_removed(tmp_path: Path) -> None:
    info, data = file_of(tmp_path)
    node = OneNode()
    node.request("n2", "snapshot", chunk_of(info, data, 0, 200))
    follow(node, 1, *[put(i, 1, f"k{i}", "v") for i in range(2, 41)], commit=40)
    node.wait(1.0)
    assert not list(node.folder.iterdir())
