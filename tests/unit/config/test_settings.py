"""The description of the settings: it is complete, is read from rows and texts, and its errors give advice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from forge_consensus.config.client import ClientSettings
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.rows import from_row, parse, row_of_texts, text_of, texts_of, to_row
from forge_consensus.config.setting import Setting, describe
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import InvalidConfigError

CLASSES: tuple[type, ...] = (NodeSettings, RaftSettings, StorageSettings, ClientSettings)
CHANGED = NodeSettings(
    "n1",
    "c",
    "127.0.0.1:7001",
    {"n1": "127.0.0.1:7001", "n2": "ipc:///run/n2"},
    Path("/var/data"),
    lease_reads=True,
    metrics="127.0.0.1:0",
    events_bind="0.0.0.0:7101",
    http_url="http://10.0.0.1:8000",
    raft=RaftSettings(heartbeat_interval=0.05, fast_retries=0, rank_delay=1e-05),
    storage=StorageSettings(quota_bytes=1 << 30, snapshot_seconds_min=0.1, trailing_entries=0),
)


def row_named(name: str) -> Setting:
    """The description of one setting."""
    return {row.name: row for row in (*describe(NodeSettings), *describe(ClientSettings))}[name]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_field_is_described(kind: type) -> None:
    rows = describe(kind)
    assert all(row.described.what.endswith(".") and row.described.why.endswith(".") for row in rows)
    assert len({row.name for row in rows}) == len(rows)
    sections = sum(slot.name in ("raft", "security", "storage") for slot in fields(kind))
    assert len([row for row in rows if kind is not NodeSettings or "." not in row.name]) == len(fields(kind)) - sections


def test_the_settings_of_a_node_include_its_sections() -> None:
    names = {row.name for row in describe(NodeSettings)}
    assert {"node_id", "raft.heartbeat_interval", "storage.snapshot_entries"} <= names
    assert row_named("raft.heartbeat_interval").described.original == "raft.heartbeat_interval"


def test_every_default_is_within_its_own_bounds() -> None:
    for kind in (RaftSettings, StorageSettings, ClientSettings):
        for row in describe(kind):
            row.check(row.default)


def test_settings_stay_frozen_and_slotted() -> None:
    settings = RaftSettings()
    assert not hasattr(settings, "__dict__")
    with pytest.raises(FrozenInstanceError):
        settings.heartbeat_interval = 1.0  # type: ignore[misc]


def test_a_row_goes_through_json_and_back() -> None:
    row = json.loads(json.dumps(to_row(CHANGED)))
    again = from_row(NodeSettings, row)
    assert again == from_row(NodeSettings, to_row(again))
    assert (again.raft, again.storage, again.peers) == (CHANGED.raft, CHANGED.storage, CHANGED.peers)
    assert again.storage_path == "/var/data"


def test_texts_hold_the_changed_settings_and_restore_them() -> None:
    texts = texts_of(CHANGED.raft)
    assert texts == {"raft.heartbeat_interval": "0.05", "raft.fast_retries": "0", "raft.rank_delay": "0.00001"}
    row = row_of_texts(NodeSettings, [*texts.items(), *texts_of(CHANGED.storage).items()])
    again = from_row(NodeSettings, {"node_id": "n1", **row})
    assert (again.raft, again.storage) == (CHANGED.raft, CHANGED.storage)
    whole = from_row(NodeSettings, row_of_texts(NodeSettings, texts_of(CHANGED).items()))
    assert to_row(whole) == to_row(CHANGED)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("raft.heartbeat_interval", "0.1", 0.1),
        ("raft.heartbeat_interval", "100ms", 0.1),
        ("raft.heartbeat_interval", "250ms", 0.25),
        ("raft.heartbeat_interval", "1.5s", 1.5),
        ("raft.heartbeat_interval", ".5", 0.5),
        ("raft.heartbeat_interval", "2", 2.0),
        ("storage.events_seconds", "2h", 7200.0),
        ("client.session_ttl_ms", "60s", 60_000),
        ("client.session_ttl_ms", "1500", 1500),
        ("storage.quota_bytes", "4096", 4096),
        ("storage.quota_bytes", "64MiB", 64 << 20),
        ("storage.quota_bytes", "2G", 2 << 30),
        ("storage.quota_bytes", "1 kb", 1024),
        ("raft.fast_retries", "0", 0),
        ("lease_reads", "on", True),
        ("lease_reads", "False", False),
        ("metrics", "", None),
        ("metrics", "127.0.0.1:1", "127.0.0.1:1"),
        ("peers", " n1 = 127.0.0.1:7001 , n2=[::1]:7002,", {"n1": "127.0.0.1:7001", "n2": "[::1]:7002"}),
    ],
)
def test_texts_are_read(name: str, text: str, value: object) -> None:
    found = parse(row_named(name), text)
    assert found == value
    assert type(found) is type(value)
    assert parse(row_named(name), text_of(found)) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("raft.heartbeat_interval", "-1"),
        ("raft.heartbeat_interval", "1x"),
        ("raft.heartbeat_interval", "1MiB"),
        ("raft.heartbeat_interval", ""),
        ("storage.quota_bytes", "1.5G"),
        ("storage.quota_bytes", "1s"),
        ("raft.fast_retries", "1.0"),
        ("raft.clock_drift", "1ms"),
        ("lease_reads", "maybe"),
    ],
)
def test_an_invalid_text_is_refused_with_an_example_of_a_value(name: str, text: str) -> None:
    with pytest.raises(InvalidConfigError, match=f"{name} is {text!r}: write "):
        parse(row_named(name), text)


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"nod_id": "n1"}, "did you mean node_id?"),
        ({}, "node_id is missing"),
        ({"node_id": "n1", "raft": {"hartbeat_interval": 1}}, "did you mean raft.heartbeat_interval?"),
        ({"node_id": "n1", "raft": 5}, "raft is 5: it is a section"),
        ({"node_id": "n1", "nothing_like_it": 5}, "forge-consensus settings"),
        ({"node_id": "n1", "storage": {"quota_bytes": True}}, "storage.quota_bytes is True: it must be a whole number"),
    ],
)
def test_a_wrong_row_is_refused(row: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        from_row(NodeSettings, row)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "wrong", "part"),
    [
        (RaftSettings, {"heartbeat_interval": 0}, "raft.heartbeat_interval is 0: it must be a number of seconds of at"),
        (RaftSettings, {"heartbeat_interval": "1"}, "the default is 0.1"),
        (RaftSettings, {"clock_drift": 1.5}, "at most 0.9"),
        (RaftSettings, {"fast_retries": 1.0}, "raft.fast_retries is 1.0: it must be a whole number"),
        (RaftSettings, {"heartbeat_interval": float("nan")}, "raft.heartbeat_interval is nan"),
        (RaftSettings, {"heartbeat_interval": 0.5}, "at least twice"),
        (RaftSettings, {"election_timeout_max": 0.5}, "must be above"),
        (RaftSettings, {"message_bytes_max": 1024}, "a largest command besides"),
        (RaftSettings, {"message_bytes_max": 1 << 63}, "raft.message_bytes_max is 9223372036854775808"),
        (RaftSettings, {"chunk_bytes": 10**400}, "must be a whole number of bytes"),
        (StorageSettings, {"checkpoint_entries": 0}, "storage.checkpoint_entries is 0"),
        (ClientSettings, {"outstanding_max": 0}, "client.outstanding_max is 0"),
        (ClientSettings, {"backoff_seconds_min": 1.0}, "must not be below"),
    ],
)
def test_a_wrong_value_is_refused_with_the_expected_kind(kind: Any, wrong: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        kind(**wrong)
    assert part in str(caught.value)


# --- values that do not fit together ----------------------------------------------------------------------------------

MIB = 1 << 20


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: StorageSettings(quota_bytes=16 * MIB), "storage.quota_bytes is .* storage.reserve_bytes keeps"),
        (lambda: StorageSettings(reserve_bytes=100 << 30), "storage.quota_bytes is .* storage.reserve_bytes keeps"),
        (lambda: StorageSettings(map_bytes=32 * MIB), "storage.map_bytes is .* storage.reserve_bytes keeps"),
        (lambda: RaftSettings(chunk_bytes=8 * MIB), "raft.chunk_bytes is .* raft.message_bytes_max"),
        (lambda: RaftSettings(suspect_checks=5), "raft.suspect_checks is 5 and raft.fail_checks is 4"),
        (
            lambda: NodeSettings("n1", storage=StorageSettings(uncommitted_bytes_max=MIB)),
            "storage.uncommitted_bytes_max is .* raft.command_bytes_max",
        ),
        (lambda: ClientSettings(session_ttl_ms=1), "client.session_ttl_ms is 1"),
        (lambda: NodeSettings("n1", storage_path="a\0b"), "storage_path is .* holds no NUL"),
    ],
)
def test_values_that_would_refuse_every_write_are_refused_and_both_are_named(
    make: Callable[[], object], names: str
) -> None:
    with pytest.raises(InvalidConfigError, match=names):
        make()


def test_small_stores_whose_values_fit_are_accepted() -> None:
    StorageSettings(quota_bytes=20 * MIB)
    StorageSettings(map_bytes=64 * MIB)
    StorageSettings(reserve_bytes=0, quota_bytes=1)
    RaftSettings(suspect_checks=4, chunk_bytes=7 * MIB)
    NodeSettings("n1", storage=StorageSettings(uncommitted_bytes_max=2 * MIB))
