"""What is told of keys and leases: entries, changes, leases, and the outcome of a transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, cast

from forge_consensus.errors import InvalidConfigError

ChangeKind = Literal["put", "delete", "expire"]
ID_MAX = (1 << 63) - 1


class HasLeaseId(Protocol):
    """A lease of a client, blocking or not."""

    id: int


LeaseRef = int | HasLeaseId
"""A lease, or its id."""


def lease_id_of(lease: LeaseRef) -> int:
    """The id of a lease, 0 for none. Raises `InvalidConfigError` for what is neither a lease nor an id."""
    number = lease if isinstance(lease, int) else getattr(lease, "id", None)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= ID_MAX:
        raise InvalidConfigError(f"a lease is a Lease or its id, and this is {lease!r:.99}")
    return number


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A key with its value and its revisions, which are indexes of log entries."""

    key: str
    value: Any
    created: int
    """The entry that made the key; a key that was deleted and set again was made by the later one."""
    modified: int
    """The entry that wrote it last."""
    lease: int = 0
    """The id of the lease with which it goes, 0 for none."""

    @classmethod
    def of_row(cls, row: Any) -> Self:
        """The entry that a row of the machine's answer stands for."""
        key, value, created, modified, lease = row
        return cls(key, value, created, modified, lease)


@dataclass(frozen=True, slots=True)
class KeyChange:
    """One change of one key, as a watch tells it."""

    index: int
    """The log entry that changed it; changes that were made as one have the same."""
    key: str
    value: Any
    """The new value; None if the key is gone."""
    kind: ChangeKind
    """"put", "delete", or "expire" if it went with its lease."""
    created: int = 0
    """The entry that made the key; 0 if the key is gone."""
    lease: int = 0
    """The id of the lease with which it goes, or that it had until it was gone; 0 for none."""

    @classmethod
    def of_row(cls, row: Any) -> Self:
        """The change that a row of the machine's answer stands for."""
        index, key, value, created, lease, kind = row
        return cls(index, key, value, cast("ChangeKind", kind), created, lease)


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """A lease as the cluster knows it."""

    id: int
    ttl: float
    """For how many seconds it lives after it was granted or kept alive."""
    left: float
    """For how many seconds it lives if nobody keeps it alive, as of the last entry that the answering node applied."""
    count: int
    """How many keys go with it."""
    keys: tuple[str, ...] = ()
    """Those keys; `leases` does not tell them, `lease_info` does."""

    @classmethod
    def of_row(cls, row: Any) -> Self:
        """The lease that a row of the machine's answer stands for."""
        number, ttl_ms, left_ms, keys = row
        names: tuple[str, ...] = () if isinstance(keys, int) else tuple(keys)
        return cls(number, ttl_ms / 1000, left_ms / 1000, keys if isinstance(keys, int) else len(names), names)


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """The outcome of a transaction; it is true if the comparisons held."""

    succeeded: bool
    """Whether all comparisons held, so that `then` was carried out, and not `otherwise`."""
    results: list[Any]
    """The result of each command that was carried out."""

    def __bool__(self) -> bool:
        """Whether the comparisons held."""
        return self.succeeded
