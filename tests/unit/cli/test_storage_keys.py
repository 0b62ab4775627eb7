"""The commands for keys of encryption: what they print, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forge_consensus.security.encryption_key import read_encryption_key
from tests.worlds.cli_world import Shell
from tests.worlds.ledger_world import World, put

SHELL = Shell("")
VARIABLE = "FORGE_CONSENSUS_SECURITY__ENCRYPTION_KEY"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plain folder, and two key files beside it."""
    path = tmp_path / "n1"
    world = World("lmdb", path)
    world.lead()
    world.do(put("k", "planted"))
    world.snapshot()
    world.close()
    for name in ("one", "two"):
        done = SHELL.run("storage", "new-key", str(tmp_path / name))
        assert done.stdout.strip() == read_encryption_key(tmp_path / name).id
    return path


def run(*arguments: str | Path, code: int = 0) -> str:
    done = SHELL.run(*map(str, arguments))
    assert done.exit_code == code, done.output
    return done.stdout if code == 0 else done.stderr


def test_a_folder_is_encrypted_read_rotated_and_decrypted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run("storage", "encrypt", "--data", folder, "--key-file", one)
    assert "and no key was given" in run("log", "verify", "--data", folder, code=78)
    assert "and the key given is" in run("log", "verify", "--data", folder, "--key-file", two, code=78)
    assert "all whole" in run("log", "verify", "--data", folder, "--key-file", one)
    for kind, value in (("_FILE", str(one)), ("", read_encryption_key(one).secret.hex()), ("_COMMAND", f"cat {one}")):
        with monkeypatch.context() as patched:
            patched.setenv(f"{VARIABLE}{kind}", value)
            assert "committed at least to" in run("log", "inspect", "--data", folder)
    config = tmp_path / "node.yaml"
    security = f"security: {{enable_encryption: true, encryption_key_file: {one}}}\n"
    config.write_text(f"node_id: n1\nbind: 127.0.0.1:7001\n{security}")
    run("storage", "compact", "--data", folder, "-c", config)
    told = json.loads(
        run("storage", "rotate-key", "--data", folder, "--key-file", one, "--new-key-file", two, "-o", "json")
    )
    assert (told["key_before"], told["key"]) == (read_encryption_key(one).id, read_encryption_key(two).id)
    run("log", "verify", "--data", folder, "--key-file", two)
    assert "had the key" in run("storage", "decrypt", "--data", folder, "--key-file", two)
    run("log", "verify", "--data", folder)


def test_a_backup_is_looked_at_and_written_anew_with_its_key(folder: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run("storage", "encrypt", "--data", folder, "--key-file", one)
    file = next((folder / "snapshots").glob("*.fcs"))
    assert "give that key" in run("snapshot", "inspect", file, code=78)
    assert read_encryption_key(one).id in run("snapshot", "inspect", file, "--key-file", one)
    sent = tmp_path / "sent.snap"
    assert "say what the new file is to be" in run("snapshot", "reencrypt", file, sent, "--key-file", one, code=78)
    run("snapshot", "reencrypt", file, sent, "--key-file", one, "--new-key-file", two)
    restore = ("snapshot", "restore", sent, "--id", "n1", "--listen", "127.0.0.1:7001", "--data")
    run(*restore, tmp_path / "r1", "--key-file", one, "--file-key-file", two)
    run("log", "verify", "--data", tmp_path / "r1", "--key-file", one)


def test_keys_that_are_missing_lax_or_there_already_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "needs the key of the folder" in run("storage", "encrypt", "--data", folder, code=78)
    assert "never overwritten" in run("storage", "new-key", tmp_path / "one", code=78)
    (tmp_path / "one").chmod(0o644)
    assert "has mode 0644" in run("storage", "encrypt", "--data", folder, "--key-file", tmp_path / "one", code=78)
    run("log", "verify", "--data", folder)
