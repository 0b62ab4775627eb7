"""Members in a configuration: as a list of a call, and with several faults, of which all are told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge_consensus.config.given import ConfigProblemsError
from forge_consensus.config.loading import load_config
from forge_consensus.errors import InvalidConfigError

UNKNOWN = "peers[0].weight: unknown key, a member has id, address, port"
ADDRESSES = "peers: n1: endpoint '127.0.0.1:70001' is not an address of a node"
MORE = "n2: endpoint '127.0.0.2:70002' is not an address of a node"


def test_an_unknown_key_hides_no_wrong_port_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "node_id: n1\n"
        "peers:\n"
        "  - {id: n1, address: 127.0.0.1, port: 70001, weight: 5}\n"
        "  - {id: n2, address: 127.0.0.2, port: 70002}\n"
    )
    with pytest.raises(ConfigProblemsError) as raised:
        load_config(file, environment={})
    addresses, member = raised.value.problems
    assert addresses.startswith(f"{file}:2:1 {ADDRESSES}")
    assert MORE in addresses
    assert member == f"{file}:3:47 {UNKNOWN}"


def test_an_unknown_key_hides_no_wrong_port_in_a_call() -> None:
    members = [
        {"id": "n1", "address": "127.0.0.1", "port": 70001, "weight": 5},
        {"id": "n2", "address": "127.0.0.2", "port": 70002},
    ]
    with pytest.raises(ConfigProblemsError) as raised:
        load_config(environment={}, node_id="n1", peers=members)
    member, addresses = raised.value.problems
    assert member == f"argument {UNKNOWN}"
    assert addresses.startswith(f"argument peers {ADDRESSES}")
    assert MORE in addresses


def test_the_members_may_be_listed_by_an_argument_as_in_a_file() -> None:
    listed = [
        {"id": "n1", "address": "10.0.0.1", "port": 7001},
        {"id": "n2", "address": "::1", "port": "7002"},
        "n3=h:7",
    ]
    found = load_config(node_id="n1", peers=listed)
    assert found.node.peers == {"n1": "10.0.0.1:7001", "n2": "[::1]:7002", "n3": "h:7"}
    assert found.node.bind == "10.0.0.1:7001"


@pytest.mark.parametrize(
    ("member", "fault"),
    [
        ("h:7", r"peers\[1\] is 'h:7': a member is a map with id, address and port"),
        (7, r"peers\[1\] is 7: a member is a map"),
        ({"id": "n2"}, r"peers\[1\]\.address: it is missing"),
        ({"id": "n2", "address": "h", "prot": 7}, r"peers\[1\]\.prot: unknown key"),
        ({"id": "n1", "address": "h", "port": 7}, r"peers\[1\]: node 'n1' is twice"),
        ({"id": "n2", "address": "h:8", "port": 7}, r"peers\[1\]\.address: 'h:8' is no host"),
        ({"id": "n2", "address": "h", "port": "x"}, "n2"),
        ({"id": ["n2"], "address": {"h": 1}}, "argument peers"),
    ],
)
def test_a_fault_in_that_list_is_told_with_its_place(member: object, fault: str) -> None:
    with pytest.raises(InvalidConfigError, match=fault):
        load_config(node_id="n1", peers=[{"id": "n1", "address": "10.0.0.1", "port": 7001}, member])
