"""The workload of keys with revisions and leases: every command and query of the built-in machine beyond plain values.

Clients use what they were told: leases that were granted, revisions that they read, names of appended keys.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from forge_consensus.storage.machines.machine import Command
from forge_consensus.testing.histories.history import Operation
from forge_consensus.testing.rules.key_log import HOUR_MS
from forge_consensus.testing.simulator.workload import Call, Workload

ALL: Final = "k/"
"""What all keys of this workload begin with."""
QUEUE: Final = ALL + "q/"
PREFIXES: Final = (ALL, ALL + "a", QUEUE, ALL + "none")
NAMES: Final = tuple(ALL + name for name in ("a1", "a2", "b", "b/", "b/1", "count", "é"))
TTLS_MS: Final = (100, 250, 250, 600, 600, 1500)
"""Of leases that end within a run, at pace 1."""
KNOWN_MAX: Final = 8
"""How many of the last leases, appended keys and revisions are used again."""
QUEUE_MAX: Final = 20
"""With so many appended keys that were not deleted, clients delete instead."""

COMMANDS: Final = {
    "set": 6,
    "cas": 5,
    "increment": 4,
    "delete": 3,
    "get": 1,
    "lease_grant": 3,
    "lease_keep_alive": 8,
    "lease_revoke": 1,
    "append": 3,
    "batch": 2,
    "transaction": 5,
    "delete_prefix": 0.3,
    "expire": 0.3,
}
"""The commands and how often each is drawn."""
OPS: Final = ("set", "set", "cas", "increment", "delete", "get", "append", "lease_keep_alive", "lease_revoke")
QUERIES: Final = ("get", "entry", "entry", "entries", "scan", "count", "lease", "lease", "leases", "changes")


class LeasedKeysWorkload(Workload):
    """Keys with revisions and leases. Its calls are judged by the log, so they are of no model and may fail.

    Each command has a correlation id, by which its entry is found.
    """

    def __init__(self, pace: float = 1.0) -> None:
        self.pace = pace
        self.number = 0
        self.leases: deque[int] = deque([1], KNOWN_MAX)
        """Ids that were told; the first one is that of no lease."""
        self.appended: deque[str] = deque([QUEUE + "none"])
        self.revisions: deque[int] = deque([0, 1], KNOWN_MAX)
        self.values: dict[str, Any] = {}
        """What keys had when they were read."""

    # --- what clients are told ---------------------------------------------------------------------------------------

    def told(self, operation: Operation) -> None:
        """Learn from an answer."""
        result = operation.result
        if operation.kind == "lease_grant":
            self.leases.append(result)
        elif operation.kind == "append":
            self.appended.append(result)
        elif operation.kind == "entry" and result is not None:
            key, value, created, modified, lease = result
            self.values[key] = value
            self.revisions += (created, modified)
            if lease:
                self.leases.append(lease)

    # --- parts of calls ----------------------------------------------------------------------------------------------

    def key(self, chance: random.Random) -> str:
        """Return a key."""
        return self.queued(chance) if chance.random() < 0.1 else chance.choice(NAMES)

    def queued(self, chance: random.Random) -> str:
        """Return one of the appended keys, most often the oldest one."""
        return self.appended[0] if chance.random() < 0.7 else chance.choice(list(self.appended))

    def lease(self, chance: random.Random) -> int:
        """Return a lease, most often the newest one."""
        return self.leases[-1] if chance.random() < 0.5 else chance.choice(list(self.leases))

    def ttl_ms(self, chance: random.Random) -> int:
        """Return how long a lease lives."""
        return HOUR_MS if chance.random() < 0.1 else int(chance.choice(TTLS_MS) * self.pace)

    def on_lease(self, chance: random.Random) -> dict[str, Any]:
        """Return what a write says of its lease."""
        drawn = chance.random()
        if drawn < 0.35:
            return {"lease": self.lease(chance)}
        if drawn < 0.55:
            return {"ttl_ms": self.ttl_ms(chance)}
        return {"lease": 0} if drawn < 0.6 else {}

    def value(self, chance: random.Random) -> Any:
        """Return a value that was never set, or now and then one that equals others only nearly."""
        self.number += 1
        return chance.choice((1, True, 1.0, None, [1], "1")) if chance.random() < 0.05 else self.number * 1000

    def fields(self, chance: random.Random, name: str) -> dict[str, Any]:
        """Return the payload of a simple command."""
        if name == "append":
            return {"prefix": QUEUE, "value": self.value(chance), **self.on_lease(chance)}
        if name in {"lease_keep_alive", "lease_revoke"}:
            return {"lease": self.lease(chance)}
        if name == "increment":
            key = ALL + "count" if chance.random() < 0.7 else self.key(chance)
            return {"key": key, **({} if chance.random() < 0.5 else {"by": chance.randint(1, 3)})}
        key = self.key(chance)
        if name == "delete" and (len(self.appended) > QUEUE_MAX or chance.random() < 0.3):
            key = self.appended.popleft() if len(self.appended) > 1 else key
        if name in {"get", "delete"}:
            return {"key": key}
        fields: dict[str, Any] = {"key": key, "value": self.value(chance)}
        if name == "cas":
            fields["expected"] = self.values.get(key) if chance.random() < 0.8 else None
        if chance.random() < 0.7:
            self.values[key] = fields["value"]
        return fields | self.on_lease(chance)

    def ops(self, chance: random.Random, most: int) -> list[dict[str, Any]]:
        """Return some ops."""
        names = [chance.choice(OPS) for _ in range(chance.randint(0, most))]
        return [{"type": name, **self.fields(chance, name)} for name in names]

    def compare(self, chance: random.Random) -> list[Any]:
        """Return a comparison."""
        target, key = chance.choice(("value", "created", "modified", "lease", "exists", "exists")), self.key(chance)
        if target == "value":
            return [target, key, chance.choice(("==", "!=")), self.values.get(key)]
        if target == "exists":
            return [target, key, "==", chance.random() < 0.5]
        if target == "lease":
            return [target, key, chance.choice(("==", "!=")), chance.choice((0, self.lease(chance)))]
        return [target, key, chance.choice(("==", "!=", "<", ">")), chance.choice(list(self.revisions))]

    def payload(self, chance: random.Random, name: str) -> dict[str, Any]:
        """Return the payload of a command."""
        if name == "lease_grant":
            return {"ttl_ms": self.ttl_ms(chance)}
        if name == "expire":
            return {}
        if name == "delete_prefix":
            return {"prefix": chance.choice(PREFIXES[1:]), "limit": chance.choice((1, 3, 10_000))}
        if name == "batch":
            return {"ops": self.ops(chance, 4)}
        if name == "transaction":
            compares = [self.compare(chance) for _ in range(chance.randint(0, 2))]
            then = self.ops(chance, 3)
            return {"if": compares, "then": then, **({"else": self.ops(chance, 2)} if chance.random() < 0.6 else {})}
        return self.fields(chance, name)

    # --- calls -------------------------------------------------------------------------------------------------------

    def command(self, chance: random.Random, client: str) -> Call:
        """Return a command of any kind."""
        name = chance.choices(list(COMMANDS), list(COMMANDS.values()))[0]
        payload = self.payload(chance, name)
        self.number += 1
        told = f"{client} {self.number}"
        return Call(name, ALL, told, Command(name, payload, told))

    def query(self, chance: random.Random, client: str) -> Call:
        """Return a query of any kind."""
        name = chance.choice(QUERIES)
        asks: dict[str, Callable[[], dict[str, Any]]] = {
            "get": lambda: {"get": self.key(chance)},
            "entry": lambda: {"entry": self.key(chance)},
            "entries": lambda: {"entries": chance.choice(PREFIXES), **self.page(chance)},
            "scan": lambda: {"scan": chance.choice(PREFIXES), "limit": chance.choice((2, 1000))},
            "count": lambda: {"count": chance.choice(PREFIXES)},
            "lease": lambda: {"lease": self.lease(chance)},
            "leases": lambda: {"leases": chance.choice((0, self.lease(chance))), "limit": chance.choice((2, 1000))},
            "changes": lambda: {
                "changes": chance.choice(PREFIXES),
                "since": max(1, chance.choice(list(self.revisions))),
                "limit": chance.choice((1, 10, 1000)),
            },
        }
        query = asks[name]()
        return Call(name, ALL, query, query=query)

    def page(self, chance: random.Random) -> dict[str, Any]:
        """Return which page of entries is asked for."""
        page: dict[str, Any] = {"limit": chance.choice((2, 1000)), "reverse": chance.random() < 0.5}
        for name in ("start", "end", "after"):
            if chance.random() < 0.3:
                page[name] = self.key(chance)
        return page

    def at_the_end(self) -> Iterable[Call]:
        """Return queries for all keys and leases."""
        queries = ({"entries": ALL}, {"scan": ALL}, {"count": ALL}, {"leases": 0})
        return [Call(next(iter(query)), ALL, query, query=query) for query in queries]
