"""The simulated cluster: nodes whose disks outlive their processes, in one virtual time, from one random seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge_consensus.actors.transport.liveness import LINK_TIMEOUT_SECONDS
from forge_consensus.config.raft import RaftSettings
from forge_consensus.config.storage import StorageSettings
from forge_consensus.errors import CorruptionError, IdentityError, LogInconsistentError, UnsupportedVersionError
from forge_consensus.events.bus import EventBus
from forge_consensus.storage.backends.folder import STEP_WATCHERS, remove_temporary_files
from forge_consensus.storage.backends.memory import QUOTA_BYTES, MemoryTable
from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.ledger.configuration import Configuration, drift_ppm_of, lease_ms_of
from forge_consensus.storage.ledger.identity import Identity
from forge_consensus.storage.ledger.levels import LEVEL
from forge_consensus.storage.ledger.skips import Skip, put_skips
from forge_consensus.storage.machines.kv import KeyValueMachine
from forge_consensus.storage.machines.machine import ApplyFaultError, Machine
from forge_consensus.storage.machines.sessions import OUTCOME_BYTES_MAX, OUTCOMES_MAX, SESSIONS_MAX
from forge_consensus.storage.opening import Founding, Opened, open_ledger
from forge_consensus.storage.snapshots.export import export_state
from forge_consensus.storage.snapshots.file import SnapshotInfo
from forge_consensus.testing.world.base import SimulatedBase, SimulatedCrashError, SimulatedTables, Watcher
from forge_consensus.testing.world.files import SimulatedFiles
from forge_consensus.testing.world.folder import folder_for
from forge_consensus.testing.world.network import Network
from forge_consensus.testing.world.timeline import SimulatedClock, Timeline

DRIFT_MAX = 0.01
SILENCE_SECONDS = LINK_TIMEOUT_SECONDS
"""The silence after which the sockets of nodes and clients break a connection."""
WIPED = "wiped"
"""How a disk was ruined whose folder was emptied."""
FRAMES_ARE_CHECKED = True
"""Whether nodes refuse frames that were damaged on their way."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds that no setting of a node changes, or that an operator raises when they are reached."""

    sessions_max: int = SESSIONS_MAX
    outcomes_max: int = OUTCOMES_MAX
    outcome_bytes_max: int = OUTCOME_BYTES_MAX
    quota_bytes: int = QUOTA_BYTES
    """The quota of each store until the faults end."""


USUAL_BOUNDS = Bounds()


@dataclass(frozen=True, slots=True)
class DiskCopy:
    """A copy of a node's whole folder, taken while it was down."""

    disk: dict[str, MemoryTable]
    files: dict[str, bytes]


@dataclass(slots=True)
class SimulatedNode:
    """The parts of a node that outlive its processes: its disk, its snapshots and its event bus."""

    name: str
    folder: Path
    disk: dict[str, MemoryTable]
    clock_chance: random.Random
    files: SimulatedFiles
    base: SimulatedBase | None = None
    boots: int = 0
    bus: EventBus = field(default_factory=EventBus)
    skew_ms: int = 0
    """The error of the host's wall clock beyond the small one that each process draws, in milliseconds."""
    creep: float = 0.0
    """The rate at which the host's wall clock gets wronger."""
    full: bool = False
    """Whether the disk has no free space, also for the next process."""
    slow_commits: tuple[float, float] | None = None
    """The shortest and the longest time of a commit, also of the next process; None for a usual disk."""
    replaced: bool = False
    """Whether the disk was exchanged since the last process."""
    skips: bool = False
    """Whether its folder alone records that an entry is skipped."""
    crash_opening: bool = False
    """Whether the next process ends as soon as it has opened its ledger."""
    level: int = LEVEL
    """The feature level of the program that its next process runs."""
    joins: bool = False
    """Whether it was started to join a cluster that existed already."""

    @property
    def running(self) -> SimulatedBase | None:
        """The node's process, None if it is down."""
        return self.base if self.base is not None and self.base.alive else None


