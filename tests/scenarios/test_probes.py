"""The ten safety probes that PySyncObj 0.3.14 fails, and 0.3.17 in seven rows, against our own handlers.

Each drives the real engine, actors and ledger with hand-made frames, or restarts a node on LMDB. Each is shown able to
fail: the last test puts the fault into our code that the probe looks for.
"""

# ruff: noqa: N802 - a probe is named as the list names it

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    InstallSnapshot,
    Refused,
    RequestVote,
    Results,
    VoteReply,
)
from forge_consensus.errors import ConsensusError, CorruptionError
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.machines.machine import Command
from tests.unit.actors.test_election import lead, stand
from tests.worlds.ledger_world import TallyMachine
from tests.worlds.one_node import OneNode
from tests.worlds.probe_faults import FAULTS
from tests.worlds.scenario_world import acknowledge, ask, copied, file_of, node_on_lmdb, open_session, outcomes, put

TICKS = 20


def noops(first: int, last: int, term: int) -> tuple[bytes, ...]:
    """Entries of a term."""
    return tuple(encode(index, term, Kind.NOOP, 0) for index in range(first, last + 1))


def test_probe_P1_a_vote_survives_a_restart(tmp_path: Path) -> None:
    with node_on_lmdb(tmp_path) as node:
        node.request("n2", "election", RequestVote(5, 1, 0))
        assert node.last(VoteReply) == VoteReply(5, True)
    with node_on_lmdb(tmp_path) as again:
        again.request("n3", "election", RequestVote(5, 9, 4))
        assert again.last(VoteReply) == VoteReply(5, False), "two candidates have this node's vote of one term"
        again.request("n2", "election", RequestVote(5, 1, 0))
        assert again.last(VoteReply) == VoteReply(5, True)


def test_probe_P2_the_term_survives_a_restart(tmp_path: Path) -> None:
    with node_on_lmdb(tmp_path) as node:
        node.request("n2", "replication", AppendEntries(7, 1, 0, 1, 0, ()))
        assert node.last(AppendReply) == AppendReply(7, True, 1, 0, 0)
    with node_on_lmdb(tmp_path) as again:
        assert again.ledger.term == 7
        again.request("n3", "replication", AppendEntries(6, 1, 0, 1, 0, noops(2, 3, 6)))
        assert again.last(AppendReply) == AppendReply(7, False, 0, 0, 0)
        assert again.ledger.log.last == 1


def test_probe_P3_a_duplicated_vote_is_counted_once(tmp_path: Path) -> None:
    node = OneNode(5)
    stand(node)
    for _ in range(4):
        node.answer("n2", "election", VoteReply(1, True))
    assert node.ledger.leading_term is None, "two of five are no majority"
    node.answer("n3", "election", VoteReply(1, True))
    assert node.ledger.leading_term == 1


def test_probe_P3b_a_vote_of_a_stranger_is_ignored(tmp_path: Path) -> None:
    node = OneNode(5)
    stand(node)
    for stranger in ("n7", "n8", "n9"):
        node.ledger.identity.boots[stranger] = node.boot_of(stranger)  # the gate lets it pass: the count must not
        node.answer(stranger, "election", VoteReply(1, True))
    assert node.ledger.leading_term is None
    node.answer("n2", "election", VoteReply(1, True))
    assert node.ledger.leading_term is None, "two of five are no majority"
    node.answer("n3", "election", VoteReply(1, True))
    assert node.ledger.leading_term == 1


def test_probe_P4_an_older_append_that_comes_again_truncates_nothing(tmp_path: Path) -> None:
    entries = noops(2, 5, 1)
    with node_on_lmdb(tmp_path) as node:
        node.request("n2", "replication", AppendEntries(1, 1, 0, 5, 0, entries))
        assert node.last(AppendReply) == AppendReply(1, True, 5, 0, 0)
        assert node.ledger.commit_index == 5
        for count in (1, 3, 0):  # one entry, three entries, a heartbeat from before them
            node.request("n2", "replication", AppendEntries(1, 1, 0, 1, 0, entries[:count]))
            assert node.last(AppendReply) == AppendReply(1, True, 1 + count, 0, 0)
            assert node.ledger.log.read(2, 5, 1 << 20) == list(entries)
            assert node.ledger.commit_index == 5
    with node_on_lmdb(tmp_path) as again:
        assert again.ledger.log.read(2, 5, 1 << 20) == list(entries)


