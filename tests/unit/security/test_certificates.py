"""Certificates: an authority, what it issues and renews, what a node reads from one, and the commands for all that."""

from __future__ import annotations

import json
import ssl
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from forge_consensus.cli.main import cli
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security import certificates
from forge_consensus.security.certificates import Certified, facts_of, issue, make_authority, renewed
from forge_consensus.security.x509_names import PeerCertificate, ends_at, named_by, uri_of


@pytest.fixture(scope="module")
def authority() -> Certified:
    """An authority that lasts for 400 days."""
    return make_authority("tests", 400)


def run(*arguments: str, code: int = 0) -> Result:
    """The result of a command, which must end with that code."""
    found = CliRunner().invoke(cli, ["cert", *arguments])
    assert found.exit_code == code, found.output
    return found


def mode(path: Path) -> int:
    """The mode of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def handshake(contexts: list[ssl.SSLContext], name: str) -> dict[str, Any]:
    """What the server is told of the client's certificate after a handshake in memory. Raises `ssl.SSLError`."""
    server, client = contexts
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return dict(ends[1].getpeercert() or {})


def contexts(tmp_path: Path, authority: Certified, server: Certified, client: Certified) -> list[ssl.SSLContext]:
    """The contexts of a server that asks for certificates, and of a client."""
    found = []
    (tmp_path / "ca").write_bytes(authority.certificate)
    for purpose, pair in ((ssl.PROTOCOL_TLS_SERVER, server), (ssl.PROTOCOL_TLS_CLIENT, client)):
        place = tmp_path / "pair"
        place.write_bytes(pair.key + pair.certificate)
        context = ssl.SSLContext(purpose)
        context.load_cert_chain(place)
        context.load_verify_locations(tmp_path / "ca")
        context.verify_mode = ssl.CERT_REQUIRED
        found.append(context)
    return found


def test_two_ends_that_know_the_authority_trust_each_other(tmp_path: Path, authority: Certified) -> None:
    node = issue(authority, "demo", "n1", ["node.lan"])
    shop = issue(authority, "demo", "shop", (), client_only=True)
    told = handshake(contexts(tmp_path, authority, node, shop), "node.lan")
    peer = PeerCertificate.of(told)
    assert peer is not None
    assert peer.name_in("demo", time.time()) == "shop"


def test_a_clients_certificate_makes_no_server(tmp_path: Path, authority: Certified) -> None:
    shop = issue(authority, "demo", "shop", ["node.lan"], client_only=True)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(contexts(tmp_path, authority, shop, shop), "node.lan")


def test_another_authoritys_certificate_is_refused(tmp_path: Path, authority: Certified) -> None:
    node = issue(authority, "demo", "n1", ["node.lan"])
    stranger = issue(make_authority("tests"), "demo", "n1")
    with pytest.raises(ssl.SSLError):
        handshake(contexts(tmp_path, authority, node, stranger), "node.lan")


def test_what_is_issued_says_what_was_asked_for(authority: Certified) -> None:
    made = issue(authority, "my cluster", "n/1", ["10.0.0.1", "::1", "[fd00::1]", "*.lan"], 30)
    facts = facts_of(made.certificate)
    assert facts.uris == ("forge-consensus://my%20cluster/n%2F1",)
    assert set(facts.hosts) == {"10.0.0.1", "::1", "fd00::1", "*.lan"}
    assert 29.9 < facts.days_left(datetime.now(UTC)) <= 30
    assert facts.begins < datetime.now(UTC) - timedelta(minutes=59), "the clock of another machine may be behind"
    assert (facts.is_authority, facts_of(authority.certificate).is_authority) == (False, True)
    assert "PRIVATE" not in repr(made)


def test_a_name_that_is_too_long_for_a_subject_stands_in_the_uri_only(authority: Certified) -> None:
    facts = facts_of(issue(authority, "demo", "n" * 128).certificate)
    assert (facts.subject, facts.uris) == ("", (uri_of("demo", "n" * 128),))


def test_a_renewed_certificate_has_the_names_and_the_time_of_the_last_one(authority: Certified) -> None:
    first = issue(authority, "demo", "n1", ["node.lan"], 30)
    for key in (first.key, None):
        second = renewed(authority, first.certificate, key)
        assert (second.key == first.key) == (key is not None)
        before, after = facts_of(first.certificate), facts_of(second.certificate)
        assert (before.hosts, before.uris, before.subject) == (after.hosts, after.uris, after.subject)
        assert before.serial != after.serial
        assert 29.9 < after.days_left(datetime.now(UTC)) < 30.1


def test_a_renewed_certificate_is_for_servers_only_if_the_last_one_was(tmp_path: Path, authority: Certified) -> None:
    shop = issue(authority, "demo", "shop", ["node.lan"], client_only=True)
    again = renewed(authority, shop.certificate, shop.key)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(contexts(tmp_path, authority, again, again), "node.lan")


