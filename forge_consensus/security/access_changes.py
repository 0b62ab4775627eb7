"""Changes of the list of access that is in the log: what one command does to the list, and when it is refused.

The change depends on nothing but the list, the command and the time of its entry, so all nodes come to the same list
and, for a change that is refused, to the same text.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

import msgpack

from forge_consensus.config.secret_text import NOT_TOLD, looks_like_secret
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.access import TOKEN_ID_CHARS, AccessList, Principal, Rule, Token
from forge_consensus.security.access_file import data_of_access, texts
from forge_consensus.security.curve import is_key

RESERVED: Final = "@access"
"""The type of the commands that change the list, and the only key of the query for it, whose value is True. No state
machine sees either."""
PRINCIPALS_MAX: Final = 1_000
LIST_BYTES_MAX: Final = 256 << 10
"""The largest list, as bytes in the log's own form. It is part of each snapshot and in the memory of each node."""
SPARE_BYTES: Final = 16
"""By so much a list that is full may grow still, so that a key can always be revoked: it moves from one place in the
list to another, and the mark of a longer array may take some bytes."""
MILLISECONDS_MAX: Final = 1 << 53
SHOWN_CHARS: Final = 80
DIGEST_CHARS: Final = 64
HEXADECIMAL: Final = frozenset(string.hexdigits.lower())
TOKEN_ID: Final = frozenset(string.ascii_letters + string.digits + "-_")

Fields = Mapping[str, Any]


def changed(access: AccessList, payload: Fields, time_ms: int) -> AccessList:
    """Return the list after a change, or the same list if it is so already.

    Args:
        access: the list before it.
        payload: what is to be done. "do" names one of `CHANGES`; the other fields are those that it takes. "force" is
            True for a change after which nobody with the role admin is left who could make another one.
        time_ms: the wall time of the entry, in milliseconds since 1970, by which tokens end.

    Raises `InvalidConfigError` for a change that cannot be; its text is the same on all nodes.

    """
    do = payload.get("do")
    change = CHANGES.get(do) if isinstance(do, str) else None
    if change is None:
        raise InvalidConfigError(f"{shown(do)} is no change of the list of access; there are {', '.join(CHANGES)}")
    fields, make = change
    unknown = sorted(payload.keys() - fields - {"do", "force"})
    if unknown:
        raise InvalidConfigError(f"{do} has no field {shown(unknown[0])}; it has {', '.join(sorted(fields))} and force")
    force = payload.get("force", False)
    if type(force) is not bool:
        raise InvalidConfigError("force must be True or False")
    after = make(access, payload, time_ms)
    if after is not access:
        check_bounds(access, after)
        if not force and may_administer(access, time_ms) and not may_administer(after, time_ms):
            raise InvalidConfigError(
                "nobody with the role admin would be left who has a key or a token in the list: add another one first, "
                "or force it"
            )
    return after


def check_bounds(before: AccessList, after: AccessList) -> None:
    """Raise `InvalidConfigError` if a list has become too large. One that is so already may get smaller."""
    if len(after.by_name) > max(PRINCIPALS_MAX, len(before.by_name)):
        raise InvalidConfigError(f"the list has {PRINCIPALS_MAX} principals already: remove one first")
    size = len(packed_access(after))
    if size > LIST_BYTES_MAX and size > len(packed_access(before)) + SPARE_BYTES:
        raise InvalidConfigError(
            f"the list would have {size} bytes and at most {LIST_BYTES_MAX} are possible: remove principals, or forget "
            "revoked keys that no access file lists any more"
        )


def may_administer(access: AccessList, time_ms: int) -> bool:
    """Whether somebody with the role admin has a key or a token that counts at `time_ms`."""
    return any("admin" in one.roles and can_prove(one, access.revoked, time_ms) for one in access.by_name.values())


def can_prove(principal: Principal, revoked: frozenset[str], time_ms: int) -> bool:
    """Whether a principal has a key or a token that is neither revoked nor over."""
    return any(key not in revoked for key in principal.keys) or any(
        token.id not in revoked and not is_over(token, time_ms) for token in principal.tokens
    )


def is_over(token: Token, time_ms: int) -> bool:
    """Whether a token has ended at `time_ms`."""
    return 0 < token.ends_ms <= time_ms


def packed_access(access: AccessList) -> bytes:
    """Return a list as bytes: the same for equal lists, in whatever order they were made."""
    packed: bytes = msgpack.packb(data_of_access(access))
    return packed


def in_order(principals: Iterable[Principal], revoked: Iterable[str]) -> AccessList:
    """Return a list whose principals stand in the order of their names.

    The order decides which of two faults an error names, so it must not depend on how a node came to its list.
    """
    return AccessList(sorted(principals, key=lambda one: one.name), revoked)


# --- the changes ------------------------------------------------------------------------------------------------------


