"""Checks of a list of access: whether it allows more than anybody needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from forge_consensus.checks.finding import Finding, ok, warning

CHECK: Final = "access"
ADMIN: Final = "admin"
EVERY_KEY: Final = "write *"
CLIENTS_FEW: Final = 2
"""From so many clients on, one of them should be able to do less than everything."""


class Known(Protocol):
    """Somebody in a list of access, as a node has it or as a client is told of it."""

    @property
    def name(self) -> str:
        """The id of a node, or the name of a client."""

    @property
    def is_member(self) -> bool:
        """Whether it is a member of the cluster, and no client."""

    @property
    def roles(self) -> Iterable[str]:
        """What it may do."""

    @property
    def rules(self) -> Iterable[object]:
        """What it may do with some keys."""


def listed_findings(known: Iterable[Known], where: str) -> list[Finding]:
    """Check those who are known; `where` says which list that is."""
    clients = [one for one in known if not one.is_member]
    found = [
        warning(
            CHECK,
            f"{where}: {one.name} has the rule {EVERY_KEY!r}, so it may change every key",
            "give it a prefix, such as 'write app/*'; or the role write, if every key is meant",
        )
        for one in clients
        if EVERY_KEY in map(str, one.rules)
    ]
    admins = [one.name for one in clients if ADMIN in one.roles]
    if len(clients) >= CLIENTS_FEW and len(admins) == len(clients):
        text = f"{where}: all {len(clients)} clients have the role {ADMIN}, so each of them may do everything"
        found.append(
            warning(CHECK, text, "give each the least that it needs: forge-consensus auth user set NAME --role ...")
        )
    if found or not clients:
        return found
    return [
        ok(CHECK, f"{where}: {len(admins)} of {len(clients)} clients may do everything ({', '.join(admins) or '-'})")
    ]
