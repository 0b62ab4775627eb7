"""The TLS of a server: which files it takes, and what happens when they change, end, or cannot be used."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from forge_consensus.config.security import SecuritySettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.certificate_files import write_pair
from forge_consensus.security.certificates import Certified, issue, make_authority, read_key
from forge_consensus.security.tls import DAY_SECONDS, ServerTls, TlsFiles, client_context, server_context

AUTHORITY = make_authority("tests")


class Clock:
    """A wall clock that stands still."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        """The time."""
        return self.now


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    """The files of a server that asks for certificates."""
    write_pair(issue(AUTHORITY, "demo", "n1", days=100), tmp_path / "n1.crt")
    (tmp_path / "ca.crt").write_bytes(AUTHORITY.certificate)
    return TlsFiles(tmp_path / "n1.crt", tmp_path / "n1.key", tmp_path / "ca.crt")


def test_nothing_older_than_tls_1_2_is_spoken(files: TlsFiles) -> None:
    for context in (server_context(files), client_context(SecuritySettings(ca_file=str(files.authority)))):
        assert context is not None
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert server_context(files).verify_mode == ssl.CERT_REQUIRED
    assert server_context(TlsFiles(files.certificate, files.key)).verify_mode == ssl.CERT_NONE


def put_nothing(files: TlsFiles) -> None:
    files.certificate.write_text("nothing")


def put_another_key(files: TlsFiles) -> None:
    files.key.write_bytes(issue(AUTHORITY, "demo", "n1").key)


def put_lax_mode(files: TlsFiles) -> None:
    files.key.chmod(0o640)


def put_passphrase(files: TlsFiles) -> None:
    files.key.write_bytes(
        read_key(files.key.read_bytes()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )


def put_no_authority(files: TlsFiles) -> None:
    assert files.authority is not None
    files.authority.write_text("nothing")


def take_away(files: TlsFiles) -> None:
    files.key.unlink()


SPOILED: tuple[tuple[Callable[[TlsFiles], None], str], ...] = (
    (put_nothing, "not in PEM, or damaged"),
    (put_another_key, "they do not belong together"),
    (put_lax_mode, "mode 0640, so others may read it"),
    (put_passphrase, "has a passphrase"),
    (put_no_authority, "holds no certificates of authorities"),
    (take_away, "cannot be read"),
)


@pytest.mark.parametrize(("spoil", "text"), SPOILED)
def test_files_that_cannot_be_used_are_refused_at_the_start(
    files: TlsFiles, spoil: Callable[[TlsFiles], None], text: str
) -> None:
    spoil(files)
    with pytest.raises(InvalidConfigError, match=text) as told:
        ServerTls(files, Clock(), print)
    assert "BEGIN" not in str(told.value)


@pytest.mark.parametrize(("spoil", "text"), [each for each in SPOILED if each[0] is not put_lax_mode])
def test_files_that_cannot_be_used_later_change_nothing_and_are_told_once(
    files: TlsFiles, spoil: Callable[[TlsFiles], None], text: str
) -> None:
    lines: list[str] = []
    tls = ServerTls(files, Clock(), lines.append)
    before = tls.context
    spoil(files)
    assert not tls.look()
    assert not tls.look()
    assert tls.context is before
    assert len(lines) == 1
    assert text in lines[0]
    write_pair(issue(AUTHORITY, "demo", "n1", days=50), files.certificate, replace=True)
    assert files.authority is not None
    files.authority.write_bytes(AUTHORITY.certificate)
    tls.look()
    assert tls.context is not before
    assert tls.problem == ""


def test_files_that_have_changed_are_taken_and_another_authority_is_told(files: TlsFiles) -> None:
    tls = ServerTls(files, Clock(), print)
    first = tls.context, tls.ends_at
    assert not tls.look()
    assert (tls.context, tls.ends_at) == first
    write_pair(issue(AUTHORITY, "demo", "n1", days=200), files.certificate, replace=True)
    assert not tls.look()
    assert tls.context is not first[0]
    assert tls.ends_at > first[1]
    assert files.authority is not None
    files.authority.write_bytes(make_authority("others").certificate)
    assert tls.look()


def test_a_certificate_that_ends_is_told_thirty_days_ahead_once_a_day(files: TlsFiles) -> None:
    lines: list[str] = []
    clock = Clock()
    tls = ServerTls(files, clock, lines.append)
    for left, told in ((31.0, 0), (29.5, 1), (29.0, 1), (28.4, 2), (-0.5, 3)):
        clock.now = tls.ends_at - left * DAY_SECONDS
        tls.warn_of_end()
        assert len(lines) == told, left
        assert tls.seconds_left == pytest.approx(left * DAY_SECONDS)
    assert "ends in 29.5 days" in lines[0]
    assert "is over" in lines[2]


def test_paths_count_from_where_the_settings_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = SecuritySettings(enable_tls=True, cert_file="n1.crt", key_file="n1.key", ca_file="ca.crt")
    files = TlsFiles.of(settings)
    assert files == TlsFiles(tmp_path / "n1.crt", tmp_path / "n1.key"), "without enable_mtls nobody is asked"
    assert TlsFiles.of(SecuritySettings()) is None


def certified(tmp_path: Path, name: str, made: Certified) -> tuple[str, str]:
    """The files of a certificate."""
    write_pair(made, tmp_path / f"{name}.crt")
    return str(tmp_path / f"{name}.crt"), str(tmp_path / f"{name}.key")


def test_applications_are_checked_as_the_settings_say(files: TlsFiles, tmp_path: Path) -> None:
    assert client_context(SecuritySettings()) is None, "as usual"
    checking = client_context(SecuritySettings(ca_file=str(files.authority)))
    assert checking is not None
    assert (checking.verify_mode, checking.check_hostname) == (ssl.CERT_REQUIRED, True)
    trusting = client_context(SecuritySettings(ca_file=str(files.authority), skip_verify=True))
    assert trusting is not None
    assert trusting.verify_mode == ssl.CERT_NONE
    cert_file, key_file = certified(tmp_path, "mine", issue(AUTHORITY, "demo", "n2"))
    both = SecuritySettings(
        enable_tls=True, enable_mtls=True, ca_file=str(files.authority), cert_file=cert_file, key_file=key_file
    )
    assert client_context(both) is not None
    with pytest.raises(InvalidConfigError, match="cannot be read"):
        client_context(SecuritySettings(ca_file=str(tmp_path / "none")))