def test_probe_P5_a_chunk_of_a_snapshot_commits_nothing_of_ones_own(tmp_path: Path) -> None:
    """The follower is a former leader; a client waits for what only this node has, and must not hear of success."""
    node = OneNode()
    lead(node)
    session = open_session(node)
    before = node.ledger.commit_index
    ask(node, session, put("k", "only here"))
    node.sent.clear()
    node.request("n2", "snapshot", InstallSnapshot(2, 40, 2, 0, 9_000, b"x" * 100))
    assert node.ledger.log.last == before + 1
    assert node.ledger.commit_index == node.ledger.applied == before
    assert node.ledger.applier.machine.query("k") is None
    assert not node.messages(Results)
    assert node.last(Refused).code == "CONSENSUS_OUTCOME_UNKNOWN"


def test_probe_P6_a_late_acknowledgement_commits_nothing(tmp_path: Path) -> None:
    """n2 acknowledged entry 4 of term 1, and lost it to n3's term 2; the answer comes when n1 leads term 3."""
    node = OneNode()
    lead(node)
    session = open_session(node)
    ask(node, session, put("k", 1))
    late = AppendReply(1, True, node.ledger.log.last, 0, 0)
    node.request("n3", "replication", AppendEntries(2, node.ledger.commit_index, 1, 1, 0, noops(4, 4, 2)))
    stand(node)
    node.answer("n3", "election", VoteReply(node.ledger.term, True))
    before = node.ledger.commit_index
    assert node.ledger.leading_term == 3
    ask(node, session, put("k", 3), first=2)
    for answer in (late, AppendReply(1, True, 99, 0, 0)):
        node.answer("n2", "replication", answer)
        assert node.ledger.commit_index == before, "only this node has its log"
    here = AppendReply(3, True, node.ledger.log.last, 0, 0)
    node.answer("n2", "replication", here, boot=0)
    node.answer("n2", "replication", here, to_boot=0)
    assert node.ledger.commit_index == before, "an answer of another boot says nothing of this one's disk"
    node.answer("n2", "replication", here)
    assert node.ledger.commit_index == node.ledger.log.last


def test_probe_P7_a_command_that_raises_stops_nothing(tmp_path: Path) -> None:
    node = OneNode(machine=TallyMachine)
    lead(node)
    session = open_session(node)
    ask(node, session, *(Command(name).encode() for name in ("add", "fail", "add")))
    acknowledge(node)
    assert [code for _, code, _ in outcomes(node)] == ["", "CONSENSUS_COMMAND_FAILED", ""]
    for _ in range(TICKS):
        node.sent.clear()
        node.wait(node.options.heartbeat_interval)
        assert {to for to, _ in node.messages(AppendEntries)} == {"n2", "n3"}, "a leader goes on to be heard"
        acknowledge(node, "n2", "n3")
    ask(node, session, Command("add").encode(), first=4)
    acknowledge(node)
    assert [(number, msgpack.unpackb(result)) for number, _, result in outcomes(node)] == [(4, 3)]
    assert node.ledger.applied == node.ledger.commit_index == node.ledger.log.last
    assert node.engine.cells.generation == 0


def test_probe_P8_a_first_command_larger_than_the_new_file_is_kept(tmp_path: Path) -> None:
    value = "x" * 1_000_000
    with node_on_lmdb(tmp_path, 1) as node:
        session = open_session(node)
        assert file_of(tmp_path).stat().st_size < len(value) // 4
        ask(node, session, put("k", value))
        assert [code for _, code, _ in outcomes(node)] == [""]
    with node_on_lmdb(tmp_path, 1) as again:
        assert again.ledger.applier.machine.query("k") == value


def test_probe_P9_a_flipped_byte_on_disk_is_noticed(tmp_path: Path) -> None:
    home, copy = tmp_path / "n1", tmp_path / "copy"
    with node_on_lmdb(home, 1) as node:
        ask(node, open_session(node), put("k", "v"))
        record, index = node.ledger.log.get(node.ledger.log.last), node.ledger.log.last
    data = file_of(home).read_bytes()
    places = [place for place in range(len(data)) if data.startswith(record, place)]
    assert places
    for offset in range(len(record)):
        file = file_of(copied(home, copy))
        changed = bytearray(data)
        for place in places:  # LMDB may still hold the page from before a copy on write
            changed[place + offset] ^= 0x20
        file.write_bytes(changed)
        assert f"log entry {index} " in refusal_of(copy), f"byte {offset} of the record is different and nobody minds"


def refusal_of(path: Path) -> str:
    """Why a node does not start on that folder, or nothing."""
    try:
        with node_on_lmdb(path, 1):
            return ""
    except CorruptionError as error:
        return str(error)


PROBES: dict[str, Callable[[Path], None]] = {
    name.split("_")[2]: probe for name, probe in sorted(globals().items()) if name.startswith("test_probe_")
}


@pytest.mark.parametrize("number", PROBES)
def test_each_probe_fails_where_the_fault_that_it_looks_for_is_put_in(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAULTS[number](monkeypatch)
    with pytest.raises((AssertionError, ConsensusError)):
        PROBES[number](tmp_path)
