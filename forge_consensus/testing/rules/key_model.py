"""A model of the key-value machine that looks at everything each time and keeps nothing but plain dicts.

It shares no code with the machine but the numbers of its limits, so what both do alike is not wrong in both by the same
slip. It knows well-formed commands; of one that fails it knows that it fails, and not the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from forge_consensus.storage.machines.leases import EXPIRED_MAX, KEYS_MAX, OWN_BITS, TTL_MS_MAX, TTL_MS_MIN
from forge_consensus.testing.histories.register import frozen

ALONE: Final = frozenset({"batch", "transaction", "delete_prefix", "lease_grant", "expire"})
"""The commands that are no part of a batch or a transaction."""


class RefusedError(Exception):
    """The command fails and changes nothing."""


class Key(NamedTuple):
    """A key that exists."""

    value: Any
    created: int
    modified: int
    lease: int


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that lives."""

    ttl_ms: int
    ends_ms: int
    own: str | None = None
    """The key for whose time to live it was made."""
    renewed: int = 0
    """The index of the entry that granted it or kept it alive last."""


@dataclass(frozen=True, slots=True)
class State:
    """The state after an entry; nothing in it changes any more."""

    index: int = 0
    now_ms: int = 0
    keys: Mapping[str, Key] = field(default_factory=dict)
    leases: Mapping[int, Held] = field(default_factory=dict)

    def attached(self, lease: int) -> list[str]:
        """Return the keys on a lease, in order."""
        return sorted(key for key, held in self.keys.items() if held.lease == lease)


