"""What is told of the list of access in the log: who is in it, with which roles, rules, keys and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    """The list of access in the log, and beside it that of the access file of the node which answered."""

    index: int
    """The log entry that changed it last; 0 if none did."""
    principals: tuple[PrincipalInfo, ...]
    """By name."""
    revoked: tuple[str, ...]
    """Keys, and ids of tokens, that every node refuses, whoever lists them."""
    in_file: tuple[PrincipalInfo, ...] = ()
    """By name: who is in the access file of that node. Where the log names somebody too, the log counts."""
    revoked_in_file: tuple[str, ...] = ()
    """Keys, and ids of tokens, that this file has that node refuse, whoever lists them."""

    def counts(self, name: str, key: str, *, in_file: bool) -> bool:
        """Return whether a public key or a token lets somebody in, as the node which answered judges it.

        Args:
            name: who has it.
            key: the key, or the public part of the token; that a token has ended does not count here.
            in_file: whether it is the access file that says so, and not the log.

        """
        if key in self.revoked or key in self.revoked_in_file:
            return False
        in_log = any(key in one.keys for one in self.principals) or self.holder(key) is not None
        return not in_file or not (self.named(name) or in_log)

    def named(self, name: str) -> PrincipalInfo | None:
        """Return who has that name in the log, None if nobody has.

        Args:
            name: the id of a node, or the name of a client.

        """
        return next((one for one in self.principals if one.name == name), None)

    def holder(self, token_id: str) -> PrincipalInfo | None:
        """Return who has a token in the log, None if nobody has.

        Args:
            token_id: the token's public part.

        """
        return next((one for one in self.principals if any(token.id == token_id for token in one.tokens)), None)

    @classmethod
    def of_answer(cls, answer: Mapping[str, Any]) -> Self:
        """Return what a node's answer to the query for the list says."""
        file = answer.get("file")  # earlier nodes do not tell it
        found = cls(answer["index"], principals_of(answer), tuple(answer["revoked"]))
        return (
            found
            if file is None
            else replace(found, in_file=principals_of(file), revoked_in_file=tuple(file["revoked"]))
        )


def principals_of(told: Mapping[str, Any]) -> tuple[PrincipalInfo, ...]:
    """Return who is in a list as a node tells it, by name."""
    members = [(name, {"roles": ["peer"], **fields}, True) for name, fields in told["members"].items()]
    clients = [(name, fields, False) for name, fields in told["clients"].items()]
    return tuple(principal_of(*row) for row in sorted([*members, *clients], key=lambda row: row[0]))


def principal_of(name: str, fields: Mapping[str, Any], is_member: bool) -> PrincipalInfo:
    """Return the principal that a row of an answer stands for."""
    tokens = [TokenInfo(row["id"], row["ends_ms"] / 1000 or None) for row in fields.get("tokens", ())]
    roles, rules, keys = (tuple(fields.get(field, ())) for field in ("roles", "rules", "keys"))
    return PrincipalInfo(name, is_member, roles, rules, keys, tuple(tokens))
