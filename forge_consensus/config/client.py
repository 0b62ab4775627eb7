"""The settings of a client: its bounds and times."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """Bounds and times of a client."""

    outstanding_max: int = 4096
    """Commands sent and not answered; never above what a node allows one session."""
    frame_items_max: int = 2000
    frame_bytes_max: int = 512 * 1024
    session_ttl_ms: int = 60_000
    silence_s: float = 0.3
    """A leader that says nothing for so long while something is outstanding is doubted."""
    backoff_s_min: float = 0.01
    backoff_s_max: float = 0.5
    resend_s: float = 1.0
    """What is unanswered for so long goes again to the same leader, then after twice as long."""
    resend_passed_s: float = 0.1
    """The same, where something sent later was answered already."""
