"""A model of the list of access in plain dictionaries, and random changes of it, for tests that compare the two."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from hypothesis import strategies as st

from forge_consensus.security.curve import KeyPair

KEYS = [KeyPair.made().public for _ in range(6)]
NAMES = ("n1", "n2", "ann", "bob", "eve")
IDS = [f"token-{number:06}" for number in range(6)]
ROLES = ("peer", "admin", "write", "read", "metrics")
RULES = ("read app/*", "write app/*", "write *")
SHA = {number: sha256(number.encode()).hexdigest() for number in IDS}


class RefusedError(Exception):
    """The change is refused."""


class AccessModel:
    """The list as dictionaries; `apply` changes it, or raises `RefusedError` and changes nothing."""

    def __init__(self) -> None:
        self.principals: dict[str, dict[str, Any]] = {}
        self.revoked: set[str] = set()

    @property
    def data(self) -> dict[str, Any]:
        """The list as plain data, in the form of an access file."""
        members: dict[str, Any] = {}
        clients: dict[str, Any] = {}
        for name, one in sorted(self.principals.items()):
            tokens = [{"id": number, "sha256": SHA[number], "ends_ms": ends} for number, ends in one["tokens"]]
            if one["roles"] == ["peer"]:
                members[name] = {"keys": one["keys"]}
            else:
                given = {"roles": one["roles"], "rules": one["rules"], "keys": one["keys"], "tokens": tokens}
                clients[name] = {field: value for field, value in given.items() if value}
        return {"members": members, "clients": clients, "revoked": sorted(self.revoked)}

    def copy(self) -> AccessModel:
        """Return a copy that changes by itself."""
        other = AccessModel()
        other.principals = {
            name: {key: [*value] for key, value in one.items()} for name, one in self.principals.items()
        }
        other.revoked = set(self.revoked)
        return other

    def apply(self, payload: dict[str, Any], time_ms: int) -> bool:
        """Carry a change out; return whether the list differs."""
        after = self.copy()
        getattr(after, payload["do"])(payload, time_ms)
        for one in after.principals.values():
            demand(len(one["keys"]) <= 2 and len(one["tokens"]) <= 8)
            demand("peer" not in one["roles"] or (one["roles"] == ["peer"] and not one["rules"] and not one["tokens"]))
        demand(payload.get("force") or not self.administered(time_ms) or after.administered(time_ms))
        differs = (after.principals, after.revoked) != (self.principals, self.revoked)
        self.principals, self.revoked = after.principals, after.revoked
        return differs

    def administered(self, time_ms: int) -> bool:
        return any(
            "admin" in one["roles"] and (one["keys"] or any(not ends or ends > time_ms for _, ends in one["tokens"]))
            for one in self.principals.values()
        )

    def holder(self, field: str, wanted: str) -> str | None:
        for name, one in self.principals.items():
            if wanted in [each if field == "keys" else each[0] for each in one[field]]:
                return name
        return None

    def check_new_key(self, name: str, key: str) -> None:
        demand(key not in self.revoked and self.holder("keys", key) in (None, name))

    def put(self, payload: dict[str, Any], time_ms: int) -> None:
        name, keys = payload["name"], payload.get("keys")
        one = self.principals.setdefault(name, {"roles": [], "rules": [], "keys": [], "tokens": []})
        one["roles"], one["rules"] = sorted(set(payload.get("roles", []))), list(payload.get("rules", []))
        if keys is not None:
            demand(len(set(keys)) == len(keys))
            for key in keys:
                self.check_new_key(name, key)
            self.revoked |= set(one["keys"]) - set(keys)
            one["keys"] = list(keys)

    def remove(self, payload: dict[str, Any], time_ms: int) -> None:
        demand(payload["name"] in self.principals)
        gone = self.principals.pop(payload["name"])
        self.revoked |= {*gone["keys"], *(number for number, _ in gone["tokens"])}

    def add_key(self, payload: dict[str, Any], time_ms: int) -> None:
        demand(payload["name"] in self.principals)
        keys = self.principals[payload["name"]]["keys"]
        self.check_new_key(payload["name"], payload["key"])
        if payload["key"] not in keys:
            keys.append(payload["key"])

    def revoke_key(self, payload: dict[str, Any], time_ms: int) -> None:
        for one in self.principals.values():
            one["keys"] = [key for key in one["keys"] if key != payload["key"]]
        self.revoked.add(payload["key"])

    def add_token(self, payload: dict[str, Any], time_ms: int) -> None:
        name, number, ends = payload["name"], payload["id"], payload.get("ends_ms", 0)
        roles, rules = sorted(set(payload.get("roles", []))), list(payload.get("rules", []))
        demand(not ends or ends > time_ms)
        if name not in self.principals:
            demand(roles or rules)
            self.principals[name] = {"roles": roles, "rules": rules, "keys": [], "tokens": []}
        one = self.principals[name]
        demand(not (roles or rules) or (one["roles"], one["rules"]) == (roles, rules))
        if [number, ends] in one["tokens"]:
            return
        demand(number not in self.revoked and self.holder("tokens", number) is None)
        if "replaces" in payload:
            old = [token for token in one["tokens"] if token[0] == payload["replaces"]]
            demand(old)
            one["tokens"].remove(old[0])
            if payload.get("replaced_ends_ms", 0) <= time_ms:
                self.revoked.add(payload["replaces"])
            else:
                end = payload["replaced_ends_ms"]
                one["tokens"].append([payload["replaces"], min(end, old[0][1] or end)])
        one["tokens"] = [token for token in one["tokens"] if not 0 < token[1] <= time_ms]
        one["tokens"].append([number, ends])

    def revoke_token(self, payload: dict[str, Any], time_ms: int) -> None:
        for one in self.principals.values():
            one["tokens"] = [token for token in one["tokens"] if token[0] != payload["id"]]
        self.revoked.add(payload["id"])

    def forget(self, payload: dict[str, Any], time_ms: int) -> None:
        demand(payload["revoked"] in self.revoked)
        self.revoked.remove(payload["revoked"])


def demand(holds: object) -> None:
    if not holds:
        raise RefusedError


def with_digest(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "sha256": SHA[row["id"]]}


TIME = st.integers(1, 50)
NAME, KEY, ID = st.sampled_from(NAMES), st.sampled_from(KEYS), st.sampled_from(IDS)
SOME_ROLES = st.one_of(st.just(["peer"]), st.just(["admin"]), st.lists(st.sampled_from(ROLES), max_size=2))
SOME_RULES = st.lists(st.sampled_from(RULES), max_size=2, unique=True)
CHANGES = st.one_of(
    st.fixed_dictionaries(
        {"do": st.just("put"), "name": NAME, "roles": SOME_ROLES},
        optional={"rules": SOME_RULES, "keys": st.lists(KEY, max_size=3), "force": st.booleans()},
    ),
    st.fixed_dictionaries({"do": st.just("remove"), "name": NAME}, optional={"force": st.booleans()}),
    st.fixed_dictionaries({"do": st.just("add_key"), "name": NAME, "key": KEY}),
    st.fixed_dictionaries({"do": st.just("revoke_key"), "key": KEY}, optional={"force": st.booleans()}),
    st.fixed_dictionaries(
        {"do": st.just("add_token"), "name": NAME, "id": ID}, optional={"ends_ms": TIME, "roles": SOME_ROLES}
    ).map(with_digest),
    st.fixed_dictionaries(
        {"do": st.just("add_token"), "name": NAME, "id": ID, "replaces": ID}, optional={"replaced_ends_ms": TIME}
    ).map(with_digest),
    st.fixed_dictionaries({"do": st.just("revoke_token"), "id": ID}, optional={"force": st.booleans()}),
    st.fixed_dictionaries({"do": st.just("forget"), "revoked": st.one_of(KEY, ID)}),
)
"""Random changes over few names, keys and tokens, so that they meet."""
