"""Failed commands: log lines about commands that the machine refused and whose client sent a correlation id."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from forge_consensus.process.log import LogLines
from forge_consensus.storage.ledger.correlation import correlation_of
from forge_consensus.storage.ledger.log import Log
from forge_consensus.storage.ledger.record import data_of
from forge_consensus.storage.machines.machine import Outcome

LINES = LogLines(__name__)

LINES_PER_SECOND_MAX = 20
LOOKED_AT_MAX = 64
"""The greatest number of failed commands that are examined in one turn."""


class FailedCommands:
    """Writes the lines, on the node that answers the client.

    Their number per second is bounded, because a client whose commands keep failing must not fill the disk.
    """

    def __init__(self) -> None:
        self.second = -1
        self.lines_left = 0
        self.untold = 0

    def tell(self, log: Log, failed: Sequence[tuple[int, Outcome]], now: float) -> None:
        """Write a line for each of these (index, outcome) whose command has a correlation id.

        `now` is in seconds of real time. The lines that the bound leaves out are counted in the next one.
        """
        if int(now) != self.second:
            self.second, self.lines_left = int(now), LINES_PER_SECOND_MAX
        for index, outcome in failed[:LOOKED_AT_MAX]:
            if index <= log.tail_base:
                continue
            correlation_id = correlation_of(data_of(log.get(index)))
            if correlation_id is None:
                continue
            if not self.lines_left:
                self.untold += 1
                continue
            self.lines_left -= 1
            untold, self.untold = self.untold, 0
            kind, text = msgpack.unpackb(outcome.payload)
            more = f" (and {untold} more commands failed)" if untold else ""
            LINES.info(
                "command {} in log entry {} failed: {}: {}{}",
                correlation_id,
                index,
                kind,
                text,
                more,
                correlation_id=correlation_id,
                index=index,
                code=outcome.code,
            )
