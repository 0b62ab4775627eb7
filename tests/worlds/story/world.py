"""The world of a story: nodes that take a turn only when the story gives them a frame, time or an order."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import StorageError, is_fatal
from forge_consensus.events.bus import EventBus
from forge_consensus.storage.backends.memory import MemoryTable
from forge_consensus.storage.ledger.configuration import Configuration, drift_ppm_of, lease_ms_of
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.opening import Founding, Opened, open_ledger
from forge_consensus.storage.snapshots.export import export_state
from forge_consensus.testing.world.base import (
    LATE_SECONDS,
    SimulatedBase,
    SimulatedCrashError,
    SimulatedTables,
    Watcher,
)
from forge_consensus.testing.world.folder import SHARED_MEMORY
from forge_consensus.testing.world.timeline import SimulatedClock, Timeline
from tests.worlds.story.network import HeldNetwork
from tests.worlds.story.script import StoryError

STEP_S_MIN = 1e-6
"""The smallest step of time, larger than a rounding error."""
TURNS_MAX = 1000


class StoryClock(SimulatedClock):
    """A host's clocks; they move only when the story lets time pass, all at the same rate."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(timeline, random.Random(0), 0.0)
        self.passed = 100.0

    def reading(self) -> float:
        """Seconds since the host started."""
        return self.passed + self.ahead

    def boottime_ns(self) -> int:
        """Nanoseconds since the host started."""
        return int(self.reading() * 1e9)

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return 1_800_000_000_000 + int(self.reading() * 1000)


class Luck(random.Random):
    """A random source that always draws the same part of a range: the middle, unless the story sets another."""

    part = 0.5

    def random(self) -> float:
        """Return the part."""
        return self.part


class StoryNode(SimulatedBase):
    """One process of one node, which takes no turn by itself."""

    def __init__(self, cluster: StoryCluster, opened: Opened, name: str) -> None:
        host = cluster.hosts[name]
        network, watchers = cluster.network, cluster.watchers
        super().__init__(opened, cluster.raft, host.bus, host.clock, network, watchers, host.address, name)
        self.host = host
        self.cluster = cluster
        self.engine.random = host.luck
        self.jobs: list[tuple[Callable[[], Any], Callable[[Any, str], None]]] = []
        self.one_by_one = False
        """Whether postponed messages of a turn wait for the next frame, time or order."""
        self.jobs_held = False
        self.slow_s = 0.0

    def wake(self, seconds: float) -> None:
        """Do nothing, because the story decides when there is a turn."""

    def later(self, act: Callable[..., None], *args: Any) -> None:
        """Call `act` at once, because frames are held anyway."""
        act(*args)

    def commit_time(self) -> float:
        """Return the duration that was ordered for the next commit, in seconds."""
        seconds, self.slow_s = self.slow_s, 0.0
        return seconds

    def actor_failed(self, fault: Exception) -> None:
        """Handle an actor's error: the process ends unless the error was ordered."""
        super().actor_failed(fault)
        if not is_fatal(fault):
            self.cluster.tells(self.name, "an actor fails: the turn is taken back")

    def offload(self, job: Callable[[], Any], done: Callable[[Any, str], None]) -> None:
        """Keep the job until the story lets it run."""
        self.jobs.append((job, done))

    def turn(self) -> None:
        """Take one turn with all that has arrived; its duration counts as time in which the node did not run."""
        notices, self.notices = self.notices, []
        frames = [*((data, None) for data, _ in self.answers_in), *self.requests_in]
        self.answers_in.clear()
        self.requests_in.clear()
        try:
            self.engine.turn(frames, notices)
        except BaseException as error:
            self.end(error)
            return
        finally:
            took, self.clock.ahead = self.clock.ahead, 0.0
            self.host.clock.passed += took
        if took > LATE_SECONDS:
            self.clock.lost(took - LATE_SECONDS)
        for watcher in self.watchers:
            watcher.turned(self)
        before = self.engine.peers.wanted
        if self.engine.follow_members():
            self.follow_members(before)

    @property
    def has_work(self) -> bool:
        """Whether a frame, a notice, a postponed message or a timer that is due waits for a turn."""
        return bool(self.engine.patience(1.0) == 0.0 or self.answers_in or self.requests_in or self.notices)

    def settle(self) -> None:
        """Take turns until there is nothing left to do, then connect to nodes that are new. Raises `StoryError`."""
        self.rest()
        self.cluster.connect_wanted()

    def rest(self) -> None:
        """Take one turn, and more while messages or jobs are left. Raises `StoryError`."""
        self.turn()
        for _ in range(TURNS_MAX):
            if not self.alive or self.one_by_one:
                return
            if self.jobs and not self.jobs_held:
                self.do_job()
            elif not self.has_work:
                return
            self.turn()
        raise StoryError(f"{self.name} does not come to rest")

    def do_job(self) -> None:
        """Run the oldest job, and report its result."""
        job, done = self.jobs.pop(0)
        try:
            result, error = job(), ""
        except Exception as problem:
            result, error = None, f"{type(problem).__name__}: {problem}"
        done(result, error)


