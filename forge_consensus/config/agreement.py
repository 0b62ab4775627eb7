"""The agreement: which settings the members of a cluster tell each other, and with which they cannot work together.

Nothing that safety rests on is a setting of one node: what all must agree on is part of the replicated configuration.
Other settings may differ, for example while they are being changed node by node. Each node names its own when it greets
another; both warn about the differences, and refuse each other where they could not work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.rows import text_of
from forge_consensus.config.setting import describe, section_of
from forge_consensus.config.storage import StorageSettings

Told = tuple[tuple[str, str], ...]
"""The settings that a node tells: whole names and the texts of their values."""

OWN: Final = frozenset(
    {
        "raft.faults_max",
        "raft.faults_seconds",
        "storage.events_kept",
        "storage.events_seconds",
        "storage.map_bytes",
        "storage.quota_bytes",
        "storage.reserve_bytes",
        "storage.tail_bytes_max",
        "storage.verify_entries",
    }
)
"""Settings of the two sections that are each node's own affair, because hosts and disks differ."""
SECTIONS: Final = (RaftSettings.SECTION, StorageSettings.SECTION)
FITTING: Final = {
    "raft.heartbeat_interval": "at most half of every member's raft.election_timeout_min",
    "raft.message_bytes_max": "at least 64 KiB above every member's raft.command_bytes_max + raft.append_bytes_max, "
    "and 1 KiB above its raft.chunk_bytes",
}
"""Settings with which members may not be able to work together, and the condition."""
CONCERNED: Final = (
    "raft.heartbeat_interval",
    "raft.election_timeout_min",
    "raft.message_bytes_max",
    "raft.command_bytes_max",
    "raft.append_bytes_max",
    "raft.chunk_bytes",
)
"""The settings that those conditions compare."""
FRAME_BYTES: Final = 64 << 10
"""What a frame takes besides the entries and the command that it carries, at most, as `RaftSettings` has it."""
HEADER_BYTES: Final = 1 << 10
"""What a frame takes besides a chunk of a snapshot."""
TEXT_MAX: Final = 40
HTTP_URL: Final = "http_url"
"""What a node tells beside its settings, and nobody compares: where its application answers HTTP."""


def among_members(name: str) -> str:
    """Return what members do about different values of a setting, for the table of settings."""
    if name.partition(".")[0] not in SECTIONS or name in OWN:
        return "-"
    return f"told; refused unless {FITTING[name]}" if name in FITTING else "told"


def told_settings(raft: RaftSettings, storage: StorageSettings, http_url: str = "") -> Told:
    """Return what a node tells of its settings; `http_url` only if there is one."""
    rows: list[tuple[str, str]] = [(HTTP_URL, http_url)] if http_url else []
    for settings in (raft, storage):
        kind: type[Any] = type(settings)
        for setting in describe(kind):
            if setting.name not in OWN:
                rows.append((setting.name, text_of(getattr(settings, setting.name.removeprefix(section_of(kind))))))
    return tuple(rows)


def differences(ours: Told, theirs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return the settings that differ, as sentences. Those that only one of two versions has are passed over."""
    told = dict(theirs)
    return tuple(
        f"{name} is {text} here and {told[name][:TEXT_MAX]} there"
        for name, text in ours
        if told.get(name, text) != text and name != HTTP_URL
    )


def conflict(node: str, ours: Told, peer: str, theirs: Iterable[tuple[str, str]]) -> str:
    """Return why two members cannot work together with these settings, and what to do; empty if they can."""
    told = {node: dict(ours), peer: dict(theirs)}
    if all(told[node].get(name) == told[peer].get(name) for name in CONCERNED):
        return ""  # whether settings fit to themselves is each node's own check
    for one, other in ((node, peer), (peer, node)):
        mine, its = told[one], told[other]
        try:
            heartbeat, timeout = float(mine["raft.heartbeat_interval"]), float(its["raft.election_timeout_min"])
            largest, chunk = float(mine["raft.message_bytes_max"]), float(its["raft.chunk_bytes"])
            entries = float(its["raft.command_bytes_max"]) + float(its["raft.append_bytes_max"])
            needed = max(entries + FRAME_BYTES, chunk + HEADER_BYTES)
        except (KeyError, ValueError):
            continue  # another version has other settings
        if 2 * heartbeat > timeout:
            return (
                f"raft.heartbeat_interval of {one} is {heartbeat:g} s and raft.election_timeout_min of {other} is "
                f"{timeout:g} s: with {one} as the leader, {other} would stand again and again. Give both nodes values "
                "of which the first is at most half of the second"
            )
        if needed > largest:
            return (
                f"raft.message_bytes_max of {one} is {largest:.0f} and {other} may send {needed:.0f} bytes in one "
                "frame: raise it, or lower raft.command_bytes_max, raft.append_bytes_max or "
                f"raft.chunk_bytes of {other}"
            )
    return ""
