"""An answer that a node's process, or its parent, waits for on the pipe between them."""

from __future__ import annotations

from typing import Any

from forge_consensus.errors import ConsensusTimeoutError, NotStartedError, error_from_code
from forge_consensus.process.waiters import Latch


class Answer:
    """One line of the other side, which comes on another thread."""

    def __init__(self) -> None:
        self.row: dict[str, Any] | None = None
        self.came = Latch()

    def come(self, row: dict[str, Any]) -> None:
        """Note the answer, and wake who waits for it."""
        self.row = row
        self.came.set()

    def never(self) -> None:
        """Wake who waits: the other side is gone."""
        self.came.set()

    def wait_for(self, seconds: float) -> dict[str, Any]:
        """Return the answer. Raises the error that it tells, `ConsensusTimeoutError`, `NotStartedError`."""
        if not self.came.wait(seconds):
            raise ConsensusTimeoutError(f"the node's process did not answer within {seconds:g} s: try again")
        if self.row is None:
            raise NotStartedError("the node's process has ended, and what it was asked is not done")
        if self.row.get("code"):
            raise error_from_code(self.row["code"], self.row["text"])
        return self.row