def address_of(name: str) -> str:
    """The address of a node that has not moved."""
    return f"{name}:7000"


class Host:
    """The parts of a node that outlive its processes."""

    def __init__(self, timeline: Timeline, folder: Path, *, joins: bool = False) -> None:
        self.folder = folder
        folder.mkdir()
        self.address = address_of(folder.name)
        """Where its processes can be reached, whatever the configurations say."""
        self.joins = joins
        """Whether its folder begins without members, to be added."""
        self.disk = SimulatedTables().tables
        self.clock = StoryClock(timeline)
        self.luck = Luck()
        self.bus = EventBus()
        self.base: StoryNode | None = None
        self.replaced = False
        """Whether its disk is not the one that its last process left."""
        self.may_end: set[str] = set()
        """Errors with which its process may end without an order."""


class StoryCluster:
    """Nodes, their hosts and their network. Use it in a ``with`` statement."""

    def __init__(
        self, size: int, raft: RaftSettings, storage: StorageSettings, watchers: list[Watcher], *, leases: bool
    ) -> None:
        self.raft = raft
        self.storage = storage
        self.watchers = watchers
        self.timeline = Timeline(1)
        self.network = HeldNetwork(self.timeline)
        self.names = [f"n{number}" for number in range(1, size + 1)]
        self.configuration = Configuration.of(
            {name: address_of(name) for name in self.names},
            lease_reads=leases,
            lease_ms=lease_ms_of(self.raft.election_timeout_min),
            drift_ppm=drift_ppm_of(self.raft.clock_drift),
        )
        shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="forge-story-", dir=shared))
        self.hosts = {name: Host(self.timeline, self.folder / name) for name in self.names}
        self.chance = self.timeline.chance("incarnations")
        self.failure: BaseException | None = None
        self.tells: Callable[[str, str], None] = lambda name, text: None
        """Called with events of a node that no watcher receives."""

    def close(self) -> None:
        """Remove the folder from the real disk."""
        for base in self.running():
            base.engine.opened.snapshots.drop_incoming()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- processes ---------------------------------------------------------------------------------------------------

    def running(self) -> list[StoryNode]:
        """The processes that run."""
        return [host.base for host in self.hosts.values() if host.base is not None and host.base.alive]

    def node(self, name: str) -> StoryNode:
        """The process of a node. Raises `StoryError` when it does not run."""
        if name not in self.hosts:
            raise StoryError(f"there is no node {name}")
        base = self.hosts[name].base
        if base is None or not base.alive:
            raise StoryError(f"{name} does not run")
        return base

    def begin(self, name: str) -> None:
        """Start a process on the node's disk, without connections."""
        host = self.hosts[name]
        tables = SimulatedTables()
        tables.tables = host.disk = {table: rows.copy() for table, rows in host.disk.items()}
        machine = KeyValueMachine()
        founding = Founding(
            name, "story", self.configuration, lambda: f"{self.chance.getrandbits(64):016x}", joins=host.joins
        )
        export = partial(export_state, tables, host.folder, KeyValueMachine)
        opened = open_ledger(tables, host.folder, founding, machine, self.storage, export)
        host.clock.stalled = 0.0
        base = host.base = tables.node = StoryNode(self, opened, name)
        base.on_end = self.ended
        base.disk_is_another, host.replaced = host.replaced, False
        for watcher in self.watchers:
            watcher.began(base)
        base.start()
        if base.alive:
            self.network.join(base)
            base.settle()

    def join(self, name: str) -> Host:
        """Make a host for a new node that is to be added; returns it. Raises `StoryError` for a name that is taken."""
        if name in self.hosts:
            raise StoryError(f"there is a node {name} already")
        self.names.append(name)
        host = self.hosts[name] = Host(self.timeline, self.folder / name, joins=True)
        return host

    def ended(self, base: SimulatedBase, error: BaseException) -> None:
        """Handle the end of a process; unless it was ordered or allowed, the story fails."""
        ordered = isinstance(error, SimulatedCrashError) or (base.disk_failed and isinstance(error, StorageError))
        if not ordered and type(error).__name__ not in self.hosts[base.name].may_end:
            self.failure = self.failure or error

    def wipe(self, name: str) -> None:
        """Empty the disk of a node that does not run."""
        host = self.stopped(name)
        host.disk = SimulatedTables().tables
        shutil.rmtree(host.folder)
        host.folder.mkdir()
        host.replaced = True

    def put_back(self, name: str, copy: dict[str, MemoryTable]) -> None:
        """Put a copy of its tables onto the disk of a node that does not run."""
        host = self.stopped(name)
        host.disk = {table: rows.copy() for table, rows in copy.items()}
        host.replaced = True

    def stopped(self, name: str) -> Host:
        """The host of a node that does not run. Raises `StoryError` when it runs."""
        host = self.hosts[name]
        if host.base is not None and host.base.alive:
            raise StoryError(f"{name} runs")
        return host

    # --- connections -------------------------------------------------------------------------------------------------

    def connect(self, name: str, other: str) -> None:
        """Connect one node to another, if frames pass and it looks for it where it is, and let it greet."""
        if (name, other) in self.network.links or not self.network.reachable(name, other):
            return
        if self.network.wanted[name].get(other) != self.hosts[other].address:
            return
        self.network.connect_to(name, other)
        self.node(name).settle()
        self.greet(name, other)

    def connect_wanted(self) -> None:
        """Connect nodes to those that their configurations have named since, without output of the greetings."""
        network = self.network
        shown, network.greeting = network.greeting, True
        while network.reaching:
            self.connect(*network.reaching.pop(0))
        network.greeting = shown

    def greet(self, name: str, other: str) -> None:
        """Deliver the two nodes' greetings, and nothing else."""
        while True:
            pair = [*self.network.between(name, other), *self.network.between(other, name)]
            greeting = next((held for held in pair if held.greets), None)
            if greeting is None:
                return
            self.network.held.remove(greeting)
            if self.network.arrives(greeting):
                self.node(greeting.receiver).settle()

    def connect_all(self) -> None:
        """Connect all nodes that can reach each other."""
        for name in self.names:
            for other in self.names:
                if name != other:
                    self.connect(name, other)

    # --- time --------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float, names: list[str], act: Callable[[], bool] = lambda: False) -> float:
        """Let time pass for some nodes, which take a turn when an alarm is due; returns how much passed.

        `act` is called after those turns and may end it by returning True.
        """
        left = seconds
        while left > 0:
            bases = [base for base in self.running() if base.name in names]
            patience = min((base.engine.patience(left) for base in bases), default=left)
            step = min(left, max(patience, STEP_S_MIN))
            for name in names:
                self.hosts[name].clock.passed += step
            left -= step
            due = [base for base in bases if base.engine.patience(1.0) <= 0.0]
            for base in due:
                base.settle()
            if due and act():
                break
        return seconds - left
