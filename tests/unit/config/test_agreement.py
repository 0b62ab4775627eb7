"""What members tell each other of their settings, what differs, and with what they cannot work together."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from forge_consensus.config.agreement import OWN, among_members, conflict, differences, told_settings
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.setting import describe
from forge_consensus.config.storage import StorageSettings

USUAL = told_settings(RaftSettings(), StorageSettings())
SLOW = RaftSettings(heartbeat_interval=0.5, election_timeout_min=2.0, election_timeout_max=3.0)


def test_every_setting_of_raft_and_storage_is_told_or_a_nodes_own_affair() -> None:
    names = {row.name for kind in (RaftSettings, StorageSettings) for row in describe(kind)}
    assert names >= OWN
    assert {name for name, _ in USUAL} == names - OWN
    assert {row.name for row in describe(NodeSettings) if among_members(row.name) != "-"} == names - OWN


def test_a_greeting_stays_small() -> None:
    assert sum(len(name) + len(text) + 3 for name, text in USUAL) < 4096


def test_what_differs_is_said_from_both_sides_and_what_one_side_lacks_is_passed_over() -> None:
    slow = told_settings(SLOW, replace(StorageSettings(), snapshot_entries=500))
    said = differences(USUAL, slow)
    assert "raft.heartbeat_interval is 0.1 here and 0.5 there" in said
    assert "storage.snapshot_entries is 100000 here and 500 there" in said
    assert len(said) == len(differences(slow, USUAL)) == 4
    assert differences(USUAL, USUAL) == differences(USUAL, [("raft.of_a_later_version", "1")]) == ()
    long = differences(USUAL, [("raft.heartbeat_interval", "9" * 60_000)])
    assert len(long[0]) < 200


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (SLOW, r"raft.heartbeat_interval of n2 is 0.5 s and raft.election_timeout_min of n1 is 0.8 s: with n2 as"),
        (
            RaftSettings(command_bytes_max=16 << 20, message_bytes_max=32 << 20),
            r"raft.message_bytes_max of n1 is 8388608 and n2 may send 17367040 bytes in one frame",
        ),
        (RaftSettings(chunk_bytes=9 << 20, message_bytes_max=32 << 20), "raft.chunk_bytes of n2"),
    ],
)
def test_members_that_could_not_work_together_say_why_whoever_of_them_asks(other: RaftSettings, match: str) -> None:
    theirs = told_settings(other, StorageSettings())
    for said in (conflict("n1", USUAL, "n2", theirs), conflict("n2", theirs, "n1", USUAL)):
        assert re.search(match, said)


def test_equal_settings_never_part_members() -> None:
    tight = told_settings(
        RaftSettings(message_bytes_max=71_536, command_bytes_max=2_000, append_bytes_max=4_000, chunk_bytes=71_000),
        StorageSettings(),
    )
    assert conflict("n1", tight, "n2", tight) == ""


def test_settings_that_may_differ_do_not_part_members() -> None:
    other = RaftSettings(heartbeat_interval=0.4, election_timeout_min=0.9, election_timeout_max=5.0, fast_retries=0)
    assert conflict("n1", USUAL, "n2", told_settings(other, StorageSettings())) == ""
    for odd in ([], [("raft.heartbeat_interval", "?")], [("raft.heartbeat_interval", "")]):
        assert conflict("n1", USUAL, "n2", odd) == ""
