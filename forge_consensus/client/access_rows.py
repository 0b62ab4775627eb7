"""The list of access as rows of JSON: what the command line and the admin API show of users, keys and tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from forge_consensus.client.access_records import AccessInfo, PrincipalInfo, TokenInfo

LOG: Final = "log"
FILE: Final = "file"
"""Which list says something: that in the log, or the access file of the node that answers."""
VALID: Final = "valid"
EXPIRED: Final = "expired"
REVOKED: Final = "revoked"
LOG_COUNTS: Final = "the log counts"
"""The log names the same principal, key or token, so what the file says of it does not count."""

Placed = tuple[str, PrincipalInfo]
"""Where somebody is listed, and who it is."""


def listed(access: AccessInfo) -> Iterator[Placed]:
    """Yield everybody in the log's list, and then everybody in the file's."""
    yield from ((LOG, one) for one in access.principals)
    yield from ((FILE, one) for one in access.in_file)


def granted(one: PrincipalInfo) -> dict[str, Any]:
    """Return what somebody may do."""
    return {"roles": list(one.roles), "rules": list(one.rules)}


def user_rows(access: AccessInfo) -> list[dict[str, Any]]:
    """Return those who are in the log's list, with their keys and tokens."""
    return [
        {
            "name": one.name,
            "member": one.is_member,
            **granted(one),
            "keys": list(one.keys),
            "tokens": [{"id": each.id, "ends": each.ends} for each in one.tokens],
        }
        for one in access.principals
    ]


def key_rows(access: AccessInfo) -> list[dict[str, Any]]:
    """Return the public keys of both lists; `in_force` says whether a key lets its holder in."""
    return [
        {"key": key, "name": one.name, **granted(one), "from": place, "in_force": state == VALID, "state": state}
        for place, one in listed(access)
        for key in one.keys
        for state in [state_of(access, place, one, key)]
    ]


def token_rows(access: AccessInfo, now: float) -> list[dict[str, Any]]:
    """Return the tokens of both lists, without what proves them.

    Args:
        access: the lists.
        now: the time by which tokens end, in seconds since 1970.

    """
    return [
        {
            "id": token.id,
            "name": one.name,
            **granted(one),
            "ends": token.ends,
            "over": is_over(token, now),
            "from": place,
            "in_force": state == VALID,
            "state": state,
        }
        for place, one in listed(access)
        for token in one.tokens
        for state in [state_of_token(access, place, one, token, now)]
    ]


def state_of(access: AccessInfo, place: str, one: PrincipalInfo, public: str) -> str:
    """Return whether a public key, or the token of an id, lets its holder in as far as the lists say."""
    if access.counts(one.name, public, in_file=place == FILE):
        return VALID
    return REVOKED if public in access.revoked or public in access.revoked_in_file else LOG_COUNTS


def state_of_token(access: AccessInfo, place: str, one: PrincipalInfo, token: TokenInfo, now: float) -> str:
    """Return whether a token lets its holder in at `now`, in seconds since 1970."""
    state = state_of(access, place, one, token.id)
    return EXPIRED if state == VALID and is_over(token, now) else state


def is_over(token: TokenInfo, now: float) -> bool:
    """Whether a token has ended at `now`, in seconds since 1970."""
    return token.ends is not None and token.ends <= now
