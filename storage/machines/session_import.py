"""The sessions of a snapshot on their way into a node: taken in slices, and seen by nobody before the last one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from forge_consensus.storage.backends.tables import Batch
from forge_consensus.storage.machines.session_rows import TABLE, Row, prefix_of, rows_in_chunk
from forge_consensus.storage.machines.sessions import Gathered, Sessions

SLICE_ROWS: Final = 1_000
SLICE_BYTES: Final = 256 << 10
"""A slice takes at most this many rows, and ends with the row that makes it this large, because writing them takes time
too."""


class SessionImport:
    """The sessions in the chunks of a snapshot's header, while they are imported.

    It keeps them to itself: the sessions in force stay, and are used meanwhile, until the node switches to `sessions`.
    For a machine in the ledger each slice also stages its rows under the generation of the new state, which counts for
    nothing before that switch is on disk, and is swept away if it never comes. `generation` is None for a user's
    machine, whose sessions are durable with its snapshot file.
    """

    def __init__(self, chunks: Iterable[bytes], generation: int | None) -> None:
        self.rows: Iterator[Row] = (row for chunk in chunks for row in rows_in_chunk(chunk))
        self.prefix = None if generation is None else prefix_of(generation)
        self.gathered = Gathered(stored=generation is not None)
        self.done = False
        """Whether every row has been taken."""

    def step(self, batch: Batch, over: Callable[[], bool]) -> bool:
        """Take one slice, and stage its rows in this turn's transaction; returns whether more may be left.

        `over` says after each row whether the time of the slice is used up. Raises `CorruptionError` for what does not
        decode; the import is then of no use any more.
        """
        size = 0
        for _ in range(SLICE_ROWS):
            row = next(self.rows, None)
            if row is None:
                self.done = True
                return False
            self.take(batch, *row)
            size += len(row[1])
            if size >= SLICE_BYTES or over():
                break
        return True

    def take(self, batch: Batch, key: bytes, row: bytes) -> None:
        """Take one row. Raises `CorruptionError`."""
        self.gathered.take(key, row)
        if self.prefix is not None:
            batch.put(TABLE, self.prefix + key, row)

    def sessions(self) -> Sessions:
        """Return the sessions, to be called once, when all are there."""
        assert self.done, "every session of the snapshot has been imported"
        sessions = Sessions()
        sessions.put(self.gathered)
        return sessions
