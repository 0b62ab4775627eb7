"""The next configuration: what a leader proposes by itself, one step after the other. Pure logic.

It leaves a joint configuration, lets a learner vote that has caught up, raises the feature level, and notes where the
applications of the members answer HTTP. All of it follows from the configuration in force and from what the members
told, so a new leader goes on where another one ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from forge_consensus.actors.raft.leadership import Leadership
from forge_consensus.actors.runtime.shared import Greeted
from forge_consensus.storage.ledger.changes import Action, Change, changed, left
from forge_consensus.storage.ledger.configuration import Configuration
from forge_consensus.storage.ledger.ledger import Ledger

URLS_SECONDS: Final = 5.0
"""How long a leader waits after it has noted where members answer HTTP, before it notes that again: a member that tells
another place each time must not fill the log."""


def next_configuration(
    ledger: Ledger, leadership: Leadership, greeted: Mapping[str, Greeted], now: float
) -> tuple[Configuration, str] | None:
    """The configuration that the leader should propose now and why, as a sentence; None if there is none.

    There is none before the leader's first entry is committed, nor while a configuration is not (I12).
    """
    present = ledger.configuration
    if max(leadership.noop, ledger.configurations.last) > ledger.commit_index:
        return None
    if present.is_joint:
        return left(present), f"the voters {', '.join(present.outgoing)} are no longer needed"
    near = leadership.near(now)
    if near:
        return changed(present, [Change(Action.PROMOTE, near[0])]), f"learner {near[0]} has caught up, so it votes"
    if found := raised(ledger, greeted):
        return found
    may = not ledger.room.full and now - leadership.urls_at >= URLS_SECONDS
    return with_urls(present, greeted) if may else None


def raised(ledger: Ledger, greeted: Mapping[str, Greeted]) -> tuple[Configuration, str] | None:
    """The configuration with the next feature level, and why; None unless all members have told that they have it.

    It has the members and settings of the one in force. A member that was not met since this process began counts as
    one that lacks the level. A member may exchange its program for an older one after it told: it is then refused like
    any that comes late, which costs that member and never safety.
    """
    present = ledger.configuration
    wanted = present.level + 1
    if wanted > ledger.configurations.level:
        return None
    others = present.nodes - {ledger.identity.node_id}
    if not all(node in greeted and greeted[node].level >= wanted for node in others):
        return None
    return replace(present, level=wanted), f"all members have feature level {wanted}"


def with_urls(present: Configuration, greeted: Mapping[str, Greeted]) -> tuple[Configuration, str] | None:
    """The configuration that says where the members answer HTTP, as they told, and why; None if it says so already.

    What a member has not told since this process began stays as it is. Nothing else differs, so any two majorities of
    the two meet.
    """
    told = {node: greeted[node].http_url for node in present.nodes if node in greeted}
    known = {**dict(present.urls), **{node: url for node, url in told.items() if url is not None}}
    urls = tuple(sorted((node, url) for node, url in known.items() if url))
    if urls == present.urls:
        return None
    others = sorted(node for node, _ in {*urls} ^ {*present.urls})
    return replace(present, urls=urls), f"{', '.join(dict.fromkeys(others))} answers HTTP elsewhere than was known"