@dataclass
class KeyModel:
    """The state, and all changes so far."""

    keys: dict[str, Key] = field(default_factory=dict)
    leases: dict[int, Held] = field(default_factory=dict)
    now_ms: int = 0
    index: int = 0
    history: list[list[Any]] = field(default_factory=list)
    """[index, key, value, created, lease, kind] of all changes, in the order in which every node tells them."""
    expired: list[tuple[int, Held]] = field(default_factory=list)
    """The leases that ended before the last command, because their time was over."""
    touched: dict[str, None] = field(default_factory=dict)
    """The keys that the last command wrote or deleted, in the order of the first time."""
    gone: dict[str, int] = field(default_factory=dict)
    """The leases of the keys that the last command deleted, as of the first time."""
    keys_max: int = KEYS_MAX
    expired_max: int = EXPIRED_MAX

    @property
    def state(self) -> State:
        """The present state, as it stays."""
        return State(self.index, self.now_ms, dict(self.keys), dict(self.leases))

    def attached(self, lease: int) -> list[str]:
        """Return the keys on a lease, in order."""
        return sorted(key for key, held in self.keys.items() if held.lease == lease)

    def begin(self, index: int, elapsed_ms: int) -> None:
        """Do what happens before the command of an entry, whatever that is: leases end that are due."""
        self.index, self.now_ms = index, elapsed_ms
        self.expired = []
        count = 0
        for _, lease in sorted((held.ends_ms, lease) for lease, held in self.leases.items()):
            if self.leases[lease].ends_ms > self.now_ms or count >= self.expired_max:
                break
            keys = self.attached(lease)
            for key in keys:
                del self.keys[key]
                self.history.append([self.index, key, None, 0, lease, "expire"])
            self.expired.append((lease, self.leases.pop(lease)))
            count += max(1, len(keys))

    def apply(self, index: int, elapsed_ms: int, name: str, payload: dict[str, Any]) -> Any:
        """Return the result of an entry. Raises `RefusedError`."""
        self.begin(index, elapsed_ms)
        before = dict(self.keys), dict(self.leases)
        self.gone, self.touched = {}, {}
        try:
            result = self.run(name, payload, None)
        except RefusedError:
            self.keys, self.leases = before
            raise
        self.note(before[0])
        return result

    def note(self, before: dict[str, Key]) -> None:
        """Note the changes of a command that has succeeded."""
        for key in self.touched:
            old, new = before.get(key), self.keys.get(key)
            if new is not None:
                self.history.append([self.index, key, new.value, new.created, new.lease, "put"])
            elif old is not None:
                self.history.append([self.index, key, None, 0, self.gone[key], "delete"])

    # --- commands ---

    def run(self, name: str, payload: dict[str, Any], number: int | None) -> Any:
        """Carry out a command, which is op `number` of others, None for one by itself. Raises `RefusedError`."""
        run = getattr(self, f"do_{name}", None)
        if run is None:
            raise RefusedError(name)
        return run(payload, number)

    def write(self, key: str, payload: dict[str, Any], number: int | None, *, keep: bool = False) -> None:
        """Set a key, as `payload` says of its lease; with `keep` it stays on the lease that it has."""
        old = self.keys.get(key)
        lease = 0
        if "ttl_ms" in payload:
            if "lease" in payload or not TTL_MS_MIN <= payload["ttl_ms"] <= TTL_MS_MAX:
                raise RefusedError(f"ttl_ms of {key}")
            lease = self.index + ((number or 0) << OWN_BITS)
        elif payload.get("lease"):
            lease = payload["lease"]
            held = self.leases.get(lease)
            if held is None or (held.own is not None and held.own != key):
                raise RefusedError(f"lease {lease}")
            if (old is None or old.lease != lease) and len(self.attached(lease)) >= self.keys_max:
                raise RefusedError(f"lease {lease} is full")
        elif keep and old is not None:
            lease = old.lease
        if old is not None and old.lease != lease:
            self.let_go(key)
        if "ttl_ms" in payload:
            self.leases[lease] = Held(payload["ttl_ms"], self.now_ms + payload["ttl_ms"], key, self.index)
        created = self.index if old is None else old.created
        self.keys[key] = Key(payload["value"], created, self.index, lease)
        self.touched[key] = None

    def let_go(self, key: str) -> None:
        """Take a key off its lease; one that was made for it goes."""
        lease = self.keys[key].lease
        if lease in self.leases and self.leases[lease].own is not None:
            del self.leases[lease]

    def remove(self, key: str) -> None:
        """Delete a key that exists."""
        self.gone.setdefault(key, self.keys.pop(key).lease)
        self.touched[key] = None

    def equals(self, key: str, wanted: Any) -> bool:
        """Whether a key has that value; None stands for an absent key."""
        held = self.keys.get(key)
        if held is None or wanted is None:
            return held is None and wanted is None
        return frozen(held.value) == frozen(wanted)

    def do_set(self, payload: dict[str, Any], number: int | None) -> None:
        """As the machine's set."""
        self.write(payload["key"], payload, number)

    def do_append(self, payload: dict[str, Any], number: int | None) -> str:
        """As the machine's append."""
        key: str = payload["prefix"] + str(self.index).zfill(16)
        if number is not None:
            key += "-" + str(number).zfill(5)
        if key in self.keys:
            raise RefusedError(f"{key} exists")
        self.write(key, payload, number)
        return key

    def do_get(self, payload: dict[str, Any], number: int | None) -> Any:
        """As the machine's get."""
        held = self.keys.get(payload["key"])
        return None if held is None else held.value

    def do_delete(self, payload: dict[str, Any], number: int | None) -> bool:
        """As the machine's delete."""
        if payload["key"] not in self.keys:
            return False
        self.let_go(payload["key"])
        self.remove(payload["key"])
        return True

    def do_delete_prefix(self, payload: dict[str, Any], number: int | None) -> int:
        """As the machine's delete_prefix, for values that are small."""
        found = sorted(key for key in self.keys if key.startswith(payload["prefix"]))[: payload.get("limit", 10_000)]
        for key in found:
            self.do_delete({"key": key}, None)
        return len(found)

    def do_cas(self, payload: dict[str, Any], number: int | None) -> bool:
        """As the machine's cas; a lease that does not exist fails it also if nothing would be set."""
        if payload.get("lease") and payload["lease"] not in self.leases:
            raise RefusedError(f"lease {payload['lease']}")
        if not self.equals(payload["key"], payload["expected"]):
            return False
        self.write(payload["key"], payload, number)
        return True

    def do_increment(self, payload: dict[str, Any], number: int | None) -> int:
        """As the machine's increment, within the range of numbers."""
        held = self.keys.get(payload["key"])
        value = 0 if held is None else held.value
        if type(value) is not int:
            raise RefusedError(f"{payload['key']} is no number")
        total: int = value + payload.get("by", 1)
        self.write(payload["key"], {"value": total}, number, keep=True)
        return total

    def do_lease_grant(self, payload: dict[str, Any], number: int | None) -> int:
        """As the machine's lease_grant."""
        self.leases[self.index] = Held(payload["ttl_ms"], self.now_ms + payload["ttl_ms"], None, self.index)
        return self.index

    def do_lease_keep_alive(self, payload: dict[str, Any], number: int | None) -> int:
        """As the machine's lease_keep_alive."""
        held = self.leases.get(payload["lease"])
        if held is None:
            raise RefusedError(f"lease {payload['lease']}")
        self.leases[payload["lease"]] = replace(held, ends_ms=self.now_ms + held.ttl_ms, renewed=self.index)
        return held.ttl_ms

    def do_lease_revoke(self, payload: dict[str, Any], number: int | None) -> int:
        """As the machine's lease_revoke."""
        if payload["lease"] not in self.leases:
            return 0
        keys = self.attached(payload["lease"])
        for key in keys:
            self.remove(key)
        del self.leases[payload["lease"]]
        return len(keys)

    def do_expire(self, payload: dict[str, Any], number: int | None) -> None:
        """Do nothing more than any command."""

    def do_batch(self, payload: dict[str, Any], number: int | None) -> list[Any]:
        """As the machine's batch."""
        return [self.op(op, place) for place, op in enumerate(payload["ops"])]

    def op(self, op: dict[str, Any], number: int) -> Any:
        """Carry out one op of several. Raises `RefusedError`."""
        if op["type"] in ALONE:
            raise RefusedError(f"{op['type']} is no op")
        return self.run(op["type"], {name: value for name, value in op.items() if name != "type"}, number)

    def do_transaction(self, payload: dict[str, Any], number: int | None) -> dict[str, Any]:
        """As the machine's transaction."""
        if any(op["type"] in ALONE for op in (*payload["then"], *payload.get("else", []))):
            raise RefusedError("an op is none")
        holds = all(self.holds(*compare) for compare in payload["if"])
        ops = payload["then"] if holds else payload.get("else", [])
        return {"succeeded": holds, "results": [self.op(op, place) for place, op in enumerate(ops)]}

    def holds(self, target: str, key: str, comparison: str, wanted: Any) -> bool:
        """Whether a comparison holds."""
        held = self.keys.get(key)
        if target == "value":
            return self.equals(key, wanted) is (comparison == "==")
        if target == "exists":
            return (held is not None) is wanted
        found = 0 if held is None else getattr(held, target)
        return bool(
            {"==": found == wanted, "!=": found != wanted, "<": found < wanted, ">": found > wanted}[comparison]
        )
