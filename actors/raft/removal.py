"""The removal: how a node learns that it is no member any more. Pure logic.

Usually its leader tells it, by the entry that removes it. A node that was down or cut off then hears no leader any
more, greets its former fellows again, and any of them that knows what is committed now tells it (`removed_at`). Being
told costs a node its candidacy only, and only until a leader sends it entries as a member: it is no matter of safety.

Both compare folders, because a node that was added again catches up past the removal of an earlier member of its id,
and because its successor under that id has another folder.
"""

from __future__ import annotations

from forge_consensus.actors.runtime.freshness import Freshness
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.identity import Identity
from forge_consensus.storage.ledger.ledger import Ledger


def belongs(identity: Identity, configuration: Configuration) -> bool:
    """Whether this node, with its folder, is a member of the configuration."""
    return identity.node_id in configuration.nodes and identity.is_member_of(configuration)


def removed_at(ledger: Ledger, freshness: Freshness, node: str, folder: str, seconds: float) -> int:
    """The index of an entry at which a node on that folder is committed to be no member; 0 if it may be one.

    A node that lags behind does not know whether it was added since, so it tells nobody: what it has applied must cover
    everything that was committed until `seconds` ago.
    """
    as_of = freshness.as_of(ledger.applied)
    if as_of is None or ledger.now - as_of > seconds:
        return 0
    for configuration in (ledger.configuration, ledger.configurations.at(ledger.applied)):
        if node in configuration.nodes and configuration.folder_of(node) in ("", folder):
            return 0
    return ledger.applied


def is_removed(ledger: Ledger, index: int) -> bool:
    """Whether this node was removed, if it is told that it is no member as of the entry at `index`; 0 tells nothing.

    It was not if it waits to be added for the first time, and may not have been if it was added by a later entry. An
    entry up to `index` that adds it is either older or was never committed.
    """
    return 0 < index >= ledger.configurations.last and ledger.log.last > 0
