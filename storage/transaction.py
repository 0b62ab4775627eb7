"""The transaction: what one turn wants to have on disk before it speaks."""

from __future__ import annotations

from collections.abc import Callable

from forge_consensus.storage.tables import Batch

META = "meta"


class Transaction:
    """Table operations of one turn, whether they must be durable before it ends, and what follows once they are.

    `urgent` is what costs a flush: votes, log entries, boots. What is not urgent is staged only when something
    urgent or a checkpoint goes to disk anyway.
    """

    __slots__ = ("after", "batch", "urgent")

    def __init__(self) -> None:
        self.batch = Batch()
        self.urgent = False
        self.after: list[Callable[[], None]] = []

    def put_meta(self, key: bytes, value: bytes) -> None:
        """Write one of the ledger's own records, durable when the turn ends."""
        self.batch.put(META, key, value)
        self.urgent = True
