"""A short load on a cluster: how many writes it takes in a second, and how long each takes."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from forge_consensus.checks.latencies import Latencies
from forge_consensus.client.sync import Client
from forge_consensus.config.client import ClientSettings
from forge_consensus.errors import CommandError, ConsensusError, OutcomeUnknownError
from forge_consensus.events.text import seconds_text
from forge_consensus.storage.machines.machine import Command

PREFIX: Final = "forge-consensus/check-perf/"
KEYS: Final = 1000
"""So many keys are written again and again, so that the check takes little of the cluster's memory."""
VALUE: Final = "x" * 256
SLOW_SECONDS: Final = 0.5
"""The 99th percentile may be so long."""
LOOK_SECONDS: Final = 0.005
"""How often the check looks whether the last answers have come."""


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


class Outcome(NamedTuple):
    """What became of one write."""

    at: float
    """When that was known."""
    took: float
    code: str
    """Of the error that it ended with; empty if it was acknowledged."""


class Load:
    """Writes to keys of its own, as many at once as were asked for, and what became of them.

    Outcomes come on this thread and on the client's, so they are only appended to a list.
    """

    def __init__(self, client: Client, seconds: float, timeout: float) -> None:
        self.client, self.seconds, self.timeout = client, seconds, timeout
        self.prefix = f"{PREFIX}{secrets.token_hex(4)}/"
        self.submitted = 0
        self.outcomes: list[Outcome] = []

    def begin(self) -> None:
        """Write one key, so that the session is open before the clock runs. Raises `ConsensusError`."""
        try:
            self.client.put(f"{self.prefix}0", VALUE, self.timeout)
        except CommandError as error:
            text = f"{error.text}; the check needs the built-in machine of keys and values"
            raise CommandError(error.kind, text) from error
        except OutcomeUnknownError:
            self.remove()
            raise

    def run(self) -> float:
        """Write for the whole time, and wait for the last answers; return how many seconds that took."""
        began = time.perf_counter()
        try:
            while time.perf_counter() - began < self.seconds:
                self.write()
        finally:
            self.wait_for_answers()
        return max((outcome.at for outcome in self.outcomes), default=began) - began

    def write(self) -> None:
        """Hand over one write; waits while as many are outstanding as may be."""
        began = time.perf_counter()
        command = Command("set", {"key": f"{self.prefix}{self.submitted % KEYS}", "value": VALUE})
        self.submitted += 1
        try:
            pending = self.client.submit(command, self.timeout)
        except ConsensusError as error:
            self.note(began, error)
        else:
            pending.add_done_callback(lambda done: self.note(began, done.error))

    def note(self, began: float, error: ConsensusError | None) -> None:
        """Note what became of a write."""
        now = time.perf_counter()
        self.outcomes.append(Outcome(now, now - began, error.code if error else ""))

    def wait_for_answers(self) -> None:
        """Wait until every write has ended, for as long as a call may take and a second more."""
        give_up = time.perf_counter() + self.timeout + 1.0
        while len(self.outcomes) < self.submitted and time.perf_counter() < give_up:
            time.sleep(LOOK_SECONDS)

    def remove(self) -> tuple[int, str]:
        """Remove the keys; return how many they were, and why some may be left."""
        try:
            removed = self.client.delete_prefix(self.prefix, self.timeout)
        except ConsensusError as error:
            return 0, f"they could not be removed ({error.code})"
        return removed, "writes without an answer may be carried out yet" if self.failures() else ""

    def failures(self) -> Counter[str]:
        """Code of an error -> how many writes ended with it."""
        found = Counter(outcome.code for outcome in self.outcomes if outcome.code)
        if silent := self.submitted - len(self.outcomes):
            found["NO_ANSWER"] = silent
        return found


def measure_load(endpoints: Sequence[str], seconds: float, outstanding: int, timeout: float) -> LoadReport:
    """Write to a cluster for so many seconds, with so many writes under way at once, and remove what was written.

    Raises `ConsensusError` if not even the first write is carried out.
    """
    with Client(endpoints, timeout, settings=ClientSettings(outstanding_max=outstanding)) as client:
        load = Load(client, seconds, timeout)
        load.begin()
        try:
            took = load.run()
        finally:
            removed, left = load.remove()  # after an interruption too
    return report_of(load, took, outstanding, removed, left)


def report_of(load: Load, took: float, outstanding: int, removed: int, left: str) -> LoadReport:
    """Return what became of a load that is over."""
    latency = Latencies.of([outcome.took for outcome in load.outcomes if not outcome.code])
    failures = load.failures()
    return LoadReport(
        is_ok=not failures and latency.count > 0 and latency.p99_seconds <= SLOW_SECONDS,
        writes=latency.count,
        failed=failures.total(),
        seconds=round(took, 3),
        writes_per_second=round(latency.count / took, 1) if took else 0.0,
        latency=latency,
        outstanding=outstanding,
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
