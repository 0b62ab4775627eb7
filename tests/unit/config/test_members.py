"""Members in a configuration that have several faults: all of them are told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from forge_consensus.config.given import ConfigProblemsError
from forge_consensus.config.loading import load_config

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
