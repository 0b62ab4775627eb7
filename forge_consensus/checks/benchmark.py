"""How much a cluster of one's own does in a second, with so many calls under way at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from forge_consensus.checks.closed_loop import ClosedLoop
from forge_consensus.checks.latencies import Latencies
from forge_consensus.checks.load import Load, other_machine
from forge_consensus.client.sync import Client
from forge_consensus.errors import AuthenticationFailedError, CommandError, ConsensusError

PREFIX: Final = "forge-consensus/bench/"
KEYS_MAX: Final = 10_000
STATE_BYTES_MAX: Final = 16 << 20
"""All values together take so much of each node's memory at most, so large values have fewer keys."""
WARM_SHARE: Final = 0.2
WARM_SECONDS_MAX: Final = 1.0
"""Before each measurement the same work is done for this share of its time, and no longer than this."""
WRITES: Final = "write"
READS: Final = "read"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a cluster did with calls of one kind, so many of them under way at once."""

    work: str
    """``write``, or ``read`` for linearizable reads that the leader answers."""
    outstanding: int
    seconds: float
    """From the first call to the last answer."""
    per_second: float
    """How many commands or queries succeeded in a second."""
    latency: Latencies
    """From the call to the answer, of calls that succeeded."""
    failed: int
    failures: dict[str, int] = field(default_factory=dict)
    """Code of an error -> how many calls ended with it."""
    leader_flushes: int | None = None
    """How often the leader flushed its disk meanwhile, for whomever; None if it does not tell, or another one leads."""
    many: int = 1
    """How many commands each call handed over, by `submit_many`; such a call counts as failed if one of them did."""


@dataclass(frozen=True, slots=True)
class BenchmarkReport:
    """What a cluster did with all of a benchmark."""

    is_ok: bool
    """Whether every call succeeded."""
    value_bytes: int
    keys: int
    prefix: str
    """What all keys of the benchmark begin with."""
    measured: list[Measured]
    removed_keys: int = 0
    left: str = ""
    """Why keys with this prefix may be left; empty if they were removed."""
    text: str = ""
    """The outcome as a sentence for people."""


def keys_for(value_bytes: int) -> int:
    """Return how many keys a benchmark has whose values are so large."""
    return max(1, min(KEYS_MAX, STATE_BYTES_MAX // value_bytes))


def is_used(client: Client) -> bool:
    """Whether a cluster holds keys already, or does not let this client look. Raises `ConsensusError`."""
    try:
        return bool(client.scan("", 1))
    except AuthenticationFailedError:
        return True
    except CommandError as error:
        raise other_machine(error) from error


def measure_benchmark(
    client: Client,
    outstanding: Sequence[int],
    seconds: float,
    value_bytes: int,
    *,
    reads: bool,
    many: int = 1,
    tell: Callable[[str], object] = lambda text: None,
) -> BenchmarkReport:
    """Write to a cluster as fast as it answers, then read, with one number of calls under way after the other.

    Everything that was written is removed at the end, after an interruption too.

    Args:
        client: the client of the cluster, whose timeout is that of every call.
        outstanding: how many calls are under way at once, one measurement each.
        seconds: how long each measurement takes, besides a fifth of that before it to warm up.
        value_bytes: how large each value is.
        reads: whether to measure linearizable reads too.
        many: how many writes each call hands over at once.
        tell: takes a line of progress before each measurement.

    Raises `ConsensusError` if not even the first write is carried out.

    """
    load = Load(client, PREFIX, "x" * value_bytes, keys_for(value_bytes))
    load.begin()
    loop = ClosedLoop(load.write, 1)
    measured: list[Measured] = []
    try:
        for work in (WRITES, READS) if reads else (WRITES,):
            for at_once in outstanding:
                tell(f"{work}s, {at_once:,} at once, {seconds:g} s")
                write = load.write if many == 1 else partial(load.write_list, many=many)
                loop = ClosedLoop(write if work == WRITES else load.read, at_once)
                measured.append(measure_one(client, loop, work, seconds, many if work == WRITES else 1))
    finally:
        removed, left = load.remove(loop)
    failures = sum((Counter(each.failures) for each in measured), Counter[str]())
    return BenchmarkReport(
        is_ok=not failures,
        value_bytes=value_bytes,
        keys=load.keys,
        prefix=load.prefix,
        measured=measured,
        removed_keys=removed,
        left=left,
        text=failed_text(failures),
    )


def measure_one(client: Client, loop: ClosedLoop, work: str, seconds: float, many: int) -> Measured:
    """Run a loop to warm up, then to measure; each of its calls is so many commands or queries."""
    loop.run(min(seconds * WARM_SHARE, WARM_SECONDS_MAX))
    loop.took.clear()
    before = leader_flushes(client)
    took = loop.run(seconds)
    after = leader_flushes(client)
    latency = Latencies.of(loop.took)
    return Measured(
        work=work,
        outstanding=loop.outstanding,
        seconds=round(took, 3),
        per_second=round(latency.count * many / took, 1),
        latency=latency,
        failed=loop.failures.total(),
        failures=dict(loop.failures),
        leader_flushes=after[1] - before[1] if before and after and before[0] == after[0] else None,
        many=many,
    )


def leader_flushes(client: Client) -> tuple[Any, int] | None:
    """Return which process leads, and how often it has flushed its disk; None if it does not tell."""
    try:
        status = client.status()
    except ConsensusError:
        return None
    if status["role"] != "leader":
        return None
    return (status["node_id"], status.get("boot")), status["flushes_total"]


def failed_text(failures: Counter[str]) -> str:
    """Return the sentence that says which calls failed."""
    if not failures:
        return "every call succeeded"
    reasons = ", ".join(f"{count:,} with {code}" for code, count in failures.most_common())
    return f"calls failed: {reasons}; see forge-consensus status and the logs of the nodes"
