"""The faults of actors: how many the node survives before it stops."""

from __future__ import annotations

from collections import deque

from forge_consensus.config.raft import RaftSettings
from forge_consensus.errors import OperationFailedError


class Faults:
    """Records when actors failed within the last `faults_seconds`; at most `faults_max` faults are tolerated."""

    def __init__(self, settings: RaftSettings) -> None:
        self.settings = settings
        self.times: deque[float] = deque()

    def note(self, fault: Exception, now: float) -> None:
        """Note a fault at `now`, in seconds of real time.

        Raises `OperationFailedError`, which ends the node, if there were too many: actors that fail right after each
        rebuild would make no progress.
        """
        times, settings = self.times, self.settings
        times.append(now)
        while now - times[0] > settings.faults_seconds:
            times.popleft()
        if len(times) > settings.faults_max:
            raise OperationFailedError(
                f"{len(times)} faults of actors within {settings.faults_seconds:.0f} s: the node stops. "
                f"The last was {type(fault).__name__}: {fault}"
            ) from fault
