"""``forge-consensus log verify``: whole logs, damaged logs, and missing or locked folders."""

from __future__ import annotations

import json
from pathlib import Path

from forge_consensus.client.sync import Client
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.log import TABLE
from forge_consensus.storage.ledger.record import key_of
from forge_consensus.storage.ledger.transaction import META
from tests.worlds.cli_world import Shell, running_node

SHELL = Shell("")


def fill(folder: Path, count: int) -> None:
    """Leave a log of so many writes and a few entries more."""
    with running_node(folder) as node, Client([node.address]) as client:
        for number in range(count):
            client.put(f"k{number}", "v")


def change(folder: Path, batch: Batch) -> None:
    """Do something to the tables that no node does."""
    tables = LmdbTables(folder / "tables")
    tables.commit(batch)
    tables.close()


def test_a_whole_log_is_counted(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    found = SHELL.run("log", "verify", "--data", str(tmp_path))
    assert found.exit_code == 0
    assert found.stdout.startswith("n1 of cluster tests: ")
    assert "all whole" in found.stdout
    row = SHELL.json("log", "verify", "--data", str(tmp_path))
    assert row["entries"] == row["last_index"] > 20
    assert row["faults"] == []


def test_damage_anywhere_is_found_and_ends_with_65(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    tables = LmdbTables(tmp_path / "tables")
    batch = Batch()
    record = bytearray(tables.get(TABLE, key_of(7)) or b"")
    record[-6] ^= 1
    batch.put(TABLE, key_of(7), bytes(record))
    batch.delete(TABLE, key_of(12))
    tables.commit(batch)
    tables.close()
    found = SHELL.run("log", "verify", "--data", str(tmp_path), "-o", "json")
    assert found.exit_code == 65
    faults = json.loads(found.stdout)["faults"]
    assert [fault[:8] for fault in faults] == ["entry 7 ", "entries "]
    assert "error[CONSENSUS_CORRUPTION]" in found.stderr


def test_a_lost_tail_and_a_damaged_vote_are_found(tmp_path: Path) -> None:
    fill(tmp_path, 5)
    last = SHELL.json("log", "verify", "--data", str(tmp_path))["last_index"]
    batch = Batch()
    batch.delete(TABLE, key_of(last))
    change(tmp_path, batch)
    assert "should end at" in SHELL.run("log", "verify", "--data", str(tmp_path)).stderr
    batch = Batch()
    batch.put(META, b"hard", b"\x94\x00\xa0\x00\x00")
    change(tmp_path, batch)
    assert "'hard' fails its checksum" in SHELL.run("log", "verify", "--data", str(tmp_path)).stderr


def test_a_folder_in_use_is_78_and_a_missing_one_66(tmp_path: Path) -> None:
    with running_node(tmp_path):
        assert SHELL.run("log", "verify", "--data", str(tmp_path)).exit_code == 78
    missing = tmp_path / "missing"
    found = SHELL.run("log", "verify", "--data", str(missing))
    assert found.exit_code == 66
    assert not missing.exists()


def test_a_folder_without_a_store_is_66_an_empty_store_65_and_both_stay_as_they_are(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    tables.mkdir()
    for content, code in ((None, 66), (b"", 65)):
        if content is not None:
            (tables / "data.mdb").write_bytes(content)
        assert SHELL.run("log", "verify", "--data", str(tmp_path)).exit_code == code
        assert [path.name for path in tmp_path.rglob("*")] == (
            ["tables"] if content is None else ["tables", "data.mdb"]
        )
