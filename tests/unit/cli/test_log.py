"""``forge-consensus log verify`` and ``log inspect``: whole logs, damaged logs, and missing or locked folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forge_consensus.client.sync import Client
from forge_consensus.errors import InvalidConfigError
from forge_consensus.storage.backends.lmdb import LmdbTables
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.inspecting import ENTRIES_MAX, inspect_log
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


def test_entries_are_shown_with_who_sent_them(tmp_path: Path) -> None:
    fill(tmp_path, 30)
    view = SHELL.json("log", "inspect", "--data", str(tmp_path), "--count", "100")
    indexes = [entry["index"] for entry in view["entries"]]
    assert indexes == list(range(view["first_index"], view["last_index"] + 1))
    assert (view["node_id"], view["cluster_id"], view["vote"]) == ("n1", "tests", "n1")
    assert view["commit_index"] <= view["last_index"]
    kinds = [entry["kind"] for entry in view["entries"]]
    assert kinds[:2] == ["configuration", "noop"]
    assert view["entries"][0]["text"].startswith("n1=")
    commands = [entry for entry in view["entries"] if entry["kind"] == "command"]
    assert len(commands) == 30
    assert len({entry["session"] for entry in commands} - {0}) == 1
    assert [entry["seq"] for entry in commands] == list(range(1, 31))
    assert all(entry["data"] is None for entry in commands), "values are shown only if they are asked for"
    shown = SHELL.run("log", "inspect", "--data", str(tmp_path), "--values").stdout
    assert "k29" in shown
    assert "k29" not in SHELL.run("log", "inspect", "--data", str(tmp_path)).stdout


def test_the_entries_to_show_are_chosen_by_index_and_count(tmp_path: Path) -> None:
    fill(tmp_path, 30)

    def shown(*arguments: str) -> list[int]:
        row = SHELL.json("log", "inspect", "--data", str(tmp_path), *arguments)
        return [entry["index"] for entry in row["entries"]]

    last = SHELL.json("log", "inspect", "--data", str(tmp_path))["last_index"]
    assert shown() == list(range(last - 19, last + 1)), "the last twenty"
    assert shown("--first", "5", "--count", "3") == [5, 6, 7]
    assert shown("--first", str(last), "--count", "3") == [last]
    assert shown("--first", str(last + 1)) == shown("--count", "0") == []
    assert SHELL.run("log", "inspect", "--data", str(tmp_path), "--first", "0").exit_code == 2
    assert SHELL.run("log", "inspect", "--data", str(tmp_path), "--count", "1000000").exit_code == 2


def test_a_damaged_entry_is_shown_as_such_and_ends_with_65(tmp_path: Path) -> None:
    fill(tmp_path, 20)
    tables = LmdbTables(tmp_path / "tables")
    record = bytearray(tables.get(TABLE, key_of(7)) or b"")
    record[-6] ^= 1
    batch = Batch()
    batch.put(TABLE, key_of(7), bytes(record))
    tables.commit(batch)
    tables.close()
    found = SHELL.run("log", "inspect", "--data", str(tmp_path), "--first", "6", "--count", "3", "-o", "json")
    assert found.exit_code == 65
    assert [entry["kind"] for entry in json.loads(found.stdout)["entries"]] == ["command", "damaged", "command"]
    assert "1 of these entries" in found.stderr
    assert SHELL.run("log", "inspect", "--data", str(tmp_path), "--first", "8", "--count", "3").exit_code == 0


def test_a_program_gets_errors_for_entries_that_cannot_be(tmp_path: Path) -> None:
    for first, count in ((0, 1), (-3, 1), (1, -1), (1, ENTRIES_MAX + 1)):
        with pytest.raises(InvalidConfigError):
            inspect_log(tmp_path, first, count)
