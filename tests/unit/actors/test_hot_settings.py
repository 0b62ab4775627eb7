"""Each hot setting of Raft and storage, changed on a node that runs: what the node did before, and what it does then.

Every hot setting has an effect here; the test of the table fails for one that has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

import pytest

from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    CheckPeer,
    CheckPeerReply,
    InstallSnapshot,
    Refused,
    Submit,
)
from forge_consensus.actors.runtime.engine import SettingsChange
from forge_consensus.actors.runtime.shared import PeerStatus
from forge_consensus.actors.transport.zeromq import ZeroMqBase
from forge_consensus.config.node import NodeSettings
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.setting import describe
from forge_consensus.config.storage import StorageSettings
from forge_consensus.events.types import LogCompacted, SnapshotStarted, TimeSkewed
from forge_consensus.storage.machines.machine import Command
from tests.unit.actors.test_election import lead
from tests.unit.actors.test_replication import follow, put
from tests.unit.actors.test_snapshot_sending import CHUNK, acknowledge, chunks_to, lacks_entries, leading
from tests.worlds.ledger_world import TallyMachine
from tests.worlds.one_node import OneNode

SET = Command("set", {"key": "k", "value": "v" * 50}).encode()
MIB, GIB = 1 << 20, 1 << 30
KEY_OF_DISK = "security.encryption_key"
"""What begins so names the key of an encrypted folder; tests/cluster/test_encryption.py changes it on running nodes."""
HOT = [
    row.name for row in describe(NodeSettings) if row.described.reload == "hot" and not row.name.startswith(KEY_OF_DISK)
]
PROBES: dict[str, Callable[[], None]] = {}
"""Setting -> what changes it on a running node, and looks at what the node does."""


def probe(function: Callable[[], None]) -> Callable[[], None]:
    """Enter a probe under the name of its setting, which its own name is with two underscores for the dot."""
    PROBES[function.__name__.replace("__", ".", 1)] = function
    return function


def change(node: OneNode, **values: Any) -> None:
    """Have the node take other values, and take a turn with them."""
    raft = {name: value for name, value in values.items() if hasattr(node.engine.settings, name)}
    storage = {name: value for name, value in values.items() if name not in raft}
    engine = node.engine
    engine.take_settings(SettingsChange(replace(engine.settings, **raft), replace(engine.ledger.settings, **storage)))
    node.turn()


def follower(count: int = 0, **options: Any) -> OneNode:
    """A follower of n2 that has applied so many entries behind the first."""
    node = OneNode(options=RaftSettings(**options))
    applies(node, 2, count)
    return node


def applies(node: OneNode, first: int, count: int) -> None:
    """Have n2 send so many entries from an index on, all of them committed."""
    records = tuple(put(index, 1, f"k{index}", "v" * 20) for index in range(first, first + count))
    term = 0 if first == 2 else 1
    last = first + count - 1
    node.request("n2", "replication", AppendEntries(1, first - 1, term, last, 0, records))


def leader(**options: Any) -> OneNode:
    """A leader of three with an applied no-op."""
    node = OneNode(options=RaftSettings(**options))
    lead(node)
    node.sent.clear()
    return node


def submit(node: OneNode, count: int, first: int = 1) -> int:
    """Submit so many commands; returns how many were taken."""
    before = node.ledger.log.last
    node.request("", "gateway", Submit(5, 1, tuple((seq, SET) for seq in range(first, first + count))))
    return node.ledger.log.last - before


def rounds(node: OneNode, seconds: float) -> int:
    """How often n2 is checked within so many seconds."""
    node.sent.clear()
    node.wait(seconds)
    return sum(to == "n2" for to, _ in node.messages(CheckPeer))


def test_every_hot_setting_of_raft_and_storage_has_a_probe() -> None:
    hot = set(HOT)
    assert set(PROBES) == hot


@pytest.mark.parametrize("name", HOT)
def test_a_changed_value_has_an_effect_on_a_running_node(name: str) -> None:
    PROBES[name]()


# --- health ----------------------------------------------------------------------------------------------------------


@probe
def raft__check_interval() -> None:
    node = leader(check_interval=3.0)
    assert rounds(node, 6.0) == 2
    node.wait(0.1)
    change(node, check_interval=0.2)
    assert 9 <= rounds(node, 2.0) <= 11, "it does not wait for the end of the old interval"


@probe
def raft__suspect_checks() -> None:
    for checks, status in ((2, PeerStatus.ACTIVE), (1, PeerStatus.SUSPECTED)):
        node = follower()
        change(node, suspect_checks=checks)
        node.wait(1.1)
        assert node.engine.shared.peers["n2"].status is status


@probe
def raft__fail_checks() -> None:
    for checks, status in ((4, PeerStatus.SUSPECTED), (2, PeerStatus.FAILED)):
        node = follower()
        change(node, fail_checks=checks)
        node.wait(1.6)
        assert node.engine.shared.peers["n2"].status is status


@probe
def raft__clock_skew_max() -> None:
    node = leader()

    def check() -> int:
        wall_ms = node.clock.wall_ms() + 700
        for peer in ("n2", "n3"):
            ahead = wall_ms if peer == "n2" else node.clock.wall_ms()
            node.answer(peer, "health", CheckPeerReply(1, ahead))
            node.answer(peer, "replication", AppendReply(node.ledger.term, True, node.ledger.log.last, 0, 0))
        node.wait(0.5)
        return len(node.told(TimeSkewed))

    assert [check(), check()] == [0, 0]
    change(node, clock_skew_max=0.3)
    assert [check(), check()][-1] == 1


# --- sending ---------------------------------------------------------------------------------------------------------


def frames_in_flight(node: OneNode) -> int:
    """How many frames with entries have left for n2."""
    return sum(to == "n2" and bool(message.records) for to, message in node.messages(AppendEntries))


@probe
def raft__inflight_frames_max() -> None:
    node = leader()
    for seq in range(5):
        submit(node, 1, seq + 1)
    assert frames_in_flight(node) == 5
    node = leader()
    change(node, inflight_frames_max=2)
    for seq in range(5):
        submit(node, 1, seq + 1)
    assert frames_in_flight(node) == 2
    change(node, inflight_frames_max=3)
    assert frames_in_flight(node) == 3, "a wider window is used at once"


@probe
def raft__inflight_bytes_max() -> None:
    node = leader()
    change(node, inflight_bytes_max=150)
    for seq in range(5):
        submit(node, 1, seq + 1)
    assert frames_in_flight(node) == 2
    change(node, inflight_bytes_max=MIB)
    assert frames_in_flight(node) == 3, "all that waited goes into one frame"
    assert node.messages(AppendEntries)[-1][1].records


@probe
def raft__chunk_window() -> None:
    node = leading()
    lacks_entries(node)
    change(node, chunk_window=2)
    for number in range(4):
        acknowledge(node, chunks_to(node)[number])
        assert len(chunks_to(node)) - number - 1 <= 2
    change(node, chunk_window=8)
    for number in range(4, 8):
        acknowledge(node, chunks_to(node)[number])
    assert len(chunks_to(node)) - 8 > 2


@probe
def raft__snapshot_bytes_per_second() -> None:
    node = leading()
    lacks_entries(node)
    change(node, snapshot_bytes_per_second=1)
    acknowledge(node, chunks_to(node)[0])
    assert len(chunks_to(node)) == 2, "one chunk, and then none for 100 seconds"
    acknowledge(node, chunks_to(node)[1])
    node.wait(0.3)
    assert len(chunks_to(node)) == 2
    change(node, snapshot_bytes_per_second=500)
    node.wait(0.1)
    assert len(chunks_to(node)) == 3
    node.wait(0.15)
    assert len(chunks_to(node)) == 4, "it does not wait for what the old bound allowed"
    change(node, snapshot_bytes_per_second=0)
    assert len(chunks_to(node)) > 4
    assert all(len(message.data) <= CHUNK for _, message in node.messages(InstallSnapshot))


# --- taking ----------------------------------------------------------------------------------------------------------


@probe
def raft__outstanding_max() -> None:
    node = leader()
    assert submit(node, 10) == 10
    node = leader()
    change(node, outstanding_max=3)
    assert submit(node, 10) == 3
    assert node.last(Refused).numbers == tuple(range(4, 11))


@probe
def raft__backlog_entries_max() -> None:
    node = leader()
    change(node, backlog_entries_max=4)
    assert submit(node, 10) == 4
    assert node.last(Refused).code == "CONSENSUS_BUSY"


@probe
def raft__backlog_seconds_max() -> None:
    for seconds, taken in ((0.5, 500), (0.1, 100)):
        node = leader()
        node.ledger.applier.pace.each = 0.001
        change(node, backlog_seconds_max=seconds)
        assert submit(node, 1000) == taken


@probe
def storage__uncommitted_entries_max() -> None:
    node = leader()
    change(node, uncommitted_entries_max=3)
    assert submit(node, 10) == 3
    change(node, uncommitted_entries_max=50_000)
    assert submit(node, 10, 4) == 10


@probe
def storage__uncommitted_bytes_max() -> None:
    node = leader(command_bytes_max=600)
    change(node, uncommitted_bytes_max=1700)
    assert submit(node, 100) < 100
    node = leader(command_bytes_max=600)
    assert submit(node, 100) == 100


# --- applying --------------------------------------------------------------------------------------------------------


def applied_in_a_turn(node: OneNode, count: int) -> int:
    """How many entries the turn applies in which the node hears that all are committed."""
    follow(node, 1, *[put(index, 1, f"k{index}", "v") for index in range(2, count + 2)])
    frame = node.frame("n2", "replication", AppendEntries(1, count + 1, 1, count + 1, 0, ()))
    node.engine.turn([(frame, "->n2")], [])
    return node.ledger.applied - 1


@probe
def raft__apply_entries_max() -> None:
    assert applied_in_a_turn(follower(), 10) == 10
    node = follower()
    change(node, apply_entries_max=3)
    assert applied_in_a_turn(node, 10) == 3


class Slow(TallyMachine):
    """A machine whose commands take two milliseconds each."""

    node: OneNode | None = None

    def apply(self, entry: Any) -> Any:
        """Take the time, and apply the command."""
        if self.node is not None:
            self.node.clock.seconds += 0.002
        return super().apply(entry)


@probe
def raft__turn_seconds_max() -> None:
    def applied(seconds: float | None) -> int:
        node = OneNode(machine=Slow)
        cast("Slow", node.ledger.applier.machine).node = node
        if seconds is not None:
            change(node, turn_seconds_max=seconds)
        return applied_in_a_turn(node, 100)

    assert 8 < applied(None) < 40
    assert applied(0.005) < 8


class Sockets:
    """What a base asks for frames."""

    def __init__(self) -> None:
        self.poller, self.router, self.publisher = self, object(), object()
        self.peer = object()
        self.monitors: dict[Any, str] = {}
        self.entrances: set[Any] = set()
        self.wake_at = float("inf")
        self.asked: list[tuple[int, ...]] = []

    def has_work(self, now: float) -> bool:
        """Nothing is due."""
        return False

    def wait(self, seconds: float) -> list[Any]:
        """Everything has something."""
        return [self.router, self.peer]

    def from_peer(self, socket: Any, most: int) -> list[bytes]:
        """Note how many frames are asked for."""
        self.asked.append((most,))
        return []

    def from_anyone(self, most: int, bytes_most: int) -> list[Any]:
        """Note how many frames and bytes are asked for."""
        self.asked.append((most, bytes_most))
        return []


def bounds_of_a_turn(**values: int) -> list[tuple[int, ...]]:
    """What a base asks its sockets for when its node has taken these values while it ran."""
    node = follower()
    base: Any = ZeroMqBase.__new__(ZeroMqBase)
    base.engine, base.sockets, base.inbox, base.clock = node.engine, Sockets(), [], node.clock
    base.wakeup = type("Quiet", (), {"doze": lambda self: None, "fd": -1, "sleeping": False})()
    change(node, **values)
    base.wait()
    asked: list[tuple[int, ...]] = base.sockets.asked
    return asked


@probe
def raft__turn_frames_max() -> None:
    assert bounds_of_a_turn() == [(512,), (512, 8 * MIB)]
    assert bounds_of_a_turn(turn_frames_max=7) == [(7,), (7, 8 * MIB)]


@probe
def raft__turn_bytes_max() -> None:
    assert bounds_of_a_turn(turn_bytes_max=9) == [(512,), (512, 9)]


# --- checkpoints -----------------------------------------------------------------------------------------------------


def behind(node: OneNode) -> int:
    """How many applied entries are not in the tables."""
    return node.ledger.applier.index - node.ledger.applier.on_disk


@probe
def storage__checkpoint_entries() -> None:
    node = follower(40)
    assert behind(node) == 41
    change(node, checkpoint_entries=5)
    node.turn()
    assert behind(node) == 0


@probe
def storage__checkpoint_bytes() -> None:
    node = follower(40)
    change(node, checkpoint_bytes=100)
    node.turn()
    assert behind(node) == 0


@probe
def storage__checkpoint_seconds() -> None:
    node = follower(40)
    node.wait(1.0)
    assert behind(node) == 41
    change(node, checkpoint_seconds=0.5)
    node.turn()
    assert behind(node) == 0


# --- room ------------------------------------------------------------------------------------------------------------


@probe
def storage__reserve_bytes() -> None:
    node = leader()
    node.tables.disk_free_bytes = GIB
    assert submit(node, 1) == 1
    change(node, reserve_bytes=2 * GIB)
    assert submit(node, 1, 2) == 0
    assert node.last(Refused).code == "CONSENSUS_STORAGE_FULL"
    change(node, reserve_bytes=16 * MIB)
    assert submit(node, 1, 2) == 1


@probe
def storage__quota_bytes() -> None:
    node = leader()
    change(node, reserve_bytes=0, quota_bytes=10)
    assert submit(node, 1) == 0
    assert "storage.quota_bytes" in node.last(Refused).text
    change(node, quota_bytes=GIB)
    assert submit(node, 1) == 1


# --- snapshots and the log -------------------------------------------------------------------------------------------


def snapshots(node: OneNode, seconds: float = 0.6) -> int:
    """How many snapshots were begun, after so many seconds."""
    node.wait(seconds)
    node.run_jobs()
    return len(node.told(SnapshotStarted))


@probe
def storage__snapshot_entries() -> None:
    node = follower(40)
    node.wait(11.0)
    assert snapshots(node) == 0
    change(node, snapshot_entries=20)
    assert snapshots(node) == 1


@probe
def storage__snapshot_log_bytes() -> None:
    node = follower(40)
    node.wait(11.0)
    change(node, snapshot_log_bytes=100)
    assert snapshots(node) == 1


@probe
def storage__snapshot_interval() -> None:
    node = follower(40)
    node.wait(11.0)
    assert snapshots(node) == 0
    change(node, snapshot_interval=1.0)
    assert snapshots(node) == 1


@probe
def storage__snapshot_seconds_min() -> None:
    node = follower(40)
    node.wait(11.0)
    change(node, snapshot_entries=20)
    assert snapshots(node) == 1
    applies(node, 42, 30)
    assert snapshots(node) == 1, "it comes too soon"
    change(node, snapshot_seconds_min=0.1)
    assert snapshots(node) == 2


def kept_behind_a_snapshot(**values: Any) -> int:
    """How many entries stay in the log behind a snapshot that is taken with these values."""
    node = follower(40)
    node.wait(11.0)
    change(node, snapshot_entries=20, **values)
    snapshots(node)
    return node.ledger.log.last - node.ledger.log.base_index


@probe
def storage__trailing_entries() -> None:
    assert kept_behind_a_snapshot() == 41
    assert kept_behind_a_snapshot(trailing_entries=5) == 5


@probe
def storage__trailing_bytes_max() -> None:
    assert kept_behind_a_snapshot(trailing_bytes_max=0) == 0


@probe
def storage__sweep_entries() -> None:
    def most_in_a_turn(**values: Any) -> int:
        node = follower(40)
        node.wait(11.0)
        change(node, snapshot_entries=20, trailing_entries=5, **values)
        counts = [node.tables.count("log")]
        commit = node.tables.commit

        def counted(batch: Any) -> None:
            commit(batch)
            counts.append(node.tables.count("log"))

        node.tables.commit = counted  # type: ignore[method-assign]
        snapshots(node)
        assert node.told(LogCompacted)
        assert counts[-1] == 5
        return max(before - after for before, after in pairwise(counts))

    assert most_in_a_turn() == 36
    assert most_in_a_turn(sweep_entries=7) == 7


@probe
def storage__tail_bytes_max() -> None:
    node = follower(40)
    assert node.ledger.log.tail_bytes > 1000
    change(node, tail_bytes_max=500)
    applies(node, 42, 1)
    assert node.ledger.log.tail_bytes <= 500


# --- events ----------------------------------------------------------------------------------------------------------


def journal_rows(seconds: float, **values: Any) -> int:
    """How many events are in the journal of a node that takes these values, and then more events."""
    node = follower()
    for index in range(2, 200):
        applies(node, index, 1)
    change(node, **values)
    node.wait(seconds)
    for index in range(200, 260):
        applies(node, index, 1)
    return node.tables.count("events")


@probe
def storage__events_kept() -> None:
    assert journal_rows(0.0) > 300
    assert journal_rows(0.0, events_kept=80) < 120


@probe
def storage__events_seconds() -> None:
    assert journal_rows(100.0, events_seconds=10.0) < journal_rows(100.0) - 100


def test_settings_stay_with_the_default_classes() -> None:
    """`change` tells the sections apart by their fields, so no two may have one of the same name."""
    names = [row.name.partition(".")[2] for kind in (RaftSettings, StorageSettings) for row in describe(kind)]
    assert len(names) == len(set(names))
