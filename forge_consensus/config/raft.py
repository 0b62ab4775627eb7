"""The options of a node: its times and sizes, with the defaults and what each must fit to."""

from __future__ import annotations

from dataclasses import dataclass

from forge_consensus.errors import InvalidConfigError

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """Times in seconds, sizes in bytes. Names follow the seed's configuration where it has one."""

    heartbeat_interval: float = 0.1
    """How often a leader is heard when it has nothing to say."""
    election_timeout_min: float = 0.8
    election_timeout_max: float = 1.2
    """How long a follower waits for a leader that falls silent without a disconnect; drawn anew each time."""
    rank_delay: float = 0.015
    """After the leader's connection broke: wait rank times this before asking for pre-votes, so that two
    followers, who learn of a crash 0.14 ms apart, do not split the vote."""
    fast_retries: int = 3
    """How often such a quick election is tried before the election timeout rules again."""
    check_interval: float = 0.5
    """How often peers are asked whether they live (the seed's health.check_interval)."""
    suspect_checks: int = 2
    fail_checks: int = 4
    """After so many unanswered checks a peer is suspected, failed."""
    message_bytes_max: int = 8 * MIB
    """No frame is larger (the seed's transport.max_message_size)."""
    command_bytes_max: int = 1 * MIB
    run_bytes_max: int = 512 * KIB
    """One AppendEntries carries about so much."""
    inflight_frames_max: int = 64
    inflight_bytes_max: int = 8 * MIB
    """How much may be under way to one follower without an answer."""
    append_timeout_heartbeats: int = 3
    """An append that is not answered for so many heartbeat intervals sends the peer back to probing."""
    chunk_bytes: int = 256 * KIB
    """One piece of a snapshot."""
    chunk_timeout: float = 1.0
    outstanding_max: int = 20_000
    """What one client may have unanswered here; beyond it the answer is "busy"."""
    apply_entries_max: int = 4096
    """How many entries one turn applies."""
    turn_frames_max: int = 512
    turn_bytes_max: int = 8 * MIB
    """How much one turn takes in."""
    faults_max: int = 3
    faults_seconds: float = 60.0
    """More faults of actors than this within that time end the process."""
    clock_drift: float = 0.1
    """A lease is shortened by this part of the election timeout."""

    def __post_init__(self) -> None:
        """Raise `InvalidConfigError` where the values do not fit together (the seed's rules 4 to 6)."""
        if self.heartbeat_interval <= 0:
            raise InvalidConfigError(f"heartbeat_interval is {self.heartbeat_interval} s: it must be positive")
        if self.election_timeout_min < 2 * self.heartbeat_interval:
            raise InvalidConfigError(
                f"election_timeout_min is {self.election_timeout_min} s: it must be at least twice the "
                f"heartbeat_interval of {self.heartbeat_interval} s, or one late heartbeat ends a leader"
            )
        if self.election_timeout_max <= self.election_timeout_min:
            raise InvalidConfigError(
                f"election_timeout_max is {self.election_timeout_max} s: it must be above "
                f"election_timeout_min, {self.election_timeout_min} s, or nodes stand at the same moment"
            )
        if self.command_bytes_max + self.run_bytes_max + 64 * KIB > self.message_bytes_max:
            raise InvalidConfigError(
                "message_bytes_max must hold a run of entries and a largest command besides: raise it, or lower "
                "run_bytes_max or command_bytes_max"
            )
