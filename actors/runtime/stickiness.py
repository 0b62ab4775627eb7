"""Stickiness: until when a node refuses its vote to others for the sake of a leader (dissertation 4.2.3 and 6.4.1)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Stickiness:
    """The facts for that decision. The election actor writes them; the election actor and the gate read them.

    It begins without a leader when a node starts. It outlives a rebuild of the actors, because the leader that was
    followed lives on: only `leads` ends with the actors. Times are seconds of the node's running clock.
    """

    leads: bool = False
    """Whether this node leads."""
    follows: bool = False
    """Whether a leader is known and the connection to it is not known to be broken."""
    heard_at: float | None = None
    """When a leader's request last arrived."""
    no_vote_before: float = 0.0
    """Under leases: no vote before this time, because before its restart this node may have confirmed a lease."""

    def holds(self, now: float, *, timeout: float, lease_reads: bool) -> bool:
        """Whether a vote must be refused at `now`.

        `timeout` is the minimal election timeout in seconds: it protects a leader after its last request.
        A broken connection to the leader ends stickiness at once, so that an election can begin. With `lease_reads`
        only time ends it, because a leader that is cut off may still answer reads under its lease.
        """
        if self.leads or now < self.no_vote_before:
            return True
        if self.heard_at is None or now - self.heard_at >= timeout:
            return False
        return lease_reads or self.follows
