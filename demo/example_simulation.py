"""Example: a state machine with a mistake that no test on one machine shows, and the simulation that names it."""

import random
import time
from collections.abc import Iterable
from typing import Any

import msgpack

from forge_consensus import Command, Entry
from forge_consensus.testing import Call, Simulation, ViolationError, Workload


class Locks:
    """Locks that expire. The mistake: it asks the node's own clock what time it is."""

    def __init__(self) -> None:
        self.held: dict[str, tuple[str, float]] = {}

    def apply(self, entry: Entry) -> Any:
        """Give the lock to whoever asks, unless somebody else holds it; returns who has it."""
        name, owner = entry.command.payload["name"], entry.command.payload["owner"]
        now = self.now(entry)
        holder, until = self.held.get(name, (owner, 0.0))
        if holder == owner or until < now:
            self.held[name] = holder, until = owner, now + 2.0
        return [holder, until]

    def now(self, entry: Entry) -> float:
        """The time, in seconds."""
        return time.time()

    def query(self, query: Any) -> Any:
        """Who held a lock last."""
        return self.held.get(query["name"], (None, 0.0))[0]

    def snapshot(self) -> list[bytes]:
        """Everything."""
        return [msgpack.packb(self.held)]

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Everything again."""
        self.held = {name: tuple(value) for name, value in msgpack.unpackb(b"".join(chunks)).items()}


class RightLocks(Locks):
    """The same without the mistake: an entry carries the time, the same on every node."""

    def now(self, entry: Entry) -> float:
        """The leader's time, as the entry has it."""
        return entry.time_ms / 1000


class Contention(Workload):
    """What the simulated clients do."""

    def command(self, chance: random.Random, client: str) -> Call:
        """Ask for one of two locks."""
        name = chance.choice(("left", "right"))
        return Call("acquire", name, client, Command("acquire", {"name": name, "owner": client}))

    def query(self, chance: random.Random, client: str) -> Call:
        """Look who has it."""
        return Call("holder", "left", query={"name": "left"})


if __name__ == "__main__":
    for machine in (Locks, RightLocks):
        try:
            with Simulation(nodes=5, seed=3, state_machine=machine, workload=Contention()) as simulation:
                simulation.run()
            print(f"{machine.__name__}: all agree, in {simulation.cluster.timeline.now:.0f} virtual seconds")
        except ViolationError as violation:
            print(f"{machine.__name__}: {violation}")
