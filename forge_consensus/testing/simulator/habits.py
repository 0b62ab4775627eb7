"""The habits of a simulated client and its user: sizes of pipelines, waiting times, and how a client ends."""

from __future__ import annotations

import random
from dataclasses import dataclass

from forge_consensus.config.client import ClientSettings
from forge_consensus.testing.simulator.session_driver import Misdelivery


@dataclass(slots=True)
class Habits:
    """The behaviour of a client and its user, in shares of all cases and in virtual seconds."""

    pipeline_max: int = 4
    """The number of calls that are outstanding at once."""
    burst_max: int = 4
    """The number of commands that are submitted together."""
    frame_items_max: int = 2000
    """The number of commands in one frame: with a small one, a burst is several frames that can overtake each other."""
    read_share: float = 0.35
    """The share of queries among the calls."""
    lease_share: float = 0.0
    """The share of queries that rely on the leader's lease."""
    stale_share: float = 0.0
    """The share of queries that any node answers from its own state."""
    route_share: float = 0.0
    """The share of queries that choose their node, a bound of the age, or an entry that the answer must reflect."""
    rest_s_max: float = 0.1
    """The longest rest of the user between calls."""
    patience_s: float = 0.4
    """The time after which the client repeats an unanswered request; the first time, to the same leader."""
    timeout_s: float = 30.0
    """The time that the user waits for an outcome."""
    hurry_share: float = 0.0
    """The share of calls whose user waits only for about `patience_s`."""
    leave_share: float = 1.0
    """The share of unknown outcomes after which a user closes the client and starts another."""
    kill_share: float = 0.0
    """The share of actions that are a kill of the user: a new client starts, the old one sends nothing any more."""
    few_endpoints: bool = False
    """Whether the client is given the addresses of only a bare majority, and learns the others."""
    copy_share: float = 0.0
    """The share of frames with commands that are sent a second time, at once or much later, to any node."""
    stray_share: float = 0.0
    """The share of frames with commands or queries that reach another node than the client meant."""
    away_share: float = 0.0
    """The share of rests that last up to `away_s_max`."""
    away_s_max: float = 0.0
    ttl_ms: int = 60_000
    """The lifetime of a session without a command, in virtual milliseconds."""
    pace: float = 1.0
    """The number of virtual seconds in one second of the client's own times."""

    @classmethod
    def drawn(cls, chance: random.Random, clients: int, lease_share: float, pace: float) -> Habits:
        """The habits of one of `clients` clients, at a plan's pace."""
        pipeline_max = chance.choice((1, 2, 4, 4, 12))
        ttl_s = chance.choice((1.0, 3.0, 60.0))
        return cls(
            pipeline_max=pipeline_max,
            burst_max=chance.choice((1, 2, pipeline_max)),
            frame_items_max=chance.choice((1, 3, 2000)),
            read_share=chance.choice((0.2, 0.35, 0.5)),
            lease_share=lease_share,
            stale_share=chance.choice((0.0, 0.2)),
            rest_s_max=0.035 * max(2, clients) * pace,
            patience_s=chance.choice((0.1, 0.4, 1.0)) * pace,
            timeout_s=chance.choice((2.0, 10.0, 30.0)) * pace,
            hurry_share=chance.choice((0.0, 0.02, 0.2)),
            leave_share=chance.choice((0.0, 0.5, 1.0)),
            kill_share=chance.choice((0.0, 0.0, 0.01)),
            few_endpoints=chance.random() < 0.3,
            copy_share=chance.choice((0.0, 0.05, 0.3)),
            stray_share=chance.choice((0.0, 0.0, 0.05)),
            away_share=chance.choice((0.0, 0.02)),
            away_s_max=2 * min(ttl_s, 3.0) * pace,
            ttl_ms=int(1000 * ttl_s * pace),
            pace=pace,
        )

    @classmethod
    def of_reader(cls, lease_share: float, pace: float) -> Habits:
        """The habits of a user who reads often and impatiently, and writes little."""
        return cls(
            pipeline_max=3,
            read_share=0.95,
            lease_share=lease_share,
            rest_s_max=0.15 * pace,
            patience_s=0.15 * pace,
            hurry_share=0.3,
            leave_share=0.0,
            stray_share=0.2,
            pace=pace,
        )

    @classmethod
    def of_flood(cls, pace: float) -> Habits:
        """The habits of a user who keeps a thousand commands outstanding."""
        return cls(
            pipeline_max=1000,
            burst_max=1000,
            read_share=0.0,
            rest_s_max=0.2 * pace,
            patience_s=10.0 * pace,
            leave_share=0.0,
            pace=pace,
        )

    def settings(self) -> ClientSettings:
        """The settings of the client, in its own time."""
        patience = self.patience_s / self.pace
        return ClientSettings(
            frame_items_max=self.frame_items_max,
            session_ttl_ms=max(1, int(self.ttl_ms / self.pace)),
            silence_seconds=0.3 * min(1.0, patience) if patience < 10.0 else patience,
            resend_seconds=patience,
            resend_passed_seconds=0.1 * patience,
        )

    def misdelivery(self) -> Misdelivery:
        """The faults between the client and the nodes."""
        return Misdelivery(self.copy_share, 20 * self.patience_s, self.stray_share)
