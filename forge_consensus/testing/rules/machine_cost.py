"""The cost of machines: commands and queries that take virtual time, and a bound for what a command may collect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from forge_consensus.storage.machines.machine import Entry
from forge_consensus.testing.rules.violations import demand

RESULT_BYTES_MAX = 5 << 20
"""No command of the built-in machine may collect a larger result before somebody bounds it."""
SLOW_EACH = 200
"""One command in so many takes the longest time."""
SHARES = ((1, 1.0), (3, 0.1), (20, 0.01))
"""Of so many in `SLOW_EACH`, the share of the longest time; all others take a thousandth."""

STATE_SHARES = {"restore": 1.0, "snapshot": 0.1, "import_chunk": 0.01}
"""By the name of what a machine does with its whole state or a chunk of it: the share of the longest time."""


@dataclass(slots=True)
class CostOfMachine:
    """Lets the commands and queries of one node's machine take virtual time.

    A command takes the same share of `slowest` seconds on every node, drawn by the hash of its index, see `SHARES`. A
    query draws by the number of queries before it. A whole `restore` takes `slowest`, and a `snapshot` a tenth of it.
    """

    spend: Callable[[float], None]
    slowest: float
    queries: int = 0

    def of_command(self, entry: Entry) -> None:
        """Spend what a command takes."""
        self.spend(self.slowest * share_of(crc32(b"%d" % entry.index)))

    def of_query(self, ask: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Wrap a machine's `query`, so that it takes time."""

        def slow(query: Any) -> Any:
            self.queries += 1
            self.spend(self.slowest * share_of(crc32(b"query %d" % self.queries)))
            return ask(query)

        return slow

    def of_state(self, what: str) -> None:
        """Spend what a `restore`, a `snapshot` or the import of one chunk of a snapshot takes."""
        self.spend(self.slowest * STATE_SHARES[what])


def share_of(drawn: int) -> float:
    """Return the share of the longest time that a drawn number stands for."""
    rank = drawn % SLOW_EACH
    return next((share for below, share in SHARES if rank < below), 0.001)


def check_size(entry: Entry, result: Any) -> None:
    """Demand that a command has not collected far more than a result may have. Raises `ViolationError`."""
    if isinstance(result, list):
        size = size_of(result)
        demand(
            size <= RESULT_BYTES_MAX,
            "cost",
            f"the command {entry.command.type!r} at {entry.index} collects a result of {size} bytes: one that takes "
            "all memory would end every node, at each of its starts",
        )


def size_of(value: Any) -> int:
    """Return about how many bytes a value takes, as far as lists of texts and bytes go.

    A list that is in the value several times takes its memory once.
    """
    size, waiting, seen = 0, [value], set[int]()
    while waiting:
        part = waiting.pop()
        if isinstance(part, bytes | str):
            size += len(part)
        elif isinstance(part, list) and id(part) not in seen:
            seen.add(id(part))
            waiting += part
    return size
