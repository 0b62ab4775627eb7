"""The entrance over TLS of a real server: who gets in, how half-open connections are bounded, and new certificates."""

from __future__ import annotations

import contextlib
import gc
import http.client
import socket
import ssl
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge_consensus.admin import entrance
from forge_consensus.admin.admission import Admission
from forge_consensus.admin.entrance import SmallTls
from forge_consensus.admin.server import AdminServer
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.certificates import Certified, facts_of, issue, make_authority
from forge_consensus.security.tls import TlsFiles
from tests.worlds.certified import CLUSTER, CertifiedFolder
from tests.worlds.service_world import eventually


@pytest.fixture
def folder(tmp_path: Path) -> CertifiedFolder:
    """Certificates."""
    return CertifiedFolder(tmp_path)


def server_of(folder: CertifiedFolder, *, mtls: bool = False) -> AdminServer:
    """A server without a node."""
    files = TlsFiles(folder.folder / "n1.crt", folder.folder / "n1.key", folder.ca_file if mtls else None)
    made = AdminServer("127.0.0.1:0", "/consensus", tls=files)
    made.start()
    return made


@pytest.fixture
def server(folder: CertifiedFolder) -> Iterator[AdminServer]:
    """A server that asks for no certificates."""
    made = server_of(folder)
    yield made
    made.close()


def raw(server: AdminServer) -> socket.socket:
    """A plain connection."""
    host, _, port = server.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def secured(server: AdminServer, folder: CertifiedFolder, shows: Certified | None = None) -> ssl.SSLSocket:
    """A connection over TLS."""
    return folder.trusting(shows).wrap_socket(raw(server), server_hostname="localhost")


def live(server: AdminServer, folder: CertifiedFolder, shows: Certified | None = None) -> int:
    """The status of a probe; 0 if the connection is refused."""
    host, _, port = server.address.rpartition(":")
    web = http.client.HTTPSConnection(host, int(port), timeout=5, context=folder.trusting(shows))
    try:
        web.request("GET", "/livez")
        return web.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        web.close()


def is_closed(connection: socket.socket) -> bool:
    """Whether the other end closes the connection, without a byte of HTTP."""
    try:
        return not connection.recv(1000).startswith(b"HTTP")
    except ConnectionError:
        return True


def is_answered(connection: socket.socket, context: ssl.SSLContext, session: ssl.SSLSession | None) -> bool:
    """Whether a request is answered on a connection that resumes a session; TLS 1.3 refuses after the handshake."""
    try:
        with context.wrap_socket(connection, server_hostname="localhost", session=session) as made:
            made.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            return made.recv(100).startswith(b"HTTP/1.1 200 OK")
    except OSError:
        return False


def test_a_request_right_behind_the_handshake_is_answered(server: AdminServer, folder: CertifiedFolder) -> None:
    for _ in range(20):
        with secured(server, folder) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 200 OK")
    assert server.pending == {}


def test_plain_http_and_old_tls_get_nothing(server: AdminServer, folder: CertifiedFolder) -> None:
    with raw(server) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert is_closed(connection)
    context = folder.trusting()
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with raw(server) as connection, pytest.raises(OSError):
        context.wrap_socket(connection, server_hostname="localhost")
    eventually(lambda: sum(server.refusals.counts.values()) >= 2)
    with secured(server, folder) as connection:
        assert connection.version() == "TLSv1.3"


def test_connections_that_begin_nothing_are_bounded_and_others_get_in(
    server: AdminServer, folder: CertifiedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "HANDSHAKES_MAX", 20)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(raw(server)) for _ in range(60)]
        eventually(lambda: len(server.pending) == 20)
        assert is_closed(held[0]), "the one that has taken longest"
        assert live(server, folder) == 200
        assert len(server.pending) <= 20
    eventually(lambda: server.pending == {})


