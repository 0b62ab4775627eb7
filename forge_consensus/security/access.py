"""The list of access: who is known by which keys and tokens, and what each may do.

A node asks it for each connection and each request. It never changes in place: `AccessList` is a value, so a node takes
another one between two turns, and nothing half-changed is ever seen.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from secrets import token_urlsafe
from typing import Final, Literal

from forge_consensus.config.secret_text import NOT_TOLD, looks_like_secret
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.curve import is_key
from forge_consensus.security.permissions import BY_KEY, GRANTED, ROLES, Permission, Role

KEYS_MAX: Final = 2
"""So many keys may be valid for one name at a time: the present one and the next one, while it is exchanged."""
TOKENS_MAX: Final = 8
NAME_CHARS_MAX: Final = 128
RULES_MAX: Final = 64
TOKEN_BYTES: Final = 32
TOKEN_MARK: Final = "fct_"
"""What a token begins with, so that people and scanners recognise one."""
TOKEN_ID_CHARS: Final = 12
TOKEN_CHARS_MAX: Final = 200
"""More than a token has; what follows is not looked at."""
NEVER_MS: Final = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """Permission to read, or to read and write, the keys that begin with `prefix`."""

    permission: Literal["write", "read"]
    prefix: str

    @classmethod
    def of(cls, text: str) -> Rule:
        """Return the rule of a text such as ``write app/*``. Raises `InvalidConfigError` for another one."""
        permission, _, keys = text.strip().partition(" ")
        keys = keys.strip()
        if permission not in BY_KEY or not keys.endswith("*") or "*" in keys[:-1]:
            raise InvalidConfigError(
                f"{text[:80]!r} is no rule: write 'read PREFIX*' or 'write PREFIX*', such as 'write app/*'"
            )
        return cls(permission, keys[:-1])  # type: ignore[arg-type]  # it is one of BY_KEY

    def __str__(self) -> str:
        return f"{self.permission} {self.prefix}*"


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is stored: its public id, the SHA-256 of its secret part, and when it ends."""

    id: str
    digest: str = field(repr=False)
    """Hexadecimal."""
    ends_ms: int = NEVER_MS
    """Milliseconds since 1970; 0 for never."""

    @classmethod
    def made(cls, ends_ms: int = NEVER_MS) -> tuple[Token, str]:
        """Return a new token, and its text of 256 random bits, which is shown once and stored nowhere.

        Its id does not begin with a dash, because a command would take that for an option.
        """
        name, secret = token_urlsafe(TOKEN_BYTES)[:TOKEN_ID_CHARS], token_urlsafe(TOKEN_BYTES)
        while name.startswith("-"):
            name = token_urlsafe(TOKEN_BYTES)[:TOKEN_ID_CHARS]
        return cls(name, digest_of(secret), ends_ms), f"{TOKEN_MARK}{name}_{secret}"


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who is known: a member or a client, with what proves it and what it may do.

    Raises `InvalidConfigError` for a name, a role, a key or a number of them that cannot be.
    """

    name: str
    """The node id of a member, or the name of a client."""
    roles: frozenset[Role] = frozenset()
    rules: tuple[Rule, ...] = ()
    keys: tuple[str, ...] = ()
    """Public keys of CURVE, at most `KEYS_MAX`."""
    tokens: tuple[Token, ...] = ()

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > NAME_CHARS_MAX or not self.name.isprintable():
            raise InvalidConfigError(
                f"{self.name[:NAME_CHARS_MAX]!r} is no name: give 1 to {NAME_CHARS_MAX} printable characters"
            )
        if unknown := sorted(set(self.roles) - set(ROLES)):
            raise InvalidConfigError(f"{self.name}: there is no role {unknown[0]!r}; there are {', '.join(ROLES)}")
        if "peer" in self.roles and (len(self.roles) > 1 or self.rules or self.tokens):
            raise InvalidConfigError(f"{self.name}: a member has the role peer, keys, and nothing else")
        for key in self.keys:
            if not is_key(key):
                told = NOT_TOLD if looks_like_secret(key) else repr(key[:60])
                raise InvalidConfigError(f"{self.name}: {told} is no public key: `forge-consensus keygen` makes pairs")
        for what, found, most in (
            ("keys", self.keys, KEYS_MAX),
            ("tokens", self.tokens, TOKENS_MAX),
            ("rules", self.rules, RULES_MAX),
        ):
            if len(found) > most:
                raise InvalidConfigError(
                    f"{self.name} has {len(found)} {what}: at most {most} are possible; remove one first"
                )

    @property
    def is_member(self) -> bool:
        """Whether it is a member of the cluster, and no client."""
        return "peer" in self.roles

    def may(self, permission: Permission, prefixes: Iterable[str] | None = None) -> bool:
        """Whether it may do what needs that permission.

        Args:
            permission: what is needed.
            prefixes: the keys, or beginnings of keys, that are read or written; None for all there are. They count for
                `BY_KEY` only, where rules may allow a part.

        """
        if any(permission in GRANTED[role] for role in self.roles):
            return True
        if permission == "anyone":
            return True
        if permission not in BY_KEY or prefixes is None or not self.rules:
            return False
        allowed = [rule.prefix for rule in self.rules if permission == "read" or rule.permission == "write"]
        return all(any(key.startswith(prefix) for prefix in allowed) for key in prefixes)


class AccessList:
    """All principals, by name, by key and by token. A value: `with_principal` and `without` return another one.

    Args:
        principals: who is known; names, keys and tokens must differ.
        revoked: keys and ids of tokens that are refused whoever lists them, also a file of a node that is older.

    Raises `InvalidConfigError` for two principals of one name, key or token.

    """

    def __init__(self, principals: Iterable[Principal] = (), revoked: Iterable[str] = ()) -> None:
        self.revoked = frozenset(revoked)
        self.by_name: dict[str, Principal] = {}
        self.by_key: dict[str, Principal] = {}
        self.by_token: dict[str, tuple[Principal, Token]] = {}
        for principal in principals:
            if self.by_name.setdefault(principal.name, principal) is not principal:
                raise InvalidConfigError(f"two principals are called {principal.name!r}: give each a name of its own")
            for key in principal.keys:
                if key not in self.revoked and self.by_key.setdefault(key, principal) is not principal:
                    raise InvalidConfigError(
                        f"{principal.name} has the key of {self.by_key[key].name}: make one for each"
                    )
            for token in principal.tokens:
                if (
                    token.id not in self.revoked
                    and self.by_token.setdefault(token.id, (principal, token))[0] is not principal
                ):
                    raise InvalidConfigError(
                        f"{principal.name} has the token {token.id} of another one: make one for each"
                    )

    def __bool__(self) -> bool:
        """Whether anybody is known."""
        return bool(self.by_name)

    def of_key(self, key: str) -> Principal | None:
        """Return who holds the secret part of a public key, None if that is not known or was revoked."""
        return self.by_key.get(key)

    def of_token(self, text: str, now_ms: int) -> Principal | None:
        """Return who holds a token, None for one that is unknown, revoked, or over at `now_ms`.

        The secret is compared in constant time, and a digest is made for unknown ids too, so that the time which the
        answer takes tells nothing.
        """
        begin = len(TOKEN_MARK)
        name, secret = text[begin : begin + TOKEN_ID_CHARS], text[begin + TOKEN_ID_CHARS + 1 : TOKEN_CHARS_MAX]
        found = self.by_token.get(name)
        wanted = found[1].digest if found is not None else digest_of("")
        if not hmac.compare_digest(wanted, digest_of(secret)) or found is None or not text.startswith(TOKEN_MARK):
            return None
        principal, token = found
        return None if token.ends_ms and token.ends_ms <= now_ms else principal

    def with_principal(self, principal: Principal) -> AccessList:
        """Return the list with this principal in the place of the one of its name."""
        others = (one for name, one in self.by_name.items() if name != principal.name)
        return AccessList([*others, principal], self.revoked)

    def without(self, name: str) -> AccessList:
        """Return the list without a principal, all of whose keys and tokens are revoked."""
        gone = self.by_name.get(name)
        revoked = {*gone.keys, *(token.id for token in gone.tokens)} if gone is not None else set()
        return AccessList([one for other, one in self.by_name.items() if other != name], self.revoked | revoked)

    def member_keys(self, node: str) -> tuple[str, ...]:
        """Return the public keys of a member that are not revoked, the present one first; empty if none is known."""
        principal = self.by_name.get(node)
        if principal is None or not principal.is_member:
            return ()
        return tuple(key for key in principal.keys if key not in self.revoked)


def digest_of(secret: str) -> str:
    """Return the SHA-256 of a token's secret part, hexadecimal. It has 256 random bits, so no slow hash is needed."""
    return sha256(secret.encode()).hexdigest()
