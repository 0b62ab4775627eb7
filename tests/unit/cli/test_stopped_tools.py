"""The commands for a stopped node refuse a live, an empty, a foreign and a damaged folder alike, and change nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest
from click.testing import Result

from forge_consensus.client.sync import Client
from tests.worlds.cli_world import Shell, running_node
from tests.worlds.ledger_world import World, increment

SHELL = Shell("")
Arguments = Callable[[Path], tuple[str, ...]]
TOOLS: dict[str, Arguments] = {
    "log verify": lambda folder: ("log", "verify", "--data", str(folder)),
    "log inspect": lambda folder: ("log", "inspect", "--data", str(folder)),
    "recover": lambda folder: ("recover", "--data", str(folder), "--yes"),
    "storage compact": lambda folder: ("storage", "compact", "--data", str(folder)),
}


def made(folder: Path) -> None:
    """Leave the folder of one of three members, with a snapshot."""
    world = World("lmdb", folder)
    world.lead()
    world.do(*[increment("n")] * 50)
    world.snapshot()
    world.close()
    (folder / "LOCK").write_text("17\n")


def empty(folder: Path) -> None:
    folder.mkdir()


def missing(folder: Path) -> None:
    """Leave nothing at all."""


def foreign(folder: Path) -> None:
    """Leave somebody's files, with a name like ours among them."""
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / "letter.txt").write_text("dear reader")
    (folder / "LOCK").write_text("mine\n")


def another_programs(folder: Path) -> None:
    """Leave a store of LMDB that another program wrote."""
    (folder / "tables").mkdir(parents=True)
    with lmdb.open(str(folder / "tables"), max_dbs=2) as environment, environment.begin(write=True) as txn:
        txn.put(b"key", b"value", db=environment.open_db(b"theirs", txn))


def no_store(folder: Path) -> None:
    made(folder)
    (folder / "tables" / "data.mdb").write_bytes(b"nothing that was ever a store" * 1_000)


def cut(folder: Path) -> None:
    made(folder)
    file = folder / "tables" / "data.mdb"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(folder: Path) -> None:
    """Flip a bit in every page that holds the name of a key: the rows fail their checksums."""
    made(folder)
    file = folder / "tables" / "data.mdb"
    content = file.read_bytes()
    assert b"increment" in content
    file.write_bytes(content.replace(b"increment", b"incremenT"))


