"""The list of access as plain data: as it stands in a file, in JSON or YAML, and in the log.

A file looks like this; all parts may be left out:

    members:
      n1: {keys: ["Z85 of 40 characters"]}
    clients:
      admin: {roles: [admin], keys: ["..."]}
      shop: {rules: ["write shop/*", "read prices/*"], tokens: [{id: "...", sha256: "...", ends_ms: 0}]}
    revoked: ["a key, or the id of a token"]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from forge_consensus.config.file_reads import text_of_file
from forge_consensus.config.plain_data import data_of_text
from forge_consensus.errors import InvalidConfigError
from forge_consensus.security.access import AccessList, Principal, Rule, Token

PARTS: Final = frozenset({"members", "clients", "revoked"})
MEMBER_FIELDS: Final = frozenset({"keys"})
CLIENT_FIELDS: Final = frozenset({"roles", "rules", "keys", "tokens"})
TOKEN_FIELDS: Final = frozenset({"id", "sha256", "ends_ms"})


def access_of_data(data: Any) -> AccessList:
    """Return the list that plain data describe. Raises `InvalidConfigError` with the part that is wrong."""
    parts = mapping("the list of access", data, PARTS)
    members = [
        Principal(name, frozenset({"peer"}), keys=texts(f"members.{name}.keys", fields.get("keys")))
        for name, fields in named("members", parts.get("members"), MEMBER_FIELDS)
    ]
    clients = [client_of(name, fields) for name, fields in named("clients", parts.get("clients"), CLIENT_FIELDS)]
    return AccessList([*members, *clients], texts("revoked", parts.get("revoked")))


def client_of(name: str, fields: Mapping[str, Any]) -> Principal:
    """Return a client from its fields. Raises `InvalidConfigError`."""
    place = f"clients.{name}"
    tokens = []
    for row in sequence(f"{place}.tokens", fields.get("tokens")):
        token = mapping(f"{place}.tokens", row, TOKEN_FIELDS)
        number, digest, ends_ms = token.get("id"), token.get("sha256"), token.get("ends_ms", 0)
        if not isinstance(number, str) or not isinstance(digest, str) or type(ends_ms) is not int or len(digest) != 64:
            raise InvalidConfigError(
                f"{place}.tokens: a token has a text id, a sha256 of 64 hexadecimal digits and ends_ms"
            )
        tokens.append(Token(number, digest, ends_ms))
    roles: Any = frozenset(texts(f"{place}.roles", fields.get("roles")))
    if "peer" in roles:
        raise InvalidConfigError(f"{place}.roles: peer is the role of members, which stand under members")
    rules = tuple(Rule.of(text) for text in texts(f"{place}.rules", fields.get("rules")))
    return Principal(name, roles, rules, texts(f"{place}.keys", fields.get("keys")), tuple(tokens))


def data_of_access(access: AccessList) -> dict[str, Any]:
    """Return the list as plain data, from which `access_of_data` makes it again; always in the same order."""
    members: dict[str, Any] = {}
    clients: dict[str, Any] = {}
    for name, one in sorted(access.by_name.items()):
        if one.is_member:
            members[name] = {"keys": list(one.keys)}
            continue
        given = {
            "roles": sorted(one.roles),
            "rules": [str(rule) for rule in one.rules],
            "keys": list(one.keys),
            "tokens": [{"id": token.id, "sha256": token.digest, "ends_ms": token.ends_ms} for token in one.tokens],
        }
        clients[name] = {field: value for field, value in given.items() if value}
    return {"members": members, "clients": clients, "revoked": sorted(access.revoked)}


def read_access_file(path: str | Path) -> AccessList:
    """Return the list in a file: JSON if its name ends so, else YAML. Raises `InvalidConfigError` with the place."""
    place = Path(path)
    text = text_of_file(place)
    try:
        return access_of_data(data_of_text(place, text))
    except InvalidConfigError as error:
        raise InvalidConfigError(f"{str(place)!r}: {error}") from error


def mapping(place: str, value: Any, fields: frozenset[str]) -> Mapping[str, Any]:
    """Return a map that has no other fields than these. Raises `InvalidConfigError`."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidConfigError(f"{place} must be a map of {', '.join(sorted(fields))}")
    if unknown := sorted(str(name) for name in value if name not in fields):
        raise InvalidConfigError(f"{place}: unknown {unknown[0][:80]!r}; there are {', '.join(sorted(fields))}")
    return value


def named(place: str, value: Any, fields: frozenset[str]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the rows of a map from names to fields. Raises `InvalidConfigError`."""
    if value is None:
        return []
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InvalidConfigError(f"{place} must be a map from names to {', '.join(sorted(fields))}")
    return [(name, mapping(f"{place}.{name}", row, fields)) for name, row in value.items()]


def sequence(place: str, value: Any) -> Sequence[Any]:
    """Return a list, an empty one for None. Raises `InvalidConfigError`."""
    if value is None:
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidConfigError(f"{place} must be a list")
    return value


def texts(place: str, value: Any) -> tuple[str, ...]:
    """Return a list of texts. Raises `InvalidConfigError`."""
    found = sequence(place, value)
    if not all(isinstance(one, str) for one in found):
        raise InvalidConfigError(f"{place} must be a list of texts")
    return tuple(found)
