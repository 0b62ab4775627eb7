"""The simulated cluster: nodes with disks that outlive their processes, in one virtual time under one seed."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forge_consensus.actors.options import Options
from forge_consensus.actors.simulated import SimulatedBase, SimulatedCrashError, SimulatedTables, Watcher
from forge_consensus.actors.simulated_network import Network
from forge_consensus.actors.simulated_time import SimulatedClock, Timeline
from forge_consensus.events.bus import EventBus
from forge_consensus.storage.configuration import Configuration
from forge_consensus.storage.export import export_state
from forge_consensus.storage.kv import KeyValueMachine
from forge_consensus.storage.limits import Limits
from forge_consensus.storage.machine import ApplyFaultError, Machine
from forge_consensus.storage.memory_tables import MemoryTable
from forge_consensus.storage.opening import Founding, open_ledger

SHARED_MEMORY = Path("/dev/shm")
"""Where snapshots lie, if there is such a place: a flush costs nothing there."""
DRIFT_MAX = 0.01


@dataclass(slots=True)
class SimulatedNode:
    """What of a node outlives its processes: its disk and its snapshots."""

    name: str
    folder: Path
    disk: dict[str, MemoryTable]
    clock_chance: random.Random
    base: SimulatedBase | None = None
    boots: int = 0
    bus: EventBus = field(default_factory=EventBus)

    @property
    def running(self) -> SimulatedBase | None:
        """The node's process, if it runs."""
        return self.base if self.base is not None and self.base.alive else None


class SimulatedCluster:
    """A whole cluster in one process: `start`, `run` for so many virtual seconds, `crash`, `restart`, `close`.

    `machine` makes the state machine of the node with that name anew for each of its processes. Whoever looks on is in
    `watchers`; what a watcher raises, and any error of a node that nobody ordered, comes out of `run`. Use it in a
    ``with`` statement.
    """

    def __init__(
        self,
        nodes: int = 3,
        seed: int = 1,
        *,
        options: Options | None = None,
        limits: Limits | None = None,
        machine: Callable[[str], Machine] = lambda node: KeyValueMachine(),
        lease_reads: bool = False,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.seed = seed
        self.options = options or Options()
        self.limits = limits or Limits()
        self.machine = machine
        self.watchers = list(watchers)
        self.timeline = Timeline(seed)
        self.network = Network(self.timeline)
        self.names = [f"n{number}" for number in range(1, nodes + 1)]
        self.configuration = Configuration.of({name: f"{name}:7000" for name in self.names}, lease_reads=lease_reads)
        shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="forge-simulation-", dir=shared))
        self.nodes: dict[str, SimulatedNode] = {}
        for name in self.names:
            folder = self.folder / name
            folder.mkdir()
            disk = SimulatedTables().tables
            self.nodes[name] = SimulatedNode(name, folder, disk, self.timeline.chance(f"{name} clock"))
        self.failure: BaseException | None = None

    def __enter__(self) -> SimulatedCluster:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove what lies on the real disk."""
        for base in self.running():
            base.engine.opened.snapshots.drop_incoming()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- processes ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all nodes."""
        for name in self.names:
            self.restart(name)

    def restart(self, name: str) -> None:
        """Begin a process on the node's disk as the last one left it; does nothing if one runs."""
        node = self.nodes[name]
        if node.running is not None:
            return
        node.boots += 1
        self.timeline.note("start", f"{name} {node.boots}")
        tables = SimulatedTables()
        tables.tables = {table: rows.copy() for table, rows in node.disk.items()}
        machine: Any = self.machine(name)
        chance = self.timeline.chance(f"{name} incarnation")
        founding = Founding(name, "simulation", self.configuration, lambda: f"{chance.getrandbits(64):016x}")
        opened = open_ledger(
            tables,
            node.folder,
            founding,
            machine,
            self.limits,
            lambda: export_state(tables, node.folder, machine),
        )
        clock = SimulatedClock(self.timeline, node.clock_chance, DRIFT_MAX)
        base = SimulatedBase(
            opened,
            self.options,
            node.bus,
            clock,
            self.network,
            self.watchers,
            self.configuration.addresses[name],
            f"{name} boot {node.boots}",
        )
        node.base = base
        node.disk = tables.tables
        tables.node = base
        base.on_end = self.ended
        for watcher in self.watchers:
            watcher.began(base)
        base.start()
        if base.alive:
            self.network.join(base)

    def crash(self, name: str) -> None:
        """End a node's process between two turns."""
        base = self.nodes[name].running
        if base is not None:
            base.end(SimulatedCrashError())

    def ended(self, base: SimulatedBase, error: BaseException) -> None:
        """A process ended. Only what was ordered may end one."""
        ordered = isinstance(error, SimulatedCrashError) or base.disk_failed
        # A machine that was being replaced when an actor failed is in no known state: the node stops.
        if not ordered and not (base.ordered_faults and isinstance(error, ApplyFaultError)):
            self.failure = self.failure or error

    # --- time --------------------------------------------------------------------------------------------------------

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let so much virtual time pass, or less if `done` says so; returns what it says.

        Raises what a watcher found, and the error of a node that ended without an order.
        """
        end = self.timeline.now + seconds
        result = self.timeline.run_until(end, lambda: self.failure is not None or done())
        if self.failure is not None:
            raise self.failure
        return result

    # --- looking -----------------------------------------------------------------------------------------------------

    def running(self) -> list[SimulatedBase]:
        """The processes that run, by name of node."""
        return [base for node in self.nodes.values() if (base := node.running) is not None]

    def leader(self) -> SimulatedBase | None:
        """The running node that leads the highest term."""
        leading = [base for base in self.running() if base.engine.ledger.leading is not None]
        return max(leading, key=lambda base: base.engine.ledger.term, default=None)

    def settled(self) -> bool:
        """Whether all nodes run, one leads, and all have applied the same and everything."""
        bases = self.running()
        if len(bases) < len(self.names) or self.leader() is None:
            return False
        ledgers = [base.engine.ledger for base in bases]
        last = ledgers[0].log.last
        return all(ledger.log.last == ledger.commit_index == ledger.applied == last for ledger in ledgers)