def test_what_cannot_be_issued_is_told(authority: Certified) -> None:
    node = issue(authority, "demo", "n1")
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: issue(authority, "demo", "n1", days=0), "cannot last 0 days"),
        (lambda: issue(authority, "demo", "n1", days=500), "would outlast its authority"),
        (lambda: issue(authority, "demo", "n1", ["n1.lan:7001"]), "neither a host name nor an IP address"),
        (lambda: issue(authority, "demo", "n1", ["1.2.3.400"]), "neither a host name nor an IP address"),
        (lambda: issue(node, "demo", "n2"), "this is no authority"),
        (lambda: issue(Certified(authority.certificate, node.key), "demo", "n2"), "this is no authority"),
        (lambda: renewed(make_authority("x"), node.certificate), "was not issued by this authority"),
        (lambda: renewed(authority, node.certificate, authority.key), "the key is not that of the certificate"),
        (lambda: renewed(authority, b"nothing"), "no certificate in PEM"),
        (lambda: issue(Certified(authority.certificate, b"secret-part"), "demo", "n2"), "no private key in PEM"),
        (lambda: make_authority(""), "no name of an authority"),
    ]
    for call, text in calls:
        with pytest.raises(InvalidConfigError, match=text) as told:
            call()
        assert "secret-part" not in str(told.value)


