"""The progress of one follower: what its leader knows about it, and how much the leader may send."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from math import inf

from forge_consensus.config.raft import RaftSettings


class Phase(Enum):
    """How the leader sends entries to a follower."""

    PROBE = "probe"
    """Nobody knows yet where the logs agree, so one frame is sent at a time."""
    REPLICATE = "replicate"
    """The logs agree, so frames are sent without waiting for replies."""
    SNAPSHOT = "snapshot"
    """The entries that the follower needs next are compacted away; a snapshot is being sent."""


PAUSE_HEARTBEATS_MAX = 32
"""The longest pause before entries that a follower refused are sent again, in heartbeat intervals."""


@dataclass(slots=True)
class Progress:
    """One follower as its leader sees it. Invariant: match < next.

    `next` is the index of the entry to send next, `match` the index up to which the follower's disk is known to agree
    with the leader's log. `heard` is the second of real time after which its last reply arrived; `asked` is when the
    first heartbeat after that reply left, None if there was none, infinite until that turn is over. `acked_sent` is
    when the newest request that it answered left, in nanoseconds of CLOCK_BOOTTIME; a lease counts from there.
    `inflight` holds the unanswered frames as (last index, bytes, time sent).
    """

    settings: RaftSettings
    next: int
    heard: float
    asked: float | None = None
    phase: Phase = Phase.PROBE
    match: int = 0
    inflight: deque[tuple[int, int, float]] = field(default_factory=deque)
    inflight_bytes: int = 0
    probe_sent: bool = False
    acked_sent: int = 0
    acked_round: int = 0
    doubted: int = 0
    doubted_ns: int = 0
    """The `match` that an answer last contradicted, and when, in nanoseconds of CLOCK_BOOTTIME; 0 if none did."""
    refusal: str = ""
    """Why the follower takes no entries, see `REFUSALS`; empty if it does."""
    resume_at: float | None = None
    """When to try entries again that the follower refused; None if it refuses none."""
    pause: float = 0.0

    @property
    def may_send(self) -> bool:
        """Whether a frame with entries may go to the follower now."""
        if self.resume_at is not None:
            return False
        if self.phase is Phase.PROBE:
            return not self.probe_sent
        return (
            self.phase is Phase.REPLICATE
            and len(self.inflight) < self.settings.inflight_frames_max
            and self.inflight_bytes < self.settings.inflight_bytes_max
        )

    def sent(self, last: int, size: int, now: float) -> None:
        """Note that entries up to the index `last`, of `size` bytes, left for the follower at `now`."""
        if self.phase is Phase.PROBE:
            self.probe_sent = True
            return
        self.next = last + 1
        self.inflight.append((last, size, now))
        self.inflight_bytes += size

    def acknowledged(self, index: int) -> bool:
        """Note that the follower has everything up to `index` on disk; returns whether its match moved."""
        while self.inflight and self.inflight[0][0] <= index:
            self.inflight_bytes -= self.inflight.popleft()[1]
        news = index > self.match
        self.match = max(self.match, index)
        self.next = max(self.next, self.match + 1)
        if self.phase is Phase.PROBE or (self.phase is Phase.SNAPSHOT and news):
            self.become(Phase.REPLICATE)
        return news

    def refused(self, agreed: int) -> bool:
        """The follower lacks the previous entry: probe after `agreed`; returns whether to do so now."""
        if self.phase is Phase.SNAPSHOT:
            return False
        following = max(self.match, agreed) + 1
        if self.phase is Phase.PROBE and self.probe_sent and following >= self.next:
            return False  # an answer to an older frame
        self.become(Phase.PROBE)
        self.next = following
        return True

    def took_nothing(self, now: float) -> None:
        """Send no entries for a while, because the follower refused some: each time for twice as long."""
        interval = self.settings.heartbeat_interval
        self.pause = min(max(2 * self.pause, 2 * interval), PAUSE_HEARTBEATS_MAX * interval)
        self.resume_at = now + self.pause
        if self.phase is not Phase.SNAPSHOT:
            self.become(Phase.PROBE)

    def resume(self, now: float) -> None:
        """End the pause after a refusal if it is over."""
        if self.resume_at is not None and now >= self.resume_at:
            self.resume_at = None

    def takes_entries(self) -> None:
        """Note that the follower takes entries (again)."""
        self.refusal, self.resume_at, self.pause = "", None, 0.0

    def become(self, phase: Phase) -> None:
        """Enter a phase. Frames in flight no longer count, so sending continues after the known match."""
        self.phase = phase
        self.probe_sent = False
        self.inflight.clear()
        self.inflight_bytes = 0
        if self.match or phase is not Phase.PROBE:
            self.next = self.match + 1
        # While no match is known, keep the optimistic `next`: falling back to 1 would send the whole log again.

    def answered(self, sent_ns: int, round_: int, after: float) -> None:
        """Note that the follower answered a request of this round, which left at `sent_ns`.

        The answer arrived `after` that second, and after the request had left. Which of its seconds it was does not
        show, if the last turn was long; so the earliest is taken, because the follower may be cut off since.
        """
        self.heard, self.asked = max(after, sent_ns / 1e9), None
        self.acked_sent = max(self.acked_sent, sent_ns)
        self.acked_round = max(self.acked_round, round_)

    def ask(self, acted: float) -> None:
        """Note that a heartbeat is sent in this turn; what the last turn sent had left at `acted`."""
        if self.asked is None:
            self.asked = inf
        elif self.asked == inf:
            self.asked = acted

    def is_silent(self, now: float, answer_seconds: float) -> bool:
        """Whether the follower can be blamed for not answering within an election timeout.

        Only if it was asked and had `answer_seconds` to answer: otherwise the silence is this node's own, because its
        turns are slow.
        """
        asked = self.asked is not None and now - self.asked >= answer_seconds
        return asked and now - self.heard >= self.settings.election_timeout_min

    def silent_since(self, now: float) -> float:
        """For how many seconds the oldest frame in flight has been unanswered; 0 if none is in flight."""
        return now - self.inflight[0][2] if self.inflight else 0.0
