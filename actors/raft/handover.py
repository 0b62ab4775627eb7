"""The handover: a leader gives its leadership to another voter (dissertation 3.10). Pure logic.

The leader takes no further entries, waits until the target has all of its log, and tells it to stand at once. Its votes
are not held back by the voters, because the leader itself has asked for that: so it must answer no read by its lease
any more, in all of its term, even if the target does not win.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from forge_consensus.errors import BusyError, InvalidConfigError
from forge_consensus.storage.ledger.configuration import Configuration


def choose(
    wanted: str,
    node_id: str,
    configuration: Configuration,
    match: Mapping[str, int],
    able: Collection[str],
    commit: int,
) -> str:
    """The voter that is to lead: the one that is wanted, or the best of those that are able and may lead.

    The best one holds all entries up to `commit`, then has the highest priority, then most of the log. `able` are the
    nodes that answer and take entries. Raises `InvalidConfigError` if there is none, and `BusyError` if the one that is
    wanted is none of them now: it may have been started again just now, and answer soon.
    """
    voters = configuration.incoming_voters - {node_id}
    if wanted and wanted not in voters:
        others = ", ".join(sorted(voters)) or "none"
        what = "leads already" if wanted == node_id else f"is no voter besides the leader: those are {others}"
        raise InvalidConfigError(f"node {wanted!r} {what}")
    if wanted and not configuration.may_lead(wanted):
        raise InvalidConfigError(
            f"node {wanted!r} is marked never to lead: to let it, run forge-consensus members update {wanted} "
            "--may-lead"
        )

    def rank(node: str) -> tuple[bool, int, int, str]:
        index = match.get(node, 0)
        return index < commit, -configuration.priority_of(node), -index, node

    able = {node for node in able if configuration.may_lead(node)}
    found = sorted(({wanted} if wanted else voters) & able, key=rank)
    if not found:
        if wanted:
            raise BusyError(
                f"node {wanted!r} does not answer now, or takes no entries, so it could not lead: try again"
            )
        raise InvalidConfigError(
            "no other voter that may lead answers now and takes entries, so none could lead: try again later"
        )
    return found[0]
