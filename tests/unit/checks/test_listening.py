"""Whether an address is free, and who has it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from forge_consensus.checks.data_folder import Lock
from forge_consensus.checks.doctor import address_findings, addresses_of
from forge_consensus.checks.listening import Holder, holder_of, look_at
from forge_consensus.config.node import NodeSettings
from tests.worlds.cli_world import dead_address


def test_a_free_port_stays_free() -> None:
    address = dead_address()
    assert look_at(address) == look_at(address) == (True, "", False, None)
    assert look_at("127.0.0.1:0").is_free


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_who_listens_at_a_port_is_found(host: str) -> None:
    with socket.socket() as taken:
        taken.bind((host, 0))
        taken.listen()
        seen = look_at(f"127.0.0.1:{taken.getsockname()[1]}")
    assert (seen.is_free, seen.in_use) == (False, True)
    assert seen.holder is not None
    assert seen.holder.pid == os.getpid()
    assert seen.holder.text.startswith(f"process {os.getpid()} (")


def test_who_listens_at_a_path_is_found(tmp_path: Path) -> None:
    path = tmp_path / "n1"
    address = f"ipc://{path}"
    assert look_at(address).is_free
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(path))
        taken.listen()
        seen = look_at(address)
    assert seen.in_use
    assert seen.holder is not None
    assert seen.holder.pid == os.getpid()
    assert look_at(address).is_free, "what a killed node leaves is taken over"
    path.unlink()
    path.write_text("")
    assert (look_at(address).is_free, look_at(address).in_use) == (False, False)
    assert look_at(f"ipc://{tmp_path}/missing/n1").is_free is False


def test_what_is_no_address_of_this_host_is_not_free() -> None:
    seen = look_at("192.0.2.1:7001")
    assert (seen.is_free, seen.in_use, seen.holder) == (False, False, None)
    assert look_at("node.example:7001").is_free is None
    assert holder_of("127.0.0.1:1") is None


def test_the_addresses_of_a_node_are_those_that_it_takes() -> None:
    node = NodeSettings("n1", bind="127.0.0.1:7001", metrics="127.0.0.1:9100")
    assert addresses_of(node) == [("bind", "127.0.0.1:7001"), ("metrics", "127.0.0.1:9100")]
    fixed = NodeSettings("n1", bind="ipc:///run/n1", events_bind="127.0.0.1:0")
    assert addresses_of(fixed) == [("bind", "ipc:///run/n1")]
    beside = NodeSettings("n1", bind="ipc:///run/n1")
    assert addresses_of(beside) == [("bind", "ipc:///run/n1"), ("events_bind", "ipc:///run/n1.events")]


def test_a_taken_address_is_well_only_if_the_node_of_the_folder_has_it() -> None:
    free, own = dead_address(), Holder(os.getpid(), "python")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (other,) = address_findings([("bind", address)], Lock(False))
        (foreign,) = address_findings([("bind", address)], Lock(True, Holder(1, "init")))
        seen = look_at(address).holder
        (node,) = address_findings([("bind", address)], Lock(True, seen))
        (unknown,) = address_findings([("bind", address)], Lock(True))
    assert other.text.startswith(f"bind {address} is taken by process {own.pid} (")
    assert [each.level for each in (other, foreign, node, unknown)] == ["problem", "problem", "ok", "ok"]
    found = address_findings(
        [("bind", free), ("metrics", "node.example:1"), ("events_bind", "192.0.2.1:1")], Lock(False)
    )
    assert [each.level for each in found] == ["ok", "problem", "ok"]
    assert found[-1].text == f"{free} can be taken"
