"""Hostile clients and a moody machine: commands that no honest client sends, and a machine that raises anything."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

import msgpack

from forge_consensus.storage.machines.machine import DEPTH_MAX, Command, Entry
from forge_consensus.testing.rules.agreement import CountingMachine
from forge_consensus.testing.simulator.workload import Call, CountingWorkload, Workload

HOSTILE: Final = "hostile"
"""The kind of a call whose outcome is not judged: whatever it does, it must harm nobody else."""
LARGEST: Final = "largest"
"""The kind of a call with a command of the largest legal size."""
BIG_VALUE_BYTES: Final = 40_000
"""The size of the value that batches read again and again."""
BIG_READS: Final = 250
"""The number of such reads in one batch: together far beyond the largest result."""
LARGE_RESULT_BYTES: Final = 1 << 20
"""A result that is legal, and so large that a frame of answers has no room for another one."""


class OddError(Exception):
    """An error of a user's own machine, whose text cannot be made."""

    def __str__(self) -> str:
        raise ValueError("this error has no text")


ERRORS: Final[dict[str, Callable[[], Exception]]] = {
    "PermissionError": lambda: PermissionError("bob does not hold the lock"),
    "TimeoutError": lambda: TimeoutError("the offer has ended"),
    "FileExistsError": lambda: FileExistsError("there is such a name"),
    "ConnectionError": lambda: ConnectionError("the line is busy"),
    "OSError": lambda: OSError("a reason of the machine's own"),
    "KeyError": lambda: KeyError("no such key"),
    "RecursionError": lambda: RecursionError("maximum recursion depth exceeded"),
    "StopIteration": StopIteration,
    "ExceptionGroup": lambda: ExceptionGroup("two", [PermissionError("no"), KeyError("none")]),
    "OddError": OddError,
    "UnicodeError": lambda: UnicodeError("\udc80 is no character"),
}
"""The errors that a moody machine raises: each comes from the machine's own code, alike on every node."""


class MoodyMachine(CountingMachine):
    """A `CountingMachine` that raises, or returns what cannot be a result, when a command asks for it."""

    def apply(self, entry: Entry) -> Any:
        """Count a key, or do what the command's type says. A command that raises has changed nothing."""
        name, payload = entry.command.type, entry.command.payload
        if name == "raise":
            raise ERRORS[payload["what"]]()
        if name == "unencodable":
            return {1, 2, 3}
        if name == "large":
            return bytes(int(payload["bytes"]))
        payload["key"]  # an honest machine checks before it changes anything
        return super().apply(entry)

    def query(self, query: Any) -> Any:
        """Return a counter, or do what the query asks for."""
        if "raise" in query:
            raise ERRORS[query["raise"]]()
        if "large" in query:
            return bytes(query["large"])
        return {1, 2, 3} if "unencodable" in query else super().query(query)


