"""The settings of a client: how much it may have outstanding, and its times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from forge_consensus.config.setting import check, setting
from forge_consensus.errors import InvalidConfigError


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Bounds and times of a client.

    Raises `InvalidConfigError` for a value beyond its bounds.
    """

    SECTION: ClassVar = "client"

    outstanding_max: int = setting(
        4096,
        minimum=1,
        what="How many commands may be sent and not answered.",
        why="Throughput does not grow beyond some thousand, and a node allows one session no more.",
    )
    frame_items_max: int = setting(
        2000,
        minimum=1,
        what="How many commands go into one frame.",
        why="Throughput does not grow with larger frames, and a turn stays within its time budget.",
    )
    frame_bytes_max: int = setting(
        512 * 1024,
        unit="bytes",
        minimum=1,
        what="How many bytes of commands go into one frame; a larger command has a frame of its own.",
        why="Far below what a node accepts (`raft.message_bytes_max`).",
    )
    session_ttl_ms: int = setting(
        60_000,
        unit="ms",
        minimum=100,
        what="How long the cluster remembers a session from which nothing comes.",
        why="Longer than any election or restart, so that a command sent again is still recognised.",
    )
    silence_seconds: float = setting(
        0.3,
        unit="s",
        minimum=0.0,
        what="A leader that is silent for so long while something is outstanding is doubted, and others are asked.",
        why="Three heartbeat intervals; a question to the others costs little.",
    )
    backoff_seconds_min: float = setting(
        0.01,
        unit="s",
        minimum=0.0,
        what="The first pause before a busy cluster is asked again.",
        why="A busy node has room again after some turns.",
    )
    backoff_seconds_max: float = setting(
        0.5,
        unit="s",
        minimum=0.0,
        what="The longest such pause; each is twice the one before.",
        why="Half a second is short for a person and long for a cluster.",
    )
    resend_seconds: float = setting(
        1.0,
        unit="s",
        minimum=0.0,
        what="What is unanswered for so long is sent again to the same leader, then after twice as long.",
        why="Longer than a slow commit: a frame lost on a standing connection is rare.",
    )
    resend_passed_seconds: float = setting(
        0.1,
        unit="s",
        minimum=0.0,
        what="The same, where something sent later was answered already.",
        why="An answer that was overtaken is nearly always lost.",
    )

    link_timeout: float = setting(
        2.0,
        unit="s",
        minimum=0.1,
        what="A connection on which the node's host acknowledges nothing for so long is given up and made again.",
        why="A call whose connection a firewall has forgotten then still succeeds within its time-out of 5 s.",
    )

    def __post_init__(self) -> None:
        check(self)
        if self.backoff_seconds_max < self.backoff_seconds_min:
            raise InvalidConfigError(
                f"client.backoff_seconds_max is {self.backoff_seconds_max} s: it must not be below "
                f"client.backoff_seconds_min, {self.backoff_seconds_min} s"
            )
