"""A model of the key-value machine's commands that looks at everything each time and keeps nothing but plain dicts."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from forge_consensus.storage.machines.kv_commands import same
from forge_consensus.storage.machines.leases import OWN_BITS, TTL_MS_MAX, TTL_MS_MIN


class RefusedError(Exception):
    """The command fails and changes nothing."""


@dataclass
class Key:
    value: Any
    created: int
    modified: int
    lease: int


@dataclass
class Held:
    ttl_ms: int
    ends_ms: int
    own: str | None = None


@dataclass
class KeyModel:
    """The state, and the changes that the last command made."""

    keys: dict[str, Key] = field(default_factory=dict)
    leases: dict[int, Held] = field(default_factory=dict)
    now_ms: int = 0
    index: int = 0
    history: list[list[Any]] = field(default_factory=list)
    """[index, key, value, created, lease, kind] of all changes."""
    gone: dict[str, int] = field(default_factory=dict)
    """The leases of the keys that the last command deleted, at the first time."""
    keys_max: int = 10_000
    expired_max: int = 10_000

    def attached(self, lease: int) -> list[str]:
        return sorted(key for key, held in self.keys.items() if held.lease == lease)

    def apply(self, index: int, elapsed_ms: int, name: str, payload: dict[str, Any]) -> Any:
        """Return the result. Raises `RefusedError`."""
        self.index, self.now_ms = index, elapsed_ms
        self.expire()
        before = copy.deepcopy((self.keys, self.leases))
        self.gone = {}
        try:
            result = self.run(name, payload, None)
        except RefusedError:
            self.keys, self.leases = before
            raise
        self.note(before[0])
        return result

    def expire(self) -> None:
        count = 0
        for _, lease in sorted((held.ends_ms, lease) for lease, held in self.leases.items()):
            if self.leases[lease].ends_ms > self.now_ms or count >= self.expired_max:
                break
            keys = self.attached(lease)
            for key in keys:
                del self.keys[key]
                self.history.append([self.index, key, None, 0, lease, "expire"])
            del self.leases[lease]
            count += max(1, len(keys))

    def note(self, before: dict[str, Key]) -> None:
        for key in before.keys() | self.keys.keys():
            old, new = before.get(key), self.keys.get(key)
            if new is not None and new.modified == self.index and (old is None or old.modified != self.index):
                self.history.append([self.index, key, new.value, new.created, new.lease, "put"])
            elif old is not None and new is None:
                self.history.append([self.index, key, None, 0, self.gone[key], "delete"])

    # --- commands ---

    def run(self, name: str, payload: dict[str, Any], number: int | None) -> Any:
        run = getattr(self, f"do_{name}", None)
        if run is None:
            raise RefusedError
        return run(payload, number)

    def write(self, key: str, payload: dict[str, Any], number: int | None, keep: bool = False) -> None:
        old = self.keys.get(key)
        lease = 0
        if "ttl_ms" in payload:
            if "lease" in payload or not TTL_MS_MIN <= payload["ttl_ms"] <= TTL_MS_MAX:
                raise RefusedError
            lease = self.index + ((number or 0) << OWN_BITS)
        elif payload.get("lease"):
            lease = payload["lease"]
            held = self.leases.get(lease)
            if held is None or (held.own is not None and held.own != key):
                raise RefusedError
            if (old is None or old.lease != lease) and len(self.attached(lease)) >= self.keys_max:
                raise RefusedError
        elif keep and old is not None:
            lease = old.lease
        if old is not None and old.lease != lease:
            self.let_go(key)
        if "ttl_ms" in payload:
            self.leases[lease] = Held(payload["ttl_ms"], self.now_ms + payload["ttl_ms"], key)
        created = self.index if old is None else old.created
        self.keys[key] = Key(payload["value"], created, self.index, lease)

    def let_go(self, key: str) -> None:
        held = self.leases.get(self.keys[key].lease)
        if held is not None and held.own is not None:
            del self.leases[self.keys[key].lease]

    def do_set(self, payload: dict[str, Any], number: int | None) -> None:
        self.write(payload["key"], payload, number)

    def do_append(self, payload: dict[str, Any], number: int | None) -> str:
        key: str = payload["prefix"] + str(self.index).zfill(16)
        if number is not None:
            key += "-" + str(number).zfill(5)
        if key in self.keys:
            raise RefusedError
        self.write(key, payload, number)
        return key

    def do_get(self, payload: dict[str, Any], number: int | None) -> Any:
        held = self.keys.get(payload["key"])
        return None if held is None else held.value

    def do_delete(self, payload: dict[str, Any], number: int | None) -> bool:
        if payload["key"] not in self.keys:
            return False
        self.let_go(payload["key"])
        self.gone.setdefault(payload["key"], self.keys.pop(payload["key"]).lease)
        return True

    def do_delete_prefix(self, payload: dict[str, Any], number: int | None) -> int:
        found = sorted(key for key in self.keys if key.startswith(payload["prefix"]))[: payload.get("limit", 10_000)]
        for key in found:
            self.do_delete({"key": key}, None)
        return len(found)

    def do_cas(self, payload: dict[str, Any], number: int | None) -> bool:
        if payload.get("lease") and payload["lease"] not in self.leases:
            raise RefusedError
        if not self.equals(payload["key"], payload["expected"]):
            return False
        self.write(payload["key"], payload, number)
        return True

    def equals(self, key: str, wanted: Any) -> bool:
        held = self.keys.get(key)
        if held is None or wanted is None:
            return held is None and wanted is None
        return same(held.value, wanted)

    def do_increment(self, payload: dict[str, Any], number: int | None) -> int:
        held = self.keys.get(payload["key"])
        value = 0 if held is None else held.value
        if type(value) is not int:
            raise RefusedError
        total: int = value + payload.get("by", 1)
        self.write(payload["key"], {"value": total}, number, keep=True)
        return total

    def do_lease_grant(self, payload: dict[str, Any], number: int | None) -> int:
        if number is not None:
            raise RefusedError
        self.leases[self.index] = Held(payload["ttl_ms"], self.now_ms + payload["ttl_ms"])
        return self.index

    def do_lease_keep_alive(self, payload: dict[str, Any], number: int | None) -> int:
        held = self.leases.get(payload["lease"])
        if held is None:
            raise RefusedError
        held.ends_ms = self.now_ms + held.ttl_ms
        return held.ttl_ms

    def do_lease_revoke(self, payload: dict[str, Any], number: int | None) -> int:
        if payload["lease"] not in self.leases:
            return 0
        keys = self.attached(payload["lease"])
        for key in keys:
            self.gone.setdefault(key, self.keys.pop(key).lease)
        del self.leases[payload["lease"]]
        return len(keys)

    def do_expire(self, payload: dict[str, Any], number: int | None) -> None:
        if number is not None:
            raise RefusedError

    def do_batch(self, payload: dict[str, Any], number: int | None) -> list[Any]:
        if number is not None:
            raise RefusedError
        return [self.op(op, place) for place, op in enumerate(payload["ops"])]

    def op(self, op: dict[str, Any], number: int) -> Any:
        if op["type"] in {"delete_prefix", "transaction"}:
            raise RefusedError
        return self.run(op["type"], {name: value for name, value in op.items() if name != "type"}, number)

    def do_transaction(self, payload: dict[str, Any], number: int | None) -> dict[str, Any]:
        alone = {"batch", "transaction", "delete_prefix", "lease_grant", "expire"}
        if any(op["type"] in alone for op in (*payload["then"], *payload.get("else", []))):
            raise RefusedError
        holds = all(self.holds(*compare) for compare in payload["if"])
        ops = payload["then"] if holds else payload.get("else", [])
        return {"succeeded": holds, "results": [self.op(op, place) for place, op in enumerate(ops)]}

    def holds(self, target: str, key: str, comparison: str, wanted: Any) -> bool:
        held = self.keys.get(key)
        if target == "value":
            return self.equals(key, wanted) is (comparison == "==")
        if target == "exists":
            return (held is not None) is wanted
        found = 0 if held is None else getattr(held, target)
        return bool(
            {"==": found == wanted, "!=": found != wanted, "<": found < wanted, ">": found > wanted}[comparison]
        )
