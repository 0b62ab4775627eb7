"""Verification: it reports all damage in a folder, and nothing else."""

from __future__ import annotations

from pathlib import Path

import msgpack
import pytest

from forge_consensus.errors import CorruptionError, FolderLockedError, StorageError
from forge_consensus.storage.backends.folder import Folder
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.ledger.configuration import VERSION
from forge_consensus.storage.ledger.log import TABLE
from forge_consensus.storage.ledger.record import Kind, encode, key_of
from forge_consensus.storage.ledger.transaction import META
from forge_consensus.storage.verify import FAULTS_MAX, VerifyReport, verify_folder
from tests.worlds.ledger_world import World, increment

TERM = 1
LAST = 13
"""The configuration, a no-op, ten commands, and one more behind the snapshot."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    world = World("lmdb", tmp_path)
    assert world.lead() == TERM
    world.do(*[increment("n")] * 10)
    world.snapshot()
    world.do(increment("n"))
    world.checkpoint()
    assert world.ledger.log.last == LAST
    world.close()
    return tmp_path


def put(folder: Path, table: str, key: bytes, value: bytes) -> None:
    """Change a row behind the ledger's back."""
    world = World.__new__(World)
    with LmdbTables(folder / "tables") as world.tables:
        world.write(lambda batch: batch.put(table, key, value))


def test_a_whole_folder_is_counted_and_has_no_faults(folder: Path) -> None:
    report = verify_folder(folder)
    assert report.whole
    assert (report.node_id, report.cluster_id, report.term) == ("n1", "c", TERM)
    assert (report.first_index, report.last_index, report.entries, report.snapshots) == (1, LAST, LAST, 1)
    report.raise_for_faults()


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (encode(7, TERM, Kind.NOOP, 0)[:-1] + b"?", "entry 7 fails its checksum"),
        (encode(8, TERM, Kind.NOOP, 0), "entry 7 fails its checksum"),
        (encode(7, 0, Kind.NOOP, 0), "entry 7 is of term 0 behind one of term 1"),
        (
            encode(7, TERM, Kind.CONFIGURATION, 0, data=b"?"),
            "entry 7: a configuration entry of the log does not decode",
        ),
        (
            encode(7, TERM, Kind.CONFIGURATION, 0, data=msgpack.packb([VERSION + 1])),
            "entry 7: .* is written in version",
        ),
    ],
)
def test_a_bad_entry_is_one_fault_with_its_index(folder: Path, record: bytes, fault: str) -> None:
    put(folder, TABLE, key_of(7), record)
    report = verify_folder(folder)
    assert (len(report.faults), report.faults_total, report.whole) == (1, 1, False)
    with pytest.raises(CorruptionError, match=f"1 faults in .*{fault}"):
        report.raise_for_faults()


def test_entries_of_a_later_term_than_the_nodes_are_a_fault(folder: Path) -> None:
    put(folder, TABLE, key_of(LAST), encode(LAST, 9, Kind.NOOP, 0))
    assert verify_folder(folder).faults == ["the log ends in term 9 and the node is in term 1"]


def test_a_damaged_vote_is_one_fault_and_ends_the_verification(folder: Path) -> None:
    put(folder, META, b"hard", b"nonsense")
    report = verify_folder(folder)
    assert report.faults_total == 1
    assert "'hard' fails its checksum" in report.faults[0]
    assert report.entries == 0


def test_a_damaged_snapshot_is_a_fault(folder: Path) -> None:
    (path,) = (folder / "snapshots").glob("*.fcs")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert [fault.split(":")[0] for fault in verify_folder(folder).faults] == [f"snapshot {path.name}"]


def test_verifying_a_locked_or_a_missing_folder_is_an_error(folder: Path) -> None:
    with Folder(folder), pytest.raises(FolderLockedError):
        verify_folder(folder)
    with pytest.raises(StorageError, match="is no node's folder"):
        verify_folder(folder / "missing")
    assert not (folder / "missing").exists()


def test_unlisted_faults_are_counted() -> None:
    report = VerifyReport("folder")
    for number in range(FAULTS_MAX + 5):
        report.fault(str(number))
    assert (len(report.faults), report.faults_total) == (FAULTS_MAX, FAULTS_MAX + 5)


@pytest.mark.parametrize("table", ["kv", "sessions", "events"])
def test_a_damaged_row_of_state_sessions_or_events_is_a_fault(folder: Path, table: str) -> None:
    put(folder, table, b"\0\0\0\0key", b"not sealed")
    report = verify_folder(folder)
    assert [
        fault for fault in report.faults if f"of {table}" in fault and "fails its checksum" in fault
    ] == report.faults
    assert report.faults_total == 1
    assert report.rows > 1
