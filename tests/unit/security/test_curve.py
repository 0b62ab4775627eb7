"""Keys of CURVE and their files: only their owner may read them, and no text shows a secret one."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.curve import KeyPair, is_key, read_key_file, write_key_file


def test_a_pair_is_read_as_it_was_written_and_never_shown(tmp_path: Path) -> None:
    keys = KeyPair.made()
    write_key_file(tmp_path / "n1.key", keys)
    assert (tmp_path / "n1.key").stat().st_mode & 0o777 == 0o600
    assert read_key_file(tmp_path / "n1.key") == keys
    assert is_key(keys.public)
    assert keys.secret not in repr(keys)
    with pytest.raises(FileExistsError):
        write_key_file(tmp_path / "n1.key", KeyPair.made())
    assert read_key_file(tmp_path / "n1.key") == keys, "nothing is overwritten"


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "n1.key"
    write_key_file(path, KeyPair.made())
    path.chmod(0o640)
    with pytest.raises(InvalidConfigError, match="mode 0640, so others may read it: chmod 600"):
        read_key_file(path)


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 41, b"\xff" * 40, b"~" * 40])
def test_what_is_no_key_is_refused_and_not_shown(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "n1.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidConfigError, match="is no key") as refused:
        read_key_file(path)
    assert content.decode("latin-1") not in str(refused.value) or not content
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        read_key_file(tmp_path / "nowhere")


def test_a_public_key_can_stand_on_a_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(b"-" + b"a" * 39, b"b" * 40), (b"c" * 40, b"d" * 40)]
    monkeypatch.setattr("zmq.curve_keypair", lambda: pairs.pop(0))
    assert KeyPair.made().public == "c" * 40
