"""A node flushes before it sends; a turn costs at most one flush group, and applying alone costs none."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgpack
import pytest

from forge_consensus.actors.codec import decode
from forge_consensus.actors.messages import (
    AppendEntries,
    AppendReply,
    HelloReply,
    ReadResults,
    RequestVote,
    Results,
    SessionOpened,
    VoteReply,
)
from forge_consensus.actors.runtime.shared import Role
from forge_consensus.client.sync import Client
from forge_consensus.config.node import NodeSettings
from forge_consensus.events.bus import EventBus
from forge_consensus.service.node import Node
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.identity import BOOTS
from forge_consensus.storage.ledger.ledger import HARD
from forge_consensus.storage.ledger.record import index_of
from forge_consensus.storage.ledger.transaction import get_meta
from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.local.cluster import LocalCluster
from forge_consensus.testing.local.ports import free_ports
from tests.worlds.waiting import wait_for

PUTS = 40
FRAME_BYTES_MAX = 64 << 20

pytestmark = pytest.mark.timeout(60)


@dataclass
class Watch:
    """One node in this process, with an eye on its disk, its turns and what it says."""

    node: Node
    watches: dict[str, Watch]
    turn: int = 0
    durable: int = 0
    """The last entry of the log on its disk."""
    hard: tuple[int, str] = (0, "")
    """Term and vote on its disk."""
    boots: dict[str, Any] = field(default_factory=dict)
    commits: list[int] = field(default_factory=list)
    """The turn of each flush group."""
    said: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def install(self) -> None:
        """Stand between the node and its disk, and between the node and its wire."""
        node = self.node
        assert node.base is not None
        assert node.tables is not None
        self.commit, self.send_peer, self.send_answer = node.tables.commit, node.base.send_peer, node.base.send_answer
        self.take_turn = node.base.engine.turn
        self.look()
        node.tables.commit = self.watched_commit  # type: ignore[method-assign]
        node.base.send_peer = self.watched_send_peer  # type: ignore[method-assign]
        node.base.send_answer = self.watched_send_answer  # type: ignore[method-assign]
        node.base.engine.turn = self.watched_turn  # type: ignore[method-assign]

    def look(self) -> None:
        """Read from the disk what counts."""
        tables = self.node.tables
        assert tables is not None
        newest = tables.last("log")
        self.durable = index_of(newest[0]) if newest else 0
        term, vote, *_ = msgpack.unpackb(get_meta(tables, HARD) or b"\x93\x00\xa0\x00")
        self.hard = (term, vote)
        self.boots = msgpack.unpackb(get_meta(tables, BOOTS) or b"\x80")

    def watched_turn(self, frames: Any, notices: Any) -> None:
        """A turn begins."""
        self.turn += 1
        self.take_turn(frames, notices)

    def watched_commit(self, batch: Batch) -> None:
        """Something becomes durable; an empty batch costs nothing."""
        self.commit(batch)
        if batch:
            self.commits.append(self.turn)
            self.look()

    def watched_send_peer(self, node: str, data: bytes) -> bool:
        """A request leaves."""
        self.check(decode(data, FRAME_BYTES_MAX).message, node)
        return self.send_peer(node, data)

    def watched_send_answer(self, connection: Any, frame: Any) -> bool:
        """An answer leaves."""
        self.check(frame.message, "")
        return self.send_answer(connection, frame)

    def check(self, message: Any, to: str) -> None:
        """What leaves must be on the disk; faults are kept, because this is the node's own thread.

        A turn that reads an append and then the order to stand answers the one in the term that it leaves with the
        other. That is as true as before: the entries are on the disk, and so is the later term.
        """
        kind = type(message).__name__
        self.said[kind] = self.said.get(kind, 0) + 1
        me = self.node.settings.node_id
        fine = True
        if isinstance(message, RequestVote | AppendEntries):
            fine = self.hard[0] > message.term or self.hard == (message.term, me)
        elif isinstance(message, VoteReply) and message.granted:
            fine = self.hard[0] == message.term and self.hard[1] not in ("", me)
        elif isinstance(message, AppendReply) and message.success:
            fine = self.hard[0] >= message.term and self.durable >= message.index
        elif isinstance(message, HelloReply) and not message.reason:
            fine = bool(self.boots)
        elif isinstance(message, Results | ReadResults | SessionOpened):
            assert self.node.base is not None
            applied = self.node.base.engine.ledger.applied
            on_disks = sorted(watch.durable for watch in self.watches.values())
            fine = applied <= on_disks[len(on_disks) // 2]
        if not fine:
            self.faults.append(f"turn {self.turn}: {str(message)[:200]} to {to or 'who asked'}, disk: {self.hard}")


@pytest.fixture
def watches(tmp_path: Path) -> Iterator[dict[str, Watch]]:
    """Three nodes on threads of this process, watched from before their first turn."""
    peers = {f"n{n + 1}": f"127.0.0.1:{port}" for n, port in enumerate(free_ports(3))}
    made: dict[str, Watch] = {}
    threads: list[threading.Thread] = []
    try:
        for name, address in peers.items():
            node = Node(NodeSettings(name, "watched", address, peers, tmp_path / name), EventBus())
            node.open()
            made[name] = Watch(node, made)
            made[name].install()
        for watch in made.values():
            threads.append(threading.Thread(target=watch.node.run, daemon=True))
            threads[-1].start()
        yield made
    finally:
        for watch in made.values():
            watch.node.stop()
        for thread in threads:
            thread.join(5)
        for watch in made.values():
            watch.node.close()


def endpoints_of(watches: dict[str, Watch]) -> list[str]:
    """Where the nodes listen."""
    return [watch.node.settings.bind for watch in watches.values()]


def test_everything_is_on_disk_before_it_leaves_a_node(watches: dict[str, Watch]) -> None:
    with Client(endpoints_of(watches), 10.0) as client:
        for number in range(PUTS):
            client.put(f"k{number}", number)
        futures = [client.submit(Command("set", {"key": f"p{n % 100}", "value": bytes(500)})) for n in range(3000)]
        assert all(future.exception() is None for future in futures)
        assert client.get("k0") == 0
        leader = next(watch for watch in watches.values() if watch.node.base and leads(watch))
        leader.node.stop()  # and an election in the middle of it
        client.put("after", 1)
    for name, watch in watches.items():
        assert not watch.faults, f"{name}: {watch.faults[:5]}"
    said = {kind for watch in watches.values() for kind in watch.said}
    assert said >= {"RequestVote", "VoteReply", "AppendEntries", "AppendReply", "Results", "ReadResults"}


def leads(watch: Watch) -> bool:
    """Whether the node leads."""
    return watch.node.base is not None and watch.node.base.engine.shared.role is Role.LEADER


def test_a_turn_flushes_at_most_once_and_applying_alone_never(watches: dict[str, Watch]) -> None:
    with Client(endpoints_of(watches), 10.0) as client:
        client.put("warm", 0)
        time.sleep(0.3)
        before = {name: len(watch.commits) for name, watch in watches.items()}
        for number in range(PUTS):
            client.put("k", number)
        wait_for(lambda: len({applied(watch) for watch in watches.values()}) == 1, 5.0, "all to apply")
        for name, watch in watches.items():
            # one for each entry; applying it, answering and moving the commit index came along for nothing. A follower
            # that is late, behind a majority without it, may take two entries at once
            commits = len(watch.commits) - before[name]
            assert commits == PUTS if leads(watch) else PUTS / 2 <= commits <= PUTS, name
            assert len(set(watch.commits)) == len(watch.commits), f"{name} flushed twice in a turn"
        rest = {name: (watch.turn, len(watch.commits)) for name, watch in watches.items()}
        assert client.get("k") == PUTS - 1
        time.sleep(0.5)
        for name, watch in watches.items():
            assert watch.turn > rest[name][0], "heartbeats are turns"
            assert len(watch.commits) == rest[name][1], f"{name} flushed for heartbeats or reads"


def applied(watch: Watch) -> int:
    """How far the node has applied."""
    assert watch.node.base is not None
    return watch.node.base.engine.ledger.applied


# --- a real process under strace --------------------------------------------------------------------------------------

FLUSH = re.compile(r"(fdatasync|fsync|msync)\(.*= 0$|<\.\.\. (fdatasync|fsync|msync) resumed>.*= 0$")
FIRST_SUM = 1_000_000


@pytest.fixture
def strace(tmp_path: Path) -> list[str]:
    """The command that traces flushes and sends of what follows into ``trace``; skips where it cannot."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    probe = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, check=False, timeout=10)
    if probe.returncode:
        pytest.skip(f"this process may not trace others: {probe.stderr.decode().strip()[-200:]}")
    calls = "trace=fdatasync,fsync,msync,sendto,sendmsg"
    return ["strace", "-f", "-xx", "-s", "4096", "-o", str(tmp_path / "trace"), "-e", calls]


