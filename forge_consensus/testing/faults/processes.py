"""The faults of processes: kills, crashes within a turn, pauses, errors in an actor, and clocks that jump or drift."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from forge_consensus.actors.notices import TakeSnapshot
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.testing.faults.strike import NOBODY, Strike
from forge_consensus.testing.world.base import CrashAt, SimulatedBase

FAULTY_ACTORS = ("election", "replication", "membership", "snapshot", "health", "gateway")
ACTOR_FAULTS_MAX = 3
"""The most actor errors per process that are injected: more within `faults_seconds` would end the process."""
HOUR_MS = 3600 * 1000
YEAR_MS = 365 * 24 * HOUR_MS
BOOTS_OF_DAYS = 9_000
"""As many starts as a node makes in some days of a crash loop, each of which only counts its boot."""
DAYS_SHARE = 0.03
TURNS: dict[str, Callable[[Ledger], bool]] = {
    "voted": lambda ledger: (ledger.term, ledger.vote) != ledger.hard_on_disk[:2],
    "changed the log": lambda ledger: ledger.changed,
    "wrote something": lambda ledger: bool(ledger.turn.batch) or ledger.changed,
    "committed": lambda ledger: ledger.commit_index > ledger.commit_before,
}
"""Conditions on what a turn did, read from its ledger, so that `fail_turn` fails a turn worth undoing: most turns are
idle."""


def kill(strike: Strike) -> str:
    """End a process between two turns."""
    base = strike.anyone()
    if base is None:
        return NOBODY
    strike.cluster.crash(base.name)
    strike.back_later(base.name)
    return base.name


def crash_in_turn(strike: Strike) -> str:
    """End a random process within a turn."""
    return crash_soon(strike, strike.anyone())


def crash_leader_in_turn(strike: Strike) -> str:
    """End the leader within a turn."""
    return crash_soon(strike, strike.leader())


def crash_soon(strike: Strike, base: SimulatedBase | None) -> str:
    """End a process at its next commit or while it sends."""
    at, sends = strike.chance.choice(list(CrashAt)), strike.chance.randrange(6)
    if base is None:
        return NOBODY
    base.crash(at, sends)
    strike.back_later(base.name)
    return f"{base.name} {at.value}" + (f", after {sends} frames" if at is CrashAt.AMID_SENDING else "")


def power_loss(strike: Strike) -> str:
    """End all processes at one moment, some of them within a turn; restart them together or one by one."""
    together = strike.chance.random() < 0.5
    pause = strike.seconds(0.01, 1.0)
    for name in strike.victims():
        base = strike.cluster.nodes[name].running
        if base is not None:
            base.power_fails = True
            strike.cluster.crash(name)
        if together:
            strike.after(pause, partial(strike.bring_back, name))
        else:
            strike.back_later(name)
    return "together" if together else "one by one"


def pause(strike: Strike) -> str:
    """Stop a process for a while, as SIGSTOP does."""
    base, seconds = strike.anyone(), strike.chance.choice((0.05, 0.5, 1.5, 4.0)) * strike.seconds(0.0, 1.0)
    if base is None:
        return NOBODY
    base.pause(seconds)
    return f"{base.name} for {seconds:.3f} s"


def fail_actor(strike: Strike) -> str:
    """Let an actor raise, so that the turn is rolled back."""
    base = strike.anyone()
    actor, at_end = strike.chance.choice(FAULTY_ACTORS), strike.chance.random() < 0.7
    if base is None or base.ordered_faults >= ACTOR_FAULTS_MAX:
        return NOBODY
    base.fail_actor(actor, at_end=at_end)
    return f"{base.name} {actor} at the {'end' if at_end else 'beginning'} of a turn"


def fail_turn(strike: Strike) -> str:
    """Let an actor raise at the end of a turn that did something, so that there is something to roll back."""
    base, did = strike.anyone(), strike.chance.choice(list(TURNS))
    if base is None or base.ordered_faults >= ACTOR_FAULTS_MAX:
        return NOBODY
    base.ordered_faults += 1
    base.turn_fails = TURNS[did]
    return f"{base.name} at the end of a turn that {did}"


def snapshot(strike: Strike) -> str:
    """Let a node take a snapshot at an arbitrary moment."""
    base = strike.anyone()
    if base is None:
        return NOBODY
    base.tell(base.engine.actor("snapshot"), TakeSnapshot())
    return base.name


def jump_clock(strike: Strike) -> str:
    """Set a host's wall clock forward or back."""
    base, jump = strike.anyone(), strike.chance.randint(-5000, 5000)
    if base is None:
        return NOBODY
    base.clock.skew_ms += jump
    return f"{base.name} by {jump} ms"