def test_connections_that_did_not_get_in_leave_nothing_in_memory(
    server: AdminServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def present() -> int:
        return sum(type(each) is SmallTls for each in gc.get_objects())

    monkeypatch.setattr(entrance, "HANDSHAKES_MAX", 20)
    gc.collect()
    before = present()
    gc.disable()  # it would find them, but not soon enough
    try:
        with contextlib.ExitStack() as stack:
            for begin in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
                for _ in range(100):
                    stack.enter_context(raw(server)).sendall(begin)
            eventually(lambda: present() - before <= 20)
    finally:
        gc.enable()


def test_a_handshake_that_takes_too_long_is_given_up(
    server: AdminServer, folder: CertifiedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "HANDSHAKE_SECONDS", 0.3)
    with raw(server) as connection:
        connection.sendall(b"\x16\x03\x01")
        assert is_closed(connection)
    eventually(lambda: server.pending == {})


def test_who_connects_must_show_a_certificate_if_the_server_asks_for_one(folder: CertifiedFolder) -> None:
    server = server_of(folder, mtls=True)
    try:
        assert live(server, folder) == 0
        assert live(server, folder, folder.issued("x", by=make_authority("others"))) == 0
        assert live(server, folder, folder.issued("x", ended=True)) == 0
        assert live(server, folder, folder.issued("x")) == 200
        told = sorted(server.refusals.counts)
        eventually(lambda: len(server.refusals.counts) == 3)
        assert any("certificate has expired" in text for text in server.refusals.counts), told
    finally:
        server.close()


def serial_of(server: AdminServer, folder: CertifiedFolder) -> str:
    """The serial number of the certificate that the server shows."""
    with secured(server, folder) as connection:
        found = connection.getpeercert(binary_form=True)
    assert found is not None
    return facts_of(ssl.DER_cert_to_PEM_cert(found).encode()).serial


def test_a_new_certificate_is_shown_without_a_restart_and_no_connection_is_lost(
    server: AdminServer, folder: CertifiedFolder
) -> None:
    held = secured(server, folder)
    before = serial_of(server, folder)
    folder.write("n1", folder.issued("n1"))  # with another key
    eventually(lambda: serial_of(server, folder) != before)
    with held:
        held.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert held.recv(100).startswith(b"HTTP/1.1 200 OK")
    (folder.folder / "n1.crt").write_text("nothing")
    time.sleep(1.5)
    assert live(server, folder) == 200, "what cannot be used changes nothing"


def test_another_authority_ends_the_connections_that_the_last_one_vouched_for(folder: CertifiedFolder) -> None:
    server = server_of(folder, mtls=True)
    try:
        mine = folder.issued("x")
        with secured(server, folder, mine) as held:
            held.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert held.recv(1000).startswith(b"HTTP/1.1 200 OK")
            folder.ca_file.write_bytes(make_authority("others").certificate)
            assert is_closed(held)
        assert live(server, folder, mine) == 0
    finally:
        server.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed_past_another_authority(folder: CertifiedFolder, version: ssl.TLSVersion) -> None:
    server = server_of(folder, mtls=True)
    try:
        context = folder.trusting(folder.issued("x"))
        context.maximum_version = version
        with context.wrap_socket(raw(server), server_hostname="localhost") as first:
            session = first.session
        with raw(server) as again:
            assert is_answered(again, context, session)
        folder.ca_file.write_bytes(make_authority("others").certificate)
        eventually(lambda: live(server, folder, folder.issued("x")) == 0)
        with raw(server) as again:
            assert not is_answered(again, context, session)
    finally:
        server.close()


@pytest.mark.parametrize("admission", [True, False])
@pytest.mark.parametrize("tls", [True, False])
def test_an_address_that_others_reach_takes_both_tls_and_tokens(
    folder: CertifiedFolder, admission: bool, tls: bool
) -> None:
    admits = Admission(CLUSTER, None, folder.access_file) if admission else None
    files = TlsFiles(folder.folder / "n1.crt", folder.folder / "n1.key") if tls else None
    if admission and tls:
        AdminServer("0.0.0.0:0", "/consensus", admission=admits, tls=files).close()
        return
    with pytest.raises(InvalidConfigError, match="--insecure"):
        AdminServer("0.0.0.0:0", "/consensus", admission=admits, tls=files)
    AdminServer("0.0.0.0:0", "/consensus", insecure=True, admission=admits, tls=files).close()


def test_files_that_cannot_be_used_are_refused_before_an_address_is_taken(folder: CertifiedFolder) -> None:
    (folder.folder / "n1.key").chmod(0o644)
    with pytest.raises(InvalidConfigError, match="mode 0644"):
        server_of(folder)
    assert issue(folder.authority, CLUSTER, "x")
