"""A request as the rules see it, whatever interface it came through, and what it says of consistency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from forge_consensus.client.routes import INDEX_MAX
from forge_consensus.config.rows import parse
from forge_consensus.config.setting import Described, Setting
from forge_consensus.errors import InvalidConfigError

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
"""The methods that change nothing."""
WEBSOCKET: Final = "WEBSOCKET"
"""Stands for the method of a websocket's request, which may read and write."""
SAFE: Final = "/:@!$&'()*+,;=~-._%?[]"
FORWARDED: Final = "x-raft-forwarded"
"""The header of a request that another node of the cluster has sent on."""
PARAMETERS_MAX: Final = 1000
NUMBER_CHARS_MAX: Final = 40
MAX_STALENESS: Final = Setting(
    "max_staleness",
    "float",
    5.0,
    Described(unit="s", minimum=0.001, maximum=86_400, what="How old the data may be.", why="The Go original's."),
)


class Consistency(StrEnum):
    """How new the data must be that a request sees; each has the names of the Go original as further spellings."""

    STRONG = "linearizable"
    """Everything that was acknowledged before the request came. The node confirms that with a majority, by way of the
    leader."""
    LEASE = "lease"
    """The same without a round trip among the nodes, where the cluster has leases on."""
    BOUNDED = "bounded"
    """Everything that was committed before a given number of seconds."""
    EVENTUAL = "eventual"
    """Whatever this node has."""

    @classmethod
    def of(cls, text: str) -> Consistency:
        """The level that a text names. Raises `InvalidConfigError`."""
        level = SPELLINGS.get(text.strip().lower())
        if level is None:
            raise InvalidConfigError(f"consistency is {text[:40]!r}: expected one of {', '.join(cls)}")
        return level


SPELLINGS: Final = {
    **{str(level): level for level in Consistency},
    "strong": Consistency.STRONG,
    "bounded-staleness": Consistency.BOUNDED,
    "weak": Consistency.EVENTUAL,
    "stale": Consistency.EVENTUAL,
}


LEVEL_HEADERS: Final = ("X-Raft-Consistency", "X-Consistency-Level")
AGE_HEADERS: Final = ("X-Raft-Max-Staleness", "X-Max-Staleness")
INDEX_HEADERS: Final = ("X-Raft-Min-Index",)
STALE_HEADERS: Final = ("X-Allow-Stale",)
"""The headers by which a request says how new the data must be, those of the Go original last."""


@dataclass(frozen=True)
class Request:
    """The part of a request that the rules look at."""

    method: str
    target: str
    """Path and query as `origin_form` returns them."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By name in lower case."""

    @property
    def reads(self) -> bool:
        """Whether its method changes nothing."""
        return self.method in READS

    @property
    def was_forwarded(self) -> bool:
        """Whether another node has sent it on, so that it goes no further."""
        return FORWARDED in self.headers

    @cached_property
    def query(self) -> dict[str, list[str]]:
        """The parameters of the query, each with its values. Raises `InvalidConfigError` for too many."""
        text = self.target.partition("?")[2]
        try:
            return parse_qs(text, keep_blank_values=True, max_num_fields=PARAMETERS_MAX)
        except ValueError as error:
            raise InvalidConfigError(f"the query has more than {PARAMETERS_MAX} parameters: send fewer") from error

    def says(self, parameter: str, *headers: str) -> str:
        """What the request says in a parameter of its query, or else in the first of these headers; "" for nothing."""
        values = self.query.get(parameter)
        names = [name.lower() for name in headers]
        return values[-1] if values else next((self.headers[name] for name in names if name in self.headers), "")

    def consistency(self, default: Consistency) -> Consistency:
        """The level that the request asks for. Raises `InvalidConfigError` for a word that is none."""
        said = self.says("consistency", *LEVEL_HEADERS)
        if said:
            return Consistency.of(said)
        allowed = self.says("allow_stale", *STALE_HEADERS).lower() == "true"
        return Consistency.EVENTUAL if allowed else default

    def max_staleness(self, default: float) -> float:
        """How many seconds old the data may be. Raises `InvalidConfigError` for what is no time."""
        said = self.says("max_staleness", *AGE_HEADERS)
        if not said:
            return default
        seconds: float = parse(MAX_STALENESS, said)
        MAX_STALENESS.check(seconds)
        return seconds

    def min_index(self) -> int:
        """The log entry that the data must reflect, 0 for none. Raises `InvalidConfigError` for what is no index."""
        said = self.says("min_index", *INDEX_HEADERS)
        if not said:
            return 0
        if said.isascii() and said.isdigit() and len(said) < NUMBER_CHARS_MAX and int(said) <= INDEX_MAX:
            return int(said)
        raise InvalidConfigError(
            f"min_index is {said[:NUMBER_CHARS_MAX]!r}: expected the index of a log entry, as an earlier answer had it "
            "in X-Raft-Index"
        )


def origin_form(target: bytes) -> str:
    """A request's target as path and query (RFC 9112 3.2), whatever form it came in; "*" stays itself.

    It is ASCII, and what may not stand in a URL is percent-encoded. It begins with a slash, or is refused later.
    """
    if target.lower().startswith((b"http://", b"https://")):
        try:
            parts = urlsplit(target)
        except ValueError:  # brackets that hold no address
            return "*"
        target = (parts.path or b"/") + (b"?" + parts.query if parts.query else b"")
    return quote(target, safe=SAFE)
