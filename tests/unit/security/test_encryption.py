"""Encryption keys: no nonce comes twice, nothing is read at another place, and keys come from where they should."""

from __future__ import annotations

import base64
import stat
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security import encryption, encryption_key
from forge_consensus.security.encryption import (
    EPOCH_BYTES,
    NONCE_BYTES,
    ROW_BYTES,
    DataKey,
    EncryptionKey,
    WrongKeyError,
    epoch_of,
)
from forge_consensus.security.encryption_key import (
    key_of_command,
    key_of_settings,
    key_of_text,
    read_encryption_key,
    write_encryption_key,
)

KEY = EncryptionKey(bytes(range(32)))


def test_a_key_reads_what_it_encrypted_for_that_place_only() -> None:
    sealed = KEY.encrypt(b"value", b"here")
    assert KEY.decrypt(sealed, b"here") == b"value"
    assert b"value" not in sealed
    flipped = [bytes(byte ^ (n == at) for n, byte in enumerate(sealed)) for at in range(len(sealed))]
    for wrong in [*flipped, sealed[:-1], sealed + b"\0", b""]:
        with pytest.raises(WrongKeyError):
            KEY.decrypt(wrong, b"here")
    for key, bound in ((KEY, b"there"), (EncryptionKey.made(), b"here")):
        with pytest.raises(WrongKeyError):
            key.decrypt(sealed, bound)


def test_the_secret_is_in_no_text_of_a_key_and_the_id_tells_keys_apart() -> None:
    other = EncryptionKey.made()
    assert KEY.id != other.id
    assert KEY.id == EncryptionKey(bytes(range(32))).id
    assert len(KEY.id) == 16
    for text in (repr(KEY), str(KEY)):
        assert KEY.secret.hex() not in text
        assert repr(KEY.secret)[2:-1] not in text
    with pytest.raises(InvalidConfigError, match="has 32 bytes, this one 31"):
        EncryptionKey(bytes(31))


def test_no_two_rows_have_the_same_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "COUNT_MAX", 7)
    nonces = set()
    for _ in range(3):  # three processes with one data key
        key = DataKey(5, KEY.secret)
        for _ in range(10):
            rows = key.encrypt_all([(b"a", b"1"), (b"b", b""), (b"c", b"3" * 99)], b"table")
            assert [name for name, _ in rows] == [b"a", b"b", b"c"]
            nonces |= {row[EPOCH_BYTES : EPOCH_BYTES + NONCE_BYTES] for _, row in rows}
            assert [len(row) for _, row in rows] == [ROW_BYTES + 1, ROW_BYTES, ROW_BYTES + 99]
            assert {epoch_of(row) for _, row in rows} == {5}
            assert [key.decrypt(row, b"table" + name) for name, row in rows] == [b"1", b"", b"3" * 99]
    assert len(nonces) == 3 * 10 * 3
    assert epoch_of(b"short") == -1


@pytest.mark.parametrize("text", [KEY.secret.hex(), base64.b64encode(KEY.secret).decode(), f" {KEY.secret.hex()}\n"])
def test_a_key_is_read_from_either_spelling(text: str) -> None:
    assert key_of_text(text, "the text") == KEY


@pytest.mark.parametrize("text", ["", "hunter2", "ab" * 31, "zz" * 32, base64.b64encode(bytes(16)).decode(), "é" * 64])
def test_what_is_no_key_is_refused_and_not_told(text: str) -> None:
    with pytest.raises(InvalidConfigError, match="the text is no encryption key") as caught:
        key_of_text(text, "the text")
    assert not text or text not in str(caught.value)


def test_a_key_file_is_its_owners_and_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = write_encryption_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_encryption_key(path) == key
    with pytest.raises(FileExistsError):
        write_encryption_key(path)
    assert read_encryption_key(path) == key
    path.chmod(0o640)
    with pytest.raises(InvalidConfigError, match="has mode 0640, so others may read it"):
        read_encryption_key(path)
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        read_encryption_key(tmp_path / "none")
    with pytest.raises(InvalidConfigError, match="Is a directory"):
        read_encryption_key(tmp_path)


def test_a_command_gives_the_key_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    key = write_encryption_key(path)
    assert key_of_command(f"cat '{path}'") == key
    for command, why in (
        ("false", "ended with 1"),
        ("/nowhere/at/all", "cannot be run"),
        ("", "cannot be run"),
        ("'", "cannot be run"),
        ("echo hunter2 $HOME", "printed is no encryption key"),
    ):
        with pytest.raises(InvalidConfigError, match=why) as caught:
            key_of_command(command)
        assert "hunter2" not in str(caught.value)
    monkeypatch.setattr(encryption_key, "COMMAND_SECONDS", 0.2)
    with pytest.raises(InvalidConfigError, match="did not end within"):
        key_of_command("sleep 5")


def test_the_settings_name_one_source_of_the_key(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = write_encryption_key(path)
    text = base64.b64encode(key.secret).decode()
    assert key_of_settings(SecuritySettings()) is None
    for given in (
        SecuritySettings(enable_encryption=True, encryption_key=text),
        SecuritySettings(enable_encryption=True, encryption_key_file=str(path)),
        SecuritySettings(enable_encryption=True, encryption_key_command=f"cat {path}"),
    ):
        assert key_of_settings(given) == key
        assert text not in repr(given)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"enable_encryption": True}, "there is no key"),
        ({"encryption_key_file": "key"}, "is false: set it to true, or remove the key"),
        ({"enable_encryption": True, "encryption_key": text, "encryption_key_file": "key"}, "give one of them"),
    ]
    for wrong, why in refused:
        with pytest.raises(InvalidConfigError, match=why) as caught:
            SecuritySettings(**wrong)
        assert text not in str(caught.value)
