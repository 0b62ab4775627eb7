"""Claims: what a member states of its key of CURVE, see `forge_consensus.security.statements`. Needs no extra."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LASTS_MS: Final = 600_000
"""So long a statement lasts; a member makes the next one when half of it is over."""
LASTS_MS_MAX: Final = 3_600_000
"""A statement that would last longer is refused, so that no member makes one for ever."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a statement is about: a node speaks to another one by this key."""

    cluster: str
    """The id of the cluster."""
    node: str
    to: str
    """The node id of the receiver: elsewhere the statement counts for nothing."""
    key: str
    """The public key of CURVE."""
