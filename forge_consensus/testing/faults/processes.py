"""The faults of processes: they are killed, stopped, cut off within a turn, fail in an actor, and their clocks jump."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from forge_consensus.actors.notices import TakeSnapshot
from forge_consensus.storage.ledger.ledger import Ledger
from forge_consensus.testing.faults.strike import Strike
from forge_consensus.testing.world.base import CrashAt, SimulatedBase

FAULTY_ACTORS = ("election", "replication", "membership", "snapshot", "health", "gateway")
ACTOR_FAULTS_MAX = 3
"""More within the window that the options name end a process."""
NOBODY = "nobody"
TURNS: dict[str, Callable[[Ledger], bool]] = {
    "voted": lambda ledger: (ledger.term, ledger.vote) != ledger.hard_on_disk[:2],
    "changed the log": lambda ledger: ledger.changed,
    "wrote something": lambda ledger: bool(ledger.turn.batch) or ledger.changed,
    "committed": lambda ledger: ledger.commit_index > ledger.commit_before,
}
"""What a turn did that is to be taken back, told by its ledger. Between two such turns a node takes many idle ones."""


def kill(strike: Strike) -> str:
    """A process ends between two turns."""
    base = strike.anyone()
    if base is None:
        return NOBODY
    strike.cluster.crash(base.name)
    strike.back_later(base.name)
    return base.name


def crash_in_turn(strike: Strike) -> str:
    """A process ends within a turn."""
    return crash_soon(strike, strike.anyone())


def crash_leader_in_turn(strike: Strike) -> str:
    """The leader ends within a turn."""
    return crash_soon(strike, strike.leader())


def crash_soon(strike: Strike, base: SimulatedBase | None) -> str:
    """A process ends at its next commit, or while it sends."""
    at, sends = strike.chance.choice(list(CrashAt)), strike.chance.randrange(6)
    if base is None:
        return NOBODY
    base.crash(at, sends)
    strike.back_later(base.name)
    return f"{base.name} {at.value}" + (f", after {sends} frames" if at is CrashAt.AMID_SENDING else "")


def power_loss(strike: Strike) -> str:
    """All processes end at one moment, some of them within a turn, and come back together or one by one."""
    together = strike.chance.random() < 0.5
    pause = strike.seconds(0.01, 1.0)
    for name in strike.shuffled():
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
    """A process is stopped for a while."""
    base, seconds = strike.anyone(), strike.chance.choice((0.05, 0.5, 1.5, 4.0)) * strike.seconds(0.0, 1.0)
    if base is None:
        return NOBODY
    base.pause(seconds)
    return f"{base.name} for {seconds:.3f} s"


def fail_actor(strike: Strike) -> str:
    """An actor raises, so that the turn is taken back."""
    base = strike.anyone()
    actor, at_end = strike.chance.choice(FAULTY_ACTORS), strike.chance.random() < 0.7
    if base is None or base.ordered_faults >= ACTOR_FAULTS_MAX:
        return NOBODY
    base.fail_actor(actor, at_end=at_end)
    return f"{base.name} {actor} at the {'end' if at_end else 'beginning'} of a turn"


def fail_turn(strike: Strike) -> str:
    """An actor raises at the end of a turn that did something, so that there is something to be taken back."""
    base, did = strike.anyone(), strike.chance.choice(list(TURNS))
    if base is None or base.ordered_faults >= ACTOR_FAULTS_MAX:
        return NOBODY
    base.ordered_faults += 1
    base.turn_fails = TURNS[did]
    return f"{base.name} at the end of a turn that {did}"


def snapshot(strike: Strike) -> str:
    """A node takes a snapshot out of turn."""
    base = strike.anyone()
    if base is None:
        return NOBODY
    base.tell(base.engine.actor("snapshot"), TakeSnapshot())
    return base.name


def jump_clock(strike: Strike) -> str:
    """A wall clock is set."""
    base, jump = strike.anyone(), strike.chance.randint(-5000, 5000)
    if base is None:
        return NOBODY
    base.clock.skew_ms += jump
    return f"{base.name} by {jump} ms"


def drift(strike: Strike) -> str:
    """A clock runs faster or slower than before, as far as leases allow for it."""
    base, most = strike.anyone(), rate_error_max(strike.cluster.raft.clock_drift)
    rate = 1.0 + strike.chance.choice((-most, most, strike.chance.uniform(-most, most)))
    if base is None:
        return NOBODY
    base.clock.drift(rate)
    return f"{base.name} runs at {rate:.4f}"


def rate_error_max(drift: float) -> float:
    """How wrong two clocks may each be so that a lease, shortened by `drift`, ends before followers vote.

    The leader's clock may be slow and the follower's fast: (1 - drift) / (1 - error) <= 1 / (1 + error).
    """
    return drift / (2.0 - drift)


def suspend_leader(strike: Strike) -> str:
    """The leader's host sleeps for about as long as its lease lasts, while its clock runs on and requests pile up."""
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
    drift,
)
