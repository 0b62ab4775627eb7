"""Comparisons: what a transaction asks of keys before it does anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from forge_consensus.client.key_records import LeaseRef, lease_id_of
from forge_consensus.errors import InvalidConfigError

Target = Literal["value", "created", "modified", "lease", "exists"]
Comparison = Literal["==", "!=", "<", ">"]
IS_NO_TRUTH = (
    "a comparison is neither true nor false here, because the cluster decides it: give it to transaction(), and write "
    "each bound as a comparison of its own"
)


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition of a transaction. Make it of what is compared, such as ``Compare.value("k") == 1``.

    An absent key has the value None, and `created`, `modified` and `lease` 0. As for `cas`, None stands for no value at
    all: a key whose value is None differs from it.
    """

    target: Target
    key: str
    comparison: Comparison
    wanted: Any

    @staticmethod
    def value(key: str) -> ValueOf:
        """The value of `key`, to be compared by ``==`` and ``!=``; 1, 1.0 and True are three values."""
        return ValueOf("value", key)

    @staticmethod
    def created(key: str) -> NumberOf:
        """The log entry that made `key`, to be compared by ``==``, ``!=``, ``<`` and ``>``; 0 if it is absent."""
        return NumberOf("created", key)

    @staticmethod
    def modified(key: str) -> NumberOf:
        """The log entry that wrote `key` last, to be compared as `created` is."""
        return NumberOf("modified", key)

    @staticmethod
    def lease(key: str) -> LeaseOf:
        """The lease of `key`, to be compared with a `Lease` or an id by ``==`` and ``!=``; 0 for none."""
        return LeaseOf("lease", key)

    @staticmethod
    def exists(key: str) -> Compare:
        """That `key` is there, whatever its value."""
        return Compare("exists", key, "==", True)

    @staticmethod
    def missing(key: str) -> Compare:
        """That `key` is not there."""
        return Compare("exists", key, "==", False)

    def row(self) -> list[Any]:
        """The condition as the machine takes it."""
        return [self.target, self.key, self.comparison, self.wanted]

    def __bool__(self) -> bool:
        """Refuse to be taken for a truth."""
        raise TypeError(IS_NO_TRUTH)


class Compared:
    """What is compared: something about one key, which becomes a `Compare` by an operator."""

    __slots__ = ("key", "target")

    def __init__(self, target: Target, key: str) -> None:
        if not isinstance(key, str):
            raise InvalidConfigError(f"a key is a text, and this is {key!r:.99}")
        self.target: Target = target
        self.key = key

    def __repr__(self) -> str:
        """How it was made."""
        return f"Compare.{self.target}({self.key!r})"

    def __bool__(self) -> bool:
        """Refuse to be taken for a truth."""
        raise TypeError(IS_NO_TRUTH)

    __hash__ = object.__hash__

    def wanted(self, other: Any) -> Any:
        """What it is compared with, as the machine takes it. Raises `InvalidConfigError` for what cannot be."""
        return other

    def __eq__(self, other: object) -> Compare:  # type: ignore[override]
        """That both are equal."""
        return Compare(self.target, self.key, "==", self.wanted(other))

    def __ne__(self, other: object) -> Compare:  # type: ignore[override]
        """That they differ."""
        return Compare(self.target, self.key, "!=", self.wanted(other))


class ValueOf(Compared):
    """The value of a key, see `Compare.value`."""

    __slots__ = ()


class NumberOf(Compared):
    """A revision of a key, see `Compare.created`."""

    __slots__ = ()

    def wanted(self, other: Any) -> int:
        """The index of an entry. Raises `InvalidConfigError`."""
        if type(other) is not int:
            raise InvalidConfigError(f"{self.target} is the index of a log entry, and this is {other!r:.99}")
        return other

    def __lt__(self, other: int) -> Compare:
        """That it is below."""
        return Compare(self.target, self.key, "<", self.wanted(other))

    def __gt__(self, other: int) -> Compare:
        """That it is above."""
        return Compare(self.target, self.key, ">", self.wanted(other))


class LeaseOf(Compared):
    """The lease of a key, see `Compare.lease`."""

    __slots__ = ()

    def wanted(self, other: LeaseRef) -> int:
        """The id of a lease. Raises `InvalidConfigError`."""
        return lease_id_of(other)
