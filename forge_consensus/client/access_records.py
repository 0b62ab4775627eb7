"""What is told of the list of access in the log: who is in it, with which roles, rules, keys and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token, without what proves it."""

    id: str
    """Its public part, by which it is revoked."""
    ends: float | None
    """When it ends, in seconds since 1970; None for never."""


@dataclass(frozen=True, slots=True)
class PrincipalInfo:
    """Somebody in the list: a member of the cluster, or a client."""

    name: str
    """The id of a node, or the name of a client."""
    is_member: bool
    roles: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    """What it may do with keys that begin in some way, such as ``write app/*``."""
    keys: tuple[str, ...] = ()
    """Its public keys, the present one first."""
    tokens: tuple[TokenInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class AccessInfo:
    """The list of access in the log. What a node's own access file has besides is not in it."""

    index: int
    """The log entry that changed it last; 0 if none did."""
    principals: tuple[PrincipalInfo, ...]
    """By name."""
    revoked: tuple[str, ...]
    """Keys, and ids of tokens, that every node refuses, whoever lists them."""

    def named(self, name: str) -> PrincipalInfo | None:
        """Return who has that name, None if nobody has.

        Args:
            name: the id of a node, or the name of a client.

        """
        return next((one for one in self.principals if one.name == name), None)

    def holder(self, token_id: str) -> PrincipalInfo | None:
        """Return who has a token, None if nobody has.

        Args:
            token_id: the token's public part.

        """
        return next((one for one in self.principals if any(token.id == token_id for token in one.tokens)), None)

    @classmethod
    def of_answer(cls, answer: Mapping[str, Any]) -> Self:
        """Return what a node's answer to the query for the list says."""
        members = [(name, {"roles": ["peer"], **fields}, True) for name, fields in answer["members"].items()]
        clients = [(name, fields, False) for name, fields in answer["clients"].items()]
        rows = sorted([*members, *clients], key=lambda row: row[0])
        return cls(answer["index"], tuple(principal_of(*row) for row in rows), tuple(answer["revoked"]))


def principal_of(name: str, fields: Mapping[str, Any], is_member: bool) -> PrincipalInfo:
    """Return the principal that a row of an answer stands for."""
    tokens = [TokenInfo(row["id"], row["ends_ms"] / 1000 or None) for row in fields.get("tokens", ())]
    roles, rules, keys = (tuple(fields.get(field, ())) for field in ("roles", "rules", "keys"))
    return PrincipalInfo(name, is_member, roles, rules, keys, tuple(tokens))
