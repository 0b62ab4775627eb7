"""The faults of actors: how many the node survives before it stops."""

from __future__ import annotations

from collections import deque

from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import OperationFailedError


class Faults:
    """Records when actors failed within the last `faults_seconds`; at most `faults_max` faults are tolerated."""

    def __init__(self, options: RaftSettings) -> None:
        self.options = options
        self.times: deque[float] = deque()

    def note(self, fault: Exception, now: float) -> None:
        """Note a fault at `now`, in seconds of the running clock.

        Raises `OperationFailedError`, which ends the node, if there were too many: actors that fail right after each
        rebuild would make no progress.
        """
        times, options = self.times, self.options
        times.append(now)
        while now - times[0] > options.faults_seconds:
            times.popleft()
        if len(times) > options.faults_max:
            raise OperationFailedError(
                f"{len(times)} faults of actors within {options.faults_seconds:.0f} s: the node stops. "
                f"The last was {type(fault).__name__}: {fault}"
            ) from fault
