"""A service refuses wrong settings, and each error names the fault and a right value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.node import NodeSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import InvalidConfigError
from forge_consensus.service.consensus import ConsensusService
from forge_consensus.service.machines import MachineChoice
from forge_consensus.storage.machines.kv import KeyValueMachine

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"node_id": "a b/c"}, "node_id is 'a b/c': .* without spaces"),
    ({"node_id": "a=b"}, "equals signs"),
    ({"node_id": "a,b"}, "commas"),
    ({"peers": {"n1": "127.0.0.1:1", "n2": "127.0.0.1:1"}}, "n1 and n2 share the address 127.0.0.1:1"),
    ({"peers": {"n1": "0.0.0.0:1"}}, "nobody can connect to it"),
    ({"node_id": 1}, "node_id is 1"),
    ({"cluster_id": b"x"}, "cluster_id is b'x'"),
    ({"peers": ["127.0.0.1:7001"]}, "peers is"),
    ({"peers": {1: "127.0.0.1:7001", "n1": "127.0.0.1:7002"}}, "1 cannot be a node's id"),
    ({"bind": 7001}, "7001 is not an address"),
    ({"bind": "127.0.0.1:99999"}, "1 to 65535"),  # ZeroMQ would listen at 34463
    ({"bind": "127.0.0.1:-5"}, "1 to 65535"),
    ({"bind": "nonsense:more:0"}, "host:port"),
    ({"storage_path": None}, "storage_path is None"),
    ({"storage_path": ""}, "storage_path is ''"),
    ({"metrics": 9100}, "metrics is 9100"),
    ({"events_bind": 7101}, "events_bind is 7101"),
    ({"events_bind": "7101"}, "events_bind: endpoint '7101' is not an address"),
    ({"events_bind": "127.0.0.1:70000"}, "events_bind: .*1 to 65535"),
    (
        {"bind": "127.0.0.1:7001", "events_bind": "tcp://127.0.0.1:7001"},
        "bind and events_bind are both 127.0.0.1:7001: give the events a port of their own",
    ),
    ({"metrics": "127.0.0.1:7001", "events_bind": "127.0.0.1:7001"}, "metrics and events_bind are both"),
    (
        {"bind": "tcp://127.0.0.1:7001", "metrics": "127.0.0.1:7001"},
        "bind and metrics are both 127.0.0.1:7001: give the metrics a port of their own",
    ),
    (
        {"bind": "0.0.0.0:7001", "metrics": "127.0.0.1:7001"},
        "bind and metrics are 0.0.0.0:7001 and 127.0.0.1:7001, and one stands for all",
    ),
    ({"bind": "10.1.2.3:7001", "events_bind": "[::]:7001"}, "all addresses of its host: give the events a port of"),
    ({"bind": "ipc:///run/n1", "events_bind": "ipc:///run/n1"}, "are both ipc:///run/n1: give the events a path of"),
    ({"lease_reads": 1}, "lease_reads is 1"),
    *[
        ({"http_url": url}, "http_url is")
        for url in (
            8000,
            "",
            "one:8000",
            "ftp://one",
            "http://",
            "http://one:0",
            "http://one:99999",
            "http://[::1",
            "http://a b",
            "http://me:secret@one",
            "http://one/?a=b",
            "http://one/#a",
            "http://eins-ä",
            f"http://{'a' * 256}",
        )
    ],
]


@pytest.mark.parametrize(("wrong", "part"), WRONG)
def test_wrong_settings_are_refused(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidConfigError, match=part):
        NodeSettings(**{"node_id": "n1", **wrong})
    with pytest.raises(InvalidConfigError, match=part):
        ConsensusService(**{"node_id": "n1", **wrong})


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"timeout": "5"}, "timeout is '5'"),
        ({"timeout": float("inf")}, "timeout is inf"),
        ({"raft": {"heartbeat_interval": 1}}, r"config\.raft\.RaftSettings\(\.\.\.\)"),
        ({"client": {}}, r"config\.client\.ClientSettings\(\.\.\.\)"),
        ({"storage": 5}, r"config\.storage\.StorageSettings\(\.\.\.\)"),
    ],
)
def test_a_service_refuses_wrong_arguments_of_its_own(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidConfigError, match=part):
        ConsensusService("n1", **wrong)


@pytest.mark.parametrize("bind", ["127.0.0.1:0", "[::1]:0", "localhost:7001", "0.0.0.0:10"])
def test_addresses_to_listen_on(bind: str) -> None:
    assert NodeSettings("n1", bind=bind).bind == bind


@pytest.mark.parametrize(
    "places",
    [
        {"bind": "127.0.0.1:0", "metrics": "127.0.0.1:0", "events_bind": "127.0.0.1:0"},
        {"bind": "127.0.0.1:7001", "metrics": "127.0.0.2:7001"},
        {"bind": "0.0.0.0:7001", "metrics": "0.0.0.0:7002", "events_bind": "[::1]:7001"},
        {"bind": "ipc:///run/n1", "events_bind": "ipc:///run/n2", "metrics": "0.0.0.0:9100"},
    ],
)
def test_addresses_that_are_places_of_their_own_are_taken(places: dict[str, Any]) -> None:
    NodeSettings("n1", **places)


@pytest.mark.parametrize("url", ["http://one:8000", "https://one/app/", "http://[::1]:80"])
def test_where_an_application_answers_is_kept_without_a_slash_at_its_end(url: str) -> None:
    assert NodeSettings("n1", http_url=url).http_url == url.rstrip("/")


def test_addresses_are_kept_in_one_spelling() -> None:
    settings = NodeSettings(
        "n1", bind="tcp://127.0.0.1:0", peers={"n1": "tcp://127.0.0.1:7001", "n2": " 127.0.0.1:7002"}
    )
    assert settings.peers == {"n1": "127.0.0.1:7001", "n2": "127.0.0.1:7002"}
    assert settings.bind == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"quota_bytes": -1}, "quota_bytes is -1"),
        ({"map_bytes": 1 << 70}, "map_bytes is"),
        ({"map_bytes": "1G"}, "'1G'"),
    ],
)
def test_a_wrong_size_of_the_store_is_refused(wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidConfigError, match=part):
        StorageSettings(**wrong)


def test_the_representation_of_a_service_names_its_node_and_cluster(tmp_path: Path) -> None:
    service = ConsensusService("n1", "c", "127.0.0.1:0", storage_path=tmp_path)
    assert repr(service) == "<ConsensusService n1 of cluster c, thread, not started>"
    with service:
        assert repr(service) == f"<ConsensusService n1 of cluster c, thread, running at {service.address}>"


@pytest.mark.parametrize(("text", "raised"), [("class X(:", "SyntaxError"), ("1 / 0", "ZeroDivisionError")])
def test_a_machine_whose_module_raises_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, raised: str
) -> None:
    (tmp_path / "broken_machine.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InvalidConfigError, match=f"its module raised {raised}"):
        MachineChoice("broken_machine:X")


def test_a_machine_that_exits_when_it_is_made_is_refused() -> None:
    class Exits(KeyValueMachine):
        def __init__(self) -> None:
            raise SystemExit(0)

    with pytest.raises(InvalidConfigError, match="SystemExit"):
        MachineChoice(Exits).fresh()
