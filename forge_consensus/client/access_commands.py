"""The commands that change the list of access in the log, made of the arguments of calls, and checked before."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from forge_consensus.client.access_records import AccessInfo
from forge_consensus.config.secret_text import NOT_TOLD, looks_like_secret
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.access import Principal, Rule, Token
from forge_consensus.security.access_changes import RESERVED, key_in, token_id_in
from forge_consensus.storage.machines.machine import Command

QUERY: Final = {RESERVED: True}
"""The query for the list."""
TTL_SECONDS_MAX: Final = 100 * 365 * 86_400.0


def put_command(
    name: str, roles: Iterable[str], rules: Iterable[str], keys: Iterable[str] | None, force: bool
) -> Command:
    """Return the command that adds or changes a principal. Raises `InvalidConfigError` for one that cannot be."""
    given = checked(name, roles, rules, () if keys is None else keys)
    fields: dict[str, Any] = {"name": name, "roles": sorted(given.roles), "rules": [str(rule) for rule in given.rules]}
    return change("put", fields if keys is None else {**fields, "keys": list(given.keys)}, force)


def remove_command(name: str, force: bool) -> Command:
    """Return the command that removes a principal."""
    return change("remove", {"name": name}, force)


def add_key_command(name: str, key: str) -> Command:
    """Return the command that gives a principal one more key. Raises `InvalidConfigError` for what is no key."""
    return change("add_key", {"name": name, "key": key_in({"key": key})})


def revoke_key_command(key: str, force: bool) -> Command:
    """Return the command that revokes a key. Raises `InvalidConfigError` for what is no key."""
    return change("revoke_key", {"key": key_in({"key": key})}, force)


def token_command(
    name: str,
    roles: Iterable[str],
    rules: Iterable[str],
    ttl: float | None,
    replaces: str | None = None,
    overlap: float = 0.0,
) -> tuple[Command, str]:
    """Return the command that adds a new token, and the token's text, of which the command has the digest only.

    Raises `InvalidConfigError` for roles, rules and times that cannot be.
    """
    given = checked(name, roles, rules, ())
    token, text = Token.made(0 if ttl is None else moment_ms(ttl, "ttl"))
    fields: dict[str, Any] = {"name": name, "id": token.id, "sha256": token.digest, "ends_ms": token.ends_ms}
    if given.roles or given.rules:
        fields |= {"roles": sorted(given.roles), "rules": [str(rule) for rule in given.rules]}
    if replaces is not None:
        fields["replaces"] = token_id_in(replaces)
        fields["replaced_ends_ms"] = moment_ms(overlap, "overlap") if overlap else 0
    return change("add_token", fields), text


def rotated_token(access: AccessInfo, token_id: str, ttl: float | None, overlap: float) -> tuple[Command, str]:
    """Return the command that puts a new token in the place of another one, and the new one's text.

    Raises `InvalidConfigError` if there is no such token, or if it ends and the new one is not said to.
    """
    holder = access.holder(token_id_in(token_id))
    if holder is None:
        raise InvalidConfigError(f"there is no token {token_id} in the list of access of the log")
    (old,) = (token for token in holder.tokens if token.id == token_id)
    if old.ends is not None and ttl is None:
        raise InvalidConfigError(f"the token {token_id} ends: say for how long the new one is to last, with ttl")
    return token_command(holder.name, (), (), ttl, token_id, overlap)


def revoke_token_command(token_id: str, force: bool) -> Command:
    """Return the command that revokes a token. Raises `InvalidConfigError` for what is no id."""
    return change("revoke_token", {"id": token_id_in(token_id)}, force)


def forget_command(revoked: str) -> Command:
    """Return the command after which a key or token counts as revoked no longer."""
    return change("forget", {"revoked": revoked})


def change(do: str, fields: dict[str, Any], force: bool = False) -> Command:
    """Return the command of one change."""
    return Command(RESERVED, {"do": do, **fields, **({"force": True} if force else {})})


def checked(name: str, roles: Iterable[str], rules: Iterable[str], keys: Iterable[str]) -> Principal:
    """Return the principal of these parts. Raises `InvalidConfigError` for one that cannot be, as a node would."""
    for what, given in (("roles", roles), ("rules", rules), ("keys", keys)):
        if isinstance(given, str):
            raise InvalidConfigError(f"{what} is the text {given[:80]!r}: give a list of texts")
    if looks_like_secret(name):  # the list shows names to all who may read it
        raise InvalidConfigError(f"the name is {NOT_TOLD}: give the name of a client, or the id of a node")
    known: Any = frozenset(roles)
    return Principal(name, known, tuple(Rule.of(text) for text in rules), tuple(keys))


def moment_ms(seconds: float, what: str) -> int:
    """Return the moment in so many seconds, in milliseconds since 1970. Raises `InvalidConfigError`."""
    if not isinstance(seconds, int | float) or not 0 < seconds <= TTL_SECONDS_MAX:
        raise InvalidConfigError(f"{what} is {seconds!r}: expected seconds above 0 and up to {TTL_SECONDS_MAX:.0f}")
    return int((time.time() + seconds) * 1000)
