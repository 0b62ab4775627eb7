"""The ten safety probes that PySyncObj 0.3.14 fails, and 0.3.17 in seven rows, against our own handlers.

The stories and unit tests that prove a property are named in `PROOFS`; probes that none of them covers stand here and
drive the real engine, actors and ledger with hand-made frames. Each proof is shown able to fail: the last test puts the
fault of PySyncObj into our code.
"""

# ruff: noqa: N802 - a probe is named as the list names it

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    InstallSnapshot,
    Refused,
    Results,
)
from forge_consensus.errors import ConsensusError, CorruptionError
from forge_consensus.storage.ledger.record import Kind, encode
from forge_consensus.storage.machines.machine import Command
from tests.scenarios.scenario_table import PROBES, TABLE, rows
from tests.unit.actors import test_election, test_replication
from tests.unit.actors.test_election import lead
from tests.worlds.ledger_world import TallyMachine
from tests.worlds.one_node import OneNode
from tests.worlds.probe_faults import FAULTS
from tests.worlds.scenario_world import acknowledge, ask, copied, file_of, node_on_lmdb, open_session, outcomes, put
from tests.worlds.source_tree import ROOT
from tests.worlds.story.script import StoryError
from tests.worlds.story.telling import tell

TICKS = 20


def noops(first: int, last: int, term: int) -> tuple[bytes, ...]:
    """Entries of a term."""
    return tuple(encode(index, term, Kind.NOOP, 0) for index in range(first, last + 1))


def test_probe_P5_a_snapshot_chunk_commits_no_entries_of_the_follower(tmp_path: Path) -> None:
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


def test_probe_P7_a_raising_command_does_not_stop_the_node(tmp_path: Path) -> None:
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


PROOFS: dict[str, tuple[Callable[..., None] | str, ...]] = {
    "P1": ("10_one_vote_a_term", test_election.test_a_vote_is_given_once_a_term_and_survives_a_restart),
    "P2": ("07_own_vote_of_a_lost_election", test_election.test_a_vote_is_given_once_a_term_and_survives_a_restart),
    "P3": ("11_votes_that_do_not_count", test_election.test_a_duplicated_vote_counts_once),
    "P3b": (test_election.test_a_vote_from_a_stranger_does_not_count,),
    "P4": ("24_old_and_doubled_entries", test_replication.test_a_redelivered_older_append_truncates_nothing),
    "P5": (test_probe_P5_a_snapshot_chunk_commits_no_entries_of_the_follower,),
    "P6": (
        "27_acknowledgement_of_an_earlier_term",
        test_replication.test_a_stale_acknowledgement_does_not_commit,
    ),
    "P7": (test_probe_P7_a_raising_command_does_not_stop_the_node,),
    "P8": (test_probe_P8_a_first_command_larger_than_the_new_file_is_kept,),
    "P9": (test_probe_P9_a_flipped_byte_on_disk_is_noticed,),
}
"""The stories (by name) and tests that prove each probe's property."""


def listed(proof: Callable[..., None] | str) -> str:
    """The name of a proof in the table of scenarios."""
    if isinstance(proof, str):
        return f"stories/{proof}.txt"
    folder = Path(proof.__code__.co_filename).relative_to(ROOT / "tests")
    return f"{folder}::{proof.__name__}"


def prove(proof: Callable[..., None] | str, folder: Path) -> None:
    """Run a story or a test. Raises what it raises where the property does not hold."""
    if isinstance(proof, str):
        tell((ROOT / "tests" / listed(proof)).read_text(encoding="utf-8"))
    elif "tmp_path" in inspect.signature(proof).parameters:
        folder.mkdir()
        proof(folder)
    else:
        proof()


def test_the_table_of_scenarios_names_the_proofs_of_each_probe() -> None:
    table = {row.number: row.tested for row in rows(TABLE.read_text(encoding="utf-8")) if row.number in PROBES}
    assert table == {number: tuple(map(listed, proofs)) for number, proofs in PROOFS.items()}


@pytest.mark.parametrize(
    ("number", "proof"), [pytest.param(n, p, id=f"{n}-{listed(p)}") for n, proofs in PROOFS.items() for p in proofs]
)
def test_each_proof_fails_under_the_fault_of_its_probe(
    number: str, proof: Callable[..., None] | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove(proof, tmp_path / "whole")
    FAULTS[number](monkeypatch)
    with pytest.raises((AssertionError, ConsensusError, StoryError)):
        prove(proof, tmp_path / "faulty")