def put(access: AccessList, fields: Fields, time_ms: int) -> AccessList:
    """Add a principal, or give one that is there other roles and rules, and other keys if any are named.

    Keys that it loses by that are revoked. Its tokens stay.
    """
    name = name_in(fields)
    before = access.by_name.get(name)
    roles: Any = frozenset(texts("roles", fields.get("roles")))
    rules = tuple(Rule.of(text) for text in texts("rules", fields.get("rules")))
    had, tokens = (before.keys, before.tokens) if before is not None else ((), ())
    keys = texts("keys", fields["keys"]) if fields.get("keys") is not None else had
    after = Principal(name, roles, rules, keys, tokens)
    if after == before:
        return access
    lost = [key for key in had if key not in keys]
    return with_principal(access, after, [*access.revoked, *lost])


def remove(access: AccessList, fields: Fields, time_ms: int) -> AccessList:
    """Remove a principal, and revoke all of its keys and tokens."""
    name = known(access, fields).name
    after = access.without(name)
    return in_order(after.by_name.values(), after.revoked)


def add_key(access: AccessList, fields: Fields, time_ms: int) -> AccessList:
    """Give a principal one more key, while the one that it has still counts."""
    principal, key = known(access, fields), key_in(fields)
    if key in principal.keys and key not in access.revoked:
        return access
    kept = tuple(one for one in principal.keys if one not in access.revoked)
    return with_principal(access, replace(principal, keys=(*kept, key)), access.revoked)


def revoke_key(access: AccessList, fields: Fields, time_ms: int) -> AccessList:
    """Refuse a key from now on, whoever lists it, also a file of a node."""
    key = key_in(fields)
    if key in access.revoked:
        return access
    holder = access.of_key(key)
    others = [one for one in access.by_name.values() if one is not holder]
    if holder is not None:
        others.append(replace(holder, keys=tuple(one for one in holder.keys if one != key)))
    return in_order(others, [*access.revoked, key])


def add_token(access: AccessList, fields: Fields, time_ms: int) -> AccessList:
    """Give a principal one more token. One that is not there is added, with the roles and rules that are named.

    Its tokens that are over go. With "replaces", another token of it is to end: at once and for ever, or at
    "replaced_ends_ms" if that comes.
    """
    name, token = name_in(fields), token_in(fields, time_ms)
    roles: Any = frozenset(texts("roles", fields.get("roles")))
    rules = tuple(Rule.of(text) for text in texts("rules", fields.get("rules")))
    principal = access.by_name.get(name)
    if principal is None:
        if not roles and not rules:
            raise InvalidConfigError(f"there is no {name!r}: say which roles or rules it is to have, and it is added")
        principal = Principal(name, roles, rules)
    elif (roles or rules) and (principal.roles, principal.rules) != (roles, rules):
        raise InvalidConfigError(f"{name} is there with other roles or rules: change them first, or name none here")
    if token in principal.tokens:
        return access
    if token.id in access.by_token or token.id in access.revoked:
        raise InvalidConfigError(f"the token {token.id} was given before: make another one")
    tokens, revoked = with_end_of(principal, fields, [*access.revoked], time_ms)
    tokens = [one for one in tokens if not is_over(one, time_ms)]
    return with_principal(access, replace(principal, tokens=(*tokens, token)), revoked)


def with_end_of(
    principal: Principal, fields: Fields, revoked: list[str], time_ms: int
) -> tuple[list[Token], list[str]]:
    """Return the tokens of a principal and what is revoked, once the token that another one replaces has its end."""
    number, ends_ms = fields.get("replaces"), fields.get("replaced_ends_ms", 0)
    if number is None:
        return [*principal.tokens], revoked
    if type(ends_ms) is not int or not 0 <= ends_ms < MILLISECONDS_MAX:
        raise InvalidConfigError("replaced_ends_ms must be milliseconds since 1970, or 0 for at once")
    old = next((one for one in principal.tokens if one.id == number), None)
    if old is None:
        raise InvalidConfigError(f"{principal.name} has no token {shown(number)} that could be replaced")
    others = [one for one in principal.tokens if one is not old]
    if ends_ms <= time_ms:
        return others, [*revoked, old.id]
    ends_ms = min(ends_ms, old.ends_ms or ends_ms)
    return [*others, replace(old, ends_ms=ends_ms)], revoked


def revoke_token(access: AccessList, fields: Fields, time_ms: int) -> AccessList:
    """Refuse a token from now on, whoever lists it, also a file of a node."""
    number = token_id_in(fields.get("id"))
    if number in access.revoked:
        return access
    holder, _ = access.by_token.get(number, (None, None))
    others = [one for one in access.by_name.values() if one is not holder]
    if holder is not None:
        others.append(replace(holder, tokens=tuple(one for one in holder.tokens if one.id != number)))
    return in_order(others, [*access.revoked, number])


