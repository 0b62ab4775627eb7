"""Raising the feature level: when a leader proposes the next one. Pure logic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from forge_consensus.actors.runtime.shared import Greeted
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Ledger


def raised(ledger: Ledger, noop: int, greeted: Mapping[str, Greeted]) -> Configuration | None:
    """The configuration that the leader whose first entry is `noop` should propose; None if there is none.

    It has the members and settings of the one in force, and the next feature level, which the programs of all members
    have told in `greeted`. One that was not met since this process began counts as one that lacks the level. A
    member may exchange its program for an older one after it told: it is then refused like any that comes late, which
    costs that member and never safety.
    """
    configurations = ledger.configurations
    present = configurations.current
    wanted = present.level + 1
    if wanted > configurations.level or max(noop, configurations.last) > ledger.commit_index:
        return None
    others = present.voters - {ledger.identity.node_id}
    if not all(node in greeted and greeted[node].level >= wanted for node in others):
        return None
    return replace(present, level=wanted)
