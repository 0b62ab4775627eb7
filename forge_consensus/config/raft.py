"""The settings of a node's Raft: its times, its sizes, and how they must fit to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forge_consensus.config.setting import check, setting
from forge_consensus.errors import InvalidConfigError

KIB = 1 << 10
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """Times in seconds, sizes in bytes.

    Raises `InvalidConfigError` for a value beyond its bounds and for values that do not fit together.
    """

    SECTION: ClassVar = "raft"

    heartbeat_interval: float = setting(
        0.1,
        unit="s",
        minimum=0.001,
        original="raft.heartbeat_interval",
        what="How often a leader that has nothing to send tells the others that it leads.",
        why="About ten heartbeats fit into an election timeout, so several may be lost before a follower stands.",
    )
    election_timeout_min: float = setting(
        0.8,
        unit="s",
        minimum=0.001,
        original="raft.election_timeout_min",
        what="The shortest time that a follower waits for a silent leader before it stands for election. In a cluster "
        "that is founded with lease reads it becomes the length of the leases; later values must not be shorter.",
        why="One computing thread beside an embedded node can hold it up for half a second; a leader that crashed is "
        "noticed sooner, by its broken connection.",
    )
    election_timeout_max: float = setting(
        1.2,
        unit="s",
        minimum=0.001,
        original="raft.election_timeout_max",
        what="The longest such time; each wait is drawn anew between the two.",
        why="A range of half the timeout keeps two followers from standing at the same moment.",
    )
    rank_delay: float = setting(
        0.015,
        unit="s",
        minimum=0.0,
        what="After the leader's connection broke, the k-th follower in the order of ids waits k times this.",
        why="Followers learn of a crash 0.14 ms apart; without different delays they would split the vote.",
    )
    fast_retries: int = setting(
        3,
        minimum=0,
        what="How many such quick elections are tried before the election timeout decides again.",
        why="One nearly always suffices; more only keep a cluster busy that has no majority.",
    )
    check_interval: float = setting(
        0.5,
        reload="hot",
        unit="s",
        minimum=0.001,
        original="health.check_interval",
        what="How often each peer is asked whether it is alive.",
        why="Health only reports: two checks a second show a failure within two seconds and cost nothing.",
    )
    suspect_checks: int = setting(
        2,
        reload="hot",
        minimum=1,
        what="After how many unanswered checks a peer counts as suspected.",
        why="One answer may be late on a busy host.",
    )
    fail_checks: int = setting(
        4,
        reload="hot",
        minimum=1,
        original="health.unhealthy_threshold",
        what="After how many unanswered checks a peer counts as failed.",
        why="Two seconds without an answer are longer than any pause of a healthy node.",
    )
    link_timeout: float = setting(
        2.0,
        unit="s",
        minimum=0.1,
        what="A connection on which the other host acknowledges nothing for so long is given up and made again.",
        why="After an outage of the network a healthy cluster serves within a second; TCP alone waits about as long as "
        "the outage lasted. A slow link goes on acknowledging; a stopped process is left after five such times.",
    )
    connections_max: int = setting(
        4096,
        minimum=64,
        what="How many connections of clients the node accepts; fewer where the process may open fewer files.",
        why="Peers must always find a file descriptor, and each connection may hold 16 frames of memory.",
    )
    half_open_max: int = setting(
        512,
        minimum=16,
        what="How many connections at each of the node's two ports may have proven no key yet or, where nobody needs "
        "one, sent nothing; the next one takes the place of the oldest of the network that has most of them.",
        why="An honest handshake takes some round trips, so this suffices for thousands of new connections a second.",
    )
    handshakes_max: int = setting(
        200,
        minimum=1,
        what="Where connections prove a key: how many handshakes a second are judged of each client's key, and of all "
        "strangers of one network. Further ones are put off, and members' never are.",
        why="A thousand processes that start at once with one key are let in within seconds; a flood costs little.",
    )
    message_bytes_max: int = setting(
        8 * MIB,
        unit="bytes",
        minimum=KIB,
        original="transport.max_message_size",
        what="No frame between nodes or from clients may be larger.",
        why="It bounds the memory that one sender can occupy, and holds the largest command several times.",
    )
    command_bytes_max: int = setting(
        1 * MIB,
        unit="bytes",
        minimum=1,
        what="The largest command that a client may send; the same on all nodes.",
        why="Larger values belong into a store for files; each command is kept by every node.",
    )
    append_bytes_max: int = setting(
        512 * KIB,
        unit="bytes",
        minimum=1,
        what="About how many bytes of entries one AppendEntries carries.",
        why="Larger frames delay the heartbeats behind them and save nothing more.",
    )
    inflight_frames_max: int = setting(
        64,
        reload="hot",
        minimum=1,
        what="How many AppendEntries may be on their way to one follower without an answer.",
        why="Enough for a round trip of many turns; more would only fill buffers of a slow follower.",
    )
    inflight_bytes_max: int = setting(
        8 * MIB,
        reload="hot",
        unit="bytes",
        minimum=1,
        what="How many bytes of entries may be on their way to one follower without an answer.",
        why="It fills a link of 1 Gbit/s with a round trip of 60 ms.",
    )
    append_timeout_heartbeats: int = setting(
        3,
        minimum=1,
        what="After how many heartbeat intervals without an answer to an append the peer is probed again.",
        why="Fewer would probe at every late answer, more would let a lost frame delay its entries.",
    )
    chunk_bytes: int = setting(
        256 * KIB,
        unit="bytes",
        minimum=1,
        what="The size of one piece of a snapshot that is sent.",
        why="Writing one piece fits into a turn, so a follower that installs a snapshot goes on answering.",
    )
    chunk_timeout: float = setting(
        1.0,
        unit="s",
        minimum=0.001,
        what="After this time without an answer a receiver of a snapshot is asked how much of it it has.",
        why="Longer than any healthy round trip with a write to disk.",
    )
    chunk_window: int = setting(
        16,
        reload="hot",
        minimum=1,
        maximum=1024,
        what="How many pieces of a snapshot may be on their way to one follower without an answer.",
        why="It fills a link of 500 Mbit/s with a round trip of 60 ms. Fewer are sent where they would wait in a queue "
        "for longer than half a heartbeat interval.",
    )
    snapshot_bytes_per_second: int = setting(
        0,
        reload="hot",
        unit="bytes/s",
        minimum=0,
        what="How many bytes of snapshots this node sends in a second, to all followers together; 0 is no bound.",
        why="The window keeps the queue behind the entries short; a bound is for a link that others use too.",
    )
    outstanding_max: int = setting(
        20_000,
        reload="hot",
        minimum=1,
        what="How many commands of one client may be unanswered here; further ones are answered with busy.",
        why="It bounds the memory of one client and is several times what the fastest one needs.",
    )
    apply_entries_max: int = setting(
        4096,
        reload="hot",
        unit="entries",
        minimum=1,
        what="How many entries one turn applies.",
        why="So many small commands fit into the time budget of a turn; `turn_seconds_max` ends a slice of large ones.",
    )
    turn_seconds_max: float = setting(
        0.025,
        reload="hot",
        unit="s",
        minimum=0.0001,
        what="How long one turn applies entries, and how long it answers queries; the rest waits for the next turn. It "
        "is never longer than a quarter of the heartbeat interval.",
        why="So heartbeats leave in time, however much work waits.",
    )
    backlog_entries_max: int = setting(
        50_000,
        reload="hot",
        unit="entries",
        minimum=1,
        what="How many entries of the log may wait for the state machine; further commands are answered with busy.",
        why="It bounds what a leader must apply before it can answer anything new.",
    )
    backlog_seconds_max: float = setting(
        0.5,
        reload="hot",
        unit="s",
        minimum=0.001,
        what="Commands or queries that would wait longer than this for the state machine, as it goes at present, are "
        "answered with busy.",
        why="What waits longer finds its client gone, and keeps everybody behind it waiting; a command of the built-in "
        "machine waits for some milliseconds.",
    )
    turn_frames_max: int = setting(
        512,
        reload="hot",
        minimum=1,
        what="How many frames of each sender one turn takes in.",
        why="Large enough for full batches, small enough that heartbeats are not late.",
    )
    turn_bytes_max: int = setting(
        8 * MIB,
        reload="hot",
        unit="bytes",
        minimum=1,
        what="How many bytes of clients' frames one turn takes in.",
        why="One transaction of that size fits into the time budget of a turn.",
    )
    faults_max: int = setting(
        3,
        minimum=0,
        what="How many faults of actors within `faults_seconds` are repaired; one more ends the process.",
        why="A fault that returns is no accident; an ended process is seen and restarted from outside.",
    )
    faults_seconds: float = setting(
        60.0,
        unit="s",
        minimum=0.0,
        what="The time within which faults of actors are counted.",
        why="Repeated faults come within seconds; older ones have nothing to do with a new one.",
    )
    clock_skew_max: float = setting(
        1.0,
        reload="hot",
        unit="s",
        minimum=0.0,
        what="A member whose wall clock differs from most others by more than this is told as `consensus.time.skewed`.",
        why="Hosts that run NTP differ by some milliseconds.",
    )
    clock_drift: float = setting(
        0.1,
        reload="founding",
        minimum=0.0,
        maximum=0.9,
        what="By this part a leader's lease is shorter than the time that followers keep their votes back for; read "
        "when a cluster is founded with lease reads.",
        why="Clocks of sound machines differ by far less; a lease must end before a new leader can exist.",
    )

    @property
    def slice_seconds(self) -> float:
        """How long one turn works at something that can be continued in the next one."""
        return min(self.turn_seconds_max, self.heartbeat_interval / 4)

    def __post_init__(self) -> None:
        check(self)
        self.check_times()
        if self.command_bytes_max + self.append_bytes_max + 64 * KIB > self.message_bytes_max:
            raise InvalidConfigError(
                "raft.message_bytes_max must hold a run of entries and a largest command besides: raise it, or lower "
                "raft.append_bytes_max or raft.command_bytes_max"
            )
        if self.chunk_bytes + KIB // 2 > self.message_bytes_max:
            raise InvalidConfigError(
                f"raft.chunk_bytes is {self.chunk_bytes} and no frame may have more than raft.message_bytes_max, "
                f"{self.message_bytes_max} bytes: a snapshot could not be sent, so raise that or lower raft.chunk_bytes"
            )
        if self.suspect_checks > self.fail_checks:
            raise InvalidConfigError(
                f"raft.suspect_checks is {self.suspect_checks} and raft.fail_checks is {self.fail_checks}: a peer "
                "would fail before it is suspected, so raise raft.fail_checks"
            )

    def check_times(self) -> None:
        """Raise `InvalidConfigError` for times that do not fit together."""
        if self.election_timeout_min < 2 * self.heartbeat_interval:
            raise InvalidConfigError(
                f"raft.election_timeout_min is {self.election_timeout_min} s: it must be at least twice the "
                f"raft.heartbeat_interval of {self.heartbeat_interval} s, or one late heartbeat ends a leader"
            )
        if self.election_timeout_max <= self.election_timeout_min:
            raise InvalidConfigError(
                f"raft.election_timeout_max is {self.election_timeout_max} s: it must be above "
                f"raft.election_timeout_min, {self.election_timeout_min} s, or nodes stand at the same moment"
            )
