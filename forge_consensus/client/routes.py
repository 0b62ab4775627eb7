"""Routes of queries: which node may answer, and what its answer must fulfil; queries of one route share frames."""

from __future__ import annotations

from typing import Final, NamedTuple

from forge_consensus.actors.messages import CONSISTENCIES, NEVER_MS, STALE, Read
from forge_consensus.client.endpoints import LOCAL
from forge_consensus.config.address import parse_endpoint
from forge_consensus.errors import InvalidConfigError

LEADER: Final = "leader"
NEAREST: Final = "nearest"
ANY: Final = "any"
LINEARIZABLE: Final = CONSISTENCIES[0]
INDEX_MAX: Final = (1 << 63) - 1


class Route(NamedTuple):
    """To which node queries go, and what the state that answers them must fulfil."""

    consistency: str = LINEARIZABLE
    read_from: str = LEADER
    """`LEADER`, `NEAREST`, `ANY`, or the address of the one node that is asked."""
    stale_ms_max: int = NEVER_MS
    after_index: int = 0
    wait_ms: int = 0
    """For how long a node may keep the queries before it answers, because they wait for a change; such queries have a
    window of their own, so that nothing else waits for them."""

    @classmethod
    def of(
        cls,
        consistency: str = LINEARIZABLE,
        read_from: str | None = None,
        max_staleness: float | None = None,
        after_index: int = 0,
        wait_ms: int = 0,
    ) -> Route:
        """The route that a caller asks for, see `Client.read`. Raises `InvalidConfigError` for one that cannot be."""
        if consistency not in CONSISTENCIES:
            raise InvalidConfigError(f"consistency is {consistency!r}: expected one of {', '.join(CONSISTENCIES)}")
        if read_from is None:
            read_from = NEAREST if consistency == STALE else LEADER
        elif read_from not in {LEADER, NEAREST, ANY, LOCAL}:
            try:
                read_from = parse_endpoint(read_from)
            except InvalidConfigError as error:
                choices = f"{LEADER!r}, {NEAREST!r}, {ANY!r} or the address of a node"
                raise InvalidConfigError(f"read_from is {read_from!r}: expected {choices} ({error})") from None
        if not isinstance(after_index, int) or not 0 <= after_index <= INDEX_MAX:
            raise InvalidConfigError(f"after_index is {after_index!r}: expected the index of an entry, or 0 for none")
        return cls(consistency, read_from, stale_ms_of(consistency, max_staleness), after_index, wait_ms)

    @property
    def by_leader(self) -> bool:
        """Whether only the leader is asked."""
        return self.read_from == LEADER

    @property
    def by_one(self) -> bool:
        """Whether only one node is asked, whichever leads."""
        return self.read_from not in {LEADER, NEAREST, ANY}

    @property
    def at_the_leader(self) -> Route:
        """The route to the leader that fulfils as much: it knows what is committed, and so needs no bound.

        A stale read would be answered by a node that was the leader and does not know that another one is.
        """
        consistency = LINEARIZABLE if self.consistency == STALE else self.consistency
        return Route(consistency, LEADER, NEVER_MS, self.after_index, self.wait_ms)

    def request(self, queries: tuple[tuple[int, bytes], ...], wait_ms: int) -> Read:
        """The frame that asks these queries."""
        by_follower = not self.by_leader and self.consistency != STALE
        return Read(self.consistency, queries, wait_ms, by_follower, self.stale_ms_max, self.after_index)


def stale_ms_of(consistency: str, max_staleness: float | None) -> int:
    """The bound of a stale read in milliseconds. Raises `InvalidConfigError`."""
    if max_staleness is None:
        return NEVER_MS
    if consistency != STALE:
        raise InvalidConfigError(
            f"max_staleness is for stale reads, but consistency is {consistency!r}: give {STALE!r}"
        )
    if not isinstance(max_staleness, int | float) or not 0 < max_staleness < NEVER_MS / 1000:
        raise InvalidConfigError(f"max_staleness is {max_staleness!r}: expected seconds above 0, such as 0.5")
    return int(max_staleness * 1000)