def jump_clock_by_years(strike: Strike) -> str:
    """Set a host's wall clock wrong by hours or years; for good, or until somebody puts it right."""
    base, chance = strike.anyone(), strike.chance
    jump = chance.choice((-1, 1)) * chance.choice((90_000, HOUR_MS, int(chance.uniform(1, 20) * YEAR_MS)))
    back, seconds = chance.random() < 0.7, strike.seconds(0.0, 3.0)
    if base is None:
        return NOBODY
    set_clock(strike, base.name, jump)
    if back:
        strike.after(seconds, partial(set_clock, strike, base.name, -jump))
    return f"{base.name} by {jump} ms" + (f" for {seconds:.3f} s" if back else "")


def set_clock(strike: Strike, name: str, jump_ms: int) -> None:
    """Move a host's wall clock, for its running process and for the next ones."""
    node = strike.cluster.nodes[name]
    node.skew_ms += jump_ms
    if node.running is not None:
        node.running.clock.skew_ms += jump_ms


def creep_clock(strike: Strike) -> str:
    """Let a host's wall clock run wrong by up to a tenth, from now on."""
    base, rate = strike.anyone(), strike.chance.uniform(-0.1, 0.1)
    if base is None:
        return NOBODY
    strike.cluster.nodes[base.name].creep = rate
    base.clock.creeps(rate)
    return f"{base.name} by {1000 * rate:.1f} ms a second"


def crash_loop(strike: Strike) -> str:
    """Kill a node again and again, each time soon after its start, as a supervisor and a lasting error do."""
    base, chance = strike.anyone(), strike.chance
    times, life = chance.choice((3, 10, 30)), chance.choice((0.0, 0.01, 0.3)) * strike.pace
    boots = BOOTS_OF_DAYS if chance.random() < DAYS_SHARE else 0
    if base is None:
        return NOBODY
    name, cluster = base.name, strike.cluster

    def fall(left: int) -> None:
        cluster.crash(name)
        if boots and left == times:
            cluster.count_boots(name, boots)
        cluster.restart(name)
        if left:
            strike.after(chance.uniform(0.0, life), partial(fall, left - 1))

    fall(times)
    return f"{name} {times} times, up to {life:.3f} s apart" + (f", after {boots} boots" if boots else "")


def drift(strike: Strike) -> str:
    """Change the rate of a host's clocks, within the drift that leases tolerate."""
    base, most = strike.anyone(), rate_error_max(strike.cluster.raft.clock_drift)
    rate = 1.0 + strike.chance.choice((-most, most, strike.chance.uniform(-most, most)))
    if base is None:
        return NOBODY
    base.clock.drift(rate)
    return f"{base.name} runs at {rate:.4f}"


def rate_error_max(drift: float) -> float:
    """Return how wrong the rates of two clocks may each be if a lease must end before followers vote.

    The lease is shortened by `drift`. The leader's clock may be slow and the follower's fast: (1 - drift) / (1 - error)
    <= 1 / (1 + error).
    """
    return drift / (2.0 - drift)


def suspend_leader(strike: Strike) -> str:
    """Stop the leader's process for about the length of its lease, while its clock runs on and requests pile up."""
    leader = strike.leader()
    seconds = strike.cluster.raft.election_timeout_min * strike.chance.uniform(0.5, 2.0)
    if leader is None:
        return NOBODY
    leader.pause(seconds)
    return f"{leader.name} for {seconds:.3f} s"


PROCESS_FAULTS = (
    kill,
    crash_in_turn,
    crash_leader_in_turn,
    power_loss,
    pause,
    suspend_leader,
    fail_actor,
    fail_turn,
    snapshot,
    jump_clock,
    jump_clock_by_years,
    creep_clock,
    crash_loop,
    drift,
)
