"""The feature levels: which kinds of entries a program knows, and from which level on a leader may write one.

The level of the cluster is in its configuration, so in the log and in every snapshot. What a level brought is proposed
only once a configuration with that level is committed (`ConsensusActor.may_use`): then the entry lies behind that
configuration in every log, and a program without the level stops at the configuration, opens no folder that holds it,
and is refused by the other members when it greets.

Every node tells the level of its program when it greets another. A leader proposes the next level when *all* members
have told that they have it, not a majority, because a member left behind could not follow any more
(`forge_consensus.actors.raft.next_configuration`). Only the level of a configuration changes so, never its members: the
voters before and after are the same, any two majorities of theirs meet, and no election can be won without one. A level
never falls.

A node that meets an entry of an unknown kind nevertheless stops before it stores or applies it, because to pass over an
entry that others carry out would make its state another one in silence.

To add a kind of entry or a version of the configuration: raise `LEVEL`, name what is new in the list below, give the
kind its level in `LEVEL_OF_KIND`, and propose it only if `may_use` allows that level.

1. The kinds command, configuration, no-op and session; configurations up to version 2; commands of the type
   "@access". A program that tells no level counts as one of this level.

From level 2 on configurations are of version 3, which names the level: this program reads it, and has no level 2 yet.
"""

from __future__ import annotations

from typing import Final

from forge_consensus.errors import UnsupportedVersionError
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.version import __version__

FIRST_LEVEL: Final = 1
"""The level of a cluster that was just founded, and of one that is older than the levels."""
LEVEL: Final = 1
"""The newest level that this program has."""
LEVEL_OF_KIND: Final[dict[int, int]] = {Kind.COMMAND: 1, Kind.CONFIGURATION: 1, Kind.NOOP: 1, Kind.SESSION: 1}
"""From which level on a node knows each kind of entry."""


def unknown_kind(index: int, kind: int) -> UnsupportedVersionError:
    """The error for an entry of a kind that this program does not know."""
    return UnsupportedVersionError(
        f"log entry {index} is of kind {kind}, which version {__version__} of this program does not know: a newer "
        "version wrote it. This node stops before it does anything with the entry, and has lost nothing: upgrade the "
        "program on this node and start it again"
    )


def beyond(wanted: int, level: int) -> UnsupportedVersionError:
    """The error for a configuration of the feature level `wanted`, met by a program that has `level` only."""
    return UnsupportedVersionError(
        f"the cluster has reached feature level {wanted}, and version {__version__} of this program has level {level}: "
        "it may not know the entries that follow. This node stops before it does anything with them, and has lost "
        "nothing: start it with the newer program that it ran before, or that the other members run"
    )