def address_of(name: str) -> str:
    """Return the address of a node."""
    return f"{name}:7000"


class SimulatedCluster:
    """A whole cluster in one process: `start`, `run` for some virtual seconds, `crash`, `restart`, `close`.

    Use it in a ``with`` statement. `run` raises every error of a watcher and every error of a node that no fault
    ordered.

    Args:
        nodes: how many nodes; they are called n1, n2 and so on.
        seed: the random seed of every draw.
        options: times and limits of the nodes; None for the defaults.
        limits: limits of their ledgers; None for the defaults.
        machine: makes the state machine of the node with that name, once for each of its processes.
        lease_reads: whether the cluster's configuration allows lease reads.
        watchers: observe every step of every node, in this order.
        own: settings that a node has for itself instead of `raft` and `storage`, by its name.
        core: the nodes that no fault touches.
        backoff: whether cuts stall connections, as TCP does, instead of losing frames.
        bounds: bounds of sessions and stores, alike on all nodes.

    """

    def __init__(
        self,
        nodes: int = 3,
        seed: int = 1,
        *,
        raft: RaftSettings | None = None,
        storage: StorageSettings | None = None,
        machine: Callable[[str], Machine] = lambda node: KeyValueMachine(),
        lease_reads: bool = False,
        watchers: Sequence[Watcher] = (),
        own: Mapping[str, tuple[RaftSettings, StorageSettings]] | None = None,
        core: frozenset[str] = frozenset(),
        backoff: bool = False,
        bounds: Bounds = USUAL_BOUNDS,
    ) -> None:
        self.seed = seed
        self.raft = raft or RaftSettings()
        self.storage = storage or StorageSettings()
        self.machine = machine
        self.watchers = list(watchers)
        self.timeline = Timeline(seed)
        self.own = own or {}
        self.core = core
        self.bounds = bounds
        self.quota_bytes = bounds.quota_bytes
        """The quota of every store; `raise_quota` ends it, as an operator would."""
        self.network = Network(self.timeline, core=core, backoff=backoff, silence_seconds=SILENCE_SECONDS)
        self.network.corrupts = FRAMES_ARE_CHECKED
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.configuration = Configuration.of(
            {name: address_of(name) for name in self.names},
            lease_reads=lease_reads,
            lease_ms=lease_ms_of(self.raft.election_timeout_min),
            drift_ppm=drift_ppm_of(self.raft.clock_drift),
        )
        self.folder, self.remove_folder = folder_for(self)
        self.nodes: dict[str, SimulatedNode] = {}
        for name in self.names:
            self.make_node(name)
        self.suspect: dict[str, str] = {}
        """The nodes whose disk was ruined on purpose, and how: at most a minority, see `spare`."""
        self.gone: dict[str, str] = {}
        """The nodes that therefore do not run again, and the error with which each ended."""
        self.failure: BaseException | None = None
        self.planned: Callable[[], list[Configuration]] = list
        """Returns the configurations that come into force if what was asked for is carried out."""
        self.made: list[Callable[[SimulatedNode], None]] = []
        """Called with each node that is made after the beginning, before it runs."""

    def __enter__(self) -> SimulatedCluster:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the cluster's folder from the real disk."""
        for base in self.running():
            base.engine.opened.snapshots.drop_incoming()
        for node in self.nodes.values():
            STEP_WATCHERS.pop(node.folder, None)
        self.remove_folder()

    def make_node(self, name: str) -> SimulatedNode:
        """Make a node with an empty folder; it does not run yet."""
        folder = self.folder / name
        folder.mkdir()
        files = SimulatedFiles(folder, self.timeline.chance(f"{name} files"))
        STEP_WATCHERS[folder] = files.took
        clock = self.timeline.chance(f"{name} clock")
        node = self.nodes[name] = SimulatedNode(name, folder, SimulatedTables().tables, clock, files)
        return node

    # --- processes ---------------------------------------------------------------------------------------------------

    def join(self, name: str) -> str:
        """Start a new node that is no member yet; returns its address. It waits to be added."""
        node = self.make_node(name)
        node.joins = True
        self.names.append(name)
        for tell in self.made:
            tell(node)
        self.restart(name)
        return address_of(name)

    def start(self) -> None:
        """Start a process on the disk of every node, as `restart` does."""
        for name in self.names:
            self.restart(name)

    def restart(self, name: str) -> None:
        """Start a process on the disk that the node's last process left; does nothing if one runs or it is `gone`."""
        node = self.nodes[name]
        if node.running is not None or name in self.gone:
            return
        node.boots += 1
        self.timeline.note("start", f"{name} {node.boots}")
        remove_temporary_files(node.folder)  # as `Folder` does
        tables = SimulatedTables()
        tables.tables = {table: rows.copy() for table, rows in node.disk.items()}
        try:
            opened = self.open(node, tables)
        except (CorruptionError, IdentityError) as error:
            if name not in self.suspect:
                raise
            self.given_up(name, error)
            return
        node.disk = tables.tables
        if node.crash_opening:
            node.crash_opening = False
            return
        base = SimulatedBase(
            opened,
            self.settings_of(name)[0],
            node.bus,
            self.clock_of(node),
            self.network,
            self.watchers,
            address_of(name),
            f"{name} boot {node.boots}",
        )
        node.base = base
        tables.node = base
        node.files.stop = base.end_in_step
        node.files.full = lambda: base.alive and not tables.disk_free_bytes
        tables.quota_bytes = self.quota_bytes
        if node.full:
            tables.disk_free_bytes = 0
        base.slow_commits = node.slow_commits or base.slow_commits
        base.on_end = self.ended
        base.disk_is_another, node.replaced = node.replaced, False
        base.disk_is_damaged = name in self.suspect
        for watcher in self.watchers:
            watcher.began(base)
        base.start()
        if base.alive:
            self.network.join(base)

    def open(self, node: SimulatedNode, tables: SimulatedTables) -> Opened:
        """Open the ledger on a node's disk for its next process."""
        machine: Any = self.machine(node.name)
        chance = self.timeline.chance(f"{node.name} incarnation {node.boots}")
        founding = Founding(
            node.name,
            "simulation",
            self.configuration,
            lambda: f"{chance.getrandbits(64):016x}",
            level=node.level,
            joins=node.joins,
            skipped=next((base.engine.ledger.identity.skipped for base in self.running()), ""),
        )

        def export() -> SnapshotInfo:
            base = node.running
            node.files.deaf = base is None or base.disk is not tables  # the exporter has outlived its node
            try:
                return export_state(tables, node.folder, machine)
            finally:
                node.files.deaf = False

        opened = open_ledger(tables, node.folder, founding, machine, self.settings_of(node.name)[1], export)
        sessions = opened.ledger.applier.sessions
        sessions.sessions_max, sessions.outcomes_max = self.bounds.sessions_max, self.bounds.outcomes_max
        sessions.outcome_bytes_max = self.bounds.outcome_bytes_max
        return opened

    def raise_quota(self) -> None:
        """Let all stores grow again, those of the next processes too."""
        self.quota_bytes = QUOTA_BYTES
        for base in self.running():
            base.disk.quota_bytes = QUOTA_BYTES

    def settings_of(self, name: str) -> tuple[RaftSettings, StorageSettings]:
        """Return the settings of a node."""
        return self.own.get(name, (self.raft, self.storage))

    def clock_of(self, node: SimulatedNode) -> SimulatedClock:
        """Return the clocks of a node's next process: they have the errors of its host."""
        clock = SimulatedClock(self.timeline, node.clock_chance, DRIFT_MAX)
        clock.skew_ms += node.skew_ms
        if node.creep:
            clock.creeps(node.creep)
        return clock

    def crash(self, name: str) -> None:
        """End a node's process: between two turns, or after a turn's commit and before its frames leave."""
        base = self.nodes[name].running
        if base is not None:
            base.killed = True
            base.end(SimulatedCrashError())

    def ended(self, base: SimulatedBase, error: BaseException) -> None:
        """Handle the end of a process. An error that no fault ordered becomes the failure of the run."""
        files = self.nodes[base.name].files
        power_fails = base.power_fails or files.chance.random() < 0.5
        base.orphan = not power_fails and files.chance.random() < 0.5
        files.ended(power_fails=power_fails)
        suspect = base.name in self.suspect
        if suspect and isinstance(error, CorruptionError | IdentityError):
            self.given_up(base.name, error)
            return
        ordered = isinstance(error, SimulatedCrashError) or base.disk_failed
        ordered = ordered or (base.meets_later and isinstance(error, UnsupportedVersionError | LogInconsistentError))
        # A machine that was being replaced when an actor failed is in an unknown state, so the node stops.
        if not ordered and not ((base.ordered_faults or suspect) and isinstance(error, ApplyFaultError)):
            self.failure = self.failure or error

    def count_boots(self, name: str, times: int) -> None:
        """Let a node that is down start so many times, and end each time before it has opened its ledger.

        A ruined disk may refuse that; then it is left to `restart` to tell.
        """
        node = self.nodes[name]
        node.boots += 1
        chance = self.timeline.chance(f"{name} boots {node.boots}")
        tables = SimulatedTables()
        tables.tables = node.disk
        for _ in range(times):
            identity, batch = Identity(tables, name, "simulation"), Batch()
            try:
                identity.open(lambda: f"{chance.getrandbits(64):016x}", batch)
            except CorruptionError:
                if name not in self.suspect:
                    raise
                return
            tables.commit(batch)

    def skip(self, name: str, skip: Skip | None) -> None:
        """Record in the folder of a node that is down that it skips an entry; None to skip no entry any more."""
        node, tables, batch = self.nodes[name], SimulatedTables(), Batch()
        tables.tables = node.disk
        put_skips(batch, {} if skip is None else {skip.index: skip})
        tables.commit(batch)
        node.skips = skip is not None

    # --- ruined disks ------------------------------------------------------------------------------------------------

    @property
    def spare(self) -> bool:
        """Whether one more disk may be ruined, because a majority of good ones would remain in every set of voters."""
        return self.bear(self.possible(), 1)

    def bear(self, configurations: Sequence[Configuration], more: int = 0) -> bool:
        """Whether a majority of good disks remains in every set of voters of these, if so many more are ruined.

        A learner that is to vote counts as if it voted already.
        """
        ruined = self.suspect.keys()
        return all(
            2 * (len(ruined & voters.union(each.joining)) + more) < len(voters)
            for each in configurations
            for voters, _ in each.quorum.sets
        )

    def given_up(self, name: str, error: BaseException) -> None:
        """Note that a node with a ruined disk does not run again: the node or its peers noticed the damage."""
        self.timeline.note("gone", name)
        self.gone[name] = f"{type(error).__name__}: {error}"

    def copy_of(self, name: str) -> DiskCopy:
        """Return a copy of the folder of a node, which may run."""
        node = self.nodes[name]
        return DiskCopy({table: rows.copy() for table, rows in node.disk.items()}, node.files.contents())

    def put_back(self, name: str, copy: DiskCopy, how: str) -> None:
        """Replace the folder of a node that is down with a copy."""
        node = self.nodes[name]
        self.suspect[name] = how
        node.disk = {table: rows.copy() for table, rows in copy.disk.items()}
        node.files.put_back(copy.files)
        node.replaced = True

    def restore(self, name: str, whole: DiskCopy) -> None:
        """Give a node that is down the folder that ran last again, whole: the node is to be admitted."""
        self.put_back(name, whole, "")
        del self.suspect[name]
        self.gone.pop(name, None)

    def wipe(self, name: str) -> None:
        """Empty the folder of a node that is down."""
        self.put_back(name, DiskCopy(SimulatedTables().tables, {}), WIPED)

    def flip_record(self, name: str, table: str, key: bytes, at: int, bit: int) -> None:
        """Flip a bit of a record on a node's disk, whether the node runs or not."""
        self.suspect[name] = f"a flipped bit in {table}"
        values = self.nodes[name].disk[table].values
        record = bytearray(values[key])
        record[at] ^= 1 << bit
        values[key] = bytes(record)

    def flip_file(self, name: str, file: str, at: int, bit: int) -> None:
        """Flip a bit of a node's snapshot file."""
        self.suspect[name] = "a flipped bit in a snapshot"
        self.nodes[name].files.flip(file, at, bit)

    # --- time --------------------------------------------------------------------------------------------------------

    def run(self, seconds: float, done: Callable[[], bool] | None = None) -> bool:
        """Let virtual seconds pass, fewer if `done` is true after a step; return the result of `done`.

        Raises the error of a watcher, and the error of a node that ended without an order.
        """
        end = self.timeline.now + seconds
        if done is None:
            result = self.timeline.run_until(end, lambda: self.failure is not None)
        else:
            result = self.timeline.run_until(end, lambda: self.failure is not None or done())
        if self.failure is not None:
            raise self.failure
        return result

    # --- observing ---------------------------------------------------------------------------------------------------

    def running(self) -> list[SimulatedBase]:
        """Return the running processes, in the order of the nodes."""
        return [base for node in self.nodes.values() if (base := node.running) is not None]

    def leader(self) -> SimulatedBase | None:
        """Return the running node that leads the highest term, None if no node leads."""
        leading = [base for base in self.running() if base.engine.ledger.leading_term is not None]
        return max(leading, key=lambda base: base.engine.ledger.term, default=None)

    def possible(self) -> list[Configuration]:
        """Return every configuration that may be in force, now or later.

        Those are the newest committed one, the ones behind it in any log, also of a node that is down, and those that
        were asked for.
        """
        ledgers = [node.base.engine.ledger for node in self.nodes.values() if node.base is not None]
        if not ledgers:
            return [self.configuration, *self.planned()]
        ahead = max(ledgers, key=lambda ledger: ledger.commit_index)
        found = [ahead.configurations.at(ahead.commit_index)]
        for ledger in ledgers:
            found += [each for index, each in ledger.configurations.rows if index > ahead.commit_index]
        return found + self.planned()

    def voters_least(self) -> int:
        """Return the size of the smallest set of voters that may have to decide."""
        return min(len(voters) for each in self.possible() for voters, _ in each.quorum.sets)

    def members(self) -> frozenset[str]:
        """Return the ids of all nodes that are members by any configuration that may be in force."""
        return frozenset().union(*[each.nodes for each in self.possible()])

    def addresses(self) -> dict[str, str]:
        """Return the addresses that an operator gives clients: those of the newest committed configuration."""
        return self.possible()[0].addresses

    def healthy(self) -> list[SimulatedBase]:
        """Return the running processes whose disk is good, while a node leads only those of its members."""
        bases, leader = [base for base in self.running() if base.name not in self.suspect], self.leader()
        if leader is None:
            return bases
        present = leader.engine.ledger.configuration
        return [
            base for base in bases if base.name in present.nodes and base.engine.ledger.identity.is_member_of(present)
        ]

    def settled(self) -> bool:
        """Return whether all members with a good disk run, have applied the whole same log, and no change is left."""
        bases, leader = self.healthy(), self.leader()
        if leader is None:
            return False
        present = leader.engine.ledger.configuration
        if leader.name not in present.voters or present.is_joint or present.joining:
            return False
        if len(bases) < len(present.nodes.difference(self.suspect)):
            return False
        ledgers = [base.engine.ledger for base in bases]
        last = ledgers[0].log.last if ledgers else -1
        return all(ledger.log.last == ledger.commit_index == ledger.applied == last for ledger in ledgers)
