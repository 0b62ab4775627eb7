"""A short load on a cluster: how many writes it takes in a second, and how long each takes."""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from forge_consensus.checks.closed_loop import ClosedLoop
from forge_consensus.checks.latencies import Latencies
from forge_consensus.client.pending import Pending
from forge_consensus.client.pending_many import PendingMany
from forge_consensus.client.sync import Client
from forge_consensus.errors import CommandError, ConsensusError, OutcomeUnknownError
from forge_consensus.events.text import seconds_text
from forge_consensus.storage.machines.machine import Command

PREFIX: Final = "forge-consensus/check-perf/"
KEYS: Final = 1000
"""So many keys are written again and again, so that the check takes little of the cluster's memory."""
VALUE: Final = "x" * 256
SLOW_SECONDS: Final = 0.5
"""The 99th percentile may be so long."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a cluster did with a load."""

    is_ok: bool
    writes: int
    """How many were acknowledged."""
    failed: int
    """How many were not; each may have been carried out all the same."""
    seconds: float
    """From the first write to the last answer."""
    writes_per_second: float
    latency: Latencies
    """From the call to the answer, for writes that were acknowledged."""
    outstanding: int
    failures: dict[str, int] = field(default_factory=dict)
    """Code of an error -> how many writes ended with it."""
    removed_keys: int = 0
    prefix: str = ""
    """What all keys of the check begin with."""
    left: str = ""
    """Why keys with this prefix may be left; empty if they were removed."""
    text: str = ""
    """The judgement as a sentence for people."""


class Load:
    """Writes of one size to keys of its own, again and again, and reads of them; removed at the end.

    Args:
        client: the client of the cluster, whose timeout is that of every call.
        prefix: what all keys begin with; a random part follows, because several may run at once.
        value: what every key is set to.
        keys: how many keys there are.

    """

    def __init__(self, client: Client, prefix: str = PREFIX, value: str = VALUE, keys: int = KEYS) -> None:
        self.client, self.value, self.keys = client, value, keys
        self.prefix = f"{prefix}{secrets.token_hex(4)}/"
        self.written = 1
        """How many keys may hold a value."""

    def begin(self) -> None:
        """Write one key, so that the session is open before the clock runs. Raises `ConsensusError`."""
        try:
            self.client.put(f"{self.prefix}0", self.value)
        except CommandError as error:
            raise other_machine(error) from error
        except OutcomeUnknownError:
            self.remove()
            raise

    def write(self, number: int) -> Pending[Any]:
        """Begin the write of that number, and return its future. Raises `ConsensusError`."""
        self.written = max(self.written, min(number + 1, self.keys))
        return self.client.submit(self.command(number))

    def write_list(self, number: int, many: int) -> PendingMany:
        """Begin the list of that number of so many writes, and return its future. Raises `ConsensusError`."""
        numbers = range(number * many, (number + 1) * many)
        self.written = max(self.written, min(numbers.stop, self.keys))
        return self.client.submit_many(map(self.command, numbers))

    def command(self, number: int) -> Command:
        """The write of that number."""
        return Command("set", {"key": f"{self.prefix}{number % self.keys}", "value": self.value})

    def read(self, number: int) -> Pending[Any]:
        """Begin the linearizable read of that number of a key that was written, and return its future."""
        return self.client.ask_query(f"{self.prefix}{number % self.written}")

    def remove(self, loop: ClosedLoop | None = None) -> tuple[int, str]:
        """Remove the keys; return how many they were, and why some may be left after the writes of that loop."""
        try:
            removed = self.client.delete_prefix(self.prefix)
        except ConsensusError as error:
            return 0, f"they could not be removed ({error.code})"
        unknown = loop is not None and (loop.failures or loop.open)
        return removed, "writes without an answer may be carried out yet" if unknown else ""


def other_machine(error: CommandError) -> CommandError:
    """Return the error for a machine that refused a command or a query on keys."""
    return CommandError(error.kind, f"{error.text}; this needs the built-in machine of keys and values")


def measure_load(client: Client, seconds: float, outstanding: int) -> LoadReport:
    """Write to a cluster for so many seconds, with so many writes under way at once, and remove what was written.

    Raises `ConsensusError` if not even the first write is carried out.
    """
    load = Load(client)
    load.begin()
    loop = ClosedLoop(load.write, outstanding)
    took = 0.0
    try:
        took = loop.run(seconds)
    finally:
        removed, left = load.remove(loop)  # after an interruption too
    return report_of(load, loop, took, removed, left)


def report_of(load: Load, loop: ClosedLoop, took: float, removed: int, left: str) -> LoadReport:
    """Return what became of a load that is over."""
    latency = Latencies.of(loop.took)
    failures = loop.failures
    return LoadReport(
        is_ok=not failures and latency.count > 0 and latency.p99_seconds <= SLOW_SECONDS,
        writes=latency.count,
        failed=failures.total(),
        seconds=round(took, 3),
        writes_per_second=round(latency.count / took, 1) if took else 0.0,
        latency=latency,
        outstanding=loop.outstanding,
        failures=dict(failures),
        removed_keys=removed,
        prefix=load.prefix,
        left=left,
        text=judged(latency, failures),
    )


def judged(latency: Latencies, failures: Counter[str]) -> str:
    """Return the sentence that says whether the cluster is fast and lossless."""
    if failures:
        reasons = ", ".join(f"{count} with {code}" for code, count in failures.most_common())
        return f"writes failed: {reasons}; see forge-consensus status and the logs of the nodes"
    if not latency.count:
        return "no write was answered in the time given: allow more with --seconds"
    usual, allowed = seconds_text(latency.p99_seconds), seconds_text(SLOW_SECONDS)
    if latency.p99_seconds > SLOW_SECONDS:
        return (
            f"too slow: one of a hundred writes takes {usual} or longer, above {allowed}; see forge-consensus check "
            "disk on each host, and whether fewer --outstanding help"
        )
    return f"good: 99 of 100 writes took at most {usual}, below {allowed}"