def test_without_its_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, certificates.__name__)
    for module in ("forge_consensus.cli.cert", "forge_consensus.security.certificate_files"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    assert "forge-consensus[crypto]" in run("show", "none", code=78).stderr


# --- what a node reads -----------------------------------------------------------------------------------------------


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_uri_names_what_it_was_made_of(cluster: str, name: str) -> None:
    try:
        uri = uri_of(cluster, name)
    except UnicodeEncodeError:  # half of a surrogate pair, which is no name either
        return
    assert uri.isascii()
    assert named_by(uri) == (cluster, name)


@pytest.mark.parametrize(
    "uri",
    ["http://demo/n1", "forge-consensus://demo", "forge-consensus:demo/n1", "forge-consensus://demo/n1/x",
     "forge-consensus:///n1", "forge-consensus://demo/", "forge-consensus://demo/n1?x", "forge-consensus://[/n1"],
)  # fmt: skip
def test_other_uris_name_nobody(uri: str) -> None:
    assert named_by(uri) is None


NOW = 1_900_000_000.0
LATER = "Jan  1 00:00:00 2040 GMT"


def peer(common_name: str, *uris: str, until: str = LATER) -> PeerCertificate:
    """A certificate as TLS tells it."""
    names = tuple(("URI", uri) for uri in uris)
    told = {"subject": ((("commonName", common_name),),), "subjectAltName": names, "notAfter": until}
    found = PeerCertificate.of(told)
    assert found is not None
    return found


def test_the_uri_of_the_cluster_counts_and_the_common_name_only_without_one() -> None:
    assert peer("admin").name_in("demo", NOW) == "admin"
    assert peer("admin", "spiffe://x/y").name_in("demo", NOW) == "admin"
    assert peer("admin", uri_of("demo", "shop")).name_in("demo", NOW) == "shop"
    assert peer("admin", uri_of("demo", "shop")).name_in("demo~0123456789ab", NOW) == "shop", "it was made anew"
    assert peer("admin", uri_of("other", "shop")).name_in("demo", NOW) is None
    assert peer("admin", "forge-consensus://demo/a/b").name_in("demo", NOW) is None
    assert peer("admin", uri_of("demo", "a"), uri_of("demo", "b")).name_in("demo", NOW) is None
    assert peer("").name_in("demo", NOW) is None
    assert PeerCertificate.of({}) is None


def test_a_certificate_that_is_over_names_nobody_also_on_a_connection_that_began_before() -> None:
    found = peer("admin", until="Jan  1 00:00:00 2030 GMT")
    assert found.name_in("demo", found.ends_at - 1) == "admin"
    assert found.name_in("demo", found.ends_at) is None


def test_the_end_of_a_certificate_is_read_without_a_library(authority: Certified) -> None:
    far = make_authority("tests", 20_000)  # beyond 2049 the time has four digits for the year
    for made in (authority, far):
        wanted = facts_of(made.certificate).ends.timestamp()
        assert ends_at(f"text before\n{made.certificate.decode()}", "it") == wanted
    for text in ("", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"):
        with pytest.raises(InvalidConfigError, match="it is no certificate in PEM"):
            ends_at(text, "it")


@given(st.data())
def test_a_damaged_certificate_is_an_error_or_has_some_end(data: st.DataObject) -> None:
    body = ssl.PEM_cert_to_DER_cert(CERTIFICATE.decode())
    at = data.draw(st.integers(0, len(body) - 1))
    damaged = body[:at] + data.draw(st.binary(max_size=4)) + body[at + data.draw(st.integers(0, 4)) :]
    with suppress(InvalidConfigError):
        ends_at(ssl.DER_cert_to_PEM_cert(damaged), "it")


CERTIFICATE = make_authority("damaged").certificate

# --- the commands ----------------------------------------------------------------------------------------------------


def test_the_commands_write_files_that_only_the_owner_reads(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    run("init-ca", "--dir", str(folder))
    run("issue", "n1", "--dir", str(folder), "--cluster", "demo", "--host", "n1.lan")
    run("issue", "shop", "--dir", str(folder), "--client", "--file", str(tmp_path / "mine.crt"))
    assert mode(folder) == 0o700
    for place in (folder / "ca", folder / "n1", tmp_path / "mine"):
        assert (mode(place.with_suffix(".crt")), mode(place.with_suffix(".key"))) == (0o644, 0o600)
    assert sorted(path.name for path in folder.iterdir()) == ["ca.crt", "ca.key", "n1.crt", "n1.key"]
    shown = json.loads(run("show", str(folder / "n1.crt"), "-o", "json").stdout)[0]
    assert (shown["uris"], shown["hosts"]) == ([uri_of("demo", "n1")], ["n1.lan"])
    assert 364 < shown["days_left"] <= 365
    assert "days left" in run("show", str(tmp_path / "mine.crt")).stdout


def test_nothing_is_overwritten_unless_it_is_asked_for(tmp_path: Path) -> None:
    run("init-ca", "--dir", str(tmp_path))
    run("issue", "n1", "--dir", str(tmp_path))
    before = (tmp_path / "n1.crt").read_bytes(), (tmp_path / "ca.key").read_bytes()
    assert "--force" in run("issue", "n1", "--dir", str(tmp_path), code=78).stderr
    run("init-ca", "--dir", str(tmp_path), code=78)
    assert before == ((tmp_path / "n1.crt").read_bytes(), (tmp_path / "ca.key").read_bytes())
    run("issue", "n1", "--dir", str(tmp_path), "--force")
    assert before[0] != (tmp_path / "n1.crt").read_bytes()


def test_renewing_keeps_the_key_unless_a_new_one_is_asked_for(tmp_path: Path) -> None:
    run("init-ca", "--dir", str(tmp_path))
    run("issue", "n1", "--dir", str(tmp_path), "--days", "10")
    key = (tmp_path / "n1.key").read_bytes()
    run("renew", str(tmp_path / "n1.crt"), "--dir", str(tmp_path), "--days", "20")
    assert (tmp_path / "n1.key").read_bytes() == key
    run("renew", str(tmp_path / "n1.crt"), "--dir", str(tmp_path), "--new-key")
    assert (tmp_path / "n1.key").read_bytes() != key
    assert mode(tmp_path / "n1.key") == 0o600
    assert 19 < facts_of((tmp_path / "n1.crt").read_bytes()).days_left(datetime.now(UTC)) < 21
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "n1.crt", tmp_path / "n1.key")  # raises if they do not fit


def test_a_certificate_that_is_over_is_told_and_ends_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("init-ca", "--dir", str(tmp_path))
    monkeypatch.setattr(certificates, "checked_end", lambda days: datetime.now(UTC) - timedelta(minutes=days))
    run("issue", "n1", "--dir", str(tmp_path), "--days", "1")
    assert "it is over since" in run("show", str(tmp_path / "n1.crt"), code=1).stdout
    run("show", str(tmp_path / "ca.crt"), str(tmp_path / "n1.crt"), code=1)


def test_what_the_commands_cannot_do_is_told_in_one_line(tmp_path: Path) -> None:
    place = str(tmp_path)
    assert "cert init-ca" in run("issue", "n1", "--dir", place, code=78).stderr
    run("init-ca", "--dir", place)
    assert "neither" in run("issue", "n1", "--dir", place, "--host", "a b", code=78).stderr
    assert "cannot be the name of a file" in run("issue", "../n1", "--dir", place, code=78).stderr
    assert "printable" in run("issue", "n\n1", "--dir", place, code=78).stderr
    assert "file of the authority" in run("issue", "ca", "--dir", place, code=78).stderr
    assert "reached nowhere" in run("issue", "n1", "--dir", place, "--client", "--host", "x", code=2).stderr
    assert "no certificate" in run("show", str(tmp_path / "ca.key"), code=78).stderr
    assert "cannot be read" in run("show", str(tmp_path / "none"), code=78).stderr
    (tmp_path / "ca.key").chmod(0o640)
    assert "mode 0640" in run("issue", "n1", "--dir", place, code=78).stderr
    missing = tmp_path / "none" / "n1.crt"
    (tmp_path / "ca.key").chmod(0o600)
    assert "there is no folder" in run("issue", "n1", "--dir", place, "--file", str(missing), code=66).stderr
