"""What a caller waits for that hands over many commands at once: one future of all their outcomes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from forge_consensus.client.pending import DRIVER_GRACE_SECONDS, Pending
from forge_consensus.errors import ConsensusError, ConsensusTimeoutError
from forge_consensus.process.log import LogLines

LINES = LogLines(__name__)


class PendingMany:
    """The future of the outcomes of many commands, each of which is a command of its own, with a future of its own.

    It keeps no count of those that are done, because two threads may end two of them at the same moment. Whoever waits
    looks at the last one first: answers come nearly in the order of the commands, so then all the others are done too.
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[Pending[Any]]) -> None:
        self.parts = parts
        """The future of each command, in order."""

    @property
    def applied(self) -> int:
        """The index of the newest log entry behind these outcomes: a read with it as `after_index` sees all of them."""
        return max((part.applied for part in self.parts), default=0)

    @property
    def failed(self) -> int:
        """How many of the commands have ended with an error so far."""
        return sum(part.error is not None for part in self.parts)

    def open_part(self) -> Pending[Any] | None:
        """The last command that has no outcome yet, None if all have one."""
        return next((part for part in reversed(self.parts) if not part.finished), None)

    def done(self) -> bool:
        """Whether the outcome of every command is known."""
        return self.open_part() is None

    def wait(self, timeout: float | None = None) -> bool:
        """Block up to `timeout` seconds, None for ever; returns whether all outcomes are known."""
        end = None if timeout is None else time.monotonic() + timeout
        while (part := self.open_part()) is not None:
            if not part.wait(None if end is None else end - time.monotonic()):
                return False
        return True

    def outcomes(self) -> list[Any]:
        """What is known now: for each command its result or its `ConsensusError`, in the order of the commands.

        The error of a command without an outcome is a `ConsensusTimeoutError`, which says that it is outstanding.
        """
        return [outcome_of(part) for part in self.parts]

    def result(self, timeout: float | None = None) -> list[Any]:
        """For each command the state machine's result, or the `ConsensusError` with which it ended, in their order.

        Waits up to `timeout` seconds, by default as long as the commands' own deadline allows, and raises
        `ConsensusTimeoutError` if some command has no outcome then. The commands go on; `outcomes` tells what is known.
        """
        self.wait_for_all(timeout)
        return self.outcomes()

    def exception(self, timeout: float | None = None) -> ConsensusError | None:
        """The error of the first command that ended with one, None if none did; waits and raises as `result` does."""
        self.wait_for_all(timeout)
        return next((part.error for part in self.parts if part.error is not None), None)

    def wait_for_all(self, timeout: float | None) -> None:
        """Wait as `result` does. Raises `ConsensusTimeoutError`."""
        if timeout is None:
            latest = max((part.deadline for part in self.parts), default=0.0)
            timeout = latest - time.monotonic() + DRIVER_GRACE_SECONDS
        if not self.wait(max(timeout, 0.0)):
            left = sum(not part.finished for part in self.parts)
            raise still_open(f"{left} of {len(self.parts)} answers are")

    def add_done_callback(self, callback: Callable[[PendingMany], object]) -> None:
        """Call `callback(self)` once when all are done: on the driver's thread, or here if they are already.

        It must be short and must not wait for the client. What it raises is logged.
        """
        part = self.open_part()
        if part is None:
            try:
                callback(self)
            except Exception as error:
                LINES.error("a callback of commands failed", error=error)
            return
        part.add_done_callback(lambda _: self.add_done_callback(callback))


def still_open(what: str) -> ConsensusTimeoutError:
    """The error of a wait that was shorter than the commands' own deadline; `what` is not there yet."""
    late = ConsensusTimeoutError(
        f"{what} still outstanding: the wait was shorter than the deadline of the commands; wait again"
    )
    late.retryable = False  # they may be carried out yet
    return late


def outcome_of(part: Pending[Any]) -> Any:
    """The result of a command, or its error."""
    if not part.finished:
        return still_open("the answer is")
    if part.error is not None:
        return part.error
    try:
        return part.value()
    except ConsensusError as error:
        return error
