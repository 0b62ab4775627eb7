"""Example: a state machine with a mistake that no test on one machine shows, and the simulation that finds it."""

import random
import time
from collections.abc import Iterable
from typing import Any

import msgpack

from forge_consensus import Command, Entry
from forge_consensus.testing import Call, Simulation, ViolationError, Workload


class Locks:
    """Locks that expire. The mistake: the machine reads the node's own clock."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, float]] = {}

    def apply(self, entry: Entry) -> Any:
        """Give the lock to the caller, unless somebody else holds it; return the holder and the time of expiry."""
        name, owner = entry.command.payload["name"], entry.command.payload["owner"]
        now = self.now(entry)
        holder, until = self.held.get(name, (owner, 0.0))
        if holder == owner or until < now:
            self.held[name] = holder, until = owner, now + 2.0
        return [holder, until]

    def now(self, entry: Entry) -> float:
        """Return the time in seconds."""
        return time.time()

    def query(self, query: Any) -> Any:
        """Return the last holder of a lock."""
        return self.held.get(query["name"], (None, 0.0))[0]

    def snapshot(self) -> list[bytes]:
        """Return the whole state as chunks of bytes."""
        return [msgpack.packb(self.held)]

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the state with that of a snapshot."""
        self.held = {name: tuple(value) for name, value in msgpack.unpackb(b"".join(chunks)).items()}


class RightLocks(Locks):
    """The same without the mistake: an entry carries the elapsed time, which is the same on every node."""

    def now(self, entry: Entry) -> float:
        """Return for how long the cluster has been running, which no wall clock can set."""
        return entry.elapsed_ms / 1000


class Contention(Workload):
    """What the simulated clients do."""

    def command(self, chance: random.Random, client: str) -> Call:
        """Request one of two locks."""
        name = chance.choice(("left", "right"))
        return Call("acquire", name, client, Command("acquire", {"name": name, "owner": client}))

    def query(self, chance: random.Random, client: str) -> Call:
        """Ask for the holder of a lock."""
        return Call("holder", "left", query={"name": "left"})


if __name__ == "__main__":
    for machine in (Locks, RightLocks):
        try:
            with Simulation(nodes=5, seed=3, state_machine=machine, workload=Contention()) as simulation:
                simulation.run()
            print(f"{machine.__name__}: all agree, in {simulation.cluster.timeline.now:.0f} virtual seconds")
        except ViolationError as violation:
            print(f"{machine.__name__}: {violation}")