def forget(access: AccessList, fields: Fields, time_ms: int) -> AccessList:
    """Note no longer that a key or a token was revoked. Whoever lists it then admits it again."""
    revoked = fields.get("revoked")
    if not isinstance(revoked, str) or revoked not in access.revoked:
        raise InvalidConfigError(f"{shown(revoked)} was not revoked: name a key or the id of a token that was")
    return in_order(access.by_name.values(), access.revoked - {revoked})


Change = Callable[[AccessList, Fields, int], AccessList]
CHANGES: Final[dict[str, tuple[frozenset[str], Change]]] = {
    "put": (frozenset({"name", "roles", "rules", "keys"}), put),
    "remove": (frozenset({"name"}), remove),
    "add_key": (frozenset({"name", "key"}), add_key),
    "revoke_key": (frozenset({"key"}), revoke_key),
    "add_token": (
        frozenset({"name", "id", "sha256", "ends_ms", "roles", "rules", "replaces", "replaced_ends_ms"}),
        add_token,
    ),
    "revoke_token": (frozenset({"id"}), revoke_token),
    "forget": (frozenset({"revoked"}), forget),
}
"""What can be done, with the fields that it takes."""


# --- parts of a payload -----------------------------------------------------------------------------------------------


def with_principal(access: AccessList, principal: Principal, revoked: Iterable[str]) -> AccessList:
    """Return the list with this principal in the place of the one of its name.

    Raises `InvalidConfigError` if one of its keys was revoked, or is that of another principal.
    """
    before = access.by_name.get(principal.name)
    if len(set(principal.keys)) < len(principal.keys):
        raise InvalidConfigError(f"{principal.name} is given a key twice")
    for key in principal.keys:
        if before is not None and key in before.keys:
            continue
        if key in access.revoked:
            raise InvalidConfigError(f"the key {key} was revoked: make a new pair, with forge-consensus keygen")
        holder = access.of_key(key)
        if holder is not None:
            raise InvalidConfigError(f"the key {key} is that of {holder.name}: make a pair for {principal.name}")
    others = (one for one in access.by_name.values() if one.name != principal.name)
    return in_order([*others, principal], revoked)


def known(access: AccessList, fields: Fields) -> Principal:
    """Return the principal that a change names. Raises `InvalidConfigError` for one that is not there."""
    name = name_in(fields)
    principal = access.by_name.get(name)
    if principal is None:
        raise InvalidConfigError(f"there is no {shown(name)} in the list of access of the log")
    return principal


def name_in(fields: Fields) -> str:
    """Return the name in a payload. Raises `InvalidConfigError` if it is no text of ASCII.

    Which of the other characters are printable differs between versions of Python, so between nodes.
    """
    name = fields.get("name")
    if not isinstance(name, str) or not name.isascii():
        raise InvalidConfigError("name must be a text of ASCII characters: the id of a node, or the name of a client")
    return name


def key_in(fields: Fields) -> str:
    """Return the public key in a payload. Raises `InvalidConfigError`."""
    key = fields.get("key")
    if not isinstance(key, str) or not is_key(key):
        raise InvalidConfigError(f"{shown(key)} is no public key: forge-consensus keygen makes pairs")
    return key


def token_id_in(number: object) -> str:
    """Return the id of a token. Raises `InvalidConfigError` for what is none."""
    if not isinstance(number, str) or len(number) != TOKEN_ID_CHARS or not TOKEN_ID.issuperset(number):
        raise InvalidConfigError(f"{shown(number)} is no id of a token: it has {TOKEN_ID_CHARS} letters and digits")
    return number


def token_in(fields: Fields, time_ms: int) -> Token:
    """Return the token in a payload. Raises `InvalidConfigError`, also for one that is over at `time_ms`."""
    number, digest, ends_ms = token_id_in(fields.get("id")), fields.get("sha256"), fields.get("ends_ms", 0)
    if not isinstance(digest, str) or len(digest) != DIGEST_CHARS or not HEXADECIMAL.issuperset(digest):
        raise InvalidConfigError(f"sha256 of a token has {DIGEST_CHARS} hexadecimal digits")
    if type(ends_ms) is not int or not 0 <= ends_ms < MILLISECONDS_MAX:
        raise InvalidConfigError("ends_ms must be milliseconds since 1970, or 0 for never")
    token = Token(number, digest, ends_ms)
    if is_over(token, time_ms):
        raise InvalidConfigError("the token would be over at once: give it an end in the future, or 0 for never")
    return token


def shown(value: object) -> str:
    """Return a value as an error shows it, shortened; not one that looks like a token in the place of its id."""
    if not isinstance(value, str):
        return f"a value of type {type(value).__name__}"
    return NOT_TOLD if looks_like_secret(value) else repr(value[:SHOWN_CHARS])