@pytest.fixture(scope="module")
def backup(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot file."""
    folder = tmp_path_factory.mktemp("backup")
    made(folder)
    (file,) = (folder / "snapshots").glob("*.fcs")
    return file


def look(folder: Path) -> str:
    """A hash of every name, mode, length and byte in a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(f"{path.relative_to(folder)} {path.stat().st_mode}\n".encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    ("prepare", "code", "said"),
    [
        (missing, 66, "error[NO_SUCH_FOLDER]"),
        (empty, 66, "error[NO_SUCH_FOLDER]"),
        (foreign, 66, "error[NO_SUCH_FOLDER]"),
        (another_programs, 66, "error[NO_SUCH_FOLDER]"),
        (no_store, 65, "error[CONSENSUS_CORRUPTION]"),
        (cut, 65, "error[CONSENSUS_CORRUPTION]"),
        (flipped, 65, "error[CONSENSUS_CORRUPTION]"),
    ],
)
def test_a_tool_refuses_it_and_changes_nothing(
    tmp_path: Path, tool: str, prepare: Callable[[Path], None], code: int, said: str
) -> None:
    folder = tmp_path / "data"
    prepare(folder)
    there, before = folder.exists(), look(folder)
    done = SHELL.run(*TOOLS[tool](folder))
    assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    assert (folder.exists(), look(folder)) == (there, before)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_refuses_the_folder_of_a_node_that_runs(tmp_path: Path, tool: str) -> None:
    with running_node(tmp_path) as node, Client([node.address]) as client:
        client.put("k", 1)
        done = SHELL.run(*TOOLS[tool](tmp_path))
        assert done.exit_code == 78
        assert "error[CONSENSUS_FOLDER_LOCKED]" in done.stderr
        assert client.get("k") == 1


@pytest.mark.parametrize("tool", ["log verify", "log inspect"])
def test_looking_changes_no_byte_of_a_whole_folder_with_or_without_a_lock_file(tmp_path: Path, tool: str) -> None:
    folder = tmp_path / "data"
    made(folder)
    for _ in range(2):
        before = look(folder)
        assert SHELL.run(*TOOLS[tool](folder)).exit_code == 0
        assert look(folder) == before
        (folder / "LOCK").unlink(missing_ok=True)


def restore(file: Path, data: Path, *arguments: str) -> Result:
    """Run `snapshot restore` for a cluster of one, or as the arguments say."""
    given = arguments or ("--listen", "127.0.0.1:7001")
    return SHELL.run("snapshot", "restore", str(file), "--id", "n1", "--data", str(data), *given)


@pytest.mark.parametrize("prepare", [made, foreign, another_programs, no_store, cut])
def test_nothing_is_restored_into_a_folder_with_anything_in_it(
    tmp_path: Path, prepare: Callable[[Path], None], backup: Path
) -> None:
    folder = tmp_path / "data"
    prepare(folder)
    before = look(folder)
    done = restore(backup, folder)
    assert done.exit_code == 78
    assert "error[CONSENSUS_ALREADY_EXISTS]" in done.stderr
    assert look(folder) == before


def test_nothing_is_restored_into_the_folder_of_a_node_that_runs(tmp_path: Path, backup: Path) -> None:
    with running_node(tmp_path) as node, Client([node.address]) as client:
        client.put("k", 1)
        assert restore(backup, tmp_path).exit_code == 78
        assert client.get("k") == 1


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (None, 66, "there is no file"),
        (b"", 65, "is no whole snapshot"),
        (b"dear reader", 65, "is no whole snapshot"),
    ],
)
def test_what_is_no_snapshot_is_refused_by_inspect_and_restore(
    tmp_path: Path, content: bytes | None, code: int, said: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    for done in (SHELL.run("snapshot", "inspect", str(file)), restore(file, tmp_path / "data")):
        assert (done.exit_code, said in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "data").exists()


def test_a_snapshot_that_was_cut_or_changed_is_refused(tmp_path: Path, backup: Path) -> None:
    whole = backup.read_bytes()
    for content in (whole[:-1], whole + b"x", whole[:-10] + bytes([whole[-10] ^ 1]) + whole[-9:]):
        (tmp_path / "file").write_bytes(content)
        assert SHELL.run("snapshot", "inspect", str(tmp_path / "file")).exit_code == 65
        assert restore(tmp_path / "file", tmp_path / "data").exit_code == 65
    assert not (tmp_path / "data").exists()


def test_a_snapshot_is_inspected_and_restored(tmp_path: Path, backup: Path) -> None:
    row = SHELL.json("snapshot", "inspect", str(backup))
    assert (row["index"], row["term"], row["cluster"], row["machine"]) == (52, 1, "c", "kv")
    assert row["members"]["n1"] == "host1:1"
    said = SHELL.run("snapshot", "inspect", str(backup)).stdout
    assert "whole     every checksum fits" in said
    assert "n1=host1:1,n2=host2:1,n3=host3:1" in said
    done = restore(backup, tmp_path / "data", "--peers", "n1=127.0.0.1:7001,n2=127.0.0.1:7002")
    assert done.exit_code == 0
    assert "n1 of cluster c~" in done.stdout
    assert "2 members, begins at entry 52" in done.stdout
    assert SHELL.run("log", "verify", "--data", str(tmp_path / "data")).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cluster", "x"), "name all members"),
        (("--listen", "127.0.0.1:7001", "--peers", "n1=127.0.0.1:7001"), "name all members"),
        (("--peers", "n2=127.0.0.1:7001"), "n1"),
        (("--listen", "127.0.0.1:0"), "port 0"),
        (("--listen", "nonsense"), "nonsense"),
    ],
)
def test_members_that_cannot_be_are_refused(
    tmp_path: Path, backup: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = restore(backup, tmp_path / "data", *arguments)
    assert (done.exit_code, said in done.stderr) == (78, True), done.stderr
    assert not (tmp_path / "data").exists()


def test_recovery_is_refused_where_nobody_can_be_asked(tmp_path: Path) -> None:
    made(tmp_path)
    before = look(tmp_path)
    done = SHELL.run("recover", "--data", str(tmp_path))
    assert done.exit_code == 2
    assert "add --yes" in done.stderr
    assert "lost: whatever the cluster acknowledged behind entry 52" in done.stderr
    assert look(tmp_path) == before


def test_recovery_says_what_it_did_as_json(tmp_path: Path) -> None:
    made(tmp_path)
    row = SHELL.json("recover", "--data", str(tmp_path), "--yes", "--address", "127.0.0.1:7009")
    assert (row["node_id"], row["cluster_before"], row["address"]) == ("n1", "c", "127.0.0.1:7009")
    assert row["cluster"].startswith("c~")


def test_compacting_says_how_many_bytes_it_gave_back(tmp_path: Path) -> None:
    made(tmp_path)
    row = SHELL.json("storage", "compact", "--data", str(tmp_path))
    assert row["bytes_after"] <= row["bytes_before"]
    assert "n1 of cluster c: the tables had" in SHELL.run("storage", "compact", "--data", str(tmp_path)).stdout