class HostileWorkload(Workload):
    """Mixes calls that no honest client makes into a workload, and some of the largest legal size.

    Their outcomes are not judged, but everybody else's are.

    Args:
        workload: the workload whose other calls are as they were.
        share: the share of hostile commands.
        largest_bytes: the largest legal command, in bytes; 0 to send none.
        own_machine: whether the commands go to a `MoodyMachine` and not to the built-in one.
        seed: the seed of the hostile queries, whose draws move no other draw.

    """

    def __init__(
        self, workload: Workload, share: float, largest_bytes: int, *, own_machine: bool, seed: int = 0
    ) -> None:
        self.queries = random.Random(f"hostile queries {seed}")
        self.workload = workload
        self.share = share
        self.largest_bytes = largest_bytes
        self.own_machine = own_machine
        self.model = workload.model
        self.may_fail = workload.may_fail

    def command(self, chance: random.Random, client: str) -> Call:
        """Return the next command: hostile, very large, or an ordinary one."""
        draw = chance.random()
        if draw < self.share:
            return self.hostile(chance)
        if self.largest_bytes and draw < self.share + 0.05:
            size = self.largest_bytes - chance.choice((0, 0, 1, 100))
            return Call(LARGEST, LARGEST, data=largest_command(size, "increment" if self.own_machine else "set"))
        return self.workload.command(chance, client)

    def query(self, chance: random.Random, client: str) -> Call:
        """Return the next query: hostile, or an ordinary one."""
        if self.queries.random() >= self.share:
            return self.workload.query(chance, client)
        return Call(HOSTILE, HOSTILE, query=self.hostile_query(self.queries))

    def hostile_query(self, chance: random.Random) -> Any:
        """Return a query that makes a `MoodyMachine` raise or return too much, or that is of no machine."""
        if self.own_machine and chance.random() < 0.6:
            asked = {"raise": chance.choice(sorted(ERRORS))}, {"large": 5 << 20}, {"unencodable": True}
            return chance.choice(asked)
        return chance.choice(ODD_QUERIES)

    def at_the_end(self) -> Iterable[Call]:
        """Return the ordinary queries at the end."""
        return self.workload.at_the_end()

    def hostile(self, chance: random.Random) -> Call:
        """Return a call that no honest client makes."""
        if chance.random() < 0.4:
            return Call(HOSTILE, HOSTILE, data=chance.choice(BROKEN))
        commands = self.moody(chance) if self.own_machine else self.abusive(chance)
        return Call(HOSTILE, HOSTILE, data=packed(chance.choice(commands)))

    def moody(self, chance: random.Random) -> list[tuple[str, dict[str, Any]]]:
        """Return commands that make a `MoodyMachine` raise or return too much."""
        return [
            ("raise", {"what": chance.choice(sorted(ERRORS))}),
            ("raise", {"what": chance.choice(sorted(ERRORS))}),
            ("unencodable", {}),
            ("large", {"bytes": chance.choice((LARGE_RESULT_BYTES, 5 << 20))}),
            ("increment", {"no key": 1}),
        ]

    def abusive(self, chance: random.Random) -> list[tuple[str, dict[str, Any]]]:
        """Return commands that cost the built-in machine much, or that it cannot carry out."""
        reads = [{"type": "get", "key": "big"}] * chance.choice((3, BIG_READS))
        return [
            ("set", {"key": "big", "value": bytes(BIG_VALUE_BYTES)}),
            ("set", {"key": "big", "value": bytes(BIG_VALUE_BYTES)}),
            ("batch", {"ops": reads}),
            ("batch", {"ops": reads}),
            ("batch", {"ops": reads}),
            ("batch", {"ops": [{"type": "set", "key": f"b{number}", "value": number} for number in range(300)]}),
            ("batch", {"ops": [{"type": "batch", "ops": []}] * 3}),
            ("increment", {"key": "big", "by": 1}),
            ("increment", {"key": "most", "by": (1 << 63) - 1}),
            ("set", {"key": "deep", "value": nested(DEPTH_MAX - 2)}),
            ("explode", {"key": "big"}),
            ("set", {"key": 5, "value": 1}),
            ("cas", {}),
        ]


class FloodWorkload(CountingWorkload):
    """Counts one key, again and again; the outcomes are not judged, because a thousand at once cannot be."""

    def command(self, chance: random.Random, client: str) -> Call:
        """Increment the one key of all these clients."""
        return Call(HOSTILE, HOSTILE, data=packed(("increment", {"key": "flood"})))


def nested(depth: int) -> list[Any]:
    """Return a list within a list, and so on."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def packed(command: tuple[str, dict[str, Any]]) -> bytes:
    """Return a command as a client could send it, whether or not the shipped client would."""
    return cast("bytes", msgpack.packb(list(command)))


def largest_command(size: int, name: str = "set") -> bytes:
    """Return a command of exactly this many bytes, as far as its length prefixes allow: it sets or counts one key."""
    bare = len(Command(name, {"key": LARGEST, "value": bytes(size)}).encode()) - size
    return Command(name, {"key": LARGEST, "value": bytes(max(0, size - bare))}).encode()


ODD_QUERIES: Final[tuple[Any, ...]] = (
    None,
    5,
    b"\xff",
    [],
    {},
    {"get": 5},
    {"get": "x" * 100_000},
    {"scan": "", "limit": -1},
    {"scan": "", "limit": 1 << 62},
    {"scan": 5},
    {"scan": ""},
    {"count": ""},
    {"explode": True},
    nested(DEPTH_MAX + 50),
)
"""Queries that no honest client makes; some of them have an answer all the same."""


BROKEN: Final = (
    b"",
    b"\xc1",
    b"\xff" * 40,
    b"\x91" * 500,
    b"\x92\xa3set",
    b"\x92\xa3set\x81\xff\xff",
    b"\x92\xa3set\x81\xa3key\xa3\xff\xfe\xfd",
    b"\xdd\xff\xff\xff\xff",
    msgpack.packb(["set", {"key": "k", "value": nested(200)}]),
    msgpack.packb(["x" * 300, {}]),
    msgpack.packb(["set", [1, 2]]),
    msgpack.packb({"set": 1}),
    msgpack.packb(["set", {1: 2}]),
    msgpack.packb(["set", {"key": "k", "value": msgpack.Timestamp(1)}]),
)
"""Bytes that are no command, or one that no client of ours makes."""
