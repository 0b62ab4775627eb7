"""Where a node listens: HOST:PORT or the path of a socket, checked before ZeroMQ sees it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from forge_consensus.actors.transport.endpoint import check_free, claim_path, events_endpoint, path_of, url_of
from forge_consensus.client.endpoints import parse_endpoints
from forge_consensus.config.address import bind_address, parse_endpoint
from forge_consensus.errors import InvalidConfigError, TransportUnavailableError


def test_an_address_is_a_zeromq_endpoint() -> None:
    assert url_of("127.0.0.1:7001") == "tcp://127.0.0.1:7001"
    assert url_of("ipc:///run/n1") == "ipc:///run/n1"
    assert (path_of("127.0.0.1:7001"), path_of("ipc:///run/n1")) == (None, "/run/n1")
    assert (events_endpoint("[::1]:7001"), events_endpoint("ipc:///run/n1")) == ("[::1]:0", "ipc:///run/n1.events")


def test_paths_are_endpoints_too() -> None:
    assert parse_endpoints("127.0.0.1:7001, ipc:///run/n2") == ["127.0.0.1:7001", "ipc:///run/n2"]
    bind_address("ipc:///run/n1:0")  # a path that ends so, and no free port


@pytest.mark.parametrize(
    "address", ["ipc://", "ipc://run/n1", "ipc:///run/", "ipc:///a,b", "ipc:///a\0b", "ipc://@name"]
)
def test_an_invalid_socket_path_is_refused(address: str) -> None:
    with pytest.raises(InvalidConfigError, match=r"no address of a node: behind ipc:// stands the whole path"):
        parse_endpoint(address)


def test_a_path_that_no_socket_can_have_is_refused_with_the_limit() -> None:
    whole = f"ipc:///{'p' * 106}"
    assert parse_endpoint(whole) == whole
    with pytest.raises(InvalidConfigError, match=r"a path of 108 bytes and a socket's may have 107: choose a shorter"):
        parse_endpoint(whole + "p")
    with pytest.raises(InvalidConfigError, match=r"a path of 108 bytes"):
        parse_endpoint(f"ipc:///{'p' * 105}é")
    bind_address(f"ipc:///{'p' * 99}")
    with pytest.raises(InvalidConfigError, match=r"a path of 101 bytes and a socket's may have 100"):
        bind_address(f"ipc:///{'p' * 100}")  # its events are published beside it


def test_a_path_in_use_is_not_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    claim_path(str(path))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        with pytest.raises(TransportUnavailableError, match="is in use by another program"):
            claim_path(str(path))
    claim_path(str(path))  # what a killed process leaves behind
    assert path.exists()
    path.unlink()
    path.write_text("precious")
    with pytest.raises(InvalidConfigError, match="is a file and no socket"):
        claim_path(str(path))
    assert path.read_text() == "precious"


def test_a_path_in_a_folder_that_cannot_be_used_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    places = {"no/n1": "No such file or directory", "file/n1": "Not a directory"}
    for place, reason in places.items():
        told = f"cannot listen on ipc://{tmp_path}/{place}: {reason}: choose .* a folder that exists and where"
        with pytest.raises(TransportUnavailableError, match=told):
            check_free(f"ipc://{tmp_path}/{place}")


def test_a_path_in_a_folder_without_the_right_to_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda folder, mode: False)  # root may write everywhere
        for name in ("n1", "left"):
            with pytest.raises(TransportUnavailableError, match=r"events: .*Permission denied.* this user may write"):
                check_free(f"ipc://{tmp_path}/{name}", "events: ")
    for name in ("n1", "left"):
        check_free(f"ipc://{tmp_path}/{name}")


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "127.0.0.1:²", "127.0.0.1:", "no-such-name:7001", "[::zz]:7"])
def test_what_is_no_free_port_for_another_reason_is_left_to_the_real_attempt(address: str) -> None:
    check_free(address)