def traced(folder: Path, sums: int) -> list[str]:
    """The trace as flushes ("flush") and answers (the sum in them), in the order in which they happened."""
    told = {
        "".join(f"\\x{byte:02x}" for byte in msgpack.packb(FIRST_SUM + number)): str(number)
        for number in range(1, sums + 1)
    }
    found = []
    for line in (folder / "trace").read_text(errors="replace").splitlines():
        if FLUSH.search(line):
            found.append("flush")
        elif "send" in line:
            found += [number for text, number in told.items() if text in line]
    return found


def count_up(address: str) -> None:
    """Set a number and raise it, one command at a time; every answer is a number that no other frame holds."""
    with Client([address], 10.0) as client:
        client.put("sum", FIRST_SUM)
        for number in range(1, PUTS + 1):
            assert client.incr("sum") == FIRST_SUM + number


def test_strace_sees_a_flush_before_every_answer_and_one_for_each_command(tmp_path: Path, strace: list[str]) -> None:
    with LocalCluster(1, folder=tmp_path, before=strace) as cluster:
        count_up(cluster.addresses["n1"])
        time.sleep(0.3)
        cluster.kill("n1")
        happened = traced(tmp_path, PUTS)
    answers = [place for place, what in enumerate(happened) if what != "flush"]
    assert [happened[place] for place in answers] == [str(number) for number in range(1, PUTS + 1)]
    between = [later - earlier - 1 for earlier, later in pairwise(answers)]
    # LMDB flushes its data with fdatasync and its meta page with a write that is durable by itself: one group
    assert between == [1] * (PUTS - 1)


def test_strace_sees_one_flush_a_command_at_a_follower_and_none_at_rest(tmp_path: Path, strace: list[str]) -> None:
    with LocalCluster(folder=tmp_path) as cluster:
        leader = cluster.wait_for_leader()
        cluster.restart(cluster.followers()[0], before=strace)
        cluster.wait_until_settled(*cluster.names)
        time.sleep(0.5)
        before = traced(tmp_path, 0).count("flush")
        count_up(cluster.addresses[leader])
        cluster.wait_until_settled(*cluster.names)
        busy = traced(tmp_path, 0).count("flush")
        time.sleep(0.5)
        # the session and the first number are entries too
        assert 0 < busy - before <= PUTS + 2
        assert traced(tmp_path, 0).count("flush") == busy
