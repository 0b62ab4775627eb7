"""The feature levels: which kinds of entries a program knows, and from which level on a leader may write one.

Every node tells its level when it greets another. A leader proposes what a level brought only when all members are
known to have reached it (`ConsensusActor.may_use`). A node that meets an entry of an unknown kind nevertheless stops
before it stores or applies it, because to pass over an entry that others carry out would make its state another one in
silence.

To add a kind of entry or a version of the configuration: raise `LEVEL`, name what is new in the list below, give the
kind its level in `LEVEL_OF_KIND`, and propose it only if `may_use` allows that level.

1. The kinds command, configuration, no-op and session; configurations up to version 2.
"""

from __future__ import annotations

from typing import Final

from forge_consensus.errors import UnsupportedVersionError
from forge_consensus.storage.ledger.record import Kind
from forge_consensus.version import __version__

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
